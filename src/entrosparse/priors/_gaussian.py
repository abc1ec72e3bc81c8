"""The Gaussian prior, of probabilistic PCA with learned scales."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse import closed_form
from entrosparse.priors._prior import Prior


@final
@dataclass(frozen=True)
class Gaussian(Prior):
    """``p(z_h) = N(0, λ_h²)``; the statistic is ``z_h²``, its optimum λ_h = √E[z_h²].

    With unit columns this is probabilistic PCA with learned scales (Tipping and Bishop, 1999).
    """

    name: ClassVar[str] = "gaussian"

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``z_h²``."""
        return z.square()

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return ``E[z_h²] = ν_h² + τ_h²``."""
        return mean.square() + marginal_scale.square()

    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return ``λ_h = √E[z_h²]``."""
        return statistic.sqrt()

    def entropy(self, scale: Tensor) -> Tensor:
        """Return ``½ log 2πeλ_h²``."""
        return closed_form.isotropic_gaussian_entropy(scale.square(), 1.0)

    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``−½ log 2πλ_h² − E[z_h²] / 2λ_h²``."""
        return -0.5 * (closed_form.LOG_2PI + statistic / scale.square()) - scale.log()

    def deviation(self, scale: Tensor) -> Tensor:
        """Return ``λ``."""
        return scale

    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw normal codes."""
        shape = (n_samples, *scale.shape)
        return scale * torch.randn(shape, dtype=scale.dtype, device=scale.device, generator=generator)

    def curvature(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``1/λ²``."""
        return scale.square().reciprocal().expand_as(mean)

    def precision_share(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``q = τ²/λ²`` and ``2q``."""
        share = (marginal_scale / scale).square_()
        return share, 2.0 * share

    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return ``λ/√γ``."""
        return scale / weight**0.5

    def majorizer(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``1/λ²``: the energy is a quadratic itself."""
        return self.curvature(mean, marginal_scale, scale)
