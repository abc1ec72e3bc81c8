"""Learning from batches that pass once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entrosparse._tables import TableRows, as_rows
from entrosparse._units import Units
from entrosparse.errors import InputError
from entrosparse.learning import Batch, Floors, Learner, take_turn
from entrosparse.learning._training import warn_of_noise_floor
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import entropy_elbo, with_optimal_scales
from entrosparse.processes import current_processes
from entrosparse.statistics import Statistics

_EARLY = 8192  # samples that are kept, from which learning begins again each time their number has doubled
_RECENT = 2048  # samples from which λ and σ² are found

Samples = tuple[NDArray[Any], NDArray[np.float64] | None]
"""Some samples and their weights."""

Begin = Callable[[Tensor, Tensor | None, Units], Any]
"""Makes the state of a learner from samples in its units and their relative weights, and these units."""

UnitsOf = Callable[[TableRows, NDArray[np.float64] | None], Units]
"""Finds the units of rows and their weights."""


def check_passes_once(annealing: Any, checkpoint_dir: Any, algorithm: Any) -> None:
    """Raise InputError if a parameter asks for what needs all samples, or epochs."""
    if annealing != "none":
        raise InputError(
            "the 'annealing' parameter must be 'none' for batches that pass once, which have no epochs; "
            f"got {annealing!r}"
        )
    if checkpoint_dir is not None:
        raise InputError(
            f"the 'checkpoint_dir' parameter must be None for batches that pass once; got {checkpoint_dir!r}"
        )
    if algorithm == "batch" or getattr(algorithm, "sees_all_rows", False):
        raise InputError(
            "the 'algorithm' parameter must be 'auto', 'online' or a learner of minibatches for batches "
            f"that pass once; got {algorithm!r}"
        )


@final
@dataclass(frozen=True)
class Stream:
    """What :meth:`SparseCoding.partial_fit` carries from one batch to the next.

    Attributes
    ----------
    units : Units
        Centre and unit of the data.
    device : str
        Where to compute.
    weight_unit : float
        Mean weight of the samples that learning began from: only relative weights matter.
    floors : Floors or None
        Least λ and σ².
    state : LearnerState or None
        State of the learner; None before it is started.
    total_weight : float
        Sum of the weights so far, in that unit.
    n_batches : int
        Batches so far.
    warned : bool
        Whether a warning has told that the noise variance is at its floor.
    statistics : Statistics or None
        Average over the last 2,048 samples, each inferred under the model to keep at that time.
    early : tuple of Samples
        All batches so far, while they are few.
    n_begun : int
        Samples that learning began from.
    """

    units: Units
    device: str
    weight_unit: float = 1.0
    floors: Floors | None = None
    state: Any = None
    total_weight: float = 0.0
    n_batches: int = 0
    warned: bool = False
    statistics: Statistics | None = None
    early: tuple[Samples, ...] = ()
    n_begun: int = 0

    @classmethod
    def first(
        cls, samples: Samples, learner: Learner, begin: Begin, device: str, units_of: UnitsOf
    ) -> "Stream":
        """Return the stream after its first batch, from whose samples learning begins."""
        return cls._begun((samples,), learner, begin, device, False, units_of)

    def then(self, samples: Samples, learner: Learner, begin: Begin, units_of: UnitsOf) -> "Stream":
        """Return the stream after a further batch.

        A start from few samples is a poor one. So learning begins again from all of them, and goes through
        their batches once more, each time that their number has doubled, until it is 8,192.
        """
        early = (*self.early, samples) if self.early else ()
        n_early = sum(len(X) for X, _ in early)
        if early and n_early >= 2 * self.n_begun:
            return self._begun(early, learner, begin, self.device, self.warned, units_of)
        stream = self if self.state is not None else self._started((samples,), begin)
        return replace(stream.learned(samples, learner), early=early if n_early < _EARLY else ())

    @classmethod
    def _begun(
        cls,
        early: tuple[Samples, ...],
        learner: Learner,
        begin: Begin,
        device: str,
        warned: bool,
        units_of: UnitsOf,
    ) -> "Stream":
        X, weights = _joined(early)
        units = units_of(as_rows(X), weights)
        stream = cls(units, device, warned=warned)._started(early, begin)
        for samples in early:
            stream = stream.learned(samples, learner)
        return replace(stream, early=early if len(X) < _EARLY else (), n_begun=len(X))

    def _started(self, batches: tuple[Samples, ...], begin: Begin) -> "Stream":
        X, weights = _joined(batches)
        unit = 1.0 if weights is None else float(weights.mean())
        if weights is not None:
            X, weights = X[weights > 0.0], weights[weights > 0.0]
        x = self.units.standardize(X).to(self.device)
        stream = replace(self, weight_unit=unit, floors=Floors.from_sample(x))
        return replace(stream, state=begin(x, stream._relative(weights, x), self.units))

    @property
    def model(self) -> SparseCodingModel:
        """The dictionary of the learner, with λ and σ² that are optimal for it on the last batches."""
        model: SparseCodingModel = self.state.model
        if self.statistics is None:
            return model
        assert self.floors is not None
        return self.floors.raised(with_optimal_scales(model, self.statistics))

    @property
    def elbo(self) -> float:
        """The ELBO of the last samples at that model, in nats per sample and units of the data."""
        assert self.statistics is not None
        n_components, n_seen = self.statistics.prior_statistic.shape[-1], self.statistics.n_entries
        terms = self.units.terms(entropy_elbo(self.statistics), n_components, n_seen.numpy(force=True))
        return float(terms.elbo)

    def learned(self, samples: Samples, learner: Learner) -> "Stream":
        """Return the stream after a batch.

        The step of an encoder falls with the square root of the number of batches, and is smaller for a batch
        whose weight is below the mean of the batches so far.
        """
        x = self.units.standardize(samples[0]).to(self.device).to(self.state.model.dictionary)
        row_weight = self._relative(samples[1], x)
        size = len(x) if row_weight is None else float(row_weight.sum())
        total_weight, n_batches = self.total_weight + size, self.n_batches + 1
        step_factor = min(1.0, size * n_batches / total_weight) * 2.0 / (1.0 + n_batches**0.5)
        processes = current_processes()
        share = processes.share(len(x))
        x, row_weight = x[share], None if row_weight is None else row_weight[share]
        with processes.together(Statistics.of_nothing(self.state.model).numbers.numel(), x.device):
            batch = Batch(x, sample_weight=row_weight, step_factor=step_factor, processes=processes)
            state = learner.step(self.state, batch)
            model = replace(self, state=state).model
            turn = take_turn(x, model, state.inference, sample_weight=row_weight, processes=processes)
        record = turn.statistics.normalized()
        warn = not self.warned and learner.at_noise_floor(state)
        if warn:
            warn_of_noise_floor(state.model.mean_noise_variance)  # The data's mean square is their unit.
        if self.statistics is not None:
            part = max(size / total_weight, min(1.0, size / _RECENT))
            record = self.statistics * (1.0 - part) + record * part
        return replace(
            self,
            state=state,
            total_weight=total_weight,
            n_batches=n_batches,
            warned=self.warned or warn,
            statistics=record,
        )

    def _relative(self, sample_weight: NDArray[np.float64] | None, x: Tensor) -> Tensor | None:
        """Return weights in units of those that learning began from."""
        if sample_weight is None:
            return None if self.weight_unit == 1.0 else torch.full_like(x[:, 0], 1.0 / self.weight_unit)
        with np.errstate(over="ignore"):
            relative, limit = sample_weight / self.weight_unit, torch.finfo(x.dtype).max ** 0.25
        if relative.max() > limit:
            raise InputError(
                f"the 'sample_weight' parameter must be up to {limit:.2g} times the mean weight of the first "
                f"samples, which is {self.weight_unit:.3g}; got {sample_weight.max():.3g}"
            )
        return torch.as_tensor(relative).to(x)


def _joined(batches: tuple[Samples, ...]) -> Samples:
    """Return all samples and their weights; those that were given none count as one each."""
    X = np.concatenate([X for X, _ in batches])
    if all(weights is None for _, weights in batches):
        return X, None
    return X, np.concatenate([np.ones(len(X)) if weights is None else weights for X, weights in batches])
