"""Priors over the codes: one file each, and one table of their names."""

from entrosparse.priors._exponential import Exponential as Exponential
from entrosparse.priors._gaussian import Gaussian as Gaussian
from entrosparse.priors._generalized_gaussian import GeneralizedGaussian as GeneralizedGaussian
from entrosparse.priors._laplace import Laplace as Laplace
from entrosparse.priors._prior import Prior as Prior
from entrosparse.priors._prior import PriorFamily as PriorFamily
from entrosparse.priors._skewed_laplace import SkewedLaplace as SkewedLaplace

PRIORS: dict[str, PriorFamily] = {
    prior.name: prior
    for prior in (Laplace(), Gaussian(), GeneralizedGaussian(), SkewedLaplace(), Exponential())
}
"""The priors by name."""
