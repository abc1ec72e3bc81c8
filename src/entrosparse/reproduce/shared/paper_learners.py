"""The two algorithms of the paper as it describes them: joint L-BFGS, and EM-like updates by gradients.

Both maximize the entropy ELBO by automatic differentiation. Their place is beside the other learners, to
compare with.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError, NumericalError
from entrosparse.inference import DiagonalInference
from entrosparse.learning._batch_em import BatchResult
from entrosparse.learning._initialization import initial_model
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import ElboTerms, entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal, Full, Posterior
from entrosparse.priors import PRIORS, Prior
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True)
class JointLBFGS:
    """Learner for small data: L-BFGS on W and the full posteriors of all data points at once (4.1, D.2).

    The parameters are W, whose columns are normalized on the way to the objective, the N means, and the N
    Cholesky factors with the logarithms of their diagonals. Means start at zero, covariances at ``diag(λ²)``.
    Memory and time grow with N · H².

    Attributes
    ----------
    n_components : int
        Number of latents H.
    init : {"data", "random", "ica"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    tolerance : float
        Learning ends when a call to L-BFGS, of 20 iterations, gains less than this in nats per data point.
    max_calls : int
        Calls to L-BFGS at most; the history has one entry for each.
    """

    n_components: int
    init: str | Any = "random"
    prior: Prior = PRIORS["laplace"]
    tolerance: float = 1e-4
    max_calls: int = 500

    def fit(
        self, x: Tensor, generator: torch.Generator, weights: EntropyWeights = EntropyWeights()
    ) -> BatchResult:
        """Learn from the data ``x`` (N, D), held in memory.

        Raises
        ------
        NumericalError
            If the objective stops being finite.
        """
        model = initial_model(x, self.n_components, self.init, self.prior, generator)
        dictionary = model.dictionary.clone()
        mean = x.new_zeros(len(x), self.n_components)
        log_diagonal = model.prior_scale.log().expand_as(mean).clone()
        below = torch.diag_embed(torch.zeros_like(mean))
        ascent = _Ascent(dictionary, mean, log_diagonal, below)

        def posterior() -> Full:
            return Full(mean, below.tril(-1) + torch.diag_embed(log_diagonal.exp()))

        def terms() -> ElboTerms:
            return _terms(posterior(), x, unit_columns(dictionary), weights, self.prior)

        history: list[ElboTerms] = []
        last, converged = float("-inf"), False
        while not converged and len(history) < self.max_calls:
            history.append(ascent(terms))
            converged = float(history[-1].objective) - last < self.tolerance
            last = float(history[-1].objective)
        with torch.no_grad():
            model = _with_best_scales(model, posterior(), x, unit_columns(dictionary))
            marginals = Diagonal(mean.detach(), posterior().marginal_scale())
        return BatchResult(model, history[-1], marginals, history, converged)


@final
@dataclass(frozen=True)
class GradientEMState:
    """The state between two minibatches.

    Attributes
    ----------
    model : SparseCodingModel
        With the λ and σ² that are optimal for the last minibatch.
    length : Tensor of shape (H,)
        Lengths of the columns of the free matrix W that W̃ is the normalized form of.
    """

    model: SparseCodingModel
    length: Tensor

    @property
    def inference(self) -> DiagonalInference:
        """A few exact iterations, for the reported ELBO."""
        return DiagonalInference(tolerance=0.0, max_iterations=5)

    @property
    def at_noise_floor(self) -> bool:
        """False: the algorithm has no floor."""
        return False


@final
@dataclass(frozen=True)
class GradientEM:
    """Learner by L-BFGS for the diagonal posteriors of each minibatch, then one gradient step on W (4.2).

    Both climb the annealed entropy ELBO (17, 109) of the minibatch alone, with λ and σ² at its own optimum.
    L-BFGS works on ν and log τ, from ν = 0 and τ = σ: codes that annealing removed may come back.

    W is free, and its columns are normalized on the way to the objective. So each step is at a right angle to
    its column, which grows, and the effective rate ``learning_rate / length²`` of a column falls as it moves.

    Attributes
    ----------
    n_components : int
        Number of latents H.
    init : {"data", "random", "ica"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    learning_rate : float
        Step along the gradient in W of the nats per data point.
    max_iterations : int
        Iterations of L-BFGS for a minibatch.
    """

    n_components: int
    init: str | Any = "data"
    prior: Prior = PRIORS["laplace"]
    learning_rate: float = 0.5
    max_iterations: int = 20

    def start(
        self, x: Tensor, generator: torch.Generator, sample_weight: Tensor | None = None
    ) -> GradientEMState:
        """Return the state before learning, scaled to ``x`` (N, D), a sample of the data."""
        model = initial_model(x, self.n_components, self.init, self.prior, generator, sample_weight)
        return GradientEMState(model, torch.ones_like(model.prior_scale))

    def step(
        self,
        state: GradientEMState,
        x: Tensor,
        weights: EntropyWeights,
        progress: float,
        scale: float = 1.0,
        sample_weight: Tensor | None = None,
    ) -> GradientEMState:
        """Return the state after one minibatch.

        Parameters
        ----------
        state : GradientEMState
        x : Tensor of shape (N, D)
            The minibatch.
        weights : EntropyWeights
            γ and δ.
        progress : float
            Not used.
        scale : float
            Factor on the learning rate, for a minibatch smaller than the others.
        sample_weight : Tensor of shape (N,), optional
            Must be None: the paper's algorithm knows no weights.

        Raises
        ------
        InputError
            If there are weights.
        NumericalError
            If the objective stops being finite.
        """
        if sample_weight is not None:
            raise InputError("the 'sample_weight' parameter must be None for GradientEM; got weights")
        model = state.model
        posterior = self.infer(x, model, weights)
        dictionary = (model.dictionary * state.length).requires_grad_()
        objective = _terms(posterior, x, unit_columns(dictionary), weights, model.prior).objective
        (gradient,) = torch.autograd.grad(objective, dictionary)
        with torch.no_grad():
            dictionary += scale * self.learning_rate * gradient
            model = _with_best_scales(model, posterior, x, unit_columns(dictionary))
            return GradientEMState(model, dictionary.norm(dim=0))

    def infer(
        self, x: Tensor, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
    ) -> Diagonal:
        """Return the posteriors of a minibatch ``x`` (N, D), at the λ and σ² that are optimal for it.

        Raises
        ------
        NumericalError
            If the objective stops being finite.
        """
        mean = x.new_zeros(len(x), model.n_components)
        log_scale = (0.5 * model.noise_variance.log()).expand_as(mean).clone()

        def terms() -> ElboTerms:
            return _terms(Diagonal(mean, log_scale.exp()), x, model.dictionary, weights, model.prior)

        _Ascent(mean, log_scale, max_iterations=self.max_iterations)(terms)
        return Diagonal(mean.detach(), log_scale.detach().exp())


class _Ascent:
    """L-BFGS with strong Wolfe line search on some tensors, in place; its memory lasts from call to call."""

    def __init__(self, *parameters: Tensor, max_iterations: int = 20) -> None:
        self._optimizer = torch.optim.LBFGS(
            [parameter.requires_grad_() for parameter in parameters],
            max_iter=max_iterations,
            line_search_fn="strong_wolfe",
        )

    def __call__(self, terms: Callable[[], ElboTerms]) -> ElboTerms:
        """Climb the objective, and return the terms that were reached."""

        def closure() -> Tensor:
            self._optimizer.zero_grad()
            loss = -terms().objective
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        self._optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            reached = terms()
        if not bool(torch.isfinite(reached.objective)):
            raise NumericalError("L-BFGS left the finite numbers; scale the data to unit variance")
        return reached


def _terms(
    posterior: Posterior, x: Tensor, dictionary: Tensor, weights: EntropyWeights, prior: Prior
) -> ElboTerms:
    return entropy_elbo(Statistics.collect(posterior, x, dictionary, prior), weights, prior)


def _with_best_scales(
    model: SparseCodingModel, posterior: Posterior, x: Tensor, dictionary: Tensor
) -> SparseCodingModel:
    """Return the model with the dictionary and the λ, σ² that are optimal with it (Eq. 10, 11)."""
    statistics = Statistics.collect(posterior, x, dictionary, model.prior)
    prior_scale, noise_variance = optimal_scales(statistics, model.prior)
    return replace(
        model, dictionary=dictionary, prior_scale=prior_scale.to(x), noise_variance=noise_variance.to(x)
    )
