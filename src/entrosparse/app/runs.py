"""The run folder: what a learning run leaves behind, and how it is read back.

``config.json``
    Format number, version, settings, where the data came from, and the gain that images were scaled by.
``model.safetensors``
    The model after the last complete epoch.
``encoder.safetensors``
    The encoder of that epoch together with its model, for a run that learns one.
``history.csv``
    One row for each `EpochRecord`; row 0 is the state before learning.
``examples.npz``
    A few held-out data points as the model sees them, for the report.
``units.npz``
    For a run of rows: centre and unit of the table, around and in which the model sees it.
``checkpoints``
    What learning needs to go on after a kill (see `entrosparse.learning._checkpoints`), until it ends.
``fields.png``, ``report.html``
    Made from the files above when learning ends (see `entrosparse.app.reports`).

A kill at any instant leaves a folder that can be used, or none. The folder is made under another name and
renamed when it is complete. After that only the encoder, the model and the history change, and in the end
``config.json``, where learning converged before its last epoch. Each is replaced in one step, the history
after the model, so a kill in between leaves a model that is one epoch ahead of the last row. That does no
harm, because whatever depends on the epoch is read from the history. Encoder and model are one file, so that
they always belong together, and it is the model in it that is read back.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from entrosparse._files import check_name, remove_leavings, whole_folder, write_atomically
from entrosparse._units import Units
from entrosparse.app.config import FitConfig
from entrosparse.app.image_codes import (
    ImageCodes,
    Images,
    Reconstruction,
    decode_images,
    encode_images,
    reconstruct_images,
)
from entrosparse.app.row_codes import RowCodes, RowReconstruction, decode_rows, encode_rows, reconstruct_rows
from entrosparse.app.run_files import (
    FORMAT,
    N_EXAMPLES,
    RunInfo,
    examples_in,
    history_in,
    info_in,
    read_file,
    units_in,
)
from entrosparse.errors import FileFormatError, InputError
from entrosparse.inference import AmortizedInference, Inference, RefinedInference, load_encoder, save_encoder
from entrosparse.learning import Callback, EpochRecord
from entrosparse.model import SparseCodingModel, check_device


@final
@dataclass(frozen=True)
class Run:
    """A run read back from its folder.

    Attributes
    ----------
    path : Path
        The folder.
    info : RunInfo
        Contents of ``config.json``.
    model : SparseCodingModel
        The model.
    inference : Inference
        What finds codes: the learned encoder, or the solver of the run's covariance.
    history : tuple of EpochRecord
        At least the record of epoch 0.
    examples : array of shape (N, D)
        Held-out data points as the model sees them.
    units : Units
        What the model sees data in: rows around the mean of their columns, and patches as they are.
    """

    path: Path
    info: RunInfo
    model: SparseCodingModel
    inference: Inference
    history: tuple[EpochRecord, ...]
    examples: np.ndarray
    units: Units

    def to(self, device: str) -> "Run":
        """Return the run with its model and encoder on a device, where codes are then found.

        Raises
        ------
        InputError
            If PyTorch cannot compute there.
        """
        check_device(device)
        inference = self.inference
        if isinstance(inference, AmortizedInference | RefinedInference):
            inference = inference.to(device)
        return replace(self, model=self.model.to(device), inference=inference)

    def with_covariance(self, covariance: str) -> "Run":
        """Return the run with posteriors of another covariance, which are optimized one by one.

        Raises
        ------
        InputError
            If there are none of that name for the model.
        """
        recipe = replace(self.info.config.recipe, covariance=covariance, inference="variational")
        recipe.validate()
        inference = recipe.final_inference(self.model.n_components, self.model.dictionary.dtype)
        config = replace(self.info.config, covariance=covariance, inference="variational")
        return replace(self, info=replace(self.info, config=config), inference=inference)

    def encode(self, data: Images | Any, stride: int | None = None) -> ImageCodes | RowCodes:
        """Return the codes of images, cut into tiles that overlap, or of rows.

        Parameters
        ----------
        data : Image, ndarray of shape (height, width), a sequence of such, or a table of shape (N, D)
            For a run of images, one or several, prepared as those that the model was learned from. NaN are
            missing pixels, which a model of whitened images cannot do without. For a run of rows, what
            :meth:`SparseCoding.fit` takes, with the columns that the model was learned from.
        stride : int, optional
            Pixels from one tile to the next, at most the side of a patch; half of that by default. There are
            no tiles of rows.

        Returns
        -------
        ImageCodes or RowCodes
            Means and deviations of the codes, and the positions of the tiles.

        Raises
        ------
        InputError
            If an image is smaller than a patch, or lacks pixels that are needed; or if rows have other
            columns, or names of columns other than those of the run, or in another order.
        """
        if not self.info.config.rows:
            return encode_images(self, data, stride)
        _refuse_stride(stride)
        return encode_rows(self, data)

    def decode(self, codes: Any) -> list[NDArray[np.float32]] | NDArray[Any]:
        """Return the images or the rows that codes stand for, in the units of what was encoded.

        Overlapping tiles are averaged. A model of whitened images loses the corners of the spectrum
        (see :meth:`~entrosparse.images.PreparedImages.restored`).

        Parameters
        ----------
        codes : ImageCodes or RowCodes
            From :meth:`encode`; their means may have been changed.

        Returns
        -------
        list of ndarray of float32, shape (height, width) each, or ndarray of shape (N, D)
            One for each image that was encoded, or the rows.
        """
        return decode_rows(self, codes) if self.info.config.rows else decode_images(self, codes)

    def reconstruct(
        self, data: Images | Any, stride: int | None = None
    ) -> list[Reconstruction] | RowReconstruction:
        """Return images or rows from their codes, with posterior deviations, and with missing entries filled.

        Codes of all tiles or rows are never held at once. The parameters are those of :meth:`encode`.
        """
        if not self.info.config.rows:
            return reconstruct_images(self, data, stride)
        _refuse_stride(stride)
        return reconstruct_rows(self, data)


def _refuse_stride(stride: int | None) -> None:
    if stride is not None:
        raise InputError(f"the 'stride' parameter is for images, and the run is one of rows; got {stride}")


@final
class RunWriter(Callback):
    """Writes a run folder while learning goes on, one epoch after the other.

    The folder must not exist, unless the run goes on; then ``history`` is what it holds. The examples (N, D)
    are held-out data points that the report shows, and units are those of rows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: RunInfo,
        examples: np.ndarray,
        history: Sequence[EpochRecord] = (),
        units: Units | None = None,
    ) -> None:
        self.path = Path(path)
        self.history = list(history)
        self._info = info
        self._examples = examples
        self._units = units
        self._encoder: Inference | None = None

    def on_resume(self, history: Sequence[EpochRecord], samples_seen: int) -> None:
        """Remove what a kill left half written; nobody else writes here now."""
        remove_leavings(self.path)

    def on_inference(self, inference: Inference) -> None:
        """Take note of the encoder, if the run learns one."""
        if self._info.config.inference != "variational":
            self._encoder = inference

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> None:
        """Write the encoder, the model and the record of an epoch, in place of records from this epoch on.

        The first call for a new run makes the folder. When the disk refuses, with an OSError, what was there
        before is still usable.
        """
        history = [*(before for before in self.history if before.epoch < record.epoch), record]
        if self.history:
            self._write_epoch(self.path, model, history)
        else:
            self._create(model, history)
        self.history = history

    def converged(self) -> None:
        """Take note that learning has ended before its last epoch."""
        _write_info(self.path, replace(self._info, converged=True))

    def _create(self, model: SparseCodingModel, history: list[EpochRecord]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(self.path) as aside:
            _write_info(aside, self._info)
            write_atomically(aside / "examples.npz", lambda file: np.savez(file, patches=self._examples))
            if self._units is not None:
                found = {name: value for name, value in asdict(self._units).items() if value is not None}
                write_atomically(aside / "units.npz", lambda file: np.savez(file, **found))
            self._write_epoch(aside, model, history)

    def _write_epoch(self, folder: Path, model: SparseCodingModel, history: Sequence[EpochRecord]) -> None:
        if self._encoder is not None:
            save_encoder(folder / "encoder.safetensors", self._encoder, model)
        model.save(folder / "model.safetensors")
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(EpochRecord))
        writer.writerows(asdict(record).values() for record in history)
        write_atomically(folder / "history.csv", lambda file: file.write(text.getvalue().encode()))


