"""Where learning starts from."""

from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.model import SparseCodingModel, split_missing, unit_columns
from entrosparse.priors import Prior

_ICA_SAMPLE = 8192  # rows that FastICA is run on
_ICA_STEPS = 30  # iterations of FastICA, which are enough for a start
_ICA_TOLERANCE = 1e-4  # change of the unmixing matrix at which FastICA stops earlier


def _from_data(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Take data points as atoms; random directions make up for those that are missing or zero."""
    rows = x[torch.randperm(len(x), generator=generator).to(x.device)]
    rows = rows[rows.square().sum(1) > 0][:n_components]
    fill = _random(x, n_components - len(rows), generator)
    return torch.cat([rows.T, fill], dim=1)


def _random(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Draw directions uniformly from the sphere."""
    return torch.randn(x.shape[1], n_components, dtype=x.dtype, generator=generator).to(x.device)


def _ica(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Take the mixing matrix of a short run of FastICA on the principal components.

    Data points make up for the atoms beyond the dimensions that the data span.
    """
    sample = x[torch.randperm(len(x), generator=generator)[:_ICA_SAMPLE].to(x.device)]
    sample -= sample.mean(0)
    variance, axes = torch.linalg.eigh((sample.T @ sample).double() / len(sample))
    numbers = torch.finfo(x.dtype)
    spanned = variance > max(10.0 * numbers.eps * float(variance[-1]), numbers.tiny)
    variance, axes = variance[spanned][-n_components:], axes[:, spanned][:, -n_components:]
    rest = _from_data(x, n_components - len(variance), generator)
    if len(variance) == 0:
        return rest
    white = sample @ (axes / variance.sqrt()).to(x)
    seed = int(torch.randint(2**31, (), generator=generator))
    mixing = scipy.linalg.pinv(_unmixing(white.cpu().numpy(), seed), check_finite=False)
    independent = (axes * variance.sqrt()) @ torch.as_tensor(mixing).to(axes)
    return torch.cat([independent.to(x), rest], dim=1)


def _unmixing(white: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return the matrix that FastICA finds for white data (N, K) by its parallel iteration with tanh.

    Scikit-learn's FastICA computes the same bits. But it warns of a short run, and warnings can only be
    silenced for all threads together.
    """
    size = white.shape[1]
    matrix = _orthogonal(np.random.RandomState(seed).normal(size=(size, size)).astype(white.dtype))
    for _ in range(_ICA_STEPS):
        bent = np.tanh(matrix @ white.T)
        slope = np.array([(1.0 - row**2).mean() for row in bent])
        last, matrix = matrix, _orthogonal(bent @ white / float(len(white)) - slope[:, np.newaxis] * matrix)
        if (np.abs(np.abs(np.einsum("ij,ij->i", matrix, last)) - 1.0) < _ICA_TOLERANCE).all():
            break
    return matrix


def _orthogonal(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return ``(M Mᵀ)^(−1/2) M``."""
    values, vectors = scipy.linalg.eigh(matrix @ matrix.T)
    lengths = np.sqrt(np.clip(values, np.finfo(matrix.dtype).tiny, None))
    return np.linalg.multi_dot([vectors * (1.0 / lengths), vectors.T, matrix])


DICTIONARIES = {"data": _from_data, "random": _random, "ica": _ica}
"""Initial dictionaries by name."""


def initial_model(
    x: Tensor,
    n_components: int,
    dictionary: str | np.ndarray | Tensor,
    prior: Prior,
    generator: torch.Generator,
    sample_weight: Tensor | None = None,
) -> SparseCodingModel:
    """Return a model to start from, scaled to a sample of the data.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        A sample of the data; missing entries (NaN) count as 0 here.
    n_components : int
        Number of latents H.
    dictionary : {"ica", "data", "random"} or array of shape (D, H)
        Independent components by FastICA (and data points, if H is more than the dimensions that the data
        span), data points, random directions, or the atoms themselves; columns are scaled to unit length.
    prior : Prior
        Prior of the codes.
    generator : torch.Generator
        Source of randomness, on the CPU.
    sample_weight : Tensor of shape (N,), optional
        Weights of the data points in the scales.

    Returns
    -------
    SparseCodingModel
        σ² is half the data variance, and λ half the optimum for codes Wᵀx.
    """
    x, _ = split_missing(x)
    row_weight = torch.ones_like(x[:, 0]) if sample_weight is None else sample_weight.to(x)
    row_weight = row_weight / row_weight.sum()
    if isinstance(dictionary, str):
        if dictionary not in DICTIONARIES:
            known = ", ".join(repr(name) for name in DICTIONARIES)
            raise InputError(f"the 'init' parameter must be one of {known} or an array; got {dictionary!r}")
        # Distinct rows only, so that a row of weight 2 and a row that stands twice give the same start.
        distinct = torch.unique(x[row_weight > 0], dim=0)
        atoms = DICTIONARIES[dictionary](distinct, n_components, generator)
    else:
        atoms = torch.as_tensor(dictionary).to(x)
        if tuple(atoms.shape) != (x.shape[1], n_components):
            wanted = (x.shape[1], n_components)
            raise InputError(f"the 'init' array must have shape {wanted}; got {tuple(atoms.shape)}")
        lengths = atoms.norm(dim=0)
        n_bad = int((~(lengths.isfinite() & (lengths > 0))).sum())
        if n_bad:
            raise InputError(
                f"the 'init' array must have columns of finite length above zero; got {n_bad} others"
            )
    atoms = unit_columns(atoms).contiguous()
    statistic, tiny = prior.statistic(x @ atoms), torch.finfo(x.dtype).tiny
    return SparseCodingModel(
        dictionary=atoms,
        prior_scale=(0.5 * prior.optimal_scale(row_weight @ statistic)).clamp_min(tiny**0.25),
        noise_variance=(0.5 * row_weight @ x.square().mean(1)).clamp_min(tiny**0.25),
        prior=prior,
    )
