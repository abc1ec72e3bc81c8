"""The units that an estimator learns in: data around their mean, with root mean square 1."""

from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entrosparse._tables import TableRows, as_rows

_AT_ONCE = 8192  # rows


@final
@dataclass(frozen=True)
class Units:
    """Centre and unit of data, in float64, so that values from 1e-30 to 1e30 are the same to the learner.

    Attributes
    ----------
    mean : ndarray of shape (D,)
        Mean of the entries seen of each feature.
    scale : float
        Root mean square of all entries seen, around the means; 1 for data without spread.
    """

    mean: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, rows: TableRows, weights: NDArray[np.float64] | None) -> Self:
        """Return the units of data, read in blocks of rows."""
        weight = np.broadcast_to(np.float64(1.0), len(rows)) if weights is None else weights
        blocks = [slice(first, first + _AT_ONCE) for first in range(0, len(rows), _AT_ONCE)]
        count, total = np.zeros(rows.n_features), np.zeros(rows.n_features)
        for block in blocks:
            part = rows[block].astype(np.float64)
            seen = ~np.isnan(part)
            count += weight[block] @ seen
            total += weight[block] @ np.where(seen, part, 0.0)
        mean = total / np.maximum(count, np.finfo(float).tiny)
        parts = (np.abs(rows[block].astype(np.float64) - mean) for block in blocks)
        largest = max(float(np.nanmax(part, initial=0.0)) for part in parts)
        if largest == 0.0:
            return cls(mean, 1.0)
        squares = 0.0
        for block in blocks:
            centred = (rows[block].astype(np.float64) - mean) / largest
            squares += float(weight[block] @ np.nansum(centred**2, axis=1))
        return cls(mean, largest * float(np.sqrt(squares / count.sum())))

    @property
    def log_scale(self) -> float:
        """What the log-density of one entry loses by the change of units, in nats."""
        return float(np.log(self.scale))

    def standardized(self, X: NDArray[Any]) -> Tensor:
        """Return data in these units, in their own precision."""
        return torch.as_tensor((X - self.mean.astype(X.dtype)) / X.dtype.type(self.scale))


def without_repeats(
    rows: TableRows, weights: NDArray[np.float64] | None
) -> tuple[TableRows, NDArray[np.float64]]:
    """Return the distinct rows in sorted order, and the weight of each; rows of weight 0 are left out.

    Learning from all data is iterative and can amplify rounding; with this, repeated and weighted samples,
    in any order, are the same to it to the last bit.
    """
    distinct, index = np.unique(rows[:], axis=0, return_inverse=True)
    weight = np.bincount(index.ravel(), weights, minlength=len(distinct)).astype(np.float64)
    return as_rows(distinct[weight > 0]), weight[weight > 0]


@final
class StandardizedRows:
    """Rows in an estimator's units, made when they are read."""

    def __init__(self, rows: TableRows, units: Units) -> None:
        self._rows, self._units = rows, units

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return the rows of an index."""
        return self._units.standardized(self._rows[index]).numpy()
