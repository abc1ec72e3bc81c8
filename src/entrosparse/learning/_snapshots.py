"""A training run between two batches: what it stands for, and what it takes to go on.

A checkpoint holds tensors and numbers only, never code. To go on, the learner takes one step from its start;
the tensors and numbers of the checkpoint then replace those of the state that it is in. So that state says
which names, shapes and types a checkpoint must have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from entrosparse.learning._history import EpochRecord
from entrosparse.learning._identity import digest, parameters_of, words
from entrosparse.model import SparseCodingModel

_LONG = 200  # characters


@final
@dataclass(frozen=True, eq=False)
class Task:
    """What a run learns, how and from what: checkpoints of another task are of no use to it.

    Attributes
    ----------
    settings : dict
        All that decides the result, by name.
    epochs : int
        Passes over the rows.
    n_rows : int
        Number of training rows N.
    first_epoch : int
        Epoch of the first record of the history.
    """

    settings: dict[str, Any]
    epochs: int
    n_rows: int
    first_epoch: int

    @cached_property
    def words(self) -> dict[str, str]:
        """The task in words, by the path of each of its parts; what is long ends in its SHA-256.

        Raises
        ------
        InputError
            If a part cannot be told apart from another of its kind.
        """
        found: dict[str, str] = {}
        for name, setting in self.settings.items():
            found |= words(setting, name)
        return {
            path: text if len(text) <= _LONG else f"{text[:_LONG]}... {digest(text)}"
            for path, text in found.items()
        }


@final
@dataclass(frozen=True, eq=False)
class Snapshot:
    """A training run between two batches.

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
        The records so far.
    evaluation_seconds : float
        Time spent on them.
    """

    state: Any
    generator: Tensor
    position: int
    seconds: float
    history: list[EpochRecord]
    evaluation_seconds: float = 0.0

    def validate(self) -> None:
        """Raise InputError unless all models in it are such."""
        for model in (self.state.model, *(part for _, part in _parts(self.state))):
            if isinstance(model, SparseCodingModel):
                model.validate()

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
    for name, value in parameters_of(part).items():
        yield from _parts(value, f"{path}.{name}".lstrip("."))


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
        for name, value in parameters_of(part).items()
    }
    return replace(part, **values) if values else numbers.get(path, part)
