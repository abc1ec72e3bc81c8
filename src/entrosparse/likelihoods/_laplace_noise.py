"""Laplace noise, which outliers cost less."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse import closed_form
from entrosparse.errors import InputError
from entrosparse.likelihoods._likelihood import Likelihood
from entrosparse.posteriors import Posterior


@final
@dataclass(frozen=True)
class LaplaceNoise(Likelihood):
    """``p(x_d | z) = exp(−|x_d − w_dᵀz| / b) / 2b`` with ``b = √(σ²/2)``; robust to outliers.

    The statistic is ``Σ_d |x_d − w_dᵀz|``, its optimum ``b = E|x_d − w_dᵀz|``, a mean of soft magnitudes, and
    the entropy ``D log 2eb``. As for all likelihoods, the parameter is the variance, ``σ² = 2b²``.
    """

    name: ClassVar[str] = "laplace"
    quadratic: ClassVar[bool] = False

    def statistic(self, residual: Tensor) -> Tensor:
        """Return ``Σ_d |r_d|``."""
        return residual.abs().sum(-1)

    def expected_statistic(
        self, posterior: Posterior, dictionary: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Return ``Σ_d E|x_d − w_dᵀz|``, shape (N,)."""
        if not posterior.gaussian:
            raise InputError(
                f"laplace noise needs residuals of Gaussian posteriors; got {type(posterior).__name__}"
            )
        residual = x - posterior.mean @ dictionary.T
        deviation = _deviation(posterior.reconstruction_variance(dictionary))
        expected = closed_form.soft_magnitude(residual, deviation)
        return (expected if observed is None else observed * expected).sum(-1)

    def optimal_variance(self, statistic: Tensor) -> Tensor:
        """Return ``2b²`` at ``b = E|x_d − w_dᵀz|``."""
        return 2.0 * statistic.square()

    def entropy(self, noise_variance: Tensor, n_entries: Tensor) -> Tensor:
        """Return ``n log 2eb``."""
        return n_entries * closed_form.laplace_entropy(_scale(noise_variance))

    def expected_log_prob(self, statistic: Tensor, n_entries: Tensor | int, noise_variance: Tensor) -> Tensor:
        """Return ``−n log 2b − Σ_d E|x_d − w_dᵀz| / b``."""
        b = _scale(noise_variance)
        return -n_entries * torch.log(2.0 * b) - statistic / b

    def sample(
        self, shape: tuple[int, int], noise_variance: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw noise as differences of two exponentials."""
        dtype, device = noise_variance.dtype, noise_variance.device
        exponentials = torch.empty((2, *shape), dtype=dtype, device=device).exponential_(generator=generator)
        return _scale(noise_variance) * (exponentials[0] - exponentials[1])

    def precision(self, noise_variance: Tensor) -> Tensor:
        """Return ``1/b²``."""
        return 2.0 / noise_variance

    def entry_weights(
        self, residual: Tensor, variance: Tensor, noise_variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``b erf(a/√2) / r`` and ``b √(2/π) exp(−a²/2) / τ`` with ``a = r/τ`` for the variance τ²."""
        deviation = _deviation(variance)
        a, unit = residual / deviation, _scale(noise_variance) / deviation
        return unit * closed_form.magnitude_slope_over_a(a), unit * closed_form.magnitude_curvature(a)

    def entry_unit(self, noise_variance: Tensor) -> Tensor:
        """Return σ."""
        return noise_variance.sqrt()


def _deviation(variance: Tensor) -> Tensor:
    """Return the square root, with a gradient at 0 too, where the codes have no share in a feature."""
    return variance.clamp_min(torch.finfo(variance.dtype).tiny ** 0.5).sqrt()


def _scale(noise_variance: Tensor) -> Tensor:
    """Return b."""
    return (0.5 * noise_variance).sqrt()
