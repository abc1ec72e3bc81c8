"""Where learning starts from."""

import numpy as np
import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.model import SparseCodingModel, unit_columns
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


DICTIONARIES = {"data": _from_data, "random": _random}


def initial_model(
    x: Tensor,
    n_components: int,
    dictionary: str | np.ndarray | Tensor,
    prior: Prior,
    generator: torch.Generator,
) -> SparseCodingModel:
    """Return a model to start from, scaled to a sample of the data.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        A sample of the data.
    n_components : int
        Number of latents H.
    dictionary : {"data", "random"} or array of shape (D, H)
        Data points, random directions, or the atoms themselves; columns are scaled to unit length.
    prior : Prior
        Prior of the codes.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    SparseCodingModel
        σ² is half the data variance, and λ half the optimum for codes Wᵀx.
    """
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
    statistic = prior.expected_statistic(codes, torch.full_like(codes, tiny)).mean(0)
    return SparseCodingModel(
        dictionary=atoms,
        prior_scale=(0.5 * prior.optimal_scale(statistic)).clamp_min(tiny),
        noise_variance=(0.5 * x.square().mean()).clamp_min(tiny),
        prior=prior,
    )
