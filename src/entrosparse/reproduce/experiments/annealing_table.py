"""Table 1: the entropies and the sparsity of codes under different entropy annealings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from matplotlib.figure import Figure

from entrosparse.annealing import EntropyWeights
from entrosparse.app import plots
from entrosparse.reproduce.framework.experiment import Claim, Experiment, Picture, Result, Table, draw_patches
from entrosparse.reproduce.shared.annealed_runs import (
    COLOURS,
    CONFIGS,
    PAPERS_EM,
    AnnealedConfig,
    AnnealedEpoch,
    AnnealedRun,
    Runs,
    describe,
    judge,
    learn,
    numbers,
)


@final
@dataclass(frozen=True)
class _Stage:
    """A row of the paper's table; `paper` holds the three entropies, the ELBO, Gini and its deviation."""

    schedule: str
    name: str
    weights: EntropyWeights
    paper: tuple[float, ...] = ()

    def of(self, runs: Mapping[str, AnnealedRun]) -> AnnealedEpoch:
        return runs[self.schedule].at(self.weights)


_PLAIN = _Stage("none", "", EntropyWeights(), (32.40, -234.70, -98.97, 103.33, 0.47, 0.04))
_GAMMA_10 = _Stage(
    "prior", "γ = 10", EntropyWeights(prior=10.0), (-218.72, 10.71, -365.22, -157.21, 0.59, 0.09)
)
_GAMMA_2 = _Stage("prior", "γ = 2", EntropyWeights(prior=2.0), (-17.29, -144.81, -112.68, 49.41, 0.58, 0.10))
_GAMMA_1 = _Stage("prior", "γ = 1", EntropyWeights(), (29.65, -235.50, -99.67, 106.18, 0.48, 0.05))
_DELTA_7TH = _Stage(
    "likelihood", "δ = 0.14", EntropyWeights(likelihood=1 / 7), (-228.33, 30.59, -234.02, -36.27, 0.55, 0.03)
)
_DELTA_HALF = _Stage(
    "likelihood", "δ = 0.5", EntropyWeights(likelihood=0.5), (-17.77, -115.24, -72.77, 60.24, 0.62, 0.04)
)
_DELTA_1 = _Stage("likelihood", "δ = 1", EntropyWeights(), (29.74, -234.98, -99.43, 105.80, 0.47, 0.05))
_STAGES = (
    _PLAIN,
    *(_GAMMA_10, _GAMMA_2, _GAMMA_1),
    *(_DELTA_7TH, _DELTA_HALF, _DELTA_1),
    *(_Stage("tempering", f"γ = δ = {w:g}", EntropyWeights(w, w)) for w in (10.0, 2.0, 1.0)),
)


def run(config: AnnealedConfig) -> Result:
    """Learn without and with annealing of the prior, the likelihood and both, by two algorithms."""
    data = draw_patches(config)
    runs, shared_seconds = learn(config, data, tuple(COLOURS))
    settings = describe(runs, config)
    return Result(
        data=data.words,
        claims=_claims(runs, config.n_components),
        pictures=(
            Picture(
                "entropies",
                "ELBO and entropies after each epoch, by the posteriors of the annealed objective of that "
                f"epoch, without annealing of the values ({settings}). Circles: Table 1 of the paper, which "
                "has other images.",
                (_draw(runs),),
            ),
        ),
        tables=(_table(runs, settings),),
        numbers=numbers(runs),
        shared_seconds=shared_seconds,
    )


def _claims(runs: Runs, n_components: int) -> tuple[Claim, ...]:
    gini = "Gini {:.2f}, {:.2f} against {:.2f}"
    return (
        judge(
            runs,
            "prior annealing makes codes sparser while it lasts (γ = 10, 2)",
            "Gini 0.59, 0.58 against 0.47",
            gini,
            lambda of: (_GAMMA_10.of(of).gini, _GAMMA_2.of(of).gini, of["none"].end.gini),
            lambda first, last, plain: min(first, last) > plain,
        ),
        judge(
            runs,
            "so does likelihood annealing (δ = 0.14, 0.5)",
            "Gini 0.55, 0.62 against 0.47",
            gini,
            lambda of: (_DELTA_7TH.of(of).gini, _DELTA_HALF.of(of).gini, of["none"].end.gini),
            lambda first, last, plain: min(first, last) > plain,
        ),
        judge(
            runs,
            "at γ = 10 the prior entropy is strongly negative, below -1 nat per latent",
            "-218.7 nats",
            "{:.1f} nats",
            lambda of: (_GAMMA_10.of(of).prior,),
            lambda entropy: entropy < -n_components,
        ),
        judge(
            runs,
            "with prior and with likelihood annealing, the ELBO is highest when they have ended",
            "by 57 and 46 nats",
            "by {:.0f} and {:.0f} nats",
            lambda of: [
                of[s].end.elbo - max(epoch.elbo for epoch in of[s].during) for s in ("prior", "likelihood")
            ],
            lambda *margins: min(margins) > 0,
        ),
        judge(
            runs,
            "they end at or above the ELBO without annealing",
            "+2.9 and +2.5 nats",
            "{:+.1f} and {:+.1f} nats",
            lambda of: [of[s].end.elbo - of["none"].end.elbo for s in ("prior", "likelihood")],
            lambda *gains: min(gains) >= 0,
        ),
        judge(
            runs,
            "the entropies at γ = 2 and at δ = 0.5 are close: apart by at most a fifth of the way they go "
            "during prior annealing",
            "by 0.00, 0.12, 0.15 of the way (prior, likelihood, posterior)",
            "by {:.2f}, {:.2f}, {:.2f} of the way",
            lambda of: [_apart(of, term) for term in ("prior", "likelihood", "posterior")],
            lambda *apart: max(apart) <= 0.2,
        ),
    )


