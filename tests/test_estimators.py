import pickle
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_get_feature_names_out_error,
    check_global_output_transform_pandas,
    check_global_set_output_transform_polars,
    check_param_validation,
    check_readonly_memmap_input,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_set_output_transform_polars,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    estimator_checks_generator,
)

import entrosparse.errors
from entrosparse import SparseCoding
from entrosparse.errors import InputError
from entrosparse.estimators import _sparse_coding as sparse_coding
from entrosparse.images import bars
from entrosparse.inference import LEARNING_SWEEPS, AmortizedInference, RefinedInference
from entrosparse.learning import BatchEM, Callback, Checkpoints, train
from entrosparse.metrics import match_atoms

VARIANTS = {
    "default": SparseCoding(),
    "few epochs": SparseCoding(max_epochs=10),
    "full": SparseCoding(covariance="full", max_epochs=100),
    "encoder": SparseCoding(inference="encoder", max_epochs=2),
    "exact factorial": SparseCoding(covariance="exact-factorial", max_epochs=20),
    "exponential": SparseCoding(covariance="exact-factorial", prior="exponential", max_epochs=5),
    "per-feature": SparseCoding(noise="per-feature", max_epochs=5),
    "laplace noise": SparseCoding(noise="laplace", max_epochs=4),
    "learned shapes": SparseCoding(prior="generalized-gaussian", max_epochs=15),
    "skewed": SparseCoding(prior="skewed-laplace", max_epochs=15),
}
MORE_CHECKS = [
    check_dataframe_column_names_consistency,
    check_get_feature_names_out_error,
    check_global_output_transform_pandas,
    check_global_set_output_transform_polars,
    check_param_validation,
    check_readonly_memmap_input,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_set_output_transform_polars,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
]


def _name(value):
    return getattr(getattr(value, "func", value), "__name__", None)


def fast(*names):
    """Run through all variants, fast through a few of them."""
    variants = [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in VARIANTS]
    return pytest.mark.parametrize("variant", variants)


@pytest.mark.filterwarnings("ignore")  # the checks look at warnings themselves
@fast("few epochs", "encoder", "exponential", "per-feature")
def test_scikit_learn_accepts_it(variant):
    """Every check of the generator; the count is part of the claim."""
    passed, skipped = 0, []
    for estimator, check in estimator_checks_generator(VARIANTS[variant]):
        try:
            check(estimator)
        except pytest.skip.Exception as reason:
            skipped.append(str(reason))
        except Exception as error:
            if type(error).__name__ != "SkipTest":
                raise AssertionError(f"{_name(check)} fails: {error}") from error
            skipped.append(str(error))
        else:
            passed += 1
    assert passed >= 50
    assert all("array_api" in reason or "SCIPY_ARRAY_API" in reason for reason in skipped)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", MORE_CHECKS, ids=_name)
@fast("few epochs", "exponential")
def test_scikit_learn_accepts_it_as_a_transformer(variant, check):
    check("SparseCoding", clone(VARIANTS[variant]))


@pytest.fixture(scope="module")
def digits():
    return load_digits().data


@pytest.fixture(scope="module")
def fitted(digits):
    return SparseCoding(20, random_state=0).fit(digits)


@pytest.mark.filterwarnings("ignore:the noise variance reached its floor")
def test_iris_and_digits_work_without_arguments(digits):
    for X in (load_iris().data, digits[:100, :24]):
        coding = SparseCoding(random_state=0).fit(X)
        assert coding.components_.shape == (X.shape[1], X.shape[1])
        assert np.isfinite(coding.elbo_)
        residual = X - coding.inverse_transform(coding.transform(X))
        assert residual.var() < 0.5 * (X - X.mean(0)).var()


