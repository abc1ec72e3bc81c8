import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats

import oracles
from entrosparse import closed_form

RATIOS = [0.0, 1e-8, 1e-3, 0.3, 1.0, 2.5, 6.0, 12.0, 1e4]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("ratio", [r for r in RATIOS if r < 100])
def test_soft_magnitude_is_the_integral(ratio, scale):
    mean = torch.tensor(-ratio * scale, dtype=torch.float64)
    value = closed_form.soft_magnitude(mean, torch.tensor(scale, dtype=torch.float64))
    assert float(value) == pytest.approx(oracles.expected_magnitude(-ratio * scale, scale), rel=1e-10)


@pytest.mark.parametrize("ratio", [*RATIOS, 1e19])
def test_float32_agrees_with_float64(ratio):
    functions = [
        closed_form.soft_magnitude_ratio,
        closed_form.magnitude_slope_over_a,
        closed_form.magnitude_curvature,
    ]
    for function in functions:
        for sign in (-1.0, 1.0):
            single = function(torch.tensor(sign * ratio, dtype=torch.float32))
            double = function(torch.tensor(np.float32(sign * ratio), dtype=torch.float64))
            assert single.dtype == torch.float32
            assert float(single) == pytest.approx(float(double), rel=1e-5, abs=1e-37), function.__name__


def test_a_latent_without_evidence_costs_what_the_documents_say():
    """A Gaussian posterior beside the Laplace prior of the best scale, at any width."""

    def gain(log_width):
        width = torch.tensor(log_width, dtype=torch.float64).exp()
        prior = closed_form.laplace_entropy(closed_form.soft_magnitude(torch.zeros(()), width))
        return float(closed_form.gaussian_entropy(2.0 * width.log(), 1) - prior)

    for log_width in (-3.0, 0.0, 5.0):
        assert gain(log_width) == pytest.approx(math.log(math.pi / 2) - 0.5, abs=1e-12)
    least = optimize.minimize_scalar(divergence_from_laplace, bounds=(0.1, 3.0))
    assert least.fun == pytest.approx(0.5 - math.log(math.pi / 2), abs=1e-8)


def divergence_from_laplace(scale):
    """KL(N(0, 1) ‖ Laplace(scale)), by quadrature."""
    q, p = stats.norm(), stats.laplace(scale=scale)
    return 2.0 * integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), 0.0, 12.0)[0]


def test_soft_magnitude_limits():
    """Eq. 175, 176: above |a| everywhere, √(2/π) at 0, |a| far out."""
    a = torch.linspace(-7, 7, 141, dtype=torch.float64)
    assert (closed_form.soft_magnitude_ratio(a) > a.abs()).all()
    assert float(closed_form.soft_magnitude_ratio(torch.zeros(()))) == pytest.approx(math.sqrt(2 / math.pi))
    assert float(closed_form.soft_magnitude_ratio(torch.tensor(1e4))) == 1e4


def test_soft_magnitude_by_monte_carlo(rng):
    z = rng.normal(0.7, 0.4, size=200_000)
    value = float(closed_form.soft_magnitude(torch.tensor(0.7).double(), torch.tensor(0.4).double()))
    standard_error = np.abs(z).std() / math.sqrt(len(z))
    assert abs(np.abs(z).mean() - value) < 5 * standard_error


