"""The parameters of classical learning, which finds λ and σ² by gradients like all else."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.posteriors import Diagonal
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True, eq=False)
class Parameters:
    """All that classical learning changes, in the form in which gradients are taken.

    Shapes are (N, H), (N, H), (D, H), (H,) and (). The columns of ``matrix`` have any length; they are
    normalized on the way to the objective.
    """

    mean: Tensor
    log_scale: Tensor
    matrix: Tensor
    log_prior_scale: Tensor
    log_noise_variance: Tensor

    @property
    def posterior(self) -> Diagonal:
        """Posteriors of all data points."""
        return Diagonal(self.mean, self.log_scale.exp())

    @property
    def model(self) -> SparseCodingModel:
        """W̃, λ and σ²."""
        return SparseCodingModel(
            unit_columns(self.matrix), self.log_prior_scale.exp(), self.log_noise_variance.exp()
        )

    def statistics(self, x: Tensor) -> Statistics:
        """Return the record of the data ``x`` (N, D)."""
        model = self.model
        return Statistics.collect(self.posterior, x, model.dictionary, model.prior)
