"""The E-step for full posteriors, with one batched Cholesky factorization per sweep.

At the optimum T⁻¹ = s G + diag(c), and the same matrix is the Hessian in ν at fixed T. So the inverse of its
Cholesky factor gives both the Newton step for ν and the new T. The next sweep needs only ν and the diagonal
of T, which are 2H numbers per data point.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference._diagonal_solver import starting_posteriors
from entrosparse.inference._line_steps import LineState, line_step
from entrosparse.inference._newton import TrustRegion, inverse_cholesky_of, precision_of
from entrosparse.inference._problem import PATIENCE, EStepProblem, Progress, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Full, Posterior

_CACHED = 2**19  # Numbers in the matrices that a CPU factorizes together; they should fit into its cache.


@final
@dataclass(frozen=True)
class FullInference:
    """Variational inference with full posterior covariances.

    Attributes
    ----------
    tolerance : float
        Sweeps end when every data point's stationarity residual, in nats per posterior deviation, is at most
        this. With 0 all sweeps are done.
    max_iterations : int
        Largest number of sweeps. From a diagonal start, 2 or 3 come within 1e-3 nats of the optimum. While
        learning, 1 is enough if it starts from the posteriors of the step before.
    """

    uses_scalar_products_alone: ClassVar[bool] = True

    tolerance: float = 1e-3
    max_iterations: int = 200

    def __call__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        weights: EntropyWeights = EntropyWeights(),
        start: Posterior | None = None,
    ) -> Full:
        """Return the posteriors of the rows of ``x``, as :class:`DiagonalInference` does.

        The result holds N × H × H numbers: call it with :meth:`rows_at_once` data points.
        """
        problem = EStepProblem.from_data(x, model, weights)
        if start is None:
            start = starting_posteriors(x, model, weights, self.tolerance)
        find = self._by_sweeps if model.likelihood.quadratic else self._by_line_steps
        found, n_left = find(problem, start)
        if self.tolerance > 0.0 and n_left > 0:
            warn_unfinished(n_left, len(x), self.tolerance, self.max_iterations)
        check_finite(found.mean, found.factor)
        return found

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded."""
        return max(1, 2**24 // n_components**2)

    def _by_sweeps(self, problem: EStepProblem, start: Posterior) -> tuple[Full, int]:
        """Return the posteriors, and how many are left above the tolerance."""
        mean, scale = start.mean.clone(), start.marginal_scale().clone()
        inverses = mean.new_empty(*mean.shape, mean.shape[1])
        region, progress, n_left = TrustRegion(mean), Progress(mean, PATIENCE), 0
        for rows in _parts(mean):
            for _ in range(self.max_iterations):
                nu, tau, part = mean[rows], scale[rows], problem.rows(rows)
                precision, curvature = precision_of(part.hessian(), part.curvature(nu, tau))
                inverse = inverse_cholesky_of(precision)
                gradient = part.gradient(nu, tau)[0].unsqueeze(1)  # Row vectors times matrices are fast.
                step = (gradient @ inverse.mT @ inverse).squeeze(1)
                target = inverse.square().sum(1).sqrt()  # The norm along the columns is ten times slower.
                nu, tau = region.move(rows, nu, step, tau, target)
                mean[rows], scale[rows], inverses[rows] = nu, tau, inverse
                if self.tolerance <= 0.0:
                    continue
                by_mean = (target * part.gradient(nu, target)[0]).abs().amax(1)
                change = (part.curvature(nu, target) - curvature).abs()  # Fᵀ diag(change) F is left over.
                residual = torch.maximum(by_mean, (target.square() * change).sum(1))
                region.report(rows, residual)
                rows = rows[progress.goes_on(rows, residual, self.tolerance)]
                if len(rows) == 0:
                    break
            n_left += len(rows)
        return Full(mean, inverses.mT), n_left + progress.n_given_up

    def _by_line_steps(self, problem: EStepProblem, start: Posterior) -> tuple[Full, int]:
        """Return the same where the energy of the noise is not quadratic."""
        mean, scale = start.mean.clone(), start.marginal_scale()
        factor = mean.new_empty(*mean.shape, mean.shape[1])
        progress, n_left = Progress(mean, PATIENCE), 0
        for rows in _parts(mean):
            state, part = LineState.start(mean[rows], scale[rows]), problem.rows(rows)
            for _ in range(self.max_iterations):
                state = line_step(part, state)
                mean[rows], factor[rows] = state.mean, state.factor
                if self.tolerance <= 0.0:
                    continue
                residual = part.stationarity(Full(state.mean, state.factor))
                left = progress.goes_on(rows, residual, self.tolerance)
                rows, state, part = rows[left], state.rows(left), part.rows(left)
                if len(rows) == 0:
                    break
            n_left += len(rows)
        return Full(mean, factor), n_left + progress.n_given_up


def _parts(mean: Tensor) -> tuple[Tensor, ...]:
    """Return the indices of the data points, as many together as a CPU has cache for."""
    at_once = max(1, _CACHED // mean.shape[1] ** 2 if mean.device.type == "cpu" else len(mean))
    return torch.split(torch.arange(len(mean), device=mean.device), at_once)
