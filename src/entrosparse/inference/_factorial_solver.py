"""The E-step for exact factorial posteriors: coordinate ascent, one latent after the other.

Given the means of all other latents, the best q_h is ``exp(−½ s G_hh z² + l_h z − energy(z))`` up to its
mass, with ``l_h = s (b − Gν)_h + s G_hh ν_h``; no step size is needed, and no step lowers the bound. In the
means ν alone the bound is concave, so that all starts lead to the one optimum.

Where atoms are alike, sweeps crawl. So the means have momentum from sweep to sweep, as those of diagonal
posteriors: where the steps shrink by a factor ρ per sweep, the best momentum is ρ². The momentum of a data
point is the ratio of its squared step to the least one before, and it is dropped when the steps grow.
"""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.closed_form import SQRT_2_OVER_PI, SQRT_HALF
from entrosparse.errors import InputError
from entrosparse.inference._diagonal_solver import LEARNING_SWEEPS, DiagonalInference, wiener_means
from entrosparse.inference._problem import EStepProblem, Progress, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import ExactFactorial, Posterior
from entrosparse.priors import PriorFamily

_CHECK_EVERY = 4  # Sweeps from one look at the residuals to the next.
_PATIENCE = 250  # Looks without progress after which a data point is given up.
_TOLERATED_GROWTH = 1.1  # Ratio of squared steps up to which rounding may have made them grow.
_FAR = -60.0  # Where the mean of a tail has more digits by its asymptotic series, in float64.


