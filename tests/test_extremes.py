"""Data, weights, devices and models at the edges: they work, or one line names the argument at once."""

import time
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold

from entrosparse import SparseCoding
from entrosparse.errors import InputError
from entrosparse.inference import DiagonalInference, FullInference, LowRankInference
from entrosparse.learning import BatchEM, OnlineEM, RefinedEM, train
from entrosparse.learning._floors import Floors
from entrosparse.model import SparseCodingModel

RNG = np.random.default_rng(0)
X = RNG.laplace(size=(200, 3)) @ RNG.normal(size=(3, 6)) + 0.3 * RNG.normal(size=(200, 6))
X32 = X.astype(np.float32)
ONE_HEAVY = np.where(np.arange(200) == 0, 1e40, 1.0)
PARTS = [
    {"covariance": "diagonal"},
    {"covariance": "low-rank"},
    {"covariance": "full"},
    {"covariance": "exact-factorial", "prior": "exponential"},
    {"noise": "per-feature"},
    {"noise": "laplace"},
    {"prior": "skewed-laplace"},
    {"prior": "generalized-gaussian"},
]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def coding(**options):
    return SparseCoding(**({"n_components": 3, "max_epochs": 5, "random_state": 0} | options))


@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.parametrize(
    ("data", "weights", "message"),
    [
        (
            X * 1e-200,
            None,
            r"'X' parameter must have a root mean square .* at least 1e-145 .* got 2\.\d+e-200",
        ),
        (X * 1e160, None, r"'X' parameter must hold values up to 1e\+145 in float64; got .*e\+161"),
        (np.sign(X32) * np.float32(3e38), None, r"'X' parameter must hold values up to 1e\+37 in float32"),
        (np.full((7, 3), 1e-200), None, "'X' parameter must have a root mean square"),
        (X * np.nan, None, "'X' parameter must have an entry that was seen; got NaN alone"),
        (
            X,
            np.full(200, 1e307),
            "'sample_weight' parameter must have a finite sum above zero; got a sum of inf",
        ),
        (X32, ONE_HEAVY, "'X' parameter must differ from mean_ at most 4.3e.09 times"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in reduce")  # NumPy's, in scikit-learn's check.
def test_what_fit_cannot_use_is_named(data, weights, message, algorithm):
    with pytest.raises(InputError, match=message) as caught:
        coding(algorithm=algorithm).fit(data, sample_weight=weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1e-140, 1e140])
def test_data_within_the_range_are_learned(factor):
    plain, scaled = coding().fit(X), coding().fit(X * factor)
    assert scaled.noise_variance_ / factor / factor == pytest.approx(plain.noise_variance_)


@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.parametrize("data", [X, X32])
def test_equal_weights_of_any_size_are_no_weights(data, algorithm):
    for weight in (1e40, 1e-320):
        one = coding(algorithm=algorithm).fit(data, sample_weight=np.full(200, weight))
        assert one.score(data, sample_weight=np.full(200, weight)) == pytest.approx(one.score(data))


def test_weights_of_batches_that_pass_once_are_bounded_by_the_first():
    stream = coding().partial_fit(X32)  # Learning would begin again once there are twice as many.
    with pytest.raises(
        InputError, match=r"'sample_weight' parameter must be up to 4.3e.09 times the mean weight"
    ):
        stream.partial_fit(X32[:50], sample_weight=np.full(50, 1e40))


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(parts.values()))
def test_rows_far_away_are_refused_or_found_soon(parts):
    fitted = coding(**parts, max_epochs=60).fit(X)
    for rows in (X * 1e300, X32 * np.float32(1e37)):
        with pytest.raises(InputError, match="'X' parameter must differ from mean_"):
            fitted.transform(rows)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = fitted.transform(X * 1e6)
    assert time.perf_counter() - started < 2.0
    assert np.isfinite(codes).all()
    np.testing.assert_array_less(np.abs(fitted.inverse_transform(codes) - X * 1e6).mean(), 1e6)


def test_hopeless_rows_are_given_up():
    """In float32 rounding keeps these rows above the tolerance."""
    model = SparseCodingModel(torch.eye(6)[:, :3], torch.ones(3), torch.tensor(1e-4))
    started = time.perf_counter()
    with pytest.warns(ConvergenceWarning, match="or got no closer for many"):
        LowRankInference(2, tolerance=1e-9, max_iterations=10**6)(torch.tensor(X32), model)
    with pytest.warns(ConvergenceWarning, match="or got no closer for many"):
        DiagonalInference(tolerance=1e-9, max_iterations=10**6)(torch.tensor(X32), model)
    assert time.perf_counter() - started < 10.0


@pytest.mark.parametrize("learner", [OnlineEM(), BatchEM()])
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.tensor(X).half(), {}, "'data' must be of float32 or float64; got torch.float16"),
        (X * 1e160, {}, r"'data' must lie within ±1.2e\+77 in torch.float64; got 1200 entries beyond"),
        (X32 * np.float32(1e-30), {}, "'data' must hold zeros alone or a value beyond 3.3e-10"),
        (X * np.nan, {}, "'data' must have an entry that was seen"),
        (
            np.where(X > 3, np.inf, X),
            {},
            "'data' must be finite, or NaN where not seen; got .* infinite entries",
        ),
        (X, {"heldout": X * np.nan}, "'heldout' must have an entry that was seen"),
        (X, {"heldout": X * np.inf}, "'heldout' must be finite"),
        (
            X,
            {"sample_weight": np.full(200, np.nan)},
            "'sample_weight' parameter must be >= 0; got 200 others",
        ),
        (X, {"sample_weight": np.zeros(200)}, "'sample_weight' parameter must have a finite sum above zero"),
        (X, {"sample_weight": np.ones(3)}, r"'sample_weight' parameter must have shape \(200,\); got \(3,\)"),
        (
            X,
            {"init": np.ones((6, 3)) * [1, 0, 1]},
            "'init' array must have columns of finite length above zero",
        ),
        (X, {"init": np.full((6, 3), np.nan)}, "'init' array must have columns .* got 3 others"),
        (X, {"device": "gpu"}, "'device' parameter must be one that PyTorch can compute on.*; got 'gpu'"),
        (X, {"device": "meta"}, "'device' parameter must be one that PyTorch can compute on.*; got 'meta'"),
        (X, {"device": "cuda:99"}, "'device' parameter must be one that PyTorch can compute on"),
    ],
)
def test_what_train_cannot_use_is_named(learner, data, options, message):
    with pytest.raises(InputError, match=message) as caught:
        train(learner, data, n_components=3, epochs=1, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["fit", "transform", "partial_fit", "score"])
