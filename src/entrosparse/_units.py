"""The units that tables are learned in: data, or features, around their mean, with root mean square 1."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entrosparse._tables import TableRows, as_rows
from entrosparse.errors import InputError
from entrosparse.learning import EpochRecord
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms
from entrosparse.posteriors import Posterior

_AT_ONCE = 8192  # Rows that are read together.
_NUMBERS_AT_ONCE = 2**17  # Numbers that are computed with together.

# Least and largest size of data in each dtype. The noise variance, a small part of a square, must be a normal
# float64, and codes must not overflow the dtype of the data.
_SIZES = {np.dtype(np.float32): (1e-35, 1e37), np.dtype(np.float64): (1e-145, 1e145)}


@final
@dataclass(frozen=True, eq=False)
class Units:
    """Centre and unit of data, in float64, so that data of all sizes are the same to the learner.

    Data are ``mean + scale · x`` for what the learner sees as x; codes, λ and deviations are ``scale`` times
    what it finds, and log-densities lose ``log(scale)`` per entry seen. Where noise has a variance for each
    feature, each feature has a unit of its own, and only codes are in ``scale``: then it makes no difference
    to learning what units the features are in.

    Attributes
    ----------
    mean : ndarray of shape (D,)
        Mean of the entries seen of each feature; 0 where none was seen, and for data that are not centred.
    scale : float
        Root mean square of all entries seen, around the means. For data without spread it is that of the
        means, or 1 if all are 0.
    spread : ndarray of shape (D,) or None
        Units of the features, as multiples of ``scale``; None if they have none of their own.
    """

    mean: NDArray[np.float64]
    scale: float
    spread: NDArray[np.float64] | None = None

    @classmethod
    def as_given(cls, n_features: int) -> Self:
        """Return the units of data that the learner sees as they are given."""
        return cls(np.zeros(n_features), 1.0)

    @classmethod
    def from_rows(
        cls,
        rows: TableRows,
        sample_weight: NDArray[np.float64] | None,
        centred: bool = True,
        per_feature: bool = False,
        name: str = "X",
    ) -> Self:
        """Return the units of data, read in blocks of rows; messages call the data by ``name``.

        Data that are not centred have the mean 0; if ``per_feature``, each feature has a unit of its own.

        Raises
        ------
        InputError
            If entries are infinite, none was seen, or the data are too large or too small to compute with.
        """
        count, mean = np.zeros(rows.n_features), np.zeros(rows.n_features)
        tiny = np.finfo(float).tiny
        squares, size = 0.0, 0.0  # The sum of squares around the mean is in units of size².
        of_features = np.zeros(rows.n_features)  # So are those of each feature.
        with np.errstate(over="ignore", invalid="ignore"):  # What overflows is refused below.
            for part, weight in _parts(rows, sample_weight, name):
                seen = ~np.isnan(part)
                lowest = np.fmin.reduce(part, initial=np.inf)
                last, size = size, max(size, -float(lowest.min()), float(np.fmax.reduce(part, axis=None)))
                # Deviations of a constant feature from one of its values are exact zeros: it must not vary.
                part_count = weight @ seen
                shift = weight @ np.where(seen, part - lowest, 0.0) / np.maximum(part_count, tiny)
                gap = np.where(part_count > 0.0, lowest + shift - mean, 0.0)
                part -= mean + gap
                part[~seen] = 0.0
                count += part_count
                share = part_count / np.maximum(count, tiny)
                mean += share * gap
                unit = size or 1.0
                part /= unit
                inside, between = weight @ part**2, part_count * (1.0 - share)
                squares *= (last / unit) ** 2
                squares += float(inside.sum() + between @ (gap / unit) ** 2)
                of_features *= (last / unit) ** 2
                of_features += inside + between * (gap / unit) ** 2
        (unseen,) = np.nonzero(count == 0.0)
        if len(unseen) == rows.n_features:
            raise InputError(f"the '{name}' parameter must have an entry that was seen; got NaN alone")
        if len(unseen):
            warnings.warn(
                f"nothing is learned of columns {', '.join(map(str, unseen))} of '{name}', "
                "which hold NaN alone",
                stacklevel=2,
            )
        least, most = _SIZES[rows.dtype]
        if size > most:
            raise InputError(
                f"the '{name}' parameter must hold values up to {most:g} in {rows.dtype}; got {size:.3g}"
            )
        if not centred:
            of_means = count * (mean / (size or 1.0)) ** 2
            squares, of_features = squares + float(of_means.sum()), of_features + of_means
            mean[:] = 0.0
        scale = size * float(np.sqrt(squares / count.sum()))
        if scale == 0.0:
            scale = float(np.sqrt(np.mean((mean / (size or 1.0)) ** 2))) * size or 1.0
        if scale < least:
            raise InputError(
                f"the '{name}' parameter must have a root mean square around its mean of at least {least:g} "
                f"in {rows.dtype}; got {scale:.3g}"
            )
        if not per_feature:
            return cls(mean, scale)
        spread = size / scale * np.sqrt(of_features / np.maximum(count, tiny))
        return cls(mean, scale, np.where(spread > 0.0, spread, 1.0))

    def standardize(self, X: NDArray[Any], name: str = "X") -> Tensor:
        """Return data in these units, in their own precision; messages call them by ``name``.

        Raises
        ------
        InputError
            If entries are infinite, or too far from the data that the units are of to compute with.
        """
        with np.errstate(over="ignore"):
            x = X - self.mean.astype(X.dtype)
            x /= self.entry_scale.astype(X.dtype)
        limit = float(np.finfo(X.dtype).max) ** 0.25
        if not (x.size == 0 or (-limit <= x.min() and x.max() <= limit)):  # NaN take the closer look, too.
            _refuse_infinite(X, name)
            n_bad = int((np.abs(x) > limit).sum())
            if n_bad:
                raise InputError(
                    f"the '{name}' parameter must differ from mean_ at most {limit:.2g} times "
                    f"{self.scale:.3g}, the spread of the data learned from, in {X.dtype}; got {n_bad} others"
                )
        return torch.as_tensor(x)

    @property
    def entry_scale(self) -> NDArray[np.float64]:
        """The units of data entries, of shape () or (D,)."""
        return np.asarray(self.scale if self.spread is None else self.scale * self.spread)

    def atoms(self, dictionary: NDArray[Any]) -> NDArray[Any]:
        """Return a dictionary (D, H) of the data in these units."""
        if self.spread is None or dictionary.shape[:1] != self.spread.shape:
            return dictionary  # It is for the learner to refuse a wrong shape.
        return dictionary / self.spread[:, None]

    # --- back to the units of the data

    def data(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return data."""
        return x * self.entry_scale.astype(x.dtype) + self.mean.astype(x.dtype)

    def codes(self, z: NDArray[Any]) -> NDArray[Any]:
        """Return codes, or deviations of codes."""
        return z * z.dtype.type(self.scale)

    def posterior(self, posterior: Posterior) -> Posterior:
        """Return posteriors of codes."""
        return posterior.rescaled(self.scale)

    def model(self, model: SparseCodingModel) -> SparseCodingModel:
        """Return the model in float64; its data are those around the mean.

        Where features have units of their own, atoms are of length 1 in these.
        """
        model = model.to("cpu", torch.float64)
        dictionary = model.dictionary
        if self.spread is not None:
            dictionary = dictionary * torch.as_tensor(self.spread)[:, None]
        return replace(
            model,
            dictionary=dictionary,
            prior_scale=model.prior_scale * self.scale,
            noise_variance=model.noise_variance * torch.as_tensor(self.entry_scale**2),
        )

    def pointwise_elbo(self, elbo: Tensor, x: Tensor) -> NDArray[np.float64]:
        """Return the ELBO of each row, given that of the standardized rows ``x`` (N, D)."""
        seen = (~x.isnan()).double()
        log_scale = torch.as_tensor(np.log(self.entry_scale)).to(seen)
        by_data = seen.sum(1) * log_scale if self.spread is None else seen @ log_scale
        return (elbo.double() - by_data).numpy(force=True)

    def n_seen(self, X: NDArray[Any], sample_weight: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Return how many entries of a row were seen on average; of each feature if it has its own unit."""
        seen = ~np.isnan(X)
        if self.spread is None:
            return np.asarray(np.average(seen.sum(1), weights=sample_weight))
        return np.asarray(np.average(seen, axis=0, weights=sample_weight))

    def terms(self, terms: ElboTerms, n_components: int, n_seen: NDArray[np.float64]) -> ElboTerms:
        """Return the entropies of rows of which :meth:`n_seen` entries were seen on average."""
        by_codes, by_data = self._shifts(n_components, n_seen)
        return replace(
            terms,
            posterior=terms.posterior + by_codes,
            prior=terms.prior + by_codes,
            likelihood=terms.likelihood + by_data,
        )

    def record(self, record: EpochRecord, n_components: int, n_seen: NDArray[np.float64]) -> EpochRecord:
        """Return a row of the history, for rows of which :meth:`n_seen` entries were seen on average."""
        by_codes, by_data = self._shifts(n_components, n_seen)
        return replace(
            record,
            elbo=record.elbo - by_data,
            posterior_entropy=record.posterior_entropy + by_codes,
            prior_entropy=record.prior_entropy + by_codes,
            likelihood_entropy=record.likelihood_entropy + by_data,
            noise_variance=record.noise_variance * self._mean_scale**2,
        )

    @property
    def _mean_scale(self) -> float:
        """The geometric mean of the units of all features."""
        return self.scale if self.spread is None else float(np.exp(np.log(self.entry_scale).mean()))

    def _shifts(self, n_components: int, n_seen: NDArray[np.float64]) -> tuple[float, float]:
        """Return by how much entropies of codes and of data change, in nats."""
        by_data = n_seen * np.log(self.entry_scale)
        return n_components * float(np.log(self.scale)), float(by_data.sum())


def _parts(
    rows: TableRows, sample_weight: NDArray[np.float64] | None, name: str
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the rows of some weight in float64, a few at a time, and their weights, at most 1.

    So few stay in the cache while they are computed with.
    """
    few = max(1, _NUMBERS_AT_ONCE // rows.n_features)
    exponent = 0 if sample_weight is None else int(np.frexp(sample_weight.max())[1])
    for first in range(0, len(rows), _AT_ONCE):
        block = rows[first : first + _AT_ONCE]
        _refuse_infinite(block, name)
        weight = np.ones(len(block))
        if sample_weight is not None:
            weight = np.ldexp(sample_weight[first : first + _AT_ONCE], -exponent)  # Not a digit is lost.
            block, weight = block[weight > 0.0], weight[weight > 0.0]
        for start in range(0, len(block), few):
            yield block[start : start + few].astype(np.float64), weight[start : start + few]


def _refuse_infinite(X: NDArray[Any], name: str) -> None:
    n_bad = int(np.isinf(X).sum())
    if n_bad:
        raise InputError(
            f"the '{name}' parameter must be finite, or NaN where not seen; got {n_bad} infinite entries"
        )


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
    """Rows in units, made when they are read; messages call them by ``name``."""

    def __init__(self, rows: TableRows, units: Units, name: str = "X") -> None:
        self._rows, self._units, self._name = rows, units, name

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return the rows of an index."""
        return self._units.standardize(self._rows[index], self._name).numpy()
