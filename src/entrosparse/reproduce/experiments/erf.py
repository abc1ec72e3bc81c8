"""D.1: the closed-form error function after Bürmann beside the one of numerical libraries."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from entrosparse.app import plots
from entrosparse.closed_form import SQRT_HALF, erf_burmann, magnitude_curvature
from entrosparse.learning import Batch, evaluate, initial_model
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import entropy_elbo
from entrosparse.posteriors import Diagonal
from entrosparse.priors import Laplace, Prior
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import PAPER, SMOKE, PatchConfig, PatchData, draw_patches
from entrosparse.reproduce.shared.gradient_em import GradientEM
from entrosparse.statistics import Statistics

_LAPLACE = Laplace()
_BATCH = 512
_ACCURATE = 0.01  # largest error of an accurate form, of values up to 1
_ALIKE = 0.01  # nats by which the ELBO of two like runs may differ
_LONGER = 0.1  # least share by which runs are longer
_MISPRINT = "Bürmann as printed, 21/200"


@final
@dataclass(frozen=True)
class _BurmannLaplace(Prior):
    """The Laplace prior, with its expected magnitude (Eq. 97) in closed form."""

    name: ClassVar[str] = "laplace"

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        a = mean / marginal_scale
        return marginal_scale * magnitude_curvature(a) + mean * erf_burmann(SQRT_HALF * a)

    statistic = _LAPLACE.statistic
    optimal_scale = _LAPLACE.optimal_scale
    entropy = _LAPLACE.entropy
    expected_log_prob = _LAPLACE.expected_log_prob
    sample = _LAPLACE.sample


_PRIORS: dict[str, Prior] = {"torch.erf": _LAPLACE, "Bürmann": _BurmannLaplace()}
_COLOURS = dict(zip(_PRIORS, (plots.PALETTE[1], plots.PALETTE[2]), strict=True))


@final
@dataclass(frozen=True)
class ErfConfig(PatchConfig):
    """Settings.

    Attributes
    ----------
    n_runs : int
        Starts, each with both error functions.
    n_values, n_repeats : int
        Size of the tensor that is timed, and how often.
    """

    n_patches: int = 5_120
    n_heldout: int = 1_024
    n_components: int = 64
    patch_size: int = 12
    epochs: int = 5
    n_runs: int = 5
    n_values: int = 1_000_000
    n_repeats: int = 21


@dataclass(frozen=True, eq=False)
class _Run:
    model: SparseCodingModel
    history: Sequence[float]  # held-out ELBO by the exact erf, before learning and after each epoch
    seconds: float  # per minibatch


def run(config: ErfConfig) -> Result:
    """Measure error and speed of the approximation, and learn with either error function."""
    x = torch.linspace(-4.0, 4.0, 4001, dtype=torch.float64)
    exact = torch.erf(x)
    errors = {name: (form - exact).numpy() for name, form in _closed_forms(x).items()}
    worst = {name: float(np.abs(error).max()) for name, error in errors.items()}
    data = draw_patches(config)
    pairs = [
        {name: _learn(prior, data, config, config.seed + k) for name, prior in _PRIORS.items()}
        for k in range(config.n_runs)
    ]
    seconds = _seconds(config)
    seconds["run"] = {name: float(np.median([pair[name].seconds for pair in pairs])) for name in _PRIORS}
    ends = {name: [pair[name].history[-1] for pair in pairs] for name in _PRIORS}
    matches = [match_atoms(*(found.model.dictionary for found in pair.values())) for pair in pairs]
    cosine = [float(match.cosine.mean()) for match in matches]
    settings = (
        f"H = {config.n_components}, the paper's EM with diagonal covariance, {config.epochs} epochs, "
        f"{config.n_runs} starts"
    )
    return Result(
        data=data.words,
        claims=_claims(worst, ends, cosine, seconds),
        pictures=(
            Picture(
                "error",
                "The closed form of second order (Eq. 174), and its error. The paper prints the coefficient "
                "21/200; that of the series is 31/200.",
                (_draw_errors(x.numpy(), exact.numpy(), errors),),
            ),
            Picture(
                "learning",
                f"Held-out ELBO by the exact error function while learning with either ({settings}), and "
                "what the closed form changes.",
                (_draw_runs(pairs),),
            ),
            Picture.from_models(
                "fields",
                f"Generative fields learned with either error function from the first start ({settings}).",
                {name: found.model for name, found in pairs[0].items()},
                config.shape,
            ),
        ),
        tables=_tables(worst, seconds, config),
        numbers={
            "largest_error": worst,
            "seconds": seconds,
            "elbo": {name: [list(pair[name].history) for pair in pairs] for name in _PRIORS},
            "mean_cosine_of_pair": cosine,
        },
    )


def _closed_forms(x: Tensor) -> dict[str, Tensor]:
    decay = torch.exp(-x.square())
    slip = 2.0 / math.sqrt(math.pi) * torch.sqrt(1.0 - decay) * decay * (31 - 21) / 200
    return {"Bürmann": erf_burmann(x), _MISPRINT: erf_burmann(x) - x.sign() * slip}


def _learn(prior: Prior, data: PatchData, config: ErfConfig, seed: int) -> _Run:
    x, generator = torch.from_numpy(data.train), torch.Generator().manual_seed(seed)
    learner = GradientEM()
    model = initial_model(x, config.n_components, "data", prior, generator)
    state = learner.start(model, x, generator)
    history, seconds = [_elbo(state.model, data)], []
    for _ in range(config.epochs):
        order = torch.randperm(len(x), generator=generator)
        for first in range(0, len(x), _BATCH):
            batch = order[first : first + _BATCH]
            started = time.process_time()
            state = learner.step(state, Batch(x[batch]))
            seconds.append(time.process_time() - started)
        history.append(_elbo(state.model, data))
    return _Run(state.model, history, float(np.median(seconds)))


def _elbo(model: SparseCodingModel, data: PatchData) -> float:
    return float(evaluate(replace(model, prior=_LAPLACE), data.test, tolerance=0.01).terms.elbo)


def _seconds(config: ErfConfig) -> dict[str, dict[str, float]]:
    """Time the error functions, and one minibatch of the objective (15) with its gradient."""
    n_features, n_components = config.patch_size**2, config.n_components
    generator = torch.Generator().manual_seed(config.seed)
    values = torch.randn(config.n_values, generator=generator)
    shapes = [(_BATCH, n_features), *[(_BATCH, n_components)] * 2, (n_features, n_components)]
    x, mean, log_scale, free = (torch.randn(shape, generator=generator) for shape in shapes)
    parameters = [tensor.requires_grad_() for tensor in (mean, log_scale, free)]

    def gradient(prior: Prior) -> object:
        statistics = Statistics.collect(Diagonal(mean, log_scale.exp()), x, unit_columns(free), prior)
        return torch.autograd.grad(entropy_elbo(statistics).elbo, parameters)

    forms: dict[str, Callable[[Tensor], Tensor]] = {"torch.erf": torch.erf, "Bürmann": erf_burmann}
    gradients = {name: partial(gradient, prior) for name, prior in _PRIORS.items()}
    return {
        "values": _median_seconds({name: partial(form, values) for name, form in forms.items()}, config),
        "objective": _median_seconds(gradients, config),
    }


def _median_seconds(work: Mapping[str, Callable[[], object]], config: ErfConfig) -> dict[str, float]:
    """Return the median time of each work; the works take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(config.n_repeats):
        for name, do in work.items():
            started = time.process_time()
            do()
            seconds[name].append(time.process_time() - started)
    return {name: float(np.median(of)) for name, of in seconds.items()}


