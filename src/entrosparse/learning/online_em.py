"""Online EM: one E-step and one dictionary step for each minibatch, with running statistics."""

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import DiagonalInference, Inference
from entrosparse.learning.initialization import initial_model
from entrosparse.learning.m_step import preconditioned_step
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import optimal_scales
from entrosparse.priors import PRIORS, Prior
from entrosparse.statistics import Statistics

_LEAST_BATCHES = 20.0
_NOISE_FLOOR = 1e-6
_SCALE_FLOOR = 1e-6
_ANNEALING_SCALE_FLOOR = 0.3


@dataclass(frozen=True)
class OnlineEMState:
    """What online EM carries from one minibatch to the next.

    Attributes
    ----------
    model : SparseCodingModel
        The current model.
    statistics : Statistics or None
        Running averages, of total weight 1; None before the first minibatch.
    averaged : float
        Weight of the data points in the running averages.
    weights : EntropyWeights
        γ and δ of the running averages: those of other weights are forgotten.
    mean_square : Tensor of shape ()
        ``‖x‖²/D`` of the sample that learning started from: the unit of the floors.
    """

    model: SparseCodingModel
    statistics: Statistics | None
    averaged: float
    weights: EntropyWeights
    mean_square: Tensor

    @property
    def at_noise_floor(self) -> bool:
        """Whether the noise variance was kept from falling to zero."""
        return bool(self.model.noise_variance <= self.noise_floor * (1.0 + 1e-6))

    @property
    def noise_floor(self) -> Tensor:
        """Least noise variance, in squared data units."""
        return _NOISE_FLOOR * self.mean_square


@final
@dataclass(frozen=True)
class OnlineEM:
    """Learner for streams and large data.

    Attributes
    ----------
    n_components : int
        Number of latents H.
    init : {"data", "random"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    inference : Inference
        The E-step; a few iterations from a cold start are enough while learning.
    step_size : float
        First step size of the dictionary; it falls linearly to 0 as learning proceeds.
    memory : int
        Number of recent data points over which λ, σ² and curvatures are averaged at first; it falls linearly
        as learning proceeds, down to 20 minibatches. A long memory lets σ² fall slowly from its large first
        value, which ends in better optima than a short one.
    """

    n_components: int
    init: str | Any = "data"
    prior: Prior = PRIORS["laplace"]
    inference: Inference = field(default=DiagonalInference(tolerance=0.0, max_iterations=6))
    step_size: float = 0.75
    memory: int = 100_000

    def start(self, x: Tensor, generator: torch.Generator) -> OnlineEMState:
        """Return the state before learning, scaled to ``x`` (N, D), a sample of the data."""
        model = initial_model(x, self.n_components, self.init, self.prior, generator)
        return OnlineEMState(model, None, 0.0, EntropyWeights(), x.double().square().mean())

    def step(
        self, state: OnlineEMState, x: Tensor, weights: EntropyWeights, progress: float, scale: float = 1.0
    ) -> OnlineEMState:
        """Return the state after one minibatch.

        Parameters
        ----------
        state : OnlineEMState
        x : Tensor of shape (N, D)
            The minibatch.
        weights : EntropyWeights
            γ and δ.
        progress : float
            Share of the learning that is done, in [0, 1].
        scale : float
            Factor on the step size, for a minibatch smaller than the others.
        """
        model = state.model
        posterior = self.inference(x, model, weights)
        batch = Statistics.collect(posterior, x, model.dictionary, model.prior)
        averaged = float(batch.weight) + (state.averaged if weights == state.weights else 0.0)
        window = max((1.0 - progress) * self.memory, _LEAST_BATCHES * float(batch.weight))
        rate = float(batch.weight) / min(averaged, window)
        batch = batch.normalized()
        running = batch if state.statistics is None else state.statistics * (1.0 - rate) + batch * rate

        dictionary = preconditioned_step(
            model.dictionary,
            batch,
            running,
            weights.likelihood / model.noise_variance,
            scale * self.step_size * (1.0 - progress),
        )
        return OnlineEMState(
            self._with_scales(state, dictionary, running, weights),
            running,
            averaged,
            weights,
            state.mean_square,
        )

    def _with_scales(
        self, state: OnlineEMState, dictionary: Tensor, running: Statistics, weights: EntropyWeights
    ) -> SparseCodingModel:
        """Set λ and σ² to their optimum (Eq. 10, 11), above floors.

        Away from γ = δ = 1 a latent gains by shrinking to nothing (for γ > 1 objective (17) is unbounded),
        and λ_h → 0 would keep its codes at zero ever after; so while annealing λ is kept above three tenths
        of the scale at which H equal latents make up the data.
        """
        model = state.model
        prior_scale, noise_variance = optimal_scales(running, model.prior)
        share = torch.sqrt(state.mean_square * model.n_features / model.n_components)
        floor = _SCALE_FLOOR if weights == EntropyWeights() else _ANNEALING_SCALE_FLOOR
        return SparseCodingModel(
            dictionary,
            torch.maximum(prior_scale, floor * share).to(dictionary),
            torch.maximum(noise_variance, state.noise_floor).to(dictionary),
            model.prior,
        )
