"""The rows of a training run: where batches come from, and which rows are reported on."""

from collections.abc import Sequence
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.learning._floors import Floors
from entrosparse.learning._identity import rows_in_words
from entrosparse.learning._learner import Learner
from entrosparse.model import check_data, check_sample
from entrosparse.processes import Processes

_STARTING_ROWS = 8192  # rows that learning starts from
_WATCHED_ROWS = 2048  # training rows that the ELBO is taken of where no rows are held out


class Rows(Protocol):
    """Data by rows: a NumPy array, a memory map, :class:`~entrosparse.images.Patches` and the like."""

    def __len__(self) -> int:
        """Return the number of rows N."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Return the rows of an integer array of indices, shape (len(index), D)."""
        ...


def watched_rows(n_rows: int, sample_weight: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of the training rows that the ELBO is taken of where no rows are held out."""
    counted = _counted_rows(n_rows, sample_weight)
    positions = np.linspace(0, len(counted) - 1, min(len(counted), _WATCHED_ROWS)).astype(int)
    return np.array([counted[k] for k in positions])


def _counted_rows(n_rows: int, sample_weight: np.ndarray | None) -> Sequence[int] | np.ndarray:
    """Return the indices of the rows of some weight."""
    return range(n_rows) if sample_weight is None else np.flatnonzero(sample_weight)


def check_weights(sample_weight: Any, n_rows: int) -> None:
    """Raise InputError unless there is a weight >= 0 for each row, and their sum is above zero and finite."""
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (n_rows,):
        raise InputError(f"the 'sample_weight' parameter must have shape ({n_rows},); got {weights.shape}")
    if not (weights >= 0).all():
        raise InputError(f"the 'sample_weight' parameter must be >= 0; got {(~(weights >= 0)).sum()} others")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < np.inf:
        raise InputError(
            f"the 'sample_weight' parameter must have a finite sum above zero; got a sum of {total}"
        )


@final
class Source:
    """Where batches come from, checked and brought to the device, and the rows that are reported on.

    Of several processes, each reads the rows that learning starts from, and its share of all others.
    """

    def __init__(
        self,
        learner: Learner,
        data: Rows,
        heldout: Rows | None,
        batch_size: int,
        device: str,
        sample_weight: np.ndarray | None,
        generator: torch.Generator,
        processes: Processes,
    ) -> None:
        self.n_rows, self._processes = len(data), processes
        self.sees_all_rows = learner.sees_all_rows
        self.batch_size = self.n_rows if learner.sees_all_rows else batch_size
        self._data, self._device = data, device
        self._sample_weight: np.ndarray | None = None
        if sample_weight is not None:  # only relative weights count, so their mean is made 1
            check_weights(sample_weight, self.n_rows)
            self._sample_weight = np.asarray(sample_weight) / np.mean(sample_weight, dtype=np.float64)
        counted = _counted_rows(self.n_rows, self._sample_weight)
        positions = torch.randperm(len(counted), generator=generator)[:_STARTING_ROWS]
        first = torch.tensor([int(counted[k]) for k in positions.tolist()]).sort().values
        if learner.sees_all_rows:
            first = torch.arange(self.n_rows)
        self.sample = self._read(data, first)
        check_sample(self.sample, "data")
        self.weight_of_sample = self._weight_of(first)
        self.floors = Floors.from_sample(self.start[0])
        self.heldout: Tensor | None = None
        self._heldout = heldout
        if heldout is not None:
            self.heldout = self._read(heldout, self._share(torch.arange(len(heldout))), "heldout")
            if len(self.heldout):
                check_sample(self.heldout, "heldout")
            if self.sample.shape[1] != self.heldout.shape[1]:
                raise InputError(
                    f"the held-out data must have {self.sample.shape[1]} columns; got {self.heldout.shape[1]}"
                )
        watched = torch.from_numpy(watched_rows(self.n_rows, self._sample_weight))
        self.n_watched, watched = len(watched), self._share(watched)
        if not learner.sees_all_rows:
            self.watched, self.weight_of_watched = self._read(data, watched), self._weight_of(watched)

    @property
    def start(self) -> tuple[Tensor, Tensor | None]:
        """The rows that learning starts from, all of some weight, and their weights."""
        weight = self.weight_of_sample
        if weight is None or bool((weight > 0.0).all()):
            return self.sample, weight
        counted = weight > 0.0
        return self.sample[counted], weight[counted]

    @property
    def reports_start(self) -> bool:
        """Whether there are rows to report on before the first step."""
        return self.heldout is not None or not self.sees_all_rows

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the share that this process has of some rows, and their weights."""
        if self.sees_all_rows:
            part = self._processes.share(self.n_rows)
            return self.sample[part], None if self.weight_of_sample is None else self.weight_of_sample[part]
        index = self._share(index)
        return self._read(self._data, index), self._weight_of(index)

    def size(self, index: Tensor) -> float:
        """Return what some rows count in all processes: their number, or the sum of their weights."""
        if self._sample_weight is None or self.sees_all_rows:  # The mean of all weights is 1.
            return len(index)
        return float(self._sample_weight[index.numpy()].sum())

    def settings(self) -> dict[str, Any]:
        """Return the data as settings of a run; this reads all rows."""
        firsts = range(0, self.n_rows, _STARTING_ROWS)
        blocks = (self._data[np.arange(k, min(k + _STARTING_ROWS, self.n_rows))] for k in firsts)
        return {
            "data": rows_in_words(blocks),
            "heldout": self._whole_heldout(),
            "sample_weight": self._sample_weight,
        }

    def _whole_heldout(self) -> Tensor | None:
        return None if self._heldout is None else self._read(self._heldout, torch.arange(len(self._heldout)))

    def _share(self, index: Tensor) -> Tensor:
        return index[self._processes.share(len(index))]

    def _read(self, rows: Rows, index: Tensor, name: str = "data") -> Tensor:
        x = torch.as_tensor(rows[index.numpy()])
        if len(index):  # A process may have no share.
            check_data(x, name)
        return x.to(self._device)

    def _weight_of(self, index: Tensor) -> Tensor | None:
        if self._sample_weight is None:
            return None
        return torch.as_tensor(self._sample_weight)[index].to(self.sample)
