"""How much noise the bars bear: all of them, over a grid of generating σ and λ and over numbers of data."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise
from typing import final

import numpy as np
from matplotlib.figure import Figure

from entrosparse.app import plots
from entrosparse.images import bars
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.framework import Claim, Config, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.shared.bars_runs import N_BARS, learn_all

_EASY = 0.5  # σ/λ up to which all bars are expected in every run


@final
@dataclass(frozen=True)
class RobustnessConfig(Config):
    """Settings.

    Attributes
    ----------
    prior_scales, noise_stds : tuple of float
        Generating λ and σ of the grid, rising.
    n_samples : int
        Data points N of the grid.
    other_n_samples : tuple of int
        Numbers of data points to try beside it, at the middle λ.
    n_runs : int
        Data sets for each λ, σ and N, each with a start of its own.
    """

    prior_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    noise_stds: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
    n_samples: int = 1000
    other_n_samples: tuple[int, ...] = (250, 4000)
    n_runs: int = 3

    @property
    def middle(self) -> float:
        """The λ at which numbers of data points are compared."""
        return self.prior_scales[len(self.prior_scales) // 2]


@dataclass(frozen=True, eq=False)
class _Cell:
    """The runs at one λ, σ and N."""

    ratio: float  # σ/λ
    shares: Sequence[float]  # of the bars that are found, by run
    excesses: Sequence[float]  # ELBO above that of the generating dictionary, by run, in nats
    seconds: float
    model: SparseCodingModel  # of the first run

    @property
    def share(self) -> float:
        return float(np.mean(self.shares))


_Row = Sequence[_Cell]  # by rising σ


def run(config: RobustnessConfig) -> Result:
    """Learn the bars at each λ, σ and N, and count how many are found."""
    seeds = count(config.seed)  # No two runs share their data.

    def row(prior_scale: float, n_samples: int) -> _Row:
        return [_learn(config, prior_scale, sigma, n_samples, seeds) for sigma in config.noise_stds]

    grid = {scale: row(scale, config.n_samples) for scale in config.prior_scales}
    others = {n: row(config.middle, n) for n in config.other_n_samples}
    by_size = dict(sorted((others | {config.n_samples: grid[config.middle]}).items()))
    cells = [cell for of in (*grid.values(), *others.values()) for cell in of]
    seconds = sum(cell.seconds for cell in cells)
    settings = f"D = 25, H = {N_BARS}, {config.n_runs} runs each, full covariance"
    return Result(
        data="Images of 5 x 5 pixels, drawn from the model with ten bars as fields",
        claims=_claims(grid, by_size, cells),
        pictures=(
            Picture(
                "grid",
                f"Mean share of the bars that are found, N = {config.n_samples:,} ({settings}; "
                f"{seconds:.0f} s of learning in all). Cells on one diagonal have one σ/λ.",
                (_draw_grid(grid, config),),
            ),
            Picture(
                "samples",
                f"Mean share of the bars that are found against σ/λ, λ = {config.middle:g} ({settings}).",
                (_draw_sizes(by_size),),
            ),
            Picture.from_models(
                "fields",
                f"Fields learned in the first run at λ = {config.middle:g}, N = {config.n_samples:,}.",
                {f"σ/λ = {cell.ratio:g}": cell.model for cell in grid[config.middle]},
                (5, 5),
            ),
        ),
        tables=(_table(by_size),),
        numbers={
            "grid": {f"{scale:g}": list(map(_numbers, of)) for scale, of in grid.items()},
            "samples": {str(n): list(map(_numbers, of)) for n, of in by_size.items()},
        },
    )


def _learn(
    config: RobustnessConfig, prior_scale: float, noise_std: float, n_samples: int, seeds: Iterator[int]
) -> _Cell:
    runs = learn_all(
        lambda seed: bars(n_samples, prior_scale=prior_scale, noise_std=noise_std, rng=seed),
        islice(seeds, config.n_runs),
    )
    return _Cell(
        ratio=noise_std / prior_scale,
        shares=[run.n_found / N_BARS for run in runs],
        excesses=[run.excess for run in runs],
        seconds=sum(run.seconds for run in runs),
        model=runs[0].model,
    )


def _numbers(cell: _Cell) -> dict[str, object]:
    return {"ratio": cell.ratio, "shares": cell.shares, "excesses": cell.excesses, "seconds": cell.seconds}


def _breakdown(cells: _Row) -> float:
    """Return the σ/λ at which the mean share of the bars falls through a half, the last time as σ rises.

    It is 0 if fewer are found everywhere, and infinite if more are found at the largest σ.
    """
    over = [k for k, cell in enumerate(cells) if cell.share >= 0.5]
    if not over:
        return 0.0
    if over[-1] == len(cells) - 1:
        return math.inf
    last, after = cells[over[-1]], cells[over[-1] + 1]
    part = (last.share - 0.5) / (last.share - after.share)
    return last.ratio * (after.ratio / last.ratio) ** part


def _end_in_words(cells: _Row) -> str:
    """Return where a row breaks down, or beyond which of its ends."""
    end = _breakdown(cells)
    if end == 0.0:
        return f"σ/λ below {cells[0].ratio:.2g}"
    return f"σ/λ above {cells[-1].ratio:.2g}" if end == math.inf else f"σ/λ = {end:.2g}"


def _agree(rows: Sequence[_Row]) -> bool:
    """Return whether all rows may break down at one σ/λ, within a factor of 2.

    Rows that break down beyond their ends give a bound, which is held against the geometric mean of others.
    """
    ends = [_breakdown(cells) for cells in rows]
    inside = [end for end in ends if 0.0 < end < math.inf]
    if len(inside) < 2:
        return False
    middle = math.exp(sum(map(math.log, inside)) / len(inside))
    return (
        max(inside) < 2.0 * min(inside)
        and all(cells[0].ratio > middle / 2.0 for cells, end in zip(rows, ends, strict=True) if end == 0.0)
        and all(
            cells[-1].ratio < 2.0 * middle for cells, end in zip(rows, ends, strict=True) if end == math.inf
        )
    )


def _claims(
    grid: Mapping[float, _Row], by_size: Mapping[int, _Row], cells: Sequence[_Cell]
) -> tuple[Claim, ...]:
    easy = [share for of in grid.values() for cell in of if cell.ratio <= _EASY for share in cell.shares]
    n_all = sum(share == 1.0 for share in easy)
    lost = [e for c in cells for share, e in zip(c.shares, c.excesses, strict=True) if share < 1.0]
    by_n = [_breakdown(of) for of in by_size.values()]
    return (
        Claim(
            f"all bars are found in every run where σ is at most {_EASY:g} λ",
            f"in {n_all} of {len(easy)} runs",
            bool(easy) and n_all == len(easy),
        ),
        Claim(
            "only σ/λ counts: half of the bars are lost at the same ratio for every λ, within a factor of 2",
            ", ".join(f"{_end_in_words(of)} at λ = {scale:g}" for scale, of in grid.items()),
            _agree(list(grid.values())),
        ),
        Claim(
            "bars are lost by the data and not by the search: with bars missing, too, the ELBO is above "
            "that of the generating dictionary",
            f"{min(lost):+.3f} nats in the worst of {len(lost)} runs" if lost else "no run lost a bar",
            bool(lost) and all(excess > 0.0 for excess in lost),
        ),
        Claim(
            "more data bear more noise: with N the ratio rises at which half of the bars are lost",
            ", ".join(f"{_end_in_words(of)} at N = {n:,}" for n, of in by_size.items()),
            len(by_n) > 1 and all(one < other for one, other in pairwise(by_n)),
        ),
    )


def _table(by_size: Mapping[int, _Row]) -> Table:
    return Table.from_values(
        "samples",
        "Mean share of the bars that are found, and runs that find all; seconds of one run.",
        {"σ/λ": "g"} | {f"{of}, N = {n:,}": "" for n in by_size for of in ("bars", "seconds")},
        [
            (cells[0].ratio, *(text for cell in cells for text in _texts(cell)))
            for cells in zip(*by_size.values(), strict=True)
        ],
    )


def _texts(cell: _Cell) -> tuple[str, str]:
    n_runs = len(cell.shares)
    n_all = sum(share == 1.0 for share in cell.shares)
    return f"{cell.share:.0%}, all in {n_all} of {n_runs}", f"{cell.seconds / n_runs:.1f}"


def _draw_grid(grid: Mapping[float, _Row], config: RobustnessConfig) -> Figure:
    shares = np.array([[cell.share for cell in of] for of in grid.values()])
    figure, (axes,) = plots.panels(1, 1, (6.4, 4.2))
    image = axes.imshow(shares, cmap="viridis", vmin=0.0, vmax=1.0, origin="lower", aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "black" if share > 0.6 else "white"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(config.noise_stds)), [f"{sigma:g}" for sigma in config.noise_stds])
    axes.set_yticks(range(len(config.prior_scales)), [f"{scale:g}" for scale in config.prior_scales])
    axes.set(xlabel="noise deviation σ", ylabel="prior scale λ")
    axes.grid(visible=False)
    plots.add_colorbar(figure, image, axes, "share of the bars found")
    return figure


def _draw_sizes(by_size: Mapping[int, _Row]) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (6.4, 3.6))
    for (n, cells), colour in zip(by_size.items(), plots.PALETTE, strict=False):
        ratios, shares = [cell.ratio for cell in cells], [cell.share for cell in cells]
        axes.plot(ratios, shares, "o-", color=colour, label=f"N = {n:,}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axes.set(xlabel="σ/λ", ylabel="share of the bars found", ylim=(-0.03, 1.05))
    plots.add_legend(axes, loc="lower left")
    return figure


EXPERIMENT = Experiment(
    title="How much noise the bars bear",
    configs=at_scales(
        RobustnessConfig(),
        smoke={
            "prior_scales": (0.5, 1.0),
            "noise_stds": (1.0, 4.0),
            "n_samples": 200,
            "other_n_samples": (100,),
            "n_runs": 1,
        },
        large={"other_n_samples": (125, 250, 500, 2000, 4000, 8000), "n_runs": 20},
    ),
    run=run,
)
