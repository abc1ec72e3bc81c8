from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from conftest import make_model
from entrosparse.errors import InputError, NumericalError
from entrosparse.inference import (
    DiagonalEncoder,
    DiagonalInference,
    LowRankEncoder,
    LowRankInference,
    RefinedInference,
)
from entrosparse.learning import (
    AdamLearner,
    Batch,
    Learner,
    OnlineEM,
    RefinedEM,
    evaluate,
    initial_model,
    train,
)
from entrosparse.posteriors import Diagonal
from entrosparse.priors import PRIORS

SOLVERS = {
    DiagonalEncoder: lambda iterations: DiagonalInference(0.0, iterations),
    LowRankEncoder: lambda iterations: LowRankInference(5, 0.0, iterations),
}


@pytest.fixture
def task(generator):
    """Codes that the data correlate: 2000 training and 200 held-out rows of a complete dictionary."""
    model = make_model(12, 12, generator, torch.float32)
    x, _ = model.sample(2200, generator)
    return model, x[:2000].numpy(), x[2000:].numpy()


def learn(learner, task, **arguments):
    """Train, and return the last state beside the result."""
    states = []

    class Watched(Learner):
        def start(self, *start):
            states.append(learner.start(*start))
            return states[-1]

        def step(self, *step):
            states.append(learner.step(*step))
            return states[-1]

    settings = {"n_components": 12, "epochs": 10, "batch_size": 100} | arguments
    result = train(Watched(), *task[1:], **settings)
    return result, states[-1]


def elbo(model, heldout, inference):
    return float(evaluate(model, torch.tensor(heldout), inference, tolerance=1e-3).terms.elbo)


@pytest.mark.parametrize("encoder", [DiagonalEncoder, LowRankEncoder])
def test_adam_learns_and_leaves_an_amortization_gap(task, encoder):
    result, state = learn(AdamLearner(encoder), task)
    last = result.history[-1]
    assert last.elbo > result.history[0].elbo + 3.0
    assert last.elbo == pytest.approx(elbo(result.model, task[2], state.amortized), abs=1e-3)
    exact = SOLVERS[encoder](10)
    assert 0.0 < elbo(result.model, task[2], exact) - last.elbo < 1.5
    result.model.validate()
    assert last.noise_variance == pytest.approx(float(evaluate(
        result.model, torch.tensor(task[1]), state.amortized).model.noise_variance), rel=0.1)  # fmt: skip


def test_low_rank_and_refinement_close_the_gap(task):
    """At one dictionary, that of the data."""
    best, reached = {}, {}
    for encoder, solver in SOLVERS.items():
        still = OnlineEM(inference=solver(1), step_size=0.0)
        result, state = learn(RefinedEM(still, encoder), task, init=task[0].dictionary)
        torch.testing.assert_close(result.model.dictionary, task[0].dictionary)
        best[encoder], reached[encoder], refined = (
            elbo(result.model, task[2], inference)
            for inference in (solver(10), state.amortized, RefinedInference(state.amortized, solver(5)))
        )
        assert best[encoder] - refined < 0.2 * (best[encoder] - reached[encoder])
    assert reached[LowRankEncoder] > best[DiagonalEncoder]
    assert reached[LowRankEncoder] < best[LowRankEncoder]


def test_refined_learning_does_as_well_as_online_em(task):
    """Dictionaries are judged by exact inference, and averaged over starts, for optima differ."""
    online, settings = OnlineEM(), {"n_components": 12, "init": "data"}
    learner = RefinedEM(replace(online, inference=DiagonalInference(tolerance=0.0, max_iterations=3)))
    heldout, reached = torch.tensor(task[2]), {}
    for name, each in (("refined", learner), ("plain", online)):
        runs = [train(each, *task[1:], epochs=10, batch_size=100, seed=seed, **settings) for seed in range(2)]
        reached[name] = np.mean([float(evaluate(run.model, heldout).terms.elbo) for run in runs])
        assert np.mean([run.history[-1].elbo - run.history[0].elbo for run in runs]) > 3.0
    assert reached["refined"] > reached["plain"] - 0.5


