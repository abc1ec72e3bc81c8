"""Estimators come back from files with the same bits; what is no estimator is refused."""

import json
import pickle
import shutil
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError

from commands import SMALL, write_images
from entrosparse import SparseCoding
from entrosparse.app.cli import main
from entrosparse.app.runs import load_run
from entrosparse.errors import FileFormatError, InputError
from entrosparse.inference import DiagonalInference, FullInference, LowRankInference
from entrosparse.learning import AdamLearner, BatchEM, OnlineEM
from entrosparse.likelihoods import LIKELIHOODS, LaplaceNoise, PerFeature
from entrosparse.priors import PRIORS, Exponential, Gaussian, GeneralizedGaussian, SkewedLaplace
from entrosparse.recipes import COVARIANCES, INFERENCES, Recipe

ATTRIBUTES = ("components_", "prior_scale_", "prior_shape_", "noise_variance_", "mean_", "history_", "elbo_",
              "n_iter_", "converged_", "n_features_in_")  # fmt: skip


def make_data(dtype=np.float64, missing=False):
    rng = np.random.default_rng(7)
    X = 3.0 + rng.laplace(size=(60, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(60, 6))
    if missing:
        X[rng.random(X.shape) < 0.1] = np.nan
    return X.astype(dtype)


def learn(coding, X, way="fit"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "fit":
            return coding.fit(X)
        for first in range(0, len(X), 20):
            coding.partial_fit(X[first : first + 20])
        return coding


def through_a_file(coding, folder):
    coding.save(folder / "coding.safetensors")
    assert [path.name for path in folder.iterdir()] == ["coding.safetensors"]
    return SparseCoding.load(folder / "coding.safetensors")


def assert_same(found, expected, X):
    """All that a user can ask for, to the last bit."""
    assert repr(found.get_params()) == repr(expected.get_params())
    for name in ATTRIBUTES:
        one, other = getattr(found, name), getattr(expected, name)
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
    for method in ("transform", "score_samples"):
        np.testing.assert_array_equal(getattr(found, method)(X), getattr(expected, method)(X))
    assert found.score(X) == expected.score(X)
    for one, other in zip(found.sample(5), expected.sample(5), strict=True):
        np.testing.assert_array_equal(one, other)
    one, other = found.posterior(X), expected.posterior(X)
    assert type(one) is type(other)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.marginal_scale(), other.marginal_scale())


def recipes():
    for inference in INFERENCES:
        for covariance in COVARIANCES:
            for prior in PRIORS:
                for noise in LIKELIHOODS:
                    try:
                        Recipe(covariance, 5, inference, prior, noise).validate()
                    except InputError:
                        continue
                    yield inference, covariance, prior, noise


QUICK = {  # Each value of each setting is there.
    "variational-diagonal-laplace-isotropic",
    "variational-low-rank-gaussian-per-feature",
    "variational-full-generalized-gaussian-isotropic",
    "variational-exact-factorial-exponential-isotropic",
    "variational-diagonal-skewed-laplace-laplace",
    "encoder-diagonal-laplace-per-feature",
    "encoder-low-rank-generalized-gaussian-laplace",
    "refined-diagonal-laplace-isotropic",
    "refined-low-rank-skewed-laplace-isotropic",
    "refined-full-gaussian-per-feature",
    "refined-exact-factorial-laplace-isotropic",
}
RECIPES = {"-".join(recipe): recipe for recipe in recipes()}


@pytest.mark.parametrize("way", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=[pytest.mark.slow] * (r not in QUICK), id="-".join(r)) for r in recipes()],
)
def test_every_recipe_comes_back_with_the_same_bits(tmp_path, recipe, way):
    inference, covariance, prior, noise = recipe
    dtype = np.float32 if len(prior + noise) % 2 else np.float64
    X = make_data(dtype, missing=inference == "variational")
    coding = SparseCoding(
        4, covariance=covariance, rank=2, prior=prior, noise=noise, inference=inference, max_epochs=2,
        batch_size=20, random_state=3,
    )  # fmt: skip
    learn(coding, X, way)
    assert_same(through_a_file(coding, tmp_path), coding, X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("inference", ["variational", "encoder", "refined"])
def test_either_precision_comes_back(tmp_path, inference, dtype):
    X = make_data(dtype)
    coding = learn(SparseCoding(3, inference=inference, max_epochs=2, random_state=0), X)
    again = through_a_file(coding, tmp_path)
    assert again.transform(X).dtype == dtype
    assert_same(again, coding, X)
    assert_same(again, coding, X.astype(np.float32))  # Data of either precision.
    assert_same(again, coding, X.astype(np.float64))


@pytest.mark.parametrize(
    "parameters",
    [
        {"covariance": DiagonalInference(1e-3, 100)},
        {"covariance": LowRankInference(2)},
        {"covariance": FullInference(tolerance=1e-5), "prior": Gaussian(), "noise": PerFeature()},
        {"prior": GeneralizedGaussian(0.7)},
        {"prior": GeneralizedGaussian("shared"), "noise": LaplaceNoise()},
        {"prior": SkewedLaplace(), "annealing": "prior", "algorithm": "online"},
        {"prior": Exponential(), "covariance": "exact-factorial"},
        {"algorithm": OnlineEM(FullInference(0.0, 1), step_size=0.5)},
        {"algorithm": BatchEM(cooling=0.5)},
        {"n_components": None, "rank": np.int64(2), "tol": np.float32(1e-3), "warm_start": np.bool_(True)},
        {"n_components": 7, "init": "random", "n_init": 2},
    ],
    ids=str,
)
def test_parameters_come_back(tmp_path, parameters):
    X = make_data()
    coding = learn(SparseCoding(**({"n_components": 3, "max_epochs": 3, "random_state": 1} | parameters)), X)
    again = through_a_file(coding, tmp_path)
    for name, value in coding.get_params().items():
        assert getattr(again, name) == value
    coding.set_params(**again.get_params())  # Numbers of NumPy become those of Python.
    assert_same(again, coding, X)


def test_paths_come_back_as_texts(tmp_path):
    coding = learn(
        SparseCoding(2, max_epochs=3, random_state=0, checkpoint_dir=tmp_path / "kept"), make_data()
    )
    assert through_a_file(coding, tmp_path).checkpoint_dir == str(tmp_path / "kept")


def test_names_of_features_come_back(tmp_path):
    frame = pd.DataFrame(make_data(), columns=[f"größe {k}" for k in range(6)])
    coding = learn(SparseCoding(2, max_epochs=3, random_state=0), frame)
    again = through_a_file(coding, tmp_path)
    np.testing.assert_array_equal(again.feature_names_in_, coding.feature_names_in_)
    assert again.feature_names_in_.dtype == object
    np.testing.assert_array_equal(again.transform(frame), coding.transform(frame))
    with pytest.raises(ValueError, match="feature names"):
        again.transform(frame.rename(columns={"größe 0": "other"}))
    assert not hasattr(through_a_file(learn(coding, make_data()), tmp_path), "feature_names_in_")


@pytest.mark.parametrize("inference", ["variational", "encoder", "refined"])
def test_partial_fit_goes_on_as_after_a_fit(tmp_path, inference):
    X = make_data()
    coding = learn(SparseCoding(3, inference=inference, max_epochs=2, random_state=0), X)
    again = through_a_file(coding, tmp_path)
    for each in (again, coding):
        learn(each, X, "partial_fit")
    assert_same(again, coding, X)


def test_a_stream_begins_anew_from_its_model(tmp_path):
    X = make_data()
    coding = learn(SparseCoding(3, random_state=0), X, "partial_fit")
    again = through_a_file(coding, tmp_path)
    coding._stream = None  # What fit does.
    for each in (again, coding):
        learn(each, X, "partial_fit")
    assert again.n_iter_ == 6
    assert_same(again, coding, X)


def test_a_file_of_a_file_is_the_same(tmp_path):
    coding = learn(SparseCoding(3, inference="refined", max_epochs=2, random_state=0), make_data())
    again = through_a_file(coding, tmp_path)
    tensors = load_file(tmp_path / "coding.safetensors")
    once_more = through_a_file(again, tmp_path)
    for name, tensor in load_file(tmp_path / "coding.safetensors").items():
        assert torch.equal(tensor, tensors[name])
    assert_same(once_more, coding, make_data())
    pickle.loads(pickle.dumps(again)).fit(make_data())


def test_low_rank_streams_have_their_rank_without_a_number_of_components():
    coding = learn(
        SparseCoding(covariance="low-rank", rank=3, inference="refined"), make_data(), "partial_fit"
    )
    assert coding.posterior(make_data()).factor.shape == (60, 6, 3)


# --- what cannot be saved


@dataclass(frozen=True)
class OwnInference:
    """A solver of the user's own."""

    def __call__(self, *arguments, **settings):
        return DiagonalInference()(*arguments, **settings)

    def rows_at_once(self, n_components):
        return 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("covariance", OwnInference()),
        ("annealing", lambda epoch: None),
        ("init", np.ones((6, 2))),
        ("random_state", np.random.RandomState(0)),
        ("algorithm", AdamLearner()),
    ],
)
def test_a_parameter_that_no_file_holds_is_named(tmp_path, name, value):
    coding = learn(SparseCoding(2, max_epochs=3, random_state=0), make_data())
    coding.set_params(**{name: value})
    with pytest.raises(InputError, match=f"the '{name}") as caught:
        coding.save(tmp_path / "coding.safetensors")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    coding.set_params(**{name: SparseCoding().get_params()[name]}).save(tmp_path / "coding.safetensors")