@final
@dataclass(frozen=True)
class ExactFactorialInference:
    """Variational inference with the best of all factorial posteriors.

    The energy of the prior must be linear on either side of zero, as that of the Laplace and the exponential.

    Attributes
    ----------
    tolerance : float
        A data point is finished when its stationarity residual, in nats per posterior deviation, is at most
        this. With 0 all sweeps are done and no residual is computed, which is what learners want.
    max_iterations : int
        Largest number of sweeps per data point.
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
    ) -> ExactFactorial:
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
            Posteriors whose means to start from; by default those of Wiener filtering.

        Raises
        ------
        InputError
            If the energy of the prior is not linear on either side of zero, or that of the noise not
            quadratic.
        NumericalError
            If a posterior is not finite in the end.

        Warns
        -----
        ConvergenceWarning
            If data points are left above the tolerance.
        """
        if not model.likelihood.quadratic:
            raise InputError(
                "exact factorial posteriors need Gaussian noise, isotropic or per feature; got "
                f"{model.likelihood.name}"
            )
        model.prior.slopes(model.prior_scale)  # A prior that has none says so before any work.
        problem = EStepProblem.from_data(x, model, weights)
        slopes = model.prior.slopes(problem.prior_scale)
        mean = wiener_means(problem) if start is None else start.mean
        state = _State.start(mean.T.contiguous())
        linear, rows = torch.empty_like(state.mean), torch.arange(len(x), device=x.device)
        progress, part = Progress(x, _PATIENCE), problem
        for iteration in range(1, self.max_iterations + 1):
            state = _sweep(part, state, slopes)
            if self.tolerance <= 0.0 or (iteration % _CHECK_EVERY and iteration < self.max_iterations):
                continue
            linear[:, rows] = state.linear
            left = progress.goes_on(rows, _residual(part, state, slopes), self.tolerance)
            rows, state, part = rows[left], state.columns(left), part.rows(left)
            if len(rows) == 0:
                break
        if self.tolerance <= 0.0:
            linear = state.linear
        elif progress.n_given_up + len(rows) > 0:
            n_left = progress.n_given_up + len(rows)
            warn_unfinished(n_left, len(x), self.tolerance, self.max_iterations)
        result = ExactFactorial.from_natural(linear.T.contiguous(), problem.diagonal(), slopes)
        check_finite(result.mean, result.scale)
        return result

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded.

        With fewer, most of the time would go into calls, of which there are some for each latent.
        """
        return max(2048, 2**19 // n_components)


EXACT_LEARNING_SWEEPS = ExactFactorialInference(tolerance=0.0, max_iterations=4)
"""The sweeps with exact factorial posteriors that are enough while learning, at a fixed cost per step."""


def learning_sweeps(prior: PriorFamily) -> DiagonalInference | ExactFactorialInference:
    """Return the few sweeps that are enough while learning, with the simplest posteriors for a prior."""
    return EXACT_LEARNING_SWEEPS if prior.positive else LEARNING_SWEEPS


@dataclass(frozen=True)
class _State:
    """What one sweep hands to the next; the numbers of a latent lie together."""

    mean: Tensor  # ν, shape (H, N).
    linear: Tensor  # l, shape (H, N).
    previous: Tensor  # ν one sweep ago, for the momentum.
    momentum: Tensor  # Factor on the last change of ν that is added to ν before the next sweep, (N,).
    squared_step: Tensor  # Least one since momentum was dropped, (N,).

    @classmethod
    def start(cls, mean: Tensor) -> Self:
        """Return the state before the first sweep."""
        at_rest = torch.zeros_like(mean[0])
        return cls(mean, mean, mean, at_rest, torch.full_like(at_rest, torch.inf))

    def columns(self, index: Tensor) -> Self:
        """Return the state of some of the data points."""
        return type(self)(*(tensor[..., index] for tensor in vars(self).values()))


def _sweep(problem: EStepProblem, state: _State, slopes: tuple[Tensor, Tensor]) -> _State:
    """Return the state after one sweep over all latents."""
    mean = torch.lerp(state.previous, state.mean, 1.0 + state.momentum)
    linear, squared_step = torch.empty_like(mean), torch.zeros_like(state.momentum)
    precision = problem.diagonal().reshape(-1, len(mean)).T
    scale = torch.minimum(precision.rsqrt(), ExactFactorial.widest(slopes)[:, None]).double()
    sides = [(-scale, -slopes[0].double()[:, None] * scale), (scale, -slopes[1].double()[:, None] * scale)]
    if bool(slopes[0].isinf().all()):
        del sides[0]
    factor, offset = (torch.stack(part, 1) for part in zip(*sides, strict=True))
    seen, error = problem.linear.T, None
    if problem.observed is not None:
        observed = problem.observed.T.contiguous()
        error = problem.seen.T - problem.dictionary @ mean * observed
    for h in range(len(mean)):
        pull = seen[h] - problem.shared_hessian[h] @ mean if error is None else problem.loading[:, h] @ error
        torch.addcmul(pull, precision[h], mean[h], out=linear[h])
        found = scale[h] * _mean_of_sides(torch.addcmul(offset[h], linear[h].double(), factor[h]))
        step = found.to(mean) - mean[h]
        if error is not None:
            error.addcmul_(problem.dictionary[:, h, None] * step, observed, value=-1.0)
        squared_step.addcmul_(precision[h], step.square())
        mean[h] += step
    ratio = squared_step / state.squared_step.clamp_min(torch.finfo(squared_step.dtype).tiny)
    shrinks = ratio <= _TOLERATED_GROWTH
    momentum = torch.where(shrinks, ratio.clamp(max=1.0), 0.0)
    squared_step = torch.where(shrinks, torch.minimum(squared_step, state.squared_step), squared_step)
    return _State(mean, linear, state.mean, momentum, squared_step)


def _mean_of_sides(a: Tensor) -> Tensor:
    """Return ``E[z]/s`` from a on the negative and the positive side, (2, N), or on the latter alone, (1, N).

    This is :func:`~entrosparse.closed_form.half_line` for the mean alone, in float64 and fewer operations.
    """
    mass = torch.special.erfcx(-SQRT_HALF * a)
    mean = a + SQRT_2_OVER_PI / mass
    far = a < _FAR
    if bool(far.any()):  # Digits would cancel there.
        square = a.square().reciprocal()
        series = (1.0 - square * (2.0 - square * (10.0 - square * 74.0))) / -a
        mean = torch.where(far, series, mean)
    if len(a) == 1:
        return mean[0]
    right = 1.0 / (1.0 + mass[0] / mass[1])
    return right * mean[1] - (1.0 - right) * mean[0]


def _residual(problem: EStepProblem, state: _State, slopes: tuple[Tensor, Tensor]) -> Tensor:
    """Return how far each posterior is from its optimum, shape (N,), in nats per posterior deviation."""
    mean, linear, diagonal = state.mean.T, state.linear.T, problem.diagonal()
    gap = linear - (diagonal * mean - problem.likelihood_gradient(mean))
    deviation = ExactFactorial.from_natural(linear, diagonal, slopes).marginal_scale()
    return (gap.abs() * deviation).amax(1)
