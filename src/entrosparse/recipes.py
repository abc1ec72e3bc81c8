"""The parts that an estimator's parameters name."""

from functools import partial
from typing import Any

from entrosparse.errors import InputError
from entrosparse.inference import (
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    Inference,
    LowRankEncoder,
    LowRankInference,
)
from entrosparse.learning import AdamLearner, OnlineEM, RefinedEM
from entrosparse.learning._e_step import LEARNING_INFERENCE
from entrosparse.priors import Prior

COVARIANCES = ("diagonal", "low-rank", "full")


def learning_solver(covariance: str, rank: int) -> Inference:
    """Return a solver that does a few iterations, for learning."""
    solvers: dict[str, Inference] = {
        "diagonal": LEARNING_INFERENCE,
        "low-rank": LowRankInference(rank, tolerance=0.0, max_iterations=2),
        "full": FullInference(tolerance=0.0, max_iterations=1),
    }
    return solvers[covariance]


def final_solver(covariance: str, rank: int, single_precision: bool) -> Inference:
    """Return a solver that runs until codes are what they should be to the precision of the data."""
    solvers: dict[str, Inference] = {
        "diagonal": DiagonalInference(tolerance=1e-4, max_iterations=20_000),
        "low-rank": LowRankInference(rank, tolerance=1e-3, max_iterations=2000),
        "full": FullInference(tolerance=1e-4 if single_precision else 1e-8, max_iterations=1000),
    }
    return solvers[covariance]


def minibatch_learner(
    inference: str, covariance: Any, rank: int, n_components: int, init: Any, prior: Prior, solver: Inference
) -> Any:
    """Return the learner for minibatches: online EM, with or without an encoder, or an encoder alone.

    Raises
    ------
    InputError
        If there is no encoder for the covariance.
    """
    online = OnlineEM(n_components, init, prior, solver)
    if inference == "variational":
        return online
    encoders: dict[Any, Any] = {"diagonal": DiagonalEncoder, "low-rank": partial(LowRankEncoder, rank=rank)}
    if inference == "refined":
        return RefinedEM(online, encoders.get(covariance, DiagonalEncoder))
    if covariance not in encoders:
        raise InputError(
            "the 'covariance' parameter must be 'diagonal' or 'low-rank' for inference='encoder'; got "
            f"{covariance!r}, for which there is no encoder"
        )
    return AdamLearner(n_components, encoders[covariance], init, prior)
