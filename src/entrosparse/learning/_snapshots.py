"""A training run between two minibatches: what it stands for, and what it takes to go on.

Only tensors and numbers travel. They are put into the state that the same learner has after one minibatch: it
gives all that is code, and says which tensors and numbers there must be.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor, nn

from entrosparse.annealing import EntropyWeights
from entrosparse.learning._history import EpochRecord

_LONG = 200  # characters


@final
@dataclass(frozen=True)
class Task:
    """What a run learns, how and from what: checkpoints of another task are of no use to it.

    Attributes
    ----------
    learner : Learner
    epochs, batch_size, seed : int
    annealing : dict of int to EntropyWeights
        The epochs at which the weights change, and to what.
    n_samples : int
        Number of training rows N.
    data : Tensor of shape (N', D)
        Some training rows, always the same.
    heldout : Tensor of shape (N'', D)
        The held-out rows.
    sample_weight : ndarray of shape (N,) or None
        Weights of the training rows.
    """

    learner: Any
    epochs: int
    batch_size: int
    seed: int
    annealing: dict[int, EntropyWeights]
    n_samples: int
    data: Tensor
    heldout: Tensor
    sample_weight: np.ndarray | None

    @cached_property
    def words(self) -> dict[str, str]:
        """The task in words, by the path of each of its parts; what is long ends in its SHA-256."""
        words = {path: _in_words(part) for path, part in _parts(self) if path}
        return {
            path: text if len(text) <= _LONG else f"{text[:_LONG]}... {sha256(text.encode()).hexdigest()}"
            for path, text in words.items()
        }


@final
@dataclass(frozen=True)
class Snapshot:
    """A training run between two minibatches.

    Attributes
    ----------
    state : LearnerState
        What the learner carries along.
    generator : Tensor of uint8
        State of the random generator before it drew the order of the data in this epoch.
    position : int
        Rows of this epoch that were learned from.
    seconds : float
        Time spent learning so far.
    history : list of EpochRecord
        One record before learning and one for each epoch that is complete.
    """

    state: Any
    generator: Tensor
    position: int
    seconds: float
    history: list[EpochRecord]

    def numbers(self) -> dict[str, int | float]:
        """Return the numbers by their paths."""
        return {path: part for path, part in _parts(self) if isinstance(part, int | float)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their paths, each once wherever it is met again."""
        found: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
        for path, part in _parts(self):
            for name, tensor in _tensors_of(part).items():
                found.setdefault((tensor.data_ptr(), tensor.shape), (f"{path}{name}", tensor))
        return dict(found.values())

    @torch.no_grad()
    def restored(
        self, numbers: dict[str, int | float], tensors: dict[str, Tensor], history: list[EpochRecord]
    ) -> Self:
        """Return the snapshot with other numbers, tensors and history; its tensors are overwritten."""
        for path, tensor in self.tensors().items():
            tensor.copy_(tensors[path])
        return _with_numbers(replace(self, history=history), numbers)


def _parts(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a value and, if it is a dataclass, all that it is made of, each with its path."""
    yield path, part
    for name, value in _fields(part).items():
        yield from _parts(value, f"{path}.{name}".lstrip("."))


def _fields(part: Any) -> dict[str, Any]:
    """Return what a dataclass is made of, by name; of other values, nothing."""
    if not is_dataclass(part) or isinstance(part, type):
        return {}
    return {field.name: getattr(part, field.name) for field in fields(part) if field.init}


def _tensors_of(part: object) -> dict[str, Tensor]:
    """Return the tensors of one of the kinds of things that hold some, by their names within it."""
    if isinstance(part, Tensor):
        return {"": part}
    if isinstance(part, nn.Module):
        return {f".{name}": tensor for name, tensor in part.state_dict().items()}
    if isinstance(part, torch.optim.Optimizer):
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        return {f".{i}": parameter for i, parameter in enumerate(parameters)} | {
            f".{i}.{name}": value
            for i, parameter in enumerate(parameters)
            for name, value in part.state.get(parameter, {}).items()
        }
    return {}


def _with_numbers(part: Any, numbers: dict[str, int | float], path: str = "") -> Any:
    """Return the value with those numbers in the dataclasses that it is made of."""
    values = {
        name: _with_numbers(value, numbers, f"{path}.{name}".lstrip("."))
        for name, value in _fields(part).items()
    }
    return replace(part, **values) if values else numbers.get(path, part)


def _in_words(part: Any) -> str:
    """Describe a setting such that two that differ have different descriptions; an array by its SHA-256."""
    if isinstance(part, partial):
        return f"{_in_words(part.func)}{part.args}{part.keywords}"
    if hasattr(part, "__array__"):
        array = torch.as_tensor(part).detach().cpu().contiguous()
        digest = sha256(array.numpy().tobytes()).hexdigest()
        return f"{array.dtype} {tuple(array.shape)} {digest}"
    if isinstance(part, int | float | str | list | tuple | dict | None):
        return str(part)
    return getattr(part, "__qualname__", type(part).__qualname__)
