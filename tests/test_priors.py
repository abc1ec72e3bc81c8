"""One battery for every prior, against quadrature of its density and automatic differentiation."""

import itertools
import math

import pytest
import torch
from scipy import integrate, optimize, stats

import documents
import oracles
from entrosparse.errors import InputError
from entrosparse.priors import PRIORS, GeneralizedGaussian, SkewedLaplace

DOCUMENTED = "generalised-gaussian"


def _at(family, shape):
    """The member of one shape."""
    return family.at(torch.tensor(shape, dtype=torch.float64))


def _gennorm(shape):
    return lambda scale: stats.gennorm(shape, scale=scale * shape ** (1.0 / shape))


def _skewed(shape):
    return lambda scale: oracles.SkewedLaplace(2.0 * scale * shape, 2.0 * scale * (1.0 - shape))


MEMBERS = {
    "laplace": (lambda: PRIORS["laplace"], lambda scale: stats.laplace(scale=scale)),
    "gaussian": (lambda: PRIORS["gaussian"], lambda scale: stats.norm(scale=scale)),
    "p = 0.31": (lambda: _at(GeneralizedGaussian(), 0.31), _gennorm(0.31)),
    "p = 0.6": (lambda: _at(GeneralizedGaussian(0.6), 0.6), _gennorm(0.6)),
    "p = 1.4": (lambda: _at(GeneralizedGaussian("shared"), 1.4), _gennorm(1.4)),
    "κ = 0.2": (lambda: _at(SkewedLaplace(), 0.2), _skewed(0.2)),
    "κ = 0.9": (lambda: _at(SkewedLaplace(), 0.9), _skewed(0.9)),
    DOCUMENTED: (
        lambda: documents.module("docs/extending.md", 0).GeneralisedGaussian(1.5),
        lambda scale: stats.gennorm(1.5, scale=scale),
    ),
}
SCALE = 0.7
MARGINALS = [(0.0, 1.0), (0.4, 0.2), (-1.5, 0.5), (2.0, 0.05), (1e-9, 0.3)]


@pytest.fixture(params=MEMBERS)
def member(request):
    """A prior of the package at some shape or the one of docs/extending.md, and SciPy's distribution."""
    prior, distribution = MEMBERS[request.param]
    return prior(), distribution


@pytest.fixture
def prior(member):
    return member[0]


@pytest.fixture
def distribution(member):
    return member[1]


@pytest.fixture
def density(distribution):
    return distribution(SCALE)


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


def _has_shapes(prior):
    return isinstance(getattr(prior, "shape", None), torch.Tensor)


def _tilt(prior, scale=SCALE):
    """The part of the slope that is the same everywhere."""
    tilt = prior.tilt(_tensor(scale))
    return _tensor(0.0) if tilt is None else tilt


def _energy(prior, mean, marginal_scale, scale=SCALE):
    """E[−log p(z)] by the prior's own statistic, which other tests hold against quadrature."""
    statistic = prior.expected_statistic(mean, marginal_scale)
    return -prior.expected_log_prob(statistic, _tensor(scale))


def test_the_table_knows_its_priors():
    assert {name: prior.name for name, prior in PRIORS.items()} == {name: name for name in PRIORS}


def test_no_prior_is_left_out():
    """The exponential prior, which has no mass below zero, has tests of its own."""
    names = {name: make().name for name, (make, _) in MEMBERS.items()}
    assert {*names.values(), "exponential"} == {*PRIORS, names[DOCUMENTED]}
    assert names[DOCUMENTED] not in PRIORS


def test_log_prob_is_that_of_scipy(prior, density):
    z = torch.linspace(-4, 4, 17, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z, _tensor(SCALE)), _tensor(density.logpdf(z.numpy())))


@pytest.mark.parametrize(("mean", "marginal_scale"), MARGINALS)
def test_expected_log_prob_is_the_integral(prior, density, mean, marginal_scale):
    """And so is the statistic that it is given."""
    expected = _expected(density.logpdf, mean, marginal_scale)
    energy = _energy(prior, _tensor(mean), _tensor(marginal_scale))
    assert float(energy) == pytest.approx(-expected, rel=1e-9)


@pytest.mark.parametrize("scale", [0.02, *(pytest.param(s, marks=pytest.mark.slow) for s in (SCALE, 7.0))])
def test_entropy_is_the_integral(prior, distribution, scale):
    density = distribution(scale)
    reaches = [3.0, 80.0, 1e4, 3e7] if _has_shapes(prior) else [3.0, 80.0]
    points = [scale * reach for reach in sorted([0.0, *reaches, *(-reach for reach in reaches)])]
    expected = oracles.entropy_by_quadrature(density.logpdf, points[0], points[-1], points[1:-1])
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
    if prior.name != "generalized-gaussian" or prior.shape >= 1.0:  # A sparser one is not convex.
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
    torch.testing.assert_close(majorizer * mean + _tilt(prior), slope)
    # at a mean of zero the ratio goes on as the curvature
    at_zero = prior.majorizer(_tensor(0.0), _tensor(0.3), _tensor(SCALE))
    torch.testing.assert_close(at_zero, prior.curvature(_tensor(0.0), _tensor(0.3), _tensor(SCALE)))


