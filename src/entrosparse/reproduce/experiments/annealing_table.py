"""Table 1: the entropies and the sparsity of codes under different entropy annealings."""

from dataclasses import dataclass
from itertools import product
from typing import final

from matplotlib.figure import Figure

from entrosparse.annealing import EntropyWeights
from entrosparse.app import plots
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table
from entrosparse.reproduce.shared.annealed_runs import (
    COLOURS,
    CONFIGS,
    PAPERS_EM,
    AnnealedConfig,
    AnnealedEpoch,
    Runs,
    Schedules,
    learn,
)

_TERMS = ("prior", "likelihood", "posterior", "elbo")


@final
@dataclass(frozen=True)
class _Stage:
    """A row of the paper's table; `paper` holds the `_TERMS`, the Gini index and its deviation."""

    schedule: str
    name: str
    weights: EntropyWeights
    paper: tuple[float, ...] = ()

    def of(self, runs: Schedules) -> AnnealedEpoch:
        epochs = reversed(runs[self.schedule].epochs)
        return next(epoch for epoch in epochs if epoch.weights == self.weights)


_GAMMA_10 = _Stage("prior", "γ = 10", EntropyWeights(10.0), (-218.72, 10.71, -365.22, -157.21, 0.59, 0.09))
_GAMMA_2 = _Stage("prior", "γ = 2", EntropyWeights(2.0), (-17.29, -144.81, -112.68, 49.41, 0.58, 0.10))
_GAMMA_1 = _Stage("prior", "γ = 1", EntropyWeights(), (29.65, -235.50, -99.67, 106.18, 0.48, 0.05))
_DELTA_7TH = _Stage(
    "likelihood", "δ = 0.14", EntropyWeights(1.0, 1 / 7), (-228.33, 30.59, -234.02, -36.27, 0.55, 0.03)
)
_DELTA_HALF = _Stage(
    "likelihood", "δ = 0.5", EntropyWeights(1.0, 0.5), (-17.77, -115.24, -72.77, 60.24, 0.62, 0.04)
)
_STAGES = (
    _Stage("none", "", EntropyWeights(), (32.40, -234.70, -98.97, 103.33, 0.47, 0.04)),
    *(_GAMMA_10, _GAMMA_2, _GAMMA_1, _DELTA_7TH, _DELTA_HALF),
    _Stage("likelihood", "δ = 1", EntropyWeights(), (29.74, -234.98, -99.43, 105.80, 0.47, 0.05)),
    *(_Stage("tempering", f"γ = δ = {w:g}", EntropyWeights(w, w)) for w in (10.0, 2.0, 1.0)),
)


def run(config: AnnealedConfig) -> Result:
    """Learn without and with annealing of the prior, the likelihood and both, by two algorithms."""
    runs = learn(config, COLOURS)
    picture = Picture(
        "entropies",
        "ELBO and entropies after each epoch, by the posteriors of the annealed objective of that epoch, "
        f"without annealing of the values ({runs.settings}). Circles: Table 1 of the paper, which has other "
        "images.",
        (_draw(runs),),
    )
    return runs.result(_claims(runs, config.n_components), (picture,), (_table(runs),))


