"""The one training loop."""

import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from entrosparse import errors
from entrosparse._threads import as_many_threads_as_help
from entrosparse.annealing import EntropyWeights, Schedule, get_schedule
from entrosparse.errors import InputError, NumericalError
from entrosparse.inference import Inference
from entrosparse.learning._checkpoints import Checkpoints
from entrosparse.learning._history import Callback, EpochRecord, ends_below_start
from entrosparse.learning._initialization import initial_model, with_fitting_scales
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._rows import Rows, Source
from entrosparse.learning._snapshots import Snapshot, Task
from entrosparse.learning._turns import Turn, evaluate
from entrosparse.likelihoods import Isotropic, Likelihood
from entrosparse.metrics import dead_latents, gini
from entrosparse.model import SparseCodingModel, check_device
from entrosparse.priors import Laplace, PriorFamily

_SPARSITY_ROWS = 256  # rows of a turn over all training rows that the Gini index is taken of
_REPORT_TOLERANCE = 0.01  # nats per data point
_REPORT_TURNS = 4  # at most, from the λ and σ² of learning, or
_COOLING_TURNS = 20  # as many for a learner of all rows, whose noise may still be cooling
_NOTABLE = 0.1  # nats per data point


@final
@dataclass(frozen=True)
class TrainingResult:
    """The learned model and how learning went.

    Attributes
    ----------
    model : SparseCodingModel
        The last one or, if its reported ELBO is below that of the start, the start.
    history : list of EpochRecord
        One record for each epoch, and one before learning unless the learner sees all rows.
    inference : Inference
        How the learner found its posteriors: a learned encoder, for one.
    converged : bool
        False if the noise variance is at its floor, if learning ended below its start, or if a learner that
        tells when it has converged had not.
    """

    model: SparseCodingModel
    history: list[EpochRecord]
    inference: Inference
    converged: bool


