"""The best factorial posteriors: what every solver must do, and what only they can."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

import oracles
from conftest import make_model, with_holes
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import ConvergenceWarning, InputError, NumericalError
from entrosparse.images import bars
from entrosparse.inference import (
    DiagonalInference,
    ExactFactorialInference,
    FullInference,
    _factorial_solver,
    stationarity,
)
from entrosparse.learning._initialization import initial_model
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import pointwise_elbo
from entrosparse.posteriors import ExactFactorial
from entrosparse.priors import Exponential, Gaussian, Laplace

ANNEALED = EntropyWeights(prior=2.0, likelihood=0.6)
PRIORS = {prior.name: prior for prior in (Laplace(), Exponential())}
EXACT = ExactFactorialInference(1e-9, 20_000)


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]


@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
@pytest.mark.parametrize(("n_features", "n_components"), [(16, 8), (8, 10)])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("noise", ["isotropic", "per-feature"])
def test_is_stationary(prior, noise, generator, weights, n_features, n_components, gaps):
    model = make_model(n_features, n_components, generator, prior=prior, likelihood=LIKELIHOODS[noise])
    x, _ = model.sample(20, generator)
    if gaps:
        x = with_holes(x, generator)
    posterior = EXACT(x, model, weights)
    assert float(stationarity(posterior, x, model, weights).max()) <= 1.1e-9
    for name in ("right", "left", "scale"):  # Elsewhere it is not.
        if not (prior.positive and name == "left"):
            moved = replace(posterior, **{name: getattr(posterior, name) * 1.01})
            assert float(stationarity(moved, x, model, weights).min()) > 1e-4


def test_agrees_with_a_generic_optimizer(prior, generator):
    """Of densities on a grid, each free at every point: no family is taken for granted."""
    model = make_model(4, 2, generator, prior=prior)
    model = replace(model, noise_variance=torch.tensor(0.3).double())
    x, _ = model.sample(2, generator)
    for weights in (EntropyWeights(), ANNEALED):
        posterior = EXACT(x, model, weights)
        grid = np.linspace(0.0 if prior.positive else -8.0, 8.0, 4001)
        width, s = grid[1] - grid[0], weights.likelihood / float(model.noise_variance)
        dictionary = model.dictionary.numpy()
        for n in range(2):
            mean = np.zeros(2)
            for _ in range(300):  # Fixed-point iteration of the mean field equations.
                for h in range(2):
                    rest = x[n].numpy() - dictionary[:, 1 - h] * mean[1 - h]
                    energy = 0.5 * s * ((rest[:, None] - dictionary[:, h, None] * grid) ** 2).sum(0)
                    energy += weights.prior * np.abs(grid) / float(model.prior_scale[h])
                    density = np.exp(-(energy - energy.min()))
                    mean[h] = integrate.simpson(density * grid) / integrate.simpson(density)
            np.testing.assert_allclose(posterior.mean[n].numpy(), mean, atol=20 * width**2)


def test_no_other_means_and_widths_are_better(prior, generator):
    """SciPy finds the same optimum over all parameters of the family."""
    model = make_model(4, 3, generator, prior=prior)
    x, _ = model.sample(2, generator)
    posterior = EXACT(x, model)
    best = pointwise_elbo(posterior, x, model)
    left = posterior.left[:1]

    def made(parameters):
        right, other, log_scale = torch.as_tensor(parameters).reshape(3, 1, 3)
        return ExactFactorial(right, left if prior.positive else other, log_scale.exp())

    start = np.concatenate([np.zeros(3), -np.ones(3), np.full(3, -1.0)])
    for n in range(2):

        def loss(parameters, n=n):
            return -float(pointwise_elbo(made(parameters), x[n : n + 1], model))

        found = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7})
        assert -found.fun == pytest.approx(float(best[n]), abs=1e-6)
        np.testing.assert_allclose(made(found.x).mean[0].numpy(), posterior.mean[n].numpy(), atol=1e-3)


@pytest.mark.parametrize("noise_variance", [1e-3, 0.05, 2.0])
@pytest.mark.parametrize(("n_features", "n_components"), [(8, 4), (5, 9)])
def test_never_below_the_diagonal_gaussian(generator, n_features, n_components, noise_variance):
    model = make_model(n_features, n_components, generator)
    model = replace(model, noise_variance=torch.tensor(noise_variance).double())
    x, _ = model.sample(50, generator)
    exact = pointwise_elbo(EXACT(x, model), x, model)
    gaussian = pointwise_elbo(DiagonalInference(1e-5, 50_000)(x, model), x, model)
    assert (exact >= gaussian - 1e-9).all()
    assert exact.mean() > gaussian.mean() + 1e-5


@pytest.mark.parametrize(("ratio", "cost"), [(0.3, 0.045), (1.0, 0.013), (3.0, 0.001)])
def test_what_a_gaussian_costs_for_one_latent(ratio, cost):
    """With one latent the exact factorial bound is log p(x); λ/σ decides what a Gaussian loses of it."""
    model = SparseCodingModel(
        torch.ones(1, 1).double(), torch.tensor([ratio], dtype=torch.float64), torch.ones(()).double()
    )
    # Gauss-Legendre over x, whose density is that of a Laplace plus a normal variable.
    node, weight = np.polynomial.legendre.leggauss(200)
    reach = 8.0 + 12.0 * ratio
    x = torch.as_tensor(reach * node)[:, None]
    exact = pointwise_elbo(EXACT(x, model), x, model)
    for n in range(0, 200, 20):

        def log_joint(z, x=float(x[n, 0])):
            return stats.norm.logpdf(x - z) + stats.laplace.logpdf(z, scale=ratio)

        peaks = sorted({0.0, float(x[n, 0])})
        edges = sorted({p + k for p in peaks for k in (-12, -6, -2, 0, 2, 6, 12)})
        assert float(exact[n]) == pytest.approx(oracles.log_integral(log_joint, edges), abs=1e-9)
    gaussian = pointwise_elbo(DiagonalInference(1e-9, 50_000)(x, model), x, model)
    density = torch.as_tensor(reach * weight) * exact.exp()
    assert float(density.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(density @ (exact - gaussian)) == pytest.approx(cost, abs=6e-4)


def test_orthogonal_atoms_leave_nothing_to_full_covariances(generator):
    """Then latents are independent a posteriori, and the bound is log p(x)."""
    model = make_model(10, 6, generator)
    model = replace(model, dictionary=torch.linalg.qr(model.dictionary).Q)
    x, _ = model.sample(4, generator)
    exact = pointwise_elbo(EXACT(x, model), x, model)
    noise, along = stats.norm(scale=float(model.noise_variance) ** 0.5), x @ model.dictionary
    across = torch.linalg.qr(model.dictionary, mode="complete").Q[:, 6:]
    expected = noise.logpdf((x @ across).numpy()).sum(1)
    for n, h in np.ndindex(4, 6):

        def log_joint(z, projection=float(along[n, h]), scale=float(model.prior_scale[h])):
            return noise.logpdf(projection - z) + stats.laplace.logpdf(z, scale=scale)

        peaks = (0.0, float(along[n, h]))
        edges = sorted({peak + k * noise.std() for peak in peaks for k in (-12, -6, -2, 0, 2, 6, 12)})
        expected[n] += oracles.log_integral(log_joint, edges)
    np.testing.assert_allclose(exact.numpy(), expected, rtol=0, atol=1e-8)
    assert (exact > pointwise_elbo(FullInference(1e-9)(x, model), x, model)).all()


def test_missing_entries_are_left_out(prior, generator):
    """A data point with missing entries has the posterior of the model of the others."""
    model = make_model(9, 5, generator, prior=prior)
    x, _ = model.sample(6, generator)
    missing = torch.rand(x.shape, generator=generator) < 0.4
    missing[0], missing[1] = True, False
    posterior = EXACT(x.masked_fill(missing, torch.nan), model)
    for n in range(1, 6):
        seen = ~missing[n]
        part = SparseCodingModel(model.dictionary[seen], model.prior_scale, model.noise_variance, prior)
        alone = EXACT(x[n : n + 1, seen], part)
        torch.testing.assert_close(posterior.mean[n], alone.mean[0], rtol=0, atol=1e-7)
        torch.testing.assert_close(
            posterior.marginal_scale()[n], alone.marginal_scale()[0], rtol=0, atol=1e-7
        )
    nothing = ExactFactorial(posterior.right[:1], posterior.left[:1], posterior.scale[:1])
    entropy = prior.entropy(model.prior_scale).sum()[None]  # Of a point not seen at all, the prior is left.
    torch.testing.assert_close(nothing.entropy(), entropy, rtol=1e-6, atol=1e-6)


def test_starting_at_the_answer_stays_there(prior, generator):
    model = make_model(12, 8, generator, prior=prior)
    x, _ = model.sample(20, generator)
    posterior = EXACT(x, model)
    again = EXACT(x, model, start=posterior)
    torch.testing.assert_close(again.mean, posterior.mean, rtol=0, atol=1e-7)
    one = ExactFactorialInference(0.0, 1)(x, model, start=posterior)
    torch.testing.assert_close(one.mean, posterior.mean, rtol=0, atol=1e-7)


def test_no_sweep_lowers_the_bound(prior, generator):
    """Up to the first momentum, coordinate ascent cannot."""
    model = make_model(8, 12, generator, prior=prior)
    x, _ = model.sample(20, generator)
    posterior = ExactFactorialInference(0.0, 1)(x, model)
    for _ in range(10):
        better = ExactFactorialInference(0.0, 1)(x, model, start=posterior)
        gain = pointwise_elbo(better, x, model) - pointwise_elbo(posterior, x, model)
        assert (gain > -1e-10).all()
        posterior = better


def test_a_data_point_does_not_depend_on_its_batch(prior, generator):
    model = make_model(16, 14, generator, prior=prior)
    x, _ = model.sample(30, generator)
    x[7] *= 30.0
    together, alone = EXACT(x, model), EXACT(x[7:8], model)
    torch.testing.assert_close(together.mean[7:8], alone.mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize(("size", "noise"), [(1e-6, 1.0), (1.0, 1e-8), (1e6, 1.0), (1.0, 1.0)])
def test_float32_extremes_are_finite(prior, generator, factor, size, noise):
    """Scales far below and above the noise, and data far smaller or larger than the model expects."""
    model = make_model(12, 8, generator, torch.float32, prior=prior)
    model = replace(model, prior_scale=size * model.prior_scale, noise_variance=torch.tensor(noise))
    x, _ = model.sample(20, generator)
    posterior = ExactFactorialInference(0.0, 200)(factor * x, model)
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.marginal_scale() > 0).all()
    assert torch.isfinite(posterior.entropy()).all()
    assert torch.isfinite(pointwise_elbo(posterior, factor * x, model)).all()
    if prior.positive:
        assert (posterior.mean >= 0).all()


def test_float32_agrees_with_float64(prior, generator):
    model = make_model(12, 8, generator, prior=prior)
    x, _ = model.sample(20, generator)
    single = ExactFactorialInference(1e-4)(x.float(), model.to(torch.float32))
    assert single.mean.dtype == torch.float32
    torch.testing.assert_close(single.mean.double(), EXACT(x, model).mean, rtol=1e-3, atol=1e-3)


def test_directions_that_data_leave_open_are_found():
    """The true bars are linearly dependent: along that direction only the prior holds the codes."""
    data = bars(200, rng=0)
    x = torch.tensor(data.data)
    model = initial_model(x, 10, data.dictionary, Laplace(), torch.Generator())
    model = replace(model, noise_variance=torch.tensor(1e-2).double())
    posterior = ExactFactorialInference(1e-2, 20_000)(x, model)
    assert float(stationarity(posterior, x, model).max()) <= 1.1e-2


def test_other_priors_infinite_data_and_early_stops_are_said(generator):
    model = make_model(6, 4, generator)
    x, _ = model.sample(5, generator)
    with pytest.raises(InputError, match=r"exact factorial posteriors need .* 'slopes'; Gaussian has none"):
        EXACT(x, replace(model, prior=Gaussian()))
    with pytest.raises(InputError, match=r"Gaussian posterior .* exponential prior .* 'exact-factorial'"):
        DiagonalInference()(x, replace(model, prior=Exponential()))
    with pytest.warns(ConvergenceWarning, match="raise max_iterations"):
        ExactFactorialInference(1e-14, 2)(x, model)
    with pytest.raises(NumericalError):
        ExactFactorialInference(0.0, 2)(x * float("inf"), model)


def test_what_rounding_keeps_from_the_optimum_is_given_up(generator, monkeypatch):
    model = make_model(6, 4, generator, torch.float32)
    x, _ = model.sample(5, generator)
    sweeps, sweep = [], _factorial_solver._sweep
    monkeypatch.setattr(_factorial_solver, "_sweep", lambda *parts: sweeps.append(0) or sweep(*parts))
    with pytest.warns(ConvergenceWarning, match="got no closer for many"):
        ExactFactorialInference(1e-12, 10**6)(x, model)
    assert len(sweeps) < 5000


def test_all_solvers_of_both_kinds_agree_where_the_prior_is_weak(generator):
    """λ ≫ σ: a Gaussian is exact there."""
    model = make_model(8, 5, generator)
    model = replace(model, prior_scale=1e4 * model.prior_scale)
    x, _ = model.sample(10, generator)
    exact, gaussian = EXACT(x, model), DiagonalInference(1e-9, 20_000)(x, model)
    torch.testing.assert_close(exact.mean, gaussian.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact.marginal_scale(), gaussian.marginal_scale(), rtol=1e-3, atol=0)
