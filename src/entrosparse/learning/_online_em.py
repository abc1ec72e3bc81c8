"""Online EM: one E-step and one dictionary step for each minibatch, and an average over the dictionaries."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import LEARNING_SWEEPS, Inference
from entrosparse.learning._floors import Floors
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._m_step import Curvature, preconditioned_step, scale_step
from entrosparse.learning._turns import sum_up
from entrosparse.model import SparseCodingModel, unit_columns

_COOLING = 0.98  # least factor on σ² in a step, as in batch EM: what is learned in noise leads to good optima
_FREE_OVERLAP = 2.0  # ‖WᵀW‖ up to which steps are as long as for orthogonal atoms; their average forgives it

# A block is as many data points as a whole step needs, and all else is counted in blocks, so that the size of
# minibatches matters little.
_PER_LATENT, _LEAST, _MOST = 5, 64, 512  # data points of a block
_WARM_UP = 10  # blocks over which the step size rises, since the first steps have no average to forgive them
_TRAVEL = 100  # blocks within which it hardly falls; after three times as many it has halved
_LEAST_AVERAGED = 50  # blocks over which dictionaries are averaged, or
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
    n_blocks : float
        Blocks of data points seen since they changed.
    curvature : Curvature or None
        Average over the last block of data points; None before the first minibatch.
    """

    moving: SparseCodingModel
    inference: Inference
    floors: Floors
    mean_dictionary: Tensor
    weights: EntropyWeights = EntropyWeights()
    n_blocks: float = 0.0
    curvature: Curvature | None = None

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
    λ and σ² are slow in EM, so they follow the newest data in lengthened steps; but the noise may only cool
    slowly, since fields that are learned in little noise are poor.

    Attributes
    ----------
    inference : Inference
        The E-step; by default three sweeps with diagonal posteriors, which are enough while learning.
    step_size : float
        Size of the steps of the dictionary for minibatches of 5 data points a latent, at most 512. It is
        smaller in proportion for smaller minibatches, and falls with the square root of the data points seen.
    """

    shares_batches: ClassVar[bool] = True

    inference: Inference = LEARNING_SWEEPS
    step_size: float = 1.0

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> OnlineState:
        """Return the state before learning."""
        return OnlineState(model, self.inference, Floors.from_sample(sample), model.dictionary)

    def step(self, state: OnlineState, batch: Batch) -> OnlineState:
        """Return the state after one minibatch."""
        model, weights = state.moving, batch.weights
        shared = batch.sample_weight, batch.processes
        record, _ = sum_up(batch.x, model, state.inference, weights, None, *shared)
        size = float(record.total_weight) / min(_MOST, max(_LEAST, _PER_LATENT * model.n_components))
        record, rate = record.normalized(), min(1.0, size)
        before, last = (state.n_blocks, state.curvature) if weights == state.weights else (0.0, None)
        n_blocks = before + size
        share = max(rate, size / n_blocks)
        newest = Curvature.from_statistics(record)
        curvature = newest if last is None else last.moved(newest, share)
        step_size = rate * self.step_size * min(1.0, n_blocks / _WARM_UP) / (1.0 + before / _TRAVEL) ** 0.5
        dictionary = preconditioned_step(
            model, record, curvature, weights.likelihood, step_size, _FREE_OVERLAP
        )
        scaled = scale_step(model, record, weights.likelihood, rate)
        noise_variance = torch.maximum(scaled.noise_variance, _COOLING * model.noise_variance)
        scaled = replace(scaled, dictionary=dictionary, noise_variance=noise_variance)
        share = size / min(n_blocks, max(_LEAST_AVERAGED, _SHARE_AVERAGED * n_blocks))
        return replace(
            state,
            moving=state.floors.raised(scaled, weights),
            mean_dictionary=torch.lerp(state.mean_dictionary, dictionary, share),
            weights=weights,
            n_blocks=n_blocks,
            curvature=curvature,
        )

    def at_noise_floor(self, state: OnlineState) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return state.floors.reached(state.moving)
