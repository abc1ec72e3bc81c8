"""The one dialect of learners: a model to start from, then one batch after the other."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import Inference
from entrosparse.learning._turns import Turn
from entrosparse.model import SparseCodingModel
from entrosparse.processes import ALONE, Processes


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """What a learner is given for one step.

    Attributes
    ----------
    x : Tensor of shape (N, D)
        The rows, of which each process has a share; NaN are entries that were not seen.
    weights : EntropyWeights
        γ and δ of objective (17).
    progress : float
        Share of the learning at the final entropy weights that is done, in [0, 1].
    sample_weight : Tensor of shape (N,) or None
        Weights of the rows; None if each counts as one.
    step_factor : float
        Factor on the learner's step: below 1 for a batch that is smaller than the others.
    processes : Processes
        Those that share the batch.
    """

    x: Tensor
    weights: EntropyWeights = EntropyWeights()
    progress: float = 0.0
    sample_weight: Tensor | None = None
    step_factor: float = 1.0
    processes: Processes = ALONE


class LearnerState(Protocol):
    """What a learner carries from batch to batch: a dataclass, so that it can be kept in checkpoints."""

    @property
    def model(self) -> SparseCodingModel:
        """The current model."""
        ...

    @property
    def inference(self) -> Inference:
        """How posteriors are found, for the reported ELBO and after learning."""
        ...


class Learner(ABC):
    """Makes a model better, one batch at a time.

    A learner is a frozen dataclass whose fields are its settings. It has no state of its own: a step maps a
    state and a batch to the next state.
    """

    sees_all_rows: ClassVar[bool] = False
    """Whether each batch must hold all rows of the data, in the same order."""

    shares_batches: ClassVar[bool] = False
    """Whether a step sums up over the processes of its batch, so that several can learn together."""

    @abstractmethod
    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> Any:
        """Return the state before learning.

        Parameters
        ----------
        model : SparseCodingModel
            Where to start, scaled to the sample.
        sample : Tensor of shape (N, D)
            Some rows of the data, or all if the learner sees all.
        generator : torch.Generator
            Source of randomness, on the CPU.
        """

    @abstractmethod
    def step(self, state: Any, batch: Batch) -> Any:
        """Return the state after a batch."""

    def whole(self, state: Any, processes: Processes) -> Any:
        """Return a state with what the processes hold of each row, for a checkpoint; all must call this."""
        return state

    def divided(self, state: Any, processes: Processes) -> Any:
        """Return a state with what this process shall hold of each row, of one from :meth:`whole`."""
        return state

    def at_noise_floor(self, state: Any) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return False

    def turn(self, state: Any) -> Turn | None:
        """Return what the last step of a learner that sees all rows found of them, with the state's model."""
        return None

    def converged(self, state: Any) -> bool | None:
        """Return whether more steps are of no use; None for a learner that does not tell."""
        return None
