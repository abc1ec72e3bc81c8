from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from conftest import make_model
from entrosparse.annealing import SCHEDULES, EntropyWeights
from entrosparse.errors import ConvergenceWarning, InputError
from entrosparse.images import bars
from entrosparse.inference import STARTING_SWEEPS, DiagonalInference
from entrosparse.learning import (
    Batch,
    Callback,
    Curvature,
    Floors,
    OnlineEM,
    evaluate,
    exact_em,
    exact_sweep,
    initial_model,
    preconditioned_step,
    take_turn,
    train,
    with_fitting_scales,
)
from entrosparse.learning._m_step import scale_step
from entrosparse.metrics import match_atoms
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import optimal_scales
from entrosparse.posteriors import Diagonal
from entrosparse.priors import Laplace
from entrosparse.statistics import Statistics


@pytest.fixture
def patches(generator):
    """Data with sparse causes: 600 training and 200 held-out rows, float32."""
    model = make_model(20, 12, generator, torch.float32)
    x, _ = model.sample(800, generator)
    return model, x[:600].numpy(), x[600:].numpy()


@pytest.mark.parametrize("weights", [EntropyWeights(), EntropyWeights(1.5, 1.0), EntropyWeights(1.0, 0.4)])
@pytest.mark.parametrize("source", ["bars", "sparse", "missing"])
def test_exact_em_never_lowers_the_objective(generator, weights, source):
    if source == "bars":
        x = torch.tensor(bars(150, rng=3).data)
    else:
        x, _ = make_model(16, 24, generator).sample(120, generator)
    complete = x
    if source == "missing":
        x = x.masked_fill(torch.rand(x.shape, generator=generator) < 0.3, torch.nan)
    model = initial_model(complete, 10, "data", Laplace(), generator)
    steps = exact_em(x, model, weights, DiagonalInference(tolerance=1e-7, max_iterations=100_000))
    values = [float(next(steps).terms.objective) for _ in range(15)]
    assert (np.diff(values) >= -1e-9 * np.abs(values[:-1])).all()
    assert values[-1] > values[0] + 0.1


def test_exact_sweep_is_a_coordinate_maximum(generator):
    model = make_model(8, 5, generator)
    x, z = model.sample(40, generator)
    posterior = Diagonal(z, torch.full_like(z, 0.2))
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)

    def residual(dictionary):
        return float(posterior.expected_residual(dictionary, x).sum())

    start = make_model(8, 5, generator).dictionary
    swept = exact_sweep(start, statistics)
    assert residual(swept) < residual(start)
    torch.testing.assert_close(swept.norm(dim=0), torch.ones(5, dtype=torch.float64))
    for _ in range(300):
        swept = exact_sweep(swept, statistics)
    for h in range(5):  # no other unit vector in one column is better
        for _ in range(5):
            other = swept.clone()
            other[:, h] = unit_columns(
                swept[:, h : h + 1] + 0.1 * torch.randn(8, 1, generator=generator).double()
            )[:, 0]
            assert residual(other) >= residual(swept) - 1e-9


def test_preconditioned_steps_find_a_higher_elbo_than_plain_em(generator):
    """And come to rest, where exact EM gains next to nothing either."""
    model = make_model(8, 5, generator)
    x, _ = model.sample(400, generator)
    inference = DiagonalInference(tolerance=1e-9)
    start = initial_model(x, 5, "data", Laplace(), generator)
    crawling = [
        float(step.terms.elbo)
        for step, _ in zip(exact_em(x, start, inference=inference), range(200), strict=False)
    ]
    current, posterior = start, None
    for _ in range(200):
        posterior = inference(x, current, start=posterior)
        record = Statistics.collect(posterior, x, current.dictionary, current.prior).normalized()
        prior_scale, noise_variance = optimal_scales(record)
        moved = preconditioned_step(current, record, Curvature.from_statistics(record), 1.0, 0.75)
        change = float((moved - current.dictionary).abs().max())
        current = SparseCodingModel(moved, prior_scale, noise_variance)
    assert change < 0.01
    resting = [
        float(step.terms.elbo)
        for step, _ in zip(exact_em(x, current, inference=inference), range(10), strict=False)
    ]
    assert resting[-1] - resting[0] < 5e-3
    assert resting[0] > crawling[-1]


