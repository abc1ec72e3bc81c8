"""Learning under entropy annealing, looked at after each epoch as the paper does (D.4)."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import add
from typing import Any, final

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.app import plots
from entrosparse.inference import DiagonalInference
from entrosparse.learning import Callback, EpochRecord, Learner, OnlineEM
from entrosparse.metrics import dead_latents, gini, localization
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import entropy_elbo
from entrosparse.posteriors import Diagonal
from entrosparse.reproduce.framework import Claim, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import SMOKE, PatchConfig, PatchData, draw_patches
from entrosparse.reproduce.shared.gradient_em import GradientEM
from entrosparse.statistics import Statistics

COLOURS = {
    "none": plots.ELBO_COLOUR,
    "prior": plots.ENTROPY_COLOURS["prior"],
    "likelihood": plots.ENTROPY_COLOURS["likelihood"],
    "tempering": plots.PALETTE[4],
}
"""Colour of each schedule, in all figures."""

PAPERS_EM, ONLINE_EM = "paper's EM", "online EM"


@dataclass(frozen=True)
class AnnealedConfig(PatchConfig):
    """Settings of learning under annealing, by online EM and by the paper's EM-like updates.

    Attributes
    ----------
    n_judged : int
        Patches to judge by: the first of those that are learned from, as in the paper.
    n_paper_patches : int
        How many of the patches the paper's EM learns from. It takes some twenty times as long as online EM.
    paper_batch_size : int
        Patches in a minibatch of the paper's EM. Its steps are small, so an epoch of few patches needs small
        minibatches.
    """

    n_heldout: int = 512
    n_judged: int = 2_560
    n_paper_patches: int = 25_600
    paper_batch_size: int = 256


CONFIGS = at_scales(
    AnnealedConfig(),
    smoke=SMOKE
    | {"n_patches": 1_024, "epochs": 7, "n_judged": 256}
    | {"n_paper_patches": 512, "paper_batch_size": 512},
    paper={"n_patches": 204_800, "n_heldout": 4_096, "n_judged": 20_480}
    | {"n_paper_patches": 204_800, "paper_batch_size": 512},
)
"""Settings for each scale. Annealing takes six epochs, so there are at least seven."""


@final
@dataclass(frozen=True, eq=False)
class AnnealedEpoch:
    """The model after an epoch, judged by the posteriors of the epoch's annealed objective.

    Attributes
    ----------
    epoch : int
        0 is the state before learning.
    weights : EntropyWeights
        γ and δ of the epoch.
    model : SparseCodingModel
        The model after the epoch.
    prior, likelihood, posterior, elbo : float
        The entropies of these posteriors at their optimal λ and σ² (Eq. 10, 11), and their ELBO, which is
        not annealed (Eq. 15); nats per patch.
    gini, gini_deviation : float
        Mean and standard deviation over the patches of the Gini index of a code drawn from the posterior.
    gini_of_means : float
        Mean Gini index of the posterior means.
    n_collapsed : int
        Number of latents that carry no information on the patches.
    localization : float
        Median over the fields of the share of their energy in their best window of 5 x 5 pixels.
    """

    epoch: int
    weights: EntropyWeights
    model: SparseCodingModel
    prior: float
    likelihood: float
    posterior: float
    elbo: float
    gini: float
    gini_deviation: float
    gini_of_means: float
    n_collapsed: int
    localization: float

    def numbers(self) -> dict[str, float]:
        """Return everything but the model, as it goes into the result file."""
        values = {name: value for name, value in vars(self).items() if name not in ("weights", "model")}
        return values | {"gamma": self.weights.prior, "delta": self.weights.likelihood}


@final
@dataclass(frozen=True, eq=False)
class AnnealedRun:
    """A course of learning.

    Attributes
    ----------
    epochs : sequence of AnnealedEpoch
        The state before learning, and after each epoch.
    seconds : float
        Time that learning and judging took.
    """

    epochs: Sequence[AnnealedEpoch]
    seconds: float

    @property
    def end(self) -> AnnealedEpoch:
        """The last epoch."""
        return self.epochs[-1]

    @property
    def during(self) -> Sequence[AnnealedEpoch]:
        """The epochs whose objective was annealed."""
        return [epoch for epoch in self.epochs[1:] if epoch.weights != EntropyWeights()]

    def curve(self, name: str) -> list[Any]:
        """Return an attribute of all epochs."""
        return [getattr(epoch, name) for epoch in self.epochs]


Schedules = Mapping[str, AnnealedRun]
"""The runs of an algorithm, by schedule."""


@final
@dataclass(frozen=True, eq=False)
class Runs:
    """What both algorithms learned, and how an experiment shows it.

    Attributes
    ----------
    by_algorithm : mapping of str to Schedules
        The runs.
    data : str
        Which patches were learned from.
    settings : str
        Sizes, and the seconds that a run took at most, for captions.
    shared_seconds : float
        Seconds of the runs that another experiment had made already.
    """

    by_algorithm: Mapping[str, Schedules]
    data: str
    settings: str
    shared_seconds: float

    def judge(
        self,
        statement: str,
        form: str,
        measure: Callable[[Schedules], Sequence[float]],
        criterion: Callable[..., bool],
        paper: str = "",
    ) -> Claim:
        """Return a claim of the paper, judged by the paper's EM; online EM stands beside it.

        `measure` goes from the runs of an algorithm to its values; `form` gives them words, as in
        ``str.format``, and `criterion` goes from them to the verdict.
        """
        found = {name: measure(of) for name, of in self.by_algorithm.items()}
        ours = f"{form.format(*found[PAPERS_EM])} ({ONLINE_EM}: {form.format(*found[ONLINE_EM])})"
        return Claim(statement, ours, bool(criterion(*found[PAPERS_EM])), paper)

    def draw(self, rows: Mapping[str, str], height: float, first: int = 0) -> tuple[Figure, list[Axes]]:
        """Draw attributes of the epochs from a first one on: a row for each, a column for each algorithm."""
        n_columns = len(self.by_algorithm)
        figure, grid = plots.panels(len(rows), n_columns, (9.0, height), sharex=True)
        for row, (attribute, label) in enumerate(rows.items()):
            panels = grid[row * n_columns : (row + 1) * n_columns]
            for axes, (name, of) in zip(panels, self.by_algorithm.items(), strict=True):
                axes.sharey(panels[0])
                plots.add_title(axes, f"{label}, {name}")
                for schedule, found in of.items():
                    epochs, values = found.curve("epoch")[first:], found.curve(attribute)[first:]
                    words, colour = schedule_in_words(schedule), COLOURS[schedule]
                    axes.plot(epochs, values, "o-", color=colour, markersize=3, label=words)
        for axes in grid[-n_columns:]:
            plots.label_epochs(axes)
        return figure, grid

    def result(
        self, claims: Sequence[Claim], pictures: Sequence[Picture], tables: Sequence[Table] = ()
    ) -> Result:
        """Return what an experiment found, with all that was measured."""
        numbers = {
            name: {
                schedule: {"seconds": found.seconds, "epochs": [epoch.numbers() for epoch in found.epochs]}
                for schedule, found in of.items()
            }
            for name, of in self.by_algorithm.items()
        }
        return Result(self.data, tuple(claims), tuple(pictures), tuple(tables), numbers, self.shared_seconds)


def schedule_in_words(schedule: str) -> str:
    """Return what a schedule is called in legends."""
    return {"none": "no annealing", "tempering": "tempering"}.get(schedule, f"{schedule} annealing")


_Infer = Callable[[Tensor, SparseCodingModel, EntropyWeights], Diagonal]


@dataclass(frozen=True)
class _Algorithm:
    learner: Learner
    infer: _Infer  # finds the posteriors of a minibatch that a model is judged by
    n_patches: int
    batch_size: int


def _algorithms(config: AnnealedConfig) -> dict[str, _Algorithm]:
    papers, exact = GradientEM(), DiagonalInference(0.0, max_iterations=20)
    return {
        PAPERS_EM: _Algorithm(papers, papers.infer, config.n_paper_patches, config.paper_batch_size),
        ONLINE_EM: _Algorithm(OnlineEM(), exact, config.n_patches, 512),
    }


_made: dict[tuple[str, str, AnnealedConfig], AnnealedRun] = {}  # three experiments show some of these runs


def learn(config: AnnealedConfig, schedules: Iterable[str]) -> Runs:
    """Learn from random fields by both algorithms, under each of the schedules, or take what is there."""
    data, algorithms = draw_patches(config), _algorithms(config)
    runs: dict[str, dict[str, AnnealedRun]] = {name: {} for name in algorithms}
    shared_seconds = 0.0
    for name, schedule in product(algorithms, schedules):
        key = (name, schedule, config)
        if key in _made:
            shared_seconds += _made[key].seconds
        else:
            _made[key] = _learned(algorithms[name], schedule, config, data)
        runs[name][schedule] = _made[key]
    settings = [
        f"D = {config.patch_size**2}, H = {config.n_components}, {config.epochs} epochs, judged on "
        f"{config.n_judged:,} patches"
    ]
    for name, of in runs.items():
        seconds = max(run.seconds for run in of.values())
        settings.append(f"{name}: N = {algorithms[name].n_patches:,}, {seconds:.0f} s per run")
    return Runs(runs, data.words, "; ".join(settings), shared_seconds)


def _learned(algorithm: _Algorithm, schedule: str, config: AnnealedConfig, data: PatchData) -> AnnealedRun:
    started = time.perf_counter()
    patches, batch_size = data.train[: algorithm.n_patches], algorithm.batch_size
    judged = torch.split(torch.from_numpy(patches[: config.n_judged]), batch_size)
    watcher = _Watcher(judged, algorithm.infer, config.shape)
    options = {"init": "random", "batch_size": batch_size, "annealing": schedule, "callbacks": (watcher,)}
    config.train(algorithm.learner, patches, data.heldout, **options)
    return AnnealedRun(watcher.epochs, time.perf_counter() - started)


@final
class _Watcher(Callback):
    """Judges the model after each epoch."""

    def __init__(self, minibatches: Sequence[Tensor], infer: _Infer, shape: tuple[int, int]) -> None:
        self.minibatches, self.infer, self.shape = minibatches, infer, shape
        self.epochs: list[AnnealedEpoch] = []

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> None:
        weights = EntropyWeights(record.gamma, record.delta)
        posteriors = [self.infer(x, model, weights) for x in self.minibatches]
        statistics = (
            Statistics.collect(posterior, x, model.dictionary, model.prior)
            for posterior, x in zip(posteriors, self.minibatches, strict=True)
        )
        terms = entropy_elbo(reduce(add, statistics))
        whole = Diagonal(torch.cat([q.mean for q in posteriors]), torch.cat([q.scale for q in posteriors]))
        sparsity = gini(whole.sample(1, torch.Generator().manual_seed(record.epoch))[0])
        self.epochs.append(
            AnnealedEpoch(
                epoch=record.epoch,
                weights=weights,
                model=model,
                prior=float(terms.prior),
                likelihood=float(terms.likelihood),
                posterior=float(terms.posterior),
                elbo=float(terms.elbo),
                gini=float(sparsity.mean()),
                gini_deviation=float(sparsity.std(correction=0)),
                gini_of_means=float(gini(whole.mean).mean()),
                n_collapsed=int(dead_latents(whole).sum()),
                localization=float(localization(model.dictionary, self.shape).median()),
            )
        )
