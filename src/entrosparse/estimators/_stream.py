"""Learning from batches that pass once."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.learning import Batch, Learner
from entrosparse.learning._training import warn_of_noise_floor


@final
@dataclass
class Stream:
    """What :meth:`SparseCoding.partial_fit` carries from one batch to the next.

    Attributes
    ----------
    weight_unit : float
        Mean weight of the samples of the first batch: only relative weights matter.
    state : LearnerState or None
        State of the learner; None before it is started.
    total_weight : float
        Sum of the weights so far, in that unit.
    n_batches : int
        Batches so far.
    warned : bool
        Whether a warning has told that the noise variance is at its floor.
    """

    weight_unit: float
    state: Any = None
    total_weight: float = 0.0
    n_batches: int = 0
    warned: bool = False

    def relative(self, sample_weight: NDArray[np.float64] | None, x: Tensor) -> Tensor | None:
        """Return the weights of a batch in units of the first one's."""
        if sample_weight is None:
            return None if self.weight_unit == 1.0 else torch.full_like(x[:, 0], 1.0 / self.weight_unit)
        with np.errstate(over="ignore"):
            relative, limit = sample_weight / self.weight_unit, torch.finfo(x.dtype).max ** 0.25
        if relative.max() > limit:
            raise InputError(
                f"the 'sample_weight' parameter must be up to {limit:.2g} times the mean weight of the first "
                f"batch, which is {self.weight_unit:.3g}; got {sample_weight.max():.3g}"
            )
        return torch.as_tensor(relative).to(x)

    def learned(self, learner: Learner, x: Tensor, row_weight: Tensor | None, n_iter: int) -> "Stream":
        """Return the stream after a batch, the ``n_iter``-th that the estimator learns from.

        The step falls with the square root of that number. A batch whose weight is below the mean of the
        batches so far takes a step that is smaller by as much.
        """
        size = len(x) if row_weight is None else float(row_weight.sum())
        total_weight, n_batches = self.total_weight + size, self.n_batches + 1
        step_factor = min(1.0, size * n_batches / total_weight) * 2.0 / (1.0 + n_iter**0.5)
        state = learner.step(self.state, Batch(x, sample_weight=row_weight, step_factor=step_factor))
        warn = not self.warned and learner.at_noise_floor(state)
        if warn:
            warn_of_noise_floor(float(state.model.noise_variance))  # The data's mean square is their unit.
        return Stream(self.weight_unit, state, total_weight, n_batches, self.warned or warn)
