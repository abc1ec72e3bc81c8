"""Every kind of posterior, made from unconstrained numbers: what the batteries over kinds run through."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from entrosparse.posteriors import Diagonal, ExactFactorial, Full, LowRank, Posterior
from entrosparse.priors import PRIORS

RANK = 2


def lower_factor(matrix: Tensor) -> Tensor:
    """A Cholesky factor from any matrix."""
    diagonal = (0.5 * matrix.diagonal(dim1=-2, dim2=-1)).exp()
    return torch.tril(0.4 * matrix, -1) + torch.diag_embed(diagonal)


@dataclass(frozen=True)
class Kind:
    """The trailing shapes of the parameters as functions of H, and how a posterior comes from them."""

    shapes: Callable[[int], dict[str, tuple[int, ...]]]
    make: Callable[..., Posterior]

    def parameters(
        self, n: int, n_components: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> dict[str, Tensor]:
        """Draw normal parameters of n posteriors."""
        return {
            name: torch.randn((n, *shape), generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in self.shapes(n_components).items()
        }


KINDS = {
    "diagonal": Kind(
        lambda h: {"mean": (h,), "log_scale": (h,)},
        lambda mean, log_scale: Diagonal(mean, (0.5 * log_scale).exp()),
    ),
    "low rank": Kind(
        lambda h: {"mean": (h,), "factor": (h, RANK), "log_scale": (h,)},
        lambda mean, factor, log_scale: LowRank(mean, factor, (0.5 * log_scale).exp()),
    ),
    "full, lower": Kind(
        lambda h: {"mean": (h,), "factor": (h, h)}, lambda mean, factor: Full(mean, lower_factor(factor))
    ),
    "full, upper": Kind(
        lambda h: {"mean": (h,), "factor": (h, h)}, lambda mean, factor: Full(mean, lower_factor(factor).mT)
    ),
}
FAMILIES = {"diagonal": KINDS["diagonal"], "low rank": KINDS["low rank"], "full": KINDS["full, lower"]}
"""One kind for each family of Gaussian distributions."""

FACTORIAL = {
    "exact factorial": Kind(
        lambda h: {"centre": (h,), "slope": (h,), "log_scale": (h,)},
        lambda centre, slope, log_scale: ExactFactorial(
            centre - slope, -centre - slope, (0.5 * log_scale).exp()
        ),
    ),
    "one-sided": Kind(
        lambda h: {"right": (h,), "log_scale": (h,)},
        lambda right, log_scale: ExactFactorial(
            right, torch.full_like(right, -torch.inf), (0.5 * log_scale).exp()
        ),
    ),
}
"""Kinds of exact factorial posteriors."""

SHAPES = {"generalized-gaussian": 0.8, "skewed-laplace": 0.3}
"""A shape of each prior that has shapes; what learning starts from is the Laplace prior."""

SIGNED = {name: prior for name, prior in PRIORS.items() if not prior.positive}
"""The priors that Gaussian posteriors go with."""

PAIRS = [(family, prior) for family in FAMILIES for prior in SIGNED]
PAIRS += [("exact factorial", "laplace"), ("one-sided", "exponential")]
"""The families of posteriors with the priors that they go with."""

COVARIANCES_AND_PRIORS = [
    (covariance, prior) for covariance in ("diagonal", "low-rank", "full") for prior in SIGNED
]
COVARIANCES_AND_PRIORS += [("exact-factorial", "laplace"), ("exact-factorial", "exponential")]
"""The same pairs by the names that the estimator has for posteriors."""
