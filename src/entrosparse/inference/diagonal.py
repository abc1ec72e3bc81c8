"""The E-step for diagonal posteriors: Nesterov steps on the mean, Newton steps on the deviation.

The mean steps under the quadratic majorizer of curvature s λ_max(G) + w, with momentum that is restarted for
each data point by itself; after each step the deviation takes one Newton step on log τ towards
τ_h² (s G_hh + c_h) = 1.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference.problem import EStepProblem, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal, Posterior

_CHECK_EVERY = 5
_MAX_LOG_STEP = 1.0


@final
@dataclass(frozen=True)
class DiagonalInference:
    """Variational inference with diagonal posteriors.

    Attributes
    ----------
    tolerance : float
        A data point is finished when its stationarity residual, in nats per posterior deviation, is at most
        this. With 0 all iterations are done and no residual is computed, which is what learners want.
    max_iterations : int
        Iterations for each data point at most.
    """

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
            Posteriors whose means and deviations to start from; otherwise ν = 0.

        Raises
        ------
        NumericalError
            If a posterior is not finite in the end.

        Warns
        -----
        ConvergenceWarning
            If data points are left above the tolerance.
        """
        problem = EStepProblem.of(x, model, weights)
        step_curvature = model.gram_norm * (weights.likelihood / model.noise_variance)
        state = _start(problem, start)
        if self.tolerance <= 0.0:
            for _ in range(self.max_iterations):
                state = _iterate(problem, step_curvature, state)
            result = Diagonal(state.mean, state.scale)
        else:
            result = self._until_stationary(problem, step_curvature, state)
        check_finite(result.mean, result.scale)
        return result

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that they stay near the processor."""
        return max(1, 2**18 // n_components)

    def _until_stationary(self, problem: EStepProblem, step_curvature: Tensor, state: "_State") -> Diagonal:
        mean, scale = state.mean.clone(), state.scale.clone()
        rows = torch.arange(len(mean), device=mean.device)
        for iteration in range(1, self.max_iterations + 1):
            state = _iterate(problem, step_curvature, state)
            if iteration % _CHECK_EVERY and iteration < self.max_iterations:
                continue
            residual = problem.stationarity(Diagonal(state.mean, state.scale))
            mean[rows], scale[rows] = state.mean, state.scale
            left = residual > self.tolerance
            rows, state, problem = rows[left], state.keep(left), problem.rows(left)
            if len(rows) == 0:
                break
        else:
            warn_unfinished(len(rows), len(mean), self.tolerance, self.max_iterations)
        return Diagonal(mean, scale)


@dataclass(frozen=True)
class _State:
    mean: Tensor
    scale: Tensor
    look_ahead: Tensor
    momentum: Tensor

    def keep(self, rows: Tensor) -> "_State":
        return _State(*(tensor[rows] for tensor in vars(self).values()))


def _start(problem: EStepProblem, start: Posterior | None) -> _State:
    if start is None:
        mean, diagonal = torch.zeros_like(problem.linear), problem.diagonal()
        widest = torch.minimum(diagonal.rsqrt(), problem.prior_scale)
        scale = (diagonal + problem.curvature(mean, widest)).rsqrt().expand_as(mean)
    else:
        mean, scale = start.mean, start.marginal_scale()
    return _State(mean, scale, mean, torch.ones_like(mean[:, :1]))


def _iterate(problem: EStepProblem, step_curvature: Tensor, state: _State) -> _State:
    gradient, majorizer = problem.gradient(state.look_ahead, state.scale)
    mean = torch.addcdiv(state.look_ahead, gradient, step_curvature + majorizer, value=-1.0)

    step = mean - state.mean
    restart = torch.linalg.vecdot(gradient, step).unsqueeze(1) > 0.0
    momentum = 0.5 + torch.sqrt(0.25 + state.momentum.square())
    inertia = torch.where(restart, 0.0, (state.momentum - 1.0) / momentum)
    momentum = torch.where(restart, 1.0, momentum)

    share, slope = problem.prior.precision_share(mean, state.scale, problem.prior_scale)
    of_data = state.scale.square().mul_(problem.diagonal())
    slope.add_(of_data, alpha=2.0)
    log_step = share.add_(of_data).sub_(1.0).div_(slope).neg_().clamp_(-_MAX_LOG_STEP, _MAX_LOG_STEP)
    scale = log_step.exp_().mul_(state.scale)
    return _State(mean, scale, torch.addcmul(mean, inertia, step), momentum)
