"""How the time of an epoch grows with N (streamed from disk), H and D, and how memory grows with N."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from entrosparse.learning import Batch, OnlineEM
from measuring import Bench, Line, Part, seconds, started

MINIBATCH = 512


def measure(bench: Bench) -> Part:
    sizes = (10_000, 30_000) if bench.quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npy"
        rng = np.random.default_rng(0)
        data = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(max(sizes), 64))
        for start in range(0, len(data), 100_000):
            block = data[start : start + 100_000]
            block[:] = rng.laplace(size=block.shape)
        data.flush()
        del data
        streamed = {n: _streamed(path, n) for n in sizes}
    by_components = {h: _step(256, h) for h in ((25, 100) if bench.quick else (25, 50, 100, 200, 400, 800))}
    by_features = {d: _step(d, 100) for d in ((64, 256) if bench.quick else (64, 128, 256, 512, 1024))}
    epoch = {n: took for n, (took, _) in streamed.items()}
    extra = (streamed[max(sizes)][1] - streamed[min(sizes)][1]) / (max(sizes) - min(sizes))
    lines = [
        Line("scaling", "exponent of N, streamed, one epoch", _exponent(epoch), "", "≤1.1"),
        Line("scaling", "exponent of H, 25 to 800, diagonal", _exponent(by_components), "", "≤2.2"),
        Line("scaling", "exponent of D, 64 to 1024", _exponent(by_features), ""),
        Line(
            "scaling", "memory a data point, streamed", extra, "bytes", "≤16", "8 hold its place in the order"
        ),
    ]
    return Part(lines, {"scaling": {"N": epoch, "H": by_components, "D": by_features}})


_PROGRAM = """
import json, re, sys, numpy as np, torch
from pathlib import Path
from entrosparse.learning import OnlineEM, train
torch.set_num_threads(1)
data = np.load(sys.argv[1], mmap_mode="r")[: int(sys.argv[2])]
start, end = train(OnlineEM(), data, np.array(data[:256]), n_components=32, epochs=1).history
status = Path("/proc/self/status")
held = re.search(r"RssAnon:\\s+(\\d+)", status.read_text()) if status.exists() else None
print(json.dumps([end.seconds - start.seconds, 1024 * int(held[1]) if held else 0]))
"""


def _streamed(path: Path, n: int) -> tuple[float, float]:
    """Seconds of one epoch of ``n`` rows from disk, and bytes held at its end (0 where not known)."""
    command = [sys.executable, "-c", _PROGRAM, str(path), str(n)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    took, held = json.loads(answer)
    return took, held


def _step(n_features: int, n_components: int) -> float:
    """Seconds of one EM step of a minibatch."""
    x = torch.randn(MINIBATCH, n_features, generator=torch.Generator().manual_seed(0))
    learner, batch = OnlineEM(), Batch(x, progress=0.5)
    state = learner.step(started(learner, x, n_components, "random"), batch)
    return seconds(lambda: learner.step(state, batch), 5)


def _exponent(times: dict[int, float]) -> float:
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])