def test_parts_that_do_not_go_together_are_not_saved(tmp_path):
    coding = learn(
        SparseCoding(2, covariance="exact-factorial", prior="exponential", max_epochs=3), make_data()
    )
    coding.set_params(covariance="diagonal", prior="laplace")
    with pytest.raises(InputError, match="exponential"):
        coding.save(tmp_path / "coding.safetensors")


def test_nothing_that_is_not_fitted_is_saved(tmp_path):
    with pytest.raises(NotFittedError):
        SparseCoding().save(tmp_path / "coding.safetensors")


# --- what is no estimator


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of an estimator with an encoder."""
    path = tmp_path_factory.mktemp("saved") / "coding.safetensors"
    parameters = {"prior": GeneralizedGaussian(), "noise": "per-feature", "inference": "refined"}
    learn(SparseCoding(2, max_epochs=2, random_state=0, **parameters), make_data()).save(path)
    return path


def said(**words):
    def change(tensors, metadata, state):
        state.update(words)

    return change


def given(**parameters):
    return lambda tensors, metadata, state: state["parameters"].update(parameters)


def changed(name, change):
    return lambda tensors, metadata, state: tensors.update({name: change(tensors[name]).contiguous()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors, metadata, state: metadata.update(format="entrosparse-model-1"),
            "not an entrosparse est",
        ),
        (lambda tensors, metadata, state: metadata.pop("encoder"), "must hold the parts"),
        (lambda tensors, metadata, state: tensors.update(extra=torch.ones(2)), "must hold the parts"),
        (lambda tensors, metadata, state: tensors.pop("units.mean"), "must hold"),
        (lambda tensors, metadata, state: state.pop("scale"), "must say"),
        (said(scale=-1.0), "must say"),
        (said(scale=float("nan")), "must say"),
        (said(scale=1e300), "finite scales"),
        (said(scale=1), "must say"),
        (said(elbo=float("inf")), "must say"),
        (said(n_iter=-1), "must say"),
        (said(n_iter=True), "must say"),
        (said(converged=1), "must say"),
        (said(feature_names=["a"]), "a name for each of 6"),
        (said(feature_names=[1] * 6), "must say"),
        (said(parameters=[]), "must say"),
        (given(colour="red"), "colour"),
        (given(n_components=0), "n_components"),
        (given(n_components=10**400), "n_components"),
        (given(covariance="banded"), "covariance"),
        (given(covariance={"part": "OnlineEM"}), "OnlineEM with the settings inference, step_size"),
        (given(covariance={"part": "Laplace"}), "covariance"),
        (given(prior={"part": "DiagonalInference", "tolerance": 1e-3, "max_iterations": 9}), "prior"),
        (given(prior={"part": "GeneralizedGaussian", "shape": 7}), "shape"),
        (given(algorithm={"part": "OnlineEM", "inference": "full", "step_size": 1.0}), "algorithm.inference"),
        (
            given(algorithm={"part": "OnlineEM", "inference": {"part": "Laplace"}, "step_size": 1.0}),
            "inference",
        ),
        (given(covariance={"part": "os.system"}), "one of DiagonalInference"),
        (given(init=[[1.0]]), "init"),
        (changed("model.prior_shape", lambda t: t + 5.0), "prior_shape"),
        (given(tol=float("nan")), "tol"),
        (given(random_state=-1), "random_state"),
        (changed("units.mean", lambda t: t[:2]), "shape"),
        (changed("units.mean", lambda t: t.float()), "dtype"),
        (changed("units.mean", lambda t: t * torch.nan), "finite"),
        (changed("units.spread", lambda t: -t), "> 0"),
        (changed("history.records", lambda t: t[:, :3]), "shape"),
        (changed("history.records", lambda t: t[0]), "shape"),
        (changed("history.records", lambda t: t / 0.0), "finite"),
        (changed("model.prior_scale", lambda t: -t), "> 0"),
        (changed("encoder.unit", lambda t: -t), "> 0"),
    ],
)
def test_what_is_no_estimator_is_refused(whole, tmp_path, change, message):
    path = tmp_path / "coding.safetensors"
    tensors, metadata, state = contents(whole)
    change(tensors, metadata, state)
    save_file(tensors, path, metadata=metadata | {"estimator": json.dumps(state)})
    with pytest.raises(FileFormatError, match=message) as caught:
        SparseCoding.load(path)
    assert "\n" not in str(caught.value)


def contents(path):
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    metadata = json.loads(header)["__metadata__"]
    return load_file(path), metadata, json.loads(metadata["estimator"])


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{", "3", '{"a": 1e400}'])
def test_an_estimator_that_says_something_else_is_refused(whole, tmp_path, text):
    tensors, metadata, _ = contents(whole)
    save_file(tensors, tmp_path / "a", metadata=metadata | {"estimator": text})
    with pytest.raises(FileFormatError, match="estimator"):
        SparseCoding.load(tmp_path / "a")


@pytest.mark.parametrize(("name", "most"), [("_MOST_RECORDS", 1), ("LONGEST", 100)])
def test_histories_and_names_have_a_largest_size(whole, tmp_path, monkeypatch, name, most):
    coding = SparseCoding.load(whole)
    monkeypatch.setattr(f"entrosparse.estimators._saved.{name}", most)
    monkeypatch.setattr("entrosparse._plain.LONGEST", 100 if name == "LONGEST" else 2**24)
    with pytest.raises(InputError, match="an estimator that is saved must have a history of at most"):
        coding.save(tmp_path / "coding.safetensors")
    with pytest.raises(FileFormatError, match="at most"):
        SparseCoding.load(whole)


def test_what_a_file_says_cannot_steer_a_terminal(whole, tmp_path):
    tensors, metadata, state = contents(whole)
    for parameters in ({"\x1b[31m": 1}, {"\x1b[31m": []}, {"prior": "\x1b[31m\n"}):
        text = json.dumps(state | {"parameters": parameters})
        save_file(tensors, tmp_path / "a", metadata=metadata | {"estimator": text})
        with pytest.raises(FileFormatError) as caught:
            SparseCoding.load(tmp_path / "a")
        assert str(caught.value).isprintable()


def test_an_older_file_has_fewer_parameters(whole, tmp_path):
    tensors, metadata, state = contents(whole)
    del state["parameters"]["warm_start"]
    save_file(tensors, tmp_path / "a", metadata=metadata | {"estimator": json.dumps(state)})
    assert SparseCoding.load(tmp_path / "a").warm_start is False


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match="nowhere' does not exist"):
        SparseCoding.load(tmp_path / "nowhere")


# --- runs


@pytest.fixture(scope="module", params=["variational", "encoder", "refined"])
def run(request, pages_without_figures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = write_images(folder / "images")
    settings = ["--noise=per-feature", "--prior=generalized-gaussian", "--prior-shape=0.8"]
    arguments = ["fit", str(images), *SMALL, *settings, f"--inference={request.param}"]
    assert main([*arguments, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_an_estimator_of_a_run_finds_the_codes_of_the_command(run, tmp_path):
    found = load_run(run)
    np.save(tmp_path / "rows.npy", found.examples)
    arguments = ["encode", run, tmp_path / "rows.npy", "--rows", "--out", tmp_path / "codes.npz"]
    assert main([str(argument) for argument in arguments]) == 0
    coding = SparseCoding.from_run(run)
    with np.load(tmp_path / "codes.npz") as codes:
        np.testing.assert_array_equal(coding.transform(found.examples), codes["mean"])
    assert (coding.n_components, coding.noise, coding.prior) == (6, "per-feature", GeneralizedGaussian(0.8))
    assert (coding.n_iter_, coding.n_features_in_, len(coding.history_)) == (2, 16, 3)
    assert coding.elbo_ == found.history[-1].elbo
    np.testing.assert_array_equal(coding.components_, found.model.dictionary.T.numpy())
    np.testing.assert_array_equal(coding.mean_, np.zeros(16))
    assert coding.score(found.examples) > -50.0
    (tmp_path / "saved").mkdir()
    assert_same(through_a_file(coding, tmp_path / "saved"), coding, found.examples)
    learn(coding, found.examples, "partial_fit")


def test_a_run_that_was_cut_off_has_not_converged(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    text = (copy / "history.csv").read_text().splitlines()
    (copy / "history.csv").write_text("\n".join(text[:-1]) + "\n")
    assert not SparseCoding.from_run(copy).converged_
    with pytest.raises(FileFormatError, match="nowhere"):
        SparseCoding.from_run(tmp_path / "nowhere")
