"""What each kind of noise is for: pixels and columns that differ, and bars among outliers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from entrosparse.app import plots
from entrosparse.estimators import SparseCoding
from entrosparse.images import BarsData, bars
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.framework import Claim, Config, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.shared.bars_runs import N_BARS, learn_all
from entrosparse.reproduce.shared.quiet_fits import quietly

_ISOTROPIC, _PER_FEATURE, _LAPLACE = "isotropic", "per-feature", "laplace"
_SHARE = 0.05  # of pixels replaced: Laplace noise is expected to find all bars, Gaussian noise few of them
_OUTLIER = 20.0  # what they are replaced by, with either sign

_Array = NDArray[np.float64]


@final
@dataclass(frozen=True)
class NoiseConfig(Config):
    """Settings.

    Attributes
    ----------
    n_digits, n_wine : int
        Number of latents H of the digits and of the table of wines.
    n_splits : int
        Splits of the rows into two halves: one to learn from, and one to judge by.
    n_bars : int
        Images of bars N.
    shares : tuple of float
        Shares of the pixels of bars that are replaced by outliers, rising.
    n_runs : int
        Data sets of bars for each share.
    epochs : int
        Iterations of learning, at most.
    """

    n_digits: int = 32
    n_wine: int = 3
    n_splits: int = 5
    n_bars: int = 1000
    shares: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1)
    n_runs: int = 3
    epochs: int = 500


@dataclass(frozen=True, eq=False)
class _Rows:
    """How isotropic noise and noise per feature describe rows held out."""

    n_components: int
    scores: Mapping[str, Sequence[float]]  # by noise and split, in nats per row
    seconds: Mapping[str, float]  # of one split
    deviations: _Array  # σ of each feature in the first split

    @property
    def gains(self) -> _Array:
        """How much higher the score is with noise per feature, by split."""
        return np.subtract(self.scores[_PER_FEATURE], self.scores[_ISOTROPIC])


@dataclass(frozen=True, eq=False)
class _Bars:
    """What is learned with one noise at one share of outliers."""

    n_found: Sequence[int]  # bars, by run
    seconds: float  # of all runs
    model: SparseCodingModel  # of the first run


_ByShare = Mapping[str, Mapping[float, _Bars]]  # by noise and share


def run(config: NoiseConfig) -> Result:
    """Learn tables with one noise for all features and with one for each, and bars with outliers."""
    digits, seen = _digits(config.seed)
    wine = _wine()
    tables = {
        "digits": _learn_rows(digits, config.n_digits, config),
        "wines": _learn_rows(wine, config.n_wine, config),
    }
    of_bars = {
        name: {share: _learn_bars(config, name, share) for share in config.shares}
        for name in (_ISOTROPIC, _LAPLACE)
    }
    seconds = sum(cell.seconds for of in of_bars.values() for cell in of.values())
    settings = f"N = {config.n_bars:,}, D = 25, H = {N_BARS}, {config.n_runs} runs each, full covariance"
    rows_settings = {
        name: f"N = {len(x) // 2:,} to learn from, H = {rows.n_components}, {config.n_splits} splits, "
        f"diagonal covariance, {sum(rows.seconds.values()):.1f} s a split"
        for (name, rows), x in zip(tables.items(), (digits, wine), strict=True)
    }
    outliers = max(config.shares, key=lambda share: (share <= _SHARE, share))
    return Result(
        data=f"The digits of scikit-learn, {len(digits):,} of 8 x 8 pixels, {int(seen.sum())} of which are "
        "not constant, with uniform noise of one grey level; its table of wines, "
        f"{len(wine)} x {wine.shape[1]}, in its own units; bars drawn from the model, some pixels of which "
        f"are replaced by ±{_OUTLIER:g}",
        claims=_claims(tables, of_bars, config),
        pictures=(
            Picture(
                "digits",
                "Noise deviation σ of each pixel of the digits, in grey levels of 0 to 16; constant pixels "
                f"are left out ({rows_settings['digits']}).",
                (_draw_pixels(tables["digits"].deviations, seen),),
            ),
            Picture(
                "wines",
                "Deviation of each column of the table of wines, and σ of its noise, in its own unit "
                f"({rows_settings['wines']}).",
                (_draw_columns(wine.std(0), tables["wines"].deviations),),
            ),
            Picture(
                "outliers",
                f"Bars found, of {N_BARS}, against the share of pixels that are replaced ({settings}; "
                f"{seconds:.0f} s of learning in all): mean, least and most.",
                (_draw_outliers(of_bars),),
            ),
            Picture.from_models(
                "fields",
                f"Fields learned in the first run with {outliers:.0%} of the pixels replaced ({settings}).",
                {f"{name} noise": of[outliers].model for name, of in of_bars.items()},
                (5, 5),
            ),
        ),
        tables=(_table(tables), _bars_table(of_bars)),
        numbers={
            "tables": {
                name: {"scores": rows.scores, "seconds": rows.seconds, "deviations": rows.deviations.tolist()}
                for name, rows in tables.items()
            },
            "bars": {
                name: {
                    f"{share:g}": {"found": cell.n_found, "seconds": cell.seconds}
                    for share, cell in of.items()
                }
                for name, of in of_bars.items()
            },
        },
    )


def _digits(seed: int) -> tuple[_Array, NDArray[np.bool_]]:
    """Return the digits without constant pixels, and a mask of the pixels that are kept.

    A density of whole numbers has no upper bound, so each level is spread evenly over its interval of
    length 1.
    """
    from sklearn.datasets import load_digits

    levels = load_digits().data
    seen = np.ptp(levels, axis=0) > 0
    spread = np.random.default_rng(seed).uniform(-0.5, 0.5, levels.shape)
    return (levels + spread)[:, seen], seen


def _wine() -> _Array:
    from sklearn.datasets import load_wine

    return np.asarray(load_wine().data, dtype=np.float64)


def _learn_rows(x: _Array, n_components: int, config: NoiseConfig) -> _Rows:
    scores: dict[str, list[float]] = {_ISOTROPIC: [], _PER_FEATURE: []}
    seconds, deviations = dict.fromkeys(scores, 0.0), np.zeros(x.shape[1])
    for seed in range(config.seed, config.seed + config.n_splits):
        order = np.random.default_rng(seed).permutation(len(x))
        learned, judged = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
        for noise, of in scores.items():
            coding = SparseCoding(n_components, noise=noise, max_epochs=config.epochs, random_state=seed)
            with quietly(ConvergenceWarning):  # Learning that has not converged is judged as it is.
                of.append(float(coding.fit(learned).score(judged)))
            seconds[noise] += coding.history_[-1]["seconds"] / config.n_splits
            if (noise, seed) == (_PER_FEATURE, config.seed):
                deviations = np.sqrt(coding.noise_variance_)
    return _Rows(n_components, scores, seconds, deviations)


def with_outliers(made: BarsData, share: float, seed: int) -> BarsData:
    """Return bars with a share of the pixels replaced by outliers of either sign."""
    rng = np.random.default_rng(seed)
    replaced = rng.random(made.data.shape) < share
    return replace(
        made, data=np.where(replaced, rng.choice([-_OUTLIER, _OUTLIER], made.data.shape), made.data)
    )


def _learn_bars(config: NoiseConfig, noise: str, share: float) -> _Bars:
    runs = learn_all(
        lambda seed: with_outliers(bars(config.n_bars, rng=seed), share, seed),
        range(config.seed, config.seed + config.n_runs),
        likelihood=LIKELIHOODS[noise],
        init="ica",
        epochs=config.epochs,
    )
    return _Bars([run.n_found for run in runs], sum(run.seconds for run in runs), runs[0].model)


def _claims(tables: Mapping[str, _Rows], of_bars: _ByShare, config: NoiseConfig) -> tuple[Claim, ...]:
    expected = [share for share in config.shares if share <= _SHARE]
    robust = [n for share in expected for n in of_bars[_LAPLACE][share].n_found]
    gaussian = {share: cell.n_found for share, cell in of_bars[_ISOTROPIC].items() if share > 0.0}
    clean = of_bars[_ISOTROPIC][0.0].n_found if 0.0 in config.shares else []
    hurt = [n for share, of in gaussian.items() if share >= _SHARE for n in of]
    return (
        *(
            Claim(
                f"noise per feature describes {name} held out better than isotropic noise, in every split",
                f"by {rows.gains.min():.2f} to {rows.gains.max():.2f} nats per row",
                bool((rows.gains > 0.0).all()),
            )
            for name, rows in tables.items()
        ),
        Claim(
            f"Laplace noise finds all bars in every run with up to {_SHARE:.0%} of the pixels replaced",
            f"in {sum(n == N_BARS for n in robust)} of {len(robust)} runs",
            bool(robust) and all(n == N_BARS for n in robust),
        ),
        Claim(
            f"Gaussian noise finds all bars without outliers, and loses most of them from {_SHARE:.0%} on",
            f"{min(clean, default=0)} without; "
            + ", ".join(f"at most {max(n)} at {share:.0%}" for share, n in gaussian.items()),
            bool(clean and hurt) and min(clean) == N_BARS and max(hurt) <= N_BARS // 2,
        ),
    )


def _table(tables: Mapping[str, _Rows]) -> Table:
    return Table.from_values(
        "scores",
        "Score (ELBO) of rows held out, in nats per row: mean ± deviation over the splits; seconds of a fit.",
        {"data": "", "noise": "", "score": "", "above isotropic": "", "seconds": ".2f"},
        [
            (
                name,
                noise,
                f"{np.mean(scores):.2f} ± {np.std(scores):.2f}",
                None if noise == _ISOTROPIC else f"{rows.gains.mean():+.2f} ± {rows.gains.std():.2f}",
                rows.seconds[noise],
            )
            for name, rows in tables.items()
            for noise, scores in rows.scores.items()
        ],
    )


def _bars_table(of_bars: _ByShare) -> Table:
    return Table.from_values(
        "bars",
        f"Bars found in each run, of {N_BARS}; seconds of all runs.",
        {"noise": "", "pixels replaced": ".0%", "bars found": "", "seconds": ".1f"},
        [
            (noise, share, ", ".join(map(str, cell.n_found)), cell.seconds)
            for noise, of in of_bars.items()
            for share, cell in of.items()
        ],
    )


def _draw_pixels(deviations: _Array, seen: NDArray[np.bool_]) -> Figure:
    image = np.full(len(seen), np.nan)
    image[seen] = deviations
    figure, (axes,) = plots.panels(1, 1, (4.4, 3.6))
    drawn = axes.imshow(image.reshape(8, 8), cmap="viridis", vmin=0.0)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    plots.add_colorbar(figure, drawn, axes, "noise deviation σ (grey levels)")
    return figure


def _draw_columns(spread: _Array, deviations: _Array) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (6.4, 3.6))
    order = np.argsort(spread)
    for values, label, colour in zip(
        (spread, deviations), ("deviation of the column", "σ of its noise"), plots.PALETTE, strict=False
    ):
        axes.plot(range(1, len(order) + 1), values[order], "o", color=colour, label=label)
    axes.set(yscale="log", xlabel="column, sorted", ylabel="units of the column")
    plots.add_legend(axes)
    return figure


def _draw_outliers(of_bars: _ByShare) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (6.4, 3.6))
    for (noise, of), colour in zip(of_bars.items(), plots.PALETTE, strict=False):
        shares = [100.0 * share for share in of]
        means = np.array([np.mean(cell.n_found) for cell in of.values()])
        reach = [
            means - [min(cell.n_found) for cell in of.values()],
            [max(cell.n_found) for cell in of.values()] - means,
        ]
        axes.errorbar(shares, means, yerr=reach, fmt="o-", color=colour, capsize=3, label=f"{noise} noise")
    axes.set(xlabel="pixels replaced (per cent)", ylabel="bars found", ylim=(-0.3, N_BARS + 0.5))
    plots.add_legend(axes)
    return figure


EXPERIMENT = Experiment(
    title="What each kind of noise is for",
    configs=at_scales(
        NoiseConfig(),
        smoke={
            "n_digits": 4,
            "n_wine": 2,
            "n_splits": 1,
            "n_bars": 200,
            "shares": (0.0, 0.05),
            "n_runs": 1,
            "epochs": 20,
        },
        large={"n_splits": 20, "shares": (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2), "n_runs": 20},
    ),
    run=run,
)
