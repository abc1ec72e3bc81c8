"""One battery for every likelihood: closed forms against quadrature and SciPy, theorems, bounds, solvers."""

import itertools
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import integrate, optimize, special, stats

import oracles
from conftest import make_model, with_holes
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import ConvergenceWarning, FileFormatError, InputError
from entrosparse.inference import (
    DiagonalInference,
    ExactFactorialInference,
    FullInference,
    LowRankInference,
    stationarity,
)
from entrosparse.inference._problem import EStepProblem
from entrosparse.learning import evaluate, exact_em
from entrosparse.likelihoods import LIKELIHOODS, LaplaceNoise
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import (
    analytic_elbo,
    entropy_elbo,
    monte_carlo_elbo,
    pointwise_elbo,
    with_optimal_scales,
)
from entrosparse.posteriors import Diagonal
from entrosparse.priors import PRIORS
from entrosparse.statistics import Statistics
from kinds import FACTORIAL, FAMILIES, PAIRS, SIGNED

N, D, H = 20, 5, 3
SCIPY = {"isotropic": stats.norm, "per-feature": stats.norm, "laplace": stats.laplace}
WEIGHTS = [EntropyWeights(), EntropyWeights(2.5, 0.4)]
SOLVERS = {
    "diagonal": (DiagonalInference, 1e-9),
    "low-rank": (lambda **options: LowRankInference(2, **options), 1e-5),  # d has a floor
    "full": (FullInference, 1e-8),
}
COMBINATIONS = [
    (family, prior, likelihood)
    for family, prior in PAIRS
    for likelihood in LIKELIHOODS
    if family in FAMILIES or LIKELIHOODS[likelihood].quadratic
]
each_combination = pytest.mark.parametrize(
    ("family", "prior", "likelihood"), COMBINATIONS, ids=map(" ".join, COMBINATIONS), indirect=True
)
PRIORS_AND_NOISES = list(dict.fromkeys(combination[1:] for combination in COMBINATIONS))
each_prior_and_noise = pytest.mark.parametrize(
    ("prior", "likelihood"), PRIORS_AND_NOISES, ids=map(" ".join, PRIORS_AND_NOISES), indirect=True
)
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
each_weight = pytest.mark.parametrize("weights", WEIGHTS, ids=["plain", "annealed"])
each_solver = pytest.mark.parametrize(("solver", "tight"), SOLVERS.values(), ids=SOLVERS)
each_prior = pytest.mark.parametrize("prior", SIGNED, indirect=True)


@pytest.fixture
def family(request):
    return (FAMILIES | FACTORIAL)[request.param]


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request):
    return LIKELIHOODS[request.param]


@pytest.fixture
def prior(request):
    return PRIORS[getattr(request, "param", "laplace")]


@pytest.fixture
def model(prior, likelihood, generator):
    return make_model(D, H, generator, prior=prior, likelihood=likelihood)


@pytest.fixture
def x(model, generator):
    return model.sample(N, generator)[0]


def noise_of(model):
    """The noise of each feature, as SciPy knows it."""
    variance = model.noise_variance.expand(model.n_features).numpy()
    laplace = model.likelihood.name == "laplace"
    return SCIPY[model.likelihood.name](scale=np.sqrt(0.5 * variance if laplace else variance))


def collect(posterior, x, model, sample_weight=None):
    return Statistics.collect(posterior, x, model.dictionary, model.prior, sample_weight, model.likelihood)


def at_optimum(statistics, model):
    best = with_optimal_scales(model, statistics)
    return replace(best, prior_scale=best.prior_scale.detach(), noise_variance=best.noise_variance.detach())


# --- closed forms


def test_the_table_knows_its_likelihoods():
    assert {name: part.name for name, part in LIKELIHOODS.items()} == {name: name for name in SCIPY}


