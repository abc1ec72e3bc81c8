"""Kill runs at random instants and resume them until they end, in a process that has imported all once.

Run as ``python kills.py KILLS SEED FOLDER TARGET [TARGET ...]``. Each target is run in the folder
TARGET/whole at leisure, and in TARGET/0, TARGET/1, ... with kills. Prints in JSON how many kills there were,
and how many while saving.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from entrosparse.app import cli
from entrosparse.app.commands import fitting
from entrosparse.inference import LowRankEncoder
from entrosparse.learning import AdamLearner, BatchEM, Checkpoints, OnlineEM, RefinedEM, train

LEARNERS = {
    "online": OnlineEM(),
    "adam": AdamLearner(partial(LowRankEncoder, rank=2)),
    "refined": RefinedEM(OnlineEM()),
    "batch": BatchEM(),
}


def learn(learner, folder: Path) -> None:
    rng = np.random.default_rng(3)
    data = (rng.laplace(size=(330, 10)) @ rng.normal(size=(10, 10))).astype(np.float32)
    result = train(
        learner,
        data[:250],
        data[250:],
        n_components=8,
        epochs=3,
        batch_size=64,
        annealing="prior",
        checkpoints=Checkpoints(folder / "checkpoints", 0.0),
    )
    result.model.save(folder / "model.safetensors")
    records = [asdict(record) | {"seconds": 0.0, "evaluation_seconds": 0.0} for record in result.history]
    (folder / "history.json").write_text(json.dumps(records))


def run_command(folder: Path) -> None:
    """Run ``fit``, or ``resume`` where there is a run already."""
    rng = np.random.default_rng(3)
    image, run = folder / "image.npy", folder / "run"
    np.save(image, rng.normal(size=(40, 40)).cumsum(0).cumsum(1))
    fitting._checkpoints = lambda out: Checkpoints(out / "checkpoints", 0.0)
    settings = ["--n-components=8", "--patch-size=4", "--n-patches=250", "--batch-size=64", "--epochs=3"]
    with redirect_stdout(None):
        if cli.main(["resume", str(run)] if run.exists() else ["fit", str(image), *settings, f"--out={run}"]):
            raise SystemExit("the command failed")


TARGETS = {name: partial(learn, learner) for name, learner in LEARNERS.items()} | {"command": run_command}


def ends(target: Callable[[Path], None], folder: Path, seconds: float) -> bool:
    """Run a target in a fork that is killed after some time; return whether it ended before."""
    child = os.fork()
    if not child:
        try:
            target(folder)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run failed in {folder}")
    return code == 0


def kill(target: Callable[[Path], None], place: Path, wanted: int, rng: np.random.Generator) -> list[bool]:
    """Kill runs of a target until there were enough kills, and return which of them fell into a save."""
    for name in ("first", "whole"):  # the first imports what is imported late
        (place / name).mkdir(parents=True)
        started = time.perf_counter()
        target(place / name)
        duration = time.perf_counter() - started
    saving: list[bool] = []
    for index in itertools.count():
        if len(saving) >= wanted:
            return saving
        folder = place / str(index)
        folder.mkdir()
        halves: set[Path] = set()
        # A fork is slow at first, so the time it is given grows; else it might never get anywhere.
        for attempt in itertools.count(1):
            if ends(target, folder, rng.uniform(0.0, attempt * duration)):
                break
            saving.append(not halves.issuperset(folder.rglob(".checkpoint-*")))
            halves.update(folder.rglob(".checkpoint-*"))


def main(wanted: int, seed: int, place: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    saving = [each for name in names for each in kill(TARGETS[name], place / name, wanted, rng)]
    print(json.dumps({"kills": len(saving), "while saving": sum(saving)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
