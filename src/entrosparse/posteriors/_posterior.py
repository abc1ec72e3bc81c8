"""What every posterior ``q(z | x)`` offers to statistics and objectives."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from entrosparse.priors import Prior, PriorFamily


class Posterior(ABC):
    """A batch of N posteriors over H latents, one per data point.

    They are Gaussian, ``N(ν, T)``, unless a family says that it is not :attr:`gaussian`, and has its own
    :meth:`check_prior`, :meth:`expected_statistic`, :meth:`log_prob` and :meth:`distance_from_optimum`.

    Attributes
    ----------
    mean : Tensor of shape (N, H)
        Posterior means ν, in the units of the codes.
    """

    mean: Tensor

    gaussian: ClassVar[bool] = True
    """Whether they are Gaussian, so that residuals ``x − Wz`` are."""

    @classmethod
    def check_prior(cls, prior: PriorFamily) -> None:
        """Raise InputError unless such posteriors have an ELBO under the prior."""
        prior.expected_statistic(torch.zeros(1, 1), torch.ones(1, 1))

    @abstractmethod
    def marginal_scale(self) -> Tensor:
        """Return the marginal deviations τ = √T_hh, shape (N, H)."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """Return the covariances T, shape (N, H, H)."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return ``H[q]`` in nats, shape (N,): ``½ log |2πe T|`` of a Gaussian."""

    def expected_statistic(self, prior: PriorFamily) -> Tensor:
        """Return ``E[t(z_h)]`` for the statistic t of a prior, shape (N, H)."""
        return prior.expected_statistic(self.mean, self.marginal_scale())

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

    def distance_from_optimum(
        self, likelihood_gradient: Tensor, hessian: Tensor, prior: Prior, prior_scale: Tensor
    ) -> Tensor:
        """Return how far q is from the best of its family, shape (N,), in nats per posterior deviation.

        It is the larger of two numbers: the gradient in ν, times τ, and how far T is from its own optimum.

        Parameters
        ----------
        likelihood_gradient : Tensor of shape (N, H)
            ``s (Gν − b)``.
        hessian : Tensor of shape (H, H) or (N, H, H)
            s G.
        prior : Prior
            The prior.
        prior_scale : Tensor of shape (H,)
            λ, which includes γ.
        """
        scale = self.marginal_scale()
        gradient = likelihood_gradient + prior.majorizer(self.mean, scale, prior_scale) * self.mean
        by_mean = (scale * gradient).abs().amax(1)
        curvature = prior.curvature(self.mean, scale, prior_scale)
        return torch.maximum(by_mean, self.stationarity(hessian, curvature))

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
        residual = torch.addmm(x, self.mean, dictionary.T, alpha=-1.0)
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
