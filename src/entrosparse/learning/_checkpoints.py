"""Checkpoints: what it takes to go on with a training run that was cut off.

A checkpoint is a folder ``checkpoint-00000012`` of three files:

``tensors.safetensors``
    The tensors of the learner's state, the state of the random generator, and the history.
``numbers.json``
    Where in the data the run stands, the numbers of the learner's state, and the task in words.
``manifest.json``
    Format number, and size and SHA-256 of the other two; written last.

The files are synced under another name for the folder, which is then renamed. So a kill at any instant leaves
whole checkpoints only; the manifest tells damage that came later.

What a file must hold is known before it is read (see `entrosparse.learning._snapshots`).
"""

import json
import math
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, is_dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, final, get_type_hints

import safetensors.torch
import torch
from torch import Tensor

from entrosparse._files import write_atomically
from entrosparse.errors import FileFormatError, InputError
from entrosparse.learning._history import EpochRecord
from entrosparse.learning._snapshots import Snapshot, Task

_FORMAT = 1
_TENSORS, _NUMBERS, _MANIFEST = "tensors.safetensors", "numbers.json", "manifest.json"
_NAME, _HISTORY = "checkpoint-", "history"
_KINDS = tuple(get_type_hints(EpochRecord).values())
_TEXT_LIMIT = 2**20  # bytes
_HEADER_LIMIT = 2**10  # bytes for each tensor
_LONG = 60  # characters


@final
class Checkpoints:
    """A folder where a training run keeps what it takes to go on: the two newest of its snapshots.

    The state of the learner must be a dataclass; its tensors and numbers are kept, those in dataclasses,
    modules and optimizers within it too.

    Parameters
    ----------
    folder : path-like
        For one run alone; made when the first checkpoint is.
    every_seconds : float
        Least time between two checkpoints; with 0 there is one after each minibatch.

    Raises
    ------
    InputError
        If the time is not a number >= 0.
    """

    def __init__(self, folder: str | os.PathLike[str], every_seconds: float = 10.0) -> None:
        if not every_seconds >= 0.0:
            raise InputError(f"the 'every_seconds' parameter must be a number >= 0; got {every_seconds}")
        self.folder = Path(folder)
        self.every_seconds = every_seconds
        self._last: Path | None = None
        self._requested = False
        self._next_time = 0.0

    @property
    def due(self) -> bool:
        """Whether a checkpoint was requested or it is time for one."""
        return self._requested or time.monotonic() >= self._next_time

    def request(self) -> None:
        """Ask for a checkpoint after the current minibatch, from a callback or a signal handler."""
        self._requested = True

    def save(self, snapshot: Snapshot, task: Task) -> None:
        """Write a checkpoint, then remove all but this one and the one before.

        Raises
        ------
        InputError
            If the state is not a dataclass.
        OSError
            When the disk refuses; the checkpoints before are still there.
        """
        if not is_dataclass(snapshot.state):
            raise InputError(
                f"the state of a learner must be a dataclass to be kept; got {type(snapshot.state).__name__}"
            )
        tensors = {path: tensor.detach().cpu().contiguous() for path, tensor in snapshot.tensors().items()}
        rows = [astuple(record) for record in snapshot.history]
        tensors[_HISTORY] = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1 if rows else 0)
        files = {
            _TENSORS: safetensors.torch.save(tensors),
            _NUMBERS: _json({"task": task.words, "numbers": snapshot.numbers()}),
        }
        files[_MANIFEST] = _json(
            {"format": _FORMAT, "files": {name: _seal(content) for name, content in files.items()}}
        )
        number = 1 + max((int(path.name[len(_NAME) :]) for path in self._paths()), default=0)
        new = self.folder / f"{_NAME}{number:08d}"
        aside = self.folder / f".{_NAME}{secrets.token_hex(4)}"
        try:
            aside.mkdir(parents=True)
            for name, content in files.items():
                write_atomically(aside / name, partial(_write, content))
            _sync(aside)
            aside.rename(new)
            _sync(self.folder)
        except OSError as error:
            why = f"a checkpoint cannot be written: {error.strerror or error}"
            raise OSError(error.errno, why, str(self.folder)) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._remove_all_but(self._last, new)
        self._last, self._requested = new, False
        self._next_time = time.monotonic() + self.every_seconds

    def resume(self, task: Task, start: Callable[[], Snapshot]) -> Snapshot | None:
        """Return the newest snapshot that is valid, or None where nothing was ever kept.

        Parameters
        ----------
        task : Task
            What is to be learned.
        start : callable
            Makes a snapshot of the same task after a minibatch; its numbers are replaced.

        Raises
        ------
        InputError
            If the checkpoints are of another task, or no checkpoint could be written.
        FileFormatError
            If all checkpoints are damaged.

        Warns
        -----
        UserWarning
            For each damaged checkpoint that is newer than the one returned.
        """
        self._check_place()
        self._next_time = time.monotonic() + self.every_seconds
        paths = sorted(self._paths(), reverse=True)
        if not paths:
            return None
        into, damage = None, []
        for path in paths:
            try:
                numbers = _read_numbers(path, task)
                into = start() if into is None else into
                snapshot = _read_snapshot(path, numbers, into, task)
            except FileFormatError as error:
                damage.append(str(error))
                continue
            for message in damage:
                warnings.warn(f"{message}; going on from the one before", stacklevel=3)
            self._last = path
            return snapshot
        raise FileFormatError(
            f"none of the checkpoints in '{self.folder}' can be used; remove it to start again; {damage[0]}"
        )

    def remove(self) -> None:
        """Remove the checkpoints, once their run is complete, and the folder if nothing else is in it."""
        self._remove_all_but()
        with suppress(OSError):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return [path for path in self.folder.glob(f"{_NAME}*") if path.name[len(_NAME) :].isdecimal()]

    def _remove_all_but(self, *kept: Path | None) -> None:
        for path in (*self._paths(), *self.folder.glob(f".{_NAME}*")):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _check_place(self) -> None:
        folder = self.folder.absolute()
        place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise InputError(
                f"the folder of checkpoints must be one that can be written to; got '{self.folder}'"
            )


