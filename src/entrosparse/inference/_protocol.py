"""What the learners need from inference: posteriors for given data under a given model."""

from typing import Protocol

from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Posterior


class Inference(Protocol):
    """Finds ``q(z | x)`` for each row of the data."""

    def __call__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        weights: EntropyWeights = ...,
        start: Posterior | None = None,
    ) -> Posterior:
        """Return the posteriors of the rows of ``x`` (N, D), from the means and deviations of ``start``."""
        ...

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded."""
        ...
