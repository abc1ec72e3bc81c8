"""What a step of learning costs in several processes: measured here, and foreseen for larger machines.

A step takes ``rows / k · a + m + r``: each of k processes infers its share of the rows, all sum up, and each
repeats the M-step. The rates of ``a`` and ``m`` are slope and intercept of the seconds of a step in its rows,
over the numbers of operations in its matrix products; ``r`` is ``rounds · latency + bytes / bandwidth`` as
rings and trees have it. Machines that are not here get their rates from what their makers say of them, at the
share of it that this machine reaches of its own: these figures are foreseen and not measured.
"""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from entrosparse.app import plots
from entrosparse.inference import LEARNING_SWEEPS
from entrosparse.learning import Batch, OnlineEM
from measuring import Bench, Line, Part, seconds, started

D = 256
ROWS = (512, 2048)  # minibatches that slope and intercept come from
FIELDS = (100, 400)
SIZES = (10_000, 300_000)  # numbers that are summed
SUMS = 50


@dataclass(frozen=True)
class Machine:
    """What a step costs on a machine.

    Attributes
    ----------
    row_rate, step_rate : float
        Operations a second of a process, in what is done for each row, and once in a step.
    latency, bandwidth : float
        Of a sum: seconds a round of messages, and bytes a second.
    overhead : float
        Seconds of a step whatever its size: the starts of its kernels on a GPU.
    """

    name: str
    row_rate: float
    step_rate: float
    latency: float
    bandwidth: float
    overhead: float = 0.0

    def step(self, n_components: int, n_features: int, rows: int, n_processes: int) -> float:
        """Seconds of a step of so many rows, in so many processes."""
        own = rows / n_processes * per_row(n_components, n_features) / self.row_rate
        once = self.overhead + per_step(n_components, n_features) / self.step_rate
        if n_processes == 1:
            return own + once
        n_bytes = 8 * (n_components**2 + n_features * n_components)
        return own + once + 2 * math.log2(n_processes) * self.latency + 2 * n_bytes / self.bandwidth


def per_row(n_components: int, n_features: int) -> float:
    """Operations in the products for a row: Wᵀx, the start and the sweeps, and the statistics."""
    of_gram = 2 + LEARNING_SWEEPS.max_iterations
    return 2.0 * n_components * (of_gram * n_components + 3 * n_features)


def per_step(n_components: int, n_features: int) -> float:
    """Operations in the products of the M-step: WᵀW and WG, twice, and the inverse of the start."""
    return 2.0 * n_components**2 * (4 * n_features + n_components)


def measure(bench: Bench) -> Part:
    """Fit the model to steps and sums of this machine."""
    rates = {h: _rates(h) for h in FIELDS}
    latency, bandwidth = _sums()
    lines = [
        Line("cost", f"rate of rows, H = {h}", rate / 1e9, "Gflop/s", "", f"of the M-step {once / 1e9:.3g}")
        for h, (rate, once) in rates.items()
    ]
    note = f"and {bandwidth / 1e9:.2g} GB/s, two processes of this machine"
    lines.append(Line("cost", "latency of a sum", latency * 1e3, "ms", "", note))
    return Part(lines, {"cost": {"rates": rates, "latency": latency, "bandwidth": bandwidth}})


def _rates(n_components: int) -> tuple[float, float]:
    """Operations a second for rows, and in the M-step."""
    few, many = (_step_seconds(n_components, rows) for rows in ROWS)
    slope = (many - few) / (ROWS[1] - ROWS[0])
    once = max(few - slope * ROWS[0], 1e-5)
    return per_row(n_components, D) / slope, per_step(n_components, D) / once


def _step_seconds(n_components: int, rows: int) -> float:
    x = torch.randn(rows, D, generator=torch.Generator().manual_seed(0))
    learner, batch = OnlineEM(), Batch(x, progress=0.5)
    state = learner.step(started(learner, x, n_components, "random"), batch)
    return seconds(lambda: learner.step(state, batch), 7)


