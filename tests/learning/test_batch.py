import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import oracles
from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.images import bars
from entrosparse.inference import DiagonalInference, FullInference
from entrosparse.learning import BatchEM, evaluate, exact_em
from entrosparse.learning._initialization import initial_model
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel
from entrosparse.priors import PRIORS
from entrosparse.reproduce.shared.dictionary_lbfgs import LBFGS, _Profile

LEARNING_FULL = FullInference(tolerance=0.0, max_iterations=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_bars_recovered(seed):
    data = bars(1000, rng=seed)
    x, truth = torch.tensor(data.data), torch.tensor(data.dictionary)
    result = BatchEM(10, inference=LEARNING_FULL).fit(x, generator(seed))
    assert result.converged
    assert float(match_atoms(result.model.dictionary, truth).cosine.min()) > 0.95
    generating = initial_model(x, 10, truth, PRIORS["laplace"], generator())
    reference = evaluate(generating, x, FullInference(tolerance=1e-4)).terms.elbo
    assert result.terms.elbo > reference - 0.05


@pytest.mark.parametrize("seed", range(3))
def test_full_posteriors_find_all_bars(seed):
    assert_bars_recovered(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_full_posteriors_find_all_bars_always(seed):
    assert_bars_recovered(seed)


def test_gaussian_prior_reaches_the_maximum_likelihood_of_probabilistic_pca():
    digits = load_digits().data / 16.0
    x = torch.tensor(digits - digits.mean(0))
    learner = BatchEM(
        8, prior=PRIORS["gaussian"], inference=LEARNING_FULL, tolerance=1e-7, max_iterations=3000
    )
    result = learner.fit(x, generator())
    maximum = PCA(8).fit(digits).score(digits)
    assert float(result.terms.elbo) == pytest.approx(maximum, abs=1e-3)


def test_noise_cools_no_faster_than_allowed_and_ends_at_its_optimum():
    x, _ = make_model(12, 6, generator()).sample(300, generator(1))
    result = BatchEM(6, cooling=0.9).fit(x, generator())
    assert result.converged
    assert len(result.history) > np.log(
        float(result.model.noise_variance / (0.5 * x.square().mean()))
    ) / np.log(0.9)
    model = result.model
    again = evaluate(model, x)
    assert float(again.terms.elbo) == pytest.approx(float(result.terms.elbo), abs=0.01)
    torch.testing.assert_close(again.model.noise_variance, model.noise_variance, rtol=0.02, atol=0)


def test_restarts_keep_the_best():
    x, _ = make_model(8, 10, generator()).sample(200, generator(1))
    learner = BatchEM(10, init="random", max_iterations=60)
    source = generator(5)
    one_by_one = [float(learner.fit(x, source).terms.elbo) for _ in range(3)]
    best = BatchEM(10, init="random", max_iterations=60, n_init=3).fit(x, generator(5))
    assert float(best.terms.elbo) == max(one_by_one)
    assert len(set(one_by_one)) == 3
    with pytest.raises(InputError, match="'n_init'"):
        BatchEM(10, n_init=0).fit(x, generator())


@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(0.9, 1.2)])
@pytest.mark.parametrize("inference", [DiagonalInference(tolerance=1e-9), FullInference(tolerance=1e-9)])
def test_profile_gradient_is_the_finite_difference(weights, inference):
    """The envelope theorem, with codes, λ and σ² eliminated."""
    x, _ = make_model(5, 2, generator()).sample(60, generator(1))
    start = initial_model(x, 2, "data", PRIORS["laplace"], generator(2))  # neither latent collapses
    problem = _Profile(x, start, inference, weights)
    point = 1.3 * start.dictionary.numpy().ravel()

    def loss(flat):
        for _ in range(5):  # more turns than one evaluation takes
            value, _ = problem.loss(flat.numpy())
        return torch.tensor(value, dtype=torch.float64)

    loss(torch.tensor(point))
    _, gradient = problem.loss(point)
    expected = oracles.finite_difference(loss, torch.tensor(point), step=1e-4).numpy()
    np.testing.assert_allclose(gradient, expected, atol=2e-4)
    assert np.abs(gradient).max() > 0.01


def test_lbfgs_ends_where_exact_em_rests():
    x, _ = make_model(8, 3, generator()).sample(100, generator(1))
    result = LBFGS(3, tolerance=1e-9).fit(x, generator(3))
    assert result.converged
    steps = exact_em(x, result.model, inference=DiagonalInference(tolerance=1e-6))
    values = [float(next(steps).terms.elbo) for _ in range(20)]
    assert values[-1] - values[0] < 1e-4
    assert values[0] == pytest.approx(float(result.terms.elbo), abs=1e-4)


def test_ica_starts_near_the_bars():
    data = bars(1000, rng=0)
    x, truth = torch.tensor(data.data), torch.tensor(data.dictionary)
    cosines = [
        match_atoms(
            initial_model(x, 10, init, PRIORS["laplace"], generator()).dictionary, truth
        ).cosine.mean()
        for init in ("ica", "data")
    ]
    assert cosines[0] > cosines[1] + 0.1


def test_ica_makes_up_for_missing_dimensions_with_data():
    model = make_model(8, 3, generator())
    x = model.sample(500, generator(1))[1] @ model.dictionary.T  # spans 3 of 8 dimensions
    atoms = initial_model(x, 6, "ica", PRIORS["laplace"], generator()).dictionary
    assert float(match_atoms(atoms[:, :3], model.dictionary).cosine.min()) > 0.95
    directions = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close((directions @ atoms[:, 3:]).amax(0), torch.ones(3).double())
    flat = initial_model(torch.zeros(5, 8), 2, "ica", PRIORS["laplace"], generator()).dictionary
    torch.testing.assert_close(flat.norm(dim=0), torch.ones(2))


def test_a_start_counts_neither_repetitions_nor_order():
    x, _ = make_model(8, 4, generator()).sample(100, generator(1))
    weights = torch.arange(100) % 3
    repeated = x.repeat_interleave(weights, dim=0).flip(0)
    for init in ("ica", "data"):
        starts = [
            initial_model(*data, PRIORS["laplace"], generator(), share).dictionary
            for *data, share in ((x, 6, init, weights), (repeated, 6, init, None))
        ]
        torch.testing.assert_close(*starts)


def test_batch_learners_keep_the_dtype():
    x, _ = make_model(8, 4, generator(), torch.float32).sample(100, generator(1))
    for learner in (BatchEM(4, max_iterations=20), LBFGS(4, max_iterations=5)):
        model = learner.fit(x, generator()).model
        assert isinstance(model, SparseCodingModel)
        assert {model.dictionary.dtype, model.prior_scale.dtype, model.noise_variance.dtype} == {
            torch.float32
        }
