import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from markupsafe import Markup

from entrosparse.likelihoods import LIKELIHOODS, Likelihood
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.priors import PRIORS, PriorFamily
from kinds import SHAPES

torch.set_num_threads(1)
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # As in the background, where tests raise it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def pages_without_figures():
    """Runs end without rendering their figures, which would take most of the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("entrosparse.app.reports.inline_figure", lambda figure: Markup("<svg/>"))
        patch.setattr("entrosparse.app.reports.fields_png", lambda run: b"\x89PNG")
        yield


def make_model(
    n_features: int,
    n_components: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    prior: PriorFamily = PRIORS["laplace"],
    likelihood: Likelihood = LIKELIHOODS["isotropic"],
    shape: float | None = None,
) -> SparseCodingModel:
    """A random model with scales of different size; a prior that has shapes is at one that is not Laplace."""
    dictionary = torch.randn(n_features, n_components, generator=generator, dtype=torch.float64)
    prior_scale = 0.3 + torch.rand(n_components, generator=generator, dtype=torch.float64)
    noise_variance = torch.tensor(0.05, dtype=torch.float64)
    if likelihood.per_feature:
        noise_variance = noise_variance * torch.linspace(0.3, 3.0, n_features, dtype=torch.float64)
    prior_shape = None
    if prior.first_shape is not None:
        prior_shape = torch.full_like(prior_scale, SHAPES[prior.name] if shape is None else shape)
    model = SparseCodingModel(
        unit_columns(dictionary), prior_scale, noise_variance, prior, likelihood, prior_shape
    )
    return model.to(dtype)


def with_holes(x: torch.Tensor, generator: torch.Generator, share: float = 0.3) -> torch.Tensor:
    """The data without a share of their entries."""
    return x.masked_fill(torch.rand(x.shape, generator=generator) < share, torch.nan)


def untimed(history):
    """The records of a run without their times, which no two runs share."""
    return [replace(record, seconds=0.0, evaluation_seconds=0.0) for record in history]
