"""Gaussian noise of one variance (Eq. 5)."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from entrosparse.likelihoods._gaussian_noise import GaussianNoise
from entrosparse.posteriors import Posterior


@final
@dataclass(frozen=True)
class Isotropic(GaussianNoise):
    """``p(x | z) = N(Wz, σ² I)`` (Eq. 5); the statistic is ``‖x − Wz‖²``, its optimum σ² = E‖x − Wz‖²/D."""

    name: ClassVar[str] = "isotropic"

    def statistic(self, residual: Tensor) -> Tensor:
        """Return ``‖r‖²``."""
        return residual.square().sum(-1)

    def expected_statistic(
        self, posterior: Posterior, dictionary: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Return ``E‖x − Wz‖²``, shape (N,)."""
        return posterior.expected_residual(dictionary, x, observed)
