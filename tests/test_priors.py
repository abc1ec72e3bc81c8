"""One battery for every prior, against quadrature of its density and automatic differentiation."""

import itertools
import math

import pytest
import torch
from scipy import integrate, optimize, stats

import documents
import oracles
from entrosparse.priors import PRIORS
from kinds import SIGNED

DOCUMENTED = "generalised-gaussian"
NAMES = [*SIGNED, DOCUMENTED]
SCIPY = {
    "laplace": lambda scale: stats.laplace(scale=scale),
    "gaussian": lambda scale: stats.norm(scale=scale),
    DOCUMENTED: lambda scale: stats.gennorm(1.5, scale=scale),
}
SCALE = 0.7
MARGINALS = [(0.0, 1.0), (0.4, 0.2), (-1.5, 0.5), (2.0, 0.05), (1e-9, 0.3)]


@pytest.fixture(params=NAMES)
def prior(request):
    """Those that Gaussian posteriors go with, and the one of docs/extending.md."""
    if request.param == DOCUMENTED:
        return documents.module("docs/extending.md", 0).GeneralisedGaussian(1.5)
    return PRIORS[request.param]


@pytest.fixture
def density(prior):
    return SCIPY[prior.name](SCALE)


def _tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def _marginals():
    """Means and deviations as tensors of shape (M,)."""
    mean, marginal_scale = zip(*MARGINALS, strict=True)
    return _tensor(mean), _tensor(marginal_scale)


def _expected(function, mean, marginal_scale):
    """E[function(z)] under N(mean, marginal_scale²) by quadrature, split at the kink."""
    normal = stats.norm(mean, marginal_scale)
    low, high = mean - 12 * marginal_scale, mean + 12 * marginal_scale
    edges = [low, *([0.0] if low < 0 < high else []), high]
    return sum(
        integrate.quad(lambda z: normal.pdf(z) * function(z), *pair, epsabs=1e-13, epsrel=1e-11, limit=200)[0]
        for pair in itertools.pairwise(edges)
    )


def _energy(prior, mean, marginal_scale, scale=SCALE):
    """E[−log p(z)] by the prior's own statistic, which other tests hold against quadrature."""
    statistic = prior.expected_statistic(mean, marginal_scale)
    return -prior.expected_log_prob(statistic, _tensor(scale))


def test_the_table_knows_its_priors():
    assert {name: prior.name for name, prior in PRIORS.items()} == {name: name for name in PRIORS}
    assert list(SCIPY) == NAMES


def test_log_prob_is_that_of_scipy(prior, density):
    z = torch.linspace(-4, 4, 17, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z, _tensor(SCALE)), _tensor(density.logpdf(z.numpy())))


@pytest.mark.parametrize(("mean", "marginal_scale"), MARGINALS)
def test_expected_log_prob_is_the_integral(prior, density, mean, marginal_scale):
    """And so is the statistic that it is given."""
    expected = _expected(density.logpdf, mean, marginal_scale)
    energy = _energy(prior, _tensor(mean), _tensor(marginal_scale))
    assert float(energy) == pytest.approx(-expected, rel=1e-9)


@pytest.mark.parametrize("scale", [0.02, SCALE, 7.0])
def test_entropy_is_the_integral(prior, scale):
    density = SCIPY[prior.name](scale)
    reach = 80 * scale if prior.name == "laplace" else 12 * scale
    expected = oracles.entropy_by_quadrature(density.logpdf, -reach, reach, [0.0])
    assert float(prior.entropy(_tensor(scale))) == pytest.approx(expected, abs=1e-9)


def test_optimal_scale_maximizes_the_mean_log_prob(prior):
    """Theorem 2 for one latent; Theorem 4: there the mean log-prior is minus the entropy."""
    statistic = prior.expected_statistic(*_marginals()).mean()

    def loss(log_scale):
        return -float(prior.expected_log_prob(statistic, _tensor(math.exp(log_scale))))

    found = math.exp(optimize.minimize_scalar(loss, bounds=(-5, 5), options={"xatol": 1e-9}).x)
    optimum = prior.optimal_scale(statistic)
    assert float(optimum) == pytest.approx(found, rel=1e-6)
    assert float(prior.expected_log_prob(statistic, optimum)) == pytest.approx(
        -float(prior.entropy(optimum)), abs=1e-12
    )


