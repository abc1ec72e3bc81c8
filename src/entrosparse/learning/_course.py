"""A training run as it goes on: batches, reports and checkpoints."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights, Schedule
from entrosparse.errors import NumericalError
from entrosparse.inference import Inference
from entrosparse.learning._checkpoints import Checkpoints
from entrosparse.learning._history import Callback, EpochRecord, ends_below_start
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._rows import Source
from entrosparse.learning._snapshots import Snapshot, Task
from entrosparse.learning._turns import Turn, evaluate
from entrosparse.metrics import dead_by_moments, gini, signal_and_variance
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal
from entrosparse.processes import Processes
from entrosparse.statistics import Statistics

_SPARSITY_ROWS = 256  # rows of a turn over all training rows that the Gini index is taken of
_REPORT_TOLERANCE = 0.01  # nats per data point
_REPORT_TURNS = 4  # at most, from the λ and σ² of learning, or
_COOLING_TURNS = 20  # as many for a learner of all rows, whose noise may still be cooling, or
_START_CODES = 2**23  # as infer so many codes for the start, whose λ and σ² may be far from their optimum


@final
@dataclass(frozen=True)
class WeightsOfEpochs:
    """The entropy weights of each epoch, and the number of epochs before the final weights."""

    weights: list[EntropyWeights]
    n_annealed: int

    @classmethod
    def from_function(cls, schedule: Schedule, epochs: int) -> "WeightsOfEpochs":
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
class Course:
    """A training run as it goes on."""

    def __init__(
        self,
        learner: Learner,
        source: Source,
        schedule: WeightsOfEpochs,
        callbacks: Sequence[Callback],
        start: Snapshot,
        processes: Processes,
    ) -> None:
        self._learner, self._source, self._schedule, self._callbacks = learner, source, schedule, callbacks
        self._checkpoints: Checkpoints | None = None
        self._task: Task | None = None
        self._has_stepped, self._processes = False, processes
        self._now = self._start = start
        # The encoder of the start is copied, as steps change it in place.
        self._inference_of_start: Inference = deepcopy(start.state.inference)
        self.model: SparseCodingModel = start.state.model  # The one to keep, and what finds its codes.
        self.inference: Inference = start.state.inference

    @property
    def state(self) -> Any:
        return self._now.state

    @property
    def history(self) -> list[EpochRecord]:
        return self._now.history

    def keep(self, checkpoints: Checkpoints, task: Callable[[], Task]) -> None:
        """Go on from the newest checkpoint, if there is one, and write further ones."""
        self._checkpoints = checkpoints

        found: Snapshot | None = None

        def newest() -> tuple[Any, ...] | None:
            nonlocal found
            self._task = task()
            found = checkpoints.resume(self._task, self._one_step_on)
            if found is None or self._processes.alone:
                return None
            tensors = {path: tensor.cpu() for path, tensor in found.tensors().items()}
            return found.numbers(), tensors, found.history

        parts = self._processes.from_first(newest)
        if parts is not None and found is None:
            found = self._one_step_on().restored(*parts)
        if found is None:
            return
        state = self._learner.divided(found.state, self._processes)
        self._now, self._has_stepped = replace(found, state=state), True
        samples_seen = self._epochs_done * self._source.n_rows + self._now.position
        for callback in self._callbacks:
            callback.on_resume(self.history, samples_seen)

    def run(self) -> None:
        """Learn until the epochs are over, the learner has converged, or a callback says so."""
        record, due = Statistics.of_nothing(self.state.model), self._checkpoints
        with self._processes.together(
            record.numbers.numel(), record.residual.device, lambda: due is not None and due.due
        ):
            self._run()

    def _run(self) -> None:
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
            state = self._step(epoch, rows)
            position += len(rows)
            seconds = self._now.seconds + time.perf_counter() - started
            self._now = replace(self._now, state=state, position=position, seconds=seconds)
            self._tell(epoch * n_rows + position)
        self._now = replace(self._now, generator=generator.get_state(), position=0)

    def _tell(self, samples_seen: int) -> None:
        """Tell callbacks of a batch, and write a checkpoint if it is time for one or learning shall stop."""
        try:
            for callback in self._callbacks:
                callback.on_batch(samples_seen)
        except KeyboardInterrupt:
            if self._processes.alone:
                self._save()
                raise
            self._processes.ask_to_stop()
        if self._processes.stopping:
            self._save()
            raise KeyboardInterrupt
        checkpoints = self._checkpoints
        if self._processes.saving or (self._processes.alone and checkpoints is not None and checkpoints.due):
            self._save()

    def _save(self) -> None:
        """Write a checkpoint; before the first step there is nothing to keep."""
        if self._checkpoints is None or not self._has_stepped:
            return
        self._processes.meet()  # One that failed since the last sum says so here.
        whole = replace(self._now, state=self._learner.whole(self.state, self._processes))
        if self._task is not None:
            self._checkpoints.save(whole, self._task)
        self._processes.meet()  # Launchers end all processes when one has left, so none leaves before.

    def _step(self, epoch: int, rows: Tensor) -> Any:
        """Return the state after a batch; one without weight changes nothing."""
        size = self._source.size(rows)
        if size <= 0:
            return self.state
        x, sample_weight = self._source.batch(rows)
        batch = Batch(
            x,
            self._schedule.weights[epoch],
            self._schedule.progress((epoch * self._source.n_rows + self._now.position) / self._source.n_rows),
            sample_weight,
            min(1.0, size / min(self._source.batch_size, self._source.n_rows)),
            self._processes,
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
        model, turn, n_looked_at = self._judged(self.state, self.state.inference, is_start=epoch == 0)
        if not np.isfinite(float(turn.terms.elbo)):
            raise NumericalError(
                f"the ELBO is not finite after epoch {epoch}; scale the data to unit variance"
            )
        gini_mean, gini_std, dead = self._sparsity(turn.marginals, n_looked_at)
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
            gini_mean=gini_mean,
            gini_std=gini_std,
            dead_latents=dead,
        )
        self._now = replace(self._now, history=[*self.history, record], evaluation_seconds=seconds)
        self.model, self.inference = model, self.state.inference
        if ends_below_start(self.history):
            self.model, self.inference = self._model_of_start, self._inference_of_start
        for callback in self._callbacks:
            callback.on_inference(self.inference)
        stops = [callback.on_epoch(self.model, record) for callback in self._callbacks]
        return bool(self._processes.sum(torch.tensor([float(any(stops))])) > 0)

    @cached_property
    def _model_of_start(self) -> SparseCodingModel:
        return self._judged(self._start.state, self._inference_of_start, is_start=True)[0]

    def _sparsity(self, marginals: Diagonal, n_rows: int) -> tuple[float, float, int]:
        """Return mean and deviation of the Gini index over some of the rows, and the dead latents of all."""
        index = gini(marginals.mean[:n_rows]).double()
        signal, variance = signal_and_variance(marginals)
        sums = torch.cat(
            [torch.stack([index.new_tensor(len(index)), index.sum(), index.square().sum()]), signal, variance]
        )
        sums = self._processes.sum(sums)
        n_latents = len(signal)
        mean, square = (sums[1:3] / sums[0]).tolist()
        dead = dead_by_moments(sums[3 : 3 + n_latents], sums[3 + n_latents :])
        return mean, max(0.0, square - mean * mean) ** 0.5, int(dead.sum())

    def _judged(
        self, state: Any, inference: Inference, is_start: bool = False
    ) -> tuple[SparseCodingModel, Turn, int]:
        """Return the model to keep, what is reported on it, and how many rows sparsity is measured on."""
        source, model = self._source, state.model
        turns = _COOLING_TURNS if self._learner.sees_all_rows else _REPORT_TURNS
        if is_start:  # Judged by fewer, it could be taken to be worse than what learning ends with.
            turns = max(turns, _START_CODES // (source.n_watched * model.n_components))
        judge = partial(
            evaluate,
            inference=inference,
            tolerance=_REPORT_TOLERANCE,
            max_turns=turns,
            floors=source.floors,
            processes=self._processes,
        )
        if self._learner.sees_all_rows:
            turn = self._learner.turn(state)
            n_rows = max(0, _SPARSITY_ROWS - self._processes.share(source.n_rows).start)
        else:  # The λ and σ² of learning belong to where its steps were taken.
            turn = judge(model, source.watched, sample_weight=source.weight_of_watched)
            model, n_rows = source.floors.raised(turn.model), len(source.watched)
        if source.heldout is not None:
            return model, judge(model, source.heldout), len(source.heldout)
        assert turn is not None, "a learner that sees all rows must return the turn of its last step"
        return model, turn, n_rows
