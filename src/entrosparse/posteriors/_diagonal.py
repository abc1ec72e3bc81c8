"""Gaussian posterior with independent latents (B.2)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.closed_form import gaussian_entropy
from entrosparse.posteriors._factorial import Factorial


@final
@dataclass(frozen=True)
class Diagonal(Factorial):
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

    def entropy(self) -> Tensor:
        """Return ``Σ_h ½ log 2πe τ_h²`` in nats, shape (N,) (first term of Eq. 106)."""
        return gaussian_entropy(2.0 * self.scale.log().sum(-1), self.mean.shape[-1])

    def perturb(self, noise: Tensor) -> Tensor:
        """Return ``ν + τ ε``."""
        return self.mean + self.scale * noise

    def stationarity(self, hessian: Tensor, curvature: Tensor) -> Tensor:
        """Return the largest ``|τ_h² (s G_hh + c_h) − 1|``, shape (N,)."""
        precision = torch.diagonal(hessian, dim1=-2, dim2=-1) + curvature
        return (self.scale.square() * precision - 1.0).abs().amax(-1)
