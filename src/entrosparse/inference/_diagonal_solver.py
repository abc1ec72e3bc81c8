"""The E-step for diagonal posteriors: sweeps over blocks of latents, with Newton steps on the deviations.

A sweep updates the means block by block. The means of one block step towards the minimum of a quadratic
majorizer, of curvature s λ_max(G_block) + w, which is taken at the newest means of all other blocks. After
the last block the deviations take one Newton step on log τ towards τ_h² (s G_hh + c_h) = 1. Blocks make the
steps longer, because λ_max(G_block) is smaller than λ_max(G).

The means also have momentum from sweep to sweep. Where the steps shrink by a factor ρ per sweep, the best
Nesterov momentum is ρ². So the momentum of a data point is the ratio of its squared step to the least one
before, and it is dropped when the steps grow.

Where entries are missing, each block costs a reconstruction of the data. Then only learners, which do a fixed
number of sweeps, use them, and posteriors are brought to a tolerance by Newton steps on all means at once.
So they are under a prior that is not convex, because sweeps would take thousands of turns to leave the
neighbourhood of a saddle point. Where the energy of the noise is not quadratic in the residuals, there are
Newton steps only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self, TypeVar, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference._newton import precision_of
from entrosparse.inference._newton_steps import NewtonState, deviation_step, newton_step
from entrosparse.inference._problem import EStepProblem, Progress, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal, Posterior

_BLOCK = 32  # Latents per block, roughly, when no entry is missing.
_LEAST_BLOCKS = 3  # Least number of blocks.
_MANY_LATENTS = 2  # Latents a feature from which the start is found through the features.
_RELAXATION = 1.25  # Factor on the steps to the majorizers' minima; beyond 4/3 momentum is unstable.
_TOLERATED_GROWTH = 1.1  # Ratio of squared steps up to which rounding may have made them grow.
_CHECK_EVERY = 4  # Sweeps from one look at the residuals to the next.
_PATIENCE = 250  # Looks without progress after which a data point is given up.
_NEWTON_PATIENCE = 100  # Newton steps without progress after which it is.

_AnyState = TypeVar("_AnyState", "_State", NewtonState)


@final
@dataclass(frozen=True)
class DiagonalInference:
    """Variational inference with diagonal posteriors.

    Attributes
    ----------
    tolerance : float
        A data point is finished when its stationarity residual, in nats per posterior deviation, is at most
        this. With 0 all sweeps are done and no residual is computed, which is what learners want.
    max_iterations : int
        Largest number of sweeps per data point; or of Newton steps, if there is a tolerance and entries are
        missing or the prior is not convex.
    """

    uses_scalar_products_alone: ClassVar[bool] = True

    tolerance: float = 1e-3
    max_iterations: int = 2000

    def __call__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        weights: EntropyWeights = EntropyWeights(),
        start: Posterior | None = None,
    ) -> Diagonal:
        """Return the posteriors of the rows of ``x``.

        Parameters
        ----------
        x : Tensor of shape (N, D)
            Data, of the model's dtype.
        model : SparseCodingModel
            W, λ and σ², held fixed.
        weights : EntropyWeights
            γ and δ of the objective (17) whose E-step this is.
        start : Posterior, optional
            Posteriors whose means and deviations to start from. By default those under a Gaussian prior of
            the same variances, which is Wiener filtering.

        Raises
        ------
        NumericalError
            If a posterior is not finite in the end.

        Warns
        -----
        ConvergenceWarning
            If data points are left above the tolerance.
        """
        result, n_left = self._infer(x, model, weights, start)
        if n_left > 0:
            warn_unfinished(n_left, len(x), self.tolerance, self.max_iterations)
        return result

    def _infer(
        self, x: Tensor, model: SparseCodingModel, weights: EntropyWeights, start: Posterior | None = None
    ) -> tuple[Diagonal, int]:
        """Return the posteriors, and how many data points are left above the tolerance, without a warning."""
        problem = EStepProblem.from_data(x, model, weights)
        state = _start(problem, start)
        crawls = problem.observed is not None or not problem.prior.convex
        if not model.likelihood.quadratic or (self.tolerance > 0.0 and crawls):
            newton = NewtonState.start(state.mean, state.scale)
            result, n_left = self._run(problem, newton, newton_step, 1, _NEWTON_PATIENCE)
        else:
            latents, curvature = _blocks(problem)
            sweep = partial(_sweep, latents=latents, curvature=curvature)
            result, n_left = self._run(problem, state, sweep, _CHECK_EVERY, _PATIENCE)
        check_finite(result.mean, result.scale)
        return result, n_left

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded.

        With fewer, threads would wait for each other; and what data points share would take longer than they.
        """
        return max(512, 2**19 // n_components)

    def _run(
        self,
        problem: EStepProblem,
        state: _AnyState,
        advance: Callable[[EStepProblem, _AnyState], _AnyState],
        check_every: int,
        patience: int,
    ) -> tuple[Diagonal, int]:
        """Advance until the tolerance is met or, if it is 0, as often as there are iterations."""
        if self.tolerance <= 0.0:
            for _ in range(self.max_iterations):
                state = advance(problem, state)
            return Diagonal(state.mean.contiguous(), state.scale.contiguous()), 0
        mean, scale = (torch.empty_like(state.mean, memory_format=torch.contiguous_format) for _ in range(2))
        rows = torch.arange(len(mean), device=mean.device)
        progress = Progress(mean, patience)
        for iteration in range(1, self.max_iterations + 1):
            state = advance(problem, state)
            if iteration % check_every and iteration < self.max_iterations:
                continue
            residual = problem.diagonal_stationarity(state.mean, state.scale)
            mean[rows], scale[rows] = state.mean, state.scale
            left = progress.goes_on(rows, residual, self.tolerance)
            rows, state, problem = rows[left], state.rows(left), problem.rows(left)
            if len(rows) == 0:
                break
        return Diagonal(mean, scale), progress.n_given_up + len(rows)


STARTING_SWEEPS = DiagonalInference(tolerance=0.0, max_iterations=5)
"""The few sweeps from which another solver or an evaluation starts: close to the optimum, at a fixed cost."""

LEARNING_SWEEPS = DiagonalInference(tolerance=0.0, max_iterations=3)
"""The sweeps with diagonal posteriors that are enough while learning, at a fixed cost per step."""


def starting_posteriors(
    x: Tensor, model: SparseCodingModel, weights: EntropyWeights, tolerance: float
) -> Diagonal:
    """Return where a solver with another covariance and this tolerance starts.

    Where there is a tolerance to be met, that is close to the optimum. The first sweeps depend on the order
    of the latents, and may decide which optimum low-rank posteriors come to; and where the energy of the
    noise is not quadratic, no solver is as safe as that of diagonal posteriors.
    """
    if tolerance <= 0.0:
        return STARTING_SWEEPS(x, model, weights)
    close = 1e-3 if model.likelihood.quadratic else 0.1
    return DiagonalInference(tolerance=close)._infer(x, model, weights)[0]


def _blocks(problem: EStepProblem) -> tuple[list[slice], Tensor]:
    """Cut the latents into blocks; also return ``s λ_max(G_block)`` of the block of each latent (H,).

    Where entries are missing there are few blocks, because each one costs a reconstruction of the data.
    """
    hessian = problem.shared_hessian
    count = _LEAST_BLOCKS
    if problem.observed is None:
        count = max(count, round(len(hessian) / _BLOCK))
    size = -(-len(hessian) // count)
    latents = [slice(first, first + size) for first in range(0, len(hessian), size)]
    largest = [torch.linalg.eigvalsh(hessian[part, part])[-1] for part in latents]
    return latents, torch.stack(largest).repeat_interleave(size)[: len(hessian)]


@dataclass(frozen=True)
class _State:
    """What one sweep hands to the next; column-major, so that the latents of a block are one piece."""

    mean: Tensor  # ν, shape (N, H).
    scale: Tensor  # τ, shape (N, H).
    previous: Tensor  # ν one sweep ago, for the momentum.
    momentum: Tensor  # Factor on the last change of ν that is added to ν before the next sweep, (N, 1).
    squared_step: Tensor  # Least one since momentum was dropped, in the metric of the majorizers, (N, 1).

    def rows(self, index: Tensor) -> Self:
        return type(self)(*(tensor.T[:, index].T for tensor in vars(self).values()))


def _start(problem: EStepProblem, start: Posterior | None) -> _State:
    """Start from other posteriors, or from those under a Gaussian prior of the same variances."""
    if start is None:
        mean, deviation = wiener_means(problem), problem.prior.deviation(problem.prior_scale)
        scale = torch.hypot(problem.diagonal().sqrt(), deviation.reciprocal()).reciprocal()
        scale = _column_major(scale.expand_as(mean))
    else:
        mean, scale = _column_major(start.mean), _column_major(start.marginal_scale())
    at_rest = torch.zeros_like(mean[:, :1])
    return _State(mean, scale, mean, at_rest, torch.full_like(at_rest, torch.inf))


def wiener_means(problem: EStepProblem) -> Tensor:
    """Return the means under a Gaussian prior of the same variances, (N, H) and column-major.

    A matrix of latents by latents is inverted, or where they are many, one of features by features.
    """
    deviation = problem.prior.deviation(problem.prior_scale).double()
    n_features, n_components = problem.dictionary.shape
    if n_components < _MANY_LATENTS * n_features or problem.tilt is not None:
        precision, _ = precision_of(problem.shared_hessian.double(), deviation.unsqueeze(0) ** -2)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky_ex(precision[0]).L)
        return (covariance.to(problem.linear) @ problem.linear.T).T
    root = problem.precision.double().sqrt()
    spread = root * problem.dictionary.double() * deviation
    evidence = torch.eye(n_features).to(spread) + spread @ spread.T
    readout = root * torch.cholesky_solve(spread, torch.linalg.cholesky_ex(evidence).L) * deviation
    return (readout.to(problem.seen).T @ problem.seen.T).T


def _sweep(problem: EStepProblem, state: _State, latents: list[slice], curvature: Tensor) -> _State:
    """Return the state after one sweep over the means, block by block, and one step of all deviations."""
    mean = torch.lerp(state.previous, state.mean, 1.0 + state.momentum)
    majorizer = problem.prior.majorizer(mean, state.scale, problem.prior_scale)
    squared_step = torch.zeros_like(state.momentum)
    for block in latents:
        part = mean[:, block]
        gradient = problem.likelihood_gradient(mean, block).addcmul_(majorizer[:, block], part)
        step = majorizer[:, block] + curvature[block]
        torch.div(gradient, step, out=step)
        part.sub_(step, alpha=_RELAXATION)
        squared_step += torch.linalg.vecdot(gradient, step).unsqueeze(1)
    ratio = squared_step / state.squared_step.clamp_min(torch.finfo(squared_step.dtype).tiny)
    shrinks = ratio <= _TOLERATED_GROWTH
    momentum = torch.where(shrinks, ratio.clamp(max=1.0), 0.0)
    squared_step = torch.where(shrinks, torch.minimum(squared_step, state.squared_step), squared_step)

    scale = deviation_step(problem, mean, state.scale)
    return _State(mean, scale, state.mean, momentum, squared_step)


def _column_major(matrix: Tensor) -> Tensor:
    return matrix.T.contiguous().T
