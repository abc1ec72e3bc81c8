"""The estimator on tables that are wide or small, and learning from batches that pass once."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from entrosparse import SparseCoding
from entrosparse.errors import ConvergenceWarning
from entrosparse.reproduce.shared.quiet_fits import quietly
from measuring import Bench, Line, Part, timed

PATIENCE, QUICK_PATIENCE = 60, 15  # seconds until learning from wide data is stopped
DIGITS = {64: "≤3", 100: "≤6"}
"""Seconds to reach with so many components."""


def measure(bench: Bench) -> Part:
    return Part([*wide(bench), *digits(bench), stream(bench)])


def wide(bench: Bench) -> list[Line]:
    took, megabytes, note = _process(_WIDE, QUICK_PATIENCE if bench.quick else PATIENCE)
    work = "500 x 10,000, H = 20"
    return [
        Line("wide", work, took, "s", "≤5", note),
        Line("wide", f"{work}, peak memory of the process", megabytes, "MB", "≤600", note),
    ]


_WIDE = """
import time, numpy as np, torch
torch.set_num_threads(1)
from entrosparse import SparseCoding
rng = np.random.default_rng(0)
X = rng.laplace(size=(500, 20)) @ rng.normal(size=(20, 10_000)) + rng.normal(size=(500, 10_000))
started = time.perf_counter()
SparseCoding(20, random_state=0).fit(X)
print(time.perf_counter() - started)
"""


def _process(program: str, patience: float) -> tuple[float, float, str]:
    """Seconds that a program prints, the megabytes that its process held at most, and a note if stopped."""
    command = [sys.executable, "-W", "ignore", "-c", program]
    started, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = _peak_memory(process.pid) or peak
            if (waited := time.perf_counter() - started) > patience:
                process.kill()
                return waited, peak, "stopped before its end"
            time.sleep(0.02)
        printed, _ = process.communicate()
        return float(printed), peak, ""


def _peak_memory(process: int) -> float:
    """Megabytes that a process has held at most; 0 where that is not known, as after its end."""
    try:
        held = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return int(held[1]) * 1024 / 1e6 if held else 0.0


def digits(bench: Bench) -> list[Line]:
    X = load_digits().data
    lines = []
    for n_components, target in DIGITS.items():
        if bench.quick and n_components > 64:
            continue
        coding = SparseCoding(n_components, algorithm="batch", random_state=0)
        with quietly(ConvergenceWarning):
            took = timed(lambda coding=coding: coding.fit(X))
        note = f"{coding.n_iter_} iterations, ELBO {coding.elbo_:.2f}"
        lines.append(Line("digits", f"1,797 x 64, H = {n_components}, batch", took, "s", target, note))
    return lines


def stream(bench: Bench) -> Line:
    """One pass of minibatches through ``partial_fit``, against ``fit`` of one epoch."""
    X, n_batches = bench.train, len(bench.train) // 512
    streaming, whole = (
        SparseCoding(100, random_state=0),
        SparseCoding(100, algorithm="online", max_epochs=1, random_state=0),
    )

    def learn() -> None:
        for batch in np.array_split(X, n_batches):
            streaming.partial_fit(batch)

    with quietly(ConvergenceWarning):
        took, fitted = timed(learn), timed(lambda: whole.fit(X))
    less = streaming.score(bench.heldout) - whole.score(bench.heldout)
    note = f"held out; {took:.1f} s against {fitted:.1f} s"
    return Line(
        "partial_fit",
        f"{n_batches} minibatches, above fit of one epoch",
        less,
        "nats",
        bench.in_full("≥-0.2"),
        note,
    )
