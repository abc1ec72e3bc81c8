"""What a run learns from, as its settings say: patches of images, or the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from entrosparse._tables import TableRows
from entrosparse._units import StandardizedRows, Units
from entrosparse.app.config import FitConfig
from entrosparse.app.run_files import MOST_OF_NAMES, RunInfo
from entrosparse.errors import InputError
from entrosparse.images import Image, default_images, load_images, prepare_images, split_patches
from entrosparse.inference import Inference
from entrosparse.learning import Callback, EpochRecord
from entrosparse.learning._rows import Rows
from entrosparse.model import SparseCodingModel
from entrosparse.row_files import KINDS, open_rows

PHOTOGRAPHS = "photographs that come with scikit-image"
_FEWEST_ROWS, _MOST_HELDOUT = 10, 2048


@final
@dataclass(frozen=True, eq=False)
class Data:
    """What a run learns from.

    Attributes
    ----------
    info : RunInfo
        What the run folder will say of it.
    train : Rows
        Data points to learn from, as the model sees them.
    heldout : ndarray of shape (N, D)
        Data points to measure learning by, as the model sees them.
    units : Units
        What the model sees them in.
    """

    info: RunInfo
    train: Rows
    heldout: NDArray[Any]
    units: Units


def read_data(config: FitConfig, source: str, start_from: str | None) -> Data:
    """Return what a run with these settings learns from.

    Raises
    ------
    InputError
        If the source cannot be read, or not be learned from.
    """
    if config.rows:
        return _rows_of_table(config, source, start_from)
    config = config.for_data(config.n_patches, config.patch_size**2)
    prepared = prepare_images(read_images(source), config.whiten)
    train, heldout = split_patches(
        prepared.arrays, config.patch_size, config.n_patches, config.n_heldout, config.seed
    )
    names = tuple(prepared.names)
    info = RunInfo(config, source=source, image_names=names, gain=prepared.gain, start_from=start_from)
    return Data(info, train, heldout[:], Units.as_given(train.n_features))


def _rows_of_table(config: FitConfig, source: str, start_from: str | None) -> Data:
    rows, heldout = split_rows(source)
    config = config.for_data(len(rows), rows.n_features)
    config.check_size(rows.n_features)
    if sum(map(len, rows.column_names or ())) > MOST_OF_NAMES:
        raise InputError(
            f"the 'input' parameter must have names of columns with at most {MOST_OF_NAMES:,} characters "
            "in all"
        )
    recipe = config.recipe
    per_feature = recipe.likelihood.per_feature
    units = Units.from_rows(rows, None, recipe.prior_part.centred, per_feature, name="input")
    info = RunInfo(
        config,
        source,
        image_names=(),
        gain=1.0,
        start_from=start_from,
        n_rows=len(rows),
        column_names=rows.column_names,
    )
    heldout = units.standardize(heldout, "input").numpy()
    return Data(info, StandardizedRows(rows, units, "input"), heldout, units)


def read_images(source: str) -> list[Image]:
    """Return the images of a source, as it is named in a run folder."""
    if source == PHOTOGRAPHS:
        return default_images()
    try:
        return load_images(source)
    except InputError as error:
        if Path(source.partition("::")[0]).suffix.lower() not in KINDS:
            raise
        raise InputError(f"{error}; to take the rows of a table, give --rows") from error


def split_rows(source: str) -> tuple[TableRows, NDArray[Any]]:
    """Return the rows of a table that are learned from, which are not read here, and those that are held out.

    A tenth of the rows is held out, at most 2048. Which they are depends on the number of rows alone, so that
    all runs on a table hold out the same.

    Raises
    ------
    InputError
        If the table cannot be opened, or has fewer than 10 rows.
    """
    rows = open_rows(source)
    if len(rows) < _FEWEST_ROWS:
        raise InputError(
            f"the rows of '{source}' must be {_FEWEST_ROWS} at least, of which some are held out; "
            f"got {len(rows)}"
        )
    n_heldout = min(_MOST_HELDOUT, max(2, len(rows) // 10))
    chosen = np.sort(np.random.default_rng(0).choice(len(rows), n_heldout, replace=False))
    return TableRows(_Without(rows, chosen), rows.dtype), rows[chosen]


@final
class _Without:
    """A table without some of its rows, whose numbers ascend."""

    def __init__(self, rows: TableRows, left_out: NDArray[np.integer[Any]]) -> None:
        self._rows = rows
        self._gaps = left_out - np.arange(len(left_out))  # How many rows are kept before each.
        self.shape = len(rows) - len(left_out), rows.n_features
        self.dtype = rows.dtype
        self.column_names = rows.column_names

    def __getitem__(self, index: slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return the rows of a slice without gaps, which is read as one, or of ascending numbers."""
        kept = np.arange(index.start, index.stop) if isinstance(index, slice) else index
        places = kept + np.searchsorted(self._gaps, kept, side="right")
        if isinstance(index, slice) and len(places):
            return self._rows[places[0] : places[-1] + 1][places - places[0]]
        return self._rows[places]


@final
class InDataUnits(Callback):
    """Tells others of a run whose history is in the units of the data.

    Parameters
    ----------
    told : sequence of Callback
        The others.
    data : Data
        What the run learns from.
    """

    def __init__(self, told: Sequence[Callback], data: Data) -> None:
        self._told, self._units = told, data.units
        self._n_components = data.info.config.n_components
        self._n_seen = data.units.n_seen(data.heldout, None)

    def on_resume(self, history: Sequence[EpochRecord], samples_seen: int) -> None:
        """Tell of the epochs so far."""
        records = [self._in_units(record) for record in history]
        for callback in self._told:
            callback.on_resume(records, samples_seen)

    def on_batch(self, samples_seen: int) -> None:
        """Tell of a batch."""
        for callback in self._told:
            callback.on_batch(samples_seen)

    def on_inference(self, inference: Inference) -> None:
        """Tell how posteriors are found."""
        for callback in self._told:
            callback.on_inference(inference)

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> None:
        """Tell of an epoch."""
        for callback in self._told:
            callback.on_epoch(model, self._in_units(record))

    def _in_units(self, record: EpochRecord) -> EpochRecord:
        return self._units.record(record, self._n_components, self._n_seen)
