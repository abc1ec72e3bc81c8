import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize

import oracles
from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import (
    analytic_elbo,
    entropy_elbo,
    l1_objective,
    monte_carlo_elbo,
    optimal_scales,
    with_unit_scales,
)
from entrosparse.posteriors import Diagonal, Full
from entrosparse.priors import PRIORS, Laplace
from entrosparse.statistics import Statistics
from kinds import FAMILIES, SIGNED


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


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_data_without_any_residual_have_a_finite_bound(likelihood):
    """As where one feature is zero in all rows, its row of the dictionary too, and no other was seen."""
    x = torch.tensor([[0.0, torch.nan]]).double()
    posterior = Diagonal(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    dictionary = torch.tensor([[0.0], [1.0]]).double()
    statistics = Statistics.collect(posterior, x, dictionary, Laplace(), likelihood=likelihood)
    assert (optimal_scales(statistics)[1] > 0.0).all()
    assert math.isfinite(float(entropy_elbo(statistics).elbo))


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
    optimistic = sum(float(entropy_elbo(half).elbo * half.total_weight) for half in halves) / 7
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


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(3.0, 0.4)])
def test_analytic_elbo_is_that_of_explicit_matrices(family, generator, weights):
    model = make_model(6, 4, generator)
    x, _ = model.sample(7, generator)
    posterior = family.make(**family.parameters(7, 4, generator))
    terms = analytic_elbo(Statistics.collect(posterior, x, model.dictionary, model.prior), model, weights)
    rows = zip(posterior.mean.numpy(), posterior.covariance().numpy(), x.numpy(), strict=True)
    expected = np.mean([oracles.classical_elbo(*row, model, weights) for row in rows])
    assert float(terms.objective) == pytest.approx(expected, abs=1e-10)


def _exact_posterior(x, model):
    """The posterior of the Gaussian prior, which is Gaussian."""
    precision = model.dictionary.T @ model.dictionary / model.noise_variance
    covariance = torch.linalg.inv(precision + torch.diag(model.prior_scale.square().reciprocal()))
    mean = x @ model.dictionary @ covariance / model.noise_variance
    return Full(mean, torch.linalg.cholesky(covariance).expand(len(x), -1, -1))


def test_with_the_exact_posterior_the_bound_is_the_evidence(generator):
    """For the Gaussian prior ``x ~ N(0, W diag(λ²) Wᵀ + σ² I)``."""
    model = make_model(6, 4, generator, prior=PRIORS["gaussian"])
    x, _ = model.sample(5, generator)
    posterior = _exact_posterior(x, model)
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)
    evidence = oracles.gaussian_evidence(x, model).mean()
    assert float(analytic_elbo(statistics, model).elbo) == pytest.approx(evidence, abs=1e-10)


@pytest.mark.parametrize("prior", SIGNED.values(), ids=SIGNED)
def test_monte_carlo_elbo_and_its_gradients_are_unbiased(family, prior, generator):
    model = make_model(5, 3, generator, prior=prior)
    x, _ = model.sample(4, generator)
    leaves = {name: v.requires_grad_() for name, v in family.parameters(4, 3, generator).items()}
    # little noise in the estimate, so that little is needed to fail
    logarithms = [(20.0 * v).log().requires_grad_() for v in (model.prior_scale, model.noise_variance)]
    model = replace(
        model,
        dictionary=model.dictionary.requires_grad_(),
        prior_scale=logarithms[0].exp(),
        noise_variance=logarithms[1].exp(),
    )
    inputs = [model.dictionary, *logarithms, *leaves.values()]

    def with_gradients(value):
        parts = torch.autograd.grad(value, inputs, retain_graph=True)
        return torch.cat([value.detach().reshape(1), *(part.reshape(-1) for part in parts)])

    posterior = family.make(**leaves)
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)
    exact = with_gradients(analytic_elbo(statistics, model).elbo)
    repeats = torch.stack(
        [with_gradients(monte_carlo_elbo(posterior, x, model, 100, generator)) for _ in range(200)]
    )
    standard_error = repeats.std(0) / len(repeats) ** 0.5
    assert ((repeats.mean(0) - exact).abs() <= 5 * standard_error + 1e-12).all()
    assert standard_error[0] < 0.04


