"""Priors over the codes: one file each, and one table of their names."""

from entrosparse.priors._exponential import Exponential as Exponential
from entrosparse.priors._gaussian import Gaussian as Gaussian
from entrosparse.priors._laplace import Laplace as Laplace
from entrosparse.priors._prior import Prior as Prior

PRIORS: dict[str, Prior] = {prior.name: prior for prior in (Laplace(), Gaussian(), Exponential())}
"""The priors by name."""