def test_train_recovers_the_dictionary(generator):
    model = make_model(24, 8, generator, torch.float32)
    model = replace(
        model, dictionary=torch.linalg.qr(model.dictionary).Q
    )  # then diagonal posteriors are exact enough
    data, heldout = (model.sample(n, generator)[0].numpy() for n in (8000, 1000))
    result = train(
        OnlineEM(), data, heldout, n_components=8, init="random", epochs=15, batch_size=250, seed=1
    )
    reached = result.history[-1]
    assert reached.elbo > float(evaluate(model, torch.tensor(heldout)).terms.elbo) - 0.05
    assert float(match_atoms(result.model.dictionary, model.dictionary).cosine.min()) > 0.9
    assert reached.elbo > result.history[0].elbo + 1.0
    assert reached.noise_variance == pytest.approx(float(model.noise_variance), rel=0.2)
    assert [record.epoch for record in result.history] == list(range(16))
    assert reached.samples_seen == 15 * 8000
    assert result.model.dictionary.dtype == torch.float32


def test_train_repeats_with_the_seed(patches):
    _, data, heldout = patches
    runs = [
        train(OnlineEM(), data, heldout, n_components=6, epochs=2, batch_size=128, seed=s).model
        for s in (3, 3, 4)
    ]
    assert torch.equal(runs[0].dictionary, runs[1].dictionary)
    assert not torch.equal(runs[0].dictionary, runs[2].dictionary)


@pytest.mark.parametrize("annealing", ["prior", "likelihood", "tempering"])
def test_annealing_ends_as_well_as_no_annealing(generator, annealing):
    """Compared with a run that has as many epochs at γ = δ = 1.

    Of fewer data, the bound is as high without some of the latents, which may then be left out.
    """
    x, _ = make_model(20, 12, generator, torch.float32).sample(2600, generator)
    data, heldout = x[200:].numpy(), x[:200].numpy()
    learner, epochs, settings = OnlineEM(), 24, {"n_components": 12, "batch_size": 200}
    annealed = train(learner, data, heldout, epochs=epochs, annealing=annealing, **settings)
    plain_epochs = sum(SCHEDULES[annealing](i) == EntropyWeights() for i in range(epochs))
    plain = train(learner, data, heldout, epochs=plain_epochs, **settings)
    assert annealed.history[-1].elbo > plain.history[-1].elbo - 0.5
    assert annealed.history[-1].dead_latents == 0
    for record in annealed.history:
        assert np.isfinite(list(asdict(record).values())).all()
    assert {record.gamma for record in annealed.history} == {
        SCHEDULES[annealing](i).prior for i in range(epochs)
    }


def test_elbo_of_an_epoch_is_that_of_the_held_out_data(patches):
    _, data, heldout = patches
    result = train(OnlineEM(), data, heldout, n_components=6, epochs=1, batch_size=128)
    terms = evaluate(result.model, torch.tensor(heldout)).terms
    assert result.history[-1].elbo == pytest.approx(float(terms.elbo), abs=0.02)
    record = result.history[-1]
    entropies = record.posterior_entropy - record.prior_entropy - record.likelihood_entropy
    assert record.elbo == pytest.approx(entropies, abs=1e-6)


def test_callback_sees_every_batch_and_epoch(patches):
    _, data, heldout = patches
    seen = []

    class Recorder(Callback):
        def on_batch(self, samples_seen):
            seen.append(samples_seen)

        def on_epoch(self, model, record):
            seen.append(f"epoch {record.epoch}")

    train(OnlineEM(), data, heldout, n_components=4, epochs=1, batch_size=256, callbacks=(Recorder(),))
    assert seen == ["epoch 0", 256, 512, 600, "epoch 1"]


def test_noiseless_data_hit_the_floor(generator):
    model = make_model(12, 3, generator)
    data = (model.prior.sample(300, model.prior_scale, generator) @ model.dictionary.T).numpy()
    learner, start = OnlineEM(), {"n_components": 3, "init": model.dictionary}
    with pytest.warns(ConvergenceWarning, match="floor"):
        result = train(learner, data, data[:50], epochs=40, batch_size=30, **start)
    assert float(result.model.noise_variance) == pytest.approx(1e-6 * float((data**2).mean()), rel=1e-3)
    assert np.isfinite(result.history[-1].elbo)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"annealing": "warm"}, "annealing"),
        ({"data": np.ones((0, 3))}, "at least one row"),
        ({"data": np.full((5, 3), np.inf)}, "finite"),
        ({"data": np.ones((5, 4))}, "columns"),
        ({"data": np.ones((5, 3), dtype=int)}, "float32 or float64"),
        ({"init": "magic"}, "init"),
        ({"init": np.ones((2, 2))}, "shape"),
        ({"n_components": 0}, "n_components"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"data": np.ones((5, 3)), "heldout": np.ones((5, 3)), "n_components": 2} | change
    with pytest.raises(InputError, match=message):
        train(OnlineEM(), **arguments)


