"""Priors over the codes, as the parts that Theorem 4 asks for.

A factorial prior with scales λ enters the ELBO through one expected statistic per latent. When λ is at the
optimum for that statistic the expected log-prior is minus the prior's entropy, which is all that the entropy
ELBO needs. The curvatures are what the E-step needs.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from entrosparse import closed_form


class Prior(ABC):
    """A factorial, scale-parameterized prior ``p(z) = Π_h p(z_h | λ_h)`` with log-concave factors."""

    name: str

    @abstractmethod
    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return the expectation of the sufficient statistic under ``N(mean, marginal_scale²)``."""

    @abstractmethod
    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return the scale λ that maximizes the expected log-prior, given the mean statistic (Theorem 2)."""

    @abstractmethod
    def entropy(self, scale: Tensor) -> Tensor:
        """Return the entropy in nats of each factor with scale λ."""

    @abstractmethod
    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``E[log p(z_h)]`` in nats, given the mean statistic."""

    @abstractmethod
    def log_prob(self, z: Tensor, scale: Tensor) -> Tensor:
        """Return ``log p(z_h)`` in nats, elementwise."""

    @abstractmethod
    def deviation(self, scale: Tensor) -> Tensor:
        """Return the standard deviation of each factor with scale λ."""

    @abstractmethod
    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes, shape (n_samples, H)."""

    @abstractmethod
    def curvature(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``∂²E[−log p] / ∂mean²``, which is also ``2 ∂E[−log p] / ∂marginal_scale²``."""

    @abstractmethod
    def precision_share(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``marginal_scale² · curvature`` and its derivative in ``log(marginal_scale)``.

        At the optimum the first is the share of the posterior precision that comes from the prior. Both are
        new tensors.
        """

    @abstractmethod
    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return the scale whose energy is ``weight`` times that of ``scale``: it makes γ part of λ."""

    @abstractmethod
    def majorizer(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``(∂E[−log p] / ∂mean) / mean``.

        The factors are even and the ratio falls with ``|mean|``, so this is the curvature of a quadratic that
        touches the expected energy at ``±mean`` and lies above it elsewhere.
        """


@final
class Laplace(Prior):
    """``p(z_h) = exp(−|z_h|/λ_h) / 2λ_h`` (Eq. 5); the statistic is ``|z_h|``, its optimum λ_h = E|z_h|."""

    name = "laplace"

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

    def log_prob(self, z: Tensor, scale: Tensor) -> Tensor:
        """Return ``−log 2λ_h − |z_h|/λ_h``."""
        return self.expected_log_prob(z.abs(), scale)

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
        return closed_form.magnitude_slope_over_a(mean / marginal_scale).div_(marginal_scale).div_(scale)


@final
class Gaussian(Prior):
    """``p(z_h) = N(0, λ_h²)``; the statistic is ``z_h²``, its optimum λ_h = √E[z_h²].

    With unit columns this is probabilistic PCA with learned scales (Tipping and Bishop, 1999).
    """

    name = "gaussian"

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

    def log_prob(self, z: Tensor, scale: Tensor) -> Tensor:
        """Return ``−½ log 2πλ_h² − z_h² / 2λ_h²``."""
        return self.expected_log_prob(z.square(), scale)

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


PRIORS: dict[str, Prior] = {prior.name: prior for prior in (Laplace(), Gaussian())}
"""The priors by name."""
