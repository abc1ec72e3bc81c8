"""The E-step for low-rank posteriors, with one batched Cholesky factorization per sweep.

The full posterior has T⁻¹ = P with P = s G + diag(c). The best covariance T = V Vᵀ + diag(d²) meets this as
far as it can: T⁻¹ V = P V and diag T⁻¹ = diag P. A sweep takes three steps, which all use the factorization
of P.

V, for given d:
    Write U = V/d and A = d P d. Then log |I + UUᵀ| − tr(A UUᵀ) is largest when the columns of U are the
    eigenvectors of A for its r smallest eigenvalues a, as far as they are < 1, with squared lengths 1/a − 1.
    From sweep to sweep these eigenvectors are tracked by a Rayleigh-Ritz step, in the space that the last
    ones and their images under A⁻¹ span.
d, for given V:
    The update d² ← d² · diag(T⁻¹) / diag(P) never lowers the bound, because log |T| is convex in log d².
ν:
    A Newton step.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.inference._diagonal_solver import starting_posteriors
from entrosparse.inference._newton import TrustRegion, cholesky_of, precision_of
from entrosparse.inference._problem import PATIENCE, EStepProblem, Progress, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal, LowRank, Posterior

_SCALE_STEPS = 2  # Updates of d per sweep.

# Least d, as a share of τ. Where V alone can give a latent all of its variance, d would otherwise fall to
# zero. In float32 the least share is larger.
_LEAST_SHARE = 1e-3


@final
@dataclass(frozen=True)
class LowRankInference:
    """Variational inference with covariances of rank r plus a diagonal.

    Attributes
    ----------
    rank : int
        Number r of directions of correlation, from 1 to H.
    tolerance : float
        Sweeps end when every data point's stationarity residual, in nats per posterior deviation, is at most
        this. With 0 all sweeps are done.
    max_iterations : int
        Largest number of sweeps.
    """

    uses_scalar_products_alone: ClassVar[bool] = True

    rank: int = 5
    tolerance: float = 1e-3
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"the 'rank' parameter must be an integer >= 1; got {self.rank}")

    def __call__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        weights: EntropyWeights = EntropyWeights(),
        start: Posterior | None = None,
    ) -> LowRank:
        """Return the posteriors of the rows of ``x``, as :class:`DiagonalInference` does.

        Raises
        ------
        InputError
            If the rank is above the number of latents.
        """
        if self.rank > model.n_components:
            raise InputError(
                f"the 'rank' parameter must be at most the {model.n_components} components; got {self.rank}"
            )
        problem = EStepProblem.from_data(x, model, weights)
        if start is None:
            start = starting_posteriors(x, model, weights, self.tolerance)
        mean, tau = start.mean.clone(), start.marginal_scale().clone()
        scale = (problem.diagonal() + problem.curvature(mean, tau)).rsqrt()
        weakest = self._weakest(problem)
        basis = weakest.expand(len(mean), -1, -1).clone()
        factor = torch.zeros_like(basis)
        spread = problem.spread(Diagonal(mean, tau))
        rows, region = torch.arange(len(mean), device=mean.device), TrustRegion(mean)
        progress = Progress(mean, PATIENCE)
        least_share = max(_LEAST_SHARE, torch.finfo(mean.dtype).eps ** 0.25)

        for _ in range(self.max_iterations):
            nu, part, independent = mean[rows], problem.rows(rows), scale[rows]
            local = part.at(nu, None if spread is None else spread[rows])
            least = torch.finfo(nu.dtype).eps / tau[rows].square()  # Far from zero all curvatures may be 0.
            precision, _ = precision_of(local.hessian(), part.curvature(nu, tau[rows]) + least)
            cholesky = cholesky_of(precision)
            gradient = local.gradient(nu, tau[rows])[0].unsqueeze(-1)
            directions, lengths = self._ritz(precision, cholesky, basis[rows], independent)
            vectors = independent.unsqueeze(-1) * directions * lengths.unsqueeze(-2)
            for _ in range(_SCALE_STEPS):
                inverse = LowRank(nu, vectors, independent).precision_diagonal()
                independent = independent * (inverse / torch.diagonal(precision, dim1=-2, dim2=-1)).sqrt()
                independent = torch.maximum(independent, least_share * tau[rows])
            target = (vectors.square().sum(-1) + independent.square()).sqrt()
            step = torch.cholesky_solve(gradient, cholesky).squeeze(-1)
            nu, deviation, free = region.move(rows, nu, step, tau[rows], target)
            mean[rows], tau[rows], scale[rows], factor[rows] = nu, deviation, independent, vectors
            basis[rows] = directions
            region.follow(rows, spread, part.spread(LowRank(nu, vectors, independent)))
            if self.tolerance <= 0.0:
                continue
            residual = part.stationarity(LowRank(nu, vectors, independent))
            region.report(rows, residual, free)
            rows = rows[progress.goes_on(rows, residual, self.tolerance)]
            if len(rows) == 0:
                break
        n_left = progress.n_given_up + len(rows)
        if self.tolerance > 0.0 and n_left > 0:
            warn_unfinished(n_left, len(mean), self.tolerance, self.max_iterations)
        check_finite(mean, scale, factor)
        return LowRank(mean, factor, scale)

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded."""
        return max(1, 2**24 // n_components**2)

    def _weakest(self, problem: EStepProblem) -> Tensor:
        """Return the directions (H, r), in units of d, that are weakest under a Gaussian prior.

        It has the variances of the prior. Of the likelihood alone many directions may be as weak as others.
        """
        deviation = problem.prior.deviation(problem.prior_scale)
        precision = problem.shared_hessian + torch.diag(deviation**-2)
        scale = precision.diagonal().rsqrt()
        return torch.linalg.eigh(scale[:, None] * precision * scale).eigenvectors[:, : self.rank]

    def _ritz(
        self, precision: Tensor, cholesky: Tensor, basis: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the columns of U as orthonormal directions (N, H, r) and lengths (N, r)."""
        column = scale.unsqueeze(-1)
        images = torch.cholesky_solve(basis / column, cholesky) / column  # A⁻¹ times the basis
        trial = torch.linalg.qr(torch.cat([basis, images], dim=-1)).Q
        scaled = column * trial
        values, vectors = torch.linalg.eigh(scaled.mT @ (precision @ scaled))
        weakest = values[:, : self.rank].clamp_min(torch.finfo(values.dtype).eps ** (2.0 / 3.0))
        lengths = weakest.reciprocal() - 1.0
        return trial @ vectors[:, :, : self.rank], lengths.clamp_min(0.0).sqrt()
