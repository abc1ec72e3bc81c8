"""Tables of data points in files, whose rows are read when they are asked for; several may be one."""

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from numpy.typing import NDArray

from entrosparse._files import map_array, most_bytes, one_line, open_regular, printable, read_arrays
from entrosparse._tables import Frame, TableRows
from entrosparse.errors import FileFormatError, InputError

_PART = "::"  # Comes before the name of an array within a file.
_PATTERN = set("*?[")


def open_rows(source: str | os.PathLike[str], dtype: Any = None) -> TableRows:
    """Open a table of data points (N, D), one a row, in a file or in several.

    It is what :meth:`SparseCoding.fit` and :func:`train` take: rows of it are read when they are needed. Each
    of several processes then reads its own.

    Parameters
    ----------
    source : str or Path
        A file, or a pattern such as ``"shards/*.npy"``, whose files are one table, in the order of their
        names. Numbers in

        - ``.npy`` files are mapped into memory, and nothing is unpickled;
        - ``.zarr`` folders and ``.h5`` or ``.hdf5`` files are read in blocks (the ``zarr`` and ``hdf5``
          extras). ``"file.h5::name"`` names one of several arrays;
        - ``.npz`` files, of one array or of that which ``"file.npz::name"`` names, are read whole;
        - ``.csv`` and ``.parquet`` files with numbers in all columns are read whole, by pandas. The first
          line of a ``.csv`` file names the columns, unless it holds numbers alone, and more than a count.
    dtype : dtype, optional
        Type of the rows that are read, float32 or float64. By default float32 is kept, and all else becomes
        float64.

    Returns
    -------
    TableRows
        With a length, ``n_features``, ``dtype``, ``column_names`` (None where there are none), and rows by
        slices or arrays of integers; NaN are entries that were not seen.

    Raises
    ------
    FileFormatError
        If there is no such file, it is of another kind or damaged, or holds no table of real numbers.
    InputError
        If files of a pattern have other columns, or a package is needed and missing.
    """
    source = os.fspath(source)
    if not _PATTERN & set(source):
        return TableRows(_opened(source), dtype)
    path, mark, name = source.partition(_PART)
    paths = sorted(glob.glob(path))
    if not paths:
        raise FileFormatError(f"the files of '{printable(source)}' must exist; found none")
    tables = [_opened(path + mark + name) for path in paths]
    widths = {table.n_features for table in tables}
    if len(widths) > 1:
        raise InputError(
            f"the files of '{printable(source)}' must have the same number of columns; got {sorted(widths)}"
        )
    if len({table.column_names for table in tables} - {None}) > 1:
        raise InputError(
            f"the files of '{printable(source)}' must have columns of the same names in the same order"
        )
    return TableRows(_Joined(tables), dtype)


@final
class _Joined:
    """Several tables of as many columns as one."""

    def __init__(self, tables: list[TableRows]) -> None:
        self._tables = tables
        self._starts = np.cumsum([0, *map(len, tables)])
        self.shape = int(self._starts[-1]), tables[0].n_features
        self.dtype = np.result_type(*(table.dtype for table in tables))
        self.column_names = tables[0].column_names

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return the rows of a slice without gaps, or of ascending numbers."""
        found = [np.empty((0, self.shape[1]), self.dtype)]
        if isinstance(index, slice):
            for start, table in zip(self._starts, self._tables, strict=False):
                first, last = max(index.start - start, 0), min(index.stop - start, len(table))
                if first < last:
                    found.append(table[first:last])
        else:
            cuts = np.searchsorted(index, self._starts)
            parts = zip(cuts, cuts[1:], self._starts, self._tables, strict=False)
            found += [table[index[first:last] - start] for first, last, start, table in parts if first < last]
        return np.concatenate(found)


def _opened(source: str) -> TableRows:
    """Open one file. Readers run only here, so every failure of theirs becomes an error of this package."""
    path, _, name = source.partition(_PART)
    read = _READERS.get(Path(path).suffix.lower())
    shown = printable(source)
    if read is None:
        raise FileFormatError(f"a file of rows must be of kind {', '.join(_READERS)}; got '{shown}'")
    if not os.path.exists(path):
        raise FileFormatError(f"'{shown}' does not exist")
    try:
        table = read(path, name)
    except (FileFormatError, InputError):
        raise
    except ImportError as error:
        raise InputError(f"'{shown}' needs a package that is missing: {one_line(error)}") from error
    except Exception as error:  # Damaged files make their readers raise nearly anything.
        raise FileFormatError(f"'{shown}' cannot be read as a table: {one_line(error)}") from error
    try:
        return TableRows(table)
    except InputError as error:
        raise FileFormatError(
            f"'{shown}' must hold real numbers in at least one row and one column; got "
            f"{table.dtype} of shape {tuple(table.shape or ())}"
        ) from error


def _numpy(path: str, name: str) -> Any:
    return map_array(path)


def _numpy_archive(path: str, name: str) -> Any:
    with open_regular(path) as file:
        return _chosen(path, name, read_arrays(file, most_bytes(file)))


def _zarr(path: str, name: str) -> Any:
    import zarr

    found = zarr.open(path, mode="r", path=name or None)
    return found if isinstance(found, zarr.Array) else _chosen(path, name, dict(found.arrays()))


def _hdf5(path: str, name: str) -> Any:
    import h5py

    open_regular(path).close()
    file = h5py.File(path, "r")
    arrays: dict[str, Any] = {}

    def keep(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual):
            arrays[place] = item

    file.visititems(keep)  # Links, which could show any file of the machine, are not followed.
    return _chosen(path, name.strip("/"), arrays)


def _pandas(path: str, name: str) -> Any:
    import pandas

    with open_regular(path) as file:
        if path.lower().endswith(".csv"):
            return Frame(pandas.read_csv(file, header=None if _starts_with_a_row(file) else 0))
        return Frame(pandas.read_parquet(file))


def _starts_with_a_row(file: BinaryIO) -> bool:
    """Return whether the first line is a row of numbers, and no names of columns, which may count them."""
    first = file.readline().decode("utf-8-sig", "replace").split(",")
    file.seek(0)
    try:
        numbers = [float(entry.strip('" \r\n') or "nan") for entry in first]
    except ValueError:
        return False
    return numbers != list(range(len(numbers)))


def _chosen(path: str, name: str, arrays: dict[str, Any]) -> Any:
    """Return the array of that name, or the only one."""
    if name in arrays:
        return arrays[name]
    if not name and len(arrays) == 1:
        return next(iter(arrays.values()))
    known = printable(", ".join(sorted(arrays)[:10])) or "none"
    wanted = f"an array '{printable(name)}'" if name else f"one array, or be followed by {_PART} and a name"
    raise FileFormatError(f"'{printable(path)}' must hold {wanted}; found {known}")


_READERS: dict[str, Callable[[str, str], Any]] = {
    ".npy": _numpy,
    ".npz": _numpy_archive,
    ".zarr": _zarr,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".csv": _pandas,
    ".parquet": _pandas,
}
KINDS = tuple(_READERS)
"""Endings of the names of files that hold rows."""