def test_log_prob_is_that_of_scipy(model, x):
    expected = noise_of(model).logpdf(x.numpy()).sum(1)
    found = model.likelihood.log_prob(x, model.noise_variance)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_entropy_is_that_of_scipy(model):
    shape = (D,) if model.likelihood.per_feature else ()
    n_entries = torch.full(shape, 1.0 if shape else D, dtype=torch.float64)
    found = float(model.likelihood.entropy(model.noise_variance, n_entries))
    assert found == pytest.approx(float(np.sum(noise_of(model).entropy() * np.ones(D))), rel=1e-12)


def test_samples_follow_the_density(model, generator):
    noise = model.likelihood.sample((4000, D), model.noise_variance, generator)
    for d in range(D):
        density = SCIPY[model.likelihood.name](scale=noise_of(model).kwds["scale"][d])
        assert stats.kstest(noise[:, d].numpy(), density.cdf).pvalue > 1e-4
    np.testing.assert_allclose(noise.var(0).numpy(), model.noise_variance.expand(D).numpy(), rtol=0.2)


@each_family
def test_expected_log_likelihood_is_the_integral(family, model, x, generator):
    """Over each residual, which is Gaussian under the posterior; NaN entries have no part in it."""
    x = with_holes(x, generator)[:4]
    posterior = family.make(**family.parameters(4, H, generator))
    mean = (posterior.mean @ model.dictionary.T).numpy()
    covariance = posterior.covariance().numpy()
    spread = np.einsum("dh,nhk,dk->nd", model.dictionary.numpy(), covariance, model.dictionary.numpy())
    expected = np.zeros(4)
    for n, d in zip(*np.nonzero(~x.isnan().numpy()), strict=True):
        density = SCIPY[model.likelihood.name](scale=noise_of(model).kwds["scale"][d])
        q = stats.norm(float(x[n, d]) - mean[n, d], math.sqrt(spread[n, d]))
        low, high = q.mean() - 12 * q.std(), q.mean() + 12 * q.std()
        edges = [low, *([0.0] if low < 0 < high else []), high]
        for pair in itertools.pairwise(edges):
            expected[n] += integrate.quad(lambda r, q=q, f=density: q.pdf(r) * f.logpdf(r), *pair)[0]
    statistic = model.factors.expected_statistic(posterior.mean, posterior.marginal_scale())
    log_prior = model.factors.expected_log_prob(statistic, model.prior_scale).sum(1)
    found = pointwise_elbo(posterior, x, model) - posterior.entropy() - log_prior
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7)


def test_the_weights_of_laplace_noise_are_derivatives_and_a_majorizer(generator):
    noise, variance = LaplaceNoise(), torch.tensor(0.7, dtype=torch.float64)
    residual = torch.tensor([0.0, 0.3, -2.0, 5.0], dtype=torch.float64, requires_grad=True)
    spread = torch.tensor([0.2, 1.0, 0.5, 0.01], dtype=torch.float64, requires_grad=True)

    def energy(residual, spread):
        posterior = Diagonal(-residual[:, None], spread.sqrt()[:, None])
        one = torch.ones(1, 1, dtype=torch.float64)
        statistic = noise.expected_statistic(posterior, one, torch.zeros(len(residual), 1).double())
        return -noise.expected_log_prob(statistic, 1, variance)

    slope, by_spread = torch.autograd.grad(
        energy(residual, spread).sum(), (residual, spread), create_graph=True
    )
    (bend,) = torch.autograd.grad(slope.sum(), residual)
    precision = noise.precision(variance)
    majorizer, curvature = noise.entry_weights(residual, spread, variance)
    torch.testing.assert_close(precision * majorizer * residual, slope)
    torch.testing.assert_close(precision * curvature, bend)
    torch.testing.assert_close(precision * curvature, 2.0 * by_spread)
    assert (curvature <= majorizer * (1 + 1e-12)).all()
    others = torch.linspace(-6, 6, 101, dtype=torch.float64)
    for k in range(4):
        bound = energy(residual, spread)[k] + 0.5 * precision * majorizer[k] * (
            others.square() - residual[k].square()
        )
        assert (bound - energy(others, spread[k].expand(101)) > -1e-12).all()


