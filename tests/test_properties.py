"""What must hold for every model and every table, on random and extreme ones."""

import itertools
import tempfile
from dataclasses import fields, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from scipy import integrate

import oracles
from conftest import make_model, with_holes
from entrosparse import SparseCoding
from entrosparse.inference import DiagonalInference, FullInference, LowRankInference
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import pointwise_elbo
from entrosparse.posteriors import Full
from entrosparse.priors import PRIORS
from entrosparse.statistics import Statistics
from kinds import COVARIANCES_AND_PRIORS, KINDS, SIGNED

SOLVERS = {
    "diagonal": DiagonalInference(1e-7, 20_000),
    "low rank": LowRankInference(2, 1e-4, 2000),
    "full": FullInference(1e-10, 500),
}
SEEDS = st.integers(0, 2**31 - 1)
DTYPES = st.sampled_from([torch.float32, torch.float64])
NOISE = st.sampled_from(sorted(LIKELIHOODS))
PARTS = [
    {},
    {"covariance": "low-rank", "prior": "gaussian"},
    {"covariance": "full"},
    {"covariance": "exact-factorial", "prior": "exponential", "noise": "per-feature"},
    {"covariance": "full", "prior": "skewed-laplace", "noise": "laplace"},
    {"prior": "generalized-gaussian", "noise": "per-feature"},
]
each_part = pytest.mark.parametrize("parts", PARTS, ids=lambda parts: " ".join(parts.values()) or "default")
ANY_PARTS = st.sampled_from(
    [
        {"covariance": covariance, "prior": prior, "noise": noise}
        for (covariance, prior), noise in itertools.product(COVARIANCES_AND_PRIORS, LIKELIHOODS)
        if (covariance, noise) != ("exact-factorial", "laplace")
    ]
)
PRIOR_NAMES = st.sampled_from(sorted(SIGNED))


def few(n):
    phases = (Phase.explicit, Phase.generate)  # An example that fails is small already.
    return settings(deadline=None, max_examples=n, derandomize=True, phases=phases)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------- invariances


@few(5)
@given(SEEDS, st.integers(2, 6), st.integers(2, 8), PRIOR_NAMES, st.booleans())
@example(2807, 3, 8, "laplace", False)  # Five directions that no data point tells of.
@example(2550, 2, 7, "generalized-gaussian", False)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_order_and_sign_of_atoms_do_not_matter(solver, seed, n_features, n_components, prior, gaps):
    """Where the problem is convex: elsewhere another local optimum may be found."""
    generator = seeded(seed)
    shape = 1.4 if prior == "generalized-gaussian" else None
    model = make_model(n_features, n_components, generator, prior=PRIORS[prior], shape=shape)
    x, _ = model.sample(4, generator)
    x = with_holes(x, generator) if gaps else x
    order = torch.randperm(n_components, generator=generator)
    sign = 1.0 - 2.0 * torch.randint(2, (n_components,), generator=generator)
    shape = model.prior_shape
    if shape is not None:
        shape = torch.where(sign < 0, model.prior.mirrored(shape[order]), shape[order])
    other = replace(
        model,
        dictionary=model.dictionary[:, order] * sign,
        prior_scale=model.prior_scale[order],
        prior_shape=shape,
    )
    one, two = solver(x, model), solver(x, other)
    found, other_found = pointwise_elbo(one, x, model), pointwise_elbo(two, x, other)
    if isinstance(solver, LowRankInference):  # The factor has optima of nearly the same height.
        torch.testing.assert_close(found, other_found, rtol=0, atol=0.05)
    else:
        torch.testing.assert_close(found, other_found, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.mean[:, order] * sign, two.mean, rtol=0, atol=1e-3)


@few(6)
@given(SEEDS, DTYPES, PRIOR_NAMES, st.booleans(), st.lists(st.integers(0, 24), max_size=5))
@example(0, torch.float32, "laplace", True, [0, 24, 24])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_statistics_do_not_depend_on_the_split(kind, seed, dtype, prior, gaps, cuts):
    generator = seeded(seed)
    model = make_model(5, 4, generator, dtype)
    x, _ = model.sample(25, generator)
    x = with_holes(x, generator) if gaps else x
    parameters = kind.parameters(25, 4, generator, dtype)
    weights = torch.rand(25, generator=generator).to(dtype)

    def collect(first, last):
        posterior = kind.make(**{name: value[first:last] for name, value in parameters.items()})
        part = slice(first, last)
        return Statistics.collect(posterior, x[part], model.dictionary, PRIORS[prior], weights[part])

    edges = sorted({0, *cuts, 25})
    parts = reduce(add, [collect(first, last) for first, last in itertools.pairwise(edges)])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for field in fields(Statistics)[2:]:  # without the prior and the likelihood
        one, other = getattr(parts, field.name), getattr(collect(0, 25), field.name)
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@few(8)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), DTYPES, NOISE)
@pytest.mark.parametrize("prior", PRIORS)
def test_a_saved_model_is_the_model(prior, seed, n_features, n_components, dtype, noise):
    model = make_model(n_features, n_components, seeded(seed), dtype, PRIORS[prior], LIKELIHOODS[noise])
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.safetensors")
        loaded = SparseCodingModel.load(Path(folder) / "model.safetensors")
    assert loaded.prior == model.prior
    assert loaded.likelihood == model.likelihood
    for name in ("dictionary", "prior_scale", "prior_shape", "noise_variance"):
        one, other = getattr(model, name), getattr(loaded, name)
        if one is None:
            assert other is None
        else:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:the objective still changed")
