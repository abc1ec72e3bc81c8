"""The E-step for diagonal posteriors: optimal codes of given data under a given model.

At fixed λ, σ², W the data points separate, and the problem of each is jointly concave in (ν, τ). With
s = δ/σ², G = WᵀW, b = Wᵀx, and c, w the curvature and the majorizer of the prior's expected energy (times γ),
the stationarity conditions are

    ν:  s (Gν − b)_h + w_h ν_h = 0,    w_h = γ erf(ν_h / √2 τ_h) / (λ_h ν_h)             for the Laplace prior
    τ:  τ_h² (s G_hh + c_h) = 1,       c_h = γ √(2/π) exp(−ν_h² / 2τ_h²) / (λ_h τ_h)     for the Laplace prior

The mean takes Nesterov steps under the quadratic majorizer of curvature s λ_max(G) + w, restarted for each
data point by itself; after each, the deviation takes one Newton step on log τ.
"""

import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import ConvergenceWarning, NumericalError
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal

_CHECK_EVERY = 10
_MAX_LOG_STEP = 1.0


@final
@dataclass(frozen=True)
class DiagonalInference:
    """Variational inference with diagonal posteriors.

    Attributes
    ----------
    tolerance : float
        A data point is finished when its :func:`stationarity` residual is at most this. With 0 all iterations
        are done and no residual is computed, which is what learners want.
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
        start: Diagonal | None = None,
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
        start : Diagonal, optional
            Posteriors to start from; otherwise ν = 0.

        Raises
        ------
        NumericalError
            If a posterior is not finite in the end.

        Warns
        -----
        ConvergenceWarning
            If data points are left above the tolerance.
        """
        problem = _Problem(model, weights)
        state = problem.start(x, start)
        if self.tolerance <= 0.0:
            for _ in range(self.max_iterations):
                state = problem.iterate(state)
            result = Diagonal(state.mean, state.scale)
        else:
            result = self._until_stationary(problem, state)
        if not bool(torch.isfinite(result.mean.sum() + result.scale.sum())):
            raise NumericalError("inference gave codes that are not finite; scale the data to unit variance")
        return result

    def _until_stationary(self, problem: "_Problem", state: "_State") -> Diagonal:
        mean, scale = state.mean.clone(), state.scale.clone()
        rows = torch.arange(len(mean), device=mean.device)
        for iteration in range(1, self.max_iterations + 1):
            state = problem.iterate(state)
            if iteration % _CHECK_EVERY and iteration < self.max_iterations:
                continue
            left = problem.stationarity(state.mean, state.scale, state.linear) > self.tolerance
            mean[rows], scale[rows] = state.mean, state.scale
            rows, state = rows[left], state.keep(left)
            if len(rows) == 0:
                break
        else:
            warnings.warn(
                f"{len(rows)} of {len(mean)} data points are above the tolerance {self.tolerance:g} after "
                f"{self.max_iterations} iterations; raise max_iterations or the tolerance",
                ConvergenceWarning,
                stacklevel=3,
            )
        return Diagonal(mean, scale)


def stationarity(
    posterior: Diagonal, x: Tensor, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
) -> Tensor:
    """Return how far each posterior is from its optimum, shape (N,), in nats per posterior deviation.

    It is the largest of ``|τ_h ∂L/∂ν_h|`` and ``|∂L/∂ log τ_h|`` over h, for L of Eq. 17 at fixed λ, σ².
    """
    problem = _Problem(model, weights)
    return problem.stationarity(posterior.mean, posterior.scale, problem.precision * (x @ model.dictionary))


@dataclass(frozen=True)
class _State:
    mean: Tensor
    scale: Tensor
    look_ahead: Tensor
    momentum: Tensor
    linear: Tensor

    def keep(self, rows: Tensor) -> "_State":
        return _State(*(tensor[rows] for tensor in vars(self).values()))


class _Problem:
    """The quadratic ``s (½ νᵀGν − bᵀν)`` and the prior energy that all data points share."""

    def __init__(self, model: SparseCodingModel, weights: EntropyWeights) -> None:
        self.dictionary, self.prior = model.dictionary, model.prior
        self.prior_scale = model.prior.tempered_scale(model.prior_scale, weights.prior)
        self.precision = weights.likelihood / model.noise_variance
        self.gram = self.precision * (model.dictionary.T @ model.dictionary)
        self.diagonal = self.gram.diagonal()
        self.curvature = torch.linalg.eigvalsh(self.gram)[-1]

    def start(self, x: Tensor, start: Diagonal | None) -> _State:
        linear = self.precision * (x @ self.dictionary)
        if start is None:
            mean = torch.zeros_like(linear)
            curvature = self.prior.curvature(mean, self.diagonal.rsqrt(), self.prior_scale)
            start = Diagonal(mean, (self.diagonal + curvature).rsqrt())
        return _State(start.mean, start.scale, start.mean, torch.ones_like(linear[:, :1]), linear)

    def iterate(self, state: _State) -> _State:
        majorizer = self.prior.majorizer(state.look_ahead, state.scale, self.prior_scale)
        gradient = torch.addmm(state.linear, state.look_ahead, self.gram, beta=-1.0)
        gradient += majorizer * state.look_ahead
        mean = state.look_ahead - gradient / (self.curvature + majorizer)

        step = mean - state.mean
        restart = (gradient * step).sum(1, keepdim=True) > 0.0
        momentum = 0.5 + torch.sqrt(0.25 + state.momentum.square())
        inertia = torch.where(restart, 0.0, (state.momentum - 1.0) / momentum)
        momentum = torch.where(restart, 1.0, momentum)

        variance = state.scale.square()
        curvature = self.prior.curvature(mean, state.scale, self.prior_scale)
        excess = variance * (self.diagonal + curvature) - 1.0
        slope = 2.0 * variance * self.diagonal + self.prior.curvature_slope(curvature, mean, variance)
        scale = state.scale * torch.exp((-excess / slope).clamp(-_MAX_LOG_STEP, _MAX_LOG_STEP))
        return _State(mean, scale, mean + inertia * step, momentum, state.linear)

    def stationarity(self, mean: Tensor, scale: Tensor, linear: Tensor) -> Tensor:
        majorizer = self.prior.majorizer(mean, scale, self.prior_scale)
        gradient = mean @ self.gram - linear + majorizer * mean
        curvature = self.prior.curvature(mean, scale, self.prior_scale)
        excess = scale.square() * (self.diagonal + curvature) - 1.0
        return torch.maximum((scale * gradient).abs(), excess.abs()).amax(1)
