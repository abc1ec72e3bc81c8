"""What the measurements share: how works are timed, the data, and a line of the table."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from entrosparse.images import default_images, load_images, prepare_images, random_patches
from entrosparse.inference import Inference
from entrosparse.learning import Learner, evaluate, initial_model
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import pointwise_elbo
from entrosparse.priors import Laplace

PATCH = 16
PHOTOGRAPHS = "photographs that come with scikit-image"

Point = tuple[float, float]
"""Seconds of learning, and the held-out ELBO of what was learned in them, in nats per patch."""


@dataclass(frozen=True)
class Line:
    """One figure of the table; ``target`` starts with ≥ or ≤, and is empty where none is set."""

    name: str
    work: str
    value: float
    unit: str
    target: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if not self.target:
            return None
        bound = float(self.target[1:])
        return self.value >= bound if self.target[0] == "≥" else self.value <= bound


@dataclass(frozen=True)
class Part:
    """What one measurement found: lines of the table, and what its plot needs."""

    lines: list[Line]
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bench:
    """The work that is measured."""

    train: np.ndarray
    heldout: np.ndarray
    quick: bool
    folder: str | None = None

    @property
    def source(self) -> str:
        """Where the patches come from."""
        return PHOTOGRAPHS if self.folder is None else f"a folder of photographs, {self.images}"

    @property
    def images(self) -> str:
        """What the targets of bounds go by: the name of the folder, or that of the photographs."""
        return PHOTOGRAPHS if self.folder is None else Path(self.folder).name

    def in_full(self, target: str) -> str:
        """Return a target that holds for the full work alone; there is none where less is measured."""
        return "" if self.quick else target

    @property
    def test(self) -> torch.Tensor:
        return torch.from_numpy(self.heldout)


def draw_bench(images: str | None, quick: bool) -> Bench:
    arrays = prepare_images(load_images(images) if images else default_images()).arrays
    n_train, n_heldout = (10_240, 1024) if quick else (51_200, 4096)
    train = random_patches(arrays, PATCH, n_train, rng=0)[:]
    heldout = random_patches(arrays, PATCH, n_heldout, rng=1)[:]
    return Bench(train, heldout, quick, images)


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of some repeats, after one that does not count."""
    work()
    return statistics.median(timed(work) for _ in range(repeats))


def ratio(
    work: Callable[[], object], reference: Callable[[], object], repeats: int = 7
) -> tuple[float, float]:
    """Median ratio of the times of two works that take turns, and the median seconds of the first."""
    work(), reference()
    pairs = [(timed(work), timed(reference)) for _ in range(repeats)]
    return statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def with_dictionary(dictionary: np.ndarray, data: np.ndarray) -> SparseCodingModel:
    """Return a model with these atoms, scaled to the data."""
    sample = torch.from_numpy(data[:4096])
    generator = torch.Generator().manual_seed(0)
    return initial_model(sample, dictionary.shape[1], dictionary, Laplace(), generator)


def started(learner: Learner, x: torch.Tensor, n_components: int, init: str = "ica") -> Any:
    """Return the state of a learner before learning from data like ``x``."""
    generator = torch.Generator().manual_seed(0)
    return learner.start(initial_model(x, n_components, init, Laplace(), generator), x, generator)


def bound(dictionary: np.ndarray, bench: Bench) -> float:
    """Held-out ELBO of a dictionary, in nats per patch: diagonal posteriors, λ and σ² have converged."""
    return float(evaluate(with_dictionary(dictionary, bench.train), bench.test).terms.elbo)


def elbos(x: torch.Tensor, model: SparseCodingModel, inference: Inference) -> torch.Tensor:
    """ELBO of each data point by its inferred posterior, in nats, shape (N,)."""
    return pointwise_elbo(inference(x, model), x, model).double()


def principal_directions(data: np.ndarray, n_components: int) -> np.ndarray:
    return np.linalg.svd(data - data.mean(axis=0), full_matrices=False)[2][:n_components].T.copy()
