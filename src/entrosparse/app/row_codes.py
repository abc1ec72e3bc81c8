"""Rows of a table as codes under the model of a run, and rows made of codes again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from entrosparse._files import printable
from entrosparse._tables import TableRows, as_rows
from entrosparse._units import StandardizedRows
from entrosparse.errors import InputError
from entrosparse.inference import infer_in_chunks
from entrosparse.posteriors import Posterior

if TYPE_CHECKING:
    from entrosparse.app.runs import Run


@final
@dataclass(frozen=True, eq=False)
class RowCodes:
    """Codes of the rows of a table.

    Attributes
    ----------
    mean : ndarray of shape (N, n_components)
        Posterior means ν, in data units.
    marginal_scale : ndarray of shape (N, n_components)
        Posterior deviations τ, in data units.
    """

    mean: NDArray[Any]
    marginal_scale: NDArray[Any]


@final
@dataclass(frozen=True, eq=False)
class RowReconstruction:
    """Rows made of their codes, and how sure the model is of them.

    Attributes
    ----------
    rows : ndarray of shape (N, D)
        Posterior means of ``mean + Wz``, in the units of the data.
    deviation : ndarray of shape (N, D)
        Posterior deviations of these, without noise, in the units of the data.
    missing : ndarray of bool, shape (N, D)
        Where entries of the rows are missing.
    filled : ndarray of shape (N, D)
        The entries that were given, and the reconstruction where they are missing.
    column_names : tuple of str or None
        Names of the columns, where the run learned from a table that has some.
    """

    rows: NDArray[Any]
    deviation: NDArray[Any]
    missing: NDArray[np.bool_]
    filled: NDArray[Any]
    column_names: tuple[str, ...] | None


def rows_for(run: "Run", rows: TableRows, name: str) -> StandardizedRows:
    """Return rows as the model of a run sees them, read when they are asked for.

    Raises
    ------
    InputError
        If they have other columns than those that the run learned from.
    """
    check_columns(run, rows.n_features, rows.column_names, name)
    return StandardizedRows(rows, run.units, name)


def check_columns(run: "Run", n_columns: int, names: Sequence[str] | None, parameter: str) -> None:
    """Raise InputError unless a run learned from as many columns, of the same names where both have some."""
    n_expected = run.model.n_features
    if n_columns != n_expected:
        raise InputError(
            f"the '{parameter}' parameter must have {n_expected} columns, as those that the run '{run.path}' "
            f"learned from; got {n_columns}"
        )
    for number, (expected, got) in enumerate(zip(run.info.column_names or (), names or (), strict=False)):
        if got != expected:
            raise InputError(
                f"the '{parameter}' parameter must have the columns that the run '{run.path}' learned from, "
                f"in their order: column {number} must be '{printable(expected)}'; got '{printable(got)}'"
            )


def encode_rows(run: "Run", rows: Any) -> RowCodes:
    """Do what :meth:`entrosparse.app.runs.Run.encode` says."""
    found = [(q.mean, q.marginal_scale()) for _, q in _infer(run, as_rows(rows))]
    mean, scale = (
        np.concatenate([part.numpy(force=True) for part in parts]) for parts in zip(*found, strict=True)
    )
    return RowCodes(run.units.codes(mean), run.units.codes(scale))


def decode_rows(run: "Run", codes: RowCodes) -> NDArray[Any]:
    """Do what :meth:`entrosparse.app.runs.Run.decode` says."""
    wanted, got = run.model.n_components, np.shape(codes.mean)
    if len(got) != 2 or got[1] != wanted:
        raise InputError(f"the 'mean' of the codes must have shape (N, {wanted}); got {got}")
    dictionary = run.model.dictionary.numpy(force=True)
    return run.units.data(codes.mean / run.units.scale @ dictionary.T)


def reconstruct_rows(run: "Run", rows: Any) -> RowReconstruction:
    """Do what :meth:`entrosparse.app.runs.Run.reconstruct` says."""
    table, dictionary = as_rows(rows), run.model.dictionary
    restored = np.empty(table.shape, table.dtype)
    deviation = np.empty_like(restored)
    for part, q in _infer(run, table):
        restored[part] = run.units.data((q.mean @ dictionary.T).numpy(force=True))
        spread = q.reconstruction_variance(dictionary).sqrt().numpy(force=True)
        deviation[part] = spread * run.units.entry_scale
    given = table[:]
    missing = np.isnan(given)
    filled = np.where(missing, restored, given)
    return RowReconstruction(restored, deviation, missing, filled, run.info.column_names)


def _infer(run: "Run", rows: TableRows) -> Iterator[tuple[slice, Posterior]]:
    for part, _, posterior in infer_in_chunks(rows_for(run, rows, "rows"), run.model, run.inference):
        yield part, posterior
