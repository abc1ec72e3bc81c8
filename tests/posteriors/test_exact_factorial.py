"""Exact factorial posteriors, against quadrature of their density."""

import math

import pytest
import torch
from scipy import stats

import oracles
from entrosparse.closed_form import half_line
from entrosparse.errors import InputError
from entrosparse.posteriors import ExactFactorial
from entrosparse.priors import Exponential, Gaussian, Laplace
from kinds import FACTORIAL

N, H = 3, 5
SIDES = [
    (0.3, -1.0, 0.7),
    (-0.5, -0.5, 0.2),
    (2.0, -2.5, 0.4),
    (-30.0, -31.0, 0.5),
    (-4.0, 3.9, 1.0),
    (1e-3, -2e-3, 5.0),
    (-9.0, -math.inf, 0.3),
    (-1.0, -math.inf, 2.0),
    (3.0, -math.inf, 0.5),
]


def _tensor(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype)


def _made(sides=SIDES, dtype=torch.float64):
    """One data point for each triple."""
    return ExactFactorial(*(_tensor(part, dtype)[:, None] for part in zip(*sides, strict=True)))


@pytest.fixture(params=FACTORIAL)
def kind(request):
    return FACTORIAL[request.param]


@pytest.mark.parametrize(
    "a", [-1e12, -1e4, -300.0, -30.0, -6.001, -5.999, -2.0, -1e-9, 0.0, 1e-9, 0.7, 6.0, 30.0]
)
def test_the_half_line_is_the_integral(a):
    found = half_line(_tensor(a))
    unit = max(1.0, -a)  # Distances are in units of the width, since quadrature cannot see 1e-12.
    log_density, edges = lambda t: a * t / unit - 0.5 * (t / unit) ** 2, [0.0]
    peak = max(a, 0.0) * unit
    edges = sorted({0.0, *(max(0.0, peak + k) for k in (-40, -8, -2, 0, 2, 8, 40))})
    mean = oracles.expectation(log_density, edges, lambda t: t)
    variance = oracles.expectation(log_density, edges, lambda t: (t - mean) ** 2)
    log_mass = oracles.log_integral(log_density, edges)
    entropy = log_mass - oracles.expectation(log_density, edges, log_density)
    assert float(found.mean) * unit == pytest.approx(mean, rel=1e-10)
    assert float(found.variance) * unit**2 == pytest.approx(variance, rel=1e-10)
    assert float(found.log_mass) + math.log(unit) == pytest.approx(log_mass, rel=1e-11, abs=1e-11)
    assert float(found.entropy) + math.log(unit) == pytest.approx(entropy, abs=1e-9)
    single = half_line(_tensor(a, torch.float32))
    for one, other in zip(single, found, strict=True):
        assert float(one) == pytest.approx(float(other), rel=2e-5, abs=2e-6)


def test_moments_and_entropy_are_the_integrals():
    posterior = _made()
    for n, sides in enumerate(SIDES):
        log_density, edges = oracles.two_sided_density(*sides)
        mean = oracles.expectation(log_density, edges, lambda z: z)
        variance = oracles.expectation(log_density, edges, lambda z, mean=mean: (z - mean) ** 2)
        magnitude = oracles.expectation(log_density, edges, abs)
        log_mass = oracles.log_integral(log_density, edges)
        entropy = log_mass - oracles.expectation(log_density, edges, log_density)
        assert float(posterior.mean[n, 0]) == pytest.approx(mean, rel=1e-9, abs=1e-12)
        assert float(posterior.marginal_scale()[n, 0]) == pytest.approx(variance**0.5, rel=1e-9)
        assert float(posterior.expected_statistic(Laplace())[n, 0]) == pytest.approx(magnitude, rel=1e-9)
        assert float(posterior.entropy()[n]) == pytest.approx(entropy, abs=1e-9)
        inner = [0.0, 0.2, *([] if sides[1] == -math.inf else [-0.3])]
        for z in inner:
            found = float(posterior.log_prob(_tensor([[z]]).expand(len(SIDES), 1))[n])
            assert found == pytest.approx(log_density(z) - log_mass, abs=1e-8)


def test_nothing_lies_below_zero_on_one_side():
    posterior = _made([side for side in SIDES if side[1] == -math.inf])
    assert (posterior.log_prob(_tensor([[-1e-9]]).expand(3, 1)) == -torch.inf).all()
    assert (posterior.sample(200, torch.Generator().manual_seed(1)) >= 0).all()
    torch.testing.assert_close(posterior.expected_statistic(Exponential()), posterior.mean)


