"""The parts that docs/extending.md makes, wherever the package takes such a part."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import documents
from conftest import make_model, untimed
from entrosparse import (
    AdamLearner,
    Batch,
    Callback,
    Checkpoints,
    EntropyWeights,
    Full,
    GeneralizedGaussian,
    Laplace,
    LaplaceNoise,
    OnlineEM,
    PerFeature,
    SparseCoding,
    Statistics,
    entropy_elbo,
    evaluate,
    reproduce,
    train,
    with_optimal_scales,
)
from entrosparse.errors import InputError
from entrosparse.inference import stationarity
from entrosparse.recipes import COVARIANCES
from entrosparse.reproduce.framework import running
from entrosparse.reproduce.framework.results import load_results

RNG = np.random.default_rng(3)
ROWS = RNG.laplace(size=(330, 4)) @ RNG.normal(size=(4, 6)) + 0.1 * RNG.normal(size=(330, 6))
WEIGHTS = EntropyWeights(prior=1.7, likelihood=0.8)


def part(number, name, *arguments, **settings):
    """Make a part by the class of that name in a block of the document."""
    return getattr(documents.module("docs/extending.md", number), name)(*arguments, **settings)


def prior(shape=1.5):
    return part(0, "GeneralisedGaussian", shape)


def isotropic(n_turns=50):
    return part(1, "IsotropicInference", n_turns)


def stochastic(**settings):
    return part(2, "StochasticEM", **settings)


def learn(learner, **settings):
    """250 rows in minibatches of 64: four steps an epoch, eight in all."""
    settings = {"n_components": 4, "epochs": 2, "batch_size": 64} | settings
    return train(learner, ROWS[:250], ROWS[250:], **settings)


class CutOff(Callback):
    """Ends learning after a number of minibatches."""

    def __init__(self, batches):
        self.left = batches

    def on_batch(self, samples_seen):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def learn_until(batches, folder, learner, **settings):
    with pytest.raises(KeyboardInterrupt):
        learn(learner, callbacks=[CutOff(batches)], checkpoints=Checkpoints(folder, 0.0), **settings)


def assert_same(found, expected):
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert torch.equal(getattr(found.model, name), getattr(expected.model, name))
    assert untimed(found.history) == untimed(expected.history)


# --- a prior

GAUSSIAN = [name for name in COVARIANCES if name != "exact-factorial"]


@pytest.mark.parametrize("covariance", GAUSSIAN)
def test_the_estimator_takes_the_prior(covariance):
    coding = SparseCoding(4, prior=prior(), covariance=covariance, max_epochs=1000, random_state=0, tol=1e-2)
    assert coding.fit(ROWS).converged_
    assert np.isfinite(coding.score(ROWS))
    # the mean of the bounds at the learned scales is the sum of the entropies, if these scales are optimal
    assert float(coding.entropies(ROWS).elbo) == pytest.approx(coding.score(ROWS), abs=0.05)


@pytest.mark.parametrize("covariance", GAUSSIAN)
def test_the_solvers_find_the_optimum_under_the_prior(generator, covariance):
    model = make_model(6, 4, generator, prior=prior())
    x, _ = model.sample(20, generator)
    posterior = COVARIANCES[covariance].final(2, torch.float64)(x, model, WEIGHTS)
    assert float(stationarity(posterior, x, model, WEIGHTS).max()) < 2e-3


def test_exact_factorial_posteriors_refuse_the_prior():
    message = "exact factorial posteriors need .*'slopes'; GeneralisedGaussian has none"
    with pytest.raises(InputError, match=message):
        SparseCoding(4, prior=prior(), covariance="exact-factorial").fit(ROWS)


@pytest.mark.parametrize("shape", [1.0, 1.2, 2.0])
def test_the_prior_of_other_shapes(shape, generator):
    model = make_model(6, 4, generator, prior=prior(shape))
    x, _ = model.sample(50, generator)
    turn = evaluate(model, x)
    assert turn.model.prior == prior(shape)
    if shape == 1.0:
        same = evaluate(replace(model, prior=Laplace()), x)
        assert float(turn.terms.elbo) == pytest.approx(float(same.terms.elbo), abs=1e-9)


@pytest.mark.parametrize("learner", [OnlineEM(), AdamLearner()], ids=lambda learner: type(learner).__name__)
def test_learners_of_minibatches_take_the_prior(learner):
    result = learn(learner, prior=prior())
    assert result.model.prior == prior()
    assert result.history[-1].elbo > result.history[0].elbo


def test_learning_with_the_prior_goes_on_from_checkpoints(tmp_path):
    learn_until(3, tmp_path, OnlineEM(), prior=prior())
    with pytest.raises(InputError, match=r"'prior\.shape' was 1\.5, is 1\.2"):
        learn(OnlineEM(), prior=prior(1.2), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(InputError, match="'prior' was GeneralisedGaussian, is Laplace"):
        learn(OnlineEM(), checkpoints=Checkpoints(tmp_path))
    found = learn(OnlineEM(), prior=prior(), checkpoints=Checkpoints(tmp_path))
    assert_same(found, learn(OnlineEM(), prior=prior()))


def test_shapes_that_are_not_concave_are_refused():
    with pytest.raises(InputError, match=r"\[1, 2\]"):
        prior(0.5)


# --- a covariance


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_the_isotropic_solver_finds_the_optimum(generator, missing, start):
    model = make_model(6, 4, generator)
    x, _ = model.sample(20, generator)
    if missing:
        x[torch.rand(x.shape, generator=generator) < 0.2] = torch.nan
    first = isotropic(1)(x, model, WEIGHTS) if start else None
    posterior = isotropic()(x, model, WEIGHTS, first)
    assert float(stationarity(posterior, x, model, WEIGHTS).max()) < 1e-9
    # its record is that of the full posteriors with the same covariances
    full = Full(posterior.mean, torch.linalg.cholesky(posterior.covariance()))
    found, expected = (Statistics.collect(q, x, model.dictionary, model.prior) for q in (posterior, full))
    for name in ("residual", "second_moment", "cross_moment", "prior_statistic"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(entropy_elbo(found).elbo, entropy_elbo(expected).elbo)


def test_the_estimator_takes_the_solver():
    rows = ROWS.copy()
    rows[::7, 2] = np.nan
    coding = SparseCoding(4, covariance=isotropic(5), random_state=0, tol=1e-3).fit(rows)
    covariance = coding.posterior(rows[:2]).covariance()
    torch.testing.assert_close(covariance, covariance[:, :1, :1] * torch.eye(4, dtype=torch.float64))
    assert np.isfinite(coding.transform(rows)).all()
    # a diagonal posterior is never worse than an isotropic one
    diagonal = SparseCoding(4, random_state=0, tol=1e-3).fit(rows)
    assert coding.elbo_ < diagonal.elbo_ + 0.05


def test_online_em_takes_the_solver():
    result = learn(OnlineEM(isotropic(5)))
    assert result.history[-1].elbo > result.history[0].elbo


# --- a learner


@pytest.mark.parametrize("annealing", ["none", "prior"])
def test_the_learner_goes_on_from_checkpoints_to_the_same_bits(tmp_path, annealing):
    for batches in (1, 3, 2):
        learn_until(batches, tmp_path, stochastic(), annealing=annealing)
    with pytest.raises(InputError, match=r"'learner\.decay' was 0\.6, is 0\.7"):
        learn(stochastic(decay=0.7), annealing=annealing, checkpoints=Checkpoints(tmp_path))
    found = learn(stochastic(), annealing=annealing, checkpoints=Checkpoints(tmp_path))
    assert_same(found, learn(stochastic(), annealing=annealing))


def test_the_learner_learns_with_the_prior_and_the_solver():
    result = learn(stochastic(inference=isotropic(5)), prior=prior())
    assert result.history[-1].elbo > result.history[0].elbo


@pytest.mark.parametrize("noise", [PerFeature(), LaplaceNoise()], ids=lambda noise: noise.name)
def test_the_learner_learns_with_any_noise_and_with_shapes(noise):
    result = learn(stochastic(), prior=GeneralizedGaussian(), likelihood=noise)
    assert result.history[-1].elbo > result.history[0].elbo
    assert result.model.prior_shape.std() > 0.0
    # A single batch is all that the averages hold, so that the scales are those of its statistics.
    learner, x = stochastic(), torch.from_numpy(ROWS)
    stepped = learner.step(learner.start(result.model, x, torch.Generator()), Batch(x)).model
    posterior = learner.inference(x, result.model)
    statistics = Statistics.collect(
        posterior, x, result.model.dictionary, result.model.prior, likelihood=noise
    )
    best = with_optimal_scales(result.model, statistics)
    torch.testing.assert_close(stepped.noise_variance, best.noise_variance)
    torch.testing.assert_close(stepped.prior_shape, best.prior_shape)


def test_the_estimator_takes_the_learner():
    settings = {"algorithm": stochastic(), "max_epochs": 5, "batch_size": 64, "random_state": 0}
    coding = SparseCoding(4, **settings).fit(ROWS)
    again = SparseCoding(4, **settings).fit(ROWS)
    assert coding.n_iter_ == 5
    assert coding.history_[-1]["elbo"] > coding.history_[0]["elbo"]
    assert np.array_equal(coding.components_, again.components_)
    streamed = SparseCoding(4, **settings).partial_fit(ROWS[:100]).partial_fit(ROWS[100:200])
    assert streamed.n_iter_ == 2
    assert np.isfinite(streamed.score(ROWS))


def test_the_learner_counts_the_weights_of_rows():
    """A row of weight 2 is a row that comes twice, in one batch of everything."""
    twice = np.concatenate([ROWS[:100], ROWS[:50]])
    weight = np.r_[np.full(50, 2.0), np.ones(50)]
    settings = {"n_components": 4, "epochs": 2, "init": np.eye(6)[:, :4]}
    one = train(stochastic(), twice, ROWS[250:], batch_size=150, **settings)
    other = train(stochastic(), ROWS[:100], ROWS[250:], batch_size=100, sample_weight=weight, **settings)
    torch.testing.assert_close(one.model.dictionary, other.model.dictionary)


# --- an experiment


def test_the_experiment_runs_as_a_row_of_the_table(tmp_path, monkeypatch):
    module = documents.module("docs/extending.md", 3)
    monkeypatch.setitem(sys.modules, "entrosparse.reproduce.experiments.three_entropies", module)
    monkeypatch.setitem(reproduce.EXPERIMENTS, "three-entropies", "three_entropies")
    for scale in ("smoke", "small"):
        running.reproduce(["three-entropies"], tmp_path / scale, scale, {})
        (result,) = load_results(tmp_path / scale)
        (claim,) = result.claims
        assert claim.holds
        assert claim.statement in (tmp_path / scale / "report.html").read_text(encoding="utf-8")
