"""Learning the bars by batch EM, and judging what was learned by the bars themselves."""

from typing import Any

import torch
from torch import Tensor

from entrosparse.images import BarsData
from entrosparse.inference import FullInference
from entrosparse.learning import BatchEM, TrainingResult, evaluate, initial_model, train
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel
from entrosparse.priors import Laplace

_FOUND = 0.95  # least |cosine| of a field with its bar


def learn_bars(made: BarsData, seed: int, **options: Any) -> TrainingResult:
    """Learn as many fields as there are bars, with full covariance, from data points as a start.

    Options go to `train`.
    """
    learner = BatchEM(FullInference(tolerance=0.0, max_iterations=1))
    n_components = made.dictionary.shape[1]
    settings = {"n_components": n_components, "init": "data", "epochs": 1000, "seed": seed}
    return train(learner, made.data, **(settings | options))


def found_bars(model: SparseCodingModel, made: BarsData) -> Tensor:
    """Return which bars are learned fields, shape (H,), bool."""
    return match_atoms(model.dictionary, torch.from_numpy(made.dictionary)).cosine > _FOUND


def generating_elbo(made: BarsData) -> float:
    """Return the ELBO of the data at the dictionary that generated them, with all else at its optimum."""
    x, truth = torch.from_numpy(made.data), torch.from_numpy(made.dictionary)
    generating = initial_model(x, truth.shape[1], truth, Laplace(), torch.Generator())
    return float(evaluate(generating, x, FullInference(tolerance=1e-4)).terms.elbo)