@pytest.mark.parametrize("learner", [AdamLearner(), RefinedEM()])
def test_repeats_with_the_seed(task, learner):
    runs = [train(learner, *task[1:], n_components=6, epochs=1, batch_size=200, seed=s) for s in (3, 3, 4)]
    assert torch.equal(runs[0].model.dictionary, runs[1].model.dictionary)
    assert runs[0].history[-1].elbo == runs[1].history[-1].elbo
    assert not torch.equal(runs[0].model.dictionary, runs[2].model.dictionary)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("learner", [AdamLearner(LowRankEncoder), RefinedEM(OnlineEM(), LowRankEncoder)])
def test_keeps_the_dtype(task, learner, dtype):
    data, heldout = (part.astype(dtype) for part in task[1:])
    result, state = learn(learner, (None, data, heldout), n_components=6, epochs=1)
    assert {result.model.dictionary.dtype, result.model.prior_scale.dtype} == {torch.as_tensor(data).dtype}
    assert all(p.dtype == result.model.dictionary.dtype for p in state.amortized.encoder.parameters())


def test_annealing_loses_no_latent(task):
    """Without a floor on λ nearly all vanish at γ = 10."""
    result = train(AdamLearner(), *task[1:], n_components=12, epochs=25, batch_size=100, annealing="prior")
    assert result.history[-1].dead_latents == 0
    assert result.history[-1].elbo > result.history[0].elbo + 1.5


def test_steps_end_at_zero_and_gradients_are_cut(task, generator):
    x = torch.tensor(task[1][:100])
    learner, start = AdamLearner(), initial_model(x, 12, "ica", PRIORS["laplace"], generator)
    state = learner.start(start, x, generator)
    stepped = learner.step(state, Batch(x, progress=1.0))
    torch.testing.assert_close(stepped.model.dictionary, start.dictionary)
    cut = AdamLearner(max_gradient_norm=1e-3)
    state = cut.step(cut.start(start, x, generator), Batch(x))
    gradients = [p.grad for group in state.optimizer.param_groups for p in group["params"]]
    assert float(torch.cat([g.flatten() for g in gradients]).norm()) == pytest.approx(1e-3, rel=1e-3)
    moved = (state.model.dictionary - start.dictionary).abs().max()
    assert float(moved) > 0.0


class Linear(nn.Module):
    """A module of one's own, with a switch."""

    def __init__(self, x, model, generator, huge=1.0):
        super().__init__()
        self.mean = nn.Linear(x.shape[1], model.n_components)
        self.huge, self.modes = huge, []

    def forward(self, x):
        self.modes.append(self.training)
        mean = self.huge * self.mean(x)
        return Diagonal(mean, torch.full_like(mean, 0.2))


def test_any_module_will_do(task):
    result, state = learn(AdamLearner(Linear), task, n_components=6)
    assert result.history[-1].elbo > result.history[0].elbo + 1.0
    modes = state.amortized.encoder.modes
    assert sum(modes) == 200  # one for each minibatch, and the others in evaluation mode
    assert not modes[-1]


def test_bad_encoders_are_named(task):
    x, learner = torch.tensor(task[1]), AdamLearner(partial(Linear, huge=1e25))
    state = learner.start(
        initial_model(x, 6, "ica", PRIORS["laplace"], torch.Generator()), x, torch.Generator()
    )
    with pytest.raises(NumericalError, match="the objective of the encoder Linear is not finite; lower"):
        learner.step(state, Batch(x))
    with pytest.raises(InputError, match=r"the encoder Linear must return a Posterior.* got Tensor"):
        train(AdamLearner(lambda x, model, generator: nn.Linear(12, 6)), *task[1:], n_components=6)
    with pytest.raises(InputError, match=r"'rank'.* from 1 to 6.* got 7"):
        train(AdamLearner(partial(LowRankEncoder, rank=7)), *task[1:], n_components=6)
