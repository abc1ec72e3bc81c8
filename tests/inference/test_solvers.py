"""The battery that every E-step solver must pass, and what each kind adds."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import oracles
from conftest import make_model, with_holes
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import ConvergenceWarning, InputError, NumericalError
from entrosparse.images import bars
from entrosparse.inference import DiagonalInference, FullInference, LowRankInference, stationarity
from entrosparse.inference._diagonal_solver import wiener_means
from entrosparse.inference._newton import cholesky_of
from entrosparse.inference._problem import EStepProblem
from entrosparse.learning import evaluate
from entrosparse.learning._initialization import initial_model
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import pointwise_elbo
from entrosparse.posteriors import Diagonal
from entrosparse.priors import PRIORS, GeneralizedGaussian, SkewedLaplace

ANNEALED = EntropyWeights(prior=2.0, likelihood=0.6)
KINDS = {
    "diagonal": (DiagonalInference, 1e-9),
    "low-rank": (lambda **options: LowRankInference(3, **options), 1e-6),  # d has a floor
    "full": (FullInference, 1e-9),
}
each_kind = pytest.mark.parametrize("kind", [kind for kind, _ in KINDS.values()], ids=KINDS)
each_tight_kind = pytest.mark.parametrize(("kind", "tight"), KINDS.values(), ids=KINDS)


def elbo_of(posterior, x, model, weights=EntropyWeights()):
    """Mean of L_γδ at the model's λ and σ², from explicit covariances."""
    rows = zip(posterior.mean.numpy(), posterior.covariance().numpy(), x.numpy(), strict=True)
    return np.mean([oracles.classical_elbo(*row, model, weights) for row in rows])


@each_tight_kind
@pytest.mark.parametrize("prior", ["laplace", "gaussian"])
@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
@pytest.mark.parametrize(("n_features", "n_components"), [(16, 8), (8, 10)])
def test_is_stationary(kind, tight, prior, generator, weights, n_features, n_components):
    model = make_model(n_features, n_components, generator, prior=PRIORS[prior])
    x, _ = model.sample(20, generator)
    posterior = kind(tolerance=tight, max_iterations=20_000)(x, model, weights)
    assert float(stationarity(posterior, x, model, weights).max()) <= tight


@pytest.mark.parametrize(
    ("seed", "sizes", "rank", "tolerance", "weights"),
    [
        (12, (8, 10), 3, 1e-6, ANNEALED),  # Directions take all variance of a latent, slowly.
        (42, (8, 10), 3, 1e-6, ANNEALED),
        (30, (36, 50), 5, 1e-3, EntropyWeights()),  # Without damping, steps lead from one bound to another.
    ],
)
def test_low_rank_sweeps_reach_the_optimum(seed, sizes, rank, tolerance, weights):
    generator = torch.Generator().manual_seed(seed)
    model = make_model(*sizes, generator, prior=PRIORS["laplace"])
    x, _ = model.sample(20, generator)
    posterior = LowRankInference(rank, tolerance)(x, model, weights)
    assert float(stationarity(posterior, x, model, weights).max()) <= tolerance


SHAPED = {
    "p = 0.6": (GeneralizedGaussian(0.6), 0.6),
    "p = 1.6": (GeneralizedGaussian(), 1.6),
    "κ = 0.2": (SkewedLaplace(), 0.2),
}
each_shape = pytest.mark.parametrize(("prior", "shape"), SHAPED.values(), ids=SHAPED)


@pytest.mark.parametrize(
    ("kind", "tight"),
    [(DiagonalInference, 1e-7), (partial(LowRankInference, 3), 1e-3), (FullInference, 1e-7)],
    ids=KINDS,
)
@each_shape
@pytest.mark.parametrize(
    ("gaps", "weights"), [(False, EntropyWeights()), (True, ANNEALED)], ids=["whole", "gaps, annealed"]
)
def test_is_stationary_at_other_shapes(kind, tight, prior, shape, gaps, weights, generator):
    """Below p = 1 the problem is not convex: the optimum is a local one."""
    model = make_model(16, 8, generator, prior=prior, shape=shape)
    x, _ = model.sample(20, generator)
    if gaps:
        x = with_holes(x, generator)
    posterior = kind(tolerance=tight, max_iterations=5000)(x, model, weights)
    assert float(stationarity(posterior, x, model, weights).max()) <= tight


@each_kind
@each_shape
def test_extremes_in_float32_are_finite_at_other_shapes(kind, prior, shape, generator):
    model = make_model(12, 8, generator, torch.float32, prior, shape=shape)
    x, _ = model.sample(20, generator)
    for factor in (1e-30, 1e-6, 1e4):
        posterior = kind(tolerance=0.0, max_iterations=100)(factor * x, model)
        assert torch.isfinite(posterior.mean).all()
        assert (posterior.marginal_scale() > 0).all()