def test_learned_attributes(fitted, digits):
    np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1.0)
    assert (np.diff(fitted.prior_scale_) <= 0).all()
    largest = np.take_along_axis(fitted.components_, np.abs(fitted.components_).argmax(1)[:, None], axis=1)
    assert (largest > 0).all()
    assert fitted.converged_
    assert fitted.n_iter_ == len(fitted.history_)
    assert fitted.history_[-1]["elbo"] == fitted.elbo_
    assert fitted.score(digits) == pytest.approx(fitted.elbo_, abs=0.05)
    residual = digits - fitted.inverse_transform(fitted.transform(digits))
    assert 0 < fitted.noise_variance_ < digits.var()
    assert residual.var() < 1.2 * fitted.noise_variance_


def test_score_is_a_bound_that_more_components_raise(digits):
    scores = [SparseCoding(h, random_state=0).fit(digits[::2]).score(digits[1::2]) for h in (1, 5, 20)]
    assert scores[0] < scores[1] < scores[2]


def test_full_covariance_beats_diagonal_and_finds_bars():
    data = bars(500, rng=11)
    by_covariance = {
        covariance: SparseCoding(10, covariance=covariance, random_state=0).fit(data.data)
        for covariance in ("diagonal", "full")
    }
    assert by_covariance["full"].elbo_ > by_covariance["diagonal"].elbo_
    atoms = torch.tensor(by_covariance["full"].components_.T)
    assert float(match_atoms(atoms, torch.tensor(data.dictionary)).cosine.min()) > 0.95


@pytest.mark.parametrize("covariance", ["diagonal", "low-rank", "full"])
def test_posterior_score_and_entropies_agree(digits, covariance):
    X = digits[:150, 20:50]
    coding = SparseCoding(6, covariance=covariance, random_state=0).fit(X)
    posterior = coding.posterior(X)
    np.testing.assert_allclose(posterior.mean.numpy(), coding.transform(X))
    assert posterior.covariance().shape == (150, 6, 6)
    # the same bound by Monte Carlo, in data units
    from entrosparse.model import SparseCodingModel

    model = SparseCodingModel(
        torch.tensor(coding.components_.T),
        torch.tensor(coding.prior_scale_),
        torch.tensor(coding.noise_variance_, dtype=torch.float64),
    )
    z = posterior.sample(4000, torch.Generator().manual_seed(0))
    x = torch.tensor(X - coding.mean_)
    values = model.log_joint(x, z) - posterior.log_prob(z)
    standard_error = values.std(0) / len(values) ** 0.5
    difference = values.mean(0) - torch.tensor(coding.score_samples(X))
    assert (difference.abs() < 5 * standard_error).all()
    terms = coding.entropies(X)
    assert float(terms.elbo) >= coding.score(X) - 1e-9
    assert float(terms.elbo) == pytest.approx(coding.score(X), abs=0.05)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_equivariance(digits, factor, dtype):
    X = (digits[:200, 20:40] + 0.25).astype(dtype)
    one = SparseCoding(4, random_state=0).fit(X)
    other = SparseCoding(4, random_state=0).fit(X * dtype(factor))
    tolerance = 1e-2 if dtype == np.float32 else 1e-6
    np.testing.assert_allclose(other.components_, one.components_, atol=tolerance)
    np.testing.assert_allclose(other.prior_scale_ / factor, one.prior_scale_, rtol=tolerance)
    assert other.noise_variance_ / factor / factor == pytest.approx(one.noise_variance_, rel=tolerance)
    shifted = one.score(X) - X.shape[1] * np.log(factor)
    assert other.score(X * dtype(factor)) == pytest.approx(shifted, abs=max(10 * tolerance, 1e-3))
    assert other.transform(X * dtype(factor)).dtype == other.components_.dtype == dtype


