import numpy as np
import pytest
import torch
from scipy import optimize

import oracles
from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal
from entrosparse.priors import Laplace
from entrosparse.statistics import Statistics


@pytest.fixture
def case(generator):
    model = make_model(6, 4, generator)
    x, z = model.sample(7, generator)
    return x, z, -1.5 + 0.3 * torch.randn(z.shape, generator=generator, dtype=z.dtype), model.dictionary


def _statistics(x, mean, log_scale, dictionary):
    return Statistics.collect(Diagonal(mean, log_scale.exp()), x, dictionary, Laplace())


def _oracle(case, prior_scale, noise_variance, weights=EntropyWeights()):
    x, mean, log_scale, dictionary = case
    model = SparseCodingModel(dictionary, prior_scale, noise_variance)
    covariances = torch.diag_embed(log_scale.exp().square()).numpy()
    rows = zip(mean.numpy(), covariances, x.numpy(), strict=True)
    return np.mean([oracles.classical_elbo(*row, model, weights) for row in rows])


@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(3.0, 0.4)])
def test_entropy_sum_is_the_elbo_at_the_optimal_scales(case, weights):
    """Theorem 1 and its annealed form."""
    statistics = _statistics(*case)
    terms = entropy_elbo(statistics, weights)
    expected = _oracle(case, *optimal_scales(statistics), weights)
    assert float(terms.objective) == pytest.approx(expected, abs=1e-10)
    assert float(terms.elbo) == pytest.approx(
        float(terms.posterior - terms.prior - terms.likelihood), abs=1e-12
    )


def test_optimal_scales_are_the_maximum(case):
    """Theorem 2, against a numerical maximizer."""
    prior_scale, noise_variance = optimal_scales(_statistics(*case))

    def loss(log_parameters):
        parameters = torch.tensor(np.exp(log_parameters))
        return -_oracle(case, parameters[:-1], parameters[-1])

    start = np.log(np.append(prior_scale.numpy(), float(noise_variance))) + 0.3
    found = np.exp(optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-9}).x)
    np.testing.assert_allclose(found, np.append(prior_scale.numpy(), float(noise_variance)), rtol=1e-6)


@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(2.0, 0.5)])
@pytest.mark.parametrize("argument", [1, 2, 3], ids=["mean", "scale", "dictionary"])
def test_gradients_are_finite_differences(case, argument, weights):
    def objective(value):
        arguments = list(case)
        arguments[argument] = value
        return entropy_elbo(_statistics(*arguments), weights).objective

    value = case[argument].clone().requires_grad_()
    objective(value).backward()
    expected = oracles.finite_difference(lambda v: objective(v), case[argument])
    torch.testing.assert_close(value.grad, expected, rtol=1e-6, atol=1e-7)
    assert value.grad.abs().min() > 0


def test_the_elbo_of_parts_is_that_of_the_whole(case):
    x, mean, log_scale, dictionary = case
    halves = [
        _statistics(x[rows], mean[rows], log_scale[rows], dictionary) for rows in (slice(3), slice(3, None))
    ]
    whole = entropy_elbo(_statistics(*case))
    assert float(entropy_elbo(halves[0] + halves[1]).elbo) == pytest.approx(float(whole.elbo), abs=1e-12)
    # each half with scales of its own looks better than it is
    optimistic = sum(float(entropy_elbo(half).elbo * half.weight) for half in halves) / 7
    assert optimistic > float(whole.elbo)


def test_objective_is_unbounded_above_for_large_prior_weight(case):
    """For γ > 1 a latent that shrinks to nothing gains (γ − 1) |log ε|."""
    x, mean, log_scale, dictionary = case
    values = []
    for epsilon in (1e-2, 1e-4, 1e-6):
        shrunk_mean, shrunk_scale = mean.clone(), log_scale.clone()
        shrunk_mean[:, 0] = 0.0
        shrunk_scale[:, 0] = np.log(epsilon)
        statistics = _statistics(x, shrunk_mean, shrunk_scale, dictionary)
        values.append(float(entropy_elbo(statistics, EntropyWeights(prior=3.0)).objective))
    assert np.diff(values) == pytest.approx([2 * np.log(100)] * 2, rel=1e-3)
