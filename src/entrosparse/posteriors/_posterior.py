"""What every Gaussian posterior ``q(z | x) = N(ν, T)`` offers to statistics and objectives."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Self

import torch
from torch import Tensor


class Posterior(ABC):
    """A batch of N Gaussian posteriors over H latents, one per data point.

    Attributes
    ----------
    mean : Tensor of shape (N, H)
        Posterior means ν, in the units of the codes.
    """

    mean: Tensor

    @abstractmethod
    def marginal_scale(self) -> Tensor:
        """Return the marginal deviations τ = √T_hh, shape (N, H)."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """Return the covariances T, shape (N, H, H)."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return ``½ log |2πe T|`` in nats, shape (N,)."""

    @abstractmethod
    def weighted_covariance(self, sample_weight: Tensor) -> Tensor:
        """Return ``Σ_n w_n T_n``, shape (H, H), for the weights w of the data points, shape (N,).

        Families that can do so sum without forming the N covariances.
        """

    @abstractmethod
    def reconstruction_variance(self, dictionary: Tensor) -> Tensor:
        """Return the diagonal of ``W T Wᵀ``, shape (N, D): the pixel variances that come from the codes."""

    @abstractmethod
    def weighted_reconstruction(self, dictionary: Tensor, entry_weight: Tensor) -> Tensor:
        """Return ``Σ_n w_nd (W T_n)_dh``, shape (D, H), for the weights w of the entries, shape (N, D)."""

    @abstractmethod
    def trace_with(self, gram: Tensor) -> Tensor:
        """Return ``tr(G T)``, shape (N,), for a symmetric G of shape (H, H)."""

    @abstractmethod
    def perturb(self, noise: Tensor) -> Tensor:
        """Map standard normal noise (S, N, :attr:`noise_dimension`) to samples ``z`` (S, N, H)."""

    @property
    def noise_dimension(self) -> int:
        """Number of standard normal variables that a sample of one posterior takes."""
        return self.mean.shape[-1]

    @abstractmethod
    def mahalanobis(self, difference: Tensor) -> Tensor:
        """Return ``dᵀ T⁻¹ d`` for differences (..., N, H); the result has shape (..., N)."""

    @abstractmethod
    def stationarity(self, hessian: Tensor, curvature: Tensor) -> Tensor:
        """Return how far T is from its optimum, shape (N,), in nats per posterior deviation.

        The optimum is the T of the family that maximizes ``½ log |T| − ½ tr((s G + diag c) T)``. Here
        ``hessian`` is s G, of shape (H, H) or (N, H, H), and ``curvature`` is c, of shape (N, H), the
        curvature of the prior's expected energy.
        """

    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples, shape (n_samples, N, H); differentiable in the parameters (reparameterized)."""
        shape = (n_samples, self.mean.shape[0], self.noise_dimension)
        noise = torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device, generator=generator)
        return self.perturb(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ``log q(z)`` in nats for z of shape (..., N, H); the result has shape (..., N)."""
        half_dimension = 0.5 * self.mean.shape[-1]
        return half_dimension - self.entropy() - 0.5 * self.mahalanobis(z - self.mean)

    def expected_residual(self, dictionary: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return ``E‖x − Wz‖²`` over the entries seen, shape (N,), in squared data units (inside Eq. 10)."""
        residual = x - self.mean @ dictionary.T
        if observed is None:
            return torch.linalg.vecdot(residual, residual) + self.trace_with(dictionary.T @ dictionary)
        return (observed * (residual.square() + self.reconstruction_variance(dictionary))).sum(-1)

    def second_moment(self, sample_weight: Tensor) -> Tensor:
        """Return ``Σ_n w_n E[z zᵀ]``, shape (H, H), for the weights w of the data points, shape (N,)."""
        return (self.mean * sample_weight[:, None]).T @ self.mean + self.weighted_covariance(sample_weight)

    def rescaled(self, factor: float) -> Self:
        """Return the posterior of ``factor · z``."""
        parts = (part.name for part in fields(self) if part.init)  # type: ignore[arg-type]
        return type(self)(**{name: getattr(self, name) * factor for name in parts})

    def __len__(self) -> int:
        """Return the number of data points N."""
        return self.mean.shape[0]
