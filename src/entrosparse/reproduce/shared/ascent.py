"""What the learners by L-BFGS share: the climb itself, and the scales at its end."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from entrosparse import objectives
from entrosparse.errors import NumericalError
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms
from entrosparse.posteriors import Posterior
from entrosparse.statistics import Statistics


@final
class Ascent:
    """L-BFGS with strong Wolfe line search, which changes tensors in place.

    What it knows of the curvature lasts from call to call.

    Parameters
    ----------
    *parameters : Tensor
        What is changed.
    max_iterations : int
        Iterations of a call at most.
    """

    def __init__(self, *parameters: Tensor, max_iterations: int = 20) -> None:
        self._optimizer = torch.optim.LBFGS(
            [parameter.requires_grad_() for parameter in parameters],
            max_iter=max_iterations,
            line_search_fn="strong_wolfe",
        )

    def __call__(self, terms: Callable[[], ElboTerms]) -> ElboTerms:
        """Climb the objective, and return the terms that were reached.

        Raises
        ------
        NumericalError
            If the objective is not finite there.
        """

        def closure() -> Tensor:
            self._optimizer.zero_grad()
            loss = -terms().objective
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        self._optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            reached = terms()
        if not bool(torch.isfinite(reached.objective)):
            raise NumericalError("L-BFGS left the finite numbers; scale the data to unit variance")
        return reached


def with_optimal_scales(model: SparseCodingModel, posterior: Posterior, x: Tensor) -> SparseCodingModel:
    """Return the model with the λ and σ² that are optimal for posteriors of the data ``x`` (Eq. 10, 11)."""
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior, likelihood=model.likelihood)
    return objectives.with_optimal_scales(model, statistics)
