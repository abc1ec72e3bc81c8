"""What each kind of posterior is worth: bounds, estimates of log p(x), and intervals of the codes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtri

from entrosparse.app import plots
from entrosparse.inference import (
    DiagonalInference,
    ExactFactorialInference,
    FullInference,
    Inference,
    LowRankInference,
    infer_in_chunks,
)
from entrosparse.learning import OnlineEM
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import importance_log_likelihood, pointwise_elbo
from entrosparse.posteriors import ExactFactorial, Posterior
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import SMOKE, PatchConfig, draw_patches

_DIAGONAL, _EXACT, _LOW_RANK, _FULL = "diagonal", "exact factorial", "low rank", "full"
_PHOTOGRAPHS, _CORRELATED = "photographs", "correlated atoms"
_NESTED = ((_DIAGONAL, _EXACT), (_DIAGONAL, _LOW_RANK), (_LOW_RANK, _FULL))  # the second holds the first
_LEVELS = np.array([0.5, 0.8, 0.95])
_CURVE = np.linspace(0.02, 0.98, 25)
_NEAR = 0.02  # how near to the nominal share the coverage of full posteriors is expected
_ROUNDING = 0.01  # nats that solvers may stop short of an optimum
_ERRORS = 2.0  # standard errors that a difference may be off
_APART = 3.0  # the same for the largest of the differences between all pairs of posteriors

_Array = NDArray[np.float64]


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

    @property
    def solvers(self) -> dict[str, Inference]:
        """Solvers by the kind of posterior, in the order in which they are shown."""
        return {
            _DIAGONAL: DiagonalInference(1e-4, 20_000),
            _EXACT: ExactFactorialInference(1e-4, 20_000),
            _LOW_RANK: LowRankInference(min(self.rank, self.n_components), 1e-3, 2000),
            _FULL: FullInference(1e-4, 1000),
        }


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one kind of posterior says of the data drawn from a model, in nats for each of them."""

    bounds: _Array
    estimates: _Array  # of log p(x), by importance sampling
    errors: _Array  # standard errors of the estimates
    inside: _Array  # share of a data point's codes in the central intervals, by level and along the curve
    seconds: float

    @property
    def estimate(self) -> tuple[float, float]:
        """The mean estimate and the standard error that sampling leaves to it."""
        return float(self.estimates.mean()), float(np.sqrt(np.square(self.errors).sum())) / len(self.errors)

    @property
    def covered(self) -> tuple[_Array, _Array]:
        """Shares of true codes in the intervals, and standard errors over the data points."""
        return self.inside.mean(0), self.inside.std(0) / len(self.inside) ** 0.5


_Kinds = Mapping[str, _Measured]  # by kind of posterior


def run(config: PosteriorsConfig) -> Result:
    """Draw codes and data from two models, and infer the codes with each kind of posterior."""
    data = draw_patches(config)
    learned = config.train(OnlineEM(), data.train, data.heldout)
    models = {
        _PHOTOGRAPHS: learned.model.to(torch.float64),
        _CORRELATED: _correlated(config.n_correlated, config.seed),
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


def _correlated(n_components: int, seed: int) -> SparseCodingModel:
    """Return a model with more latents than features, whose atoms share a direction."""
    generator = torch.Generator().manual_seed(seed)
    n_features = max(2, 2 * n_components // 3)
    own = unit_columns(torch.randn(n_features, n_components, generator=generator, dtype=torch.float64))
    common = unit_columns(torch.randn(n_features, 1, generator=generator, dtype=torch.float64))
    return SparseCodingModel(
        unit_columns(own + 0.5 * common),
        torch.linspace(0.5, 1.5, n_components, dtype=torch.float64),
        torch.tensor(0.1, dtype=torch.float64),
    )


def _measure(model: SparseCodingModel, config: PosteriorsConfig) -> _Kinds:
    generator = torch.Generator().manual_seed(config.seed)
    x, codes = model.sample(config.n_drawn, generator)
    found = {}
    for name, solver in config.solvers.items():
        started = time.perf_counter()
        chunks = list(infer_in_chunks(x, model, solver))
        seconds = time.perf_counter() - started
        parts = []
        for part, rows, q in chunks:
            estimates, errors = importance_log_likelihood(q, rows, model, config.n_draws, generator)
            parts.append((pointwise_elbo(q, rows, model), estimates, errors, _inside(q, codes[part])))
        bounds, values, spreads, inside = (torch.cat(of).numpy() for of in zip(*parts, strict=True))
        found[name] = _Measured(bounds, values, spreads, inside, seconds)
    return found


def _inside(posterior: Posterior, codes: torch.Tensor) -> torch.Tensor:
    """Return the share of each data point's codes in the central intervals, shape (N, levels), in float64."""
    shares = []
    for level in (*_LEVELS, *_CURVE):
        reach = torch.full_like(codes, float(ndtri(0.5 + level / 2.0)))
        if isinstance(posterior, ExactFactorial):
            low, high = posterior.perturb(-reach), posterior.perturb(reach)  # Quantiles of each latent.
        else:
            low, high = (posterior.mean + sign * reach * posterior.marginal_scale() for sign in (-1.0, 1.0))
        shares.append(((low < codes) & (codes < high)).double().mean(1))
    return torch.stack(shares, 1)


def _numbers(of: _Measured) -> dict[str, object]:
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
    off = {name: float(np.abs(covered[name, _FULL] - _LEVELS).max()) for name in found}
    narrow = {
        (name, kind): float(covered[name, _FULL][1] - covered[name, kind][1])
        for name in found
        for kind in (_DIAGONAL, _EXACT)
    }
    factorial = [covered[name, _EXACT] - covered[name, _DIAGONAL] for name in found]
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
