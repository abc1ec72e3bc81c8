"""Gaussian posterior with a full covariance (Eq. 75)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.closed_form import gaussian_entropy
from entrosparse.posteriors._posterior import Posterior


@final
@dataclass(frozen=True)
class Full(Posterior):
    """``q(z) = N(ν, F Fᵀ)`` for each data point.

    Attributes
    ----------
    mean : Tensor of shape (N, H)
        Posterior means ν.
    factor : Tensor of shape (N, H, H)
        Triangular square roots F of the covariances T, lower or upper.
    """

    mean: Tensor
    factor: Tensor

    def marginal_scale(self) -> Tensor:
        """Return ``√Σ_k F_hk²``, shape (N, H)."""
        return self.factor.square().sum(-1).sqrt()

    def covariance(self) -> Tensor:
        """Return ``F Fᵀ``, shape (N, H, H)."""
        return self.factor @ self.factor.mT

    def entropy(self) -> Tensor:
        """Return ``½ log |2πe T|`` in nats, shape (N,), from the diagonal of F (first term of Eq. 15)."""
        log_determinant = 2.0 * torch.diagonal(self.factor, dim1=-2, dim2=-1).abs().log().sum(-1)
        return gaussian_entropy(log_determinant, self.mean.shape[-1])

    def weighted_covariance(self, sample_weight: Tensor) -> Tensor:
        """Return ``Σ_n w_n F_n F_nᵀ`` as one matrix product over data points and columns."""
        columns = self.factor.mT.reshape(-1, self.factor.shape[1])
        return (columns * sample_weight.repeat_interleave(self.factor.shape[2])[:, None]).T @ columns

    def reconstruction_variance(self, dictionary: Tensor) -> Tensor:
        """Return ``Σ_k (W F)_dk²``, shape (N, D)."""
        return (dictionary @ self.factor).square().sum(-1)

    def weighted_reconstruction(self, dictionary: Tensor, entry_weight: Tensor) -> Tensor:
        """Return ``Σ_nk w_nd (W F_n)_dk F_nhk``, shape (D, H)."""
        return torch.einsum("nd,ndk,nhk->dh", entry_weight, dictionary @ self.factor, self.factor)

    def trace_with(self, gram: Tensor) -> Tensor:
        """Return ``tr(G F Fᵀ)``, shape (N,)."""
        return ((gram @ self.factor) * self.factor).sum((-2, -1))

    def perturb(self, noise: Tensor) -> Tensor:
        """Return ``ν + F ε``."""
        return self.mean + torch.einsum("nhk,snk->snh", self.factor, noise)

    def mahalanobis(self, difference: Tensor) -> Tensor:
        """Return ``‖F⁻¹ d‖²``."""
        return torch.linalg.solve(self.factor, difference.unsqueeze(-1)).square().sum((-2, -1))

    def stationarity(self, hessian: Tensor, curvature: Tensor) -> Tensor:
        """Return the largest entry of ``|I − Fᵀ (s G + diag c) F|``, shape (N,)."""
        product = self.factor.mT @ (hessian @ self.factor + curvature.unsqueeze(-1) * self.factor)
        torch.diagonal(product, dim1=-2, dim2=-1).sub_(1.0)
        return product.abs().amax((-2, -1))