def _claims(runs: Runs, n_components: int) -> tuple[Claim, ...]:
    gini = "Gini {:.2f}, {:.2f} against {:.2f}"
    return (
        runs.judge(
            "prior annealing makes codes sparser while it lasts (γ = 10, 2)",
            gini,
            lambda of: (_GAMMA_10.of(of).gini, _GAMMA_2.of(of).gini, of["none"].end.gini),
            lambda first, last, plain: min(first, last) > plain,
            paper="Gini 0.59, 0.58 against 0.47",
        ),
        runs.judge(
            "so does likelihood annealing (δ = 0.14, 0.5)",
            gini,
            lambda of: (_DELTA_7TH.of(of).gini, _DELTA_HALF.of(of).gini, of["none"].end.gini),
            lambda first, last, plain: min(first, last) > plain,
            paper="Gini 0.55, 0.62 against 0.47",
        ),
        runs.judge(
            "at γ = 10 the prior entropy is strongly negative, below -1 nat per latent",
            "{:.1f} nats",
            lambda of: (_GAMMA_10.of(of).prior,),
            lambda entropy: entropy < -n_components,
            paper="-218.7 nats",
        ),
        runs.judge(
            "with prior and with likelihood annealing, the ELBO is highest when they have ended",
            "by {:.0f} and {:.0f} nats",
            lambda of: [
                of[s].end.elbo - max(epoch.elbo for epoch in of[s].during) for s in ("prior", "likelihood")
            ],
            lambda *margins: min(margins) > 0,
            paper="by 57 and 46 nats",
        ),
        runs.judge(
            "they end at or above the ELBO without annealing",
            "{:+.1f} and {:+.1f} nats",
            lambda of: [of[s].end.elbo - of["none"].end.elbo for s in ("prior", "likelihood")],
            lambda *gains: min(gains) >= 0,
            paper="+2.9 and +2.5 nats",
        ),
        runs.judge(
            "the entropies at γ = 2 and at δ = 0.5 are close: apart by at most a fifth of the way they go "
            "during prior annealing",
            "by {:.2f}, {:.2f}, {:.2f} of the way",
            lambda of: [_apart(of, term) for term in ("prior", "likelihood", "posterior")],
            lambda *apart: max(apart) <= 0.2,
            paper="by 0.00, 0.12, 0.15 of the way (prior, likelihood, posterior)",
        ),
    )


def _apart(runs: Schedules, term: str) -> float:
    """Return how far an entropy at γ = 2 is from that at δ = 0.5, as a share of its way from γ = 10 to 1."""
    stages = (_GAMMA_2, _DELTA_HALF, _GAMMA_10, _GAMMA_1)
    first, second, start, end = (getattr(stage.of(runs), term) for stage in stages)
    return abs(first - second) / abs(end - start)


def _table(runs: Runs) -> Table:
    rows: list[tuple[object, ...]] = []
    for stage in _STAGES:
        label = f"{stage.schedule}, {stage.name}" if stage.name else stage.schedule
        if stage.paper:
            *terms, gini, deviation = stage.paper
            rows.append((label, "paper", *terms, f"{gini:.2f} ± {deviation:.2f}", None))
        for name, of in runs.by_algorithm.items():
            found = stage.of(of)
            terms = [getattr(found, term) for term in _TERMS]
            sparsity = f"{found.gini:.2f} ± {found.gini_deviation:.2f}"
            first = not stage.paper and name == PAPERS_EM
            rows.append((label if first else "", name, *terms, sparsity, found.gini_of_means))
    entropies = dict.fromkeys(("H[p(z)]", "H[p(x|z)]", "H[q(z)]", "ELBO"), ".2f")
    return Table.from_values(
        "annealing",
        "Entropies and ELBO in nats per patch after the last epoch at these weights, and Gini index of codes "
        f"drawn from the posteriors ± SD over the patches ({runs.settings}). The posteriors are those of the "
        "annealed objective; the values are not annealed.",
        {"annealing": "", "": ""} | entropies | {"Gini(z) ± SD": "", "Gini of means": ".2f"},
        rows,
    )


def _draw(runs: Runs) -> Figure:
    labels = {"elbo": "ELBO"} | {
        term: plots.ENTROPY_LABELS[term] for term in ("posterior", "prior", "likelihood")
    }
    figure, grid = runs.draw(labels, height=9.0, first=1)
    for axes, (term, of) in zip(grid, product(labels, runs.by_algorithm.values()), strict=True):
        for stage in (stage for stage in _STAGES if stage.paper):
            colour, value = COLOURS[stage.schedule], stage.paper[_TERMS.index(term)]
            axes.plot(stage.of(of).epoch, value, "o", color=colour, markersize=8, fillstyle="none")
    plots.add_legend(grid[0], loc="lower right")
    figure.supylabel("nats per patch", color=plots.INK, fontsize=10)
    return figure


EXPERIMENT = Experiment(
    title="Entropy annealings: entropies, ELBO, sparsity",
    source="Table 1, D.4",
    configs=CONFIGS,
    run=run,
)