@pytest.mark.parametrize(
    "X",
    [
        np.ones((7, 3)),
        np.zeros((5, 2)),
        np.array([[1.0, 2.0, 3.0]]),
        np.linspace(0, 1, 9)[:, None],
        np.tile([[1.0, 5.0, 2.0], [0.0, 1.0, 7.0]], (20, 1)),
        np.column_stack([np.random.default_rng(0).normal(size=30), np.full(30, 4.0)]),
        np.random.default_rng(1).normal(size=(4, 6)),
    ],
    ids=["ones", "zeros", "one sample", "one feature", "duplicates", "constant column", "few samples"],
)
@pytest.mark.parametrize("covariance", ["diagonal", "low-rank", "full"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_degenerate_data_are_never_nan(X, covariance):
    for n_components in (None, 5):
        coding = SparseCoding(n_components, covariance=covariance, max_epochs=30, random_state=0).fit(X)
        for value in (coding.components_, coding.prior_scale_, coding.noise_variance_, coding.transform(X)):
            assert np.isfinite(value).all()
        assert np.isfinite(coding.score_samples(X)).all()
        assert (coding.prior_scale_ > 0).all()
        assert coding.noise_variance_ > 0


def test_sparse_input_equals_dense(digits):
    dense = SparseCoding(5, random_state=0).fit(digits[:200])
    sparse = SparseCoding(5, random_state=0).fit(scipy.sparse.csr_array(digits[:200]))
    np.testing.assert_allclose(sparse.components_, dense.components_)
    np.testing.assert_allclose(sparse.transform(scipy.sparse.csc_array(digits)), dense.transform(digits))


@pytest.mark.parametrize("covariance", ["diagonal", "low-rank", "full"])
def test_missing_values_are_imputed_better_than_by_means(digits, covariance):
    rng = np.random.default_rng(0)
    X = digits[:300, 16:48]
    missing = rng.random(X.shape) < 0.3
    missing[0] = True
    damaged = np.where(missing, np.nan, X)
    coding = SparseCoding(5, covariance=covariance, random_state=0).fit(damaged)
    imputed = coding.inverse_transform(coding.transform(damaged))
    means = np.nanmean(damaged, axis=0) + np.zeros_like(X)

    def error(guess):
        return np.sqrt(np.mean((guess - X)[missing] ** 2))

    assert error(imputed) < 0.8 * error(means)
    np.testing.assert_allclose(imputed[0], coding.mean_)
    assert coding.score_samples(damaged)[0] <= 0.0  # nothing was seen: log p = 0
    assert coding.score_samples(damaged)[0] > -3.0
    assert np.isfinite(coding.score_samples(damaged)).all()


def test_online_learning_of_larger_data(digits):
    coding = SparseCoding(10, algorithm="online", batch_size=100, max_epochs=10, random_state=0).fit(digits)
    batch = SparseCoding(10, random_state=0).fit(digits)
    assert coding.score(digits) > batch.score(digits) - 1.5
    assert len(coding.history_) == 11
    assert coding.n_iter_ == 10
    assert coding.elbo_ == pytest.approx(coding.score(digits), abs=0.3)


@pytest.mark.parametrize(
    ("covariance", "inference"),
    [
        ("diagonal", "refined"),
        ("low-rank", "encoder"),
        pytest.param("diagonal", "encoder", marks=pytest.mark.slow),
        pytest.param("low-rank", "refined", marks=pytest.mark.slow),
    ],
)
def test_encoders(digits, inference, covariance):
    coding = SparseCoding(
        8,
        inference=inference,
        covariance=covariance,
        init="random",
        batch_size=100,
        max_epochs=6,
        random_state=0,
    ).fit(digits)
    assert coding.history_[-1]["elbo"] > coding.history_[0]["elbo"] + 1
    assert coding.transform(digits[:3]).shape == (3, 8)
    assert (
        type(coding.posterior(digits[:3])).__name__
        == {"diagonal": "Diagonal", "low-rank": "LowRank"}[covariance]
    )
    again = pickle.loads(pickle.dumps(coding))
    np.testing.assert_array_equal(again.transform(digits[:3]), coding.transform(digits[:3]))


class CutOff(Callback):
    """Ends learning after an epoch."""

    def on_epoch(self, model, record):
        if record.epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("algorithm", ["online", "batch"])
def test_fit_goes_on_from_checkpoints(tmp_path, digits, monkeypatch, algorithm):
    options = {"max_epochs": 300, "batch_size": 200, "random_state": 0, "algorithm": algorithm}
    if algorithm == "online":
        options["max_epochs"] = 4
    whole = SparseCoding(6, **options).fit(digits)

    def cut_off_train(*arguments, callbacks, **settings):
        return train(*arguments, callbacks=(*callbacks, CutOff()), **settings)

    monkeypatch.setattr(sparse_coding, "Checkpoints", partial(Checkpoints, every_seconds=0.0))
    cut = SparseCoding(6, checkpoint_dir=str(tmp_path / "run"), **options)
    with monkeypatch.context() as patched:
        patched.setattr(sparse_coding, "train", cut_off_train)
        with pytest.raises(KeyboardInterrupt):
            cut.fit(digits)
    assert not hasattr(cut, "components_")
    assert any((tmp_path / "run").iterdir())
    kept = list((tmp_path / "run").iterdir())
    clone(cut).set_params(n_components=7).fit(digits)  # has a folder of its own
    assert list((tmp_path / "run").iterdir()) == kept
    cut.fit(digits)
    np.testing.assert_array_equal(cut.components_, whole.components_)
    assert [row["elbo"] for row in cut.history_] == [row["elbo"] for row in whole.history_]
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="'random_state'"):
        SparseCoding(6, checkpoint_dir="run").fit(digits)


def test_restarts_keep_the_best_of_their_runs(digits, monkeypatch):
    elbos = []

    def watched_train(*arguments, **settings):
        result = train(*arguments, **settings)
        elbos.append(result.history[-1].elbo)
        return result

    X = digits[:200, 20:40]
    monkeypatch.setattr(sparse_coding, "train", watched_train)
    with pytest.warns(ConvergenceWarning):
        coding = SparseCoding(10, init="random", n_init=3, max_epochs=60, random_state=5).fit(X)
    assert len(set(elbos)) == 3
    best = coding.elbo_ + X.shape[1] * np.log(coding._units.scale)
    assert best == pytest.approx(max(elbos), abs=1e-9)


@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.parametrize("missing", [False, True])
def test_the_history_is_in_the_units_of_the_data(digits, algorithm, missing):
    """Its last row says what `entropies` says of the same data."""
    X = digits[:300, 20:40] * 50.0
    if missing:
        X = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    options = {"algorithm": algorithm, "random_state": 0, "max_epochs": 500 if algorithm == "batch" else 20}
    coding = SparseCoding(4, **options).fit(X)
    row, terms = coding.history_[-1], coding.entropies(X)
    for name in ("posterior", "prior", "likelihood"):
        assert row[f"{name}_entropy"] == pytest.approx(float(getattr(terms, name)), abs=0.3)
    assert row["elbo"] == pytest.approx(float(terms.elbo), abs=0.1)
    assert row["noise_variance"] == pytest.approx(coding.noise_variance_, rel=1e-6)


@pytest.mark.parametrize("inference", ["encoder", "refined"])
def test_batches_that_pass_once_learn_encoders_too(digits, inference):
    coding = SparseCoding(8, inference=inference, init="random", random_state=0, batch_size=100)
    scores = []
    for _ in range(2):
        coding.fit(digits[k : k + 100] for k in range(0, 1700, 100)) if not scores else [
            coding.partial_fit(digits[k : k + 100]) for k in range(0, 1700, 100)
        ]
        scores.append(coding.score(digits))
    assert scores[-1] > scores[0]
    assert isinstance(coding._inference, AmortizedInference if inference == "encoder" else RefinedInference)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"annealing": "prior"}, "'annealing' parameter must be 'none' for batches that pass once"),
        ({"checkpoint_dir": "here"}, "'checkpoint_dir' parameter must be None for batches that pass once"),
        (
            {"algorithm": "batch"},
            "'algorithm' parameter must be 'auto', 'online' or a learner of minibatches",
        ),
        ({"algorithm": BatchEM()}, "'algorithm' parameter must be 'auto', 'online' or a learner of minibat"),
    ],
)
def test_batches_that_pass_once_refuse_what_they_cannot_do(digits, arguments, message):
    for learn in (
        lambda coding: coding.partial_fit(digits[:50]),
        lambda coding: coding.fit(iter([digits[:50]])),
    ):
        with pytest.raises(InputError, match=message):
            learn(SparseCoding(4, **arguments))
    with pytest.raises(InputError, match="'sample_weight' parameter must be None for an iterator"):
        SparseCoding(4).fit(iter([digits[:50]]), sample_weight=np.ones(50))


