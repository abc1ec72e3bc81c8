"""Running averages of statistics, and a model whose λ and σ² follow them."""

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import Inference
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import optimal_scales
from entrosparse.statistics import Statistics

_LEAST_BATCHES = 20.0
NOISE_FLOOR = 1e-6  # of the data's mean square
SCALE_FLOOR = 1e-6  # of the scale at which H equal latents make up the data
_ANNEALING_SCALE_FLOOR = 0.48  # of the data's root mean square


@final
@dataclass(frozen=True)
class Averages:
    """Running averages of statistics.

    Attributes
    ----------
    statistics : Statistics
        The averages, of total weight 1.
    weight : float
        Weight of the data points in them.
    weights : EntropyWeights
        Their γ and δ: statistics at other weights are forgotten.
    """

    statistics: Statistics
    weight: float
    weights: EntropyWeights


@final
@dataclass(frozen=True)
class RunningState:
    """What a learner carries from one minibatch to the next.

    Attributes
    ----------
    model : SparseCodingModel
        The current model.
    inference : Inference
        How posteriors are found, in learning and for the reported ELBO.
    mean_square : Tensor of shape ()
        ``‖x‖²/D`` of the sample that learning started from: the unit of the floors.
    averages : Averages or None
        None before the first minibatch.
    """

    model: SparseCodingModel
    inference: Inference
    mean_square: Tensor
    averages: Averages | None = None

    @property
    def at_noise_floor(self) -> bool:
        """Whether the noise variance was kept from falling to zero."""
        return bool(self.model.noise_variance <= self.noise_floor * (1.0 + 1e-6))

    @property
    def noise_floor(self) -> Tensor:
        """Least noise variance, in squared data units."""
        return NOISE_FLOOR * self.mean_square

    def scale_floor(self, weights: EntropyWeights) -> Tensor:
        """Return the least λ, in units of the codes.

        Away from γ = δ = 1 a latent gains by shrinking to nothing (for γ > 1 objective (17) is unbounded),
        and λ_h → 0 would keep its codes at zero ever after; so while annealing λ is kept above about half the
        data's root mean square. A floor that fell with H would let overcomplete latents sink too deep to come
        back.
        """
        if weights != EntropyWeights():
            return _ANNEALING_SCALE_FLOOR * self.mean_square.sqrt()
        return SCALE_FLOOR * torch.sqrt(self.mean_square * self.model.n_features / self.model.n_components)

    def average(self, batch: Statistics, weights: EntropyWeights, memory: float = 0.0) -> Averages:
        """Return the averages with a minibatch in them, over ``memory`` data points or 20 minibatches."""
        last, size = self.averages, float(batch.weight)
        batch = batch.normalized()
        if last is None:
            return Averages(batch, size, weights)
        weight = size + (last.weight if weights == last.weights else 0.0)
        rate = size / min(weight, max(memory, _LEAST_BATCHES * size))
        return Averages(last.statistics * (1.0 - rate) + batch * rate, weight, weights)

    def follow(self, dictionary: Tensor, averages: Averages) -> Self:
        """Return the state with that dictionary, and λ and σ² at their optimum (Eq. 10, 11) above floors."""
        prior_scale, noise_variance = optimal_scales(averages.statistics, self.model.prior)
        model = SparseCodingModel(
            dictionary,
            torch.maximum(prior_scale, self.scale_floor(averages.weights)).to(dictionary),
            torch.maximum(noise_variance, self.noise_floor).to(dictionary),
            self.model.prior,
        )
        return replace(self, model=model, averages=averages)
