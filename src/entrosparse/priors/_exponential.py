"""The exponential prior, of codes that are never negative."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.priors._prior import Prior


@final
@dataclass(frozen=True)
class Exponential(Prior):
    """``p(z_h) = exp(−z_h/λ_h) / λ_h`` for z_h ≥ 0; the statistic is ``z_h``, its optimum λ_h = E[z_h].

    A Gaussian posterior has mass below zero, where the prior has none, so that its ELBO is −∞. Posteriors are
    those of :class:`~entrosparse.posteriors.ExactFactorial`.
    """

    name: ClassVar[str] = "exponential"
    positive: ClassVar[bool] = True
    centred: ClassVar[bool] = False

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``z_h``."""
        return z

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Raise InputError: under a Gaussian the log-prior has no expectation."""
        raise self._lacks("expected_statistic")

    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return ``λ_h = E[z_h]``."""
        return statistic

    def entropy(self, scale: Tensor) -> Tensor:
        """Return ``log eλ_h``."""
        return scale.log() + 1.0

    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``−log λ_h − E[z_h]/λ_h``."""
        return -scale.log() - statistic / scale

    def log_prob(self, z: Tensor, scale: Tensor) -> Tensor:
        """Return ``log p(z_h)`` in nats, elementwise; −∞ below zero."""
        return torch.where(z >= 0, super().log_prob(z, scale), -torch.inf)

    def deviation(self, scale: Tensor) -> Tensor:
        """Return ``λ``."""
        return scale

    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw exponential codes."""
        z = torch.empty((n_samples, *scale.shape), dtype=scale.dtype, device=scale.device)
        return scale * z.exponential_(generator=generator)

    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return ``λ/γ``."""
        return scale / weight

    def slopes(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∞ and ``1/λ``."""
        return torch.full_like(scale, torch.inf), scale.reciprocal()

    def _lacks(self, method: str) -> InputError:
        return InputError(
            "a Gaussian posterior has codes below zero, where the exponential prior has none; its covariance "
            "must be 'exact-factorial'"
        )