def test_the_device_is_checked_before_work(method):
    fitted = coding().fit(X).set_params(device="gpu")
    with pytest.raises(InputError, match="'device' parameter must be one that PyTorch can compute on"):
        getattr(fitted, method)(X)


@pytest.mark.parametrize("solver", [DiagonalInference(), LowRankInference(2), FullInference()])
def test_a_model_without_noise_is_refused(solver):
    model = SparseCodingModel(torch.eye(6)[:, :3], torch.ones(3), torch.tensor(1e-40))
    with pytest.raises(
        InputError, match=r"'noise_variance' of the model must be at least 5.4e-20 in torch.float32"
    ):
        solver(torch.tensor(X32), model)


@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.parametrize(
    ("data", "size"),
    [
        (np.zeros((9, 3)), 1.0),
        (np.zeros((9, 3), np.float32), 1.0),
        (np.full((7, 3), 0.1), 0.1),
        (np.array([[3.0, 4.0]]), 12.5**0.5),
    ],
)
def test_data_without_spread_keep_a_floor_of_their_size(data, size, algorithm):
    with pytest.warns(ConvergenceWarning, match="noise variance reached its floor, 1e-06 of"):
        fitted = coding(algorithm=algorithm).fit(data)
    assert fitted.noise_variance_ == pytest.approx(1e-6 * size**2)
    assert not fitted.converged_


def test_weight_on_identical_rows_is_data_without_spread():
    rows, weights = X.copy(), np.zeros(200)
    rows[:9], weights[:9] = rows[0], 1.0
    for algorithm in ("batch", "online"):
        fitted = coding(algorithm=algorithm).fit(rows, sample_weight=weights)
        np.testing.assert_array_equal(fitted.mean_, rows[0])


def test_columns_that_were_never_seen_are_named():
    rows = X.copy()
    rows[:, 2] = np.nan
    with pytest.warns(UserWarning, match="nothing is learned of columns 2 of 'X', which hold NaN alone"):
        fitted = coding().fit(rows)
    assert fitted.mean_[2] == 0.0
    assert np.isfinite(fitted.transform(rows)).all()


