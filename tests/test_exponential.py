"""The exponential prior, its density against SciPy's, and estimators whose codes are never negative."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.datasets import load_digits
from sklearn.decomposition import MiniBatchDictionaryLearning

import oracles
from conftest import untimed
from entrosparse import SparseCoding
from entrosparse.errors import InputError
from entrosparse.inference import ExactFactorialInference
from entrosparse.learning import BatchEM, Callback, Checkpoints, OnlineEM, evaluate, train
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.priors import Exponential, Laplace

PRIOR = Exponential()
SCALE = torch.tensor(0.7, dtype=torch.float64)
RNG = np.random.default_rng(0)
ATOMS = RNG.normal(size=(3, 6))
X = RNG.exponential(size=(300, 3)) @ ATOMS + 0.1 * RNG.normal(size=(300, 6))
SWEEPS = ExactFactorialInference(0.0, 2)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def coding(**options):
    settings = {"prior": "exponential", "covariance": "exact-factorial", "max_epochs": 200, "random_state": 0}
    return SparseCoding(3, **settings | options)


@pytest.fixture(scope="module")
def digits():
    return load_digits().data


# --- the prior


def test_density_entropy_and_samples_are_those_of_scipy(generator):
    density = stats.expon(scale=0.7)
    z = torch.linspace(-1.0, 5.0, 25, dtype=torch.float64)
    torch.testing.assert_close(PRIOR.log_prob(z, SCALE), torch.as_tensor(density.logpdf(z.numpy())))
    expected = oracles.entropy_by_quadrature(density.logpdf, 0.0, 60.0)
    assert float(PRIOR.entropy(SCALE)) == pytest.approx(expected, abs=1e-9)
    assert float(PRIOR.deviation(SCALE)) == pytest.approx(density.std())
    samples = PRIOR.sample(5000, SCALE[None], generator)[:, 0]
    assert stats.kstest(samples.numpy(), density.cdf).pvalue > 1e-4


def test_optimal_scale_maximizes_the_mean_log_prob():
    statistic = PRIOR.statistic(torch.rand(9, dtype=torch.float64)).mean()

    def loss(log_scale):
        return -float(PRIOR.expected_log_prob(statistic, torch.tensor(np.exp(log_scale))))

    found = np.exp(optimize.minimize_scalar(loss, bounds=(-5, 5), options={"xatol": 1e-9}).x)
    optimum = PRIOR.optimal_scale(statistic)
    assert float(optimum) == pytest.approx(found, rel=1e-6)
    assert float(PRIOR.expected_log_prob(statistic, optimum)) == pytest.approx(-float(PRIOR.entropy(optimum)))


@pytest.mark.parametrize("prior", [Exponential(), Laplace()])
def test_slopes_are_those_of_the_density_and_gamma_multiplies_them(prior):
    left, right = prior.slopes(SCALE)
    z = torch.tensor([0.4, 1.4], dtype=torch.float64)
    assert float(right) == pytest.approx(-float(prior.log_prob(z, SCALE).diff()))
    assert float(left) == pytest.approx(-float(prior.log_prob(-z, SCALE).diff().nan_to_num(-torch.inf)))
    tempered = prior.slopes(prior.tempered_scale(SCALE, 3.0))
    torch.testing.assert_close(tempered, (3.0 * left, 3.0 * right))


# --- learning


@pytest.mark.parametrize("algorithm", ["batch", "online"])
def test_codes_are_never_negative_and_atoms_are_found_with_their_sign(algorithm):
    fitted = coding(algorithm=algorithm, max_epochs={"batch": 600, "online": 60}[algorithm]).fit(X)
    codes = fitted.transform(X)
    assert (codes >= 0.0).all()
    assert (fitted.mean_ == 0.0).all()
    truth = ATOMS.T / np.linalg.norm(ATOMS, axis=1)
    match = match_atoms(torch.as_tensor(fitted.components_.T), torch.as_tensor(truth))
    assert float(match.cosine.min()) > 0.98
    found = fitted.components_[match.indices]
    assert ((found * truth.T).sum(1) > 0.98).all()
    assert fitted.noise_variance_ == pytest.approx(0.01, rel=0.2)
    assert float(fitted.entropies(X).elbo) == pytest.approx(fitted.score(X), abs=0.05)
    assert fitted.score(X) > coding(prior="laplace").fit(X).score(X) + 0.5
    posterior = fitted.posterior(X[:5])
    assert (posterior.sample(20) >= 0.0).all()
    samples, _ = fitted.sample(20_000)
    np.testing.assert_allclose(samples.mean(0), X.mean(0), atol=0.2)


def test_data_in_other_units_missing_entries_and_weights(rng):
    gaps = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    one, other = coding().fit(gaps), coding().fit(1e6 * gaps)
    np.testing.assert_allclose(other.components_, one.components_, atol=1e-6)
    np.testing.assert_allclose(other.transform(1e6 * gaps), 1e6 * one.transform(gaps), rtol=1e-4, atol=1.0)
    filled = one.inverse_transform(one.transform(gaps))
    missing = np.isnan(gaps)
    error = np.abs(filled - X)[missing].mean()
    assert error < 0.4 * np.abs(np.nanmean(gaps, axis=0) - X)[missing].mean()
    weight = rng.integers(0, 3, len(X))
    weighted, repeated = coding().fit(X, sample_weight=weight), coding().fit(np.repeat(X, weight, axis=0))
    np.testing.assert_array_equal(weighted.components_, repeated.components_)


@pytest.mark.parametrize("prior", ["laplace", "exponential"])
@pytest.mark.parametrize("annealing", ["prior", "likelihood", "tempering"])
def test_annealing_ends_at_the_bound(prior, annealing):
    fitted = coding(prior=prior, annealing=annealing, max_epochs=12, batch_size=100).fit(X)
    assert (fitted.history_[-1]["gamma"], fitted.history_[-1]["delta"]) == (1.0, 1.0)
    assert fitted.score(X) > coding(prior=prior, max_epochs=12).fit(X).score(X) - 0.3


def test_batches_that_pass_once_go_on_with_the_sign():
    stream = coding(max_epochs=None)
    for part in np.array_split(X, 3):
        stream.partial_fit(part)
    assert (stream.mean_ == 0.0).all()
    assert (stream.transform(X) >= 0.0).all()
    assert stream.score(X) > coding(max_epochs=1).fit(X).score(X)


@pytest.mark.parametrize("prior", [Exponential(), Laplace()])
@pytest.mark.parametrize("learner", [OnlineEM(SWEEPS), BatchEM(SWEEPS)])
def test_learning_goes_on_from_checkpoints(tmp_path, learner, prior):
    settings = {"n_components": 3, "epochs": 3, "batch_size": 100, "prior": prior, "seed": 1}
    keep = Checkpoints(tmp_path, every_seconds=0.0)
    epochs = []

    class Cut(Callback):
        def on_epoch(self, model, record):
            epochs.append(record.epoch)
            if record.epoch == 2 and epochs.count(2) == 1:
                raise KeyboardInterrupt
            return False

    with pytest.raises(KeyboardInterrupt):
        train(learner, X, checkpoints=keep, callbacks=(Cut(),), **settings)
    found, expected = train(learner, X, checkpoints=keep, **settings), train(learner, X, **settings)
    assert torch.equal(found.model.dictionary, expected.model.dictionary)
    assert untimed(found.history) == untimed(expected.history)


def test_parts_that_do_not_go_together_are_refused_before_work():
    message = "Gaussian posterior .* exponential prior .* must be 'exact-factorial'"
    for covariance in ("diagonal", "low-rank", "full"):
        with pytest.raises(InputError, match=message):
            coding(covariance=covariance).fit(X)
        with pytest.raises(InputError, match=message):
            coding(covariance=covariance).partial_fit(X)
    with pytest.raises(InputError, match=message):
        coding(inference="refined").fit(X)
    with pytest.raises(InputError, match=r"exact factorial .*; Gaussian has none"):
        coding(prior="gaussian").fit(X)
    with pytest.raises(InputError, match="must be 'diagonal' or 'low-rank' for inference='encoder'"):
        coding(prior="laplace", inference="encoder").fit(X)


def test_models_are_kept_in_files(tmp_path):
    model = SparseCodingModel(
        torch.eye(3).double(), torch.ones(3).double(), torch.tensor(0.1).double(), PRIOR
    )
    model.save(tmp_path / "model.safetensors")
    assert SparseCodingModel.load(tmp_path / "model.safetensors").prior == PRIOR


@pytest.mark.slow
def test_digits_beside_the_non_negative_dictionary_of_scikit_learn(digits):
    """Our bound on held-out rows under their dictionary, with λ and σ² at their optimum, is below ours."""
    rows, heldout = digits[:1200], torch.as_tensor(digits[1200:])
    options = {"n_components": 32, "max_epochs": 400, "random_state": 0}
    ours = SparseCoding(prior="exponential", covariance="exact-factorial", **options).fit(rows)
    codes = ours.transform(digits[1200:])
    assert (codes >= 0.0).all()
    bounds = {}
    for penalty in (1.0, 4.0, 16.0):
        theirs = MiniBatchDictionaryLearning(
            32,
            alpha=penalty,
            positive_code=True,
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
            max_iter=50,
            random_state=0,
        ).fit(rows)
        dictionary = unit_columns(torch.as_tensor(theirs.components_.T))
        start = SparseCodingModel(
            dictionary, torch.full((32,), 5.0).double(), torch.tensor(10.0).double(), PRIOR
        )
        turn = evaluate(start, torch.as_tensor(rows), SWEEPS)
        bounds[penalty] = float(evaluate(turn.model, heldout, SWEEPS).terms.elbo)
    mine = SparseCodingModel(
        torch.as_tensor(ours.components_.T.copy()),
        torch.as_tensor(ours.prior_scale_),
        torch.tensor(ours.noise_variance_).double(),
        PRIOR,
    )
    bound = float(evaluate(mine, heldout, SWEEPS).terms.elbo)
    assert bound > max(bounds.values())


def test_steps_do_not_overshoot_because_codes_have_a_mean(rng):
    """Learning begins near the optimum here, and must not leave it."""
    atoms = np.abs(rng.normal(size=(16, 6))) * (rng.random((16, 6)) < 0.5) + 0.01
    atoms /= np.linalg.norm(atoms, axis=0)
    data = rng.exponential(size=(3000, 6)) @ atoms.T + 0.1 * rng.normal(size=(3000, 16))
    learner = OnlineEM(ExactFactorialInference(0.0, 4))
    result = train(learner, data[500:], data[:500], n_components=6, epochs=3, prior=Exponential())
    assert result.history[-1].elbo > result.history[0].elbo
    assert result.history[-1].noise_variance == pytest.approx(0.01, rel=0.2)
