from dataclasses import replace

import numpy as np
import pytest
import torch

from entrosparse.likelihoods import LIKELIHOODS, Likelihood
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.priors import PRIORS, Prior

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def make_model(
    n_features: int,
    n_components: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    prior: Prior = PRIORS["laplace"],
    likelihood: Likelihood = LIKELIHOODS["isotropic"],
) -> SparseCodingModel:
    """A random model with scales of different size."""
    dictionary = torch.randn(n_features, n_components, generator=generator, dtype=torch.float64)
    prior_scale = 0.3 + torch.rand(n_components, generator=generator, dtype=torch.float64)
    noise_variance = torch.tensor(0.05, dtype=torch.float64)
    if likelihood.per_feature:
        noise_variance = noise_variance * torch.linspace(0.3, 3.0, n_features, dtype=torch.float64)
    return SparseCodingModel(unit_columns(dictionary), prior_scale, noise_variance, prior, likelihood).to(
        dtype
    )


def untimed(history):
    """The records of a run without their times, which no two runs share."""
    return [replace(record, seconds=0.0, evaluation_seconds=0.0) for record in history]
