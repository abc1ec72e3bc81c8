"""Learning the bars by batch EM, and judging what was learned by the bars themselves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from entrosparse.images import BarsData
from entrosparse.inference import FullInference
from entrosparse.learning import BatchEM, TrainingResult, evaluate, initial_model, train
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel
from entrosparse.priors import Laplace
from entrosparse.reproduce.shared.quiet_fits import quietly

_FOUND = 0.95  # least |cosine| of a field with its bar

N_BARS = 10
"""Bars in images of 5 x 5 pixels, as :func:`~entrosparse.images.bars` draws them by default."""


@final
@dataclass(frozen=True, eq=False)
class BarsRun:
    """What was learned from bars."""

    made: BarsData
    result: TrainingResult

    @property
    def model(self) -> SparseCodingModel:
        """The learned model."""
        return self.result.model

    @property
    def seconds(self) -> float:
        """How long learning took."""
        return self.result.history[-1].seconds

    @property
    def n_found(self) -> int:
        """How many of the bars are learned fields."""
        return int(found_bars(self.model, self.made).sum())

    @property
    def excess(self) -> float:
        """The ELBO above that of the generating dictionary, in nats."""
        return self.result.history[-1].elbo - generating_elbo(self.made)


def learn_bars(made: BarsData, seed: int, **options: Any) -> TrainingResult:
    """Learn as many fields as there are bars, with full covariance, from data points as a start.

    Options go to `train`.
    """
    learner = BatchEM(FullInference(tolerance=0.0, max_iterations=1))
    n_components = made.dictionary.shape[1]
    settings = {"n_components": n_components, "init": "data", "epochs": 1000, "seed": seed}
    return train(learner, made.data, **(settings | options))


def learn_all(make: Callable[[int], BarsData], seeds: Iterable[int], **options: Any) -> list[BarsRun]:
    """Learn the bars that each seed makes; learning that has not converged is judged as it is."""
    runs = []
    for seed in seeds:
        made = make(seed)
        with quietly(ConvergenceWarning):
            runs.append(BarsRun(made, learn_bars(made, seed, **options)))
    return runs


def found_bars(model: SparseCodingModel, made: BarsData) -> Tensor:
    """Return which bars are learned fields, shape (H,), bool."""
    return match_atoms(model.dictionary, torch.from_numpy(made.dictionary)).cosine > _FOUND


def generating_elbo(made: BarsData) -> float:
    """Return the ELBO of the data at the dictionary that generated them, with all else at its optimum."""
    x, truth = torch.from_numpy(made.data), torch.from_numpy(made.dictionary)
    generating = initial_model(x, truth.shape[1], truth, Laplace(), torch.Generator())
    return float(evaluate(generating, x, FullInference(tolerance=1e-4)).terms.elbo)
