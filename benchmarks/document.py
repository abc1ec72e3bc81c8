"""Write docs/performance.md and its pictures from benchmarks/results.json."""

import json
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

import cost
from entrosparse.app import plots
from measuring import Line

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
TEXT = """# Performance

`make bench` took these figures, in one run on a shared machine ({machine}; {versions}),
from {data},
whitened, float32, D = 256, H = 100 and one thread unless said; `python benchmarks/document.py` wrote this
page. Seconds hold for that machine only: read the ratios, which compare works done in turn in one
process.

| figure | work | value | to reach | |
| --- | --- | ---: | ---: | --- |
{table}

## How each number was taken

- **time to bound**: every peer learns with three penalties (0.1, 0.2, 0.4 of ½‖x − Wz‖² + penalty ‖z‖₁),
  and its dictionaries are judged by the converged held-out ELBO, evaluation not timed. The best one sets
  the bound; ours is the time after which one run, judged in the same way at some moments of it, is above
  it, the median of three seeds (at H = 400, one). The ratio is of learning times, starts included.
- **anytime, arrival, final bound**: three runs of 30 epochs with different seeds; the held-out ELBO of the
  dictionary of the learner's state at each moment, above that of the leading principal directions, with λ,
  σ² and diagonal posteriors at their optimum for both. `train` would keep the start where that is
  better. Learning needs no planned end, so that the first ten
  epochs are a run of ten.
- **full covariance, learned**: the held-out ELBO of a run with full covariances, under full posteriors, less
  that of a run with diagonal ones, under diagonal posteriors; λ and σ² at their optimum for each.
- **H = 1,000**: the history that the command wrote, each row the bound of held-out patches; λ and σ² are
  found in a few turns for it, so that the bounds are a bit low.
- **waiting**: wall time of a new process of `entrosparse fit` over the learning time in its history.
- **as a user waits**: wall time of `SparseCoding.fit` with all that it does, after as many epochs as it takes
  to pass the bound of scikit-learn's one pass, the best of three penalties.
- **never worse**: the ELBO of the dictionary that is kept, less that of the start, on the rows learned from,
  with λ, σ² and posteriors at their optimum; the worst of ten folders of odd pictures, prepared as by the
  command, and of five tables that ship with scikit-learn, for learning from all data and from minibatches.
- **wide, digits**: `SparseCoding.fit` on one thread; peak memory is that of the whole process.
- **partial_fit**: held-out `score` after one pass of minibatches, less that after `fit` of one epoch.
- **processes**: speed-up of two processes of one thread each over one: the learning time of an epoch, or the
  time of encoding, in one process over that in two, launched by torchrun on this machine.
- **encode**: all patches in batches of a size that the solver chooses, at the tolerance at which every
  patch's ELBO is within 1e-3 nats of its optimum; lasso at the penalty of the model, σ²/λ. The works take
  turns, and the ratio is the median.
- **roofline**: an EM epoch over the products of its shapes alone, in turn: Wᵀx, one for the start
  and Gν for each sweep of the E-step, and those of the statistics and of the dictionary step. The guard
  counts erf, exp and log of the codes too, and ends the benchmark with an error if it is missed.
- **full covariance**: all sweeps that leave the mean ELBO within 1e-3 nats, over as many Cholesky
  factorisations of as many matrices.
- **missing**: posteriors to a tolerance of 1e-3 of the same patches, with half of the pixels removed at
  random and complete; the noise variance is set, since the ratio depends on it.
- **overcomplete**: one run of H = 400, judged on 512 held-out patches; the sweeps are those of a cold start.
- **encoder**: an Adam epoch over the products of its forward and backward passes and of the statistics.
- **scaling**: an epoch of N rows streamed from disk (D = 64, H = 32; memory is what the process holds
  at the end that no file backs), and one step of 512 rows for H and D; exponents are slopes of
  straight lines in log-log.
- **threads**: posteriors to a tolerance of 1e-3, and an epoch without its start and figures, with two
  threads allowed and with one, in turn: for large works the speed-up, which is the time with one over that
  with two, and for small works the time with two over that with one. How many of the two are used is what
  is chosen by default.
- **start-up**: new processes in turn; the import is that of `torch` and a model class, less that of
  `torch`.

![Held-out ELBO against seconds](performance-learning.png)

![Seconds an epoch against N, H and D](performance-scaling.png)

![Share of the matrix products](performance-roofline.png)
"""