def test_curvature_is_the_second_derivative_and_that_in_the_variance(prior):
    mean, marginal_scale = _marginals()
    mean.requires_grad_()
    variance = marginal_scale.square().requires_grad_()
    energy = _energy(prior, mean, variance.sqrt()).sum()
    slope, by_variance = torch.autograd.grad(energy, (mean, variance), create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), mean)
    curvature = prior.curvature(mean, marginal_scale, _tensor(SCALE))
    torch.testing.assert_close(curvature, second)
    torch.testing.assert_close(curvature, 2.0 * by_variance)
    assert (curvature >= 0).all()


def test_the_precision_share_and_its_derivative(prior):
    mean, marginal_scale = _marginals()
    log_scale = marginal_scale.log().requires_grad_()
    expected = log_scale.exp().square() * prior.curvature(mean, log_scale.exp(), _tensor(SCALE))
    (slope,) = torch.autograd.grad(expected.sum(), log_scale)
    share, derivative = prior.precision_share(mean, marginal_scale, _tensor(SCALE))
    torch.testing.assert_close(share, expected.detach())
    torch.testing.assert_close(derivative, slope)


def test_majorizer_is_the_slope_over_the_mean(prior):
    mean, marginal_scale = _marginals()
    mean.requires_grad_()
    (slope,) = torch.autograd.grad(_energy(prior, mean, marginal_scale).sum(), mean)
    majorizer = prior.majorizer(mean, marginal_scale, _tensor(SCALE))
    torch.testing.assert_close(majorizer * mean, slope)
    # at a mean of zero the ratio goes on as the curvature
    at_zero = prior.majorizer(_tensor(0.0), _tensor(0.3), _tensor(SCALE))
    torch.testing.assert_close(at_zero, prior.curvature(_tensor(0.0), _tensor(0.3), _tensor(SCALE)))


def test_the_quadratic_of_the_majorizer_touches_and_lies_above(prior):
    mean, marginal_scale = _marginals()
    half = 0.5 * prior.majorizer(mean, marginal_scale, _tensor(SCALE))
    touched = _energy(prior, mean, marginal_scale)
    others = torch.linspace(-5, 5, 201, dtype=torch.float64)[:, None].expand(-1, len(mean))
    quadratic = touched + half * (others.square() - mean.square())
    assert (quadratic - _energy(prior, others, marginal_scale.expand_as(others)) > -1e-12).all()


@pytest.mark.parametrize("weight", [0.3, 1.0, 5.0])
def test_tempered_scale_multiplies_the_energy(prior, weight):
    """Up to the normalization, which no posterior depends on."""
    mean, marginal_scale = _marginals()
    scale = _tensor(SCALE)
    tempered = prior.tempered_scale(scale, weight)
    for method in (prior.curvature, prior.majorizer):
        torch.testing.assert_close(
            method(mean, marginal_scale, tempered), weight * method(mean, marginal_scale, scale)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_follow_the_density(prior, generator, dtype):
    scale = torch.tensor([SCALE, 3.0], dtype=dtype)
    z = prior.sample(5000, scale, generator)
    assert z.shape == (5000, 2)
    assert z.dtype == dtype
    for h in range(2):
        distribution = SCIPY[prior.name](float(scale[h]))
        assert stats.kstest(z[:, h].double().numpy(), distribution.cdf).pvalue > 1e-4
    correlation = torch.corrcoef(z.T)[0, 1]
    assert abs(float(correlation)) < 5 / 5000**0.5
    assert torch.equal(prior.sample(3, scale, torch.Generator()), prior.sample(3, scale, torch.Generator()))


def test_float32_agrees_with_float64(prior):
    mean, marginal_scale = _marginals()
    scale = torch.full_like(mean, SCALE)
    for method in (prior.curvature, prior.majorizer):
        single = method(mean.float(), marginal_scale.float(), scale.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(
            single.double(), method(mean, marginal_scale, scale), rtol=1e-4, atol=1e-30
        )