def _sums() -> tuple[float, float]:
    """Seconds of a round of messages, and bytes a second, between two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
    few, many = json.loads(done.stdout.splitlines()[-1])
    bandwidth = 2 * 8 * (SIZES[1] - SIZES[0]) / max(many - few, 1e-9)
    return max(few - 2 * 8 * SIZES[0] / bandwidth, 1e-6) / 2, bandwidth


def _work() -> list[float]:
    """Seconds of a sum of few numbers, and of many."""
    distributed.init_process_group()
    found = []
    for size in SIZES:
        numbers = torch.zeros(size, dtype=torch.float64)
        distributed.all_reduce(numbers)
        begun = time.perf_counter()
        for _ in range(SUMS):
            distributed.all_reduce(numbers)
        found.append((time.perf_counter() - begun) / SUMS)
    return found


# --- what is foreseen

# A GPU is taken to reach a third of its products in float32, as cores do here, and to start some 400 kernels
# in a step; many busy cores of a machine share their memory.
_GPU_RATE, _GPU_OVERHEAD = 60e12 / 3, 2e-3
_CORE_SHARE, _NODE_CORES = 0.7, 32
CASES = {
    "H = 100, minibatches of 512": (100, 256, 512),
    "H = 400, minibatches of 2,048": (400, 256, 2048),
    "H = 1,000, minibatches of 16,384": (1000, 256, 16_384),
    "H = 4,096, D = 1,024, minibatches of 16,384": (4096, 1024, 16_384),
}
ROWS_OF_AN_EPOCH = 10**9
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def machines(cost: dict[str, Any], n_components: int) -> list[tuple[Machine, int]]:
    """Return kinds of machines with how many of them are used, at the measured number of fields nearest."""
    nearest = min(cost["rates"], key=lambda h: abs(math.log(int(h) / n_components)))
    row_rate, step_rate = cost["rates"][nearest]
    cores = _CORE_SHARE * _NODE_CORES
    return [
        (Machine("cores like those here", row_rate, step_rate, cost["latency"], cost["bandwidth"]), 2),
        (Machine("GPUs of one machine", _GPU_RATE, _GPU_RATE, 2e-5, 2e11, _GPU_OVERHEAD), 8),
        (Machine("machines of 32 cores", row_rate * cores, step_rate * cores, 5e-5, 1e10), 64),
    ]


def page(cost: dict[str, Any]) -> str:
    """Return the table of what is foreseen, in Markdown."""
    rows = []
    for case, (n_components, n_features, minibatch) in CASES.items():
        for machine, count in machines(cost, n_components):
            one, many = (machine.step(n_components, n_features, minibatch, k) for k in (1, count))
            hours = ROWS_OF_AN_EPOCH / minibatch * many / 3600
            rows.append(
                f"| {case} | {count} {machine.name} | {one * 1e3:.3g} | {many * 1e3:.3g} | {one / many:.1f} "
                f"| {hours:,.1f} |"
            )
    return "\n".join(rows)


def draw(cost: dict[str, Any]) -> Any:
    """Draw the speed-up against the number of processes."""
    figure, grid = plots.panels(1, 3, (11.0, 3.6))
    for k, axes in enumerate(grid):
        for colour, (case, (n_components, n_features, minibatch)) in zip(
            plots.PALETTE, CASES.items(), strict=False
        ):
            machine, _ = machines(cost, n_components)[k]
            steps = [machine.step(n_components, n_features, minibatch, count) for count in COUNTS]
            axes.loglog(
                COUNTS, [steps[0] / step for step in steps], "o-", color=colour, label=case, markersize=4
            )
        axes.loglog(COUNTS, COUNTS, color=plots.INK, linestyle=":", linewidth=1)
        axes.set(title=machine.name, xlabel="number of them")
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.set_yticks(COUNTS, [str(count) for count in COUNTS])
        axes.minorticks_off()
    grid[0].set(ylabel="speed-up of a step")
    grid[-1].legend(
        frameon=False, fontsize=8.5, labelcolor=plots.INK, loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    took = _work()
    if distributed.get_rank() == 0:
        print(json.dumps(took))
    distributed.destroy_process_group()