def _read_numbers(path: Path, task: Task) -> dict[str, int | float]:
    """Return the numbers of a checkpoint of the task."""
    with _any_damage_of(path):
        content = json.loads(_sealed_bytes(path / _NUMBERS, _TEXT_LIMIT))
        was = {name: str(words) for name, words in content["task"].items()}
        numbers = dict(content["numbers"])
    now = task.words
    others = {name for name in was | now if was.get(name) != now.get(name)}
    if others:
        differences = (
            f"'{name}' was {_short(was.get(name))}, is {_short(now.get(name))}"
            for name in sorted(others)
            if name.rpartition(".")[0] not in others
        )
        raise InputError(
            f"the checkpoints in '{path.parent}' are of another run: {'; '.join(differences)}; "
            "give what it was, or another folder"
        )
    return numbers


def _read_snapshot(path: Path, numbers: dict[str, int | float], into: Snapshot, task: Task) -> Snapshot:
    """Return the snapshot with those numbers and with the tensors of a checkpoint."""
    expected = into.tensors()
    limit = sum(tensor.nbytes + _HEADER_LIMIT for tensor in expected.values())
    limit += 8 * len(_KINDS) * task.epochs + _HEADER_LIMIT
    with _any_damage_of(path):
        known = {name: (type(number), True) for name, number in into.numbers().items()}
        if {name: (type(number), math.isfinite(number)) for name, number in numbers.items()} != known:
            raise ValueError(f"'{_NUMBERS}' must hold other numbers")
        found = safetensors.torch.load(_sealed_bytes(path / _TENSORS, limit))
        rows = found.pop(_HISTORY)
        if {name: _kind(tensor) for name, tensor in found.items()} != {
            name: _kind(tensor) for name, tensor in expected.items()
        }:
            raise ValueError(f"'{_TENSORS}' must hold other names, shapes or dtypes")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (rows, *found.values())):
            raise ValueError(f"'{_TENSORS}' must hold finite numbers")
        history = [_record(row) for row in rows.tolist()]
        torch.Generator().set_state(found["generator"])
        snapshot = into.restored(numbers, found, history)
        snapshot.state.model.validate()
        epochs = [record.epoch for record in history]
        if not (
            0 < snapshot.position <= task.n_rows
            and (len(epochs) > 0 or task.first_epoch > 0)
            and epochs == list(range(task.first_epoch, task.first_epoch + len(epochs)))
            and task.first_epoch + len(epochs) <= task.epochs + task.first_epoch
        ):
            raise ValueError("the position in the data is not one that a run comes to")
    return snapshot


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _record(row: list[float]) -> EpochRecord:
    return EpochRecord(*(kind(value) for kind, value in zip(_KINDS, row, strict=True)))


def _sealed_bytes(path: Path, limit: int) -> bytes:
    """Return the bytes of a file that are as the manifest beside it says."""
    manifest = json.loads(_bytes(path.with_name(_MANIFEST), _TEXT_LIMIT))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"the format must be {_FORMAT}; got {manifest['format']!r}")
    content = _bytes(path, limit)
    if manifest["files"][path.name] != _seal(content):
        raise ValueError(f"'{path.name}' is not as it was written")
    return content


def _bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"'{path.name}' must have at most {limit} bytes")
    return content


def _seal(content: bytes) -> dict[str, int | str]:
    return {"bytes": len(content), "sha256": sha256(content).hexdigest()}


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode()


def _write(content: bytes, file: Any) -> None:
    file.write(content)


def _sync(folder: Path) -> None:
    """Make the names in a folder last, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _short(words: str | None) -> str:
    if words is None:
        return "not given"
    return words if len(words) <= _LONG else f"{words[:_LONG]}..."


@contextmanager
def _any_damage_of(path: Path) -> Iterator[None]:
    """Make one kind of error of whatever damaged files make their readers raise."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileFormatError(f"the checkpoint '{path}' is damaged: {reason}") from error
