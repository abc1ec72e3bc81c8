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
from entrosparse.learning.evaluation import evaluate
from entrosparse.metrics import dead_latents, gini
from entrosparse.model import SparseCodingModel, check_data

_SAMPLE = 4096  # rows that learning starts from
_REPORT_TOLERANCE = 0.01  # nats per data point


class Rows(Protocol):
    """Data by rows: a NumPy array, a memory map, :class:`~entrosparse.data.Patches` and the like."""

    def __len__(self) -> int:
        """Return the number of rows N."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Return the rows of an integer array of indices, shape (len(index), D)."""
        ...


class LearnerState(Protocol):
    """What a learner carries along; the model is part of it."""

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

    def start(self, x: Tensor, generator: torch.Generator) -> Any:
        """Return the state before learning."""
        ...

    def step(self, state: Any, x: Tensor, weights: EntropyWeights, progress: float, scale: float) -> Any:
        """Return the state after the minibatch ``x``."""
        ...


@final
@dataclass(frozen=True)
class EpochRecord:
    """One row of the history; entropies and ELBO in nats per held-out data point, at γ = δ = 1.

    Attributes
    ----------
    epoch : int
        0 is the state before learning.
    seconds : float
        Time spent learning so far, evaluation left out.
    samples_seen : int
        Data points learned from so far.
    elbo, posterior_entropy, prior_entropy, likelihood_entropy : float
        The held-out ELBO and its three entropies, at one λ and one σ² that are optimal for the held-out data.
    gamma, delta : float
        Weights γ and δ of the epoch.
    noise_variance : float
        σ² of the learned model.
    gini_mean, gini_std : float
        Gini index of the held-out posterior means.
    dead_latents : int
        Number of latents that carry no information on the held-out data.
    """

    epoch: int
    seconds: float
    samples_seen: int
    elbo: float
    posterior_entropy: float
    prior_entropy: float
    likelihood_entropy: float
    gamma: float
    delta: float
    noise_variance: float
    gini_mean: float
    gini_std: float
    dead_latents: int


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

    def on_batch(self, samples_seen: int) -> None:
        """Be told after each minibatch."""

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> None:
        """Be told before learning (epoch 0) and after each epoch."""


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
    callback: Callback | None = None,
) -> TrainingResult:
    """Learn a model from minibatches and report its ELBO on held-out data after each epoch.

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
    callback : Callback, optional
        Told after each minibatch and each epoch.

    Raises
    ------
    InputError
        If an argument or the data cannot be used.
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
        x = torch.as_tensor(source[np.sort(index.numpy())])
        check_data(x)
        return x.to(device)

    test = rows(heldout, torch.arange(len(heldout)))
    sample = rows(data, torch.randperm(n_samples, generator=generator)[:_SAMPLE])
    if sample.shape[1] != test.shape[1]:
        raise InputError(f"the held-out data must have {sample.shape[1]} columns; got {test.shape[1]}")
    state = learner.start(sample, generator)
    history: list[EpochRecord] = []
    seconds, samples_seen = 0.0, 0

    def report(epoch: int, weights: EntropyWeights) -> None:
        evaluation = evaluate(state.model, test, state.inference, _REPORT_TOLERANCE)
        if not np.isfinite(float(evaluation.terms.elbo)):
            raise NumericalError(
                f"the ELBO is not finite after epoch {epoch}; scale the data to unit variance"
            )
        sparsity = gini(evaluation.marginals.mean)
        record = EpochRecord(
            epoch=epoch,
            seconds=seconds,
            samples_seen=samples_seen,
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
        callback.on_epoch(state.model, record)

    weights_of = [schedule(epoch) for epoch in range(epochs)]
    annealed = next((k for k in range(epochs, 0, -1) if weights_of[k - 1] != weights_of[-1]), 0)
    report(0, weights_of[0])
    for epoch, weights in enumerate(weights_of):
        started = time.perf_counter()
        for batch in torch.split(torch.randperm(n_samples, generator=generator), batch_size):
            x = rows(data, batch)
            progress = max(0.0, samples_seen / n_samples - annealed) / (epochs - annealed)
            state = learner.step(state, x, weights, progress, len(batch) / batch_size)
            samples_seen += len(batch)
            callback.on_batch(samples_seen)
        seconds += time.perf_counter() - started
        report(epoch + 1, weights)
    if state.at_noise_floor:
        warnings.warn(
            "the noise variance reached its floor, so the ELBO has no upper bound on these data; use fewer "
            "components or data with noise",
            ConvergenceWarning,
            stacklevel=2,
        )
    return TrainingResult(state.model, history, state.inference)
