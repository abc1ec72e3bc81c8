from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError, NumericalError
from entrosparse.images import bars
from entrosparse.inference import FullInference
from entrosparse.learning import Batch, initial_model, take_turn, train
from entrosparse.likelihoods import LaplaceNoise, PerFeature
from entrosparse.metrics import match_atoms
from entrosparse.model import unit_columns
from entrosparse.objectives import analytic_elbo, entropy_elbo, optimal_scales, with_optimal_scales
from entrosparse.posteriors import Diagonal
from entrosparse.priors import Gaussian, Laplace
from entrosparse.reproduce.shared.gradient_em import GradientEM
from entrosparse.reproduce.shared.joint_lbfgs import JointLBFGS
from entrosparse.statistics import Statistics
from kinds import SIGNED

ANNEALED = EntropyWeights(0.8, 0.7)  # with an upper bound


@pytest.fixture
def small(generator):
    """A model and 40 data points of it."""
    model = make_model(8, 3, generator)
    return model, model.sample(40, generator)[0]


@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
@pytest.mark.parametrize("prior", SIGNED.values(), ids=SIGNED)
def test_joint_lbfgs_climbs_to_a_stationary_point(generator, prior, weights):
    """There the best posteriors at the model's λ, σ² gain nothing, and neither does another W."""
    x = make_model(8, 3, generator, prior=prior).sample(40, generator)[0]
    atoms = make_model(8, 3, torch.Generator().manual_seed(5)).dictionary
    start = initial_model(x, 3, atoms, prior, torch.Generator())
    before = start.dictionary.clone()
    learner = JointLBFGS(tolerance=1e-6)
    learned, history = learner.fit(x, start, weights)
    assert torch.equal(start.dictionary, before)  # what is given stays as it is
    assert len(history) < learner.max_calls
    assert learned.validate().prior is prior
    values = [float(terms.objective) for terms in history]
    assert (np.diff(values) > -1e-9).all()
    assert values[-1] > values[0] + 0.05

    inference = FullInference(tolerance=1e-6)
    statistics = take_turn(x, learned, inference, weights).statistics
    assert float(analytic_elbo(statistics, learned, weights).objective) == pytest.approx(values[-1], abs=1e-4)
    dictionary, s = learned.dictionary, weights.likelihood / learned.noise_variance
    gradient = s * (statistics.cross_moment - dictionary @ statistics.second_moment) / len(x)
    gradient = gradient - dictionary * (dictionary * gradient).sum(0)
    assert gradient.abs().max() < 0.02


def test_joint_lbfgs_finds_bars():
    """From their own dictionary moved a little, back to it."""
    data = bars(200, size=3, rng=5)
    x, truth = torch.from_numpy(data.data), torch.from_numpy(data.dictionary)
    moved = truth + 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    assert float(match_atoms(moved, truth).cosine.min()) < 0.9
    learned, _ = JointLBFGS(tolerance=0.02).fit(x, initial_model(x, 6, moved, Laplace(), torch.Generator()))
    assert float(match_atoms(learned.dictionary, truth).cosine.min()) > 0.95


