"""The files of a run folder, checked as they are read (see `entrosparse.app.runs`)."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, TypeVar, final, get_type_hints

import numpy as np

from entrosparse._checks import check_positive, check_whole
from entrosparse._files import one_line, open_ours, read_arrays
from entrosparse._units import Units
from entrosparse.app.config import FitConfig
from entrosparse.errors import FileFormatError
from entrosparse.learning import EpochRecord
from entrosparse.model import LARGEST_FILE

FORMAT = 1
N_EXAMPLES = 12
MOST_OF_NAMES = 2**21
"""Characters of the names of columns, in all."""
_LARGEST = 1e30  # Numbers from here on are no result of learning, and cannot be drawn.

# Sizes of the files, which are far above all that is written.
_MOST_BYTES = {
    "config.json": 2**25,
    "history.csv": 2**25,
    "examples.npz": 2**25,
    "units.npz": 2**23,
    "model.safetensors": LARGEST_FILE,
    "encoder.safetensors": LARGEST_FILE,
}

Content = TypeVar("Content")


@final
@dataclass(frozen=True)
class RunInfo:
    """What must be known to use the model of a run again.

    Attributes
    ----------
    config : FitConfig
        Settings of the run.
    source : str
        Where the data came from.
    image_names : tuple of str
        Names of the images; none for rows.
    gain : float
        Factor that scaled the whitened images; 1 for rows.
    version : str
        Version of the package that learned the model.
    start_from : str, optional
        The run from whose dictionary learning began; None if it began from the data.
    n_rows : int, optional
        Number of rows that were learned from; None for images.
    column_names : tuple of str, optional
        Names of the columns of a table that has some.
    converged : bool
        Whether learning ended before its last epoch, as it had converged.
    """

    config: FitConfig
    source: str
    image_names: tuple[str, ...]
    gain: float
    version: str = version("entrosparse")
    start_from: str | None = None
    n_rows: int | None = None
    column_names: tuple[str, ...] | None = None
    converged: bool = False

    @property
    def n_samples(self) -> int:
        """Number of data points in an epoch."""
        return self.config.n_patches if self.n_rows is None else self.n_rows


def info_in(file: BinaryIO) -> RunInfo:
    """Return what ``config.json`` says, if it is of this format."""
    content = json.load(file)
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != FORMAT:
        raise FileFormatError(f"'{file.name}' must have the run format {FORMAT}; got {found!r}")
    # Runs learned from minibatches before they could do otherwise.
    config = FitConfig(**{"algorithm": "online"} | content.pop("config"))
    config.validate()
    if None in (config.n_components, config.epochs):
        raise ValueError("'n_components' and 'epochs' must be numbers")
    columns = content.pop("column_names", None)
    images = tuple(content.pop("image_names"))
    info = RunInfo(config, **content, image_names=images, column_names=columns and tuple(columns))
    check_positive("gain", info.gain)
    texts = (info.source, info.version, info.start_from or "", *info.image_names, *(columns or ()))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("'source', 'version', 'start_from' and all names must be texts")
    if not isinstance(info.converged, bool):
        raise ValueError("'converged' must be true or false")
    if config.rows:
        check_whole("n_rows", info.n_rows, 1)
    elif info.n_rows is not None or columns is not None:
        raise ValueError("'n_rows' and 'column_names' must be null for a run of images")
    return info


def history_in(file: BinaryIO, info: RunInfo) -> tuple[EpochRecord, ...]:
    """Return the records, which must be those of the first epochs of such a run."""
    kinds, epochs = get_type_hints(EpochRecord), info.config.epochs
    history: list[EpochRecord] = []
    for row in csv.DictReader(io.StringIO(file.read().decode(), newline="")):
        record = EpochRecord(**{key: kind(row[key]) for key, kind in kinds.items()})
        epoch = len(history)
        if (record.epoch, record.samples_seen) != (epoch, epoch * info.n_samples) or epoch > epochs:
            raise ValueError(f"row {epoch} must be epoch {epoch} of {epochs}; got {record.epoch}")
        small = all(abs(value) < _LARGEST for value in astuple(replace(record, noise_variance=0.0)))
        if not (small and 0 < record.noise_variance < math.inf):
            raise ValueError(f"row {epoch} must hold finite numbers, with a noise variance > 0")
        history.append(record)
    if not history:
        raise FileFormatError(f"'{file.name}' must have a row for epoch 0 at least; got none")
    return tuple(history)


def examples_in(file: BinaryIO, may_miss: bool) -> np.ndarray:
    """Return the held-out data points of the report, of which entries may be missing."""
    examples = read_arrays(file, _MOST_BYTES["examples.npz"])["patches"]
    if examples.ndim != 2 or not 0 < len(examples) <= N_EXAMPLES or examples.dtype not in ("f4", "f8"):
        raise ValueError(f"1 to {N_EXAMPLES} patches are expected; got {examples.dtype} {examples.shape}")
    if not ((np.abs(examples) < _LARGEST) | (may_miss & np.isnan(examples))).all():
        raise ValueError("the patches must be finite")
    return examples


def units_in(file: BinaryIO) -> Units:
    """Return centre and unit of a table."""
    arrays = read_arrays(file, _MOST_BYTES["units.npz"])
    mean, scale, spread = arrays["mean"], arrays["scale"], arrays.get("spread")
    per_column = [mean] if spread is None else [mean, spread]
    if not (
        all(array.dtype == np.float64 and np.isfinite(array).all() for array in (*per_column, scale))
        and all(array.ndim == 1 and array.shape == mean.shape for array in per_column)
        and scale.shape == ()
        and scale > 0.0
        and (spread is None or (spread > 0.0).all())
    ):
        raise ValueError("a mean for each column, and units above zero, are expected in float64")
    return Units(mean, float(scale), spread)


def read_file(path: Path, read: Callable[[BinaryIO], Content]) -> Content:
    """Return what ``read`` makes of a file of a run. Whatever is wrong with it becomes a FileFormatError."""
    try:
        with open_ours(path, _MOST_BYTES[path.name]) as file:
            return read(file)
    except FileNotFoundError:
        raise FileFormatError(f"'{path}' is missing: this is no complete run folder") from None
    except (PermissionError, FileFormatError):
        raise
    except Exception as error:  # Damaged files make their readers raise nearly anything.
        raise FileFormatError(f"'{path}' is damaged and cannot be read: {one_line(error)}") from error
