"""The history of a fit, and the bridge to scikit-learn's callbacks, which exist from version 1.9 on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from entrosparse._tables import TableRows
from entrosparse._units import Units
from entrosparse.learning import Callback, EpochRecord
from entrosparse.learning._rows import watched_rows
from entrosparse.model import SparseCodingModel
from entrosparse.processes import current_processes

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # an older scikit-learn

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for the mixin where scikit-learn has none."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "HistoryInUnits", "print_batch", "with_callbacks"]


def print_batch(number: int, elbo: float, noise_variance: float) -> None:
    """Print a line on a batch that passes once; of many batches, on a few."""
    if _is_milestone(number):
        _print(f"batch {number}", elbo, noise_variance)


def _is_milestone(count: int) -> bool:
    """Return whether a count is 1, 2, 5, 10, 20, 50, ..."""
    return str(count).rstrip("0") in ("1", "2", "5")


def _print(which: str, elbo: float, noise_variance: float, time: str = "") -> None:
    print(f"{which}: ELBO {elbo:.4f} nats per sample, noise variance {noise_variance:.4g}{time}", flush=True)


@final
class _Epochs:
    """Tells scikit-learn's callbacks of every epoch of a fit.

    Parameters
    ----------
    estimator : estimator
        The estimator that is fitted.
    X : array-like
        Its data.
    max_epochs : int
        Epochs at most.
    """

    def __init__(self, estimator: Any, X: Any, max_epochs: int) -> None:
        self._estimator, self._X = estimator, X
        self._context = None
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=max_epochs)
            self._context.call_on_fit_task_begin(estimator=estimator, X=X)

    def end_epoch(self, attributes: Callable[[], dict[str, Any]]) -> bool:
        """Report one epoch, with what a fitted estimator would hold; return whether to stop."""
        if self._context is None or not hasattr(self._estimator, "_skl_callbacks"):
            return False
        context = self._context.subcontext(task_name="epoch")
        context.call_on_fit_task_begin(estimator=self._estimator, X=self._X)
        stop = context.call_on_fit_task_end(
            estimator=self._estimator, X=self._X, reconstruction_attributes=attributes()
        )
        return bool(stop)

    def end(self) -> None:
        """Report that the fit has ended."""
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._estimator, X=self._X)


@final
class HistoryInUnits(Callback):
    """Keeps the history in data units, prints it, and tells scikit-learn's callbacks."""

    def __init__(
        self,
        estimator: Any,
        rows: TableRows,
        sample_weight: NDArray[np.float64] | None,
        units: Units,
        max_epochs: int,
        sees_all_rows: bool,
    ) -> None:
        self.history: list[dict[str, Any]] = []
        self._estimator, self._units, self._n_components = estimator, units, estimator._n_components
        self._epochs = _Epochs(estimator, rows, max_epochs)
        if sees_all_rows:
            self._n_seen = units.n_seen(rows[:], sample_weight)
        else:
            watched = watched_rows(len(rows), sample_weight)
            row_weight = None if sample_weight is None else sample_weight[watched]
            self._n_seen = units.n_seen(rows[watched], row_weight)
        self._verbose = estimator.verbose and current_processes().rank == 0
        self._max_epochs, self._sees_all_rows = max_epochs, sees_all_rows

    def on_resume(self, history: Sequence[EpochRecord], samples_seen: int) -> None:
        """Take note of the epochs before."""
        self.history += [self._row(record) for record in history]

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> bool:
        """Take note of an epoch."""
        row = self._row(record)
        self.history.append(row)
        if self._verbose:
            self._print(row)
        return record.epoch > 0 and self._epochs.end_epoch(lambda: self._fitted(model))

    def end(self) -> None:
        """Tell scikit-learn's callbacks that the fit has ended."""
        self._epochs.end()

    def _print(self, row: dict[str, Any]) -> None:
        """Print a line on an epoch; of the many short ones of a learner that sees all rows, on a few."""
        epoch, seconds = row["epoch"], row["seconds"]
        if self._sees_all_rows:
            if not _is_milestone(epoch):
                return
            which, left = f"iteration {epoch} of at most {self._max_epochs}", ""
        else:
            which = f"epoch {epoch} of {self._max_epochs}"
            left = f", about {seconds / epoch * (self._max_epochs - epoch):.0f} s left" if epoch else ""
        _print(which, row["elbo"], row["noise_variance"], f", {seconds:.1f} s{left}")

    def _row(self, record: EpochRecord) -> dict[str, Any]:
        return asdict(self._units.record(record, self._n_components, self._n_seen))

    def _fitted(self, model: SparseCodingModel) -> dict[str, Any]:
        """Return what the estimator would hold if learning ended now."""
        fitted: dict[str, Any] = copy.copy(self._estimator)._keep(self._units, model, None)
        return fitted
