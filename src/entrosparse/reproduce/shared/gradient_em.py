"""The paper's EM-like learner of minibatches: posteriors by L-BFGS, the dictionary by gradients (4.2)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.inference import STARTING_SWEEPS, Inference
from entrosparse.learning import Batch, Learner
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import ElboTerms, entropy_elbo
from entrosparse.posteriors import Diagonal
from entrosparse.reproduce.shared.ascent import Ascent, with_optimal_scales
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True, eq=False)
class GradientEMState:
    """The state between two minibatches.

    Attributes
    ----------
    model : SparseCodingModel
        With the λ and σ² that are optimal for the last minibatch.
    length : Tensor of shape (H,)
        Lengths of the columns of W, the free matrix whose normalized form is W̃.
    inference : Inference
        A few exact sweeps, for the reported ELBO.
    """

    model: SparseCodingModel
    length: Tensor
    inference: Inference = STARTING_SWEEPS


@final
@dataclass(frozen=True)
class GradientEM(Learner):
    """Learner by L-BFGS for the diagonal posteriors of each minibatch, then one gradient step on W.

    Both climb the annealed entropy ELBO (17, 109) of the minibatch alone, with λ and σ² at its own optimum.
    L-BFGS works on ν and log τ, from ν = 0 and τ = σ: codes that annealing removed may come back.

    W is free, and its columns are normalized on the way to the objective. So each step is at a right angle to
    its column, which grows, and the effective rate ``learning_rate / length²`` of a column falls as it moves.

    Attributes
    ----------
    learning_rate : float
        Factor on the gradient in W of the objective, which is in nats per data point.
    max_iterations : int
        Iterations of L-BFGS for each minibatch.
    """

    learning_rate: float = 0.5
    max_iterations: int = 20

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> GradientEMState:
        """Return the state before learning."""
        return GradientEMState(model, torch.ones_like(model.prior_scale))

    def step(self, state: GradientEMState, batch: Batch) -> GradientEMState:
        """Return the state after one minibatch.

        Raises
        ------
        InputError
            If the rows have weights, which the paper's algorithm does not know.
        NumericalError
            If the objective stops being finite.
        """
        if batch.sample_weight is not None:
            raise InputError("the 'sample_weight' parameter must be None for GradientEM; got weights")
        x, model = batch.x, state.model
        posterior = self.infer(x, model, batch.weights)
        dictionary = (model.dictionary * state.length).requires_grad_()
        record = Statistics.collect(
            posterior, x, unit_columns(dictionary), model.prior, likelihood=model.likelihood
        )
        (gradient,) = torch.autograd.grad(entropy_elbo(record, batch.weights).objective, dictionary)
        with torch.no_grad():
            dictionary += batch.step_factor * self.learning_rate * gradient
            stepped = replace(model, dictionary=unit_columns(dictionary))
            return GradientEMState(with_optimal_scales(stepped, posterior, x), dictionary.norm(dim=0))

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
        log_scale = (0.5 * model.noise_variance.log().mean()).expand_as(mean).clone()

        def terms() -> ElboTerms:
            posterior = Diagonal(mean, log_scale.exp())
            record = Statistics.collect(
                posterior, x, model.dictionary, model.prior, likelihood=model.likelihood
            )
            return entropy_elbo(record, weights)

        Ascent(mean, log_scale, max_iterations=self.max_iterations)(terms)
        return Diagonal(mean.detach(), log_scale.detach().exp())