# --- theorems


@each_combination
@each_weight
def test_theorem_1_the_elbo_is_a_sum_of_entropies(family, model, x, weights, generator):
    x = with_holes(x, generator)
    row_weight = torch.rand(N, generator=generator, dtype=torch.float64)
    statistics = collect(family.make(**family.parameters(N, H, generator)), x, model, row_weight)
    entropies, best = entropy_elbo(statistics, weights), at_optimum(statistics, model)
    classical = analytic_elbo(statistics, best, weights)
    for name in ("posterior", "prior", "likelihood", "elbo", "objective"):
        assert float(getattr(classical, name)) == pytest.approx(float(getattr(entropies, name)), abs=1e-10)
    for factor in (0.5, 0.99, 1.01, 2.0):
        for d in range(best.noise_variance.numel()):
            noisier = best.noise_variance.clone()
            noisier.view(-1)[d] *= factor
            moved = replace(best, noise_variance=noisier)
            assert analytic_elbo(statistics, moved, weights).objective < entropies.objective


@each_combination
def test_theorem_2_the_optimal_scales_are_the_numerical_maximum(family, model, x, generator):
    statistics = collect(family.make(**family.parameters(N, H, generator)), x, model)
    best = at_optimum(statistics, model)

    def loss(logarithms):
        scales = torch.from_numpy(np.exp(logarithms))
        noise_variance = scales[H:].reshape(model.noise_variance.shape)
        return -float(
            analytic_elbo(
                statistics, replace(best, prior_scale=scales[:H], noise_variance=noise_variance)
            ).elbo
        )

    start = np.zeros(H + model.noise_variance.numel())
    result = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-8})
    expected = np.append(best.prior_scale.numpy(), best.noise_variance.numpy())
    np.testing.assert_allclose(np.exp(result.x), expected, rtol=1e-5)


@each_combination
@each_weight
def test_lemma_1_gradients_agree_at_the_optimal_scales(family, model, x, weights, generator):
    leaves = {name: value.requires_grad_() for name, value in family.parameters(N, H, generator).items()}
    model = replace(model, dictionary=model.dictionary.requires_grad_())
    statistics = collect(family.make(**leaves), x, model)
    inputs = [model.dictionary, *leaves.values()]
    one = torch.autograd.grad(entropy_elbo(statistics, weights).objective, inputs, retain_graph=True)
    best = at_optimum(statistics, model)
    other = torch.autograd.grad(analytic_elbo(statistics, best, weights).objective, inputs)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
        assert left.abs().max() > 1e-3


@each_prior_and_noise
def test_the_bound_is_below_the_evidence_by_quadrature(prior, likelihood, generator):
    model = make_model(3, 1, generator, prior=prior, likelihood=likelihood)
    x, _ = model.sample(4, generator)
    z = np.linspace(-12, 12, 80_001)[1::2, None]  # Midpoints, of which none is at the kink of the prior.
    log_prior = oracles.DENSITIES[prior.name](model.prior_scale.numpy()).logpdf(z).sum(1)
    evidence = [
        special.logsumexp(noise_of(model).logpdf(row - z @ model.dictionary.numpy().T).sum(1) + log_prior)
        for row in x.numpy()
    ] + np.log(z[1, 0] - z[0, 0])
    solver = ExactFactorialInference(1e-8) if prior.positive else FullInference(1e-8)
    best = pointwise_elbo(solver(x, model), x, model).numpy()
    assert (best <= evidence + 1e-6).all()
    assert (best > evidence - 0.5).all()


def test_the_bound_is_that_of_sampling(model, x, generator):
    posterior = DiagonalInference(1e-6)(x, model)
    sampled = monte_carlo_elbo(posterior, x, model, 20_000, generator)
    assert float(pointwise_elbo(posterior, x, model).mean()) == pytest.approx(float(sampled), abs=0.05)


