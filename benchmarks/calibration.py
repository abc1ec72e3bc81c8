"""Calibration: how often central posterior intervals of the codes cover the codes behind sampled data.

``--write`` makes docs/calibration.md and docs/calibration.png from the run.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import gaussian_cost
from entrosparse.inference import FullInference
from entrosparse.learning import BatchEM, initial_model, train
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel
from entrosparse.priors import Laplace
from entrosparse.reproduce.shared.posterior_kinds import EXACT, LOW_RANK, correlated_model, coverage, solvers

DOCS = Path(__file__).parents[1] / "docs"
LEVELS = np.array([0.5, 0.8, 0.95])
CURVE = np.linspace(0.02, 0.98, 49)
RANK = 3
N_LEARN = 5000
SOLVERS = {
    f"{name} {RANK}" if name == LOW_RANK else name: solver
    for name, solver in solvers(RANK).items()
    if name != EXACT
}
COLOURS = {"diagonal": "#d97a2b", f"low rank {RANK}": "#2a9d78", "full": "#3b82d6"}
TEXT = """# Calibration: do posterior intervals cover the true codes?

Codes and data are drawn from a model, so the codes behind each data point are known. Of each latent's
Gaussian marginal the central intervals ν ± q τ are taken, and the share of true codes inside is counted,
over all latents of {n} data points that were not learned from. An honest 80 % interval covers 80 % of them.

{table}

![Covered against nominal](calibration.png)

In per cent; the Monte Carlo standard error, taken over data points since latents of one data point are not
independent, is at most {error:.2f}. The signal-to-noise ratio is the variance of `Wz` over that of the
noise. Atoms share a common direction, which makes their codes correlated a posteriori. The learned model
was learned with full covariances from {n_learn} other draws; its atoms are matched to the true ones by
|cosine| ({cosine}) and its codes take the sign of the match.

The full covariance leaves only one approximation: a Gaussian for the posterior under a Laplace prior. The
diagonal one also drops the correlations. Maximizing the ELBO then fits the *conditional* width of each
code, given the others, so its intervals are too narrow by as much as the codes are correlated; a low rank
restores the strongest correlations. Intervals of a learned model take the model as known, so its own error
is missing from them: that is what separates the last panel from the first. **Read the widths of diagonal
intervals as lower bounds, and use `covariance="full"` where the intervals matter.**

{cost}
Made by `python benchmarks/calibration.py --write`, in some minutes on one thread.
"""


@dataclass(frozen=True)
class Case:
    """A model to draw from: ``common`` is the weight of the direction that all atoms share."""

    name: str
    n_features: int
    n_components: int
    common: float
    noise_variance: float

    def model(self) -> SparseCodingModel:
        """Return the model; it is the same every time."""
        return correlated_model(self.n_features, self.n_components, self.common, self.noise_variance)

    def describe(self, model: SparseCodingModel) -> str:
        """Return sizes, the mean cosine of two atoms and the signal-to-noise ratio in words."""
        signal = 2.0 * float(model.prior_scale.square().sum()) / self.n_features
        ratio = 10.0 * math.log10(signal / self.noise_variance)
        cosines = (model.dictionary.T @ model.dictionary - torch.eye(self.n_components)).abs()
        size = f"D = {self.n_features}, H = {self.n_components}"
        mean_cosine = float(cosines.sum()) / self.n_components / (self.n_components - 1)
        return f"{self.name}: {size}, mean cosine of atoms {mean_cosine:.2f}, {ratio:.0f} dB"


CASES = (
    Case("correlated atoms", 16, 8, 1.0, 0.1),
    Case("overcomplete", 16, 24, 0.5, 0.1),
)


def learned(truth, generator):
    """Learn from draws of a model; return the result in the order and sign of the truth, and the cosines."""
    x, _ = truth.sample(N_LEARN, generator)
    h = truth.n_components
    starts = [initial_model(x, h, "ica", Laplace(), generator).dictionary for _ in range(3)]
    learner = BatchEM(FullInference(0.0, 1))
    runs = [train(learner, x.numpy(), n_components=h, init=start, epochs=1000) for start in starts]
    model = max(runs, key=lambda run: run.history[-1].elbo).model
    match = match_atoms(model.dictionary, truth.dictionary)
    dictionary = model.dictionary[:, match.indices]
    dictionary = dictionary * (dictionary * truth.dictionary).sum(0).sign()
    model = SparseCodingModel(dictionary, model.prior_scale[match.indices], model.noise_variance)
    return model, match.cosine


def draw(curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw covered against nominal: a panel per model, a line per covariance."""
    figure = Figure(figsize=(3.3 * len(curves), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(curves), sharex=True, sharey=True)
    for axes, (title, lines) in zip(panels, curves.items(), strict=True):
        axes.plot([0, 100], [0, 100], color="#9aa0a8", linewidth=1, linestyle="--", label="nominal")
        for name, covered in lines.items():
            axes.plot(100 * CURVE, 100 * covered, color=COLOURS[name], label=name)
        axes.set(title=title, xlabel="nominal (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    panels[0].set_ylabel("covered (%)")
    panels[0].legend(frameon=False, loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="data points behind each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/calibration.md and .png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(1)
    models = {}
    for case in CASES:
        truth = case.model()
        models[case.describe(truth)] = (case.name, truth, truth)
    model, cosine = learned(truth := CASES[0].model(), generator)
    least = f"least {float(cosine.min()):.3f}"
    models[f"learned: from {N_LEARN:,} other draws of the first model"] = ("learned", truth, model)

    lines, curves, largest = [], {}, 0.0
    header = "".join(f" {level:.0%} |" for level in LEVELS)
    for title, (name, truth, model) in models.items():
        x, z = truth.sample(options.n, generator)
        lines += ["", f"**{title}**", "", f"| covariance |{header}", "| --- |" + " ---: |" * len(LEVELS)]
        print("\n".join(lines[-5:]), flush=True)
        curves[name] = {}
        for covariance, solver in SOLVERS.items():
            covered, error = coverage(model, x, z, solver, np.concatenate([LEVELS, CURVE]))
            curves[name][covariance] = covered[len(LEVELS) :]
            pairs = zip(covered[: len(LEVELS)], error[: len(LEVELS)], strict=True)
            cells = "".join(f" {100 * c:.1f} ± {100 * e:.1f} |" for c, e in pairs)
            largest = max(largest, 100 * error[: len(LEVELS)].max())
            lines.append(f"| {covariance} |{cells}")
            print(lines[-1], flush=True)
    if options.write:
        table = "\n".join(lines).strip()
        numbers = {"n": f"{options.n:,}", "n_learn": f"{N_LEARN:,}", "cosine": least, "error": largest}
        text = TEXT.format(table=table, cost=gaussian_cost.section(), **numbers)
        (DOCS / "calibration.md").write_text(text, encoding="utf-8")
        draw(curves).savefig(DOCS / "calibration.png")


if __name__ == "__main__":
    main()
