"""3.4 and E: the soft magnitude, and codes of the annealed entropy ELBO beside those of l1 sparse coding."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import sparse_encode
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.app import plots
from entrosparse.closed_form import SQRT_2_OVER_PI, soft_magnitude_ratio
from entrosparse.inference import DiagonalInference
from entrosparse.learning import OnlineEM
from entrosparse.metrics import gini
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import entropy_elbo, with_unit_scales
from entrosparse.posteriors import Diagonal
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import PAPER, SMOKE, PatchConfig, draw_patches
from entrosparse.statistics import Statistics

_GAMMAS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
_RATIOS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, math.inf)  # edges of bins of |ν|/τ
_ONE = _GAMMAS.index(1.0)
_LEAST = 50  # codes that a bin must hold
_NEGLIGIBLE = 1e-3  # share of λ below which a code counts as negligible
_ALIKE = 0.95  # least correlation of similar codes
_SHOWN = 25.0  # nats below the highest ELBO that are drawn
_MEANS, _WEIGHTED, _UNIFORM = "posterior means", "l1, penalties 2γσ²/λ", "l1, one penalty"
_COLOURS = dict(zip((_MEANS, _WEIGHTED, _UNIFORM), plots.PALETTE, strict=False))


@final
@dataclass(frozen=True)
class L1Config(PatchConfig):
    """Settings: those of patches, with sizes of their own."""

    n_patches: int = 20_480
    n_heldout: int = 1_024
    epochs: int = 5


@dataclass(frozen=True)
class _Measures:
    """Measures of codes, as means over patches in data units."""

    error: float  # mean squared residual per pixel
    l1_norm: float
    negligible: float  # share of codes that are negligible
    zero: float  # share of codes that are exactly 0
    gini: float


@dataclass(frozen=True)
class _Found:
    """What was measured, over `_GAMMAS` where nothing else is said."""

    codes: Mapping[str, Sequence[_Measures]]
    correlation: Sequence[float]  # of the posterior means with the l1 codes
    elbo: Sequence[float]
    differences: Sequence[tuple[float, float]]  # at γ = 1: |ν|/τ, and distance of the l1 code over |ν|


def run(config: L1Config) -> Result:
    """Learn a dictionary, and compare its codes by either objective over γ."""
    data = draw_patches(config)
    result = config.train(OnlineEM(), data.train, data.heldout)
    model, x = result.model.to(torch.float64), data.test.double()
    posteriors = [DiagonalInference()(x, model, EntropyWeights(prior=gamma)) for gamma in _GAMMAS]
    uniform = replace(model, prior_scale=model.prior_scale.mean().expand_as(model.prior_scale))
    codes = {
        _MEANS: [posterior.mean for posterior in posteriors],
        _WEIGHTED: [_lasso(x, model, gamma) for gamma in _GAMMAS],
        _UNIFORM: [_lasso(x, uniform, gamma) for gamma in _GAMMAS],
    }
    pairs = zip(codes[_MEANS], codes[_WEIGHTED], strict=True)
    found = _Found(
        codes={name: [_measure(z, x, model) for z in of] for name, of in codes.items()},
        correlation=[float(np.corrcoef(nu.ravel(), z.ravel())[0, 1]) for nu, z in pairs],
        elbo=[_elbo(posterior, x, model) for posterior in posteriors],
        differences=_differences(posteriors[_ONE], codes[_WEIGHTED][_ONE]),
    )
    a = torch.linspace(-6.0, 6.0, 1201, dtype=torch.float64)
    magnitude = soft_magnitude_ratio(a)
    settings = (
        f"dictionary of H = {config.n_components} from {config.n_patches:,} patches, {config.epochs} epochs, "
        f"{result.history[-1].seconds:.1f} s; codes of {config.n_heldout:,} held-out patches with the "
        "learned λ and σ²"
    )
    return Result(
        data=data.words,
        claims=_claims(a, magnitude, found),
        pictures=(
            Picture(
                "soft-magnitude",
                "M(a), which is E|z| in deviations for a mean of a deviations (Eq. 12), and what it adds to "
                "|a|.",
                (_draw_magnitude(a.numpy(), magnitude.numpy()),),
            ),
            Picture(
                "tradeoff",
                f"Error and sparsity over γ ({settings}). One penalty is that of the mean λ. Circles: γ = 1. "
                "The Gini index of a patch whose codes are all 0 counts as 0.",
                (_draw_tradeoff(found.codes),),
            ),
            Picture(
                "codes",
                f"Posterior means and l1 codes at γ = 1 ({settings}): single codes, and the difference for "
                "means of different certainty (root mean squares).",
                (_draw_codes(codes[_MEANS][_ONE], codes[_WEIGHTED][_ONE], model.prior_scale, found),),
            ),
            Picture(
                "elbo",
                f"ELBO of the posteriors that maximize objective (17) at some γ ({settings}); lower values "
                "are in the table.",
                (_draw_elbo(found.elbo),),
            ),
        ),
        tables=(_table(found),),
        numbers={"gamma": list(_GAMMAS), **asdict(found)},
    )


def _lasso(x: Tensor, model: SparseCodingModel, gamma: float) -> Tensor:
    """Return the codes that minimize ``‖x − W̃z‖² + Σ_h 2γσ²/λ_h |z_h|`` (Eq. 2).

    In the form of Eq. 1, where λ = 1, all latents have one penalty. scikit-learn halves both terms.
    """
    unit = with_unit_scales(model)
    penalty = gamma * float(model.noise_variance)
    codes = sparse_encode(
        x.numpy(), unit.dictionary.T.numpy(), algorithm="lasso_cd", alpha=penalty, max_iter=10_000
    )
    return torch.from_numpy(codes) * model.prior_scale


def _measure(codes: Tensor, x: Tensor, model: SparseCodingModel) -> _Measures:
    return _Measures(
        error=float((x - codes @ model.dictionary.T).square().mean()),
        l1_norm=float(codes.abs().sum(1).mean()),
        negligible=float((codes.abs() < _NEGLIGIBLE * model.prior_scale).double().mean()),
        zero=float((codes == 0).double().mean()),
        gini=float(gini(codes).mean()),
    )


def _elbo(posterior: Diagonal, x: Tensor, model: SparseCodingModel) -> float:
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)
    return float(entropy_elbo(statistics).elbo)


def _differences(posterior: Diagonal, codes: Tensor) -> list[tuple[float, float]]:
    """Return for each bin of |ν|/τ its median, and the relative distance of its l1 codes from ν."""
    mean, ratio = posterior.mean, posterior.mean.abs() / posterior.scale
    found = []
    for low, high in pairwise(_RATIOS):
        inside = (ratio >= low) & (ratio < high)
        if int(inside.sum()) >= _LEAST:
            distance = (mean - codes)[inside].norm() / mean[inside].norm()
            found.append((float(ratio[inside].median()), float(distance)))
    return found


def _claims(a: Tensor, magnitude: Tensor, found: _Found) -> tuple[Claim, ...]:
    means, weighted, elbo = found.codes[_MEANS], found.codes[_WEIGHTED], found.elbo
    above = (magnitude - a.abs()).numpy()
    middle = len(above) // 2
    monotone = all(
        np.all(np.diff([of.error for of in path]) > 0) and np.all(np.diff([of.l1_norm for of in path]) < 0)
        for path in (means, weighted)
    )
    first, last, best = means[0], means[-1], int(np.argmax(elbo))
    (near, nearest), (far, farthest) = found.differences[0], found.differences[-1]
    distances = [distance for _, distance in found.differences]
    return (
        Claim(
            "M(a) lies above |a| everywhere, most at zero, and approaches it for large |a|",
            f"M(0) = {magnitude[middle]:.3f}; above |a| by {above.min():.1e} at |a| = {a[-1]:g}",
            bool((above > 0).all() and above.argmax() == middle and above[-1] < 1e-6)
            and bool(abs(above.max() - SQRT_2_OVER_PI) < 1e-12),
            paper="M(0) = √(2/π) = 0.798",
        ),
        Claim(
            "γ acts as the weight of an l1 penalty: a larger γ gives sparser codes and a larger error",
            f"from γ = {_GAMMAS[0]:g} to {_GAMMAS[-1]:g} the l1 norm of means goes from {first.l1_norm:.3g} "
            f"to {last.l1_norm:.3g} data units, their Gini index from {first.gini:.2f} to {last.gini:.2f}, "
            f"the error from {first.error:.2g} to {last.error:.2g} squared data units",
            monotone and all(np.diff([of.gini for of in means]) > 0),
        ),
        Claim(
            "codes are similar to those of the l1 objective with penalties 2γσ²/λ",
            f"correlation {found.correlation[_ONE]:.4f} at γ = 1, at least {min(found.correlation):.4f}",
            min(found.correlation) > _ALIKE,
        ),
        Claim(
            "they are more so the smaller the deviation τ is beside the mean ν",
            f"relative difference {nearest:.2g} at |ν| = {near:.2g} τ, {farthest:.2g} at {far:.2g} τ",
            bool((np.diff(distances) <= 0).all() and farthest < nearest),
        ),
        Claim(
            "the soft magnitude does not vanish with ν, so the objective is genuinely different from l1",
            f"at γ = 1 {weighted[_ONE].zero:.0%} of the l1 codes are exactly 0, "
            f"{means[_ONE].zero:.0%} of the posterior means",
            means[_ONE].zero < 0.01 < weighted[_ONE].zero,
        ),
        Claim(
            "the optimal γ is known, where l1 sparse coding has to tune its weight",
            f"highest ELBO {elbo[best]:.2f} nats at γ = {_GAMMAS[best]:g}; {elbo[_ONE - 1]:.2f} at "
            f"{_GAMMAS[_ONE - 1]:g}, {elbo[_ONE + 1]:.2f} at {_GAMMAS[_ONE + 1]:g}",
            best == _ONE,
            paper="γ = 1",
        ),
    )


def _table(found: _Found) -> Table:
    formats = {"error": ".5f", "l1 norm": ".2f", "negligible": ".1%", "Gini": ".3f"}
    pairs = {f"{name}, {kind}": form for name, form in formats.items() for kind in ("ν", "l1")}
    codes = (found.codes[_MEANS], found.codes[_WEIGHTED])
    columns = zip(_GAMMAS, *codes, found.correlation, found.elbo, strict=True)
    return Table.from_values(
        "codes",
        f"Posterior means (ν) and l1 codes with penalties 2γσ²/λ (l1). Negligible: |z| < {_NEGLIGIBLE:g} λ.",
        {"γ": "g"} | pairs | {"correlation": ".4f", "ELBO (nats)": ".2f"},
        [
            (
                gamma,
                *(nu.error, z.error, nu.l1_norm, z.l1_norm, nu.negligible, z.negligible, nu.gini, z.gini),
                *(agreement, bound),
            )
            for gamma, nu, z, agreement, bound in columns
        ],
    )


def _draw_magnitude(a: np.ndarray, magnitude: np.ndarray) -> Figure:
    figure, (values, above) = plots.panels(1, 2, (9.0, 3.4))
    near = np.abs(a) <= 3.0
    values.plot(a[near], magnitude[near], color=plots.ELBO_COLOUR, label="M(a)")
    values.plot(a[near], np.abs(a)[near], color=plots.PAPER_COLOUR, linestyle="--", label="|a|")
    above.plot(a, magnitude - np.abs(a), color=plots.ELBO_COLOUR)
    values.set(xlabel="a = ν/τ", ylabel="magnitude (deviations)")
    above.set(xlabel="a = ν/τ", ylabel="M(a) − |a| (deviations)", yscale="log")
    plots.add_legend(values, loc="lower right")
    return figure


def _draw_tradeoff(measures: Mapping[str, Sequence[_Measures]]) -> Figure:
    figure, grid = plots.panels(2, 2, (9.0, 6.8))
    for name, path in measures.items():
        error = [of.error for of in path]
        curves = (
            ([of.l1_norm for of in path], error),
            (_GAMMAS, error),
            (_GAMMAS, [of.negligible for of in path]),
            (_GAMMAS, [of.gini for of in path]),
        )
        for axes, (across, up) in zip(grid, curves, strict=True):
            axes.plot(across, up, ".-", color=_COLOURS[name], label=name)
            axes.plot(across[_ONE], up[_ONE], "o", color=_COLOURS[name], fillstyle="none", markersize=9)
    error_label = "mean squared error (squared data units)"
    grid[0].set(xlabel="l1 norm of the codes (data units)", ylabel=error_label, yscale="log")
    grid[1].set(ylabel=error_label, yscale="log")
    grid[2].set(ylabel=f"share of codes below {_NEGLIGIBLE:g} λ")
    grid[3].set(ylabel="Gini index")
    for axes in grid[1:]:
        _lay_out_gamma(axes)
    plots.add_legend(grid[0])
    return figure


def _draw_codes(means: Tensor, codes: Tensor, prior_scale: Tensor, found: _Found) -> Figure:
    figure, (single, distance) = plots.panels(1, 2, (9.0, 4.0))
    nu, z = ((part / prior_scale).ravel()[:4000] for part in (means, codes))
    single.plot(nu, z, ".", color=_COLOURS[_WEIGHTED], markersize=3, alpha=0.5, rasterized=True)
    span = [-4.0, 4.0]
    single.plot(span, span, color=plots.PAPER_COLOUR, linewidth=1)
    single.set(xlabel="posterior mean (λ)", ylabel="l1 code (λ)", xlim=span, ylim=span)
    distance.plot(*zip(*found.differences, strict=True), "o-", color=_COLOURS[_WEIGHTED])
    distance.set(xscale="log", yscale="log", xlabel="|ν| / τ", ylabel="difference of the codes / |ν|")
    return figure


def _draw_elbo(elbo: Sequence[float]) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (5.6, 3.4))
    axes.plot(_GAMMAS, elbo, "o-", color=plots.ELBO_COLOUR)
    axes.axvline(1.0, color=plots.PAPER_COLOUR, linestyle="--", linewidth=1)
    axes.set(ylabel="held-out ELBO (nats per patch)", ylim=(max(elbo) - _SHOWN, max(elbo) + 0.1 * _SHOWN))
    _lay_out_gamma(axes)
    return figure


def _lay_out_gamma(axes: Axes) -> None:
    axes.set(xscale="log", xlabel="γ")
    axes.set_xticks(_GAMMAS, [f"{gamma:g}" for gamma in _GAMMAS])
    axes.minorticks_off()


EXPERIMENT = Experiment(
    title="The soft magnitude and l1 sparse coding",
    source="3.4, E",
    configs=at_scales(L1Config(), smoke=SMOKE | {"n_patches": 1_024, "epochs": 1}, paper=PAPER),
    run=run,
)