@pytest.mark.parametrize("n_components", [4, 14])
def test_lengthened_steps_of_scales_rest_at_the_optimum_and_are_there_sooner(generator, n_components):
    model = make_model(6, n_components, generator)
    x = model.sample(500, generator)[0]
    away = replace(model, prior_scale=3.0 * model.prior_scale, noise_variance=5.0 * model.noise_variance)
    plain = lengthened = away
    for _ in range(15):
        plain = take_turn(x, plain, STARTING_SWEEPS).model
        lengthened = scale_step(lengthened, take_turn(x, lengthened, STARTING_SWEEPS).statistics, 1.0)
    ends = [float(take_turn(x, each, STARTING_SWEEPS).terms.elbo) for each in (plain, lengthened)]
    assert ends[1] > ends[0] + (0.01 if n_components == 14 else -1e-3)
    for _ in range(300):
        lengthened = scale_step(lengthened, take_turn(x, lengthened, STARTING_SWEEPS).statistics, 1.0)
    used = lengthened.prior_scale > 0.01 * lengthened.prior_scale.max()
    # Where plain EM rests with the same few sweeps, which is a little beside the optimum of the ELBO.
    for inference, near in ((STARTING_SWEEPS, 5e-4), (DiagonalInference(1e-6), 0.015)):
        best = take_turn(x, lengthened, inference).model
        torch.testing.assert_close(lengthened.noise_variance, best.noise_variance, rtol=near / 3, atol=0.0)
        torch.testing.assert_close(lengthened.prior_scale[used], best.prior_scale[used], rtol=near, atol=0.0)


def test_the_model_is_never_below_its_start(patches):
    """Minibatches of other data lead away from a good start."""
    _, data, heldout = patches
    good = train(OnlineEM(), data, heldout, n_components=6, epochs=20, batch_size=100).model
    noise = np.random.default_rng(0).standard_normal(data.shape).astype(data.dtype)
    seen = []

    class Recorder(Callback):
        def on_epoch(self, model, record):
            seen.append(model)

    with pytest.warns(ConvergenceWarning, match="below its start, which is kept"):
        result = train(
            OnlineEM(),
            noise,
            heldout,
            n_components=6,
            init=good.dictionary,
            epochs=3,
            callbacks=(Recorder(),),
        )
    assert result.history[-1].elbo < result.history[0].elbo
    assert torch.equal(result.model.dictionary, seen[0].dictionary)
    assert torch.equal(result.model.dictionary, seen[-1].dictionary)
    assert not result.converged


def test_the_start_is_judged_at_its_own_noise_variance():
    """With as many atoms as dimensions there may be next to no noise, which takes many turns to find."""
    digits = load_digits().data[:200]
    x = torch.from_numpy((digits - digits.mean(0)) / digits.std())
    with pytest.warns(ConvergenceWarning, match="below its start, which is kept"):
        result = train(OnlineEM(), x.numpy(), n_components=64, epochs=1)
    start = initial_model(x, 64, "ica", Laplace(), torch.Generator().manual_seed(0))
    best = float(evaluate(start, x, max_turns=500, floors=Floors.from_sample(x)).terms.elbo)
    assert abs(result.history[0].elbo - best) < 3.0


def test_the_averaged_model_is_good_at_every_moment(patches):
    _, data, heldout = patches
    result = train(OnlineEM(), data, heldout, n_components=6, epochs=10, batch_size=50)
    elbo = [record.elbo for record in result.history]
    assert min(elbo) > elbo[0] - 0.1


def test_the_average_does_better_than_where_the_steps_are_taken(generator):
    model = make_model(40, 20, generator, torch.float32)
    x, heldout = (model.sample(n, generator)[0] for n in (512 * 60, 1000))
    learner = OnlineEM()
    start = with_fitting_scales(initial_model(x[:5000], 20, "data", Laplace(), generator), x[:5000])
    state, moving = learner.start(start, x[:5000], generator), []
    for step, batch in enumerate(x.split(512)):
        state = learner.step(state, Batch(batch))
        if step in (45, 48, 51, 54, 57):
            moving.append(float(evaluate(state.moving, heldout).terms.elbo))
    assert float(evaluate(state.model, heldout).terms.elbo) > np.mean(moving) + 0.1


def test_averages_start_afresh_when_the_entropy_weights_change(patches, generator):
    x, learner = torch.tensor(patches[1]), OnlineEM()
    state = learner.start(initial_model(x, 6, "ica", Laplace(), generator), x, generator)
    for _ in range(5):
        state = learner.step(state, Batch(x))
    assert state.n_blocks == 5 * len(x) / 64
    state = learner.step(state, Batch(x, EntropyWeights(2.0, 1.0)))
    assert state.n_blocks == len(x) / 64
    torch.testing.assert_close(state.mean_dictionary, state.moving.dictionary)
