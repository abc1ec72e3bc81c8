"""D.3, last paragraph: learning by samples and the reparameterization trick, beside exact gradients."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from entrosparse.app import plots
from entrosparse.learning import evaluate, initial_model
from entrosparse.objectives import analytic_elbo, entropy_elbo, monte_carlo_elbo, optimal_scales
from entrosparse.priors import Laplace
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import SMOKE, PatchConfig, draw_patches
from entrosparse.reproduce.shared.classical_parameters import Parameters

_SAMPLES = (1, 10, 100)
_NEAR = 1.0  # nats: learning has converged when it is this near to where the entropy ELBO ended
_UNBIASED = 2.0  # largest ratio of the squared bias found to the one expected by chance
_ENTROPY, _FREE = "entropy ELBO", "analytic ELBO, λ and σ² free"
_PARTS = {"mean": "posterior means ν", "log_scale": "log deviations τ", "matrix": "dictionary W"}


@final
@dataclass(frozen=True)
class StochasticConfig(PatchConfig):
    """Settings.

    Attributes
    ----------
    n_steps : int
        Steps of Adam with exact gradients.
    patience : float
        Time of each run with sampled gradients, as a multiple of the time that the entropy ELBO takes to
        converge.
    learning_rate : float
        Of Adam, for all parameters and all objectives.
    n_draws : int
        Number of sampled gradients from which the variance is estimated.
    """

    n_patches: int = 1_024
    n_heldout: int = 1_024
    n_components: int = 64
    patch_size: int = 12
    n_steps: int = 1_500
    patience: float = 4.0
    learning_rate: float = 0.01
    n_draws: int = 10


def _start(x: Tensor, config: StochasticConfig) -> Parameters:
    generator = torch.Generator().manual_seed(config.seed)
    model = initial_model(x, config.n_components, "data", Laplace(), generator)
    mean, log_prior_scale = x.new_zeros(len(x), config.n_components), model.prior_scale.log()
    log_scale = log_prior_scale.expand_as(mean)
    return Parameters(mean, log_scale, model.dictionary, log_prior_scale, model.noise_variance.log())


Objective = Callable[[Parameters, Tensor], Tensor]


def _entropy(parameters: Parameters, x: Tensor) -> Tensor:
    return entropy_elbo(parameters.statistics(x)).elbo


def _analytic(parameters: Parameters, x: Tensor) -> Tensor:
    return analytic_elbo(parameters.statistics(x), parameters.model).elbo


def _sampled(n_samples: int, seed: int) -> Objective:
    generator = torch.Generator().manual_seed(seed)
    return lambda parameters, x: monte_carlo_elbo(
        parameters.posterior, x, parameters.model, n_samples, generator
    )


@dataclass(frozen=True, eq=False)
class _Run:
    parameters: Parameters
    steps: np.ndarray
    seconds: np.ndarray
    elbo: np.ndarray  # the entropy ELBO of the posteriors and the dictionary at these steps

    def until(self, elbo: float) -> float:
        """Return the seconds until that ELBO, infinite if it was not reached."""
        reached = self.seconds[self.elbo >= elbo]
        return float(reached[0]) if len(reached) else math.inf


def run(config: StochasticConfig) -> Result:
    """Climb the ELBO with exact and with sampled gradients, from one start with one optimizer."""
    data = draw_patches(config)
    x = torch.from_numpy(data.train)
    start = _start(x, config)
    rate = config.learning_rate
    exact = {_ENTROPY: _entropy, _FREE: _analytic}
    runs = {name: _climb(objective, start, x, rate, config.n_steps) for name, objective in exact.items()}
    goal = float(runs[_ENTROPY].elbo[-1]) - _NEAR
    max_seconds = config.patience * runs[_ENTROPY].until(goal)
    for n_samples in _SAMPLES:
        objective = _sampled(n_samples, config.seed)
        runs[_words(n_samples)] = _climb(objective, start, x, rate, max_seconds=max_seconds)
    n_early = max(1, config.n_steps // 10)
    early = _climb(_entropy, start, x, rate, n_early).parameters
    noise = _gradient_noise(early, x, config)
    with torch.no_grad():
        heldout = {
            name: float(evaluate(of.parameters.model, data.test, tolerance=0.01).terms.elbo)
            for name, of in runs.items()
        }
    settings = f"{config.sizes}, Adam with rate {rate:g}"
    return Result(
        data=data.words,
        claims=_claims(runs, goal, noise),
        pictures=(
            Picture(
                "convergence",
                f"Entropy ELBO of the current posteriors and dictionary ({settings}), over seconds and over "
                f"iterations. Dashed: {_NEAR:g} nat below the end of the entropy ELBO.",
                (_draw_runs(runs, goal),),
            ),
            Picture(
                "gradient-noise",
                f"Variance of sampled gradients over the squared length of the exact one, after {n_early} "
                f"steps ({config.n_draws} draws; {settings}). Exact gradients have none.",
                (_draw_noise(noise),),
            ),
        ),
        tables=(_table(runs, goal, heldout),),
        numbers={
            "runs": {
                name: {"steps": of.steps.tolist(), "seconds": of.seconds.tolist(), "elbo": of.elbo.tolist()}
                for name, of in runs.items()
            },
            "goal": goal,
            "heldout_elbo": heldout,
            "gradient_noise": noise,
        },
    )


def _words(n_samples: int) -> str:
    return f"{n_samples} sample{'s' if n_samples > 1 else ''}"


def _climb(
    objective: Objective,
    start: Parameters,
    x: Tensor,
    learning_rate: float,
    n_steps: float = math.inf,
    max_seconds: float = math.inf,
) -> _Run:
    """Take steps of Adam until steps or seconds run out; record some that are about 5 % apart."""
    leaves = [part.detach().clone().requires_grad_() for part in vars(start).values()]
    parameters = Parameters(*leaves)
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    course = [(0, 0.0, _reached(parameters, x))]
    step, spent = 0, 0.0
    while step != n_steps and spent < max_seconds:
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = -objective(parameters, x)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent += time.perf_counter() - started
        step += 1
        if step >= 1.05 * course[-1][0] or step == n_steps or spent >= max_seconds:
            course.append((step, spent, _reached(parameters, x)))
    steps, seconds, elbo = map(np.array, zip(*course, strict=True))
    return _Run(parameters, steps, seconds, elbo)


@torch.no_grad()
def _reached(parameters: Parameters, x: Tensor) -> float:
    return float(_entropy(parameters, x))


def _gradient_noise(
    parameters: Parameters, x: Tensor, config: StochasticConfig
) -> dict[str, dict[str, list[float]]]:
    """Compare sampled gradients with the exact one, at the λ and σ² that are optimal for the parameters.

    For each part of the parameters, ``"exact"`` is the squared difference between two evaluations of the
    exact gradient. The others have a value for each number of samples: ``"variance"`` is that of the sampled
    gradient over the squared length of the exact one, and ``"bias"`` the squared distance of the mean from
    the exact one, over what is expected of unbiased gradients.
    """
    prior_scale, noise_variance = (part.detach().to(x) for part in optimal_scales(parameters.statistics(x)))
    parameters = replace(
        parameters, log_prior_scale=prior_scale.log(), log_noise_variance=noise_variance.log()
    )
    leaves = [getattr(parameters, part) for part in _PARTS]

    def gradient(objective: Objective) -> tuple[Tensor, ...]:
        return torch.autograd.grad(objective(parameters, x), leaves)

    exact, again = gradient(_entropy), gradient(_entropy)
    noise = {
        part: {"exact": [float((a - b).square().sum())], "variance": [], "bias": []}
        for part, a, b in zip(_PARTS, exact, again, strict=True)
    }
    for n_samples in _SAMPLES:
        objective = _sampled(n_samples, config.seed)
        draws = [gradient(objective) for _ in range(config.n_draws)]
        for part, truth, found in zip(_PARTS, exact, zip(*draws, strict=True), strict=True):
            errors = torch.stack(found) - truth
            variance = errors.square().sum() / config.n_draws
            bias = errors.mean(0).square().sum()
            noise[part]["variance"].append(float(variance / truth.square().sum()))
            noise[part]["bias"].append(float(bias / (variance / config.n_draws)))
    return noise


def _claims(
    runs: Mapping[str, _Run], goal: float, noise: Mapping[str, Mapping[str, list[float]]]
) -> tuple[Claim, ...]:
    exact = runs[_ENTROPY].until(goal)
    sampled = {n: runs[_words(n)] for n in _SAMPLES}
    times = {_words(n): _time(of, goal) for n, of in sampled.items()}
    most = sampled[_SAMPLES[-1]]
    missing, spent = goal + _NEAR - float(most.elbo[-1]), float(most.seconds[-1])
    means = noise["mean"]["variance"]
    slopes = [np.polyfit(np.log(_SAMPLES), np.log(of["variance"]), 1)[0] for of in noise.values()]
    return (
        Claim(
            "learning by samples converges more slowly than learning with the analytic objective",
            f"within {_NEAR:g} nat of the end after {exact:.1f} s; by "
            + ", ".join(f"{name} {words}" for name, words in times.items()),
            all(of.until(goal) > exact for of in sampled.values()),
        ),
        Claim(
            "with even 100 samples parameters do not converge in reasonable time",
            f"{missing:.1f} nats missing after {spent:.0f} s, {spent / exact:.1f} times as long as the "
            "entropy ELBO takes",
            most.until(goal) == math.inf,
            paper="not observed",
        ),
        Claim(
            "analytic gradients need no samples: they are what sampled ones scatter around",
            f"variance 0 against {means[0]:.2g} ({_SAMPLES[0]} sample) to {means[-1]:.2g} ({_SAMPLES[-1]} "
            f"samples) times the squared length, for means; with samples it falls by a power of "
            f"{min(slopes):.2f} to {max(slopes):.2f}",
            all(of["exact"] == [0.0] and max(of["bias"]) < _UNBIASED for of in noise.values()),
        ),
    )


def _time(of: _Run, goal: float) -> str:
    seconds = of.until(goal)
    return f"after {seconds:.1f} s" if seconds < math.inf else f"not in {of.seconds[-1]:.0f} s"


def _table(runs: Mapping[str, _Run], goal: float, heldout: Mapping[str, float]) -> Table:
    return Table.from_values(
        "runs",
        "All judged by the entropy ELBO of their posteriors and dictionary; the held-out ELBO is that of the "
        "dictionary with converged posteriors of other patches.",
        {
            "objective": "",
            "ms per iteration": ".3g",
            "iterations": ",",
            f"within {_NEAR:g} nat of the end": "",
            "ELBO at the end (nats)": ".2f",
            "held-out ELBO (nats)": ".2f",
        },
        [
            (
                name,
                1e3 * of.seconds[-1] / of.steps[-1],
                *(of.steps[-1], _time(of, goal), of.elbo[-1], heldout[name]),
            )
            for name, of in runs.items()
        ],
    )


def _draw_runs(runs: Mapping[str, _Run], goal: float) -> Figure:
    figure, (by_time, by_step) = plots.panels(1, 2, (9.0, 4.0))
    colours = (plots.ELBO_COLOUR, *plots.PALETTE[1:])
    for (name, of), colour in zip(runs.items(), colours, strict=False):
        by_time.plot(of.seconds[1:], of.elbo[1:], color=colour)
        by_step.plot(of.steps[1:], of.elbo[1:], color=colour, label=name)
    for axes, label in ((by_time, "seconds"), (by_step, "iteration")):
        axes.axhline(goal, color=plots.PAPER_COLOUR, linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel=label)
    by_time.set_ylabel("ELBO (nats per patch)")
    plots.add_legend(by_step, loc="lower right")
    return figure


def _draw_noise(noise: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (5.6, 3.6))
    for (part, of), colour in zip(noise.items(), plots.PALETTE[1:], strict=False):
        axes.plot(_SAMPLES, of["variance"], "o-", color=colour, label=_PARTS[part])
    axes.set(xscale="log", yscale="log", xlabel="samples", ylabel="variance / squared length of the gradient")
    plots.add_legend(axes)
    return figure


EXPERIMENT = Experiment(
    title="Samples against exact gradients",
    source="D.3",
    configs=at_scales(
        StochasticConfig(),
        smoke=SMOKE | {"n_patches": 64, "n_steps": 100, "n_draws": 3},
        paper={"n_patches": 2_048, "n_heldout": 4_096, "n_components": 100, "patch_size": 16}
        | {"n_steps": 5_000, "patience": 10.0, "n_draws": 50},
    ),
    run=run,
)
