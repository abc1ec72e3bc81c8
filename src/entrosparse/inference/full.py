"""The E-step for full posteriors: H numbers a data point, one batched Cholesky factorization a sweep.

At the optimum T⁻¹ = s G + diag(c), and the same matrix is the Hessian in ν at fixed T. So its Cholesky factor
gives the Newton step for ν and the new T together, and between sweeps only ν and the diagonal of T are kept.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference.diagonal import DiagonalInference
from entrosparse.inference.newton import TrustRegion, precision_of, triangular_inverse
from entrosparse.inference.problem import EStepProblem, check_finite, warn_unfinished
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Full, Posterior


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
        Sweeps at most; 2 or 3 reach 1e-3 nats from a diagonal start, and 1 is enough while learning from the
        posteriors of the step before.
    """

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
        problem = EStepProblem.of(x, model, weights)
        if start is None:
            start = DiagonalInference(tolerance=0.0, max_iterations=20)(x, model, weights)
        mean, scale = start.mean.clone(), start.marginal_scale().clone()
        factor = mean.new_empty(*mean.shape, mean.shape[1])
        rows, region = torch.arange(len(mean), device=mean.device), TrustRegion(mean)

        for _ in range(self.max_iterations):
            nu, tau, part = mean[rows], scale[rows], problem.rows(rows)
            _, cholesky, curvature = precision_of(part.hessian(), part.curvature(nu, tau))
            inverse = triangular_inverse(cholesky)
            step = inverse.mT @ (inverse @ part.gradient(nu, tau)[0].unsqueeze(-1))
            target = torch.linalg.vector_norm(inverse, dim=-2)
            nu, tau, free = region.move(rows, nu, step.squeeze(-1), tau, target)
            if len(rows) == len(mean):
                mean, scale, factor = nu, tau, inverse.mT
            else:
                mean[rows], scale[rows], factor[rows] = nu, tau, inverse.mT
            if self.tolerance <= 0.0:
                continue
            by_mean = (target * part.gradient(nu, target)[0]).abs().amax(1)
            change = (part.curvature(nu, target) - curvature).abs()  # Fᵀ diag(change) F is what is left
            residual = torch.maximum(by_mean, (target.square() * change).sum(1))
            region.report(rows, residual, free)
            rows = rows[residual > self.tolerance]
            if len(rows) == 0:
                break
        else:
            if self.tolerance > 0.0:
                warn_unfinished(len(rows), len(mean), self.tolerance, self.max_iterations)
        check_finite(mean, scale)
        return Full(mean, factor)

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded."""
        return max(1, 2**24 // n_components**2)
