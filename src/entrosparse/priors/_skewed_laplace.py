"""The skewed Laplace prior: exponential falls of different length on both sides of zero."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse import closed_form
from entrosparse.errors import InputError
from entrosparse.priors._laplace import Laplace
from entrosparse.priors._prior import Prior, PriorFamily

_LEAST_SHAPE = 1e-3  # Keeps both sides of zero open.
_LAPLACE = Laplace()


@final
@dataclass(frozen=True)
class SkewedLaplace(PriorFamily):
    """``p(z_h) ∝ exp(−z/λ₊)`` for z > 0 and ``exp(z/λ₋)`` for z < 0; at λ₊ = λ₋ it is the Laplace prior.

    The scale is λ = (λ₊ + λ₋)/2 and the shape κ = λ₊/2λ, the probability of z > 0. With A = E max(z, 0) and
    B = E max(−z, 0) the optimum is λ = (√A + √B)²/2 and κ = √A / (√A + √B), and the entropy is log 2eλ. The
    shape is learned and kept within [0.001, 0.999].
    """

    name: ClassVar[str] = "skewed-laplace"
    shape_range: ClassVar[tuple[float, float]] = (_LEAST_SHAPE, 1.0 - _LEAST_SHAPE)
    centred: ClassVar[bool] = False

    @property
    def first_shape(self) -> float:
        """One half: the Laplace prior."""
        return 0.5

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``max(z_h, 0)`` and ``max(−z_h, 0)``, shape (2, N, H)."""
        return torch.stack([z, -z]).clamp_min(0.0)

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return ``(E|z_h| ± E z_h)/2``, shape (2, N, H)."""
        magnitude = closed_form.soft_magnitude(mean, marginal_scale)
        return 0.5 * torch.stack([magnitude + mean, magnitude - mean]).clamp_min(0.0)

    def optimal_shape(self, statistic: Tensor) -> Tensor:
        """Return ``√A / (√A + √B)``."""
        upper, lower = statistic.detach().clamp_min(torch.finfo(statistic.dtype).tiny).sqrt()
        return (upper / (upper + lower)).clamp(_LEAST_SHAPE, 1.0 - _LEAST_SHAPE)

    def at(self, shape: Tensor | None) -> "Skewed":
        """Return the member of these shapes."""
        if shape is None:
            raise InputError("a skewed Laplace prior must be given its shapes, a tensor (H,); got None")
        return Skewed(shape)

    def member_statistic(self, statistic: Tensor, shape: Tensor | None) -> Tensor:
        """Return ``A/2κ + B/2(1 − κ)``."""
        assert shape is not None
        return 0.5 * (statistic[0] / shape + statistic[1] / (1.0 - shape))

    def mirrored(self, shape: Tensor) -> Tensor:
        """Return ``1 − κ``."""
        return 1.0 - shape


@final
@dataclass(frozen=True, eq=False)
class Skewed(Prior):
    """The skewed Laplace prior of given shapes; the statistic is ``z₊/2κ + z₋/2(1 − κ)``, its optimum λ.

    Its energy is that of a Laplace prior of scale ``4κ(1 − κ)λ`` and a linear term, so that E-steps are
    convex.

    Attributes
    ----------
    shape : Tensor of shape (H,)
        κ, of the dtype of the codes.
    """

    name: ClassVar[str] = SkewedLaplace.name
    shape: Tensor

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``z₊/2κ + z₋/2(1 − κ)``."""
        return self._weighed(z.abs(), z)

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return ``E z₊/2κ + E z₋/2(1 − κ)``."""
        return self._weighed(closed_form.soft_magnitude(mean, marginal_scale), mean)

    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return the mean statistic."""
        return statistic

    def entropy(self, scale: Tensor) -> Tensor:
        """Return ``log 2eλ``."""
        return _LAPLACE.entropy(scale)

    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``−log 2λ − E[t(z)]/λ``."""
        return _LAPLACE.expected_log_prob(statistic, scale)

    def deviation(self, scale: Tensor) -> Tensor:
        """Return ``2λ √(κ² + (1 − κ)²)``."""
        return 2.0 * scale * torch.hypot(self.shape, 1.0 - self.shape)

    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes as differences of two exponentials, of means λ₊ and λ₋."""
        size = (2, n_samples, *scale.shape)
        exponentials = torch.empty(size, dtype=scale.dtype, device=scale.device)
        exponentials.exponential_(generator=generator)
        return 2.0 * scale * (self.shape * exponentials[0] - (1.0 - self.shape) * exponentials[1])

    def curvature(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return that of the Laplace prior of scale ``4κ(1 − κ)λ``."""
        return _LAPLACE.curvature(mean, marginal_scale, self._even_scale(scale))

    def precision_share(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return that of the Laplace prior of scale ``4κ(1 − κ)λ``."""
        return _LAPLACE.precision_share(mean, marginal_scale, self._even_scale(scale))

    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return ``λ/γ``."""
        return _LAPLACE.tempered_scale(scale, weight)

    def majorizer(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return that of the Laplace prior of scale ``4κ(1 − κ)λ``."""
        return _LAPLACE.majorizer(mean, marginal_scale, self._even_scale(scale))

    def tilt(self, scale: Tensor) -> Tensor:
        """Return ``(1/λ₊ − 1/λ₋)/2``."""
        return (1.0 - 2.0 * self.shape) / self._even_scale(scale)

    def _even_scale(self, scale: Tensor) -> Tensor:
        """Return ``2 / (1/λ₊ + 1/λ₋)``."""
        return 4.0 * self.shape * (1.0 - self.shape) * scale

    def _weighed(self, magnitude: Tensor, z: Tensor) -> Tensor:
        """Return ``z₊/2κ + z₋/2(1 − κ)``, given ``|z|`` and z."""
        shape = self.shape
        return (magnitude + (1.0 - 2.0 * shape) * z) / (4.0 * shape * (1.0 - shape))
