"""Two threads beside one, at sizes where they help and at sizes where they must do no harm."""

import os
import time
from collections.abc import Callable

import numpy as np
import torch

from entrosparse.errors import ConvergenceWarning
from entrosparse.inference import DiagonalInference, infer_in_chunks
from entrosparse.learning import OnlineEM, train
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.shared.quiet_fits import quietly
from measuring import Bench, Line, Part, timed

H = 100
LARGE_ENCODE, LARGE_MINIBATCH = 20_480, 2048  # that two threads must make faster
PATIENCE = 5  # seconds of a comparison after which no turn begins
SMALL_ENCODES = (64, 512, 2048)
SMALL_EPOCHS = ((128, 25), (512, 100), (512, 200))  # minibatch and fields


def measure(bench: Bench) -> Part:
    """Compare what is chosen by default, where two threads are allowed, with a single thread."""
    if (os.cpu_count() or 1) < 2:
        return Part([])
    model = train(OnlineEM(), bench.train[:10_240], bench.heldout[:64], n_components=H, epochs=1).model
    rows = np.resize(bench.train, (LARGE_ENCODE, bench.train.shape[1]))
    large = {
        f"encode {LARGE_ENCODE:,} patches": lambda: _encode(rows, model),
        f"epoch with minibatches of {LARGE_MINIBATCH:,}": lambda: _epoch(bench, 10_240, LARGE_MINIBATCH, H),
    }
    small: dict[str, Callable[[], float]] = {
        f"encode {n}": lambda n=n: _encode(rows[:n], model) for n in SMALL_ENCODES
    } | {
        f"minibatches of {size}, H = {h}": lambda size=size, h=h: _epoch(bench, 5 * size, size, h)
        for size, h in SMALL_EPOCHS
    }
    repeats = 3 if bench.quick else 5
    lines = []
    for work, seconds in large.items():
        one, two = _compared(seconds, repeats)
        note = f"{two:.3f} against {one:.3f} s"
        lines.append(Line("threads", f"{work}, speed-up of two over one", one / two, "x", "≥1.6", note))
    shares = {
        work: two / one for work, seconds in small.items() for one, two in [_compared(seconds, repeats)]
    }
    worst = max(shares, key=shares.__getitem__)
    work = f"slowest of {len(shares)} small works, time with two over one"
    lines.append(Line("threads", work, shares[worst], "x", "≤1.1", worst))
    return Part(lines)


def _compared(seconds: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Median seconds with one thread and with two, in turn, after a turn that does not count.

    On a machine where others work, two threads may take many times longer, so that turns end early.
    """
    started, turns = time.perf_counter(), []
    while len(turns) <= repeats and (len(turns) < 2 or time.perf_counter() - started < PATIENCE):
        turns.append((_with_threads(1, seconds), _with_threads(2, seconds)))
    one, two = np.median(turns[1:], axis=0)
    return float(one), float(two)


def _with_threads(count: int, seconds: Callable[[], float]) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return seconds()
    finally:
        torch.set_num_threads(before)


def _encode(rows: np.ndarray, model: SparseCodingModel) -> float:
    """Seconds to find the posteriors of some rows."""
    return timed(lambda: [None for _ in infer_in_chunks(rows, model, DiagonalInference())])


def _epoch(bench: Bench, n_rows: int, batch_size: int, n_components: int) -> float:
    """Seconds of an epoch, without its start and its figures."""
    options = {"n_components": n_components, "epochs": 1, "batch_size": batch_size, "init": "data"}
    with quietly(ConvergenceWarning):
        start, end = train(OnlineEM(), bench.train[:n_rows], bench.heldout[:64], **options).history
    return end.seconds - start.seconds