def test_joint_lbfgs_keeps_single_precision_and_stops_after_so_many_calls(small):
    model, x = small
    learned, history = JointLBFGS(max_calls=1).fit(x.float(), model.to(torch.float32))
    assert len(history) == 1
    tensors = (learned.dictionary, learned.prior_scale, learned.noise_variance)
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_each_step_is_lbfgs_and_one_gradient_step(small):
    """With many iterations: W moves along the gradient at the best codes of the minibatch."""
    model, x = small
    learner = GradientEM(learning_rate=0.05, max_iterations=500)
    state = learner.start(model, x, torch.Generator())
    stepped = learner.step(state, Batch(x, ANNEALED, step_factor=0.5))
    after = stepped.model
    best = _best_codes(x, state.model, ANNEALED)
    dictionary = state.model.dictionary.clone().requires_grad_()
    statistics = Statistics.collect(best, x, dictionary, model.prior)
    (gradient,) = torch.autograd.grad(entropy_elbo(statistics, ANNEALED).objective, dictionary)
    dictionary = dictionary.detach()
    gradient = gradient - dictionary * (dictionary * gradient).sum(0)
    step = 0.5 * 0.05 * gradient
    tolerance = {"rtol": 0.0, "atol": 1e-2 * float(step.abs().max())}
    torch.testing.assert_close(after.dictionary, unit_columns(dictionary + step), **tolerance)
    torch.testing.assert_close(stepped.length, (1.0 + step.square().sum(0)).sqrt(), **tolerance)
    prior_scale, noise_variance = optimal_scales(Statistics.collect(best, x, after.dictionary, model.prior))
    torch.testing.assert_close(after.prior_scale, prior_scale, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.noise_variance, noise_variance, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("noise", [PerFeature(), LaplaceNoise()], ids=lambda noise: noise.name)
def test_both_algorithms_follow_the_noise_of_the_model(small, noise):
    model, x = small
    variance = torch.full((x.shape[1],), 0.5, dtype=x.dtype) if noise.per_feature else model.noise_variance
    model = replace(model, likelihood=noise, noise_variance=variance)
    learned, history = JointLBFGS(max_calls=3).fit(x, model)
    assert history[-1].elbo > history[0].elbo
    learner = GradientEM(learning_rate=0.05, max_iterations=200)
    stepped = learner.step(learner.start(model, x, torch.Generator()), Batch(x)).model
    posterior = learner.infer(x, model)
    statistics = Statistics.collect(posterior, x, stepped.dictionary, model.prior, likelihood=noise)
    best = with_optimal_scales(stepped, statistics)
    for found in (learned, stepped):
        assert found.noise_variance.shape == variance.shape
    torch.testing.assert_close(stepped.noise_variance, best.noise_variance)


def _best_codes(x, model, weights):
    """The best diagonal posteriors at the λ, σ² of their own, by a plain optimizer."""
    mean = (x @ model.dictionary).clone().requires_grad_()
    log_scale = torch.full_like(mean, -1.0).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [mean, log_scale], max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        posterior = Diagonal(mean, log_scale.exp())
        statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)
        loss = -entropy_elbo(statistics, weights).objective
        loss.backward()
        return loss

    optimizer.step(closure)
    return Diagonal(mean.detach(), log_scale.detach().exp())


@pytest.mark.parametrize("annealing", ["none", "prior", "likelihood"])
def test_gradient_em_learns_in_the_training_loop(generator, annealing):
    model = make_model(12, 6, generator, torch.float32)
    data, heldout = (model.sample(n, generator)[0].numpy() for n in (300, 200))
    settings = {"n_components": 6, "init": "data", "batch_size": 100, "annealing": annealing}
    result = train(GradientEM(), data, heldout, epochs=8, **settings)
    assert result.history[-1].elbo > result.history[0].elbo + 1.0
    assert result.model.validate().dictionary.dtype == torch.float32
    again = train(GradientEM(), data, heldout, epochs=1, **settings)
    assert again.history[1].elbo == result.history[1].elbo


def test_gradient_em_takes_any_prior(generator):
    model = replace(make_model(12, 6, generator, torch.float32), prior=Gaussian())
    x, _ = model.sample(200, generator)
    learner = GradientEM()
    state = learner.start(initial_model(x, 6, "data", Gaussian(), generator), x, generator)
    for _ in range(3):
        state = learner.step(state, Batch(x))
    assert state.model.validate().prior == Gaussian()


@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
def test_inference_of_gradient_em_reaches_the_best_posteriors_of_the_minibatch(small, weights):
    """At the λ and σ² of the minibatch, whatever those of the model are."""
    model, x = small
    model = replace(model, prior_scale=2.0 * model.prior_scale, noise_variance=4.0 * model.noise_variance)
    found = GradientEM(max_iterations=500).infer(x, model, weights)
    best = _best_codes(x, model, weights)
    torch.testing.assert_close(found.mean, best.mean, rtol=0.0, atol=2e-3)
    torch.testing.assert_close(found.scale, best.scale, rtol=1e-2, atol=0.0)
    assert not found.mean.requires_grad
    assert not found.scale.requires_grad


def test_gradient_em_refuses_weights_of_rows(small):
    model, x = small
    state = GradientEM().start(model, x, torch.Generator())
    with pytest.raises(InputError, match="'sample_weight' parameter must be None"):
        GradientEM().step(state, Batch(x, sample_weight=torch.ones(len(x))))


def test_leaving_the_finite_numbers_is_an_error(small):
    model, x = small
    with pytest.raises(NumericalError, match="scale the data"):
        JointLBFGS().fit(x * float("nan"), model)
    state = GradientEM().start(model, x, torch.Generator())
    with pytest.raises(NumericalError, match="scale the data"):
        GradientEM().step(state, Batch(x * float("nan")))
