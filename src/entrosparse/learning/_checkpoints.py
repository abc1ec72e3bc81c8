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
import re
import secrets
import stat
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
from filelock import FileLock, Timeout
from torch import Tensor

from entrosparse._files import read_ours, write_atomically
from entrosparse.errors import FileFormatError, InputError
from entrosparse.learning._history import EpochRecord
from entrosparse.learning._identity import digest
from entrosparse.learning._snapshots import Snapshot, Task

_FORMAT = 1
_TENSORS, _NUMBERS, _MANIFEST = "tensors.safetensors", "numbers.json", "manifest.json"
_NAME, _HISTORY, _LOCK = "checkpoint-", "history", ".lock"
_NUMBERED, _ASIDE = re.compile(r"checkpoint-\d{8,}"), re.compile(r"\.checkpoint-[0-9a-f]{8}")
_FILES = "|".join(map(re.escape, (_TENSORS, _NUMBERS, _MANIFEST)))
_OURS = re.compile(rf"{_FILES}|\.({_FILES})\.[0-9a-f]{{8}}\.partial")  # files aside are half written
_KINDS = tuple(get_type_hints(EpochRecord).values())
_TEXT_LIMIT = 2**20  # bytes
_HEADER_LIMIT = 2**10  # bytes for each tensor
_LONG = 60  # characters


@final
class Checkpoints:
    """A folder where a training run keeps what it takes to go on: the two newest of its snapshots.

    The state of the learner must be a dataclass; its tensors and numbers are kept, those in dataclasses,
    modules and optimizers within it too. While a run uses the folder no other can. What this class did not
    write it leaves alone, and it never follows a link.

    Parameters
    ----------
    folder : path-like
        Made when the first checkpoint is.
    every_seconds : float
        Least time between two checkpoints; with 0 there is one after each minibatch.
    shared : bool
        Whether runs that differ share the folder: each has a folder of its own in it, named by what it is. So
        the candidates of a grid search do not meet. Otherwise the checkpoints of another run are refused.

    Raises
    ------
    InputError
        If the time is not a number >= 0.
    """

    def __init__(
        self, folder: str | os.PathLike[str], every_seconds: float = 10.0, shared: bool = False
    ) -> None:
        if not every_seconds >= 0.0:
            raise InputError(f"the 'every_seconds' parameter must be a number >= 0; got {every_seconds}")
        self.folder = self._place = Path(folder)
        self.every_seconds = every_seconds
        self.shared = shared
        self._lock: FileLock | None = None
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
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            self._hold()
            number = 1 + max((int(path.name[len(_NAME) :]) for path in self._paths()), default=0)
            new = self._place / f"{_NAME}{number:08d}"
            aside = self._place / f".{_NAME}{secrets.token_hex(4)}"
            aside.mkdir()
            for name, content in files.items():
                write_atomically(aside / name, partial(_write, content))
            _sync(aside)
            aside.rename(new)
            _sync(self._place)
        except OSError as error:
            why = f"a checkpoint cannot be written: {error.strerror or error}"
            raise OSError(error.errno, why, str(self._place)) from error
        finally:
            self._remove_leavings()
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
            If the checkpoints are of another task or in use by another run, or none could be written.
        FileFormatError
            If all checkpoints are damaged.

        Warns
        -----
        UserWarning
            For each damaged checkpoint that is newer than the one returned.
        """
        if self.shared:
            self._place = self.folder / f"run-{digest(json.dumps(task.words, sort_keys=True))[:16]}"
        self._check_place()
        if self._place.is_dir():
            self._hold()
            self._remove_leavings()
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
            f"none of the checkpoints in '{self._place}' can be used; remove it to start again; {damage[0]}"
        )

    def release(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def remove(self) -> None:
        """Remove the checkpoints, once their run is complete, and the folders if nothing else is in them."""
        if self._place.is_dir():
            self._hold()
            self._remove_leavings()
            self._remove_all_but()
            (self._place / _LOCK).unlink(missing_ok=True)
            self.release()
        for folder in (self._place, self.folder):
            with suppress(OSError):
                folder.rmdir()

    def _hold(self) -> None:
        """Keep other runs out until the lock is released or the process ends."""
        if self._lock is None:
            lock = FileLock(self._place / _LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise InputError(f"the checkpoints in '{self._place}' are in use by another run") from error
            self._lock = lock

    def _paths(self) -> list[Path]:
        return [
            path
            for path in self._place.glob(f"{_NAME}*")
            if _NUMBERED.fullmatch(path.name) and _is_ours(path)
        ]

    def _remove_all_but(self, *kept: Path | None) -> None:
        for path in self._paths():
            if path not in kept:
                _remove(path)

    def _remove_leavings(self) -> None:
        """Remove what a kill in the middle of writing left behind."""
        for path in self._place.glob(f".{_NAME}*"):
            if _ASIDE.fullmatch(path.name) and _is_ours(path):
                _remove(path)

    def _check_place(self) -> None:
        folder = self._place.absolute()
        place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise InputError(
                f"the folder of checkpoints must be one that can be written to; got '{self.folder}'"
            )


def _is_ours(path: Path) -> bool:
    """Return whether this is a folder, not a link, that holds nothing but files of a checkpoint."""
    if path.is_symlink() or not path.is_dir():
        return False
    return all(_OURS.fullmatch(file.name) and stat.S_ISREG(file.lstat().st_mode) for file in path.iterdir())


def _remove(folder: Path) -> None:
    """Remove a folder of ours; what appeared in it meanwhile stays."""
    with suppress(OSError):
        for file in folder.iterdir():
            if _OURS.fullmatch(file.name):
                file.unlink()
        folder.rmdir()


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
        known = into.numbers()
        if numbers.keys() != known.keys() or not all(map(_fits, numbers.values(), map(known.get, numbers))):
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
        snapshot.validate()
        epochs = [record.epoch for record in history]
        if not (
            0 < snapshot.position <= task.n_rows
            and (len(epochs) > 0 or task.first_epoch > 0)
            and epochs == list(range(task.first_epoch, task.first_epoch + len(epochs)))
            and task.first_epoch + len(epochs) <= task.epochs + task.first_epoch
        ):
            raise ValueError("the position in the data is not one that a run comes to")
    return snapshot


def _fits(number: Any, known: int | float | None) -> bool:
    """Return whether a number can take the place of one that is known: whole numbers and bools stay such."""
    kinds = (float, int) if type(known) is float else (type(known),)
    return type(number) in kinds and math.isfinite(number)


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _record(row: list[float]) -> EpochRecord:
    return EpochRecord(*(kind(value) for kind, value in zip(_KINDS, row, strict=True)))


def _sealed_bytes(path: Path, limit: int) -> bytes:
    """Return the bytes of a file that are as the manifest beside it says."""
    manifest = json.loads(read_ours(path.with_name(_MANIFEST), _TEXT_LIMIT))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"the format must be {_FORMAT}; got {manifest['format']!r}")
    content = read_ours(path, limit)
    if manifest["files"][path.name] != _seal(content):
        raise ValueError(f"'{path.name}' is not as it was written")
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