def _apart(runs: Mapping[str, AnnealedRun], term: str) -> float:
    """Return how far an entropy at γ = 2 is from that at δ = 0.5, as a share of its way from γ = 10 to 1."""
    stages = (_GAMMA_2, _DELTA_HALF, _GAMMA_10, _GAMMA_1)
    first, second, start, end = (getattr(stage.of(runs), term) for stage in stages)
    return abs(first - second) / abs(end - start)


def _table(runs: Runs, settings: str) -> Table:
    rows = []
    for stage in _STAGES:
        rows += [(_label(stage), "paper", *_cells(*stage.paper), "–")] if stage.paper else []
        for name, of in runs.items():
            found = stage.of(of)
            values = (found.prior, found.likelihood, found.posterior, found.elbo)
            cells = _cells(*values, found.gini, found.gini_deviation)
            first = not stage.paper and name == PAPERS_EM
            rows.append((_label(stage) if first else "", name, *cells, f"{found.gini_of_means:.2f}"))
    return Table(
        "annealing",
        "Entropies and ELBO in nats per patch after the last epoch at these weights, and Gini index of codes "
        f"drawn from the posteriors ± SD over the patches ({settings}). The posteriors are those of the "
        "annealed objective; the values are not annealed.",
        ("annealing", "", "H[p(z)]", "H[p(x|z)]", "H[q(z)]", "ELBO", "Gini(z) ± SD", "Gini of means"),
        tuple(rows),
    )


def _label(stage: _Stage) -> str:
    return f"{stage.schedule}, {stage.name}" if stage.name else stage.schedule


def _cells(
    prior: float, likelihood: float, posterior: float, elbo: float, gini: float, sd: float
) -> tuple[str, ...]:
    return (*(f"{value:.2f}" for value in (prior, likelihood, posterior, elbo)), f"{gini:.2f} ± {sd:.2f}")


def _draw(runs: Runs) -> Figure:
    figure, grid = plots.panels(4, len(runs), (9.0, 9.0), sharex=True)
    rows = {"elbo": "ELBO", "posterior": plots.ENTROPY_LABELS["posterior"]}
    rows |= {term: plots.ENTROPY_LABELS[term] for term in ("prior", "likelihood")}
    position = {"prior": 0, "likelihood": 1, "posterior": 2, "elbo": 3}
    for column, (name, of) in enumerate(runs.items()):
        for row, (term, label) in enumerate(rows.items()):
            axes = grid[row * len(runs) + column]
            axes.set_title(f"{label}, {name}", loc="left", fontsize=10, color=plots.INK)
            axes.sharey(grid[row * len(runs)])
            for schedule, found in of.items():
                axes.plot(
                    found.curve("epoch")[1:],
                    found.curve(term)[1:],
                    color=COLOURS[schedule],
                    marker="o",
                    markersize=3,
                    label=schedule,
                )
            for stage in (stage for stage in _STAGES if stage.paper):
                epoch = stage.of(of).epoch
                axes.plot(
                    epoch,
                    stage.paper[position[term]],
                    marker="o",
                    markersize=8,
                    color=COLOURS[stage.schedule],
                    markerfacecolor="none",
                )
    for axes in grid[-len(runs) :]:
        axes.set_xlabel("epoch")
    plots.add_legend(grid[0], loc="lower right")
    figure.supylabel("nats per patch", color=plots.INK, fontsize=10)
    return figure


EXPERIMENT = Experiment(
    title="Entropy annealings: entropies, ELBO, sparsity",
    source="Table 1, D.4",
    configs=CONFIGS,
    run=run,
)