def test_the_quadratic_of_the_majorizer_touches_and_lies_above(prior):
    mean, marginal_scale = _marginals()
    half = 0.5 * prior.majorizer(mean, marginal_scale, _tensor(SCALE))
    touched = _energy(prior, mean, marginal_scale)
    others = torch.linspace(-5, 5, 201, dtype=torch.float64)[:, None].expand(-1, len(mean))
    quadratic = touched + half * (others.square() - mean.square()) + _tilt(prior) * (others - mean)
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
def test_samples_follow_the_density(prior, distribution, generator, dtype):
    scale = torch.tensor([SCALE, 3.0], dtype=dtype)
    z = prior.sample(5000, scale, generator)
    assert z.shape == (5000, 2)
    assert z.dtype == dtype
    for h in range(2):
        assert stats.kstest(z[:, h].double().numpy(), distribution(float(scale[h])).cdf).pvalue > 1e-4
    correlation = torch.corrcoef(z.T)[0, 1]
    assert abs(float(correlation)) < 5 / 5000**0.5
    assert torch.equal(prior.sample(3, scale, torch.Generator()), prior.sample(3, scale, torch.Generator()))


def test_float32_agrees_with_float64(prior):
    mean, marginal_scale = _marginals()
    scale = torch.full_like(mean, SCALE)
    rounded = type(prior)(prior.shape.float()) if _has_shapes(prior) else prior
    for method in ("curvature", "majorizer"):
        single = getattr(rounded, method)(mean.float(), marginal_scale.float(), scale.float())
        assert single.dtype == torch.float32
        double = getattr(prior, method)(mean, marginal_scale, scale)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-30)


# --- families with shapes


@pytest.mark.parametrize("name", [name for name, family in PRIORS.items() if family.first_shape is not None])
def test_the_optimal_shape_is_the_numerical_maximum(name, generator):
    """Theorem 2 for shapes, of the mean statistics of two latents; any other shape is worse."""
    family = PRIORS[name]
    mean = torch.randn(300, 2, generator=generator).double() ** 3 + _tensor([0.0, 0.5])
    statistic = family.expected_statistic(mean, 0.1 + mean.abs().sqrt()).mean(-2)
    best = family.optimal_shape(statistic)

    def loss(shape, h):
        shape = torch.full((2,), shape, dtype=torch.float64)
        member, reduced = family.at(shape), family.member_statistic(statistic, shape)
        return -float(member.expected_log_prob(reduced, member.optimal_scale(reduced))[h])

    for h in range(2):
        low = 0.3 if name == "generalized-gaussian" else 0.01
        found = optimize.minimize_scalar(loss, args=(h,), bounds=(low, 2.0 if low > 0.1 else 0.99))
        assert float(best[h]) == pytest.approx(found.x, abs=2e-4)
        assert abs(loss(float(best[h]), h) - found.fun) < 1e-8


@pytest.mark.parametrize("shape", [0.31, 0.45, 0.7, 1.0, 1.5, 2.0])
def test_moments_between_the_nodes_are_those_of_the_member(shape, generator):
    """A Gaussian, a point and a mixture of scales that spans four orders of magnitude."""
    family, shape = GeneralizedGaussian(), torch.full((3,), shape, dtype=torch.float64)
    spread = torch.tensor([1.0, 1e-6, 1.0]).double() * torch.ones(2000, 3).double()
    spread[:, 2] = 10.0 ** torch.linspace(-3, 1, 2000).double()
    mean = torch.tensor([0.0, 3.0, 0.0]).double().expand(2000, -1)
    interpolated = family.member_statistic(family.expected_statistic(mean, spread).mean(1), shape)
    exact = family.at(shape).expected_statistic(mean, spread).mean(0)
    torch.testing.assert_close(interpolated, exact, rtol=5e-5, atol=0)


def test_special_shapes_are_the_laplace_and_the_gaussian_prior():
    mean, marginal_scale = _marginals()
    scale = torch.full_like(mean, SCALE)
    for member, same in (
        (_at(GeneralizedGaussian(), 1.0), PRIORS["laplace"]),
        (_at(GeneralizedGaussian(), 2.0), PRIORS["gaussian"]),
        (_at(SkewedLaplace(), 0.5), PRIORS["laplace"]),
    ):
        assert float(_energy(member, mean, marginal_scale).sum()) == pytest.approx(
            float(_energy(same, mean, marginal_scale).sum()), rel=1e-11
        )
        torch.testing.assert_close(member.entropy(scale), same.entropy(scale))
        torch.testing.assert_close(member.deviation(scale), same.deviation(scale))
        for method in ("curvature", "majorizer"):
            expected = getattr(same, method)(mean, marginal_scale, scale)
            torch.testing.assert_close(
                getattr(member, method)(mean, marginal_scale, scale), expected, rtol=1e-9, atol=1e-9
            )


def test_deviation_is_that_of_scipy(prior, density):
    assert float(prior.deviation(_tensor(SCALE))) == pytest.approx(density.std(), rel=1e-9)


@pytest.mark.parametrize("shape", [0.3, 2.1, 0, -1.0, math.nan, "free", None, True])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"must be a number in \(0.3, 2\], 'learned' or 'shared'; got"):
        GeneralizedGaussian(shape)


def test_a_mirrored_shape_is_that_of_mirrored_codes(generator):
    family, z = SkewedLaplace(), torch.randn(50, 2, generator=generator).double() + 0.3
    shape = family.optimal_shape(family.statistic(z).mean(1))
    torch.testing.assert_close(family.mirrored(shape), family.optimal_shape(family.statistic(-z).mean(1)))
