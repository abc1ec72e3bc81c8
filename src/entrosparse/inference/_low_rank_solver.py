"""The E-step for low-rank posteriors, with one or two batched Cholesky factorizations per sweep.

The full posterior has T⁻¹ = P with P = s G + diag(c). The best covariance T = V Vᵀ + diag(d²) meets this as
far as it can: T⁻¹ V = P V and diag T⁻¹ = diag P. A sweep takes three steps, with the factorization of P.

V, for given d:
    Write U = V/d and A = d P d. Then log |I + UUᵀ| − tr(A UUᵀ) is largest when the columns of U are the
    eigenvectors of A for its r smallest eigenvalues a, as far as they are < 1, with squared lengths 1/a − 1.
    From sweep to sweep these eigenvectors and the next r, so that close ones do not slow them down, are
    tracked by a Rayleigh-Ritz step, in the space that the last ones and their images under A⁻¹ span.
d, for given V:
    The update d² ← d² · diag(T⁻¹) / diag(P) never lowers the bound, because log |T| is convex in log d².
d, where V follows it:
    That update creeps where V comes to hold all variance of a latent, so data points that need many sweeps
    take Newton steps of θ = log d². With V at its optimum, twice the objective (17) is, but for a constant,
    Σ (log a − a) over the eigenvalues a of A that U leaves out. With M₀ = Σ v vᵀ and M₁ = Σ a v vᵀ over
    their eigenvectors v, its slope is diag(M₀ − M₁), and its Hessian is diag(M₀ − M₁) − M₀∘M₀ if the
    eigenvalues in U are much smaller than the others. Slopes above 0 are left out of the Hessian, for with
    them it may be indefinite.
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
from entrosparse.inference._newton import MAX_LOG_STEP, TrustRegion, cholesky_of, precision_of
from entrosparse.inference._problem import PATIENCE, EStepProblem, Progress, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal, LowRank, Posterior

_SCALE_STEPS = 2  # Updates of d per sweep.
_EASY_SWEEPS = 20  # Sweeps after which a data point takes Newton steps of log d².
_RIDGE = 1e-5  # Added to the diagonal of M₀∘M₀, which vanishes for a latent whose variance V holds.
_AT_FLOOR = 1.01  # Up to this factor above its floor, d counts as held there.


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
        factor = mean.new_zeros(*mean.shape, self.rank)
        spread = problem.spread(Diagonal(mean, tau))
        rows, region = torch.arange(len(mean), device=mean.device), TrustRegion(mean)
        progress = Progress(mean, PATIENCE)
        floor_share = torch.finfo(mean.dtype).eps ** 0.25  # Of τ; where V holds all variance, d falls to it.

        for sweep in range(self.max_iterations):
            nu, part, independent = mean[rows], problem.rows(rows), scale[rows]
            local = part.at(nu, None if spread is None else spread[rows])
            least = torch.finfo(nu.dtype).eps / tau[rows].square()  # Far from zero all curvatures may be 0.
            precision, _ = precision_of(local.hessian(), part.curvature(nu, tau[rows]) + least)
            cholesky = cholesky_of(precision)
            gradient = local.gradient(nu, tau[rows])[0].unsqueeze(-1)
            floor = floor_share * tau[rows]
            if sweep >= _EASY_SWEEPS:
                independent = self._newton_scale(precision, basis[rows], independent, floor)
            directions, lengths = self._ritz(precision, cholesky, basis[rows], independent)
            vectors = independent.unsqueeze(-1) * directions[:, :, : self.rank] * lengths.unsqueeze(-2)
            if sweep < _EASY_SWEEPS:
                for _ in range(_SCALE_STEPS):
                    inverse = LowRank(nu, vectors, independent).precision_diagonal()
                    independent = independent * (inverse / torch.diagonal(precision, dim1=-2, dim2=-1)).sqrt()
                    independent = torch.maximum(independent, floor)
            target = (vectors.square().sum(-1) + independent.square()).sqrt()
            step = torch.cholesky_solve(gradient, cholesky).squeeze(-1)
            nu, deviation = region.move(rows, nu, step, tau[rows], target)
            mean[rows], tau[rows], scale[rows], factor[rows] = nu, deviation, independent, vectors
            basis[rows] = directions
            region.follow(rows, spread, part.spread(LowRank(nu, vectors, independent)))
            if self.tolerance <= 0.0:
                continue
            residual = part.stationarity(LowRank(nu, vectors, independent))
            region.report(rows, residual)
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
        """Return the directions (H, 2 r), in units of d, that are weakest under a Gaussian prior.

        It has the variances of the prior. Of the likelihood alone many directions may be as weak as others.
        There are no more than H.
        """
        deviation = problem.prior.deviation(problem.prior_scale)
        precision = problem.shared_hessian + torch.diag(deviation**-2)
        scale = precision.diagonal().rsqrt()
        return torch.linalg.eigh(scale[:, None] * precision * scale).eigenvectors[:, : 2 * self.rank]

    def _newton_scale(self, precision: Tensor, basis: Tensor, scale: Tensor, floor: Tensor) -> Tensor:
        """Return d (N, H) after a Newton step from ``scale``, for the directions of the last sweep."""
        scaled = scale.unsqueeze(-1) * precision * scale.unsqueeze(-2)
        values, vectors = torch.linalg.eigh(basis.mT @ (scaled @ basis))
        values = values[:, : self.rank]
        weak = (basis @ vectors[:, :, : self.rank]) * (values < 1.0).unsqueeze(-2)
        others = torch.eye(scale.shape[-1], dtype=scale.dtype, device=scale.device) - weak @ weak.mT
        slope = torch.diagonal(others - scaled, dim1=-2, dim2=-1)
        slope = slope + (weak.square() @ values.unsqueeze(-1)).squeeze(-1)
        # A latent that is held at its floor must not bend the steps of the others.
        moves = ((scale > _AT_FLOOR * floor) | (slope > 0.0)).to(slope.dtype)
        hessian = moves.unsqueeze(-1) * others.square() * moves.unsqueeze(-2)
        torch.diagonal(hessian, dim1=-2, dim2=-1).add_(_RIDGE + (-slope).clamp_min(0.0))
        step = torch.cholesky_solve((moves * slope).unsqueeze(-1), cholesky_of(hessian)).squeeze(-1)
        return torch.maximum(scale * (0.5 * step).clamp(-MAX_LOG_STEP, MAX_LOG_STEP).exp(), floor)

    def _ritz(
        self, precision: Tensor, cholesky: Tensor, basis: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return orthonormal directions (N, H, 2 r), and the lengths (N, r) of U along the first r."""
        column = scale.unsqueeze(-1)
        images = torch.cholesky_solve(basis / column, cholesky) / column  # A⁻¹ times the basis
        trial = torch.linalg.qr(torch.cat([basis, images], dim=-1)).Q
        scaled = column * trial
        values, vectors = torch.linalg.eigh(scaled.mT @ (precision @ scaled))
        weakest = values[:, : self.rank].clamp_min(torch.finfo(values.dtype).eps ** (2.0 / 3.0))
        lengths = weakest.reciprocal() - 1.0
        return trial @ vectors[:, :, : basis.shape[-1]], lengths.clamp_min(0.0).sqrt()
