"""Priors over the codes, as the parts that Theorem 4 asks for.

A factorial prior with scales λ enters the ELBO through one expected statistic per latent. When λ is at the
optimum for that statistic the expected log-prior is minus the prior's entropy, which is all that the entropy
ELBO needs. The curvatures are what the E-step needs.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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
