"""Online EM: one E-step and one dictionary step for each minibatch, with running statistics."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import DiagonalInference, Inference
from entrosparse.learning.initialization import initial_model
from entrosparse.learning.m_step import preconditioned_step
from entrosparse.learning.running import RunningState
from entrosparse.model import SparseCodingModel
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
    init : {"data", "random", "ica"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    inference : Inference, optional
        The E-step; by default a few iterations with diagonal posteriors, which are enough while learning: six
        for H ≤ D, and 20 beyond, where latents compete for the same data.
    step_size : float
        First step size of the dictionary; it falls linearly to 0 as learning proceeds.
    memory : int, optional
        Number of recent data points over which λ, σ² and curvatures are averaged at first; it falls linearly
        as learning proceeds, down to 20 minibatches. A long memory lets σ² fall slowly from its large first
        value, which ends in better optima than a short one: 100,000 by default. For H > D, where σ² has far
        to fall, it is 10,000.
    """

    n_components: int
    init: str | Any = "data"
    prior: Prior = PRIORS["laplace"]
    inference: Inference | None = None
    step_size: float = 0.75
    memory: int | None = None

    def start(
        self, x: Tensor, generator: torch.Generator, sample_weight: Tensor | None = None
    ) -> RunningState:
        """Return the state before learning, scaled to ``x`` (N, D), a sample of the data."""
        model = initial_model(x, self.n_components, self.init, self.prior, generator, sample_weight)
        inference = self.inference or learning_inference(_overcomplete(model))
        return RunningState(model, inference, 2.0 * model.noise_variance.double())

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
        memory = (10_000 if _overcomplete(model) else 100_000) if self.memory is None else self.memory
        averages = state.average(batch, weights, (1.0 - progress) * memory)
        dictionary = preconditioned_step(
            model,
            batch.normalized(),
            averages.statistics,
            weights.likelihood,
            scale * self.step_size * (1.0 - progress),
        )
        return state.follow(dictionary, averages)


def learning_inference(overcomplete: bool) -> DiagonalInference:
    """Return an E-step of as many iterations as learning with diagonal posteriors needs."""
    return DiagonalInference(tolerance=0.0, max_iterations=20 if overcomplete else 6)


def _overcomplete(model: SparseCodingModel) -> bool:
    return model.n_components > model.n_features