@few(1)
@given(SEEDS, st.integers(-60, 60))
@example(1, 33)
@each_part
def test_units_of_the_data_do_not_matter(parts, seed, exponent):
    """x → c x gives λ → c λ and σ² → c² σ², also where entries are missing and there is an offset."""
    factor = 2.0**exponent  # Others are rounded, and learning may then end elsewhere.
    X = _table(seed, 40, 5)
    one, other = (
        SparseCoding(3, tol=1e-3, max_epochs=40, random_state=0, **parts).fit(c * X) for c in (1.0, factor)
    )
    np.testing.assert_allclose(other.components_, one.components_, atol=1e-6)
    np.testing.assert_allclose(other.prior_scale_, factor * one.prior_scale_, rtol=1e-6)
    np.testing.assert_allclose(other.noise_variance_, factor**2 * one.noise_variance_, rtol=1e-6)
    np.testing.assert_allclose(other.mean_, factor * one.mean_, rtol=1e-6)
    shifted = one.score_samples(X) - (~np.isnan(X)).sum(1) * np.log(factor)
    np.testing.assert_allclose(other.score_samples(factor * X), shifted, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the objective still changed")
@few(1)
@given(SEEDS, st.sampled_from([np.float32, np.float64]))
@example(2, np.float64)
@each_part
def test_codes_do_not_depend_on_the_other_rows(parts, seed, dtype):
    X = _table(seed, 30, 5).astype(dtype)
    coding = SparseCoding(4, rank=2, max_epochs=30, random_state=0, **parts).fit(X)
    order = np.random.default_rng(seed).permutation(30)
    complete = ~np.isnan(X).any(1)
    share = 5e-3 if dtype == np.float64 else 5e-2  # Of a posterior deviation.
    atol = share * coding.posterior(X).marginal_scale().numpy()
    codes, scores = coding.transform(X), coding.score_samples(X)
    for rows in (order, order[:7], order[:1], complete):
        assert (np.abs(coding.transform(X[rows]) - codes[rows]) <= atol[rows]).all()
        np.testing.assert_allclose(coding.score_samples(X[rows]), scores[rows], atol=1e-3)


def _table(seed, n_samples, n_features):
    """Laplace data with an offset, correlations, one constant column and 10 % of the entries missing."""
    rng = np.random.default_rng(seed)
    X = rng.laplace(size=(n_samples, n_features)) @ rng.normal(size=(n_features, n_features)) + 2.0
    X[:, 0] = 3.0
    X[rng.random(X.shape) < 0.1] = np.nan
    X[0] = 1.0
    return X


# -------------------------------------------------------------------- extremes


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::entrosparse.errors.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:nothing is learned of columns")
@few(20)
@given(
    SEEDS,
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 8),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([0.0, 1e-30, 1e-5, 1.0, 1e5, 1e30]),
    st.sampled_from(["plain", "repeated", "constant column", "one outlier", "mixed units", "gaps"]),
    ANY_PARTS,
)
@example(0, 1, 1, 8, np.float32, 1e-30, "plain", {"covariance": "full"})
@example(0, 1, 1, 8, np.float32, 1e30, "gaps", {"covariance": "low-rank"})
@example(0, 12, 4, 8, np.float32, 1e30, "mixed units", {})
@example(0, 12, 4, 8, np.float32, 1e30, "one outlier", {"covariance": "full"})
@example(0, 2, 4, 8, np.float64, 1e30, "repeated", {})
@example(0, 12, 4, 8, np.float32, 1e30, "mixed units", PARTS[3])
@example(0, 12, 4, 8, np.float32, 1e-30, "one outlier", PARTS[4])
@example(0, 1, 4, 8, np.float32, 1e30, "gaps", PARTS[5])
def test_nothing_is_ever_nan(seed, n_samples, n_features, n_components, dtype, unit, form, parts):
    X = np.random.default_rng(seed).normal(size=(n_samples, n_features))
    if form == "repeated":
        X[:] = X[0]
    elif form == "constant column":
        X[:, 0] = 1.0
    elif form == "one outlier":
        X[0, 0] = 1e6
    elif form == "mixed units":
        X *= np.geomspace(1e-6, 1.0, n_features)
    elif form == "gaps":
        X[np.random.default_rng(seed).random(X.shape) < 0.5] = np.nan
    X = (unit * X).astype(dtype)
    coding = SparseCoding(n_components, max_epochs=40, random_state=0, **parts).fit(X)
    codes = coding.transform(X)
    assert codes.dtype == dtype
    for value in (
        coding.components_,
        coding.prior_scale_,
        coding.noise_variance_,
        coding.elbo_,
        codes,
        coding.inverse_transform(codes),
        coding.score_samples(X),
        float(coding.entropies(X).elbo),
        *coding.sample(3),
    ):
        assert np.isfinite(value).all()
    assert (coding.prior_scale_ > 0).all()
    assert np.all(coding.noise_variance_ > 0)
    if (
        parts.get("noise") != "per-feature"
    ):  # Else they are of unit length where columns have the same spread.
        np.testing.assert_allclose(np.linalg.norm(coding.components_, axis=1), 1.0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("unit", [0.0, 1e-30, 1e30])
def test_partial_fit_is_never_nan_either(unit):
    coding = SparseCoding(4, random_state=0)
    for seed in range(3):
        X = (unit * np.random.default_rng(seed).normal(size=(5, 3))).astype(np.float32)
        coding.partial_fit(X)
    assert np.isfinite(coding.components_).all()
    assert np.isfinite(coding.transform(X)).all()
    assert np.isfinite(coding.elbo_)


# -------------------------------------------------------------------- the marginal of what was seen


@few(8)
@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
def test_gaussian_prior_and_full_covariance_give_the_marginal_of_entries_seen(seed, n_features, n_components):
    generator = seeded(seed)
    model = make_model(n_features, n_components, generator, prior=PRIORS["gaussian"])
    x = with_holes(model.sample(3, generator)[0], generator, 0.5)
    elbo = pointwise_elbo(SOLVERS["full"](x, model), x, model)
    np.testing.assert_allclose(elbo.numpy(), oracles.gaussian_evidence(x, model), rtol=0, atol=1e-6)


@few(4)
@given(SEEDS, st.integers(1, 4), st.integers(1, 2))
@pytest.mark.parametrize("solver", [SOLVERS["diagonal"], SOLVERS["full"]], ids=["diagonal", "full"])
def test_the_bound_is_one_on_the_marginal_of_entries_seen(solver, seed, n_features, n_components):
    generator = seeded(seed)
    model = make_model(n_features, n_components, generator)
    x = with_holes(model.sample(2, generator)[0], generator, 0.5)
    x[0, 0] = torch.nan
    posterior = solver(x, model)
    elbo = pointwise_elbo(posterior, x, model)
    line = torch.linspace(
        -25, 25, 1001, dtype=torch.float64
    )  # 0, where the prior has its kink, is an even node
    z = torch.stack(torch.meshgrid(*[line] * n_components, indexing="ij"), -1)
    log_q = posterior.log_prob(z.reshape(-1, 1, n_components)).reshape(*z.shape[:-1], -1)

    def integral(values):
        for _ in range(n_components):
            values = integrate.simpson(values, line.numpy(), axis=0)
        return values

    for n, row in enumerate(x):
        seen = ~row.isnan()
        log_joint = model.factors.log_prob(z, model.prior_scale).sum(-1)
        for value, atom in zip(row[seen], model.dictionary[seen], strict=True):
            noise = torch.distributions.Normal(0.0, model.noise_variance.sqrt())
            log_joint += noise.log_prob(value - z @ atom)
        log_marginal = np.log(integral(log_joint.exp().numpy()))
        q = log_q[..., n]
        assert float(elbo[n]) == pytest.approx(integral((q.exp() * (log_joint - q)).numpy()), abs=1e-3)
        assert float(elbo[n]) <= log_marginal + 1e-4
        if isinstance(posterior, Full):
            assert float(elbo[n]) > log_marginal - 0.1 * n_components
        if not seen.any():
            assert log_marginal == pytest.approx(0.0, abs=1e-4)


@few(3)
@given(SEEDS)
def test_an_entry_not_seen_is_as_one_without_a_row_in_the_dictionary(seed):
    generator = seeded(seed)
    model = make_model(5, 3, generator)
    x, _ = model.sample(4, generator)
    part = SparseCodingModel(model.dictionary[:3], model.prior_scale, model.noise_variance)
    x[:, 3:] = torch.nan
    for solver in SOLVERS.values():
        one, other = solver(x, model), solver(x[:, :3], part)
        torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            pointwise_elbo(one, x, model), pointwise_elbo(other, x[:, :3], part), rtol=0, atol=1e-6
        )
