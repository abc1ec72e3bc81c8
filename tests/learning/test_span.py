"""Few rows of many features are learned from in the space that they span, to the same model."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from entrosparse.inference import DiagonalInference
from entrosparse.learning import BatchEM, train
from entrosparse.learning._span import Span
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.recipes import Recipe
from kinds import COVARIANCES_AND_PRIORS

RNG = np.random.default_rng(5)
WIDE = RNG.laplace(size=(15, 3)) @ RNG.normal(size=(3, 60)) + 0.5 * RNG.normal(size=(15, 60))
SETTINGS = {"n_components": 3, "epochs": 12, "seed": 0}
pytestmark = pytest.mark.filterwarnings("ignore::entrosparse.errors.ConvergenceWarning")


@pytest.fixture
def spans(monkeypatch):
    """The spans that were made, in which learning ran."""
    made, init = [], Span.__init__
    monkeypatch.setattr(Span, "__init__", lambda self, *data: (made.append(self), init(self, *data))[1])
    return made


def learn(monkeypatch, learner, data, spans, **options):
    """What is learned in the span, and with all features."""
    inside = train(learner, data, **SETTINGS | options)
    assert len(spans) == 1
    monkeypatch.setattr(Span, "where_it_pays", lambda *data: None)
    return inside, train(learner, data, **SETTINGS | options)


def assert_same(found, expected):
    for name in ("dictionary", "prior_scale", "noise_variance"):
        torch.testing.assert_close(
            getattr(found.model, name), getattr(expected.model, name), rtol=1e-8, atol=1e-8
        )
    assert found.model.likelihood == expected.model.likelihood
    for one, other in zip(found.history, expected.history, strict=True):
        assert one.elbo == pytest.approx(other.elbo, rel=1e-8)


@pytest.mark.parametrize(("covariance", "prior"), COVARIANCES_AND_PRIORS)
def test_learns_what_is_learned_with_all_features(monkeypatch, spans, covariance, prior):
    recipe = Recipe(covariance, rank=2, prior=prior)
    learner = BatchEM(recipe.learning_inference(3))
    assert_same(*learn(monkeypatch, learner, WIDE, spans, prior=recipe.prior_part))


@pytest.mark.parametrize("options", [{"annealing": "prior"}, {"heldout": WIDE[:4] + 0.1}])
@pytest.mark.parametrize("init", ["ica", "random"])
def test_weights_annealing_and_other_rows(monkeypatch, spans, init, options):
    """Rows of weight 0 and rows held out are not in the span, and atoms of the start need not be."""
    weights = np.where(np.arange(len(WIDE)) % 3, 2.0, 0.0)
    options = options | {"init": init, "sample_weight": weights}
    assert_same(*learn(monkeypatch, BatchEM(), WIDE, spans, **options))


def test_floors_are_those_of_all_features(monkeypatch, spans):
    """The noise is at its floor, which the rounding of the data gives."""
    inside, whole = learn(
        monkeypatch, BatchEM(cooling=0.3), np.round(4 * WIDE[:, :40]), spans, n_components=5
    )
    assert_same(inside, whole)


@dataclass(frozen=True)
class Own:
    """An inference that nothing is known of."""

    def __call__(self, x, *rest):
        assert x.shape[1] == WIDE.shape[1]
        return DiagonalInference(0.0, 3)(x, *rest)

    def rows_at_once(self, n_components):
        return 100


@pytest.mark.parametrize(
    ("learner", "data", "noise"),
    [
        (BatchEM(Own()), WIDE, "isotropic"),
        (BatchEM(), np.where(RNG.random(WIDE.shape) < 0.1, np.nan, WIDE), "isotropic"),
        (BatchEM(), WIDE, "per-feature"),
        (BatchEM(), WIDE[:, :35], "isotropic"),
    ],
    ids=["an inference of one's own", "missing entries", "noise per feature", "few features"],
)
def test_all_features_are_used_where_they_are_needed(spans, learner, data, noise):
    train(learner, data, **SETTINGS, likelihood=LIKELIHOODS[noise])
    assert not spans
