"""Learning from data in memory: EM that cools the noise, with momentum, and restarts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.inference import Inference
from entrosparse.learning._averages import NOISE_FLOOR, SCALE_FLOOR
from entrosparse.learning._e_step import LEARNING_INFERENCE, e_step
from entrosparse.learning._initialization import initial_model
from entrosparse.learning._m_step import preconditioned_step
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import ElboTerms, entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal
from entrosparse.priors import PRIORS, Prior

_WINDOW = 10  # iterations over which the gain is averaged


@final
@dataclass(frozen=True)
class BatchResult:
    """What learning from data in memory arrived at.

    Attributes
    ----------
    model : SparseCodingModel
        The model, with the λ and σ² that are optimal for the data.
    terms : ElboTerms
        Its entropies, in nats per data point.
    marginals : Diagonal
        Means ν and marginal deviations τ of the posteriors, (N, H) each.
    history : list of ElboTerms
        Of every iteration of the run that was kept.
    converged : bool
        Whether the objective gained less than the tolerance before the iterations ran out.
    """

    model: SparseCodingModel
    terms: ElboTerms
    marginals: Diagonal
    history: list[ElboTerms]
    converged: bool


@final
@dataclass(frozen=True)
class BatchEM:
    """Learner for data that fit in memory: every iteration sees all of them.

    With little noise EM crawls, and what it crawls to is often a poor optimum. So σ² starts large and may
    only fall by the factor ``cooling`` an iteration until it is at its optimum (Eq. 10): at a high
    temperature there are few optima and EM is fast, and what is learned there leads into good ones.

    Attributes
    ----------
    n_components : int
        Number of latents H.
    init : {"ica", "data", "random"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    inference : Inference
        The E-step of one iteration, started from the posteriors of the last one.
    n_init : int
        Runs from different initial dictionaries; the one with the highest objective is kept.
    cooling : float
        Least factor on σ² from one iteration to the next, in (0, 1); 0.98 is slow enough for the bars.
    step_size, momentum : float
        Of the dictionary step; when the noise has cooled down and the objective falls, the step is cut by 0.7
        and momentum dropped once.
    tolerance : float
        Learning ends when the noise has cooled down and the objective gains less than this an iteration,
        averaged over ten, in nats per data point.
    max_iterations : int
        Iterations at most.
    """

    n_components: int
    init: str | Any = "ica"
    prior: Prior = PRIORS["laplace"]
    inference: Inference = LEARNING_INFERENCE
    n_init: int = 1
    cooling: float = 0.98
    step_size: float = 1.0
    momentum: float = 0.8
    tolerance: float = 3e-5
    max_iterations: int = 1000

    def fit(
        self,
        x: Tensor,
        generator: torch.Generator,
        weights: EntropyWeights = EntropyWeights(),
        sample_weight: Tensor | None = None,
        on_iteration: Callable[[SparseCodingModel, ElboTerms], bool] | None = None,
    ) -> BatchResult:
        """Learn from the data.

        Parameters
        ----------
        x : Tensor of shape (N, D)
            The data; NaN are entries that were not seen.
        generator : torch.Generator
            Source of randomness for the initial dictionaries.
        weights : EntropyWeights
            γ and δ of the objective (17).
        sample_weight : Tensor of shape (N,), optional
            Weights of the data points; one each by default.
        on_iteration : callable, optional
            Told the model and its entropies after each iteration; returns True to end the run.
        """
        if self.n_init < 1:
            raise InputError(f"the 'n_init' parameter must be an integer >= 1; got {self.n_init}")
        runs = (self._run(x, generator, weights, sample_weight, on_iteration) for _ in range(self.n_init))
        return max(runs, key=lambda run: float(run.terms.objective))

    def _run(
        self,
        x: Tensor,
        generator: torch.Generator,
        weights: EntropyWeights,
        sample_weight: Tensor | None,
        on_iteration: Callable[[SparseCodingModel, ElboTerms], bool] | None,
    ) -> BatchResult:
        model = initial_model(x, self.n_components, self.init, self.prior, generator, sample_weight)
        noise_floor = 2.0 * NOISE_FLOOR * model.noise_variance
        scale_floor = SCALE_FLOOR * (noise_floor / NOISE_FLOOR * model.n_features / model.n_components).sqrt()
        last, marginals = model.dictionary, None
        step_size, momentum = self.step_size, self.momentum
        history: list[ElboTerms] = []
        while True:
            statistics, marginals = e_step(x, model, self.inference, weights, marginals, sample_weight)
            history.append(entropy_elbo(statistics, weights, model.prior))
            prior_scale, optimum = (scale.to(x) for scale in optimal_scales(statistics, model.prior))
            prior_scale = torch.maximum(prior_scale, scale_floor)
            coolest = torch.maximum(self.cooling * model.noise_variance, noise_floor)
            cooled = bool(optimum >= coolest) or bool(coolest <= noise_floor)
            converged = cooled and self._rests(history)
            noise_variance = torch.maximum(optimum, noise_floor)
            reached = replace(model, prior_scale=prior_scale, noise_variance=noise_variance)
            stopped = on_iteration is not None and on_iteration(reached, history[-1])
            if converged or stopped or len(history) == self.max_iterations:
                return BatchResult(reached, history[-1], marginals, history, converged)
            if cooled and len(history) > 1 and history[-1].objective < history[-2].objective:
                step_size, momentum = 0.7 * step_size, 0.0  # overshot: start afresh, more carefully
            else:
                momentum = self.momentum
            normalized = statistics.normalized()
            stepped = preconditioned_step(model, normalized, normalized, weights.likelihood, step_size)
            model = replace(
                model,
                dictionary=unit_columns(stepped + momentum * (stepped - last)),
                prior_scale=prior_scale,
                noise_variance=torch.maximum(optimum, coolest),
            )
            last = stepped

    def _rests(self, history: list[ElboTerms]) -> bool:
        """Return whether the last iterations gained little."""
        if len(history) <= _WINDOW:
            return False
        gain = float(history[-1].objective - history[-1 - _WINDOW].objective)
        return abs(gain) < _WINDOW * self.tolerance
