"""What the learners need from inference, and how it goes through more data than fit into memory at once."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal, Posterior

_MOST_ROWS = 8192  # of a chunk, whatever the solver would take, so that few columns do not mean all rows


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


def infer_in_chunks(
    rows: Any,
    model: SparseCodingModel,
    inference: Inference,
    weights: EntropyWeights = EntropyWeights(),
    start: Posterior | None = None,
) -> Iterator[tuple[slice, Tensor, Posterior]]:
    """Infer all data points in order, each chunk when it is asked for.

    Parameters
    ----------
    rows : Tensor of shape (N, D), or other rows
        The data: a tensor, or anything that has a length and whose slices :func:`torch.as_tensor` takes, such
        as a NumPy array or :class:`~entrosparse.images.Patches`.
    model : SparseCodingModel
        W, λ and σ², held fixed.
    inference : Inference
        Finds the posteriors, of at most ``inference.rows_at_once(H)`` data points at a time.
    weights : EntropyWeights
        γ and δ.
    start : Posterior, optional
        Posteriors of all data points, from whose means and deviations inference starts.

    Yields
    ------
    part : slice
        Which rows the chunk holds.
    x : Tensor of shape (n, D)
        The chunk, in the dtype and on the device of the model.
    posterior : Posterior
        The posteriors of the chunk.
    """
    n_rows, size = len(rows), min(_MOST_ROWS, inference.rows_at_once(model.n_components))
    marginals = None if start is None else Diagonal(start.mean, start.marginal_scale())
    for first in range(0, n_rows, size):
        part = slice(first, min(first + size, n_rows))
        x = torch.as_tensor(rows[part]).to(model.dictionary)
        chunk_start = None if marginals is None else Diagonal(marginals.mean[part], marginals.scale[part])
        yield part, x, inference(x, model, weights, chunk_start)
