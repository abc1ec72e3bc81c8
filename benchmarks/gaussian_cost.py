"""How much the Gaussian costs: bounds, likelihood and calibration of all kinds of posteriors on photographs.

``benchmarks/calibration.py`` makes a section of docs/calibration.md from it.
"""

import torch

from entrosparse.learning import OnlineEM
from entrosparse.reproduce.framework.patches import PatchConfig, draw_patches
from entrosparse.reproduce.shared.posterior_kinds import (
    DIAGONAL,
    EXACT,
    FULL,
    LOW_RANK,
    coverage,
    measure,
    solvers,
)

CONFIG = PatchConfig(n_heldout=256, epochs=5)
RANK, N_DRAWS, N_CODES = 5, 500, 2000
LEVELS = (0.5, 0.8, 0.95)
TEXT = """## How much does the Gaussian cost?

A Gaussian is not the posterior under a Laplace prior. With one latent the exact factorial posterior is
the true one, and a Gaussian loses 0.045, 0.013 and 0.001 nats of it at λ/σ = 0.3, 1 and 3, averaged over
the data of the model (`tests/inference/test_factorial_solver.py` holds this against quadrature). Below
are all kinds of posteriors of one model, with H = {n_components} and D = {n_features}, that was learned
with diagonal posteriors from {n_learn} patches of the photographs that come with scikit-image; its λ/σ
go from {least:.2f} to {most:.2f}. The bounds are those of {n_heldout} other patches at the λ and σ² of
the model, so that there is one log p(x) for all to reach. Intervals are counted on {n_codes} data points
drawn from the model, as above.

{table}

Bounds and log-likelihoods are in nats per patch, coverage in per cent. The log-likelihood is that of
importance sampling with {n_draws} draws from each posterior, as in `SparseCoding.log_likelihood`, with
the standard error of its mean; "largest error" is that of one patch. Where tails of a posterior are too
light, the estimate is too low and its error optimistic.

The exact form gains {gain:.2f} nats over the diagonal Gaussian and takes {factor:.0f} times as long. The
full Gaussian is {full_gain:.2f} nats above the exact factorial posterior, and {gap:.2f} below its own
estimate of log p(x). The exact form raises bounds and not calibration: without correlations, it fits the
same conditional widths. **Use `covariance="full"` for intervals, and "exact-factorial" for a tighter
bound at little memory, or for codes that are never negative.**
"""


def section() -> str:
    """Learn, infer and count; return the section of the page."""
    data = draw_patches(CONFIG)
    model = CONFIG.train(OnlineEM(), data.train, data.heldout).model
    generator = torch.Generator().manual_seed(1)
    drawn, codes = model.sample(N_CODES, generator)
    header = "".join(f" {level:.0%} |" for level in LEVELS)
    lines = [
        f"| covariance | bound | log-likelihood | largest error | seconds |{header}",
        "| --- |" + " ---: |" * (4 + len(LEVELS)),
    ]
    found = {}
    for name, solver in solvers(RANK).items():
        found[name] = of = measure(model, data.test, solver, N_DRAWS, generator)
        estimate, error = of.estimate
        shares, _ = coverage(model, drawn, codes, solver, LEVELS)
        cells = "".join(f" {100 * share:.1f} |" for share in shares)
        label = f"{name} {RANK}" if name == LOW_RANK else name
        lines.append(
            f"| {label} | {of.bounds.mean():.2f} | {estimate:.2f} ± {error:.2f} | "
            f"{of.errors.max():.1f} | {of.seconds:.1f} |{cells}"
        )
        print(lines[-1], flush=True)
    bounds = {name: of.bounds.mean() for name, of in found.items()}
    ratio = model.prior_scale / model.noise_variance.sqrt()
    return TEXT.format(
        n_components=model.n_components,
        n_features=model.n_features,
        n_learn=f"{CONFIG.n_patches:,}",
        n_heldout=CONFIG.n_heldout,
        n_codes=f"{N_CODES:,}",
        n_draws=f"{N_DRAWS:,}",
        least=float(ratio.min()),
        most=float(ratio.max()),
        table="\n".join(lines),
        gain=bounds[EXACT] - bounds[DIAGONAL],
        factor=found[EXACT].seconds / found[DIAGONAL].seconds,
        full_gain=bounds[FULL] - bounds[EXACT],
        gap=found[FULL].estimate[0] - bounds[FULL],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(section())
