"""How long the import and the help take."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from measuring import Bench, Line, Part


def measure(bench: Bench) -> Part:
    repeats = 3 if bench.quick else 7
    works = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import entrosparse": [
            sys.executable,
            "-c",
            "import torch, entrosparse; entrosparse.SparseCodingModel",
        ],
        "help": [str(Path(sys.executable).with_name("entrosparse")), "--help"],
    }
    rounds = [{name: _process(command) for name, command in works.items()} for _ in range(repeats)]
    over = statistics.median(each["import entrosparse"] - each["import torch"] for each in rounds)
    shown = statistics.median(each["help"] for each in rounds)
    return Part(
        [
            Line("start-up", "import entrosparse over import torch", over, "s", "≤0.3"),
            Line("start-up", "entrosparse --help in all", shown, "s", "≤0.3"),
        ]
    )


def _process(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started
