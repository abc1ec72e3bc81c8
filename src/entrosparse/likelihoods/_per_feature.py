"""Gaussian noise of one variance per feature, as in factor analysis."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.likelihoods._gaussian_noise import GaussianNoise
from entrosparse.posteriors import Posterior

_LEAST_VARIANCE = 1e-12  # Of a feature without any residual, as a share of the mean over all features.


@final
@dataclass(frozen=True)
class PerFeature(GaussianNoise):
    """``p(x_d | z) = N(w_dᵀz, σ_d²)``: factor analysis, for features of different noise or units.

    The statistic of a feature is ``(x_d − w_dᵀz)²``, its optimum ``σ_d² = E (x_d − w_dᵀz)²``, and the entropy
    ``½ Σ_d log 2πeσ_d²``.
    """

    name: ClassVar[str] = "per-feature"
    per_feature: ClassVar[bool] = True

    def statistic(self, residual: Tensor) -> Tensor:
        """Return ``r_d²``."""
        return residual.square()

    def expected_statistic(
        self, posterior: Posterior, dictionary: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Return ``E (x_d − w_dᵀz)²``, shape (N, D)."""
        residual = x - posterior.mean @ dictionary.T
        expected = residual.square() + posterior.reconstruction_variance(dictionary)
        return expected if observed is None else observed * expected

    def optimal_variance(self, statistic: Tensor) -> Tensor:
        """Return the mean squared residual of each feature; one that is constant has nearly none."""
        return torch.maximum(statistic, _LEAST_VARIANCE * statistic.mean())
