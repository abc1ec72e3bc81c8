"""Write docs/performance.md and its pictures from benchmarks/results.json."""

import json
from pathlib import Path
from typing import Any

from entrosparse import plots
from measuring import Line

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
TEXT = """# Performance

`make bench` took these figures, in one run on a shared machine ({machine}; {versions}), from {data},
whitened, float32, D = 256, H = 100 and one thread unless said; `python benchmarks/document.py` wrote this
page. Seconds hold for that machine only: read the ratios, which compare works done in turn in one
process.

| figure | work | value | to reach | |
| --- | --- | ---: | ---: | --- |
{table}

## How each number was taken

- **time to bound**: every peer learns with three penalties (0.1, 0.2, 0.4 of ½‖x − Wz‖² + penalty ‖z‖₁),
  and its dictionaries are judged by the converged held-out ELBO, evaluation not timed. The best one sets
  the bound; ours is the least time after which a run of 1 to 10 epochs is above it. The ratio is of
  learning times.
- **final bound**: held-out ELBO after 10 epochs, above that of the leading principal directions, with λ,
  σ² and diagonal posteriors at their optimum for both.
- **encode**: all patches in batches of 512, at the tolerance at which every patch's ELBO is within 1e-3
  nats of its optimum; lasso at the penalty of the model, σ²/λ. The works take turns, and the ratio is the
  median.
- **roofline**: an EM epoch over the products of its shapes alone, in turn: Wᵀx, Gν for each iteration,
  and those of the statistics and of the dictionary step.
- **full covariance**: all sweeps that leave the mean ELBO within 1e-3 nats, over as many Cholesky
  factorisations of as many matrices.
- **overcomplete**: as time to bound, at H = 400; the iterations are those of a cold start.
- **encoder**: an Adam epoch over the products of its forward and backward passes and of the statistics.
- **scaling**: an epoch of N rows streamed from disk (D = 64, H = 32; memory is what the process holds at
  the end that no file backs), and one step of 512 rows for H and D; exponents are slopes of straight
  lines in log-log.
- **threads**: an epoch of 5,120 patches with two threads allowed, over one with a single thread.
- **start-up**: new processes in turn; the import is that of `torch` and a model class, less that of
  `torch`.

![Held-out ELBO against seconds](performance-learning.png)

![Seconds an epoch against N, H and D](performance-scaling.png)

![Share of the matrix products](performance-roofline.png)
"""


def main() -> None:
    results = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    lines = [Line(**line) for line in results["lines"]]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    table = "\n".join(row(line) for line in lines)
    text = TEXT.format(machine=results["machine"], versions=versions, data=results["data"], table=table)
    (DOCS / "performance.md").write_text(text, encoding="utf-8")
    for name, figure in (
        ("learning", draw_learning(results["curves"])),
        ("scaling", draw_scaling(results["curves"]["scaling"])),
        ("roofline", draw_roofline(lines)),
    ):
        figure.savefig(DOCS / f"performance-{name}.png", dpi=110, facecolor="white")


def row(line: Line) -> str:
    verdict = {None: "", True: "met", False: "**missed**"}[line.met]
    remark = "; ".join(part for part in (verdict, line.note) if part)
    return f"| {line.name} | {line.work} | {line.value:.3g} {line.unit} | {line.target} | {remark} |"


def draw_learning(curves: dict[str, Any]) -> Any:
    figure, grid = plots.panels(1, 2, (10.0, 4.0))
    for axes, suffix in zip(grid, ("", ", H = 400"), strict=True):
        floor, groups = curves[f"PCA{suffix}"], curves[f"learning{suffix}"]
        ours = [curve for name, curve in groups.items() if name.startswith("online EM")]
        for k, curve in enumerate(ours):
            label = "online EM, runs of several lengths" if k == 0 else None
            _draw(axes, curve, floor, plots.ELBO_COLOUR, label, "-")
        theirs = {name: curve for name, curve in groups.items() if not name.startswith("online EM")}
        for (name, curve), colour in zip(theirs.items(), plots.PALETTE[1:], strict=False):
            _draw(axes, curve, floor, colour, name, "-" if "EM" in name else "o")
        axes.axhline(0.0, color=plots.PAPER_COLOUR, linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel=f"seconds of learning{suffix}", ylim=(-8, None))
        plots.add_legend(axes, loc="lower right")
    grid[0].set_ylabel("held-out ELBO above PCA (nats per patch)")
    return figure


def _draw(
    axes: Any, curve: list[list[float]], floor: float, colour: str, label: str | None, style: str
) -> None:
    points = [(seconds, elbo - floor) for seconds, elbo in curve if seconds > 0]
    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=5, linewidth=1.4)


def draw_scaling(scaling: dict[str, dict[str, float]]) -> Any:
    figure, grid = plots.panels(1, 3, (10.0, 3.4))
    words = {"N": "s an epoch, streamed", "H": "s a step of 512, D = 256", "D": "s a step of 512, H = 100"}
    for axes, (name, times) in zip(grid, scaling.items(), strict=True):
        axes.loglog([float(size) for size in times], list(times.values()), "o-", color=plots.ELBO_COLOUR)
        axes.set(xlabel=name, ylabel=words[name])
    return figure


def draw_roofline(lines: list[Line]) -> Any:
    shares = {line.work: line for line in lines if "products' share" in line.work}
    figure, (axes,) = plots.panels(1, 1, (7.0, 2.2))
    names = list(shares)
    axes.barh(names, [shares[name].value for name in names], color=plots.ELBO_COLOUR, height=0.5)
    for k, name in enumerate(names):
        axes.plot([float(shares[name].target[1:])] * 2, [k - 0.4, k + 0.4], color=plots.INK, linewidth=2)
    axes.set(xlim=(0, 1), xlabel="time of the matrix products alone / time of the work (bar: to reach)")
    axes.invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
