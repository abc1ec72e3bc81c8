"""One run of learning, looked at on its way: the seconds and the dictionary at chosen moments."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from entrosparse.learning import Batch, Callback, EpochRecord, Learner, train
from entrosparse.model import SparseCodingModel
from measuring import Bench, Point, bound


@dataclass(frozen=True, eq=False)
class Moment:
    """Where a run stands after some epochs; ``seconds`` are of learning, the start included."""

    epochs: float
    seconds: float
    model: SparseCodingModel


@dataclass(frozen=True)
class Judged:
    """A moment of a run, and the bound of the dictionary of the learner's state.

    `train` would keep the start where that is better.
    """

    epochs: float
    seconds: float
    bound: float


def course(
    learner: Learner, bench: Bench, n_components: int, at: Sequence[float], **options: Any
) -> list[Moment]:
    """Learn for as many epochs as the last moment says; ``at`` holds epochs, in rising order from 0."""
    warm_up = {"n_components": 8, "epochs": 1, "init": "data"}
    train(learner, bench.train[:512], bench.heldout[:64], **warm_up)  # torch imports much at first
    looking = _Looking(len(bench.train), at)
    options |= {"n_components": n_components, "epochs": round(at[-1]), "callbacks": (looking,)}
    train(_Watched(learner, looking.states), bench.train, bench.heldout[:64], **options)
    return looking.moments


def judged(moments: Sequence[Moment], bench: Bench) -> list[Judged]:
    return [
        Judged(moment.epochs, moment.seconds, bound(moment.model.dictionary.numpy(), bench))
        for moment in moments
    ]


def curve(points: Sequence[Judged]) -> list[Point]:
    return [(point.seconds, point.bound) for point in points]


@dataclass(frozen=True)
class _Watched(Learner):
    """A learner whose newest state can be seen from outside."""

    learner: Learner
    states: list[Any] = field(default_factory=list)

    def start(self, model: SparseCodingModel, sample: torch.Tensor, generator: torch.Generator) -> Any:
        return self._seen(self.learner.start(model, sample, generator))

    def step(self, state: Any, batch: Batch) -> Any:
        return self._seen(self.learner.step(state, batch))

    def _seen(self, state: Any) -> Any:
        self.states[:] = [state]
        return state


class _Looking(Callback):
    """Takes note of the moments; time between an epoch's figures and the next minibatch does not count."""

    def __init__(self, n_rows: int, at: Sequence[float]) -> None:
        self.moments: list[Moment] = []
        self.states: list[Any] = []
        self._n_rows, self._at = n_rows, list(np.asarray(at) * n_rows)
        self._seconds, self._since = 0.0, 0.0

    def on_batch(self, samples_seen: int) -> None:
        self._look(samples_seen, self._seconds + time.perf_counter() - self._since)

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> None:
        self._look(record.samples_seen, record.seconds)
        self._seconds, self._since = record.seconds, time.perf_counter()

    def _look(self, samples_seen: int, seconds: float) -> None:
        if not self._at or samples_seen < self._at[0]:
            return
        while self._at and self._at[0] <= samples_seen:
            self._at.pop(0)
        self.moments.append(Moment(samples_seen / self._n_rows, seconds, self.states[0].model))