def _write_info(folder: Path, info: RunInfo) -> None:
    text = json.dumps({"format": FORMAT, **asdict(info)}, indent=2) + "\n"
    write_atomically(folder / "config.json", lambda file: file.write(text.encode()))


def pick_examples(patches: np.ndarray) -> np.ndarray:
    """Return a few patches, or rows, for the report, evenly spaced in order of contrast."""
    ranks = np.unique(np.linspace(0, len(patches) - 1, N_EXAMPLES + 1).round().astype(int)[1:])
    return patches[np.argsort(np.nan_to_num(patches).var(axis=1), kind="stable")[ranks]]


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Only regular files of bounded size are read, and nothing that they say is trusted unseen.

    Raises
    ------
    FileFormatError
        If the folder or one of its files is missing or damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileFormatError(f"the 'run' parameter must be a run folder; got '{path}', which is no folder")
    check_name("run", path)
    info = read_file(path / "config.json", info_in)
    inference, model = _inference_and_model(path, info.config)
    examples = read_file(path / "examples.npz", lambda file: examples_in(file, info.config.rows))
    history = read_file(path / "history.csv", lambda file: history_in(file, info))
    if info.config.rows:
        units = read_file(path / "units.npz", units_in)
    else:
        units = Units.as_given(info.config.patch_size**2)
    dimensions = {len(units.mean), model.n_features, examples.shape[1]}
    if info.column_names is not None:
        dimensions.add(len(info.column_names))
    if len(dimensions) != 1:
        of = "number of columns" if info.config.rows else "patch size"
        raise FileFormatError(
            f"the files of the run '{path}' must have the same {of}; got {sorted(dimensions)} features"
        )
    return Run(path, info, model, inference, history, examples, units)


def _inference_and_model(path: Path, config: FitConfig) -> tuple[Inference, SparseCodingModel]:
    """Return the model of a run and what finds codes, which for an encoder are in one file."""
    if config.inference == "variational":
        model = read_file(path / "model.safetensors", lambda file: SparseCodingModel.load(file.name))
        return config.recipe.final_inference(model.n_components, model.dictionary.dtype), model
    inference, model = read_file(path / "encoder.safetensors", lambda file: load_encoder(file.name))
    if isinstance(inference, RefinedInference) != (config.inference == "refined"):
        raise FileFormatError(
            f"the encoder of the run '{path}' must be one for inference={config.inference!r}; got another"
        )
    return inference, model
