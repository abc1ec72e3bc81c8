"""Newton steps, which find diagonal posteriors where entries are missing."""

import warnings
from dataclasses import replace

import pytest
import torch

from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import ConvergenceWarning
from entrosparse.inference import DiagonalInference, stationarity
from entrosparse.inference._newton_steps import _conjugate_gradients
from entrosparse.inference._problem import EStepProblem
from entrosparse.objectives import pointwise_elbo
from entrosparse.posteriors import Diagonal
from entrosparse.priors import PRIORS, GeneralizedGaussian

each_prior = pytest.mark.parametrize("prior", ["laplace", "skewed-laplace"])  # Convex ones.


def incomplete(x, generator):
    """Half of the entries missing, in the first row all, in the second all but one."""
    missing = torch.rand(x.shape, generator=generator) < 0.5
    missing[:2] = True
    missing[1, 3] = False
    return x.masked_fill(missing, torch.nan)


@each_prior
@pytest.mark.parametrize("noise_variance", [1e-1, 1e-5])
@pytest.mark.parametrize(("n_features", "n_components"), [(24, 48), (24, 10)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_few_steps_are_enough(
    generator, prior, noise_variance, n_features, n_components, dtype, tolerance, monkeypatch
):
    """Also with little noise, where sweeps crawl; and no matrix is made for each data point."""
    model = make_model(n_features, n_components, generator, prior=PRIORS[prior])
    model = replace(model, noise_variance=torch.tensor(noise_variance).double()).to(dtype)
    x = incomplete(model.sample(100, generator)[0], generator)
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("error")
        patch.setattr(EStepProblem, "hessian", None)
        posterior = DiagonalInference(tolerance, max_iterations=100)(x, model)
    assert float(stationarity(posterior, x, model).max()) <= 2.0 * tolerance
    assert posterior.mean.dtype == dtype


@pytest.mark.parametrize("shape", [0.35, 0.6, 0.8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-7)])
@pytest.mark.parametrize("complete", [True, False])
def test_every_data_point_reaches_a_local_optimum_below_a_shape_of_1(
    generator, shape, dtype, tolerance, complete
):
    """From every start, though saddle points are near; warnings are errors."""
    model = make_model(24, 48, generator, prior=GeneralizedGaussian(shape), shape=shape)
    model = replace(model, noise_variance=torch.tensor(1e-2).double()).to(dtype)
    x, z = model.sample(40, generator)
    if not complete:
        x = incomplete(x, generator)
    noise = torch.randn(3, *z.shape, generator=generator, dtype=torch.float64).to(dtype)
    for start in (None, Diagonal(5.0 * noise[0], (2.0 * noise[1]).exp())):
        found = DiagonalInference(tolerance)(x, model, start=start)
        assert float(stationarity(found, x, model).max()) <= 2.0 * tolerance
    nearby = Diagonal(found.mean + 1e-2 * noise[2], found.scale)
    assert (pointwise_elbo(nearby, x, model) < pointwise_elbo(found, x, model)).all()


@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(prior=2.0, likelihood=0.6)])
def test_sweeps_find_the_same(generator, weights):
    model = make_model(12, 16, generator)
    x = incomplete(model.sample(10, generator)[0], generator)
    sweeps = DiagonalInference(tolerance=0.0, max_iterations=5000)(x, model, weights)
    steps = DiagonalInference(tolerance=1e-9)(x, model, weights)
    torch.testing.assert_close(steps.mean, sweeps.mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(steps.scale, sweeps.scale, rtol=0, atol=1e-7)


def test_a_feature_that_nobody_sees_changes_nothing(generator):
    """The data without it are complete, and their posteriors are found by sweeps."""
    model = make_model(12, 16, generator)
    x, _ = model.sample(20, generator)
    wider = replace(model, dictionary=torch.cat([model.dictionary, torch.ones(1, 16).double()]))
    unseen = torch.full_like(x[:, :1], torch.nan)
    reference = DiagonalInference(tolerance=1e-9)(x, model)
    posterior = DiagonalInference(tolerance=1e-9)(torch.cat([x, unseen], dim=1), wider)
    torch.testing.assert_close(posterior.mean, reference.mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(posterior.scale, reference.scale, rtol=0, atol=1e-7)


def test_an_incomplete_data_point_does_not_depend_on_its_batch(generator):
    model = make_model(16, 24, generator)
    x = incomplete(model.sample(30, generator)[0], generator)
    x[7] *= 30.0  # a hard one among easy ones
    inference = DiagonalInference(tolerance=1e-9)  # Rounding changes the way there.
    together = inference(x, model)
    for rows in (slice(7, 8), slice(11, 30)):
        alone = inference(x[rows], model)
        torch.testing.assert_close(together.mean[rows], alone.mean, rtol=0, atol=1e-7)
        torch.testing.assert_close(together.scale[rows], alone.scale, rtol=0, atol=1e-7)


def test_what_rounding_keeps_from_the_optimum_is_given_up(generator, monkeypatch):
    model = make_model(8, 12, generator, torch.float32)
    x = incomplete(model.sample(20, generator)[0], generator)
    looks = []
    measure = EStepProblem.diagonal_stationarity
    monkeypatch.setattr(
        EStepProblem,
        "diagonal_stationarity",
        lambda *arguments: looks.append(0) or measure(*arguments),
    )
    with pytest.warns(ConvergenceWarning, match="got no closer for many"):
        posterior = DiagonalInference(tolerance=1e-12)(x, model)
    assert len(looks) < 500
    assert float(stationarity(posterior, x, model).max()) < 1e-4


def test_as_many_turns_as_latents_solve_the_system(generator):
    model = make_model(9, 5, generator)
    x = incomplete(model.sample(6, generator)[0], generator)
    problem = EStepProblem.from_data(x, model, EntropyWeights())
    added, gradient = torch.rand(2, 6, 5, generator=generator, dtype=torch.float64) + 0.1
    expected = -torch.linalg.solve(problem.hessian() + torch.diag_embed(added), gradient)
    torch.testing.assert_close(_conjugate_gradients(problem, added, gradient, 5), expected)
    complete = replace(problem, observed=None)
    expected = -torch.linalg.solve(problem.shared_hessian + torch.diag_embed(added), gradient)
    torch.testing.assert_close(_conjugate_gradients(complete, added, gradient, 5), expected)