SCALING = """# What several processes cost

`make bench` measured the figures of the first table, on two cores of a shared machine; `python
benchmarks/document.py` wrote this page.

| figure | work | value | to reach | |
| --- | --- | ---: | ---: | --- |
{measured}

A step of learning takes `rows / k · a + m + r` in k processes: each infers its share of the rows, the
sums of all are added up (`r`, of H² + D H numbers of 8 bytes), and each repeats the M-step (`m`). With
the rates of the first table this foresees what follows. **Nothing of it is measured but the two cores.**
For cores of larger machines the rates are those of these cores (a machine of 32 has 0.7 times the rate
of 32, because they share their memory), sums take 50 µs a round and 10 GB/s between machines; a GPU is
taken to reach 20 of its 60 Tflop/s and to start its kernels in 2 ms a step, with 20 µs and 200 GB/s for
sums. The last column is for an epoch of 10⁹ rows; nothing is counted for reading them.

| work | machines | ms a step, one | ms a step, all | speed-up | hours for 10⁹ rows |
| --- | --- | ---: | ---: | ---: | ---: |
{table}

What does not fall with the number of processes is the M-step and the sum. So they pay off as long as a
process infers for longer than that: with larger minibatches, more than with more rows.

![Speed-up against the number of processes](performance-processes.png)
"""


def main() -> None:
    results = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    lines = [Line(**line) for line in results["lines"]]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    table = "\n".join(row(line) for line in lines)
    text = TEXT.format(machine=results["machine"], versions=versions, data=results["data"], table=table)
    (DOCS / "performance.md").write_text(text, encoding="utf-8")
    scaling = SCALING.format(
        table=cost.page(results["curves"]["cost"]),
        measured="\n".join(row(line) for line in lines if line.name in ("processes", "cost")),
    )
    (DOCS / "scaling-cost.md").write_text(scaling, encoding="utf-8")
    for name, figure in (
        ("learning", draw_learning(results["curves"])),
        ("scaling", draw_scaling(results["curves"]["scaling"])),
        ("roofline", draw_roofline(lines)),
        ("processes", cost.draw(results["curves"]["cost"])),
    ):
        figure.savefig(DOCS / f"performance-{name}.png", dpi=110, facecolor="white")


def row(line: Line) -> str:
    verdict = {None: "", True: "met", False: "**missed**"}[line.met]
    remark = "; ".join(part for part in (verdict, line.note) if part)
    return f"| {line.name} | {line.work} | {line.value:.3g} {line.unit} | {line.target} | {remark} |"


def draw_learning(curves: dict[str, Any]) -> Any:
    figure, (few, many) = plots.panels(1, 2, (11.0, 3.9))
    _draw_learners(few, curves["learning"], curves["PCA"])
    _draw_learners(many, curves["learning, H = 400"], 0.0)  # 256 principal directions leave no noise
    few.axhline(0.0, color=plots.PAPER_COLOUR, linestyle="--", linewidth=1)
    few.set(ylabel="held-out ELBO above PCA (nats per patch)", xlabel="seconds of learning, H = 100")
    few.set_ylim(bottom=-8)
    many.set(ylabel="held-out ELBO (nats per patch)", xlabel="seconds of learning, H = 400")
    many.legend(
        *few.get_legend_handles_labels(),
        frameon=False,
        fontsize=8.5,
        labelcolor=plots.INK,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    return figure


def _draw_learners(axes: Any, curves: dict[str, Any], floor: float) -> None:
    others = iter(plots.PALETTE[1:])
    for name, curve in curves.items():
        axes.plot(
            *zip(*((seconds, elbo - floor) for seconds, elbo in curve), strict=True),
            "o-" if "EM" in name else "o",
            color=plots.ELBO_COLOUR if name == OURS else COLOURS.setdefault(name, next(others)),
            label=name,
            markersize=4,
            linewidth=1.3,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


OURS = "online EM"
COLOURS: dict[str, str] = {}
"""Colour of each peer, the same in all panels."""


def draw_scaling(scaling: dict[str, dict[str, float]]) -> Any:
    figure, grid = plots.panels(1, 3, (11.0, 3.4))
    words = {"N": "s an epoch, streamed", "H": "s a step of 512, D = 256", "D": "s a step of 512, H = 100"}
    for axes, (name, times) in zip(grid, scaling.items(), strict=True):
        sizes = [float(size) for size in times]
        axes.loglog(sizes, list(times.values()), "o-", color=plots.ELBO_COLOUR)
        axes.set(xlabel=name, ylabel=words[name])
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], fontsize=7.5)
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def draw_roofline(lines: list[Line]) -> Any:
    shares = {line.work: line for line in lines if "products' share" in line.work}
    figure, (axes,) = plots.panels(1, 1, (8.5, 2.2))
    names = list(shares)
    axes.barh(names, [shares[name].value for name in names], color=plots.ELBO_COLOUR, height=0.5)
    for k, name in enumerate(names):
        axes.plot([float(shares[name].target[1:])] * 2, [k - 0.4, k + 0.4], color=plots.INK, linewidth=2)
    axes.set(xlim=(0, 1), xlabel="matrix products alone / whole work (line: to reach)")
    axes.invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
