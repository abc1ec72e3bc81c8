"""Posteriors over the codes of a data point."""

from entrosparse.posteriors._diagonal import Diagonal as Diagonal
from entrosparse.posteriors._exact_factorial import ExactFactorial as ExactFactorial
from entrosparse.posteriors._full import Full as Full
from entrosparse.posteriors._low_rank import LowRank as LowRank
from entrosparse.posteriors._posterior import Posterior as Posterior
