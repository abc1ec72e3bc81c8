"""Fig. 9: sparsity of codes with prior annealing and without."""

import numpy as np
from matplotlib.figure import Figure

from entrosparse.app import plots
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result
from entrosparse.reproduce.shared.annealed_runs import (
    COLOURS,
    CONFIGS,
    PAPERS_EM,
    AnnealedConfig,
    Runs,
    Schedules,
    learn,
    schedule_in_words,
)


def run(config: AnnealedConfig) -> Result:
    """Learn with prior annealing and without, by two algorithms."""
    runs = learn(config, ("prior", "none"))
    picture = Picture(
        "gini",
        "Gini index of codes drawn from the posteriors of the annealed objective, mean ± SD over the "
        f"patches, and the weight of the prior entropy ({runs.settings}).",
        (_draw(runs),),
    )
    return runs.result(_claims(runs), (picture,))


def _claims(runs: Runs) -> tuple[Claim, ...]:
    form = "Gini index {:+.3f} to {:+.3f}"
    (least_during, _), _ = _gains(runs.by_algorithm[PAPERS_EM])
    return (
        runs.judge(
            "prior annealing makes codes sparser in every epoch that it lasts",
            form,
            lambda of: _gains(of)[0],
            lambda least, most: least > 0,
            paper="higher Gini index",
        ),
        runs.judge(
            "codes stay sparser after it ends, marginally: by less than during it",
            form,
            lambda of: _gains(of)[1],
            lambda least, most: least > 0 and most < least_during,
            paper="marginally higher Gini index",
        ),
    )


def _gains(runs: Schedules) -> list[tuple[float, float]]:
    """Return the least and the most that annealing adds to the Gini index while it lasts, and after it."""
    gains = np.subtract(runs["prior"].curve("gini"), runs["none"].curve("gini"))[1:]
    return [(float(part.min()), float(part.max())) for part in np.split(gains, [len(runs["prior"].during)])]


def _draw(runs: Runs) -> Figure:
    figure, grid = plots.panels(3, 1, (5.6, 6.6), sharex=True)
    for axes, (name, of) in zip(grid, runs.by_algorithm.items(), strict=False):
        axes.sharey(grid[0])
        plots.add_title(axes, name)
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
                label=schedule_in_words(schedule),
            )
    plots.add_legend(grid[0], loc="upper right")
    annealed = runs.by_algorithm[PAPERS_EM]["prior"].epochs[1:]
    weights = [epoch.weights.prior for epoch in annealed]
    grid[-1].plot([epoch.epoch for epoch in annealed], weights, "o-", color=COLOURS["prior"], markersize=4)
    grid[-1].set(ylabel="weight γ", ylim=(0.0, None))
    plots.label_epochs(grid[-1])
    return figure


EXPERIMENT = Experiment(
    title="Sparsity of codes with prior annealing and without",
    source="Fig. 9",
    configs=CONFIGS,
    run=run,
)
