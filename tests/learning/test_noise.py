"""What each kind of noise is for: factor analysis, columns of different units, outliers."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.decomposition import FactorAnalysis

from conftest import untimed
from entrosparse import SparseCoding
from entrosparse.errors import InputError
from entrosparse.images import bars
from entrosparse.inference import EXACT_LEARNING_SWEEPS, DiagonalEncoder
from entrosparse.learning import AdamLearner, BatchEM, Callback, Checkpoints, OnlineEM, RefinedEM, train
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.metrics import match_atoms
from entrosparse.priors import PRIORS
from kinds import SIGNED

RNG = np.random.default_rng(0)
FACTORS = RNG.normal(size=(300, 3)) @ RNG.normal(size=(3, 8))
TABLE = FACTORS + RNG.normal(size=(300, 8)) * np.linspace(0.2, 1.5, 8)
UNITS = np.logspace(-3, 3, 8)
ROWS = (RNG.laplace(size=(300, 4)) @ RNG.normal(size=(4, 7)) + 0.3 * RNG.laplace(size=(300, 7))).astype("f4")
LEARNERS = {
    "batch": BatchEM(),
    "online": OnlineEM(),
    "adam": AdamLearner(DiagonalEncoder),
    "refined": RefinedEM(OnlineEM()),
}
PAIRS = [
    (noise, prior)
    for noise in LIKELIHOODS
    for prior in PRIORS
    if prior in SIGNED or LIKELIHOODS[noise].quadratic
]
SIGNED_PAIRS = [pair for pair in PAIRS if pair[1] in SIGNED]
RUNS = [(*pair, learner) for pair in PAIRS for learner in ("batch", "online")]
RUNS += [(noise, "laplace", learner) for noise in LIKELIHOODS for learner in ("adam", "refined")]
each_noise = pytest.mark.parametrize("noise", LIKELIHOODS)


def each(names, cases):
    """Run through all cases, fast through those where the noise or the prior is the default one."""
    slow = (case[0] != "isotropic" and case[1] != "laplace" for case in cases)
    marked = [pytest.param(*c, marks=[pytest.mark.slow] * s) for c, s in zip(cases, slow, strict=True)]
    return pytest.mark.parametrize(names, marked)


def factors(n_components=3, **settings):
    fixed = {"covariance": "full", "noise": "per-feature", "prior": "gaussian", "random_state": 0}
    return SparseCoding(n_components, **(fixed | settings))


def test_a_gaussian_prior_with_noise_per_feature_is_factor_analysis():
    expected = FactorAnalysis(3, tol=1e-9, max_iter=5000).fit(TABLE)
    found = factors(tol=1e-7).fit(TABLE)
    assert found.score(TABLE) == pytest.approx(expected.score(TABLE), abs=1e-3)
    np.testing.assert_allclose(found.noise_variance_, expected.noise_variance_, rtol=0.02)
    loading = found.components_.T * found.prior_scale_
    covariance = loading @ loading.T + np.diag(found.noise_variance_)
    np.testing.assert_allclose(covariance, expected.get_covariance(), rtol=0.02, atol=0.01)


def test_units_of_the_columns_make_no_difference():
    plain, scaled = (factors(prior="laplace").fit(X) for X in (TABLE, TABLE * UNITS))
    np.testing.assert_allclose(scaled.noise_variance_, plain.noise_variance_ * UNITS**2, rtol=1e-6)
    assert scaled.score(TABLE * UNITS) == pytest.approx(plain.score(TABLE) - np.log(UNITS).sum(), abs=1e-6)
    assert scaled.elbo_ == pytest.approx(scaled.score(TABLE * UNITS), abs=0.02)
    terms = scaled.entropies(TABLE * UNITS)
    assert float(terms.elbo) == pytest.approx(scaled.score(TABLE * UNITS), abs=0.02)
    reconstruction = scaled.inverse_transform(scaled.transform(TABLE * UNITS)) / UNITS
    np.testing.assert_allclose(reconstruction, plain.inverse_transform(plain.transform(TABLE)), atol=1e-5)
    x, z = scaled.sample(20_000)
    np.testing.assert_allclose(x.std(0), (TABLE * UNITS).std(0), rtol=0.1)
    assert z.std() == pytest.approx(scaled.transform(TABLE * UNITS).std(), rel=0.2)


def test_noise_per_feature_is_better_for_columns_of_different_units():
    X = load_wine().data
    scores = {
        noise: SparseCoding(3, covariance="full", noise=noise, random_state=0).fit(X[::2]).score(X[1::2])
        for noise in ("isotropic", "per-feature")
    }
    assert scores["per-feature"] > scores["isotropic"] + 5.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_columns_do_no_harm(dtype):
    X = np.column_stack([TABLE, np.full(300, 2.0), np.zeros(300)]).astype(dtype)
    coding = factors(tol=1e-3).fit(X)
    assert (coding.noise_variance_ > 0.0).all()
    assert coding.noise_variance_[8:].max() < 1e-9
    assert coding.elbo_ - 0.1 < coding.score(X) < coding.elbo_ + 1.1  # by half a nat for each of them
    np.testing.assert_allclose(coding.inverse_transform(coding.transform(X))[:, 8:], X[:, 8:], atol=1e-5)


def with_outliers(seed):
    data, rng = bars(1000, rng=seed), np.random.default_rng(seed)
    replaced = rng.random(data.data.shape) < 0.05
    pixels = np.where(replaced, rng.choice([-20.0, 20.0], data.data.shape), data.data)
    return pixels, torch.tensor(data.dictionary)


def recovered(pixels, truth, noise, **settings):
    coding = SparseCoding(10, covariance="full", noise=noise, random_state=0, **settings).fit(pixels)
    cosine = match_atoms(torch.tensor(coding.components_.T), truth).cosine
    return int((cosine > 0.95).sum())


def test_laplace_noise_finds_the_bars_among_outliers():
    pixels, truth = with_outliers(0)
    assert recovered(pixels, truth, "laplace") == 10
    assert recovered(pixels, truth, "isotropic") <= 2


@pytest.mark.filterwarnings("ignore:the objective still changed")
@each("noise, prior", PAIRS)
def test_weights_are_repetitions_and_holes_are_left_out(noise, prior, rng):
    X = TABLE[:80].copy()
    X[::7, 2] = np.nan
    weights = rng.integers(1, 3, 80)
    covariance = "diagonal" if prior in SIGNED else "exact-factorial"
    settings = {"noise": noise, "prior": prior, "covariance": covariance, "random_state": 0, "max_epochs": 30}
    one = SparseCoding(3, **settings).fit(X, sample_weight=weights)
    other = SparseCoding(3, **settings).fit(np.repeat(X, weights, axis=0))
    np.testing.assert_allclose(one.components_, other.components_, rtol=0, atol=1e-5)
    assert np.isfinite(one.score(X))


@cache
def online(noise, prior, annealing):
    settings = {"algorithm": "online", "max_epochs": 25, "batch_size": 100, "random_state": 0}
    return SparseCoding(3, noise=noise, prior=prior, annealing=annealing, **settings).fit(TABLE)


@pytest.mark.parametrize("annealing", ["prior", "likelihood"])
@each("noise, prior", SIGNED_PAIRS)
def test_annealing_goes_with_every_pair(noise, prior, annealing):
    plain, annealed = (online(noise, prior, way) for way in ("none", annealing))
    assert (annealed.history_[-1]["gamma"], annealed.history_[-1]["delta"]) == (1.0, 1.0)
    assert annealed.score(TABLE) > plain.score(TABLE) - 0.3


class _CutError(Exception):
    """Ends a run."""


class _CutOff(Callback):
    def __init__(self, batches):
        self.left = batches

    def on_batch(self, samples_seen):
        self.left -= 1
        if not self.left:
            raise _CutError


@each("noise, prior, learner", RUNS)
@pytest.mark.filterwarnings("ignore:learning ended", "ignore:the objective still changed")
def test_a_run_that_was_cut_off_goes_on(noise, prior, learner, tmp_path):
    learner = LEARNERS[learner]
    if prior not in SIGNED:
        learner = replace(learner, inference=EXACT_LEARNING_SWEEPS)
    settings = {"n_components": 5, "epochs": 3, "batch_size": 100}
    settings |= {"likelihood": LIKELIHOODS[noise], "prior": PRIORS[prior]}
    whole = train(learner, ROWS, ROWS[:50], **settings)
    kept = Checkpoints(tmp_path / "kept", 0.0)
    cut = _CutOff(2 if learner.sees_all_rows else 5)
    with pytest.raises(_CutError):
        train(learner, ROWS, ROWS[:50], checkpoints=kept, callbacks=(cut,), **settings)
    others = settings | {"likelihood": LIKELIHOODS["isotropic" if noise != "isotropic" else "per-feature"]}
    with pytest.raises(InputError, match="'likelihood' was"):
        train(learner, ROWS, ROWS[:50], checkpoints=kept, **others)
    resumed = train(learner, ROWS, ROWS[:50], checkpoints=kept, **settings)
    assert torch.equal(resumed.model.dictionary, whole.model.dictionary)
    assert torch.equal(resumed.model.noise_variance, whole.model.noise_variance)
    if whole.model.prior_shape is not None:
        assert torch.equal(resumed.model.prior_shape, whole.model.prior_shape)
    assert untimed(resumed.history) == untimed(whole.history)


@pytest.mark.filterwarnings("ignore:the objective still changed")
@each_noise
def test_batches_that_pass_once_are_learned(noise):
    coding = SparseCoding(3, noise=noise, random_state=0)
    for part in np.split(TABLE * UNITS**0.1, 3):
        coding.partial_fit(part)
    assert np.shape(coding.noise_variance_) == ((8,) if noise == "per-feature" else ())
    assert coding.score(TABLE * UNITS**0.1) == pytest.approx(coding.elbo_, abs=1.0)
    start = SparseCoding(3, noise=noise, random_state=0, max_epochs=1).fit(TABLE * UNITS**0.1)
    assert coding.score(TABLE * UNITS**0.1) > start.score(TABLE * UNITS**0.1)


@pytest.mark.filterwarnings("ignore:the objective still changed")
def test_atoms_given_in_data_units_are_where_learning_starts(rng):
    atoms = rng.normal(size=(8, 3)) * UNITS[:, None]
    first = factors(init=atoms, max_epochs=1).fit(TABLE * UNITS)
    spread = (TABLE * UNITS).std(0)[:, None]
    match = match_atoms(*(torch.tensor(part / spread) for part in (first.components_.T, atoms)))
    assert match.cosine.min() > 0.95
