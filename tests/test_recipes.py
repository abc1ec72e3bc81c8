"""The one table of parts."""

import pytest
import torch

from conftest import make_model
from entrosparse.errors import InputError
from entrosparse.inference import DiagonalInference, stationarity
from entrosparse.learning import AdamLearner, OnlineEM, RefinedEM
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.priors import PRIORS, Exponential, Gaussian, GeneralizedGaussian, Laplace, SkewedLaplace
from entrosparse.recipes import COVARIANCES, INFERENCES, Recipe


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_covariance_finds_its_posterior_exactly_in_the_end(generator, covariance, dtype):
    model = make_model(8, 4, generator, dtype)
    x, _ = model.sample(20, generator)
    parts, recipe = COVARIANCES[covariance], Recipe(covariance, rank=9)
    for solver in (recipe.learning_inference(4), recipe.final_inference(4, dtype)):
        posterior = solver(x, model)
        assert isinstance(posterior, parts.posterior)
    assert float(stationarity(posterior, x, model).max()) < 2e-3
    if parts.encoder is not None:
        encoder = recipe.encoder(4)(x, model, generator)
        assert isinstance(encoder(x), parts.posterior)


def test_names_stand_for_parts():
    learners = {name: type(Recipe(inference=name).learner(4)) for name in INFERENCES}
    assert learners == {"variational": OnlineEM, "encoder": AdamLearner, "refined": RefinedEM}
    assert [Recipe(prior=name).prior_part for name in PRIORS] == [
        Laplace(),
        Gaussian(),
        GeneralizedGaussian(),
        SkewedLaplace(),
        Exponential(),
    ]
    solver = DiagonalInference(1e-2)
    recipe = Recipe(solver, prior=Gaussian())
    assert recipe.learning_inference(4) is recipe.final_inference(4, torch.float32) is solver
    assert recipe.prior_part == Gaussian()
    assert recipe.batch_learner(4, 0.1).inference is solver


def quoted(names):
    return ", ".join(map(repr, names))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"covariance": "banded"},
            f"'covariance' parameter must be one of {quoted(COVARIANCES)}; got",
        ),
        ({"inference": "magic"}, f"'inference' parameter must be one of {quoted(INFERENCES)}; got 'magic'"),
        (
            {"prior": "cauchy"},
            f"'prior' parameter must be one of {quoted(PRIORS)}; got 'cauchy'",
        ),
        (
            {"noise": "pink"},
            f"'noise' parameter must be one of {quoted(LIKELIHOODS)}; got 'pink'",
        ),
        (
            {"noise": "laplace", "covariance": "exact-factorial"},
            "'noise' parameter must be 'isotropic' or 'per-feature' for covariance='exact-factorial'; got",
        ),
        ({"rank": 0}, "'rank' parameter must be an integer >= 1; got 0"),
        (
            {"covariance": "full", "inference": "encoder"},
            "must be 'diagonal' or 'low-rank' for inference='enc",
        ),
        ({"covariance": "exact-factorial", "inference": "encoder"}, "no encoder"),
        ({"covariance": "exact-factorial", "prior": "gaussian"}, "exact factorial .*; Gaussian has none"),
        ({"prior": "exponential"}, "Gaussian posterior .* exponential prior .* must be 'exact-factorial'"),
        (
            {"covariance": "exact-factorial", "prior": "exponential", "inference": "refined"},
            "Gaussian posterior .* exponential",
        ),
    ],
)
def test_unknown_names_and_parts_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Recipe(**arguments).validate()
