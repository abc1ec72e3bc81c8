"""Online EM: one E-step and one dictionary step for each minibatch, and an average over the dictionaries."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import LEARNING_SWEEPS, Inference
from entrosparse.learning._floors import Floors
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._m_step import preconditioned_step, scale_step
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.statistics import Statistics

_FREE_OVERLAP = 2.0  # ‖WᵀW‖ up to which steps are as long as for orthogonal atoms; their average forgives it

# Numbers of data points, so that the size of minibatches matters little.
_CURRENT = 512  # of which λ, σ² and curvatures are taken; a minibatch of as many takes a whole step
_TRAVEL = 51_200  # within which the step size hardly falls; after three times as many it has halved
_LEAST_AVERAGED = 25_600  # over which dictionaries are averaged, or
_SHARE_AVERAGED = 0.2  # the last share of all, if that is more


@final
@dataclass(frozen=True, eq=False)
class OnlineState:
    """What online EM carries from one minibatch to the next.

    Attributes
    ----------
    moving : SparseCodingModel
        The model at which steps are taken. Its dictionary is never at rest.
    inference : Inference
        How posteriors are found, in learning and for the reported ELBO.
    floors : Floors
        Least λ and σ².
    mean_dictionary : Tensor of shape (D, H)
        Average over the last dictionaries.
    weights : EntropyWeights
        γ and δ of the last minibatch; when they change, averages start afresh.
    n_rows : float
        Weight of the data points seen since they changed.
    curvature : Statistics or None
        Average over the last 512 data points; None before the first minibatch.
    """

    moving: SparseCodingModel
    inference: Inference
    floors: Floors
    mean_dictionary: Tensor
    weights: EntropyWeights = EntropyWeights()
    n_rows: float = 0.0
    curvature: Statistics | None = None

    @property
    def model(self) -> SparseCodingModel:
        """The averaged dictionary, with the λ and σ² of the moving one."""
        return replace(self.moving, dictionary=unit_columns(self.mean_dictionary))


@final
@dataclass(frozen=True)
class OnlineEM(Learner):
    """Learner for streams and large data, whose model is good at every moment.

    Large steps travel fast along the valleys of the objective, and their noise is what the bound pays for;
    an average over the dictionaries removes the noise and keeps the travel (Polyak and Juditsky, 1992).
    λ and σ² are slow in EM, so they follow the newest data in lengthened steps.

    Attributes
    ----------
    inference : Inference
        The E-step; by default three sweeps with diagonal posteriors, which are enough while learning.
    step_size : float
        First step size of the dictionary for minibatches of 512 data points or more. It is smaller in
        proportion for smaller ones, and falls with the square root of the data points seen.
    """

    inference: Inference = LEARNING_SWEEPS
    step_size: float = 1.0

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> OnlineState:
        """Return the state before learning."""
        return OnlineState(model, self.inference, Floors.from_sample(sample), model.dictionary)

    def step(self, state: OnlineState, batch: Batch) -> OnlineState:
        """Return the state after one minibatch."""
        model, weights = state.moving, batch.weights
        posterior = state.inference(batch.x, model, weights)
        record = Statistics.collect(posterior, batch.x, model.dictionary, model.prior, batch.sample_weight)
        size, record = float(record.total_weight), record.normalized()
        before, last = (state.n_rows, state.curvature) if weights == state.weights else (0.0, None)
        n_rows, rate = before + size, min(1.0, size / _CURRENT)
        share = max(rate, size / n_rows)
        curvature = record if last is None else last * (1.0 - share) + record * share
        step_size = rate * self.step_size / (1.0 + before / _TRAVEL) ** 0.5
        dictionary = preconditioned_step(
            model, record, curvature, weights.likelihood, step_size, _FREE_OVERLAP
        )
        scaled = scale_step(model, record, weights.likelihood, rate)
        share = size / min(n_rows, max(_LEAST_AVERAGED, _SHARE_AVERAGED * n_rows))
        return replace(
            state,
            moving=state.floors.raised(replace(scaled, dictionary=dictionary), weights),
            mean_dictionary=torch.lerp(state.mean_dictionary, dictionary, share),
            weights=weights,
            n_rows=n_rows,
            curvature=curvature,
        )

    def at_noise_floor(self, state: OnlineState) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return state.floors.reached(state.moving)
