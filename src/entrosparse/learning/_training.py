"""The one training loop."""

import time
import warnings
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights, Schedule, get_schedule
from entrosparse.errors import ConvergenceWarning, InputError, NumericalError
from entrosparse.inference import Inference
from entrosparse.learning._checkpoints import Checkpoints
from entrosparse.learning._evaluation import evaluate
from entrosparse.learning._history import EpochRecord as EpochRecord
from entrosparse.learning._snapshots import Snapshot, Task
from entrosparse.learning._threads import as_many_threads_as_help
from entrosparse.metrics import dead_latents, gini
from entrosparse.model import SparseCodingModel, check_data

_SAMPLE = 8192  # rows that learning starts from
_REPORT_TOLERANCE = 0.01  # nats per data point


class Rows(Protocol):
    """Data by rows: a NumPy array, a memory map, :class:`~entrosparse.images.Patches` and the like."""

    def __len__(self) -> int:
        """Return the number of rows N."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Return the rows of an integer array of indices, shape (len(index), D)."""
        ...


class LearnerState(Protocol):
    """What a learner carries along: a dataclass; the model is part of it."""

    @property
    def model(self) -> SparseCodingModel:
        """The current model."""
        ...

    @property
    def inference(self) -> Inference:
        """How the posteriors of the reported ELBO are found."""
        ...

    @property
    def at_noise_floor(self) -> bool:
        """Whether the noise variance was kept from falling to zero."""
        ...


class Learner(Protocol):
    """Makes a model better, one minibatch at a time."""

    def start(self, x: Tensor, generator: torch.Generator, sample_weight: Tensor | None) -> Any:
        """Return the state before learning."""
        ...

    def step(
        self,
        state: Any,
        x: Tensor,
        weights: EntropyWeights,
        progress: float,
        scale: float,
        sample_weight: Tensor | None,
    ) -> Any:
        """Return the state after the minibatch ``x``."""
        ...


@final
@dataclass(frozen=True)
class TrainingResult:
    """The learned model and how learning went.

    Attributes
    ----------
    model : SparseCodingModel
    history : list of EpochRecord
        One record before learning and one for each epoch.
    inference : Inference
        How the learner found its posteriors: a learned encoder, for one.
    """

    model: SparseCodingModel
    history: list[EpochRecord]
    inference: Inference


class Callback:
    """Watches a training run; the methods do nothing unless overridden."""

    def on_resume(self, history: list[EpochRecord], samples_seen: int) -> None:
        """Be told of the epochs so far before learning goes on from a checkpoint."""

    def on_batch(self, samples_seen: int) -> None:
        """Be told after each minibatch."""

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> bool | None:
        """Be told before learning (epoch 0) and after each epoch; return True to end learning."""


