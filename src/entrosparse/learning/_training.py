"""The one training loop."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from entrosparse import errors
from entrosparse._threads import as_many_threads_as_help
from entrosparse.annealing import Schedule, get_schedule
from entrosparse.errors import InputError
from entrosparse.inference import Inference
from entrosparse.learning._checkpoints import Checkpoints
from entrosparse.learning._course import Course, WeightsOfEpochs
from entrosparse.learning._history import Callback, EpochRecord, ends_below_start
from entrosparse.learning._identity import in_words
from entrosparse.learning._initialization import initial_model, with_fitting_scales
from entrosparse.learning._learner import Learner
from entrosparse.learning._rows import Rows, Source
from entrosparse.learning._snapshots import Snapshot, Task
from entrosparse.likelihoods import Isotropic, Likelihood
from entrosparse.model import SparseCodingModel, check_device
from entrosparse.priors import Laplace, PriorFamily
from entrosparse.processes import Processes, current_processes, device_of_process

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
        How the learner found the posteriors of that model: a learned encoder, for one.
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
    processes: Processes | None = None,
) -> TrainingResult:
    """Learn a model batch by batch, and report its ELBO after each epoch.

    With ``checkpoints`` a call that was cut off is made again, and goes on from the newest of them. On CPUs,
    as many processes as before end with the same bits as a call that was not, in model and history but for
    the seconds; another number of processes ends with the same model up to rounding.

    Where ``torchrun`` or ``srun`` started several processes that all make this call, they learn one model
    together, each from its share of every batch, and all return it.

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
        Rows in a minibatch, of all processes together. A learner that sees all rows is given all of them at
        once.
    annealing : str or callable
        Name in :data:`~entrosparse.annealing.SCHEDULES`, or a function from the epoch to the weights.
    seed : int
        Seed of the initial dictionary and the order of the data.
    device : str
        Where to compute; with ``"cuda"`` each of several processes has a device of its own.
    sample_weight : ndarray of shape (N,), optional
        Weights of the training rows; one each by default.
    callbacks : sequence of Callback
        Told after each batch and each epoch, one after the other.
    checkpoints : Checkpoints, optional
        Where what it takes to go on is kept: from time to time, and when a callback that is told of a batch
        raises KeyboardInterrupt. Of several processes only the first writes.
    processes : Processes, optional
        Those that learn together; by default all that this one was started with.

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
    ProcessError
        If another process failed.

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
    processes = current_processes() if processes is None else processes
    device = device if processes.alone else device_of_process(device)
    check_device(device)
    check_shared(processes, learner)
    if len(data) < 1 or (heldout is not None and len(heldout) < 1):
        raise InputError("the training data and the held-out data must have at least one row each")
    generator = torch.Generator().manual_seed(seed)
    schedule = WeightsOfEpochs.from_function(get_schedule(annealing), epochs)
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
        "device": device if processes.alone else device.partition(":")[0],
        "version": version("entrosparse"),
    }
    source = processes.agreed(
        lambda: Source(learner, data, heldout, batch_size, device, sample_weight, generator, processes),
        lambda made: _descriptions(settings | {"data": made.sample, "number of rows": made.n_rows}),
    )
    with as_many_threads_as_help(source.batch_size, source.sample.shape[1], n_components):
        started = time.perf_counter()
        rows, row_weight = source.start

        def make(generator: torch.Generator) -> SparseCodingModel:
            model = initial_model(rows, n_components, init, prior, generator, row_weight, likelihood)
            return model if learner.sees_all_rows else with_fitting_scales(model, rows, row_weight)

        snapshot = Snapshot(
            state=starting_state(learner, rows, seed, make, processes),
            generator=generator.get_state(),
            position=0,
            seconds=time.perf_counter() - started,
            history=[],
        )
        course = Course(learner, source, schedule, callbacks, snapshot, processes)
        try:
            if checkpoints is not None:
                first_epoch = 0 if source.reports_start else 1
                course.keep(
                    checkpoints,
                    lambda: Task(settings | source.settings(), epochs, len(data), first_epoch),
                )
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
    return TrainingResult(course.model, course.history, course.inference, done)


def starting_state(
    learner: Learner,
    rows: Tensor,
    seed: int,
    make: Callable[[torch.Generator], SparseCodingModel],
    processes: Processes,
) -> Any:
    """Return the state of a learner at a model that the first process makes for all."""
    generator = torch.Generator()

    def first() -> tuple[SparseCodingModel, Tensor]:
        model = make(generator.manual_seed(seed))
        return model.to("cpu"), generator.get_state()

    model, generator_state = processes.from_first(first)
    return learner.start(model.to(rows), rows, generator.set_state(generator_state))


def check_shared(processes: Processes, learner: Learner) -> None:
    """Raise InputError if there are several processes and a learner cannot be shared by them."""
    if not (processes.alone or learner.shares_batches):
        raise InputError(
            f"several processes need a learner that shares batches; got {type(learner).__name__}"
        )


def _descriptions(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings in words, but for those that cannot be told from others of their kind."""
    found = {}
    for name, setting in settings.items():
        with suppress(InputError):
            found[name] = in_words(setting, name)
    return found


def warn_of_noise_floor(share: float) -> None:
    """Warn that the noise variance is at its floor, which is that share of the data's mean square."""
    warnings.warn(
        f"the noise variance reached its floor, {share:.2g} of the data's mean square, without which the "
        "ELBO would have no upper bound; use fewer components (n_components) or data with noise",
        errors.ConvergenceWarning,
        stacklevel=3,
    )