def test_quantiles_are_those_of_the_density(generator):
    """A rising function of the noise, whose samples have the moments."""
    posterior = _made()
    noise = torch.linspace(-6.0, 6.0, 41, dtype=torch.float64)[:, None, None].expand(-1, len(SIDES), 1)
    quantiles = posterior.perturb(noise)
    assert (quantiles.diff(dim=0) >= 0).all()
    for n, sides in enumerate(SIDES):
        log_density, edges = oracles.two_sided_density(*sides)
        z = float(quantiles[15, n, 0])
        below = [edge for edge in edges if edge < z] + [z]
        part = math.exp(oracles.log_integral(log_density, below) - oracles.log_integral(log_density, edges))
        assert part == pytest.approx(stats.norm.cdf(float(noise[15, n, 0])), rel=1e-8)
    samples = posterior.sample(5000, generator)
    deviation = posterior.marginal_scale() / 5000**0.5
    assert ((samples.mean(0) - posterior.mean).abs() < 5 * deviation).all()
    ratio = samples.std(0) / posterior.marginal_scale()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.1, atol=0)


def test_every_parameter_gets_its_gradient(kind, generator):
    parameters = kind.parameters(N, H, generator)
    noise = torch.randn(2, N, H, generator=generator, dtype=torch.float64)
    z = torch.rand(N, H, generator=generator, dtype=torch.float64)
    methods = {
        "mean": lambda q: q.mean,
        "marginal_scale": lambda q: q.marginal_scale(),
        "expected_statistic": lambda q: q.expected_statistic(Laplace()),
        "entropy": lambda q: q.entropy(),
        "log_prob": lambda q: q.log_prob(z),
        "perturb": lambda q: q.perturb(noise).square(),
    }
    for method in methods.values():
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        gradients = torch.autograd.grad(method(kind.make(**leaves)).sum(), list(leaves.values()))
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
            expected = oracles.finite_difference(
                lambda v, name=name, method=method: method(kind.make(**{**parameters, name: v})).sum(), value
            )
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_without_a_prior_it_is_the_diagonal_gaussian(generator):
    """Where both sides are one Gaussian, also far from zero."""
    mean = torch.tensor([[0.3, -2.0, 50.0]]).double()
    scale = torch.tensor([[0.7, 0.4, 1.5]]).double()
    posterior = ExactFactorial(mean, -mean, scale)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.marginal_scale(), scale)
    torch.testing.assert_close(
        posterior.entropy(), (0.5 * math.log(2 * math.pi * math.e) + scale.log()).sum(1)
    )
    z = torch.randn(4, 1, 3, generator=generator).double()
    expected = torch.distributions.Normal(mean, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(posterior.log_prob(z), expected, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(posterior.perturb(z), mean + scale * z, rtol=1e-8, atol=1e-8)


def test_without_data_it_is_the_prior():
    """In both dtypes: its deviation s stays finite."""
    for dtype in (torch.float32, torch.float64):
        scale = _tensor([1e-6, 0.7, 1e6], dtype)
        nothing = torch.zeros(1, 3, dtype=dtype)
        posterior = ExactFactorial.from_natural(nothing, nothing, Laplace().slopes(scale))
        torch.testing.assert_close(posterior.marginal_scale()[0], 2.0**0.5 * scale, rtol=1e-6, atol=0)
        torch.testing.assert_close(
            posterior.entropy(), Laplace().entropy(scale).sum()[None], rtol=1e-6, atol=1e-5
        )
        one_sided = ExactFactorial.from_natural(nothing, nothing, Exponential().slopes(scale))
        torch.testing.assert_close(one_sided.mean[0], scale, rtol=1e-6, atol=0)


def test_float32_agrees_with_float64_far_and_near():
    sides = [*SIDES, (1e6, -1e6 - 1.0, 1.0), (-1e8, -1e8, 1.0), (-1e8, -math.inf, 1e-3), (5.0, -5.0, 1e6)]
    wide, single = _made(sides), _made(sides, torch.float32)
    for method in (
        lambda q: q.mean / q.scale,
        lambda q: q.marginal_scale() / q.scale,
        lambda q: q.expected_statistic(Laplace()) / q.scale,
        lambda q: q.entropy(),
        lambda q: q.log_prob(q.mean),
    ):
        assert method(single).dtype == torch.float32
        torch.testing.assert_close(method(single).double(), method(wide), rtol=1e-4, atol=2e-4)


def test_rescaled_and_other_priors(kind, generator):
    posterior = kind.make(**kind.parameters(N, H, generator))
    torch.testing.assert_close(posterior.rescaled(3.0).mean, 3.0 * posterior.mean)
    torch.testing.assert_close(posterior.rescaled(3.0).entropy(), posterior.entropy() + H * math.log(3.0))
    with pytest.raises(InputError, match=r"exact factorial posteriors need .*; Gaussian has none"):
        posterior.expected_statistic(Gaussian())
