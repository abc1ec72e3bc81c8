"""Gaussian posterior with independent latents (B.2)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.closed_form import gaussian_entropy
from entrosparse.posteriors._posterior import Posterior


@final
@dataclass(frozen=True)
class Diagonal(Posterior):
    """``q(z) = N(ν, diag(τ²))`` for each data point.

    Attributes
    ----------
    mean : Tensor of shape (N, H)
        Posterior means ν.
    scale : Tensor of shape (N, H)
        Posterior deviations τ > 0.
    """

    mean: Tensor
    scale: Tensor

    def marginal_scale(self) -> Tensor:
        """Return τ, shape (N, H)."""
        return self.scale

    def covariance(self) -> Tensor:
        """Return ``diag(τ²)``, shape (N, H, H)."""
        return torch.diag_embed(self.scale.square())

    def entropy(self) -> Tensor:
        """Return ``Σ_h ½ log 2πe τ_h²`` in nats, shape (N,) (first term of Eq. 106)."""
        return gaussian_entropy(2.0 * self.scale.log().sum(-1), self.mean.shape[-1])

    def weighted_covariance(self, sample_weight: Tensor) -> Tensor:
        """Return ``diag(Σ_n w_n τ_n²)``, shape (H, H)."""
        return torch.diag(sample_weight @ self.scale.square())

    def reconstruction_variance(self, dictionary: Tensor) -> Tensor:
        """Return ``Σ_h W_dh² τ_h²``, shape (N, D)."""
        return self.scale.square() @ dictionary.square().T

    def weighted_reconstruction(self, dictionary: Tensor, entry_weight: Tensor) -> Tensor:
        """Return ``W_dh Σ_n w_nd τ_nh²``, shape (D, H)."""
        return dictionary * (entry_weight.T @ self.scale.square())

    def trace_with(self, gram: Tensor) -> Tensor:
        """Return ``Σ_h G_hh τ_h²``, shape (N,) (Eq. 101-103, where G_hh = 1)."""
        return self.scale.square() @ gram.diagonal()

    def perturb(self, noise: Tensor) -> Tensor:
        """Return ``ν + τ ε``."""
        return self.mean + self.scale * noise

    def mahalanobis(self, difference: Tensor) -> Tensor:
        """Return ``Σ_h d_h² / τ_h²``."""
        return (difference / self.scale).square().sum(-1)

    def stationarity(self, hessian: Tensor, curvature: Tensor) -> Tensor:
        """Return the largest ``|τ_h² (s G_hh + c_h) − 1|``, shape (N,)."""
        precision = torch.diagonal(hessian, dim1=-2, dim2=-1) + curvature
        return (self.scale.square() * precision - 1.0).abs().amax(-1)
