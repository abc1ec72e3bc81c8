"""Fig. 10, Fig. 11: generative fields, epoch by epoch, under prior and under likelihood annealing."""

from statistics import fmean

from matplotlib.figure import Figure

from entrosparse.app import plots
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result
from entrosparse.reproduce.shared.annealed_runs import (
    CONFIGS,
    PAPERS_EM,
    AnnealedConfig,
    AnnealedEpoch,
    AnnealedRun,
    Runs,
    learn,
)


def run(config: AnnealedConfig) -> Result:
    """Learn without annealing, with that of the prior and with that of the likelihood."""
    runs = learn(config, ("none", "prior", "likelihood"))
    rows = {"localization": "localization of fields", "n_collapsed": "collapsed latents"}
    figure, grid = runs.draw(rows, height=5.4)
    plots.add_legend(grid[-1])
    course = Picture(
        "localization",
        "Share of a field's energy in its best 5 x 5 pixels, median over the fields, and number of latents "
        "that carry no information by the posteriors of the annealed objective, after each epoch "
        f"({runs.settings}). Epoch 0: random fields.",
        (figure,),
    )
    fields = (
        _fields(runs.by_algorithm[PAPERS_EM][schedule], schedule, config)
        for schedule in ("prior", "likelihood")
    )
    return runs.result(_claims(runs), (*fields, course))


def _claims(runs: Runs) -> tuple[Claim, ...]:
    return (
        runs.judge(
            "even after one epoch of prior annealing the fields are localized: half of the way from random "
            "fields to those of the end, and more than without annealing",
            "{1:.2f} on the way from {0:.2f} to {2:.2f}, {3:.2f} without annealing",
            lambda of: [
                *(of["prior"].curve("localization")[k] for k in (0, 1, -1)),
                of["none"].curve("localization")[1],
            ],
            lambda start, first, end, plain: first - start >= 0.5 * (end - start) and first > plain,
        ),
        runs.judge(
            "under prior annealing all latents are used from the beginning",
            "at most {} collapsed after any epoch",
            lambda of: [max(of["prior"].curve("n_collapsed")[1:])],
            lambda n_unused: n_unused == 0,
            paper="all",
        ),
        runs.judge(
            "likelihood annealing leaves collapsed latents while it lasts, and none in the end",
            "up to {} collapsed, then {}",
            lambda of: (
                max(epoch.n_collapsed for epoch in of["likelihood"].during),
                of["likelihood"].end.n_collapsed,
            ),
            lambda during, end: during > 0 and end == 0,
            paper="some, then none",
        ),
        runs.judge(
            "fields are less localized during likelihood annealing than during prior annealing",
            "{:.2f} against {:.2f} on average",
            lambda of: [
                fmean(epoch.localization for epoch in of[schedule].during)
                for schedule in ("likelihood", "prior")
            ],
            lambda likelihood, prior: likelihood < prior,
        ),
        runs.judge(
            "both annealings result in similar fields: closer to each other in localization and ELBO than "
            "prior annealing is to none",
            "{:.3f} against {:.3f}, and {:.1f} against {:.1f} nats",
            lambda of: [
                abs(getattr(of[schedule].end, name) - getattr(of["prior"].end, name))
                for name in ("localization", "elbo")
                for schedule in ("likelihood", "none")
            ],
            lambda near, far, nats_near, nats_far: near < far and nats_near < nats_far,
            paper="0.4 against 2.9 nats",
        ),
    )


def _fields(run: AnnealedRun, schedule: str, config: AnnealedConfig) -> Picture:
    order = run.end.model.prior_scale
    return Picture(
        f"{schedule}-annealing",
        f"Fields under {schedule} annealing by {PAPERS_EM}, in the order of λ in the end (N = "
        f"{config.n_paper_patches:,}, D = {config.patch_size**2}, H = {config.n_components}, "
        f"{run.seconds:.0f} s).",
        tuple(_small(plots.draw_fields(e.model.dictionary, order, config.shape)) for e in run.epochs),
        tuple(_label(epoch, schedule) for epoch in run.epochs),
    )


def _small(figure: Figure) -> Figure:
    """Halve a figure's size, for there are many frames."""
    figure.set_size_inches(*figure.get_size_inches() / 2)
    return figure


def _label(epoch: AnnealedEpoch, schedule: str) -> str:
    letter, weight = {"prior": "γ", "likelihood": "δ"}[schedule], getattr(epoch.weights, schedule)
    return "epoch 0" if epoch.epoch == 0 else f"epoch {epoch.epoch} ({letter} = {weight:.3g})"


EXPERIMENT = Experiment(
    title="Fields, epoch by epoch, under annealing",
    source="Fig. 10, Fig. 11, Fig. 4",
    configs=CONFIGS,
    run=run,
)
