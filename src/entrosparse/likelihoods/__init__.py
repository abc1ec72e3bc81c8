"""Likelihoods, that is kinds of noise: one file each, and one table of their names."""

from entrosparse.likelihoods._isotropic import Isotropic as Isotropic
from entrosparse.likelihoods._laplace_noise import LaplaceNoise as LaplaceNoise
from entrosparse.likelihoods._likelihood import Likelihood as Likelihood
from entrosparse.likelihoods._per_feature import PerFeature as PerFeature

LIKELIHOODS: dict[str, Likelihood] = {part.name: part for part in (Isotropic(), PerFeature(), LaplaceNoise())}
"""The likelihoods by name."""
