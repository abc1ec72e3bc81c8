"""The units that an estimator learns in: data around their mean, with root mean square 1."""

from dataclasses import dataclass, replace
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entrosparse._tables import TableRows, as_rows
from entrosparse.learning import EpochRecord
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms
from entrosparse.posteriors import Posterior

_AT_ONCE = 8192  # rows


@final
@dataclass(frozen=True, eq=False)
class Units:
    """Centre and unit of data, in float64, so that values from 1e-30 to 1e30 are the same to the learner.

    Data are ``mean + scale · x`` for what the learner sees as x; codes, λ and deviations are ``scale`` times
    what it finds, and log-densities lose ``log(scale)`` per entry seen.

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
    def from_rows(cls, rows: TableRows, sample_weight: NDArray[np.float64] | None) -> Self:
        """Return the units of data, read in blocks of rows."""
        if sample_weight is None:
            sample_weight = np.broadcast_to(np.float64(1.0), len(rows))
        blocks = [slice(first, first + _AT_ONCE) for first in range(0, len(rows), _AT_ONCE)]
        count, total = np.zeros(rows.n_features), np.zeros(rows.n_features)
        for block in blocks:
            part = rows[block].astype(np.float64)
            seen = ~np.isnan(part)
            count += sample_weight[block] @ seen
            total += sample_weight[block] @ np.where(seen, part, 0.0)
        mean = total / np.maximum(count, np.finfo(float).tiny)
        parts = (np.abs(rows[block].astype(np.float64) - mean) for block in blocks)
        largest = max(float(np.nanmax(part, initial=0.0)) for part in parts)
        if largest == 0.0:
            return cls(mean, 1.0)
        squares = 0.0
        for block in blocks:
            centred = (rows[block].astype(np.float64) - mean) / largest
            squares += float(sample_weight[block] @ np.nansum(centred**2, axis=1))
        return cls(mean, largest * float(np.sqrt(squares / count.sum())))

    def standardize(self, X: NDArray[Any]) -> Tensor:
        """Return data in these units, in their own precision."""
        return torch.as_tensor((X - self.mean.astype(X.dtype)) / X.dtype.type(self.scale))

    # --- back to the units of the data

    def data(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return data."""
        return self.codes(x) + self.mean.astype(x.dtype)

    def codes(self, z: NDArray[Any]) -> NDArray[Any]:
        """Return codes, or deviations of codes."""
        return z * z.dtype.type(self.scale)

    def posterior(self, posterior: Posterior) -> Posterior:
        """Return posteriors of codes."""
        return posterior.rescaled(self.scale)

    def model(self, model: SparseCodingModel) -> SparseCodingModel:
        """Return the model in float64; its data are those around the mean."""
        model = model.to("cpu", torch.float64)
        return replace(
            model,
            prior_scale=model.prior_scale * self.scale,
            noise_variance=model.noise_variance * self.scale**2,
        )

    def pointwise_elbo(self, elbo: Tensor, x: Tensor) -> NDArray[np.float64]:
        """Return the ELBO of each row, given that of the standardized rows ``x`` (N, D)."""
        n_seen = (~x.isnan()).sum(1).double()
        return (elbo.double() - n_seen * np.log(self.scale)).numpy(force=True)

    def terms(self, terms: ElboTerms, n_components: int, n_seen: float) -> ElboTerms:
        """Return the entropies of rows of which ``n_seen`` entries were seen on average."""
        by_codes, by_data = self._shifts(n_components, n_seen)
        return replace(
            terms,
            posterior=terms.posterior + by_codes,
            prior=terms.prior + by_codes,
            likelihood=terms.likelihood + by_data,
        )

    def record(self, record: EpochRecord, n_components: int, n_seen: float) -> EpochRecord:
        """Return a row of the history, for rows of which ``n_seen`` entries were seen on average."""
        by_codes, by_data = self._shifts(n_components, n_seen)
        return replace(
            record,
            elbo=record.elbo - by_data,
            posterior_entropy=record.posterior_entropy + by_codes,
            prior_entropy=record.prior_entropy + by_codes,
            likelihood_entropy=record.likelihood_entropy + by_data,
            noise_variance=record.noise_variance * self.scale**2,
        )

    def _shifts(self, n_components: int, n_seen: float) -> tuple[float, float]:
        """Return by how much entropies of codes and of data change, in nats."""
        log_scale = float(np.log(self.scale))
        return n_components * log_scale, n_seen * log_scale


def without_repeats(
    rows: TableRows, sample_weight: NDArray[np.float64] | None
) -> tuple[TableRows, NDArray[np.float64]]:
    """Return the distinct rows in sorted order, and the weight of each; rows of weight 0 are left out.

    Learning from all data is iterative and can amplify rounding. With this, repeated and weighted samples, in
    any order, are the same to it to the last bit.
    """
    distinct, index = np.unique(rows[:], axis=0, return_inverse=True)
    weight = np.bincount(index.ravel(), sample_weight, minlength=len(distinct)).astype(np.float64)
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
        return self._units.standardize(self._rows[index]).numpy()