def test_monte_carlo_elbo_repeats_with_the_seed_and_names_a_bad_argument(case):
    x, mean, log_scale, dictionary = case
    model = SparseCodingModel(dictionary, torch.ones(4).double(), torch.tensor(0.1).double())
    posterior = Diagonal(mean, log_scale.exp())
    values = [
        monte_carlo_elbo(posterior, x, model, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]
    with pytest.raises(InputError, match="n_samples"):
        monte_carlo_elbo(posterior, x, model, 0)


@pytest.mark.parametrize("prior", SIGNED.values(), ids=SIGNED)
def test_the_form_of_equation_1_has_the_same_elbo(prior, generator):
    """Codes are divided by λ; λ = 1 and W is free."""
    model = make_model(6, 4, generator, prior=prior)
    x, z = model.sample(7, generator)
    posterior = FAMILIES["full"].make(**FAMILIES["full"].parameters(7, 4, generator))
    unit = with_unit_scales(model)
    assert (unit.prior_scale == 1.0).all()
    rescaled = Full(posterior.mean / model.prior_scale, posterior.factor / model.prior_scale[:, None])
    one, other = (
        analytic_elbo(Statistics.collect(q, x, m.dictionary, prior), m)
        for q, m in ((posterior, model), (rescaled, unit))
    )
    assert float(one.elbo) == pytest.approx(float(other.elbo), abs=1e-10)
    assert float(one.likelihood) == pytest.approx(float(other.likelihood), abs=1e-10)
    torch.testing.assert_close(  # densities of codes differ by the volume
        model.log_joint(x, z), unit.log_joint(x, z / model.prior_scale) - model.prior_scale.log().sum()
    )


def test_the_classical_elbo_in_the_form_of_equation_1_is_equation_123(generator):
    """Learned with W free: its gradient in the length of a column is that in log λ."""
    model = make_model(6, 4, generator)
    x, _ = model.sample(7, generator)
    posterior = Diagonal(
        torch.randn(7, 4, generator=generator).double(), 0.1 + torch.rand(7, 4, generator=generator).double()
    )
    log_prior_scale = model.prior_scale.log().requires_grad_()
    scaled = replace(model, prior_scale=log_prior_scale.exp())
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)
    (expected,) = torch.autograd.grad(analytic_elbo(statistics, scaled).elbo, log_prior_scale)

    free = with_unit_scales(model).dictionary.requires_grad_()
    mean, scale = posterior.mean / model.prior_scale, posterior.scale / model.prior_scale
    mean.requires_grad_()
    scale.requires_grad_()
    unit = replace(with_unit_scales(model), dictionary=free)
    statistics = Statistics.collect(Diagonal(mean, scale), x, free, model.prior)
    by_w, by_mean, by_scale = torch.autograd.grad(analytic_elbo(statistics, unit).elbo, (free, mean, scale))
    # along W → W e^t with codes → codes e^−t
    moved = (free * by_w).sum(0) - (mean * by_mean).sum(0) - (scale * by_scale).sum(0)
    torch.testing.assert_close(moved.detach(), expected)


def test_l1_objective_is_equation_2(case):
    x, codes, _, dictionary = case
    penalty = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    expected = 0.0
    for n in range(len(x)):
        error = x[n].numpy() - dictionary.numpy() @ codes[n].numpy()
        expected += error @ error + (penalty * codes[n].abs()).sum().item()
    assert float(l1_objective(codes, x, dictionary, penalty)) == pytest.approx(expected, rel=1e-12)
    assert float(l1_objective(codes, x, dictionary, 0.3)) == pytest.approx(
        float(l1_objective(codes, x, dictionary, torch.full((4,), 0.3, dtype=x.dtype))), rel=1e-12
    )


def test_l1_objective_is_the_limit_of_certain_posteriors(case):
    """Section 3.4: for vanishing deviations its gradient is that of Eq. 17 times −2Nσ²/δ."""
    x, mean, _, dictionary = case
    weights = EntropyWeights(2.0, 0.5)
    mean = mean.clone().requires_grad_()
    statistics = _statistics(x, mean, torch.full_like(mean, -20.0).detach(), dictionary)
    prior_scale, noise_variance = (value.detach() for value in optimal_scales(statistics))
    (gradient,) = torch.autograd.grad(entropy_elbo(statistics, weights).objective, mean)
    penalty = 2.0 * weights.prior * noise_variance / (weights.likelihood * prior_scale)
    (expected,) = torch.autograd.grad(l1_objective(mean, x, dictionary, penalty), mean)
    torch.testing.assert_close(-2.0 * len(x) * noise_variance / weights.likelihood * gradient, expected)


def test_statistics_know_their_prior(generator):
    """Those of one prior are not read as another's, and do not add to them."""
    laplace = make_model(6, 4, generator)
    gaussian = replace(laplace, prior=PRIORS["gaussian"])
    x, _ = gaussian.sample(50, generator)
    posterior = Diagonal(x @ laplace.dictionary, torch.full((50, 4), 0.3).double())
    records = [Statistics.collect(posterior, x, m.dictionary, m.prior) for m in (laplace, gaussian)]
    prior_scale, noise_variance = optimal_scales(records[1])
    optimum = replace(gaussian, prior_scale=prior_scale, noise_variance=noise_variance)
    expected = (posterior.entropy() + _cross(posterior, x, optimum)).mean()
    assert float(entropy_elbo(records[1]).elbo) == pytest.approx(float(expected), abs=1e-9)
    with pytest.raises(InputError, match="records of one prior add"):
        records[0] + records[1]
    with pytest.raises(InputError, match="must be those of the model's prior"):
        analytic_elbo(records[0], gaussian)


def _cross(posterior, x, model):
    """E[log p(x, z)] of each row under a Gaussian prior, from second moments."""
    squares = (posterior.mean.square() + posterior.scale.square()) / model.prior_scale.square()
    log_prior = -0.5 * (squares + (2 * math.pi * model.prior_scale.square()).log()).sum(1)
    residual = (x - posterior.mean @ model.dictionary.T).square().sum(1) + posterior.scale.square().sum(1)
    log_noise = (2 * math.pi * model.noise_variance).log() * x.shape[1]
    return log_prior - 0.5 * (log_noise + residual / model.noise_variance)
