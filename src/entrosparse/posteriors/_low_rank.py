"""Gaussian posterior whose covariance is of low rank plus a diagonal (D.3, Fig. 7)."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from entrosparse.closed_form import gaussian_entropy
from entrosparse.posteriors._posterior import Posterior


@final
@dataclass(frozen=True)
class LowRank(Posterior):
    """``q(z) = N(ν, V Vᵀ + diag(d²))`` for each data point.

    Attributes
    ----------
    mean : Tensor of shape (N, H)
        Posterior means ν.
    factor : Tensor of shape (N, H, r)
        V; its columns are the r directions of correlation.
    scale : Tensor of shape (N, H)
        Deviations d > 0 of the independent part.
    """

    mean: Tensor
    factor: Tensor
    scale: Tensor

    @cached_property
    def _capacitance(self) -> Tensor:
        """Cholesky factor of ``I + Vᵀ diag(d⁻²) V``, shape (N, r, r), which both matrix lemmas use.

        It is computed in float64. Where V is much larger than d, float32 would round I away in this sum.
        """
        scaled = (self.factor / self.scale.unsqueeze(-1)).double()
        gram = scaled.mT @ scaled
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        return torch.linalg.cholesky(gram + identity).to(self.factor)

    @property
    def noise_dimension(self) -> int:
        """``H + r``."""
        return self.factor.shape[1] + self.factor.shape[2]

    def marginal_scale(self) -> Tensor:
        """Return ``√(Σ_k V_hk² + d_h²)``, shape (N, H)."""
        return (self.factor.square().sum(-1) + self.scale.square()).sqrt()

    def covariance(self) -> Tensor:
        """Return ``V Vᵀ + diag(d²)``, shape (N, H, H)."""
        return self.factor @ self.factor.mT + torch.diag_embed(self.scale.square())

    def entropy(self) -> Tensor:
        """Return ``½ log |2πe T|`` in nats, shape (N,), by the matrix determinant lemma."""
        log_determinant = 2.0 * (
            self.scale.log().sum(-1) + torch.diagonal(self._capacitance, dim1=-2, dim2=-1).log().sum(-1)
        )
        return gaussian_entropy(log_determinant, self.mean.shape[-1])

    def weighted_covariance(self, sample_weight: Tensor) -> Tensor:
        """Return ``Σ_n w_n T_n``, shape (H, H)."""
        columns = self.factor.mT.reshape(-1, self.factor.shape[1])
        correlated = (columns * sample_weight.repeat_interleave(self.factor.shape[2])[:, None]).T @ columns
        return correlated + torch.diag(sample_weight @ self.scale.square())

    def reconstruction_variance(self, dictionary: Tensor) -> Tensor:
        """Return the diagonal of ``W T Wᵀ``, shape (N, D)."""
        correlated = (dictionary @ self.factor).square().sum(-1)
        return correlated + self.scale.square() @ dictionary.square().T

    def weighted_reconstruction(self, dictionary: Tensor, entry_weight: Tensor) -> Tensor:
        """Return ``Σ_n w_nd (W V_n V_nᵀ + W d_n²)_dh``, shape (D, H)."""
        correlated = torch.einsum("nd,ndr,nhr->dh", entry_weight, dictionary @ self.factor, self.factor)
        return correlated + dictionary * (entry_weight.T @ self.scale.square())

    def trace_with(self, gram: Tensor) -> Tensor:
        """Return ``tr(G V Vᵀ) + Σ_h G_hh d_h²``, shape (N,)."""
        correlated = ((gram @ self.factor) * self.factor).sum((-2, -1))
        return correlated + self.scale.square() @ gram.diagonal()

    def perturb(self, noise: Tensor) -> Tensor:
        """Return ``ν + V ε₁ + d ε₂``."""
        rank = self.factor.shape[2]
        correlated = torch.einsum("nhr,snr->snh", self.factor, noise[..., :rank])
        return self.mean + correlated + self.scale * noise[..., rank:]

    def mahalanobis(self, difference: Tensor) -> Tensor:
        """Return ``dᵀ T⁻¹ d`` by the matrix inversion lemma."""
        scaled = difference / self.scale
        projected = torch.einsum("nhr,...nh->...nr", self.factor / self.scale.unsqueeze(-1), scaled)
        solved = torch.linalg.solve_triangular(self._capacitance, projected.unsqueeze(-1), upper=False)
        return scaled.square().sum(-1) - solved.square().sum((-2, -1))

    def precision_diagonal(self) -> Tensor:
        """Return the diagonal of ``T⁻¹``, shape (N, H)."""
        scaled = self.factor / self.scale.unsqueeze(-1)
        solved = torch.linalg.solve_triangular(self._capacitance, scaled.mT, upper=False)
        return (1.0 - solved.square().sum(-2)) / self.scale.square()

    def stationarity(self, hessian: Tensor, curvature: Tensor) -> Tensor:
        """Return how far T is from its optimum, shape (N,).

        At the optimum ``T⁻¹ V = P V`` and ``diag T⁻¹ = diag P``, with ``P = s G + diag c``. The result is the
        largest entry of ``|Vᵀ (T⁻¹ − P) V|``, ``|d (T⁻¹ − P) V|`` and ``|d² diag(T⁻¹ − P)|``.
        """
        scaled = self.factor / self.scale.unsqueeze(-1)
        inverse = torch.cholesky_solve(scaled.mT, self._capacitance).mT / self.scale.unsqueeze(-1)  # T⁻¹ V
        excess = inverse - (hessian @ self.factor + curvature.unsqueeze(-1) * self.factor)
        diagonal = self.precision_diagonal() - (torch.diagonal(hessian, dim1=-2, dim2=-1) + curvature)
        return torch.maximum(
            torch.maximum(
                (self.factor.mT @ excess).abs().amax((-2, -1)),
                (self.scale.unsqueeze(-1) * excess).abs().amax((-2, -1)),
            ),
            (self.scale.square() * diagonal).abs().amax(-1),
        )
