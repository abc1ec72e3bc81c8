"""The Laplace prior (Eq. 5)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse import closed_form
from entrosparse.priors._prior import Prior


@final
@dataclass(frozen=True)
class Laplace(Prior):
    """``p(z_h) = exp(−|z_h|/λ_h) / 2λ_h`` (Eq. 5); the statistic is ``|z_h|``, its optimum λ_h = E|z_h|."""

    name: ClassVar[str] = "laplace"

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``|z_h|``."""
        return z.abs()

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return ``E|z_h|`` (Eq. 97)."""
        return closed_form.soft_magnitude(mean, marginal_scale)

    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return ``λ_h = E|z_h|`` (Eq. 11)."""
        return statistic

    def entropy(self, scale: Tensor) -> Tensor:
        """Return ``log 2eλ_h`` (Eq. 72)."""
        return closed_form.laplace_entropy(scale)

    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``−log 2λ_h − E|z_h|/λ_h`` (Eq. 8)."""
        return -torch.log(2.0 * scale) - statistic / scale

    def deviation(self, scale: Tensor) -> Tensor:
        """Return ``√2 λ``."""
        return 2.0**0.5 * scale

    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes as differences of two exponentials."""
        shape = (2, n_samples, *scale.shape)
        exponentials = torch.empty(shape, dtype=scale.dtype, device=scale.device)
        exponentials.exponential_(generator=generator)
        return scale * (exponentials[0] - exponentials[1])

    def curvature(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``√(2/π) exp(−ν²/2τ²) / (τ λ)``."""
        return closed_form.magnitude_curvature(mean / marginal_scale) / (marginal_scale * scale)

    def precision_share(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``q = τ √(2/π) exp(−a²/2) / λ`` and ``q (1 + a²)``, with a = ν/τ."""
        square = (mean / marginal_scale).square_()
        share = torch.mul(square, -0.5).exp_().mul_(marginal_scale).mul_(closed_form.SQRT_2_OVER_PI / scale)
        return share, square.mul_(share).add_(share)

    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return ``λ/γ``."""
        return scale / weight

    def majorizer(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``erf(ν/√2τ) / (ν λ)``."""
        return closed_form.magnitude_slope_over_a_(mean / marginal_scale).div_(marginal_scale).div_(scale)

    def slopes(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``1/λ`` for both sides."""
        return scale.reciprocal(), scale.reciprocal()
