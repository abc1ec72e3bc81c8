"""Fig. 9: sparsity of codes with prior annealing and without."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from entrosparse.app import plots
from entrosparse.reproduce.framework.experiment import Claim, Experiment, Picture, Result, draw_patches
from entrosparse.reproduce.shared.annealed_runs import (
    COLOURS,
    CONFIGS,
    PAPERS_EM,
    AnnealedConfig,
    AnnealedRun,
    Runs,
    describe,
    judge,
    learn,
    numbers,
)


def run(config: AnnealedConfig) -> Result:
    """Learn with prior annealing and without, by two algorithms."""
    data = draw_patches(config)
    runs, shared_seconds = learn(config, data, ("prior", "none"))
    return Result(
        data=data.words,
        claims=_claims(runs),
        pictures=(
            Picture(
                "gini",
                "Gini index of codes drawn from the posteriors of the annealed objective, mean ± SD over the "
                f"patches, and the weight of the prior entropy ({describe(runs, config)}).",
                (_draw(runs),),
            ),
        ),
        numbers=numbers(runs),
        shared_seconds=shared_seconds,
    )


def _claims(runs: Runs) -> tuple[Claim, ...]:
    form = "Gini index {:+.3f} to {:+.3f}"
    return (
        judge(
            runs,
            "prior annealing makes codes sparser in every epoch that it lasts",
            "higher Gini index",
            form,
            lambda of: _range(_gains(of)[0]),
            lambda least, most: least > 0,
        ),
        judge(
            runs,
            "codes stay sparser after it ends, marginally: by less than during it",
            "marginally higher Gini index",
            form,
            lambda of: _range(_gains(of)[1]),
            lambda least, most: least > 0 and most < min(_gains(runs[PAPERS_EM])[0]),
        ),
    )


def _gains(runs: Mapping[str, AnnealedRun]) -> tuple[Sequence[float], Sequence[float]]:
    """Return what annealing adds to the Gini index in the epochs of annealing, and in those after it."""
    gains = np.subtract(runs["prior"].curve("gini"), runs["none"].curve("gini"))[1:].tolist()
    n_during = len(runs["prior"].during)
    return gains[:n_during], gains[n_during:]


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _draw(runs: Runs) -> Figure:
    figure, grid = plots.panels(len(runs) + 1, 1, (5.6, 6.6), sharex=True)
    for axes, (name, of) in zip(grid, runs.items(), strict=False):
        axes.sharey(grid[0])
        axes.set_title(name, loc="left", fontsize=10, color=plots.INK)
        axes.set_ylabel("Gini index")
        for (schedule, found), shift in zip(of.items(), (-0.06, 0.06), strict=True):
            axes.errorbar(
                np.add(found.curve("epoch")[1:], shift),
                found.curve("gini")[1:],
                found.curve("gini_deviation")[1:],
                color=COLOURS[schedule],
                marker="o",
                markersize=4,
                capsize=3,
                linewidth=1.6,
                elinewidth=1.0,
                label={"prior": "prior annealing", "none": "no annealing"}[schedule],
            )
    plots.add_legend(grid[0], loc="upper right")
    annealed = runs[PAPERS_EM]["prior"].epochs[1:]
    grid[-1].plot(
        [epoch.epoch for epoch in annealed],
        [epoch.weights.prior for epoch in annealed],
        color=COLOURS["prior"],
        marker="o",
        markersize=4,
    )
    grid[-1].set_ylabel("weight γ")
    grid[-1].set_ylim(bottom=0)
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


EXPERIMENT = Experiment(
    title="Sparsity of codes with prior annealing and without",
    source="Fig. 9",
    configs=CONFIGS,
    run=run,
)
