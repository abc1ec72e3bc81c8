"""log p(x) by importance sampling, against closed forms, quadrature and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import oracles
from conftest import make_model, with_holes
from entrosparse import SparseCoding
from entrosparse.errors import InputError
from entrosparse.inference import DiagonalInference, ExactFactorialInference, FullInference, LowRankInference
from entrosparse.objectives import importance_log_likelihood, monte_carlo_elbo, pointwise_elbo
from entrosparse.posteriors import Full
from entrosparse.priors import PRIORS
from kinds import COVARIANCES_AND_PRIORS

SOLVERS = {
    "diagonal": DiagonalInference(1e-6, 20_000),
    "low-rank": LowRankInference(1, 1e-4, 2000),
    "full": FullInference(1e-8),
    "exact-factorial": ExactFactorialInference(1e-6),
}
RNG = np.random.default_rng(0)
X = RNG.laplace(size=(60, 2)) @ RNG.normal(size=(2, 5)) + 0.3 * RNG.normal(size=(60, 5))


@pytest.mark.parametrize(("covariance", "prior"), COVARIANCES_AND_PRIORS, ids="-".join)
@pytest.mark.parametrize("n_components", [1, 2])
def test_is_the_evidence_by_quadrature(covariance, n_components, prior, generator):
    model = make_model(3, n_components, generator, prior=PRIORS[prior])
    x, _ = model.sample(6, generator)
    posterior = SOLVERS[covariance](x, model)
    found, error = importance_log_likelihood(posterior, x, model, 5000, generator)
    assert found.shape == error.shape == (6,)
    assert found.dtype == torch.float64
    evidence = torch.as_tensor(oracles.evidence_by_quadrature(x, model))
    if n_components == 1 or covariance in ("low-rank", "full"):  # Tails of the others may be far too light.
        assert ((found - evidence).abs() < 0.3).all()
    assert (pointwise_elbo(posterior, x, model) <= evidence + 1e-9).all()
    if covariance != "exact-factorial":  # A wider Gaussian has heavier tails than the true posterior.
        posterior = Full(posterior.mean, 1.5 * torch.linalg.cholesky(posterior.covariance()))
        found, error = importance_log_likelihood(posterior, x, model, 5000, generator)
        assert (error < 0.2).all()
    if covariance != "exact-factorial" or n_components == 1:
        assert ((found - evidence).abs() < 5 * error + 1e-9).all()


def test_the_exact_posterior_needs_no_luck(generator):
    """Under the Gaussian prior every ratio is p(x) itself, with missing entries too."""
    model = make_model(6, 4, generator, prior=PRIORS["gaussian"])
    x, _ = model.sample(5, generator)
    x = with_holes(x, generator)
    found, error = importance_log_likelihood(FullInference(1e-10)(x, model), x, model, 3, generator)
    np.testing.assert_allclose(found.numpy(), oracles.gaussian_evidence(x, model), atol=1e-9)
    assert (error < 1e-9).all()


def test_the_standard_error_is_that_of_repeats(generator):
    model = make_model(5, 3, generator)
    x, _ = model.sample(1, generator)
    posterior = FullInference(1e-8)(x, model)
    wide = Full(posterior.mean, 1.3 * posterior.factor)  # Heavier tails than the true posterior has.
    repeats = [importance_log_likelihood(wide, x, model, 500, generator) for _ in range(300)]
    found, error = (torch.stack(part)[:, 0] for part in zip(*repeats, strict=True))
    assert float(found.std() / error.mean()) == pytest.approx(1.0, abs=0.2)


def test_few_draws_are_between_the_bound_and_the_truth(generator):
    """On average: two draws are a bound above the ELBO."""
    model = make_model(3, 2, generator)
    x, _ = model.sample(1, generator)
    posterior = DiagonalInference(1e-8)(x, model)
    evidence = float(oracles.evidence_by_quadrature(x, model)[0])
    many = x.expand(20_000, -1)
    repeated = replace(
        posterior, mean=posterior.mean.expand(20_000, -1), scale=posterior.scale.expand(20_000, -1)
    )
    found, _ = importance_log_likelihood(repeated, many, model, 2, generator)
    error = float(found.std()) / len(found) ** 0.5
    assert float(pointwise_elbo(posterior, x, model)) + 5 * error < float(found.mean()) < evidence - 5 * error


def test_it_repeats_with_the_seed_and_names_a_bad_argument(generator):
    model = make_model(3, 2, generator)
    x, _ = model.sample(2, generator)
    posterior = FullInference()(x, model)
    one, same, other = (
        importance_log_likelihood(posterior, x, model, 5, torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(InputError, match="'n_samples' parameter must be an integer >= 2; got 1"):
        importance_log_likelihood(posterior, x, model, 1)
    gaps = x.masked_fill(torch.eye(2, 3).bool(), torch.nan)
    assert torch.isfinite(monte_carlo_elbo(posterior, gaps, model, 3, generator))


# --- the estimator


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance", SOLVERS)
def test_the_estimator_scores_below_it(covariance, rng):
    settings = {"covariance": covariance, "rank": 1, "random_state": 0, "max_epochs": 30}
    fitted = SparseCoding(2, **settings).fit(X)
    gaps = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    found, error = fitted.log_likelihood(gaps, n_samples=500)
    assert found.shape == error.shape == (len(X),)
    assert (fitted.score_samples(gaps) <= found + 5 * error).all()
    np.testing.assert_array_equal(found, fitted.log_likelihood(gaps, n_samples=500)[0])
    moved = SparseCoding(2, **settings).fit(1e3 * X).log_likelihood(1e3 * gaps, n_samples=500)[0]
    np.testing.assert_allclose(moved, found - (~np.isnan(gaps)).sum(1) * np.log(1e3), atol=0.3)


def test_under_the_gaussian_prior_it_is_the_likelihood_of_probabilistic_pca(rng):
    """With orthogonal atoms, which the optimum has, this is PCA's own log-likelihood."""
    data = rng.normal(size=(400, 2)) * [3.0, 1.5] @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(400, 5))
    fitted = SparseCoding(
        2, prior="gaussian", covariance="full", random_state=0, tol=1e-5, max_epochs=1000
    ).fit(data)
    found, error = fitted.log_likelihood(data, n_samples=10)
    np.testing.assert_allclose(found.mean(), PCA(2).fit(data).score(data), atol=2e-2)
    assert error.max() < 1e-2


def test_too_few_draws_are_refused():
    fitted = SparseCoding(2, random_state=0, tol=1.0).fit(X)
    with pytest.raises(InputError, match="'n_samples'"):
        fitted.log_likelihood(X, n_samples=1)
