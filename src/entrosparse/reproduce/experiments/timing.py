"""D: the seconds that an epoch takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from matplotlib.figure import Figure

from entrosparse.app import plots
from entrosparse.inference import LowRankEncoder
from entrosparse.learning import AdamLearner, Learner, OnlineEM
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import SMOKE, PatchConfig, PatchData, draw_patches
from entrosparse.reproduce.shared.gradient_em import GradientEM

_PAPER_EM, _ONLINE = "paper's EM", "online EM"
_DIAGONAL, _LOW_RANK = "diagonal encoder, Adam", "low-rank encoder, Adam"
_PAPER = {_PAPER_EM: 156.0, _DIAGONAL: 12.0}  # seconds per epoch on a GTX 1070


@final
@dataclass(frozen=True)
class TimingConfig(PatchConfig):
    """Settings.

    Attributes
    ----------
    n_timed : int
        Patches that the paper's EM is timed with; its seconds are scaled to the number of patches.
    """

    n_patches: int = 204_800
    n_heldout: int = 256
    epochs: int = 1
    n_timed: int = 51_200


@dataclass(frozen=True)
class _Timing:
    timed: int  # number of patches
    measured: float  # seconds per epoch of these patches
    seconds: float  # seconds per epoch of all patches


def run(config: TimingConfig) -> Result:
    """Time an epoch of each learner on the patches of the paper's size."""
    data = draw_patches(config)
    # The first run of all imports much of torch, which is not to count.
    config.train(GradientEM(), data.train[:512], data.heldout, epochs=1, init="data")
    timings = {
        _PAPER_EM: _time(GradientEM(), "data", config.n_timed, data, config),
        _DIAGONAL: _time(AdamLearner(), "ica", config.n_patches, data, config),
        _LOW_RANK: _time(AdamLearner(LowRankEncoder), "ica", config.n_patches, data, config),
        _ONLINE: _time(OnlineEM(), "ica", config.n_patches, data, config),
    }
    threads = torch.get_num_threads()
    settings = f"{config.sizes}, minibatches of 512; CPU, {threads} thread{'s' * (threads > 1)}"
    return Result(
        data=data.words,
        claims=tuple(_faster(name, timings) for name in (_DIAGONAL, _LOW_RANK)),
        pictures=(
            Picture(
                "seconds",
                f"Seconds per epoch ({settings}), beside those that the paper reports for a GTX 1070.",
                (_draw({name: timing.seconds for name, timing in timings.items()}),),
            ),
        ),
        tables=(_table(timings, config),),
        numbers={name: vars(timing) for name, timing in timings.items()},
    )


def _time(learner: Learner, init: str, n_timed: int, data: PatchData, config: TimingConfig) -> _Timing:
    result = config.train(learner, data.train[:n_timed], data.heldout, init=init)
    measured = result.history[-1].seconds / config.epochs
    return _Timing(n_timed, measured, measured * config.n_patches / n_timed)


def _faster(name: str, timings: Mapping[str, _Timing]) -> Claim:
    adam, em = timings[name].seconds, timings[_PAPER_EM].seconds
    return Claim(
        f"an epoch of Adam is faster than an epoch of EM ({name})",
        f"{adam:.1f} s against {em:.1f} s of the paper's EM, {em / adam:.1f} times faster; online EM takes "
        f"{timings[_ONLINE].seconds:.1f} s",
        adam < em,
        paper=f"12 s against 156 s, {156 / 12:.0f} times faster",
    )


def _table(timings: Mapping[str, _Timing], config: TimingConfig) -> Table:
    return Table.from_values(
        "seconds",
        f"Seconds per epoch. What was timed on fewer than {config.n_patches:,} patches is scaled to as many.",
        {
            "learner": "",
            "patches timed": ",",
            "seconds measured": ".2f",
            "seconds per epoch": "",
            "paper, GTX 1070": ".0f",
        },
        [
            (
                name,
                timing.timed,
                timing.measured,
                f"{timing.seconds:.1f}" + " (scaled)" * (timing.timed < config.n_patches),
                _PAPER.get(name),
            )
            for name, timing in timings.items()
        ],
    )


def _draw(seconds: Mapping[str, float]) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (7.0, 2.9))
    for values, offset, colour, label in (
        (seconds, -0.19, plots.ELBO_COLOUR, "here"),
        (_PAPER, 0.19, plots.PAPER_COLOUR, "paper, GTX 1070"),
    ):
        places = [list(seconds).index(name) + offset for name in values]
        bars = axes.barh(places, list(values.values()), 0.36, color=colour, label=label)
        axes.bar_label(bars, fmt="{:.3g}", padding=3, fontsize=8.5, color=plots.INK)
    axes.set_yticks(range(len(seconds)), list(seconds))
    axes.invert_yaxis()
    axes.grid(False)
    left = min(1.0, 0.5 * min(seconds.values()))
    axes.set(xscale="log", xlim=(left, 400.0), xlabel="seconds per epoch")
    plots.add_legend(axes, loc="lower right")
    return figure


EXPERIMENT = Experiment(
    title="Seconds per epoch",
    source="D",
    configs=at_scales(
        TimingConfig(),
        smoke=SMOKE | {"n_patches": 2_048, "n_heldout": 128, "n_timed": 1_024},
        paper={"epochs": 3, "n_timed": 204_800},
    ),
    run=run,
)