def test_only_a_convergence_warning_decides_whether_fit_converged(digits):
    """Other warnings from inside pass as they are."""

    @dataclass(frozen=True)
    class Deprecated:
        def __call__(self, *arguments, **settings):
            warnings.warn("this is old", DeprecationWarning, stacklevel=2)
            return LEARNING_SWEEPS(*arguments, **settings)

        def rows_at_once(self, n_components):
            return 1000

    X = digits[:300, 20:30]
    coding = SparseCoding(3, covariance=Deprecated(), algorithm="online", max_epochs=3, random_state=0)
    with pytest.warns(DeprecationWarning, match="this is old") as caught:
        coding.fit(X)
    assert {warning.category for warning in caught} == {DeprecationWarning}
    assert coding.converged_
    coding = SparseCoding(3, max_epochs=3, random_state=0)
    with pytest.warns(entrosparse.errors.ConvergenceWarning, match="after 3 epochs; raise the epochs"):
        coding.fit(X)
    assert not coding.converged_
    assert issubclass(entrosparse.errors.ConvergenceWarning, ConvergenceWarning)


def test_a_fit_that_fails_changes_nothing(digits):
    coding = SparseCoding(4, random_state=0, max_epochs=300).fit(digits[:200, 20:40])
    before = {name: value for name, value in vars(coding).items() if name != "init"}
    with pytest.raises(InputError, match="'init' array must have shape"):
        coding.set_params(init=np.ones((2, 2))).fit(digits[:, :30])
    assert {name: value for name, value in vars(coding).items() if name != "init"} == before