@pytest.mark.parametrize("kind", [DiagonalInference, FullInference])
def test_the_stationary_point_of_a_skewed_prior_is_the_optimum(kind, generator):
    """Of one latent, by brute force over mean and deviation."""
    model = make_model(2, 1, generator, prior=SkewedLaplace(), shape=0.15)
    x, _ = model.sample(3, generator)
    found = kind(tolerance=1e-8)(x, model)
    best = pointwise_elbo(found, x, model)
    means = torch.linspace(-3, 3, 121, dtype=torch.float64)
    others = torch.cartesian_prod(means, torch.logspace(-2, 0.5, 41, dtype=torch.float64))
    for row, reached in zip(x, best, strict=True):
        other = Diagonal(others[:, :1], others[:, 1:])
        assert (pointwise_elbo(other, row.expand(len(others), -1), model) <= reached + 1e-12).all()


@each_kind
def test_float32_is_stationary(kind, generator):
    model = make_model(16, 12, generator, torch.float32)
    x, _ = model.sample(50, generator)
    posterior = kind(tolerance=1e-3)(x, model)
    assert float(stationarity(posterior, x, model).max()) <= 2e-3
    assert posterior.mean.dtype == torch.float32


@each_tight_kind
@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
def test_no_neighbour_is_better(kind, tight, generator, weights):
    """Random changes of the answer's own parameters lower the bound."""
    model = make_model(5, 4, generator)
    x, _ = model.sample(2, generator)
    posterior = kind(tolerance=tight, max_iterations=20_000)(x, model, weights)
    best = elbo_of(posterior, x, model, weights)
    for _ in range(20):
        changed = {
            name: value + 0.03 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in vars(posterior).items()
            if isinstance(value, torch.Tensor) and name in posterior.__dataclass_fields__
        }
        if posterior.__class__.__name__ == "Full":
            changed["factor"] = changed["factor"].triu()
        assert elbo_of(type(posterior)(**changed), x, model, weights) < best


@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
@pytest.mark.parametrize("n_components", [2, 3, 6])
def test_diagonal_agrees_with_a_generic_optimizer(generator, n_components, weights):
    model = make_model(4, n_components, generator)
    x, _ = model.sample(3, generator)
    posterior = DiagonalInference(tolerance=1e-9)(x, model, weights)
    for n in range(3):
        mean, scale, best = oracles.best_diagonal_posterior(x[n].numpy(), model, weights)
        covariance = np.diag(posterior.scale[n].numpy() ** 2)
        reached = oracles.classical_elbo(posterior.mean[n].numpy(), covariance, x[n].numpy(), model, weights)
        assert reached >= best - 1e-9
        np.testing.assert_allclose(posterior.mean[n].numpy(), mean, atol=1e-4)
        np.testing.assert_allclose(posterior.scale[n].numpy(), scale, atol=1e-4)


def test_the_gaussian_prior_needs_one_sweep(generator):
    """The start is the answer: Wiener filtering."""
    model = make_model(6, 9, generator, prior=PRIORS["gaussian"])
    x, _ = model.sample(20, generator)
    posterior = DiagonalInference(tolerance=0.0, max_iterations=1)(x, model)
    assert float(stationarity(posterior, x, model).max()) < 1e-10


@pytest.mark.parametrize(
    ("n_features", "n_components", "correlation", "noise_variance"),
    [
        (25, 10, 3.0, 1e-2),
        (64, 32, 1.0, 1e-3),
        (64, 64, 0.0, 1e-3),
        (50, 100, 0.0, 1e-2),
        (25, 3, 10.0, 1e-3),
    ],
)
def test_momentum_neither_diverges_nor_stalls(
    generator, n_features, n_components, correlation, noise_variance
):
    """Where atoms are alike and noise is small, plain sweeps crawl and unchecked momentum diverges."""
    model = make_model(n_features, n_components, generator)
    common = torch.randn(n_features, 1, generator=generator, dtype=torch.float64)
    atoms = unit_columns(model.dictionary * n_features**0.5 + correlation * common)
    model = replace(model, dictionary=atoms, noise_variance=torch.tensor(noise_variance).double())
    x, _ = model.sample(100, generator)
    for dtype in (torch.float64, torch.float32):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            DiagonalInference(tolerance=2e-2, max_iterations=400)(x.to(dtype), model.to(dtype))


