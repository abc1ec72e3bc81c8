"""Tables in memory or on disk, read block by block so that only one block of rows is ever unpacked."""

from collections.abc import Iterable, Iterator
from typing import Any, final

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from entrosparse.errors import InputError


@final
class TableRows:
    """Rows of a table, read when they are asked for; made by `as_rows`.

    ``rows[index]`` takes a slice or an array of integers, in any order and with repetitions, and returns a
    new C-contiguous array of shape (n, n_features). The table is read in ascending order, each row once.

    The table is anything with a shape, a dtype, and rows that are read by a slice or an ascending array of
    integers. Its rows are returned as float32 if they are float32 or float16, else as float64, or as what is
    asked for. ``column_names`` are those that it has under this name, or None.

    Raises
    ------
    InputError
        If the table is not of real numbers in two dimensions, or is empty; or if rows are chosen by anything
        else.
    IndexError
        If a chosen row does not exist.
    """

    def __init__(self, table: Any, dtype: Any = None) -> None:
        shape = tuple(table.shape or ())
        if len(shape) != 2 or 0 in shape:
            raise InputError(
                f"the 'X' parameter must have 2 dimensions, and at least one row and one column; "
                f"got shape {shape}"
            )
        self.n_rows, self.n_features = shape
        self.dtype = _floating(table.dtype if dtype is None else dtype)
        self.column_names: tuple[str, ...] | None = getattr(table, "column_names", None)
        self._table = table

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return self.n_rows, self.n_features

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:
        if isinstance(index, slice):
            chosen = range(*index.indices(self.n_rows))
            if chosen.step == 1:
                return self._read(slice(chosen.start, max(chosen.start, chosen.stop)))
            index = np.array(chosen, dtype=np.intp)
        index = np.asarray(index)
        if index.dtype.kind not in "iu":
            raise InputError(f"rows must be chosen by a slice or an array of integers; got {index.dtype}")
        if ((index < -self.n_rows) | (index >= self.n_rows)).any():
            raise IndexError(f"the table has {self.n_rows} rows; got an index beyond them")
        if (np.diff(index, prepend=-1) > 0).all():
            return self._read(index)
        ascending, places = np.unique(np.where(index < 0, index + self.n_rows, index), return_inverse=True)
        return self._read(ascending)[places]

    def _read(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:
        block = self._table[index]
        return np.array(block.toarray() if scipy.sparse.issparse(block) else block, self.dtype, order="C")


@final
class Frame:
    """A table of pandas or polars, which has names of columns; they count if all are texts."""

    def __init__(self, frame: Any) -> None:
        self._values = frame.to_numpy()
        self.shape, self.dtype = self._values.shape, self._values.dtype
        names = tuple(frame.columns)
        self.column_names = names if all(isinstance(name, str) for name in names) else None

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return rows."""
        return self._values[index]


def as_rows(X: Any) -> TableRows:
    """Return the rows of a table (n_rows, n_features) without reading them.

    The table is a NumPy array or memory map, a SciPy sparse matrix or array, a Zarr array, an HDF5 dataset, a
    PyTorch tensor, a frame of pandas or polars, or anything else with a shape, a dtype and rows that can be
    indexed. A sparse table is held as CSR, and its rows are filled in as they are read; a tensor is brought
    to the CPU.

    Raises
    ------
    InputError
        If X is no such table, is not two-dimensional, has no rows or no columns, or holds anything but real
        numbers.
    """
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        return TableRows(Frame(X))
    if not (hasattr(X, "shape") and hasattr(X, "dtype")):
        raise InputError(
            f"the 'X' parameter must be an array, or a table on disk with a shape and a dtype; "
            f"got {type(X).__name__}"
        )
    if scipy.sparse.issparse(X):
        return TableRows(X.tocsr() if X.ndim == 2 else X)
    if isinstance(X, torch.Tensor):
        try:
            return TableRows(X.detach().cpu().numpy())
        except TypeError as error:
            raise InputError(
                f"the 'X' parameter must be a dense tensor of a type that NumPy has; "
                f"got {X.layout} of {X.dtype}"
            ) from error
    return TableRows(X)


def stream(batches: Iterable[Any]) -> Iterator[NDArray[np.floating[Any]]]:
    """Yield the batches of an iterable that may only be passed once, in the dtype of the first.

    Each is what `as_rows` takes. Their numbers of rows may differ; their columns must agree.

    Raises
    ------
    InputError
        When a batch is no table or has other columns than the first, or when there is no batch at all.
    """
    first = None
    for number, batch in enumerate(batches):
        try:
            rows = as_rows(batch)
        except InputError as error:
            raise InputError(f"{error} in batch {number}") from error
        first = first or rows
        if rows.n_features != first.n_features:
            raise InputError(
                f"the batches of 'X' must have {first.n_features} columns, as the first has; "
                f"batch {number} has {rows.n_features}"
            )
        yield rows[:].astype(first.dtype, copy=False)
    if first is None:
        raise InputError("the 'X' parameter must yield at least one batch; got none")


def _floating(dtype: Any) -> np.dtype[Any]:
    """Return the floating-point type in which numbers of the given type are read."""
    try:
        given = np.dtype(dtype)
    except TypeError:
        given = np.dtype(object)
    if given.kind not in "biuf":
        raise InputError(f"the 'X' parameter must hold real numbers; got dtype {dtype}")
    return np.dtype(np.float32 if given.kind == "f" and given.itemsize <= 4 else np.float64)