# --- solvers


@each_prior
@each_solver
@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(2.0, 0.6)], ids=["plain", "annealed"])
def test_solvers_find_stationary_points(model, generator, solver, tight, weights):
    """Some data points are far from all others, and some entries were not seen."""
    x, _ = model.sample(12, generator)
    x[0], x[1, ::2] = 10.0 * x[0], x[1, ::2] + 20.0
    x[6:] = with_holes(x[6:], generator)
    posterior = solver(tolerance=tight, max_iterations=10_000)(x, model, weights)
    assert float(stationarity(posterior, x, model, weights).max()) <= tight


@each_prior
@pytest.mark.parametrize(
    "solver", [DiagonalInference(1e-9), FullInference(1e-8, 2000)], ids=["diagonal", "full"]
)
@pytest.mark.parametrize("holes", [False, True])
def test_stationarity_is_that_of_the_bound(model, x, solver, holes, generator):
    """By automatic differentiation of the classical bound, which knows nothing of weights and tilts."""
    x = with_holes(x, generator) if holes else x
    posterior = solver(x, model)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in vars(posterior).items()}
    elbo = pointwise_elbo(type(posterior)(**leaves), x, model).sum()
    for gradient in torch.autograd.grad(elbo, list(leaves.values())):
        assert float(torch.triu(gradient).abs().max() if gradient.ndim == 3 else gradient.abs().max()) < 1e-5


@each_prior
@pytest.mark.parametrize("holes", [False, True])
def test_the_slope_along_a_step_is_that_of_the_bound(model, x, holes, generator):
    """Less what the even part of the prior adds."""
    x = with_holes(x, generator) if holes else x
    problem = EStepProblem.from_data(x, model, EntropyWeights())
    mean, step, scale = torch.rand(3, N, H, generator=generator, dtype=torch.float64) - 0.3
    scale = 0.1 + scale.abs()
    slope = problem.likelihood_slope(mean, problem.spread(Diagonal(mean, scale)), step)
    for taken in (0.0, 0.4, 1.0):
        share = torch.full((N, 1), taken, dtype=torch.float64, requires_grad=True)
        moved = mean + share * step
        (gain,) = torch.autograd.grad(pointwise_elbo(Diagonal(moved, scale), x, model).sum(), share)
        even = (problem.prior.majorizer(moved, scale, problem.prior_scale) * moved * step).sum(
            1, keepdim=True
        )
        torch.testing.assert_close(slope(share.detach()) + even.detach(), -gain)


def test_a_generic_optimizer_finds_no_better_posterior(model, x):
    posterior = DiagonalInference(1e-9)(x[:1], model)

    def loss(parameters):
        mean, scale = torch.from_numpy(parameters[None, :H]), torch.from_numpy(np.exp(parameters[None, H:]))
        return -float(pointwise_elbo(Diagonal(mean, scale), x[:1], model))

    result = optimize.minimize(loss, np.zeros(2 * H), method="BFGS", options={"gtol": 1e-7})
    assert float(pointwise_elbo(posterior, x[:1], model)) >= -result.fun - 1e-9
    np.testing.assert_allclose(posterior.mean[0].numpy(), result.x[:H], atol=1e-4)


@each_prior
@each_solver
@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e4])
def test_float32_extremes_are_finite(prior, likelihood, generator, solver, tight, factor):
    model = make_model(12, 8, generator, torch.float32, prior=prior, likelihood=likelihood)
    x, _ = model.sample(20, generator)
    posterior = solver(tolerance=0.0, max_iterations=40)(factor * x, model)
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.marginal_scale() > 0).all()
    assert torch.isfinite(pointwise_elbo(posterior, factor * x, model)).all()


