"""All measurements of speed in one run: prints the table, writes results.json and the plots.

QUICK measures less of everything, so its figures are rougher; full runs write what docs/performance.md shows.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

import cost
import device
import estimator
import learning
import overcomplete
import processes
import robust
import scaling
import starting
import steps
import threads
import waiting
from measuring import Line, draw_bench

HERE = Path(__file__).parent
MEASUREMENTS = {
    "steps": steps.measure,
    "threads": threads.measure,
    "processes": processes.measure,
    "cost": cost.measure,
    "starting": starting.measure,
    "scaling": scaling.measure,
    "learning": learning.measure,
    "full-covariance": learning.measure_full_covariance,
    "overcomplete": overcomplete.measure,
    "waiting": waiting.measure,
    "as-a-user-waits": waiting.measure_estimator,
    "never-worse": robust.measure,
    "estimator": estimator.measure,
    "device": device.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder or file; photographs that ship with scikit-image by default")
    parser.add_argument("--quick", action="store_true", help="under four minutes")
    parser.add_argument("--only", choices=MEASUREMENTS, help="one part; writes no file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # of NumPy, SciPy and the other libraries
    bench = draw_bench(options.images, options.quick)
    print(f"{len(bench.train):,} patches of 16 x 16 from {bench.source}; {len(bench.heldout):,} held out")
    lines: list[Line] = []
    curves: dict[str, object] = {}
    for name, measure in MEASUREMENTS.items():
        if options.only in (None, name):
            started = time.perf_counter()
            part = measure(bench)
            lines += part.lines
            curves |= part.curves
            for line in part.lines:
                print(in_words(line), flush=True)
            print(f"  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    if options.only is None:
        _write(bench, options.quick, lines, curves)
    for line in lines:
        if line.name == "guard" and not line.met:  # Something has made it slow.
            raise SystemExit(f"{line.work}: {line.value:.2f}; {line.target} was expected")


def in_words(line: Line) -> str:
    verdict = {None: "", True: "met", False: "missed"}[line.met]
    value = f"{line.value:.3g} {line.unit}"
    return f"{line.name:<16}{line.work:<54}{value:>14}  {line.target:<7}{verdict:<8}{line.note}"


def _write(bench, quick: bool, lines: list[Line], curves: dict[str, object]) -> None:
    results = {
        "data": f"{len(bench.train):,} patches of 16 x 16 pixels from {bench.source}",
        "quick": quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            name: version(name) for name in ("entrosparse", "torch", "numpy", "scikit-learn", "spams-bin")
        },
        "lines": [asdict(line) for line in lines],
        "curves": curves,
    }
    target = HERE / ("results-quick.json" if quick else "results.json")
    target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
