"""Online EM: one E-step and one dictionary step for each minibatch, with running statistics."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import Inference
from entrosparse.learning._averages import RunningState
from entrosparse.learning._e_step import LEARNING_INFERENCE
from entrosparse.learning._initialization import initial_model
from entrosparse.learning._m_step import preconditioned_step
from entrosparse.priors import PRIORS, Prior
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True)
class OnlineEM:
    """Learner for streams and large data.

    Attributes
    ----------
    n_components : int
        Number of latents H.
    init : {"ica", "data", "random"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    inference : Inference
        The E-step; by default three sweeps with diagonal posteriors, which are enough while learning.
    step_size : float
        First step size of the dictionary; it falls linearly to 0 as learning proceeds.
    memory : int
        Number of recent data points over which λ, σ² and curvatures are averaged at first; it falls linearly
        as learning proceeds. It is 20 minibatches at least.
    """

    n_components: int
    init: str | Any = "ica"
    prior: Prior = PRIORS["laplace"]
    inference: Inference = LEARNING_INFERENCE
    step_size: float = 0.75
    memory: int = 10_000

    def start(
        self, x: Tensor, generator: torch.Generator, sample_weight: Tensor | None = None
    ) -> RunningState:
        """Return the state before learning, scaled to ``x`` (N, D), a sample of the data."""
        model = initial_model(x, self.n_components, self.init, self.prior, generator, sample_weight)
        return RunningState(model, self.inference, 2.0 * model.noise_variance.double())

    def step(
        self,
        state: RunningState,
        x: Tensor,
        weights: EntropyWeights,
        progress: float,
        scale: float = 1.0,
        sample_weight: Tensor | None = None,
    ) -> RunningState:
        """Return the state after one minibatch.

        Parameters
        ----------
        state : RunningState
        x : Tensor of shape (N, D)
            The minibatch.
        weights : EntropyWeights
            γ and δ.
        progress : float
            Share of the learning that is done, in [0, 1].
        scale : float
            Factor on the step size, for a minibatch smaller than the others.
        sample_weight : Tensor of shape (N,), optional
            Weights of the data points; one each by default.
        """
        model = state.model
        posterior = state.inference(x, model, weights)
        batch = Statistics.collect(posterior, x, model.dictionary, model.prior, sample_weight)
        averages = state.average(batch, weights, (1.0 - progress) * self.memory)
        dictionary = preconditioned_step(
            model,
            batch.normalized(),
            averages.statistics,
            weights.likelihood,
            scale * self.step_size * (1.0 - progress),
        )
        return state.follow(dictionary, averages)
