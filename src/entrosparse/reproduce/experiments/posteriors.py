"""What each kind of posterior is worth: bounds, estimates of log p(x), and intervals of the codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
import torch
from matplotlib.figure import Figure

from entrosparse.app import plots
from entrosparse.learning import OnlineEM
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import SMOKE, PatchConfig, draw_patches
from entrosparse.reproduce.shared.posterior_kinds import (
    DIAGONAL,
    EXACT,
    FULL,
    LOW_RANK,
    Measured,
    correlated_model,
    measure,
    solvers,
)

_PHOTOGRAPHS, _CORRELATED = "photographs", "correlated atoms"
_NESTED = ((DIAGONAL, EXACT), (DIAGONAL, LOW_RANK), (LOW_RANK, FULL))  # the second holds the first
_LEVELS = np.array([0.5, 0.8, 0.95])
_CURVE = np.linspace(0.02, 0.98, 25)
_NEAR = 0.02  # how near to the nominal share the coverage of full posteriors is expected
_ROUNDING = 0.01  # nats that solvers may stop short of an optimum
_ERRORS = 2.0  # standard errors that a difference may be off
_APART = 3.0  # the same for the largest of the differences between all pairs of posteriors


@final
@dataclass(frozen=True)
class PosteriorsConfig(PatchConfig):
    """Settings.

    Attributes
    ----------
    n_drawn : int
        Data points drawn from each model.
    n_draws : int
        Codes drawn from each posterior for log p(x).
    rank : int
        Rank of the low-rank covariances.
    n_correlated : int
        Number of latents H of the model with correlated atoms; D is two thirds of it.
    """

    n_patches: int = 25_600
    n_heldout: int = 256
    epochs: int = 5
    n_drawn: int = 500
    n_draws: int = 200
    rank: int = 5
    n_correlated: int = 24


_Kinds = Mapping[str, Measured]  # by kind of posterior


def run(config: PosteriorsConfig) -> Result:
    """Draw codes and data from two models, and infer the codes with each kind of posterior."""
    data = draw_patches(config)
    learned = config.train(OnlineEM(), data.train, data.heldout)
    models = {
        _PHOTOGRAPHS: learned.model.to(torch.float64),
        _CORRELATED: correlated_model(
            max(2, 2 * config.n_correlated // 3), config.n_correlated, common=0.5, seed=config.seed
        ),
    }
    found = {name: _measure(model, config) for name, model in models.items()}
    seconds = sum(kind.seconds for kinds in found.values() for kind in kinds.values())
    sizes = "; ".join(f"{name}: D = {of.n_features}, H = {of.n_components}" for name, of in models.items())
    settings = (
        f"{sizes}; {config.n_drawn} data points each, low rank {min(config.rank, config.n_components)}, "
        f"{seconds:.0f} s of inference in all"
    )
    return Result(
        data=f"Drawn from two models, so that the codes are known: one learned from {data.words} "
        f"({config.epochs} epochs, {learned.history[-1].seconds:.0f} s), with diagonal posteriors, and one "
        "that has more latents than pixels and atoms with a common direction",
        claims=_claims(found),
        pictures=(
            Picture(
                "bounds",
                "ELBO of each kind of posterior below the best estimate of log p(x), and the estimates from "
                f"the others with two standard errors ({settings}; {config.n_draws:,} draws each).",
                (_draw_bounds(found),),
            ),
            Picture(
                "calibration",
                "Share of the true codes inside of central posterior intervals against their nominal share: "
                f"on the diagonal intervals are honest, below it too narrow ({settings}).",
                (_draw_calibration(found),),
            ),
            Picture.from_models(
                "fields",
                f"Fields learned from photographs, the same for all posteriors ({config.sizes}).",
                {"fields": learned.model},
                config.shape,
            ),
        ),
        tables=tuple(_table(name, kinds) for name, kinds in found.items()),
        numbers={name: {kind: _numbers(of) for kind, of in kinds.items()} for name, kinds in found.items()},
    )


def _measure(model: SparseCodingModel, config: PosteriorsConfig) -> _Kinds:
    generator = torch.Generator().manual_seed(config.seed)
    x, codes = model.sample(config.n_drawn, generator)
    kinds = solvers(min(config.rank, config.n_components))
    levels = [*_LEVELS, *_CURVE]
    return {
        name: measure(model, x, solver, config.n_draws, generator, codes, levels)
        for name, solver in kinds.items()
    }


def _numbers(of: Measured) -> dict[str, object]:
    (estimate, error), (covered, errors) = of.estimate, of.covered
    return {
        "bound": float(of.bounds.mean()),
        "log_likelihood": estimate,
        "standard_error": error,
        "largest_error": float(of.errors.max()),
        "levels": [*_LEVELS.tolist(), *_CURVE.tolist()],
        "covered": covered.tolist(),
        "covered_errors": errors.tolist(),
        "seconds": of.seconds,
    }


def _best_estimate(kinds: _Kinds) -> tuple[float, float]:
    """Return the estimate of log p(x) whose largest error is smallest, and its standard error."""
    return min(kinds.values(), key=lambda of: of.errors.max()).estimate


def _claims(found: Mapping[str, _Kinds]) -> tuple[Claim, ...]:
    gains = {
        (name, small, large): float((kinds[large].bounds - kinds[small].bounds).mean())
        for name, kinds in found.items()
        for small, large in _NESTED
    }
    gaps = {
        (name, kind): _best_estimate(kinds)[0] - float(of.bounds.mean())
        for name, kinds in found.items()
        for kind, of in kinds.items()
    }
    errors = {name: _best_estimate(kinds)[1] for name, kinds in found.items()}
    spans = {name: _disagreement(kinds) for name, kinds in found.items()}
    covered = {
        (name, kind): of.covered[0][: len(_LEVELS)]
        for name, kinds in found.items()
        for kind, of in kinds.items()
    }
    off = {name: float(np.abs(covered[name, FULL] - _LEVELS).max()) for name in found}
    narrow = {
        (name, kind): float(covered[name, FULL][1] - covered[name, kind][1])
        for name in found
        for kind in (DIAGONAL, EXACT)
    }
    factorial = [covered[name, EXACT] - covered[name, DIAGONAL] for name in found]
    return (
        Claim(
            "a kind of posterior that contains another one has at least as high a bound",
            "; ".join(
                f"{name}: {large} {gain:+.2f} over {small}" for (name, small, large), gain in gains.items()
            )
            + " (nats)",
            all(gain >= -_ROUNDING for gain in gains.values()),
        ),
        Claim(
            f"every bound is below the best estimate of log p(x), within {_ERRORS:g} standard errors",
            "; ".join(f"{name}, {kind}: {gap:.2f} nats below" for (name, kind), gap in gaps.items()),
            all(gap >= -_ERRORS * errors[name] for (name, _), gap in gaps.items()),
        ),
        Claim(
            f"whichever posterior codes are drawn from, estimates of log p(x) agree within {_APART:g} "
            "standard errors",
            "; ".join(
                f"{name}: {worst:.1f} standard errors apart ({kind})" for name, (worst, kind) in spans.items()
            ),
            all(worst <= _APART for worst, _ in spans.values()),
        ),
        Claim(
            "intervals of full posteriors cover the nominal share of the codes, within "
            f"{100 * _NEAR:g} percentage points",
            "; ".join(f"{name}: at most {value:.1%} off" for name, value in off.items()),
            all(value <= _NEAR for value in off.values()),
        ),
        Claim(
            "intervals of posteriors without correlations are too narrow, exact or not: they cover fewer "
            "codes than those of full ones",
            "; ".join(f"{name}, {kind}: {value:.1%} fewer at 80%" for (name, kind), value in narrow.items()),
            all(value > 0.0 for value in narrow.values()),
        ),
        Claim(
            "the exact form raises bounds, not calibration: its coverage is that of diagonal Gaussians, "
            f"within {100 * _NEAR:g} percentage points",
            f"at most {max(np.abs(part).max() for part in factorial):.1%} apart",
            all(np.abs(part).max() <= _NEAR for part in factorial),
        ),
    )


def _disagreement(kinds: _Kinds) -> tuple[float, str]:
    """Return the largest distance between two estimates in standard errors, and of which posteriors."""

    def apart(pair: tuple[str, str]) -> float:
        (one, error), (other, other_error) = (kinds[kind].estimate for kind in pair)
        return abs(other - one) / float(np.hypot(error, other_error))

    worst = max(combinations(kinds, 2), key=apart)
    return apart(worst), " and ".join(worst)


def _table(name: str, kinds: _Kinds) -> Table:
    rows = []
    for kind, of in kinds.items():
        (estimate, error), (covered, errors) = of.estimate, of.covered
        pairs = zip(covered[: len(_LEVELS)], errors[: len(_LEVELS)], strict=True)
        cells = [f"{100 * c:.1f} ± {100 * e:.1f}" for c, e in pairs]
        rows.append(
            [kind, of.bounds.mean(), f"{estimate:.3f} ± {error:.3f}", of.errors.max(), *cells, of.seconds]
        )
    return Table.from_values(
        name.replace(" ", "-"),
        f"The model with {name}: bounds and log-likelihoods in nats per data point, the largest standard "
        "error of one of them, per cent of the true codes inside of central intervals, seconds of inference.",
        {"posterior": "", "ELBO": ".3f", "log p(x)": "", "largest error": ".2f"}
        | {f"in {level:.0%}": "" for level in _LEVELS}
        | {"seconds": ".1f"},
        rows,
    )


def _draw_bounds(found: Mapping[str, _Kinds]) -> Figure:
    figure, grid = plots.panels(1, len(found), (8.4, 3.6))
    for axes, (name, kinds) in zip(grid, found.items(), strict=True):
        best, places = _best_estimate(kinds)[0], range(len(kinds))
        estimates, errors = zip(*(of.estimate for of in kinds.values()), strict=True)
        bounds = [float(of.bounds.mean()) - best for of in kinds.values()]
        axes.plot(places, bounds, "o", color=plots.PALETTE[0], label="ELBO")
        axes.errorbar(
            places,
            np.array(estimates) - best,
            yerr=_ERRORS * np.array(errors),
            fmt="s",
            color=plots.PALETTE[1],
            capsize=3,
            label="estimate of log p(x)",
        )
        axes.axhline(0.0, color=plots.PAPER_COLOUR, linewidth=1)
        axes.set_xticks(places, list(kinds))
        plots.add_title(axes, name)
    grid[0].set_ylabel("below the best estimate of log p(x) (nats)")
    plots.add_legend(grid[-1], loc="lower right")
    return figure


def _draw_calibration(found: Mapping[str, _Kinds]) -> Figure:
    figure, grid = plots.panels(1, len(found), (8.4, 4.0))
    for axes, (name, kinds) in zip(grid, found.items(), strict=True):
        axes.plot([0, 100], [0, 100], color=plots.PAPER_COLOUR, linewidth=1, linestyle="--", label="nominal")
        for style, (kind, of), colour in zip(
            ("-", ":", "-.", "-"), kinds.items(), plots.PALETTE, strict=False
        ):
            axes.plot(100 * _CURVE, 100 * of.covered[0][len(_LEVELS) :], style, color=colour, label=kind)
        axes.set(xlabel="nominal (per cent)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
        plots.add_title(axes, name)
    grid[0].set_ylabel("codes inside (per cent)")
    plots.add_legend(grid[0])
    return figure


EXPERIMENT = Experiment(
    title="What each kind of posterior is worth",
    configs=at_scales(
        PosteriorsConfig(),
        smoke=SMOKE
        | {"n_patches": 512, "epochs": 1, "n_drawn": 20, "n_draws": 20, "rank": 1, "n_correlated": 6},
        large={"n_patches": 204_800, "n_components": 400, "epochs": 20, "n_drawn": 5000, "n_draws": 5000},
    ),
    run=run,
)
