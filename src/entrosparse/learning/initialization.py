"""Where learning starts from."""

import warnings

import numpy as np
import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.model import SparseCodingModel, split_missing, unit_columns
from entrosparse.priors import Prior


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
    """Take the mixing matrix that scikit-learn's FastICA finds."""
    from sklearn.decomposition import FastICA

    if n_components > min(x.shape):
        raise InputError(
            f"the 'init' parameter may be 'ica' for at most {min(x.shape)} components with data of shape "
            f"{tuple(x.shape)}; got {n_components} components"
        )
    seed = int(torch.randint(2**31, (), generator=generator))
    ica = FastICA(n_components, whiten="unit-variance", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an early stop will do for a start
        ica.fit(x.cpu().numpy())
    return torch.as_tensor(ica.mixing_).to(x)


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
    dictionary : {"data", "random", "ica"} or array of shape (D, H)
        Data points, random directions, the result of FastICA (for H ≤ D), or the atoms themselves; columns
        are scaled to unit length.
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
    shares = torch.ones_like(x[:, 0]) if sample_weight is None else sample_weight.to(x)
    shares = shares / shares.sum()
    if isinstance(dictionary, str):
        if dictionary not in DICTIONARIES:
            known = ", ".join(repr(name) for name in DICTIONARIES)
            raise InputError(f"the 'init' parameter must be one of {known} or an array; got {dictionary!r}")
        atoms = DICTIONARIES[dictionary](x, n_components, generator)
    else:
        atoms = torch.as_tensor(dictionary).to(x)
        if tuple(atoms.shape) != (x.shape[1], n_components):
            wanted = (x.shape[1], n_components)
            raise InputError(f"the 'init' array must have shape {wanted}; got {tuple(atoms.shape)}")
    atoms = unit_columns(atoms).contiguous()
    codes, tiny = x @ atoms, torch.finfo(x.dtype).tiny
    statistic = prior.expected_statistic(codes, torch.full_like(codes, tiny))
    return SparseCodingModel(
        dictionary=atoms,
        prior_scale=(0.5 * prior.optimal_scale(shares @ statistic)).clamp_min(tiny**0.25),
        noise_variance=(0.5 * shares @ x.square().mean(1)).clamp_min(tiny**0.25),
        prior=prior,
    )
