"""Posteriors with independent latents."""

import torch
from torch import Tensor

from entrosparse.posteriors._posterior import Posterior


class Factorial(Posterior):
    """``q(z) = Π_h q_h(z_h)`` for each data point: all that follows from means and deviations alone."""

    def covariance(self) -> Tensor:
        """Return ``diag(τ²)``, shape (N, H, H)."""
        return torch.diag_embed(self.marginal_scale().square())

    def weighted_covariance(self, sample_weight: Tensor) -> Tensor:
        """Return ``diag(Σ_n w_n τ_n²)``, shape (H, H)."""
        return torch.diag(sample_weight @ self.marginal_scale().square())

    def reconstruction_variance(self, dictionary: Tensor) -> Tensor:
        """Return ``Σ_h W_dh² τ_h²``, shape (N, D)."""
        return self.marginal_scale().square() @ dictionary.square().T

    def weighted_reconstruction(self, dictionary: Tensor, entry_weight: Tensor) -> Tensor:
        """Return ``W_dh Σ_n w_nd τ_nh²``, shape (D, H)."""
        return dictionary * (entry_weight.T @ self.marginal_scale().square())

    def trace_with(self, gram: Tensor) -> Tensor:
        """Return ``Σ_h G_hh τ_h²``, shape (N,) (Eq. 101-103, where G_hh = 1)."""
        return self.marginal_scale().square() @ gram.diagonal()

    def mahalanobis(self, difference: Tensor) -> Tensor:
        """Return ``Σ_h d_h² / τ_h²``."""
        return (difference / self.marginal_scale()).square().sum(-1)
