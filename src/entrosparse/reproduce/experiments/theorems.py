"""Theorems 1 to 3: the ELBO becomes a sum of entropies while the classical objective is learned."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from entrosparse.app import plots
from entrosparse.closed_form import isotropic_gaussian_entropy
from entrosparse.learning import initial_model
from entrosparse.objectives import analytic_elbo, entropy_elbo, optimal_scales
from entrosparse.priors import Laplace
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import PatchConfig, draw_patches
from entrosparse.reproduce.shared.classical_parameters import Parameters

_MET = 1e-6  # difference in nats, or share, below which two values have met
_EXACT = 1e-10  # the same for what rounding alone may separate
_LEARNING_RATE = 0.05
_SHARED = ("ν", "log τ", "W")  # the parameters that the entropy ELBO depends on too
_N_RECORDS = 80
_TINY = 1e-17  # where a difference of exactly zero is drawn


@final
@dataclass(frozen=True)
class _Record:
    """One moment of learning; bounds in nats per data point."""

    step: int
    elbo: float  # classical, at the current λ and σ²
    entropies: float  # their sum at the current λ and σ²
    entropy_elbo: float  # their sum at the optimal λ and σ²
    identity: float  # |classical ELBO at the optimal λ and σ² − entropy ELBO|
    prior_scale_error: float  # largest |log λ/λ_opt|
    noise_variance_error: float  # |log σ²/σ²_opt|
    gradients: tuple[float, ...]  # largest entries for the classical ELBO, in ν, log τ, W, log λ, log σ²
    entropy_gradients: tuple[float, ...]  # largest entries for the entropy ELBO, in ν, log τ, W
    differences: tuple[float, ...]  # largest differences of the two at the optimal λ and σ², in ν, log τ, W

    @property
    def gap(self) -> float:
        return abs(self.elbo - self.entropies)

    @property
    def distance(self) -> float:
        return abs(self.elbo - self.entropy_elbo)


def run(config: PatchConfig) -> Result:
    """Climb the classical ELBO in all its parameters, and compare it with the entropies on the way."""
    data = draw_patches(config)
    x = torch.from_numpy(data.train).double()
    started = time.perf_counter()
    history = _learn(_start(x, config), x, config.epochs)
    seconds = time.perf_counter() - started
    settings = (
        f"{config.sizes}, diagonal posteriors, float64, {config.epochs:,} steps of Adam in {seconds:.0f} s"
    )
    return Result(
        data=f"{data.words.rpartition(', ')[0]}, in float64",
        claims=_claims(history),
        pictures=(
            Picture(
                "convergence",
                "Classical learning from λ = σ² = 1: the ELBO, the sum of entropies at the current λ and σ², "
                "and the entropy ELBO, their sum at the optimal λ and σ². Below: how far the ELBO is from "
                f"both sums, and λ and σ² from their optimum ({settings}).",
                (_draw_convergence(history),),
            ),
            Picture(
                "gradients",
                "Largest entries of the gradients of both objectives while the classical one is learned, and "
                f"largest difference of the two once λ and σ² are set to their optimum ({settings}).",
                (_draw_gradients(history),),
            ),
        ),
        tables=(_table(history),),
        numbers={"seconds": seconds, "history": [asdict(record) for record in history]},
    )


def _start(x: Tensor, config: PatchConfig) -> Parameters:
    generator = torch.Generator().manual_seed(config.seed)
    dictionary = initial_model(x, config.n_components, "random", Laplace(), generator).dictionary
    mean = x @ dictionary
    start = (mean, torch.zeros_like(mean), dictionary, torch.zeros_like(mean[0]), x.new_zeros(()))
    return Parameters(*(tensor.requires_grad_() for tensor in start))


def _learn(parameters: Parameters, x: Tensor, steps: int) -> list[_Record]:
    """Climb in place; return a record of the start, and of steps that are evenly spaced on a log axis."""
    leaves = list(vars(parameters).values())
    adam = torch.optim.Adam(leaves, _LEARNING_RATE, eps=1e-16)  # gradients of one data point are of order 1/N
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    recorded = set(np.geomspace(1, steps, _N_RECORDS).round().astype(int).tolist())
    history = [_record(parameters, x, 0)]
    for step in range(1, steps + 1):
        adam.zero_grad()
        loss = -analytic_elbo(parameters.statistics(x), parameters.model).elbo
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
        if step in recorded:
            history.append(_record(parameters, x, step))
    return history


def _record(parameters: Parameters, x: Tensor, step: int) -> _Record:
    statistics, model = parameters.statistics(x), parameters.model
    prior_scale, noise_variance = (scale.detach() for scale in optimal_scales(statistics))
    optimum = replace(model, prior_scale=prior_scale, noise_variance=noise_variance)
    classical, best = analytic_elbo(statistics, model), entropy_elbo(statistics).elbo
    at_optimum = analytic_elbo(statistics, optimum).elbo
    entropies = (
        classical.posterior
        - model.factors.entropy(model.prior_scale).sum()
        - isotropic_gaussian_entropy(model.noise_variance, model.n_features)
    )

    def gradients(objective: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(objective, leaves, retain_graph=True)

    leaves = list(vars(parameters).values())
    shared = leaves[: len(_SHARED)]
    by_entropies = gradients(best, shared)
    pairs = zip(by_entropies, gradients(at_optimum, shared), strict=True)
    return _Record(
        step=step,
        elbo=classical.elbo.item(),
        entropies=entropies.item(),
        entropy_elbo=best.item(),
        identity=(at_optimum - best).abs().item(),
        prior_scale_error=(parameters.log_prior_scale - prior_scale.log()).abs().max().item(),
        noise_variance_error=(parameters.log_noise_variance - noise_variance.log()).abs().item(),
        gradients=_largest(gradients(classical.elbo, leaves)),
        entropy_gradients=_largest(by_entropies),
        differences=_largest([one - other for one, other in pairs]),
    )


def _largest(tensors: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(tensor.abs().max().item() for tensor in tensors)


def _claims(history: Sequence[_Record]) -> tuple[Claim, ...]:
    first, last = history[0], history[-1]
    identity = max(record.identity for record in history)
    scales = max(last.prior_scale_error, last.noise_variance_error)
    difference = max(max(record.differences) for record in history)
    steepest = max(max(record.entropy_gradients) for record in history)
    ends = [max(last.gradients), max(last.entropy_gradients)]
    return (
        Claim(
            "while λ and σ² converge, the ELBO becomes equal to a sum of entropies (Theorem 1)",
            f"the difference falls from {first.gap:.1f} to {last.gap:.1g} nats",
            last.gap < _MET < first.gap,
            paper="equal",
        ),
        Claim(
            "they are equal for any posteriors and any W once λ and σ² are at their optimum (Theorem 1)",
            f"largest difference on the way {identity:.1g} nats",
            identity < _EXACT,
            paper="equal",
        ),
        Claim(
            "the optimal λ and σ² are unique and in closed form (Theorem 2)",
            f"gradients lead to them up to a share of {scales:.1g}",
            scales < _MET,
            paper="Eq. 10, 11",
        ),
        Claim(
            "with these λ and σ² the gradients of both objectives coincide (Theorem 3)",
            f"largest difference on the way {difference:.1g}, largest gradient {steepest:.2g}",
            difference < _EXACT * steepest,
            paper="equal",
        ),
        Claim(
            "both objectives have the same stationary points, and the same values there (Theorem 3, Eq. 16)",
            f"largest gradients at the end {ends[0]:.1g} (classical) and {ends[1]:.1g} (entropies), "
            f"values {last.distance:.1g} nats apart",
            max(ends) < _MET * steepest and last.distance < _MET,
            paper="equal",
        ),
    )


def _table(history: Sequence[_Record]) -> Table:
    shown = (history[0], history[len(history) // 2], history[-1])
    headings = [f"{what} in {name}" for what in ("gradient", "difference") for name in _SHARED]
    return Table.from_values(
        "gradients",
        "Gradients of the entropy ELBO, and how far those of the classical ELBO at the optimal λ and σ² are "
        "from them: largest entries, in nats per patch and unit.",
        {"step": ","} | dict.fromkeys(headings, ".1e"),
        [(record.step, *record.entropy_gradients, *record.differences) for record in shown],
    )


def _draw_convergence(history: Sequence[_Record]) -> Figure:
    figure, (bounds, gaps, errors) = plots.panels(3, 1, (5.6, 7.6), sharex=True)
    steps = [record.step for record in history]
    labels = {"elbo": "ELBO", "entropies": "sum of entropies", "entropy_elbo": "entropy ELBO"}
    for (name, label), colour, style in zip(labels.items(), plots.PALETTE, ("-", "--", ":"), strict=False):
        values = [getattr(record, name) for record in history]
        bounds.plot(steps, values, color=colour, linestyle=style, label=label)
    for axes, curve, colour, label in (
        (gaps, "gap", plots.PALETTE[1], "|ELBO − sum of entropies|"),
        (gaps, "distance", plots.PALETTE[2], "entropy ELBO − ELBO"),
        (gaps, "identity", plots.PAPER_COLOUR, "the same with λ and σ² at their optimum"),
        (errors, "prior_scale_error", plots.PALETTE[3], "λ, the furthest of them"),
        (errors, "noise_variance_error", plots.PALETTE[4], "σ²"),
    ):
        _draw_decay(axes, steps, [getattr(record, curve) for record in history], colour, label)
    for axes, unit in (
        (bounds, "nats per patch"),
        (gaps, "nats per patch"),
        (errors, "|log ratio to optimum|"),
    ):
        plots.add_legend(axes)
        axes.set_ylabel(unit)
    errors.set_xlabel("step")
    return figure


def _draw_gradients(history: Sequence[_Record]) -> Figure:
    figure, grid = plots.panels(1, 3, (9.0, 3.4))
    steps = [record.step for record in history]
    for i, (axes, name) in enumerate(zip(grid, _SHARED, strict=True)):
        for curve, colour, label in (
            ("gradients", plots.PALETTE[0], "classical ELBO"),
            ("entropy_gradients", plots.PALETTE[2], "entropy ELBO"),
            ("differences", plots.PAPER_COLOUR, "difference at the optimal λ, σ²"),
        ):
            _draw_decay(axes, steps, [getattr(record, curve)[i] for record in history], colour, label)
        plots.add_title(axes, f"gradient in {name}")
        axes.set_xlabel("step")
    plots.add_legend(grid[0])
    grid[0].set_ylabel("largest entry (nats per patch and unit)")
    return figure


def _draw_decay(axes: Axes, steps: Sequence[int], values: Sequence[float], colour: str, label: str) -> None:
    axes.plot(steps, np.maximum(values, _TINY), color=colour, label=label)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("log")


EXPERIMENT = Experiment(
    title="Theorems 1 to 3: the ELBO, the entropies and their gradients",
    source="Section 2.2, 3.1, Appendix C",
    configs=at_scales(  # an epoch is one step of Adam on all patches
        PatchConfig(n_patches=1000, n_heldout=1, n_components=32, patch_size=8, epochs=8000),
        smoke={"n_patches": 100, "n_components": 8, "epochs": 200},
        paper={"n_patches": 5000, "n_components": 100, "patch_size": 16, "epochs": 20_000},
    ),
    run=run,
)
