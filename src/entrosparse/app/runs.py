"""The run folder: what a learning run leaves behind, and how it is read back.

``config.json``
    Format number, version, settings, where the images came from and the gain they were scaled by.
``model.safetensors``
    The model after the last complete epoch.
``encoder.safetensors``
    The encoder of that epoch together with its model, for a run that learns one.
``history.csv``
    One row for each `EpochRecord`; row 0 is the state before learning.
``examples.npz``
    A few held-out patches, for the report.
``checkpoints``
    What learning needs to go on after a kill (see `entrosparse.learning._checkpoints`), until it ends.
``fields.png``, ``report.html``
    Made from the files above when learning ends (see `entrosparse.app.reports`).

A kill at any instant leaves a folder that can be used, or none. The folder is made under another name and
renamed when it is complete. After that only the encoder, the model and the history change. Each is replaced
in one step, the history last, so a kill in between leaves a model that is one epoch ahead of the last row.
That does no harm, because whatever depends on the epoch is read from the history. Encoder and model are one
file, so that they always belong together, and it is the model in it that is read back.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, TypeVar, final, get_type_hints

import numpy as np
from numpy.typing import NDArray

from entrosparse._checks import check_positive
from entrosparse._files import (
    check_name,
    one_line,
    open_ours,
    read_arrays,
    remove_leavings,
    whole_folder,
    write_atomically,
)
from entrosparse.app.config import FitConfig
from entrosparse.app.image_codes import (
    ImageCodes,
    Images,
    Reconstruction,
    decode_images,
    encode_images,
    reconstruct_images,
)
from entrosparse.errors import FileFormatError
from entrosparse.inference import AmortizedInference, Inference, RefinedInference, load_encoder, save_encoder
from entrosparse.learning import Callback, EpochRecord
from entrosparse.model import LARGEST_FILE, SparseCodingModel, check_device

FORMAT = 1
_N_EXAMPLES = 12
_LARGEST = 1e30  # Numbers from here on are no result of learning, and cannot be drawn.

# Sizes of the files, which are far above all that is written.
_MOST_BYTES = {
    "config.json": 2**22,
    "history.csv": 2**25,
    "examples.npz": 2**25,
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
        Where the images came from.
    image_names : tuple of str
        Names of the images.
    gain : float
        Factor that scaled the whitened images.
    version : str
        Version of the package that learned the model.
    start_from : str, optional
        The run from whose dictionary learning began; None if it began from the data.
    """

    config: FitConfig
    source: str
    image_names: tuple[str, ...]
    gain: float
    version: str = version("entrosparse")
    start_from: str | None = None


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
        Held-out patches.
    """

    path: Path
    info: RunInfo
    model: SparseCodingModel
    inference: Inference
    history: tuple[EpochRecord, ...]
    examples: np.ndarray

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

    def encode(self, images: Images, stride: int | None = None) -> ImageCodes:
        """Return the codes of images, cut into tiles that overlap.

        Parameters
        ----------
        images : Image, ndarray of shape (height, width), or a sequence of such
            One image or several, prepared as those that the model was learned from. NaN are missing pixels,
            which a model of whitened images cannot do without.
        stride : int, optional
            Pixels from one tile to the next, at most the side of a patch; half of that by default.

        Returns
        -------
        ImageCodes
            Means and deviations of the codes, and the positions of the tiles.

        Raises
        ------
        InputError
            If an image is smaller than a patch, or lacks pixels that are needed.
        """
        return encode_images(self, images, stride)

    def decode(self, codes: ImageCodes) -> list[NDArray[np.float32]]:
        """Return the images that codes stand for, in the units of the images that were encoded.

        Overlapping tiles are averaged. A model of whitened images loses the corners of the spectrum
        (see :meth:`~entrosparse.images.PreparedImages.restored`).

        Parameters
        ----------
        codes : ImageCodes
            From :meth:`encode`; their means may have been changed.

        Returns
        -------
        list of ndarray of float32, shape (height, width) each
            One for each image that was encoded.
        """
        return decode_images(self, codes)

    def reconstruct(self, images: Images, stride: int | None = None) -> list[Reconstruction]:
        """Return images from their codes, with their posterior deviations, and missing pixels filled in.

        Codes of all tiles are never held at once. The parameters are those of :meth:`encode`.
        """
        return reconstruct_images(self, images, stride)


@final
class RunWriter(Callback):
    """Writes a run folder while learning goes on, one epoch after the other.

    The folder must not exist, unless the run goes on; then ``history`` is what it holds. The examples (N, D)
    are held-out patches that the report shows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: RunInfo,
        examples: np.ndarray,
        history: Sequence[EpochRecord] = (),
    ) -> None:
        self.path = Path(path)
        self.history = list(history)
        self._info = info
        self._examples = examples
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

    def _create(self, model: SparseCodingModel, history: list[EpochRecord]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(self.path) as aside:
            text = json.dumps({"format": FORMAT, **asdict(self._info)}, indent=2) + "\n"
            write_atomically(aside / "config.json", lambda file: file.write(text.encode()))
            write_atomically(aside / "examples.npz", lambda file: np.savez(file, patches=self._examples))
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


def pick_examples(patches: np.ndarray) -> np.ndarray:
    """Return a few patches for the report, evenly spaced in order of contrast."""
    ranks = np.linspace(0, len(patches) - 1, _N_EXAMPLES + 1).round().astype(int)[1:]
    return patches[np.argsort(patches.var(axis=1), kind="stable")[ranks]]


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
    info = _read(path / "config.json", _info)
    inference, model = _inference_and_model(path, info.config)
    examples = _read(path / "examples.npz", _examples)
    history = _read(path / "history.csv", lambda file: _history(file, info.config))
    dimensions = {info.config.patch_size**2, model.dictionary.shape[0], examples.shape[1]}
    if len(dimensions) != 1:
        raise FileFormatError(
            f"the files of the run '{path}' must have the same patch size; got {sorted(dimensions)} pixels"
        )
    return Run(path, info, model, inference, history, examples)


def _inference_and_model(path: Path, config: FitConfig) -> tuple[Inference, SparseCodingModel]:
    """Return the model of a run and what finds codes, which for an encoder are in one file."""
    if config.inference == "variational":
        model = _read(path / "model.safetensors", lambda file: SparseCodingModel.load(file.name))
        return config.recipe.final_inference(model.n_components, model.dictionary.dtype), model
    inference, model = _read(path / "encoder.safetensors", lambda file: load_encoder(file.name))
    if isinstance(inference, RefinedInference) != (config.inference == "refined"):
        raise FileFormatError(
            f"the encoder of the run '{path}' must be one for inference={config.inference!r}; got another"
        )
    return inference, model


def _info(file: BinaryIO) -> RunInfo:
    content = json.load(file)
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != FORMAT:
        raise FileFormatError(f"'{file.name}' must have the run format {FORMAT}; got {found!r}")
    config = FitConfig(**content.pop("config"))
    config.validate()
    info = RunInfo(config, **{**content, "image_names": tuple(content["image_names"])})
    check_positive("gain", info.gain)
    texts = (info.source, info.version, info.start_from or "", *info.image_names)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("'source', 'version', 'start_from' and 'image_names' must be texts")
    return info


def _history(file: BinaryIO, config: FitConfig) -> tuple[EpochRecord, ...]:
    """Return the records, which must be those of the first epochs of such a run."""
    kinds = get_type_hints(EpochRecord)
    history: list[EpochRecord] = []
    for row in csv.DictReader(io.StringIO(file.read().decode(), newline="")):
        record = EpochRecord(**{key: kind(row[key]) for key, kind in kinds.items()})
        epoch = len(history)
        if (record.epoch, record.samples_seen) != (epoch, epoch * config.n_patches) or epoch > config.epochs:
            raise ValueError(f"row {epoch} must be epoch {epoch} of {config.epochs}; got {record.epoch}")
        small = all(abs(value) < _LARGEST for value in astuple(record))
        if not small or record.noise_variance <= 0:
            raise ValueError(f"row {epoch} must hold finite numbers, with a noise variance > 0")
        history.append(record)
    if not history:
        raise FileFormatError(f"'{file.name}' must have a row for epoch 0 at least; got none")
    return tuple(history)


def _examples(file: BinaryIO) -> np.ndarray:
    examples = read_arrays(file, _MOST_BYTES["examples.npz"])["patches"]
    if examples.ndim != 2 or not 0 < len(examples) <= _N_EXAMPLES or examples.dtype not in ("f4", "f8"):
        raise ValueError(f"1 to {_N_EXAMPLES} patches are expected; got {examples.dtype} {examples.shape}")
    if not (np.abs(examples) < _LARGEST).all():
        raise ValueError("the patches must be finite")
    return examples


def _read(path: Path, read: Callable[[BinaryIO], Content]) -> Content:
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
