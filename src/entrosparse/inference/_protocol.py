"""What the learners need from inference, and how it goes through more data than fit into memory at once."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from entrosparse._threads import in_threads
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
    then: Callable[[slice, Tensor, Posterior], Any] = lambda *found: found,
) -> Iterator[Any]:
    """Infer all data points in chunks, as many at once as there are threads, and yield the results in order.

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
    then : callable, optional
        Makes of each chunk what is yielded, in the thread that inferred it. It is given the slice of the
        rows, the rows in the dtype and on the device of the model, and their posteriors, which are what is
        yielded by default.
    """
    n_rows, most = len(rows), min(_MOST_ROWS, inference.rows_at_once(model.n_components))
    size = -(-n_rows // max(1, -(-n_rows // most)))  # All chunks of about one size.
    marginals = None if start is None else Diagonal(start.mean, start.marginal_scale())

    def chunks() -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, n_rows, max(1, size)):
            part = slice(first, min(first + size, n_rows))
            yield part, torch.as_tensor(rows[part]).to(model.dictionary)

    def infer(part: slice, x: Tensor) -> Any:
        chunk_start = None if marginals is None else Diagonal(marginals.mean[part], marginals.scale[part])
        return then(part, x, inference(x, model, weights, chunk_start))

    return in_threads(infer, chunks())