def train(
    learner: Learner,
    data: Rows,
    heldout: Rows | None = None,
    *,
    n_components: int,
    init: str | Any = "ica",
    prior: PriorFamily = Laplace(),
    likelihood: Likelihood = Isotropic(),
    epochs: int = 10,
    batch_size: int = 512,
    annealing: str | Schedule = "none",
    seed: int = 0,
    device: str = "cpu",
    sample_weight: np.ndarray | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Learn a model batch by batch, and report its ELBO after each epoch.

    With ``checkpoints`` a call that was cut off is made again, and goes on from the newest of them. On one
    CPU process it ends with the same bits as a call that was not, in model and history but for the seconds.

    Parameters
    ----------
    learner : Learner
        How a batch changes the model.
    data : Rows
        N training rows of D features; read minibatch by minibatch, so it may be larger than memory.
    heldout : Rows, optional
        Rows for the reported ELBO, never learned from; held in memory. Without them the reported ELBO is that
        of training rows: of all, as its last turn found it, for a learner that sees all rows, and else of at
        most 2,048 that are spread evenly over the data. Those rows also give the λ and σ² of the model.
    n_components : int
        Number of latents H.
    init : {"ica", "data", "random"} or array of shape (D, H)
        Initial dictionary: independent components by FastICA (and data points, if H is more than the
        dimensions that the data span), data points, random directions, or the atoms themselves.
    prior : PriorFamily
        Prior of the codes.
    likelihood : Likelihood
        Kind of noise.
    epochs : int
        Passes over the data, at most.
    batch_size : int
        Rows in a minibatch. A learner that sees all rows is given all of them at once.
    annealing : str or callable
        Name in :data:`~entrosparse.annealing.SCHEDULES`, or a function from the epoch to the weights.
    seed : int
        Seed of the initial dictionary and the order of the data.
    device : str
        Where to compute.
    sample_weight : ndarray of shape (N,), optional
        Weights of the training rows; one each by default.
    callbacks : sequence of Callback
        Told after each batch and each epoch, one after the other.
    checkpoints : Checkpoints, optional
        Where what it takes to go on is kept: from time to time, and when a callback that is told of a batch
        raises KeyboardInterrupt.

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
        If the noise variance reached its floor: the data hold no noise that the model could tell from signal;
        if learning ended below its start by more than 0.1 nats; or if a learner that tells when it has
        converged had not.
    """
    for name, value in (("n_components", n_components), ("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"the '{name}' parameter must be an integer >= 1; got {value}")
    check_device(device)
    if len(data) < 1 or (heldout is not None and len(heldout) < 1):
        raise InputError("the training data and the held-out data must have at least one row each")
    generator = torch.Generator().manual_seed(seed)
    schedule = _Schedule.from_function(get_schedule(annealing), epochs)
    source = Source(learner, data, heldout, batch_size, device, sample_weight, generator)

    with as_many_threads_as_help(source.batch_size, source.sample.shape[1], n_components):
        started = time.perf_counter()
        start_generator = torch.Generator().manual_seed(seed)
        rows, row_weight = source.start
        model = initial_model(rows, n_components, init, prior, start_generator, row_weight, likelihood)
        if not learner.sees_all_rows:
            model = with_fitting_scales(model, rows, row_weight)
        snapshot = Snapshot(
            state=learner.start(model, rows, start_generator),
            generator=generator.get_state(),
            position=0,
            seconds=time.perf_counter() - started,
            history=[],
        )
        course = _Course(learner, source, schedule, callbacks, snapshot)
        try:
            if checkpoints is not None:
                settings = {
                    "learner": learner,
                    "n_components": n_components,
                    "init": init,
                    "prior": prior,
                    "likelihood": likelihood,
                    "epochs": epochs,
                    "batch_size": batch_size,
                    "annealing": schedule.changes,
                    "seed": seed,
                    "device": device,
                    "version": version("entrosparse"),
                }
                first_epoch = 0 if source.reports_start else 1
                task = Task(settings | source.settings(), epochs, len(data), first_epoch)
                course.keep(checkpoints, task)
            course.run()
        finally:
            if checkpoints is not None:
                checkpoints.release()
    converged = learner.converged(course.state) is not False
    at_noise_floor, fell = learner.at_noise_floor(course.state), ends_below_start(course.history, _NOTABLE)
    if at_noise_floor:
        warn_of_noise_floor(float(source.floors.noise_variance / source.floors.mean_square))
    elif fell:
        warnings.warn(
            f"learning ended at an ELBO of {course.history[-1].elbo:.4g}, below its start, which is kept, at "
            f"{course.history[0].elbo:.4g}; use more data or epochs, or fewer components (n_components)",
            errors.ConvergenceWarning,
            stacklevel=2,
        )
    elif not converged:
        warnings.warn(
            f"the objective still changed by more than the tolerance after {course.history[-1].epoch} "
            "epochs; raise the epochs (max_epochs) or the tolerance (tol)",
            errors.ConvergenceWarning,
            stacklevel=2,
        )
    done = converged and not at_noise_floor and not fell
    return TrainingResult(course.model, course.history, course.state.inference, done)


def warn_of_noise_floor(share: float) -> None:
    """Warn that the noise variance is at its floor, which is that share of the data's mean square."""
    warnings.warn(
        f"the noise variance reached its floor, {share:.2g} of the data's mean square, without which the "
        "ELBO would have no upper bound; use fewer components (n_components) or data with noise",
        errors.ConvergenceWarning,
        stacklevel=3,
    )


@final
@dataclass(frozen=True)
class _Schedule:
    """The entropy weights of each epoch, and the number of epochs before the final weights."""

    weights: list[EntropyWeights]
    n_annealed: int

    @classmethod
    def from_function(cls, schedule: Schedule, epochs: int) -> "_Schedule":
        weights = [schedule(epoch) for epoch in range(epochs)]
        return cls(weights, next((k for k in range(epochs, 0, -1) if weights[k - 1] != weights[-1]), 0))

    @property
    def changes(self) -> dict[int, EntropyWeights]:
        """The epochs at which the weights change, and to what."""
        return {k: w for k, w in enumerate(self.weights) if k == 0 or w != self.weights[k - 1]}

    def progress(self, epochs_done: float) -> float:
        """Return the share of the epochs at the final weights that is done."""
        return max(0.0, epochs_done - self.n_annealed) / (len(self.weights) - self.n_annealed)


@final
class _Course:
    """A training run as it goes on."""

    def __init__(
        self,
        learner: Learner,
        source: Source,
        schedule: _Schedule,
        callbacks: Sequence[Callback],
        start: Snapshot,
    ) -> None:
        self._learner, self._source, self._schedule, self._callbacks = learner, source, schedule, callbacks
        self._checkpoints: Checkpoints | None = None
        self._task: Task | None = None
        self._has_stepped = False
        self._now = self._start = start
        self.model: SparseCodingModel = start.state.model  # The one to keep.

    @property
    def state(self) -> Any:
        return self._now.state

    @property
    def history(self) -> list[EpochRecord]:
        return self._now.history

    def keep(self, checkpoints: Checkpoints, task: Task) -> None:
        """Go on from the newest checkpoint, if there is one, and write further ones."""
        self._checkpoints, self._task = checkpoints, task
        resumed = checkpoints.resume(task, self._one_step_on)
        if resumed is None:
            return
        self._now, self._has_stepped = resumed, True
        samples_seen = self._epochs_done * self._source.n_rows + resumed.position
        for callback in self._callbacks:
            callback.on_resume(self.history, samples_seen)

    def run(self) -> None:
        """Learn until the epochs are over, the learner has converged, or a callback says so."""
        if not self.history and self._source.reports_start:
            self._report(0, self._schedule.weights[0])
        for epoch in range(self._epochs_done, len(self._schedule.weights)):
            self._learn(epoch)
            stop = self._report(epoch + 1, self._schedule.weights[epoch])
            annealed = epoch + 1 >= self._schedule.n_annealed
            if stop or (annealed and self._learner.converged(self.state)):
                break

    @property
    def _epochs_done(self) -> int:
        return self.history[-1].epoch if self.history else 0

    def _learn(self, epoch: int) -> None:
        """Go through the rows once, in an order of their own, from where this epoch stands."""
        n_rows, batch_size = self._source.n_rows, self._source.batch_size
        before = self._now.generator
        generator = torch.Generator()
        generator.set_state(before)
        order = torch.randperm(n_rows, generator=generator)
        while self._now.position < n_rows:
            started = time.perf_counter()
            position = self._now.position
            rows = order[position : position + batch_size].sort().values  # disks like it
            state = self._step(epoch, *self._source.batch(rows))
            position += len(rows)
            seconds = self._now.seconds + time.perf_counter() - started
            self._now = replace(self._now, state=state, position=position, seconds=seconds)
            try:
                for callback in self._callbacks:
                    callback.on_batch(epoch * n_rows + position)
            except KeyboardInterrupt:
                self._save()
                raise
            if self._checkpoints is not None and self._checkpoints.due:
                self._save()
        self._now = replace(self._now, generator=generator.get_state(), position=0)

    def _save(self) -> None:
        """Write a checkpoint; before the first step there is nothing to keep."""
        if self._checkpoints is not None and self._task is not None and self._has_stepped:
            self._checkpoints.save(self._now, self._task)

    def _step(self, epoch: int, x: Tensor, sample_weight: Tensor | None) -> Any:
        """Return the state after a batch; one without weight changes nothing."""
        size = len(x) if sample_weight is None else float(sample_weight.sum())
        if size <= 0:
            return self.state
        batch = Batch(
            x,
            self._schedule.weights[epoch],
            self._schedule.progress((epoch * self._source.n_rows + self._now.position) / self._source.n_rows),
            sample_weight,
            min(1.0, size / min(self._source.batch_size, self._source.n_rows)),
        )
        self._has_stepped = True
        return self._learner.step(self.state, batch)

    def _one_step_on(self) -> Snapshot:
        """Return the state after a step: it says which tensors and numbers a checkpoint must hold.

        Checkpoints are read into its tensors, which must not be those of the start: that may be kept.
        """
        batch = Batch(self._source.sample[: self._source.batch_size], self._schedule.weights[0])
        return replace(self._now, state=self._learner.step(deepcopy(self.state), batch))

    def _report(self, epoch: int, weights: EntropyWeights) -> bool:
        """Add a record to the history; return whether a callback wants to end learning."""
        started = time.perf_counter()
        model, turn, n_looked_at = self._judged(self.state)
        if not np.isfinite(float(turn.terms.elbo)):
            raise NumericalError(
                f"the ELBO is not finite after epoch {epoch}; scale the data to unit variance"
            )
        sparsity = gini(turn.marginals.mean[:n_looked_at])
        seconds = self._now.evaluation_seconds + time.perf_counter() - started
        record = EpochRecord(
            epoch=epoch,
            seconds=self._now.seconds,
            evaluation_seconds=seconds,
            samples_seen=epoch * self._source.n_rows,
            elbo=float(turn.terms.elbo),
            posterior_entropy=float(turn.terms.posterior),
            prior_entropy=float(turn.terms.prior),
            likelihood_entropy=float(turn.terms.likelihood),
            gamma=weights.prior,
            delta=weights.likelihood,
            noise_variance=model.mean_noise_variance,
            gini_mean=float(sparsity.mean()),
            gini_std=float(sparsity.std(correction=0)),
            dead_latents=int(dead_latents(turn.marginals).sum()),
        )
        self._now = replace(self._now, history=[*self.history, record], evaluation_seconds=seconds)
        self.model = self._judged(self._start.state)[0] if ends_below_start(self.history) else model
        stops = [callback.on_epoch(self.model, record) for callback in self._callbacks]
        return any(stops)

    def _judged(self, state: Any) -> tuple[SparseCodingModel, Turn, int]:
        """Return the model to keep, what is reported on it, and how many rows sparsity is measured on."""
        source, model = self._source, state.model
        judge = partial(
            evaluate,
            inference=state.inference,
            tolerance=_REPORT_TOLERANCE,
            max_turns=_COOLING_TURNS if self._learner.sees_all_rows else _REPORT_TURNS,
            floors=source.floors,
        )
        if self._learner.sees_all_rows:
            turn, n_rows = self._learner.turn(state), _SPARSITY_ROWS
        else:  # The λ and σ² of learning belong to where its steps were taken.
            turn = judge(model, source.watched, sample_weight=source.weight_of_watched)
            model, n_rows = source.floors.raised(turn.model), len(source.watched)
        if source.heldout is not None:
            return model, judge(model, source.heldout), len(source.heldout)
        assert turn is not None, "a learner that sees all rows must return the turn of its last step"
        return model, turn, n_rows
