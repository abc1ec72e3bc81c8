"""All kinds of posteriors side by side: their bounds, estimates of log p(x), and intervals of the codes."""

import time
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor

from entrosparse.inference import (
    DiagonalInference,
    ExactFactorialInference,
    FullInference,
    Inference,
    LowRankInference,
    infer_in_chunks,
)
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import importance_log_likelihood, pointwise_elbo
from entrosparse.posteriors import ExactFactorial, Posterior

DIAGONAL, EXACT, LOW_RANK, FULL = "diagonal", "exact factorial", "low rank", "full"

_Array = NDArray[np.float64]


def solvers(rank: int) -> dict[str, Inference]:
    """Return solvers that go close to the optimum, by the kind of posterior, in the order to show them in.

    The rank is that of the low-rank covariances.
    """
    return {
        DIAGONAL: DiagonalInference(1e-4, 20_000),
        EXACT: ExactFactorialInference(1e-4, 20_000),
        LOW_RANK: LowRankInference(rank, 1e-3, 2000),
        FULL: FullInference(1e-4, 1000),
    }


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """What one kind of posterior says of data under a model, in nats for each of N data points.

    Attributes
    ----------
    bounds : ndarray of shape (N,)
        The ELBO.
    estimates, errors : ndarray of shape (N,)
        Estimates of log p(x) by importance sampling, and their standard errors.
    seconds : float
        Wall time of inference.
    inside : ndarray of shape (N, levels)
        Share of a data point's codes inside of central intervals, if its codes are known.
    """

    bounds: _Array
    estimates: _Array
    errors: _Array
    seconds: float
    inside: _Array

    @property
    def estimate(self) -> tuple[float, float]:
        """The mean estimate and the standard error that sampling leaves to it."""
        return float(self.estimates.mean()), float(np.sqrt(np.square(self.errors).sum())) / len(self.errors)

    @property
    def covered(self) -> tuple[_Array, _Array]:
        """Shares of true codes in the intervals, and standard errors over the data points."""
        return share_and_error(self.inside)


def measure(
    model: SparseCodingModel,
    x: Tensor,
    solver: Inference,
    n_draws: int,
    generator: torch.Generator,
    codes: Tensor | None = None,
    levels: ArrayLike = (),
) -> Measured:
    """Infer the codes of data, draw from the posteriors, and count the true codes where they are given."""
    started = time.perf_counter()
    chunks = list(infer_in_chunks(x, model, solver))
    seconds = time.perf_counter() - started
    parts = []
    for part, rows, q in chunks:
        estimates, errors = importance_log_likelihood(q, rows, model, n_draws, generator)
        counted = rows.new_zeros(len(rows), 0) if codes is None else inside(q, codes[part], levels)
        parts.append((pointwise_elbo(q, rows, model), estimates, errors, counted))
    bounds, values, spreads, shares = (torch.cat(of).double().numpy() for of in zip(*parts, strict=True))
    return Measured(bounds, values, spreads, seconds, shares)


def coverage(
    model: SparseCodingModel, x: Tensor, codes: Tensor, solver: Inference, levels: ArrayLike
) -> tuple[_Array, _Array]:
    """Return the shares of true codes in central intervals and standard errors, of shape (levels,) each."""
    chunks = infer_in_chunks(x, model, solver)
    return share_and_error(torch.cat([inside(q, codes[part], levels) for part, _, q in chunks]).numpy())


def inside(posterior: Posterior, codes: Tensor, levels: ArrayLike) -> Tensor:
    """Return the share of each data point's codes in the central intervals, shape (N, levels), in float64."""
    shares = []
    for level in np.asarray(levels):
        reach = torch.full_like(codes, float(ndtri(0.5 + level / 2.0)))
        if isinstance(posterior, ExactFactorial):
            low, high = posterior.perturb(-reach), posterior.perturb(reach)  # Quantiles of each latent.
        else:
            low, high = (posterior.mean + sign * reach * posterior.marginal_scale() for sign in (-1.0, 1.0))
        shares.append(((low < codes) & (codes < high)).double().mean(1))
    return torch.stack(shares, 1)


def share_and_error(shares: _Array) -> tuple[_Array, _Array]:
    """Return means of shares (N, levels) over the data points, and their standard errors."""
    return shares.mean(0), shares.std(0) / len(shares) ** 0.5


def correlated_model(
    n_features: int, n_components: int, common: float, noise_variance: float = 0.1, seed: int = 0
) -> SparseCodingModel:
    """Return a model whose atoms share a direction, with the weight ``common`` beside one of their own."""
    generator = torch.Generator().manual_seed(seed)
    own = unit_columns(torch.randn(n_features, n_components, generator=generator, dtype=torch.float64))
    shared = unit_columns(torch.randn(n_features, 1, generator=generator, dtype=torch.float64))
    return SparseCodingModel(
        unit_columns(own + common * shared),
        torch.linspace(0.5, 1.5, n_components, dtype=torch.float64),
        torch.tensor(noise_variance, dtype=torch.float64),
    )