def test_derivatives_are_those_of_the_soft_magnitude():
    a = torch.tensor(RATIOS[:-1], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(closed_form.soft_magnitude_ratio(a).sum(), a, create_graph=True)
    torch.testing.assert_close(slope, torch.erf(a / math.sqrt(2.0)), rtol=1e-12, atol=1e-15)
    (curvature,) = torch.autograd.grad(slope.sum(), a)
    torch.testing.assert_close(curvature, closed_form.magnitude_curvature(a), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(closed_form.magnitude_slope_over_a(a)[1:] * a[1:], slope[1:])


def test_curvature_is_also_the_derivative_in_the_scale():
    scale = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    mean = torch.tensor(0.9, dtype=torch.float64)
    (slope,) = torch.autograd.grad(closed_form.soft_magnitude(mean, scale), scale)
    assert float(slope) == pytest.approx(closed_form.magnitude_curvature(mean / scale).item(), rel=1e-12)


def test_gradient_is_finite_at_the_extremes():
    mean = torch.tensor([0.0, 1e-8, 1e4, 1e18], requires_grad=True)
    scale = torch.full((4,), 1e-6, requires_grad=True)
    closed_form.soft_magnitude(mean, scale).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(scale.grad).all()


def _burmann(x, first, second):
    """Eq. 174 as it is written, in NumPy."""
    decay = np.exp(-(x**2))
    series = math.sqrt(math.pi) / 2 + first * decay + second * decay**2
    return 2 / math.sqrt(math.pi) * np.sign(x) * np.sqrt(1 - decay) * series


def test_erf_burmann_is_as_accurate_as_stated():
    """Its largest errors, absolute and relative, are those in its docstring."""
    x = np.linspace(-8, 8, 160_001)
    value = closed_form.erf_burmann(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(value, _burmann(x, 31 / 200, -341 / 8000), atol=1e-9)
    error = np.abs(value - special.erf(x))
    assert error.max() == pytest.approx(3.436e-3, abs=1e-6)
    assert abs(x[error.argmax()]) == pytest.approx(1.406, abs=1e-3)
    share = error[x > 0] / special.erf(x[x > 0])
    assert share.max() == pytest.approx(3.6126e-3, abs=1e-6)
    assert x[x > 0][share.argmax()] == pytest.approx(1.3796, abs=1e-3)


def test_erf_burmann_coefficients_are_the_ones_that_fit():
    """The text of Eq. 174 has come down with 21/200: six times worse, and not what a fit gives."""
    x = np.linspace(1e-3, 6, 6001)
    exact = special.erf(x)

    def worst(first):
        return np.abs(_burmann(x, first, -341 / 8000) / exact - 1).max()

    def squares(first):
        return np.square(_burmann(x, first, -341 / 8000) / exact - 1).sum()

    assert worst(21 / 200) > 6 * worst(31 / 200)
    for measure in (worst, squares):
        fitted = optimize.minimize_scalar(measure, bounds=(0.0, 0.3), options={"xatol": 1e-9}).x
        assert abs(fitted - 31 / 200) < 0.005 < abs(fitted - 21 / 200)


def test_erf_burmann_is_finite_with_its_gradient_everywhere():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([-1e30, -7.0, -1e-20, 0.0, 1e-8, 9.0, math.inf], dtype=dtype, requires_grad=True)
        value = closed_form.erf_burmann(x)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(x.grad).all()
        torch.testing.assert_close(value[[0, 1, 3, 5, 6]], torch.tensor([-1.0, -1, 0, 1, 1], dtype=dtype))
        slope = 1 + 2 / math.sqrt(math.pi) * (31 / 200 - 341 / 8000)  # 2/√π to 1.4e-3
        torch.testing.assert_close(x.grad[2:4], torch.full((2,), slope, dtype=dtype))
        assert slope == pytest.approx(2 / math.sqrt(math.pi), rel=1.5e-3)


@pytest.mark.parametrize("scale", [0.02, 1.0, 7.0])
def test_laplace_entropy_is_the_integral(scale):
    expected = oracles.entropy_by_quadrature(
        stats.laplace(scale=scale).logpdf, -80 * scale, 80 * scale, [0.0]
    )
    assert float(closed_form.laplace_entropy(torch.tensor(scale).double())) == pytest.approx(
        expected, abs=1e-7
    )
    double = torch.tensor(scale, dtype=torch.float64)
    assert float(closed_form.laplace_entropy(double)) == pytest.approx(
        stats.laplace(scale=scale).entropy(), abs=1e-10
    )


def test_gaussian_entropies(rng):
    factor = rng.normal(size=(4, 4))
    covariance = factor @ factor.T + np.eye(4)
    log_determinant = torch.tensor(np.linalg.slogdet(covariance)[1])
    expected = stats.multivariate_normal(cov=covariance).entropy()
    assert float(closed_form.gaussian_entropy(log_determinant, 4)) == pytest.approx(expected, rel=1e-12)
    isotropic = closed_form.isotropic_gaussian_entropy(torch.tensor(0.3).double(), 5)
    variance = float(torch.tensor(0.3).double())
    assert float(isotropic) == pytest.approx(5 * stats.norm(scale=math.sqrt(variance)).entropy(), rel=1e-12)