def test_the_floor_of_rounded_data_is_the_variance_of_rounding():
    rounded = torch.tensor(np.round(X * 4.0) / 4.0)
    assert float(Floors.from_sample(rounded).noise_variance) == pytest.approx(0.25**2 / 12.0)
    mixed = rounded.clone()
    mixed[:, 1] = torch.tensor(X[:, 1])
    for sample in (torch.tensor(X), mixed):
        floors = Floors.from_sample(sample)
        assert float(floors.noise_variance) == pytest.approx(1e-6 * float(floors.mean_square))
    coarse = Floors.from_sample(torch.tensor(X > 2.0).double())
    assert float(coarse.noise_variance) == pytest.approx(0.01 * float(coarse.mean_square))


def test_scores_of_digits_are_not_decided_by_outliers():
    """In the first third some pixels are always 0 that are not 0 later."""
    digits = load_digits().data
    few, many = (SparseCoding(h, random_state=0, max_epochs=150).fit(digits[:599]) for h in (32, 64))
    scores = many.score_samples(digits[599:])
    assert many.noise_variance_ >= 1 / 12 - 1e-9
    assert abs(scores.mean() - np.median(scores)) < 20.0
    assert scores.mean() > few.score(digits[599:])


@pytest.mark.slow
def test_a_grid_search_on_digits_finds_an_honest_best():
    """Some pixels vary in one half of these rows alone; with a noise floor of 1e-6 they cost 1,000 nats."""
    digits, folds = load_digits().data[:900], KFold(2)
    search = GridSearchCV(SparseCoding(random_state=0), {"n_components": [48, 64, 100]}, cv=folds)
    search.fit(digits)
    scores = [search.cv_results_[f"split{k}_test_score"] for k in range(2)]
    assert np.isfinite(scores).all()
    assert np.ptp(scores) < 50.0
    others = GridSearchCV(PCA(), {"n_components": [10, 20, 30, 40, 48]}, cv=folds).fit(digits)
    assert search.best_score_ > others.best_score_


@pytest.mark.parametrize("algorithm", ["batch", "online"])
def test_every_learner_shows_its_progress(algorithm, capsys):
    coding(algorithm=algorithm, max_epochs=12, verbose=1, tol=0.0).fit(X)
    lines = capsys.readouterr().out.splitlines()
    if algorithm == "batch":
        assert [line.split(":")[0] for line in lines] == [
            f"iteration {k} of at most 12" for k in (1, 2, 5, 10)
        ]
    else:
        assert [line.split(":")[0] for line in lines] == [f"epoch {k} of 12" for k in range(13)]
        assert all(line.endswith(" s left") for line in lines[1:])
    assert all("ELBO" in line and "noise variance" in line for line in lines)


def test_the_default_number_of_components_is_bounded():
    fitted = SparseCoding(random_state=0, max_epochs=1).fit(RNG.normal(size=(30, 300)))
    assert fitted.components_.shape == (256, 300)


@pytest.mark.parametrize("inference", ["encoder", "refined"])
@pytest.mark.parametrize(("learned", "given"), [(X, X32), (X32, X)])
def test_encoders_take_rows_of_another_dtype(inference, learned, given):
    fitted = coding(inference=inference, max_epochs=2).fit(learned)
    codes = fitted.transform(given)
    assert codes.dtype == given.dtype
    np.testing.assert_allclose(codes, fitted.transform(learned), rtol=1e-3, atol=1e-3)
    assert np.isfinite(fitted.score(given))


def test_rows_without_weight_do_not_count_however_far_they_are():
    """Neither for the noise that steps begin with nor for its floor, also where hardly a row has any."""
    rng = np.random.default_rng(0)
    data = np.concatenate([1e6 * rng.normal(size=(20_000, 5)), rng.laplace(size=(400, 2)) @ np.eye(2, 5)])
    data[20_000:] += 0.1 * rng.normal(size=(400, 5))
    weights = np.repeat([0.0, 1.0], [20_000, 400])
    settings = {"n_components": 2, "epochs": 3, "batch_size": 4096}
    for learner in (OnlineEM(), RefinedEM()):
        noise = float(train(learner, data, sample_weight=weights, **settings).model.noise_variance)
        assert noise == pytest.approx(0.01, rel=0.2)
    stream = coding().partial_fit(data, sample_weight=weights)
    assert stream.noise_variance_ < 0.1
