"""Gaussian posteriors over the codes of a data point."""

from entrosparse.posteriors.base import Posterior as Posterior
from entrosparse.posteriors.diagonal import Diagonal as Diagonal
from entrosparse.posteriors.full import Full as Full
from entrosparse.posteriors.low_rank import LowRank as LowRank
