"""Priors whose shape is learned: in the estimator, in learning and across checkpoints."""

import numpy as np
import pytest
import torch

from conftest import untimed
from entrosparse import (
    AdamLearner,
    Callback,
    Checkpoints,
    GeneralizedGaussian,
    OnlineEM,
    SkewedLaplace,
    SparseCoding,
    train,
)

H, D = 4, 8
PRIORS = [GeneralizedGaussian(), GeneralizedGaussian("shared"), GeneralizedGaussian(0.7), SkewedLaplace()]


def rows(draw, n=1500):
    """Data of H orthogonal atoms, whose codes are drawn by a function of the generator and the size."""
    rng = np.random.default_rng(0)
    atoms = np.linalg.qr(rng.normal(size=(D, H)))[0]
    return draw(rng, (n, H)) @ atoms.T + 0.05 * rng.normal(size=(n, D))


def power(shape):
    return lambda rng, size: rng.choice([-1, 1], size) * rng.gamma(1 / shape, size=size) ** (1 / shape)


def skewed(rng, size):
    return rng.exponential(1.6, size) - rng.exponential(0.4, size)


@pytest.mark.parametrize(
    ("shape", "learned"),
    [(0.7, "learned"), (1.0, "shared"), pytest.param(1.0, "learned", marks=pytest.mark.slow)],
)
def test_the_shape_of_the_data_is_found(shape, learned):
    X = rows(power(shape))
    coding = SparseCoding(H, prior=GeneralizedGaussian(learned), tol=1e-2, random_state=0).fit(X)
    np.testing.assert_allclose(coding.prior_shape_, shape, atol=0.1)
    if learned == "shared":
        assert len(set(coding.prior_shape_)) == 1
    assert float(coding.entropies(X).elbo) == pytest.approx(coding.score(X), abs=0.02)


def test_the_skew_of_the_data_is_found():
    """Of data that are not centred: codes whose mean is zero have no skew of this kind."""
    model = train(OnlineEM(), rows(skewed), n_components=H, prior=SkewedLaplace(), epochs=20).model
    share = torch.maximum(model.prior_shape, 1.0 - model.prior_shape)
    np.testing.assert_allclose(share, 0.8, atol=0.05)


def test_the_estimator_finds_the_skew_and_keeps_the_mean_in_the_codes():
    X = rows(skewed)
    coding = SparseCoding(H, prior="skewed-laplace", tol=1e-2, random_state=0).fit(X)
    np.testing.assert_allclose(np.maximum(coding.prior_shape_, 1.0 - coding.prior_shape_), 0.8, atol=0.05)
    assert (coding.mean_ == 0.0).all()
    assert coding.score(X) > SparseCoding(H, tol=1e-2, random_state=0).fit(X).score(X) + 0.1
    # Atoms change their sign together with their shape, so that samples have the mean of the data.
    samples, _ = coding.sample(50_000)
    np.testing.assert_allclose(samples.mean(0), X.mean(0), atol=0.05)


@pytest.mark.parametrize("prior", PRIORS[:2], ids=str)
def test_batches_that_pass_once_find_the_shape(prior):
    X = rows(power(0.7), 12_000)
    coding = SparseCoding(H, prior=prior, random_state=0)
    for part in np.split(X, 24):
        coding.partial_fit(part)
    np.testing.assert_allclose(coding.prior_shape_, 0.7, atol=0.1)


@pytest.mark.filterwarnings("ignore:the objective still changed")
@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_missing_entries_and_weights(prior):
    X = rows(power(0.7), 400)
    X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    weights = np.arange(400) % 3
    settings = {"prior": prior, "max_epochs": 30, "random_state": 0}
    coding = SparseCoding(H, **settings).fit(X, sample_weight=weights)
    repeated = SparseCoding(H, **settings).fit(np.repeat(X, weights, axis=0))
    np.testing.assert_allclose(coding.components_, repeated.components_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(coding.prior_shape_, repeated.prior_shape_, rtol=1e-6)
    assert np.isfinite(coding.score_samples(X)).all()


class _CutOff(Callback):
    def __init__(self):
        self.left = 5

    def on_batch(self, samples_seen):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("learner", [OnlineEM(), AdamLearner()], ids=lambda learner: type(learner).__name__)
@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(learner, prior, tmp_path):
    X = rows(power(0.7), 600).astype(np.float32)
    settings = {"n_components": H, "epochs": 3, "batch_size": 128, "prior": prior}
    whole = train(learner, X[:500], X[500:], **settings)
    with pytest.raises(KeyboardInterrupt):
        train(
            learner,
            X[:500],
            X[500:],
            callbacks=[_CutOff()],
            checkpoints=Checkpoints(tmp_path, 0.0),
            **settings,
        )
    resumed = train(learner, X[:500], X[500:], checkpoints=Checkpoints(tmp_path, 0.0), **settings)
    assert untimed(resumed.history) == untimed(whole.history)
    for name in ("dictionary", "prior_scale", "prior_shape"):
        assert torch.equal(getattr(resumed.model, name), getattr(whole.model, name))
    assert whole.history[-1].elbo > whole.history[0].elbo