@pytest.mark.parametrize("factor", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("solver", [DiagonalInference(), FullInference()], ids=["diagonal", "full"])
def test_laplace_noise_finds_the_posteriors_of_rows_far_away(solver, factor, generator):
    model = make_model(12, 16, generator, likelihood=LaplaceNoise())
    x, _ = model.sample(50, generator)
    assert float(stationarity(solver(factor * x, model), factor * x, model).max()) <= solver.tolerance


@pytest.mark.parametrize(
    "solver", [FullInference(0.0, 1), LowRankInference(2, 0.0, 2), LowRankInference(2)], ids=str
)
@pytest.mark.filterwarnings("ignore::entrosparse.errors.ConvergenceWarning")  # of low-rank covariances
def test_a_row_far_away_does_not_end_inference_under_laplace_noise(solver, generator):
    model = make_model(12, 16, generator, likelihood=LaplaceNoise())
    x, _ = model.sample(50, generator)
    expected = solver(x[1:], model)
    x[0] *= 1e6
    found = solver(x, model)
    assert torch.isfinite(pointwise_elbo(found, x, model)).all()
    torch.testing.assert_close(found.mean[1:], expected.mean, rtol=0, atol=1e-2)


@pytest.mark.parametrize("factor", [1e2, 1e6])
def test_nearly_all_low_rank_posteriors_of_rows_far_away_are_found_under_laplace_noise(factor, generator):
    model = make_model(12, 16, generator, likelihood=LaplaceNoise())
    x, _ = model.sample(50, generator)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = LowRankInference(2)(factor * x, model)
    n_left = int((stationarity(found, factor * x, model) > 1.001e-3).sum())
    assert n_left <= 1
    assert [warning.category for warning in told] == [ConvergenceWarning] * n_left
    assert torch.isfinite(pointwise_elbo(found, factor * x, model)).all()


def test_features_of_equal_noise_are_isotropic(generator):
    model = make_model(8, 5, generator)
    equal = replace(
        model, likelihood=LIKELIHOODS["per-feature"], noise_variance=model.noise_variance.expand(8)
    )
    x = with_holes(model.sample(10, generator)[0], generator)
    one, other = (FullInference(1e-9)(x, m) for m in (model, equal))
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(one.covariance(), other.covariance(), rtol=0, atol=1e-8)
    torch.testing.assert_close(pointwise_elbo(one, x, model), pointwise_elbo(one, x, equal))


# --- learning's sums


def test_the_moments_give_the_gradient_in_the_dictionary(model, x, generator):
    """``B − W A`` times the precision at the optimal σ² is the gradient of the expected log-likelihood."""
    posterior = FAMILIES["full"].make(**FAMILIES["full"].parameters(N, H, generator))
    x, weight = with_holes(x, generator), torch.rand(N, generator=generator, dtype=torch.float64)
    dictionary = model.dictionary.requires_grad_()
    statistics = collect(posterior, x, replace(model, dictionary=dictionary), weight)
    best = at_optimum(statistics, model)
    (gradient,) = torch.autograd.grad(-analytic_elbo(statistics, best).likelihood, dictionary)
    direction = statistics.cross_moment - dictionary @ statistics.second_moment
    torch.testing.assert_close(best.precision * direction / weight.sum(), gradient, rtol=1e-8, atol=1e-10)


def test_records_that_were_added_have_the_moments_of_all_data(model, x, generator):
    numbers, one = FAMILIES["full"].parameters(N, H, generator), torch.ones_like(model.noise_variance)

    def record(part, noise_variance=None):
        posterior = FAMILIES["full"].make(**{name: value[part] for name, value in numbers.items()})
        return Statistics.collect(
            posterior, x[part], model.dictionary, model.prior, None, model.likelihood, noise_variance
        )

    added = (record(slice(0, 2), one) + record(slice(2, None), one)).to_optimal_noise(model.dictionary)
    torch.testing.assert_close(added.numbers, record(slice(None)).numbers, rtol=1e-10, atol=1e-10)


def test_exact_em_never_falls_or_says_why_not(model, generator):
    x, _ = model.sample(60, generator)
    start = replace(model, dictionary=torch.eye(D, H, dtype=torch.float64))
    if model.likelihood == LaplaceNoise():
        with pytest.raises(InputError, match=r"'model' of exact_em must have .* got laplace noise"):
            next(exact_em(x, start))
        return
    turns = exact_em(x, start, EntropyWeights(0.9, 1.2), FullInference(1e-8))
    values = [float(next(turns).terms.objective) for _ in range(30)]
    assert (np.diff(values) > -1e-7).all()
    assert values[-1] > values[0] + 0.1


def test_a_feature_that_nobody_saw_takes_part_in_nothing(model, x):
    """Bounds and posteriors are those of the model without it."""
    unseen, others = x.clone(), [0, 2, 3, 4]
    unseen[:, 1] = torch.nan
    variance = model.noise_variance[others] if model.likelihood.per_feature else model.noise_variance
    without = replace(model, dictionary=model.dictionary[others], noise_variance=variance)
    solver = FullInference(1e-9)
    turn = evaluate(model, unseen, solver, max_turns=1)
    expected = evaluate(without, x[:, others], solver, max_turns=1)
    assert float(turn.terms.elbo) == pytest.approx(float(expected.terms.elbo), abs=1e-9)
    assert (turn.model.noise_variance > 0).all()
    one, other = solver(unseen, model), solver(x[:, others], without)
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(one.covariance(), other.covariance(), rtol=0, atol=1e-7)


def test_laplace_noise_refuses_posteriors_that_are_not_gaussian(generator):
    """Residuals would not be Gaussian, and what soft magnitudes give is no expectation and no bound."""
    model = make_model(D, H, generator, likelihood=LaplaceNoise())
    posterior = FACTORIAL["exact factorial"].make(**FACTORIAL["exact factorial"].parameters(N, H, generator))
    x = model.sample(N, generator)[0]
    for use in (pointwise_elbo, collect):
        with pytest.raises(
            InputError, match=r"laplace noise needs .* Gaussian posteriors; got ExactFactorial"
        ):
            use(posterior, x, model)


def test_records_of_different_likelihoods_do_not_add(generator):
    model = make_model(D, H, generator)
    x, z = model.sample(4, generator)
    other = replace(model, likelihood=LaplaceNoise())
    records = [collect(Diagonal(z, torch.ones_like(z)), x, m) for m in (model, other)]
    with pytest.raises(InputError, match=r"records of one likelihood add; got Isotropic.* and LaplaceNoise"):
        _ = records[0] + records[1]
    with pytest.raises(InputError, match="must be those of the model's likelihood"):
        analytic_elbo(records[0], other)


# --- models


def test_a_saved_model_is_the_model(model, tmp_path):
    model.save(tmp_path / "model")
    again = SparseCodingModel.load(tmp_path / "model")
    assert (again.prior, again.likelihood) == (model.prior, model.likelihood)
    assert torch.equal(again.noise_variance, model.noise_variance)


def test_files_of_unknown_likelihoods_and_wrong_shapes_are_refused(tmp_path, generator):
    path, model = tmp_path / "model", make_model(D, H, generator, likelihood=LIKELIHOODS["per-feature"])
    model.save(path)
    tensors = load_file(path)
    for likelihood, message in (("student", "not an entrosparse model"), ("laplace", "must have the shape")):
        metadata = {"format": "entrosparse-model-2", "prior": "laplace", "likelihood": likelihood}
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(FileFormatError, match=message):
            SparseCodingModel.load(path)


def test_shapes_of_the_noise_variance_are_checked(generator):
    model = make_model(D, H, generator)
    with pytest.raises(InputError, match=r"'noise_variance' of per-feature noise must have shape \(5,\)"):
        replace(model, likelihood=LIKELIHOODS["per-feature"])
    with pytest.raises(InputError, match="'noise_variance' of laplace noise must be a scalar"):
        replace(model, likelihood=LaplaceNoise(), noise_variance=torch.ones(D))
