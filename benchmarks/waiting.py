"""What users wait for, by the clock on the wall: the command, and the estimator beside scikit-learn."""

import csv
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from entrosparse import SparseCoding
from entrosparse.errors import ConvergenceWarning
from entrosparse.reproduce.shared.quiet_fits import quietly
from learning import H, scikit_learn_points
from measuring import Bench, Line, Part, bound, timed

FITS = {100: (204_800, 10), 300: (51_200, 10), 1000: (51_200, 10)}
QUICK_FITS = {100: (20_480, 5), 300: (512, 1), 1000: (512, 1)}
"""Patches and epochs of the command for each number of fields."""

ESTIMATOR = {10_240: "≥10", 51_200: "≥40"}
"""What to reach with so many patches."""


@dataclass(frozen=True)
class Fit:
    """A run of the command: its wall time and its history, each column a list."""

    n_components: int
    work: str
    wall: float
    history: dict[str, list[float]]


def measure(bench: Bench) -> Part:
    fits = {n: _command(bench, n, *sizes) for n, sizes in (QUICK_FITS if bench.quick else FITS).items()}
    lines = [_over_learning(fits[n], bench.in_full("≤1.3")) for n in ((100,) if bench.quick else fits)]
    return Part(lines + _many_fields(bench, fits[1000], fits[300]))


def measure_estimator(bench: Bench) -> Part:
    """The wall time of ``SparseCoding.fit`` until scikit-learn's bound of one pass is passed."""
    _fitted(bench, 512, 1)  # torch imports much at first
    lines = []
    for n_patches, target in ESTIMATOR.items():
        if n_patches > len(bench.train):
            continue
        theirs, best = max(scikit_learn_points(bench, n_patches), key=lambda point: point[1])
        took, epochs, gain = 0.0, 0, -np.inf
        for epochs in (1, 2, 3, 5, 10):
            runs = [_fitted(bench, n_patches, epochs) for _ in range(3)]
            took, gain = statistics.median(run[0] for run in runs), runs[0][1] - best
            if gain > 0:
                break
        passed = f"{gain:+.2f} nats beside it" if gain > 0 else "not passed"
        note = f"{took:.2f} s, {epochs} epoch(s), against {theirs:.1f} s; {passed}"
        times = theirs / took if gain > 0 else 0.0
        work = f"SparseCoding.fit of {n_patches:,}, scikit-learn's pass"
        lines.append(Line("as a user waits", work, times, "x", target, note))
    return Part(lines)


def _fitted(bench: Bench, n_patches: int, epochs: int) -> tuple[float, float]:
    """Seconds of a fit, and the held-out bound of its dictionary."""
    coding = SparseCoding(H, algorithm="online", max_epochs=epochs, random_state=0)
    with quietly(ConvergenceWarning):
        took = timed(lambda: coding.fit(bench.train[:n_patches]))
    return took, bound(coding.components_.T.astype(np.float32), bench) if n_patches > 512 else 0.0


def _command(bench: Bench, n_components: int, n_patches: int, epochs: int) -> Fit:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = {"n-components": n_components, "n-patches": n_patches, "epochs": epochs, "out": run}
        command = [str(Path(sys.executable).with_name("entrosparse")), "fit"]
        command += [] if bench.folder is None else [bench.folder]
        command += [f"--{name}={value}" for name, value in settings.items()]
        wall = timed(lambda: subprocess.run(command, capture_output=True, check=True))
        with (run / "history.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    history = {name: [float(row[name]) for row in rows] for name in rows[0]}
    return Fit(n_components, f"{n_patches:,} patches, {epochs} epochs", wall, history)


def _over_learning(fit: Fit, target: str) -> Line:
    learning, evaluation = (fit.history[name][-1] for name in ("seconds", "evaluation_seconds"))
    note = f"{fit.work}: {fit.wall:.1f} s, of which {learning:.1f} learning, {evaluation:.1f} its figures"
    work = f"entrosparse fit, H = {fit.n_components:,}, over its learning"
    return Line("waiting", work, fit.wall / learning, "x", target, note)


def _many_fields(bench: Bench, many: Fit, few: Fit) -> list[Line]:
    """Four times as many fields as dimensions: learning must not end below where it began, or below fewer."""
    curve, name = many.history["elbo"], f"H = {many.n_components:,}"
    in_use = many.n_components - many.history["dead_latents"][-1]
    shown = f"{many.work}: {curve[0]:.1f} at the start, {curve[-1]:.1f} in the end"
    reason = "diagonal posteriors at little noise use about as many latents as the data have dimensions"
    unused = many.history["dead_latents"][-1] - few.history["dead_latents"][-1]
    cost = unused * (0.5 - math.log(math.pi / 2))  # What a Gaussian posterior loses beside a Laplace prior.
    less = (
        f"H = {few.n_components} ends at {few.history['elbo'][-1]:.1f}; "
        f"{unused:.0f} more latents without use cost {cost:.1f} nats"
    )
    return [
        Line(
            name,
            "least epoch, above the start",
            min(curve[1:]) - curve[0],
            "nats",
            bench.in_full("≥0"),
            shown,
        ),
        Line(
            name,
            "end, above that of H = 300",
            curve[-1] - few.history["elbo"][-1],
            "nats",
            bench.in_full("≥0"),
            less,
        ),
        Line(name, "fields in use", in_use, "fields", "", reason),
    ]
