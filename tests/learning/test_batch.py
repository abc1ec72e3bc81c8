from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from conftest import make_model
from entrosparse.annealing import prior_annealing, stretched
from entrosparse.errors import ConvergenceWarning
from entrosparse.images import bars
from entrosparse.inference import FullInference
from entrosparse.learning import BatchEM, Callback, OnlineEM, evaluate, initial_model, train
from entrosparse.metrics import match_atoms
from entrosparse.priors import PRIORS

LEARNING_FULL = FullInference(tolerance=0.0, max_iterations=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def learn(learner, x, n_components, epochs=1000, seed=0, converges=True, **settings):
    """Learn from all rows until nothing is gained any more."""
    with nullcontext() if converges else pytest.warns(ConvergenceWarning):
        result = train(learner, x, n_components=n_components, epochs=epochs, seed=seed, **settings)
    assert result.converged == converges
    return result


def assert_bars_recovered(seed):
    data = bars(1000, rng=seed)
    x, truth = torch.tensor(data.data), torch.tensor(data.dictionary)
    result = learn(BatchEM(LEARNING_FULL), data.data, 10, seed=seed)
    assert float(match_atoms(result.model.dictionary, truth).cosine.min()) > 0.95
    generating = initial_model(x, 10, truth, PRIORS["laplace"], generator())
    reference = evaluate(generating, x, FullInference(tolerance=1e-4)).terms.elbo
    assert result.history[-1].elbo > reference - 0.05


def test_full_posteriors_find_all_bars():
    assert_bars_recovered(seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_full_posteriors_find_all_bars_always(seed):
    assert_bars_recovered(seed)


def test_gaussian_prior_reaches_the_maximum_likelihood_of_probabilistic_pca():
    digits = load_digits().data / 16.0
    learner = BatchEM(LEARNING_FULL, tolerance=1e-7)
    result = learn(learner, digits - digits.mean(0), 8, prior=PRIORS["gaussian"], epochs=3000)
    maximum = PCA(8).fit(digits).score(digits)
    assert result.history[-1].elbo == pytest.approx(maximum, abs=1e-3)


def test_noise_cools_no_faster_than_allowed_and_ends_at_its_optimum():
    x, _ = make_model(12, 6, generator()).sample(300, generator(1))
    result = learn(BatchEM(cooling=0.9), x.numpy(), 6)
    assert len(result.history) > np.log(
        float(result.model.noise_variance / (0.5 * x.square().mean()))
    ) / np.log(0.9)
    model = result.model
    again = evaluate(model, x)
    assert float(again.terms.elbo) == pytest.approx(result.history[-1].elbo, abs=0.01)
    torch.testing.assert_close(again.model.noise_variance, model.noise_variance, rtol=0.02, atol=0)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_em_keeps_the_dtype(dtype):
    x, _ = make_model(8, 4, generator()).sample(100, generator(1))
    model = learn(BatchEM(), x.numpy().astype(dtype), 4, epochs=20, converges=False).model
    tensors = (model.dictionary, model.prior_scale, model.noise_variance)
    assert {tensor.numpy().dtype for tensor in tensors} == {np.dtype(dtype)}


def test_batch_em_is_a_learner_like_the_others():
    """It anneals, tells callbacks of every iteration, and can be judged by held-out rows."""
    x = make_model(8, 4, generator()).sample(1250, generator(1))[0].numpy()
    seen = []

    class Watch(Callback):
        def on_batch(self, samples_seen):
            seen.append(samples_seen)

        def on_epoch(self, model, record):
            seen.append((record.epoch, record.gamma))
            return record.epoch == 8

    with pytest.warns(ConvergenceWarning, match="after 8 epochs"):
        result = train(
            BatchEM(),
            x[:250],
            x[250:],
            n_components=4,
            epochs=100,
            annealing="prior",
            seed=1,
            callbacks=(Watch(),),
        )
    assert seen[:5] == [(0, 10.0), 250, (1, 10.0), 500, (2, 8.0)]
    assert seen[-1] == (8, 1.0)
    heldout = evaluate(result.model, torch.tensor(x[250:])).terms.elbo
    assert result.history[-1].elbo == pytest.approx(float(heldout), abs=0.1)


def test_annealed_batch_em_ends_as_well_as_a_plain_run():
    x = make_model(12, 6, generator()).sample(500, generator(1))[0].numpy()
    plain, annealed = (
        learn(BatchEM(), x, 6, epochs=1000, annealing=annealing).history[-1]
        for annealing in ("none", stretched(prior_annealing, 100))
    )
    assert annealed.elbo > plain.elbo - 0.2
    assert annealed.dead_latents == 0
    assert annealed.gamma == 1.0


def test_without_held_out_rows_the_elbo_is_that_of_the_training_rows():
    x = make_model(8, 4, generator()).sample(300, generator(1))[0]
    for learner, epochs in ((BatchEM(), 300), (OnlineEM(), 10)):
        result = train(learner, x.numpy(), n_components=4, epochs=epochs, batch_size=50)
        expected = evaluate(result.model, x).terms
        assert result.history[-1].elbo == pytest.approx(float(expected.elbo), abs=0.05)


def test_batch_em_says_when_the_noise_is_at_its_floor():
    model = make_model(12, 3, generator())
    x = (model.prior.sample(300, model.prior_scale, generator(1)) @ model.dictionary.T).numpy()
    with pytest.warns(ConvergenceWarning, match="floor"):
        result = train(BatchEM(), x, n_components=3, init=model.dictionary, epochs=3000)
    assert not result.converged
    assert float(result.model.noise_variance) == pytest.approx(1e-6 * float((x**2).mean()), rel=1e-3)


def test_iterations_that_run_out_are_a_warning():
    x = make_model(8, 4, generator()).sample(100, generator(1))[0].numpy()
    with pytest.warns(ConvergenceWarning, match="after 5 epochs; raise the epochs"):
        result = train(BatchEM(), x, n_components=4, epochs=5)
    assert not result.converged
    assert len(result.history) == 5
