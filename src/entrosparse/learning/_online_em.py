"""Online EM: one E-step and one dictionary step for each minibatch, with running statistics."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from entrosparse.inference import LEARNING_SWEEPS, Inference
from entrosparse.learning._averages import Floors, RunningState
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._m_step import preconditioned_step
from entrosparse.model import SparseCodingModel
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True)
class OnlineEM(Learner):
    """Learner for streams and large data.

    Attributes
    ----------
    inference : Inference
        The E-step; by default three sweeps with diagonal posteriors, which are enough while learning.
    step_size : float
        First step size of the dictionary; it falls linearly to 0 as learning proceeds.
    n_averaged : int
        Number of recent data points over which λ, σ² and curvatures are averaged at first; it falls linearly
        as learning proceeds, to 20 minibatches.
    """

    inference: Inference = LEARNING_SWEEPS
    step_size: float = 0.75
    n_averaged: int = 10_000

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> RunningState:
        """Return the state before learning."""
        return RunningState(model, self.inference, Floors.from_sample(sample))

    def step(self, state: RunningState, batch: Batch) -> RunningState:
        """Return the state after one minibatch."""
        model = state.model
        posterior = state.inference(batch.x, model, batch.weights)
        record = Statistics.collect(posterior, batch.x, model.dictionary, model.prior, batch.sample_weight)
        averages = state.average(record, batch.weights, (1.0 - batch.progress) * self.n_averaged)
        dictionary = preconditioned_step(
            model,
            record.normalized(),
            averages.statistics,
            batch.weights.likelihood,
            batch.step_factor * self.step_size * (1.0 - batch.progress),
        )
        return state.follow(dictionary, averages)

    def at_noise_floor(self, state: RunningState) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return state.floors.reached(state.model)
