"""How sparse photographs are: the shape p of generalized Gaussian priors, given and learned, and of bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from entrosparse.app import plots
from entrosparse.images import bars
from entrosparse.inference import (
    DiagonalInference,
    FullInference,
    Inference,
    infer_in_chunks,
    stationarity,
)
from entrosparse.learning import OnlineEM, TrainingResult
from entrosparse.metrics import gini
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import pointwise_elbo
from entrosparse.priors import GeneralizedGaussian, Laplace, PriorFamily
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import SMOKE, PatchConfig, draw_patches
from entrosparse.reproduce.shared.bars_runs import found_bars, learn_bars
from entrosparse.reproduce.shared.quiet_fits import quietly

_LAPLACE, _SHARED, _LEARNED = "p = 1", "one learned p", "p learned per latent"
_GAIN = 4.0  # nats above Laplace that learned shapes are expected to gain on photographs
_NEAR = 0.1  # how near to 1 the shape of Laplace data is expected
_ERRORS = 2.0  # standard errors that a difference may be off
_TOLERANCE = 1e-3  # nats per posterior deviation that posteriors of data held out may be from their optimum


@final
@dataclass(frozen=True)
class PriorShapeConfig(PatchConfig):
    """Settings.

    Attributes
    ----------
    shapes : tuple of float
        Shapes p below 1 to try beside 1, rising.
    n_bars : int
        Images of bars to learn from, and as many to judge by.
    bars_epochs : int
        Iterations over the bars, at most.
    """

    n_patches: int = 25_600
    shapes: tuple[float, ...] = (0.4, 0.5, 0.6, 0.8)
    n_bars: int = 2000
    bars_epochs: int = 1000

    @property
    def priors(self) -> dict[str, PriorFamily]:
        """Priors in the order in which they are shown."""
        given: dict[str, PriorFamily] = {f"p = {p:g}": GeneralizedGaussian(p) for p in self.shapes}
        learned = {_SHARED: GeneralizedGaussian("shared"), _LEARNED: GeneralizedGaussian("learned")}
        return given | {_LAPLACE: Laplace()} | learned


@dataclass(frozen=True, eq=False)
class _Run:
    """What was learned with one prior."""

    model: SparseCodingModel
    bounds: NDArray[np.float64]  # of each datum held out, in nats
    gini: float
    seconds: float
    n_unfinished: int  # posteriors of data held out that are above the tolerance

    @classmethod
    def judge(cls, result: TrainingResult, x: torch.Tensor, solver: Inference) -> "_Run":
        """Infer the codes of data held out with all that was learned, also the shapes, as it is."""
        model, parts = result.model, []
        with quietly(ConvergenceWarning):  # A posterior short of its optimum gives a bound all the same.
            for _, rows, q in infer_in_chunks(x, model, solver):
                distance = stationarity(q, rows, model)
                parts.append((pointwise_elbo(q, rows, model), gini(q.mean), distance > _TOLERANCE))
        bounds, sparsity, unfinished = (torch.cat(of).double() for of in zip(*parts, strict=True))
        seconds = result.history[-1].seconds
        return cls(model, bounds.numpy(), float(sparsity.mean()), seconds, int(unfinished.sum()))

    @property
    def shapes(self) -> NDArray[np.float64]:
        """The shape of each latent, sorted."""
        shape = self.model.prior_shape
        return np.ones(self.model.n_components) if shape is None else shape.double().sort().values.numpy()

    def above(self, other: "_Run") -> tuple[float, float]:
        """Return how far the mean bound is above another one, and the standard error of the difference."""
        gains = self.bounds - other.bounds
        return float(gains.mean()), float(gains.std() / len(gains) ** 0.5)


_Runs = Mapping[str, _Run]  # by prior


def run(config: PriorShapeConfig) -> Result:
    """Learn photographs and bars with each prior, and judge by data held out."""
    data = draw_patches(config)
    photographs = {}
    for name, prior in config.priors.items():
        result = config.train(OnlineEM(), data.train, data.heldout, prior=prior)
        photographs[name] = _Run.judge(result, data.test, DiagonalInference(_TOLERANCE))

    made, heldout = (bars(config.n_bars, rng=seed) for seed in (config.seed, config.seed + 1))
    x = torch.from_numpy(heldout.data)
    of_bars, n_found = {}, {}
    for name, prior in config.priors.items():
        with quietly(ConvergenceWarning):  # Learning that has not converged is judged as it is.
            result = learn_bars(made, config.seed, prior=prior, epochs=config.bars_epochs)
        of_bars[name] = _Run.judge(result, x, FullInference(_TOLERANCE))
        n_found[name] = int(found_bars(result.model, made).sum())

    found = {"photographs": photographs, "bars": of_bars}
    times = {name: sum(run.seconds for run in runs.values()) for name, runs in found.items()}
    settings = (
        f"photographs: {config.sizes}, {config.epochs} epochs, {times['photographs']:.0f} s; bars: "
        f"N = {config.n_bars:,}, D = 25, H = 10, full covariance, up to {config.bars_epochs:,} iterations, "
        f"{times['bars']:.0f} s"
    )
    return Result(
        data=f"{data.words}; bars of 5 x 5 pixels whose codes are Laplace",
        claims=_claims(found, config),
        pictures=(
            Picture(
                "bounds",
                "Held-out ELBO above that of the Laplace prior, with two standard errors of the "
                "difference, and Gini index of the posterior means, against the shape p. Shapes, λ and σ² "
                f"are as they were learned, for photographs and for bars ({settings}).",
                (_draw_bounds(found, config),),
            ),
            Picture(
                "shapes",
                f"Learned shape of each latent, sorted ({settings}).",
                (_draw_shapes(found),),
            ),
            Picture.from_models(
                "fields",
                f"Fields of photographs ({config.sizes}, {config.epochs} epochs), by prior.",
                {name: run.model for name, run in photographs.items()},
                config.shape,
            ),
        ),
        tables=(_table("photographs", photographs), _table("bars", of_bars, n_found)),
        numbers={
            source: {name: _numbers(run, runs[_LAPLACE]) for name, run in runs.items()}
            for source, runs in found.items()
        }
        | {"bars found": n_found},
    )


def _numbers(run: _Run, laplace: _Run) -> dict[str, object]:
    above, error = run.above(laplace)
    return {
        "bound": float(run.bounds.mean()),
        "above_laplace": above,
        "standard_error": error,
        "gini": run.gini,
        "shapes": run.shapes.tolist(),
        "seconds": run.seconds,
        "unfinished_posteriors": run.n_unfinished,
    }


def _claims(found: Mapping[str, _Runs], config: PriorShapeConfig) -> tuple[Claim, ...]:
    photographs, of_bars = found["photographs"], found["bars"]
    given = [f"p = {p:g}" for p in config.shapes]
    laplace, learned = photographs[_LAPLACE], photographs[_LEARNED]
    gains = {name: run.above(laplace)[0] for name, run in photographs.items()}
    best = max(given, key=gains.__getitem__)
    over_best, error = learned.above(photographs[best])
    times = learned.seconds / laplace.seconds
    sparsities = [photographs[name].gini for name in (*given, _LAPLACE)]
    excess = {name: run.above(of_bars[_LAPLACE]) for name, run in of_bars.items()}
    closest, free = max(given, key=lambda name: excess[name][0]), (_SHARED, _LEARNED)
    shared = float(of_bars[_SHARED].shapes[0])
    return (
        Claim(
            f"photographs are sparser than Laplace: learned shapes gain at least {_GAIN:g} nats",
            f"{gains[_LEARNED]:+.2f} nats, one learned shape {gains[_SHARED]:+.2f} nats",
            gains[_LEARNED] >= _GAIN,
        ),
        Claim(
            "shapes learned per latent are no worse than the best one that is given to all",
            f"{over_best:+.2f} ± {error:.2f} nats beside {best}, which gains {gains[best]:+.2f} nats",
            over_best >= -_ERRORS * error,
        ),
        Claim(
            "nearly all latents of photographs (95 %) learn a shape below 1",
            f"{np.mean(learned.shapes < 1.0):.0%}, median {np.median(learned.shapes):.2f}, "
            f"{learned.shapes[0]:.2f} to {learned.shapes[-1]:.2f}",
            bool(np.mean(learned.shapes < 1.0) >= 0.95),
        ),
        Claim(
            "codes (posterior means) are the sparser the smaller the shape, by their Gini index",
            ", ".join(f"{value:.3f}" for value in sparsities),
            all(one > other for one, other in pairwise(sparsities)),
        ),
        Claim(
            "learning with learned shapes takes at most twice the time of Laplace",
            f"{times:.1f} times",
            times <= 2.0,
        ),
        Claim(
            "on bars, whose codes are Laplace, p = 1 has a higher held-out bound than every smaller shape",
            f"{closest} comes closest, {excess[closest][0]:+.3f} ± {excess[closest][1]:.3f} nats",
            all(excess[name][0] < 0.0 for name in given),
        ),
        Claim(
            "on bars, learned shapes gain nothing over p = 1 that is beyond "
            f"{_ERRORS:g} standard errors of the difference",
            ", ".join(f"{name} {excess[name][0]:+.4f} ± {excess[name][1]:.4f} nats" for name in free),
            all(excess[name][0] <= _ERRORS * excess[name][1] for name in free),
        ),
        Claim(
            f"on bars, the one shape that is learned is within {_NEAR:g} of 1",
            f"p = {shared:.3f}; per latent {of_bars[_LEARNED].shapes[0]:.2f} to "
            f"{of_bars[_LEARNED].shapes[-1]:.2f}",
            abs(shared - 1.0) <= _NEAR,
        ),
    )


def _table(name: str, runs: _Runs, n_found: Mapping[str, int] | None = None) -> Table:
    count = {} if n_found is None else {"bars found": "d"}
    rows = []
    for prior, run in runs.items():
        above, error = run.above(runs[_LAPLACE])
        gain = None if prior == _LAPLACE else f"{above:+.3f} ± {error:.3f}"
        row = [prior, run.bounds.mean(), gain, np.median(run.shapes), run.gini, run.seconds]
        rows.append(row if n_found is None else [*row, n_found[prior]])
    return Table.from_values(
        name,
        f"{name.capitalize()}: held-out ELBO in nats per datum, how far it is above that of the Laplace "
        "prior with the standard error of the difference, and seconds of learning. Shapes, λ and σ² are as "
        "they were learned; posteriors alone are found for data held out.",
        {"prior": "", "ELBO": ".3f", "above p = 1": "", "median p": ".3f", "Gini": ".3f", "seconds": ".1f"}
        | count,
        rows,
    )


def _draw_bounds(found: Mapping[str, _Runs], config: PriorShapeConfig) -> Figure:
    figure, grid = plots.panels(2, len(found), (8.4, 5.6), sharex=True)
    given = [f"p = {p:g}" for p in config.shapes] + [_LAPLACE]
    p = [*config.shapes, 1.0]
    for column, (source, runs) in enumerate(found.items()):
        above = {name: run.above(runs[_LAPLACE]) for name, run in runs.items()}
        sparsity = {name: (run.gini, 0.0) for name, run in runs.items()}
        for axes, values in zip(grid[column :: len(found)], (above, sparsity), strict=True):
            _draw_line(axes, p, [values[name] for name in given])
            for name, colour in zip((_SHARED, _LEARNED), plots.PALETTE[1:], strict=False):
                axes.axhline(values[name][0], color=colour, linestyle="--", linewidth=1.4, label=name)
        plots.add_title(grid[column], source)
        grid[column + len(found)].set_xlabel("shape p")
    grid[0].set_ylabel("ELBO above p = 1 (nats)")
    grid[len(found)].set_ylabel("Gini index")
    plots.add_legend(grid[0])
    return figure


def _draw_line(axes: Axes, p: Sequence[float], values: Sequence[tuple[float, float]]) -> None:
    means, errors = zip(*values, strict=True)
    axes.errorbar(
        p,
        means,
        yerr=_ERRORS * np.array(errors),
        fmt="o-",
        color=plots.PALETTE[0],
        capsize=3,
        label="p given",
    )


def _draw_shapes(found: Mapping[str, _Runs]) -> Figure:
    figure, grid = plots.panels(1, len(found), (8.4, 3.4))
    for axes, (source, runs) in zip(grid, found.items(), strict=True):
        shapes = runs[_LEARNED].shapes
        axes.plot(range(1, len(shapes) + 1), shapes, "o-", color=plots.PALETTE[0], markersize=3)
        axes.axhline(runs[_SHARED].shapes[0], color=plots.PALETTE[1], linestyle="--", label=_SHARED)
        axes.axhline(1.0, color=plots.PAPER_COLOUR, linewidth=1, label="Laplace")
        axes.set(xlabel="latent, sorted", ylim=(0.25, None))
        plots.add_title(axes, source)
    grid[0].set_ylabel("learned shape p")
    plots.add_legend(grid[0])
    return figure


EXPERIMENT = Experiment(
    title="The shape of sparsity, given and learned",
    configs=at_scales(
        PriorShapeConfig(),
        smoke=SMOKE | {"n_patches": 512, "epochs": 1, "shapes": (0.8,), "n_bars": 100, "bars_epochs": 5},
        large={"n_patches": 204_800, "n_components": 400, "epochs": 50, "n_bars": 20_000},
    ),
    run=run,
)