@pytest.mark.parametrize("n_components", [2, 4])
def test_full_agrees_with_a_generic_optimizer(generator, n_components):
    model = make_model(3, n_components, generator)
    x, _ = model.sample(2, generator)
    posterior = FullInference(tolerance=1e-9)(x, model)
    for n in range(2):
        best = oracles.best_full_posterior(x[n].numpy(), model)
        covariance = posterior.covariance()[n].numpy()
        reached = oracles.classical_elbo(posterior.mean[n].numpy(), covariance, x[n].numpy(), model)
        assert reached == pytest.approx(best, abs=1e-6)


def test_the_gaussian_prior_gives_the_exact_posterior(generator):
    model = make_model(6, 4, generator, prior=PRIORS["gaussian"])
    x, _ = model.sample(5, generator)
    precision = model.dictionary.T @ model.dictionary / model.noise_variance
    covariance = torch.linalg.inv(precision + torch.diag(model.prior_scale**-2))
    mean = x @ model.dictionary @ covariance / model.noise_variance
    posterior = FullInference(tolerance=1e-9)(x, model)
    torch.testing.assert_close(posterior.covariance(), covariance.expand(5, -1, -1))
    torch.testing.assert_close(posterior.mean, mean)
    diagonal = DiagonalInference(tolerance=1e-9)(x, model)
    torch.testing.assert_close(diagonal.mean, mean)
    torch.testing.assert_close(diagonal.scale, torch.linalg.inv(covariance).diagonal().rsqrt().expand(5, -1))


@each_tight_kind
def test_orthogonal_atoms_need_no_correlation(kind, tight, generator):
    model = make_model(10, 6, generator)
    model = model.__class__(torch.linalg.qr(model.dictionary).Q, model.prior_scale, model.noise_variance)
    x, _ = model.sample(20, generator)
    reference = DiagonalInference(tolerance=1e-9)(x, model)
    posterior = kind(tolerance=tight)(x, model)
    torch.testing.assert_close(posterior.mean, reference.mean, rtol=0, atol=100 * tight)
    torch.testing.assert_close(posterior.covariance(), reference.covariance(), rtol=0, atol=100 * tight)


@pytest.mark.parametrize("source", ["sparse", "bars"])
def test_richer_posteriors_have_higher_bounds(generator, source):
    """Full ≥ low rank ≥ diagonal, and rank H reaches full."""
    if source == "bars":
        x = torch.tensor(bars(60, rng=1).data)
        model = evaluate(initial_model(x, 8, "data", PRIORS["laplace"], generator), x).model
    else:
        model = make_model(10, 8, generator)
        x, _ = model.sample(60, generator)
    solvers = [
        DiagonalInference(1e-7, 100_000),
        LowRankInference(1, 5e-6, 5000),
        LowRankInference(3, 5e-6, 5000),
        LowRankInference(8, 5e-6, 5000),
        FullInference(1e-7),
    ]
    values = [elbo_of(solver(x, model), x, model) for solver in solvers]
    assert values[0] < values[1] < values[2] < values[3] + 1e-6
    assert values[3] == pytest.approx(values[4], abs=1e-5)


@each_tight_kind
def test_a_data_point_does_not_depend_on_its_batch(kind, tight, generator):
    model = make_model(16, 14, generator)
    x, _ = model.sample(30, generator)
    x[7] *= 30.0  # a hard one among easy ones
    inference = kind(tolerance=max(tight, 1e-6), max_iterations=5000)
    together, alone = inference(x, model), inference(x[7:8], model)
    torch.testing.assert_close(together.mean[7:8], alone.mean, rtol=1e-9, atol=1e-9)
    rounding = max(1e-9, tight / 100)  # It differs by the size of the batch, and most where d has a floor.
    torch.testing.assert_close(together.covariance()[7:8], alone.covariance(), rtol=rounding, atol=rounding)
    halves = [inference(part, model).mean for part in (x[:11], x[11:])]
    torch.testing.assert_close(together.mean, torch.cat(halves), rtol=1e-9, atol=1e-9)


@each_tight_kind
def test_starting_at_the_answer_stays_there(kind, tight, generator):
    model = make_model(12, 8, generator)
    x, _ = model.sample(20, generator)
    inference = kind(tolerance=tight, max_iterations=20_000)
    posterior = inference(x, model)
    again = inference(x, model, start=posterior)
    torch.testing.assert_close(again.mean, posterior.mean, rtol=0, atol=100 * tight)
    torch.testing.assert_close(again.marginal_scale(), posterior.marginal_scale(), rtol=0, atol=100 * tight)


@each_kind
@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e4])
def test_float32_extremes_are_finite(kind, generator, factor):
    """Data far smaller or larger than the model expects."""
    model = make_model(12, 8, generator, torch.float32)
    x, _ = model.sample(20, generator)
    posterior = kind(tolerance=0.0, max_iterations=200)(factor * x, model)
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.marginal_scale() > 0).all()


