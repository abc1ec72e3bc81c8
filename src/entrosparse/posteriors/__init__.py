"""Gaussian posteriors over the codes of a data point."""

from entrosparse.posteriors.base import Posterior as Posterior
from entrosparse.posteriors.diagonal import Diagonal as Diagonal