def _claims(
    worst: Mapping[str, float],
    ends: Mapping[str, Sequence[float]],
    cosine: Sequence[float],
    seconds: Mapping[str, Mapping[str, float]],
) -> tuple[Claim, ...]:
    differences = np.subtract(ends["Bürmann"], ends["torch.erf"])
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    spread = float(np.std(ends["torch.erf"], ddof=1))
    longer = {name: of["Bürmann"] / of["torch.erf"] - 1.0 for name, of in seconds.items()}
    return (
        Claim(
            "a closed form of the error function is very accurate",
            f"off by at most {worst['Bürmann']:.4f}",
            worst["Bürmann"] < _ACCURATE,
        ),
        Claim(
            "results of learning do not differ significantly from those with the exact error function",
            f"ELBO {differences.mean():+.4f} ± {error:.4f} nats, at most {np.abs(differences).max():.4f} in "
            f"{len(differences)} pairs of runs, where starts differ by {spread:.4f} (deviation); mean "
            f"|cosine| of the two dictionaries {np.mean(cosine):.4f}",
            bool(np.abs(differences).max() < max(spread, _ALIKE)),
            paper="none",
        ),
        Claim(
            "a naive implementation makes runs longer",
            f"{longer['run']:+.0%} in these runs, {longer['objective']:+.0%} for the objective alone",
            longer["run"] > _LONGER,
            paper="20-30 %",
        ),
    )