def test_partial_fit_learns_and_counts_by_weight(digits):
    coding = SparseCoding(8, init="random", random_state=0, batch_size=100)
    scores = []
    for _ in range(3):
        for first in range(0, 1700, 100):
            coding.partial_fit(digits[first : first + 100])
        scores.append(coding.score(digits))
    assert scores[-1] > scores[0] + 1
    assert coding.n_iter_ == 3 * 17
    weighted, repeated = (SparseCoding(4, random_state=0) for _ in range(2))
    counts = np.arange(1200) % 3  # Few samples take a smaller step.
    weighted.partial_fit(digits[:1200], sample_weight=counts)
    repeated.partial_fit(np.repeat(digits[:1200], counts, axis=0))
    np.testing.assert_allclose(weighted.components_, repeated.components_, atol=1e-9)
    np.testing.assert_allclose(weighted.prior_scale_, repeated.prior_scale_, rtol=1e-9)


WAYS_TO_LEARN = {
    "batch": {"algorithm": "batch", "max_epochs": 60},
    "online": {"algorithm": "online", "max_epochs": 4},
    "encoder": {"inference": "encoder", "max_epochs": 4},
    "refined": {"inference": "refined", "max_epochs": 2},
    "partial_fit": {},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize(
    ("way", "dtype"), [*((way, np.float64) for way in WAYS_TO_LEARN), ("online", np.float32)]
)
def test_only_relative_weights_matter(digits, way, dtype, factor):
    X = digits[:400, 16:48].astype(dtype)
    weights = 0.5 + np.random.default_rng(0).random(len(X))
    one, other = (SparseCoding(6, random_state=0, batch_size=100, **WAYS_TO_LEARN[way]) for _ in range(2))
    for coding, sample_weight in ((one, weights), (other, factor * weights)):
        if way == "partial_fit":
            for k in range(0, 400, 100):
                coding.partial_fit(X[k : k + 100], sample_weight=sample_weight[k : k + 100])
        else:
            coding.fit(X, sample_weight=sample_weight)
    assert other.score(X) == pytest.approx(one.score(X), abs=0.5 if dtype == np.float32 else 0.05)
    if (
        dtype == np.float64
    ):  # Adam divides by the size of gradients, however small, and so amplifies rounding.
        tolerance = 1e-2 if way == "encoder" else 1e-5
        np.testing.assert_allclose(other.components_, one.components_, atol=tolerance)
    plain = SparseCoding(6, random_state=0, batch_size=100, **WAYS_TO_LEARN[way])
    if way in ("online", "batch"):
        assert other.score(X) > plain.fit(X).score(X) - 0.5


def test_partial_fit_goes_on_after_an_encoder(digits):
    """By steps of its own: no encoder of an earlier fit is left."""
    coding = SparseCoding(6, inference="encoder", max_epochs=2, random_state=0).fit(digits)
    coding.set_params(inference="variational").partial_fit(digits[:200])
    exact = SparseCoding(6, init=coding.components_.T, max_epochs=1, algorithm="online").fit(digits)
    assert coding._inference is None
    assert coding.score(digits) > exact.score(digits) - 5.0


def test_transform_does_not_depend_on_the_batch(fitted, digits):
    whole = fitted.transform(digits[:60])
    np.testing.assert_allclose(
        np.vstack([fitted.transform(digits[k : k + 1]) for k in range(60)]), whole, atol=1e-9
    )


def test_sampling_from_the_model(fitted):
    X, Z = fitted.sample(20_000)
    assert X.shape == (20_000, 64)
    np.testing.assert_allclose(np.abs(Z).mean(0), fitted.prior_scale_, rtol=0.1)
    np.testing.assert_allclose((X - fitted.inverse_transform(Z)).var(), fitted.noise_variance_, rtol=0.02)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_into_scikit_learn(digits):
    pipeline = make_pipeline(StandardScaler(), SparseCoding(random_state=0, max_epochs=150))
    search = GridSearchCV(pipeline, {"sparsecoding__n_components": [1, 4]}, cv=2).fit(load_iris().data[:, :3])
    assert search.best_params_["sparsecoding__n_components"] in (1, 4)
    frame = pd.DataFrame(digits[:100, 20:30], columns=[f"pixel {k}" for k in range(10)])
    coding = SparseCoding(3, random_state=0).set_output(transform="pandas").fit(frame)
    assert list(coding.transform(frame).columns) == [f"sparsecoding{k}" for k in range(3)]
    assert list(coding.feature_names_in_) == list(frame.columns)
    assert "SparseCoding" in coding._repr_html_()


def test_convergence_warning_says_what_to_try(digits):
    with pytest.warns(ConvergenceWarning, match=r"raise the epochs \(max_epochs\) or the tolerance \(tol\)"):
        SparseCoding(5, max_epochs=3, random_state=0).fit(digits[:100])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_components": 0}, InvalidParameterError, "'n_components'"),
        ({"covariance": "banded"}, InvalidParameterError, "'covariance'"),
        ({"annealing": "warm"}, InvalidParameterError, "'annealing'"),
        ({"init": np.ones((2, 2))}, InputError, "'init' array must have shape"),
        ({"covariance": "full", "inference": "encoder"}, InputError, "no encoder"),
        ({"algorithm": "batch", "inference": "encoder"}, InputError, "'algorithm'"),
    ],
)
def test_bad_arguments_are_named(digits, arguments, error, message):
    with pytest.raises(error, match=message):
        SparseCoding(**({"n_components": 4} | arguments)).fit(digits[:50])


def test_use_before_fit_and_wrong_codes(fitted, digits):
    with pytest.raises(NotFittedError):
        SparseCoding().transform(digits)
    with pytest.raises(InputError, match="20 columns"):
        fitted.inverse_transform(np.ones((2, 3)))
