"""What the processes of tests/test_processes.py do; each writes what it found to a file of its own."""

import atexit
import pickle
import signal
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch

from entrosparse import SparseCoding
from entrosparse.inference import FullInference
from entrosparse.learning import (
    AdamLearner,
    BatchEM,
    Callback,
    Checkpoints,
    Learner,
    OnlineEM,
    RefinedEM,
    train,
)
from entrosparse.likelihoods import LaplaceNoise
from entrosparse.processes import Processes, current_processes

RNG = np.random.default_rng(0)
X = RNG.laplace(size=(403, 5)) @ RNG.normal(size=(5, 8)) + 0.3 * RNG.normal(size=(403, 8))
HOLES = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
WIDE = X[:15] @ RNG.normal(size=(8, 50))
WEIGHTS = RNG.integers(0, 4, len(X)).astype(float)
SETTINGS = {"n_components": 5, "epochs": 3, "batch_size": 100, "seed": 1, "heldout": X[:101]}
WAYS = {
    "online": (OnlineEM(), X, {}),
    "weights": (OnlineEM(), X, {"sample_weight": WEIGHTS}),
    "missing entries": (OnlineEM(), HOLES, {}),
    "annealing": (OnlineEM(), X, {"annealing": "prior"}),
    "nothing held out": (OnlineEM(), X, {"heldout": None}),
    "empty shares": (OnlineEM(), X[:5], {"batch_size": 2, "heldout": X[:1]}),
    "batch": (BatchEM(), X, {"epochs": 8}),
    "batch with weights": (BatchEM(), X, {"epochs": 8, "sample_weight": WEIGHTS, "heldout": None}),
    "batch, wide": (BatchEM(), WIDE, {"epochs": 8, "heldout": WIDE[:4]}),
    "laplace noise": (OnlineEM(FullInference(0.0, 2)), HOLES, {"likelihood": LaplaceNoise()}),
    "batch, laplace noise": (BatchEM(FullInference(0.0, 1)), X, {"epochs": 8, "likelihood": LaplaceNoise()}),
    "encoder": (AdamLearner(), X, {}),
    "encoder, annealing": (AdamLearner(), X, {"annealing": "prior"}),
    "refined": (RefinedEM(), HOLES, {}),
}


def numbers(result):
    """What must be the same whatever the number of processes."""
    model = result.model
    history = [(r.elbo, r.gini_mean, r.gini_std, r.dead_latents) for r in result.history]
    return (
        model.dictionary.numpy(),
        model.prior_scale.numpy(),
        model.noise_variance.numpy(),
        np.array(history),
    )


def learn(name):
    learner, data, options = WAYS[name]
    return numbers(train(learner, data, **SETTINGS | options))


def estimate():
    coding = SparseCoding(5, algorithm="online", max_epochs=2).fit(X)  # each process draws another seed
    return coding.components_, coding.prior_scale_


STREAMS = {
    "partial_fit": {},
    "partial_fit with weights and missing entries": {"weighted": True},
    "partial_fit of an encoder": {"inference": "encoder"},
}


def stream(name):
    """What an estimator learned from batches that pass once, the last of a single row."""
    options = dict(STREAMS[name])
    weighted = options.pop("weighted", False)
    coding = SparseCoding(5, random_state=0, **options)
    for part in np.split(np.arange(len(X)), [100, 200, 300, 402]):
        if weighted:
            coding.partial_fit(HOLES[part], sample_weight=1.0 + WEIGHTS[part])
        else:
            coding.partial_fit(X[part])
    return coding.components_, coding.prior_scale_, np.array([coding.noise_variance_, coding.elbo_])


class Fails(Callback):
    """Raises an error in the last process after some batches."""

    def __init__(self, error, batches=6):
        self.left, self.error = batches, error

    def on_batch(self, samples_seen):
        self.left -= 1
        processes = current_processes()
        if self.left == 0 and processes.rank == processes.size - 1:
            raise self.error