def _tables(
    worst: Mapping[str, float], seconds: Mapping[str, Mapping[str, float]], config: ErfConfig
) -> tuple[Table, Table]:
    errors = Table.from_values(
        "errors",
        "Largest error of the closed form; for the coefficient of the series it lies near |x| = 1.41.",
        {"form": "", "largest error": ".2e"},
        worst.items(),
    )
    size = f"N = {_BATCH}, D = {config.patch_size**2}, H = {config.n_components}"
    words = {
        "values": f"erf of {config.n_values:,} values",
        "objective": f"objective and gradient, {size}",
        "run": f"minibatch of the paper's EM, {size}",
    }
    times = Table.from_values(
        "seconds",
        "Median processor time in float32. Automatic differentiation goes through each of the dozen "
        "operations of the closed form, where the library has one for the value and one for the slope.",
        {"work": ""} | {f"{name} (ms)": ".3g" for name in _PRIORS} | {"ratio": ".2f"},
        [
            (words[name], *(1e3 * value for value in of.values()), of["Bürmann"] / of["torch.erf"])
            for name, of in seconds.items()
        ],
    )
    return errors, times


def _draw_errors(x: np.ndarray, exact: np.ndarray, errors: Mapping[str, np.ndarray]) -> Figure:
    figure, (values, differences) = plots.panels(1, 2, (9.0, 3.4))
    values.plot(x, exact, color=_COLOURS["torch.erf"], label="erf")
    colours = (_COLOURS["Bürmann"], plots.PAPER_COLOUR)
    for (name, error), colour in zip(errors.items(), colours, strict=True):
        values.plot(x, exact + error, color=colour, linestyle="--", label=name)
        differences.plot(x, error, color=colour)
    values.set(xlabel="x", ylabel="erf(x)")
    differences.set(xlabel="x", ylabel="error")
    plots.add_legend(values, loc="lower right")
    return figure


def _draw_runs(pairs: Sequence[Mapping[str, _Run]]) -> Figure:
    figure, (curves, changes) = plots.panels(1, 2, (9.0, 3.4))
    for k, pair in enumerate(pairs):
        for (name, found), style in zip(pair.items(), ("-", "--"), strict=True):
            label = name if k == 0 else None
            curves.plot(found.history, style, color=_COLOURS[name], label=label)
        difference = np.subtract(pair["Bürmann"].history, pair["torch.erf"].history)
        changes.plot(difference, "o-", color=plots.ELBO_COLOUR, markersize=4)
    curves.set(xlabel="epoch", ylabel="held-out ELBO (nats per patch)")
    changes.set(xlabel="epoch", ylabel="Bürmann − torch.erf (nats per patch)")
    plots.add_legend(curves, loc="lower right")
    return figure


EXPERIMENT = Experiment(
    title="The error function in closed form",
    source="D.1",
    configs=at_scales(
        ErfConfig(),
        smoke=SMOKE | {"n_patches": 512, "epochs": 1, "n_runs": 2, "n_values": 10_000, "n_repeats": 3},
        paper=PAPER | {"n_components": 100, "patch_size": 16, "epochs": 10},
    ),
    run=run,
)
