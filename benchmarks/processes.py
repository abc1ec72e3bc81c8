"""Two processes of one thread each over one: epochs that are large enough to share, and encoding."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from entrosparse.errors import ConvergenceWarning
from entrosparse.inference import DiagonalInference, FullInference, LowRankEncoder, infer_in_chunks
from entrosparse.learning import AdamLearner, OnlineEM, initial_model, train
from entrosparse.priors import Laplace
from entrosparse.processes import Share, current_processes
from measuring import Bench, Line, Part

REPEATS, TURNS = 3, 3
LEARNERS = {
    "an epoch, H = 400, minibatches of 2,048": (OnlineEM(), 400, 2048, "≥1.7"),
    "an epoch, H = 100, minibatches of 512": (OnlineEM(), 100, 512, ""),
    "an epoch with full covariance, H = 100": (OnlineEM(FullInference(0.0, 1)), 100, 2048, "≥1.8"),
    "an epoch with a low-rank encoder, H = 100": (AdamLearner(LowRankEncoder), 100, 2048, "≥1.8"),
}
ENCODE = "encode"


def measure(bench: Bench) -> Part:
    n_rows = 4096 if bench.quick else 20_480
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, np.resize(bench.train, (n_rows, bench.train.shape[1])))
        turns = [(_seconds(path, 1), _seconds(path, 2)) for _ in range(1 if bench.quick else TURNS)]
    one, two = (
        {name: statistics.median(turn[k][name] for turn in turns) for name in turns[0][k]} for k in (0, 1)
    )
    targets = {name: target for name, (*_, target) in LEARNERS.items()} | {ENCODE: "≥1.8"}
    return Part(
        [
            Line(
                "processes",
                f"{name}, speed-up of two over one",
                one[name] / two[name],
                "x",
                bench.in_full(target),
                f"{two[name]:.2f} against {one[name]:.2f} s, {n_rows:,} patches",
            )
            for name, target in targets.items()
        ]
    )


def _seconds(path: Path, n_processes: int) -> dict[str, float]:
    """Seconds of each work in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n_processes}", __file__, str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=1200)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(path: str) -> dict[str, float]:
    """Median seconds of learning and encoding in this process and those beside it."""
    rows, processes = np.load(path, mmap_mode="r"), current_processes()
    found = {}
    for name, (learner, n_components, batch_size, _) in LEARNERS.items():
        times = []
        for _ in range(REPEATS):
            history = train(
                learner,
                rows,
                rows[:64],
                n_components=n_components,
                epochs=1,
                batch_size=batch_size,
                init="data",
            ).history
            times.append(history[-1].seconds - history[0].seconds)
        found[name] = statistics.median(times)
    x = torch.from_numpy(rows[:2048])
    model = initial_model(x, 100, "data", Laplace(), torch.Generator().manual_seed(0))
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in infer_in_chunks(Share(rows, processes), model, DiagonalInference()):
            pass
        processes.from_first(lambda: None)  # The slower of the two counts.
        times.append(time.perf_counter() - started)
    return found | {ENCODE: statistics.median(times)}


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    seconds = _work(sys.argv[1])
    if current_processes().rank == 0:
        print(json.dumps(seconds))