def train(
    learner: Learner,
    data: Rows,
    heldout: Rows,
    *,
    epochs: int = 10,
    batch_size: int = 512,
    annealing: str | Schedule = "none",
    seed: int = 0,
    device: str = "cpu",
    sample_weight: np.ndarray | None = None,
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Learn a model from minibatches and report its ELBO on held-out data after each epoch.

    With ``checkpoints`` a call that was cut off is made again, and goes on from the newest of them. On one
    CPU process it ends with the same bits as a call that was not, in model and history but for the seconds.

    Parameters
    ----------
    learner : Learner
        How a minibatch changes the model.
    data : Rows
        N training rows of D features; read minibatch by minibatch, so it may be larger than memory.
    heldout : Rows
        Rows for the reported ELBO, never learned from; held in memory.
    epochs : int
        Passes over the data.
    batch_size : int
        Rows in a minibatch.
    annealing : str or callable
        Name in :data:`~entrosparse.annealing.SCHEDULES`, or a function from the epoch to the weights.
    seed : int
        Seed of the initial dictionary and the order of the data.
    device : str
        Where to compute.
    sample_weight : ndarray of shape (N,), optional
        Weights of the training rows; one each by default.
    callback : Callback, optional
        Told after each minibatch and each epoch.
    checkpoints : Checkpoints, optional
        Where what it takes to go on is kept.

    Raises
    ------
    InputError
        If an argument or the data cannot be used, or if the checkpoints are of another learner, other
        arguments or other data.
    FileFormatError
        If there are checkpoints, and all are damaged.
    OSError
        If a checkpoint cannot be written; the ones before are still there.
    NumericalError
        If the model stops being finite.

    Warns
    -----
    ConvergenceWarning
        If the noise variance reached its floor: the data hold no noise that the model could tell from signal.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"the '{name}' parameter must be an integer >= 1; got {value}")
    n_samples = len(data)
    if n_samples < 1 or len(heldout) < 1:
        raise InputError("the training data and the held-out data must have at least one row each")
    schedule = get_schedule(annealing)
    callback = callback or Callback()
    generator = torch.Generator().manual_seed(seed)

    def rows(source: Rows, index: Tensor) -> Tensor:
        x = torch.as_tensor(source[index.numpy()])
        check_data(x)
        return x.to(device)

    def shares(index: Tensor) -> Tensor | None:
        return None if sample_weight is None else torch.as_tensor(sample_weight)[index].to(test)

    test = rows(heldout, torch.arange(len(heldout)))
    first = torch.randperm(n_samples, generator=generator)[:_SAMPLE].sort().values
    sample = rows(data, first)
    if sample.shape[1] != test.shape[1]:
        raise InputError(f"the held-out data must have {sample.shape[1]} columns; got {test.shape[1]}")
    weights_of = [schedule(epoch) for epoch in range(epochs)]
    annealed = next((k for k in range(epochs, 0, -1) if weights_of[k - 1] != weights_of[-1]), 0)
    changes = {k: w for k, w in enumerate(weights_of) if k == 0 or w != weights_of[k - 1]}
    task = Task(learner, epochs, batch_size, seed, changes, n_samples, sample, test, sample_weight)
    started = time.perf_counter()
    state = learner.start(sample, torch.Generator().manual_seed(seed), shares(first))
    history: list[EpochRecord] = []
    seconds, position = time.perf_counter() - started, 0

    def one_step_on() -> Snapshot:
        stepped = learner.step(state, sample[:batch_size], weights_of[0], 0.0, 1.0, None)
        return Snapshot(stepped, generator.get_state(), position, seconds, history)

    def report(epoch: int, weights: EntropyWeights) -> bool:
        evaluation = evaluate(state.model, test, state.inference, _REPORT_TOLERANCE)
        if not np.isfinite(float(evaluation.terms.elbo)):
            raise NumericalError(
                f"the ELBO is not finite after epoch {epoch}; scale the data to unit variance"
            )
        sparsity = gini(evaluation.marginals.mean)
        record = EpochRecord(
            epoch=epoch,
            seconds=seconds,
            samples_seen=epoch * n_samples,
            elbo=float(evaluation.terms.elbo),
            posterior_entropy=float(evaluation.terms.posterior),
            prior_entropy=float(evaluation.terms.prior),
            likelihood_entropy=float(evaluation.terms.likelihood),
            gamma=weights.prior,
            delta=weights.likelihood,
            noise_variance=float(state.model.noise_variance),
            gini_mean=float(sparsity.mean()),
            gini_std=float(sparsity.std(correction=0)),
            dead_latents=int(dead_latents(evaluation.marginals).sum()),
        )
        history.append(record)
        return bool(callback.on_epoch(state.model, record))

    with as_many_threads_as_help(batch_size, sample.shape[1], state.model.n_components):
        if checkpoints is not None and (resumed := checkpoints.resume(task, one_step_on)) is not None:
            state, history = resumed.state, resumed.history
            seconds, position = resumed.seconds, resumed.position
            generator.set_state(resumed.generator)
            callback.on_resume(history, (len(history) - 1) * n_samples + position)
        else:
            report(0, weights_of[0])
        for epoch in range(len(history) - 1, epochs):
            before = generator.get_state()
            order = torch.randperm(n_samples, generator=generator)
            while position < n_samples:
                started = time.perf_counter()
                batch = order[position : position + batch_size].sort().values  # disks like it
                x, weight = rows(data, batch), shares(batch)
                samples_seen = epoch * n_samples + position
                progress = max(0.0, samples_seen / n_samples - annealed) / (epochs - annealed)
                size = len(batch) if weight is None else float(weight.sum())
                if size > 0:
                    scale = min(1.0, size / batch_size)
                    state = learner.step(state, x, weights_of[epoch], progress, scale, weight)
                position += len(batch)
                seconds += time.perf_counter() - started
                callback.on_batch(epoch * n_samples + position)
                if checkpoints is not None and checkpoints.due:
                    checkpoints.save(Snapshot(state, before, position, seconds, history), task)
            position = 0
            if report(epoch + 1, weights_of[epoch]):
                break
    if state.at_noise_floor:
        warnings.warn(
            "the noise variance reached its floor, so the ELBO has no upper bound on these data; use fewer "
            "components or data with noise",
            ConvergenceWarning,
            stacklevel=2,
        )
    return TrainingResult(state.model, history, state.inference)
