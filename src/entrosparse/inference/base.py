"""What the learners need from inference: posteriors for given data under a given model."""

from typing import Any, Protocol

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
        start: Any = None,
    ) -> Posterior:
        """Return the posteriors of the rows of ``x`` (N, D), from ``start``, of the same kind, when given."""
        ...
