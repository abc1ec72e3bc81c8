"""L-BFGS on the dictionary alone, for small data: codes, λ and σ² are eliminated."""

from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import DiagonalInference, Inference
from entrosparse.learning._batch_em import BatchResult
from entrosparse.learning._e_step import e_step
from entrosparse.learning._initialization import initial_model
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import ElboTerms, entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal
from entrosparse.priors import PRIORS, Prior
from entrosparse.statistics import Statistics

_TURNS = 100  # of inference and scales at one dictionary
_TURN_GAIN = 1e-7  # nats per data point that end them


@final
@dataclass(frozen=True)
class LBFGS:
    """Learner for small data: objective (17) as a function of W̃, maximized over all else.

    At the optimum over codes, λ and σ² its gradient is ``(δ/σ²) (B − W A) / N`` (envelope theorem).

    Attributes
    ----------
    n_components : int
        Number of latents H.
    init : {"ica", "data", "random"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    inference : Inference
        The E-step, which must run to convergence.
    tolerance : float
        Learning ends when the objective gains less than this an iteration, in nats per data point.
    max_iterations : int
        Iterations at most.
    """

    n_components: int
    init: str | Any = "ica"
    prior: Prior = PRIORS["laplace"]
    inference: Inference = field(default=DiagonalInference(tolerance=1e-5))
    tolerance: float = 1e-6
    max_iterations: int = 500

    def fit(
        self, x: Tensor, generator: torch.Generator, weights: EntropyWeights = EntropyWeights()
    ) -> BatchResult:
        """Learn from the data ``x`` (N, D), held in memory."""
        model = initial_model(x, self.n_components, self.init, self.prior, generator)
        problem = _Profile(x, model, self.inference, weights)
        history: list[ElboTerms] = []
        found = minimize(
            problem.loss,
            model.dictionary.double().cpu().numpy().ravel(),
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: history.append(problem.terms),
            options={"maxiter": self.max_iterations, "maxcor": 20, "ftol": self.tolerance, "gtol": 0.0},
        )
        problem.loss(found.x)
        assert problem.marginals is not None
        return BatchResult(problem.model, problem.terms, problem.marginals, history, bool(found.success))


class _Profile:
    """Objective (17) at a dictionary; codes, λ and σ² start from those of the last evaluation."""

    terms: ElboTerms

    def __init__(
        self, x: Tensor, model: SparseCodingModel, inference: Inference, weights: EntropyWeights
    ) -> None:
        self.x, self.model, self.inference, self.weights = x, model, inference, weights
        self.marginals: Diagonal | None = None

    def loss(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Return minus the objective, and its gradient, at columns of any length."""
        free = torch.as_tensor(flat.reshape(self.model.dictionary.shape)).to(self.x)
        self.model = replace(self.model, dictionary=unit_columns(free))
        statistics = self._eliminate()
        atoms, length = self.model.dictionary.double(), free.double().norm(dim=0)
        residual = statistics.cross_moment - atoms @ statistics.second_moment
        scale = self.weights.likelihood / (self.model.noise_variance.double() * statistics.weight)
        tangent = residual - atoms * (atoms * residual).sum(0)
        gradient = scale * tangent / length
        return -float(self.terms.objective), -gradient.cpu().numpy().ravel()

    def _eliminate(self) -> Statistics:
        """Maximize over codes, λ and σ² in turns."""
        last, turns = float("-inf"), 0
        while True:
            turns += 1
            statistics, self.marginals = e_step(
                self.x, self.model, self.inference, self.weights, self.marginals
            )
            self.terms = entropy_elbo(statistics, self.weights, self.model.prior)
            prior_scale, noise_variance = optimal_scales(statistics, self.model.prior)
            self.model = replace(
                self.model, prior_scale=prior_scale.to(self.x), noise_variance=noise_variance.to(self.x)
            )
            objective = float(self.terms.objective)
            if objective - last < _TURN_GAIN or turns == _TURNS:
                return statistics
            last = objective