class Alone(Learner):
    """A learner that knows of no other process."""

    def start(self, model, sample, generator):
        return OnlineEM().start(model, sample, generator)

    def step(self, state, batch):
        return state


def refusal(work):
    try:
        work()
    except BaseException as error:
        return type(error).__name__, str(error)
    return None


def kept_slowly(folder):
    """How many checkpoints there are once a process was stopped that waits for another to write one."""
    save, checkpoints = Checkpoints.save, Checkpoints(folder, 1e9)
    Checkpoints.save = lambda *arguments: time.sleep(1.0) or save(*arguments)
    stop = (Fails(KeyboardInterrupt()),)
    refusal(lambda: train(OnlineEM(), X, **SETTINGS, checkpoints=checkpoints, callbacks=stop))
    Checkpoints.save = save
    return len(list(folder.glob("checkpoint-*")))


def interrupted_within_a_sum():
    """What comes of Ctrl-C in the last process when it has the first part of a sum that takes two."""
    exchange, take_sum, sums = Processes._exchange, Processes.sum, []

    def exchange_and_interrupt(self, numbers, error=None):
        found = exchange(self, numbers, error)
        if len(sums) == 3 and self.rank == self.size - 1:
            signal.raise_signal(signal.SIGINT)
        return found

    def note_long_sums(self, numbers):
        sums.extend([numbers] * (numbers.numel() > self._length))
        return take_sum(self, numbers)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    Processes._exchange, Processes.sum = exchange_and_interrupt, note_long_sums
    ended = refusal(lambda: train(AdamLearner(), X, **SETTINGS))
    Processes._exchange, Processes.sum = exchange, take_sum
    signal.signal(signal.SIGINT, before)
    return ended, len(sums)


def name_threads(path):
    """Write down the threads of this process, which Linux alone tells."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    path.write_text("\n".join(names))


def main(folder):
    atexit.register(lambda: name_threads(folder / f"threads-{processes.rank}"))  # after the group has ended
    processes = current_processes()
    found = {name: learn(name) for name in WAYS}
    found["estimator"] = estimate()
    found |= {name: stream(name) for name in STREAMS}
    if processes.size == 2:
        found["one fails"] = refusal(
            lambda: train(OnlineEM(), X, **SETTINGS, callbacks=(Fails(ValueError("no\nluck")),))
        )
        other = X + processes.rank
        found["other data"] = refusal(lambda: train(OnlineEM(), other, **SETTINGS))
        found["other arguments"] = refusal(
            lambda: train(OnlineEM(), X, **SETTINGS | {"epochs": 3 + processes.rank})
        )
        coding = SparseCoding(5, random_state=0).partial_fit(X[:100])
        found["other batches"] = refusal(lambda: coding.partial_fit(other[100:200]))
        found["a bad batch in one"] = refusal(lambda: coding.partial_fit(X[:50, : 8 - processes.rank]))
        found["after both"] = coding.n_iter_
        bad = X * np.nan if processes.rank else X
        found["bad data in one"] = refusal(lambda: train(OnlineEM(), bad, **SETTINGS))
        found["alone"] = refusal(lambda: train(Alone(), X, **SETTINGS))
        keep = {"epochs": 8, "checkpoints": Checkpoints(folder / "kept till one fails", 0.0)}
        found["one fails while all keep"] = refusal(
            lambda: train(BatchEM(), X, **SETTINGS | keep, callbacks=(Fails(ValueError("no luck")),))
        )
        found["kept before one leaves"] = kept_slowly(folder / "kept before one leaves")
        found["interrupted within a sum"] = interrupted_within_a_sum()
        for name in ("online", "batch", "encoder"):
            learner, data, options = WAYS[name]
            settings = SETTINGS | options | {"checkpoints": Checkpoints(folder / name, 0.0)}
            stop = Fails(KeyboardInterrupt(), 4)
            stopped = refusal(partial(train, learner, data, **settings, callbacks=(stop,)))
            found[f"{name}, stopped"] = stopped
            found[f"{name}, gone on"] = numbers(train(learner, data, **settings))
    (folder / f"found-{processes.rank}").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