@each_kind
def test_nan_is_an_error_and_an_early_stop_a_warning(kind, generator):
    model = make_model(6, 4, generator)
    x, _ = model.sample(5, generator)
    with pytest.warns(ConvergenceWarning, match="raise max_iterations"):
        kind(tolerance=1e-14, max_iterations=2)(x, model)
    with pytest.raises(NumericalError):
        kind(tolerance=0.0, max_iterations=2)(x * float("inf"), model)


@pytest.mark.parametrize("noise_variance", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("kind", [FullInference, DiagonalInference])
def test_directions_that_data_leave_open_are_found(kind, noise_variance):
    """The true bars are linearly dependent: along that direction only the prior holds the codes."""
    data = bars(200, rng=0)
    x = torch.tensor(data.data)
    model = initial_model(x, 10, data.dictionary, PRIORS["laplace"], torch.Generator())
    model = model.__class__(model.dictionary, model.prior_scale, torch.tensor(noise_variance).double())
    if kind is DiagonalInference:
        tolerance, iterations = 1e-2, 200_000  # first-order steps are slow along it
    else:
        tolerance, iterations = 1e-6, 200
    posterior = kind(tolerance, iterations)(x, model)
    assert float(stationarity(posterior, x, model).max()) <= tolerance


@each_tight_kind
def test_missing_entries_are_left_out(kind, tight, generator):
    """A data point with missing entries has the posterior of the model of the others."""
    model = make_model(9, 5, generator)
    x, _ = model.sample(6, generator)
    missing = torch.rand(x.shape, generator=generator) < 0.4
    missing[0], missing[1] = True, False
    posterior = kind(tolerance=tight)(x.masked_fill(missing, torch.nan), model)
    for n in range(1, 6):
        seen = ~missing[n]
        part = SparseCodingModel(model.dictionary[seen], model.prior_scale, model.noise_variance)
        alone = kind(tolerance=tight)(x[n : n + 1, seen], part)
        torch.testing.assert_close(posterior.mean[n], alone.mean[0], rtol=0, atol=200 * tight)
        torch.testing.assert_close(posterior.covariance()[n], alone.covariance()[0], rtol=0, atol=200 * tight)
    nothing = posterior.marginal_scale()[0] / model.prior_scale  # the best Gaussian for a Laplace density
    torch.testing.assert_close(nothing, torch.full_like(nothing, (torch.pi / 2) ** 0.5), rtol=0, atol=1e-4)
    assert float(posterior.mean[0].abs().max()) < 1e-6


def test_low_rank_checks_its_rank(generator):
    with pytest.raises(InputError, match="'rank'"):
        LowRankInference(0)
    model = make_model(6, 4, generator)
    with pytest.raises(InputError, match=r"at most the 4 components; got 5"):
        LowRankInference(5)(model.sample(2, generator)[0], model)


def test_full_keeps_no_more_than_a_chunk():
    assert FullInference().rows_at_once(100) * 100 * 100 <= 2**24
    assert FullInference().rows_at_once(10_000) == 1


def test_jitter_is_added_only_where_it_is_needed_and_said():
    good = torch.eye(3).double() * 2
    singular = torch.ones(3, 3).double() - 1e-9 * torch.eye(3).double()
    with pytest.warns(RuntimeWarning, match=r"1 of 2 posterior precisions .* added up to 1e-06"):
        factor = cholesky_of(torch.stack([good, singular]))
    assert torch.equal(factor[0], torch.linalg.cholesky(good))
    torch.testing.assert_close(factor[1] @ factor[1].T, singular, rtol=0, atol=2e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NumericalError, match="even with jitter"):
            cholesky_of(-good[None])


@pytest.mark.parametrize("prior", ["laplace", "skewed-laplace"])
@pytest.mark.parametrize("likelihood", ["isotropic", "per-feature"])
@pytest.mark.parametrize("n_components", [3, 20])
def test_solvers_start_at_the_filtered_means(n_components, likelihood, prior, generator):
    """They are the same whether latents or features are the fewer."""
    model = make_model(6, n_components, generator, prior=PRIORS[prior], likelihood=LIKELIHOODS[likelihood])
    x = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    problem = EStepProblem.from_data(x, model, EntropyWeights(2.0, 0.5))
    deviation = problem.prior.deviation(problem.prior_scale)
    precision = torch.diag(deviation**-2) + model.dictionary.T @ (0.5 * model.precision * model.dictionary)
    means = torch.linalg.solve(precision, problem.linear.T).T
    torch.testing.assert_close(wiener_means(problem), means, rtol=1e-9, atol=1e-9)
