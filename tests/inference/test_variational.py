import numpy as np
import pytest
import torch

import oracles
from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import ConvergenceWarning, NumericalError
from entrosparse.inference import DiagonalInference, stationarity
from entrosparse.posteriors import Diagonal

ANNEALED = EntropyWeights(prior=2.0, likelihood=0.6)


@pytest.mark.parametrize("weights", [EntropyWeights(), ANNEALED])
@pytest.mark.parametrize("n_components", [2, 3, 6])
def test_agrees_with_a_generic_optimizer(generator, n_components, weights):
    model = make_model(4, n_components, generator)
    x, _ = model.sample(3, generator)
    posterior = DiagonalInference(tolerance=1e-9)(x, model, weights)
    for n in range(3):
        covariance = np.diag(posterior.scale[n].numpy() ** 2)
        reached = oracles.classical_elbo(posterior.mean[n].numpy(), covariance, x[n].numpy(), model, weights)
        mean, scale, best = oracles.best_diagonal_posterior(x[n].numpy(), model, weights)
        assert reached >= best - 1e-9
        np.testing.assert_allclose(posterior.mean[n].numpy(), mean, atol=1e-4)
        np.testing.assert_allclose(posterior.scale[n].numpy(), scale, atol=1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize(("n_features", "n_components"), [(16, 8), (16, 16), (8, 24)])
def test_is_stationary(generator, dtype, bound, n_features, n_components):
    model = make_model(n_features, n_components, generator, dtype)
    x, _ = model.sample(50, generator)
    posterior = DiagonalInference(tolerance=bound)(x, model)
    assert float(stationarity(posterior, x, model).max()) <= bound
    assert posterior.mean.dtype == dtype


def test_stationarity_is_the_gradient(generator):
    model = make_model(5, 3, generator)
    x, z = model.sample(1, generator)
    log_scale = torch.full_like(z, -1.0)

    def objective(mean, log_scale):
        covariance = np.diag(np.exp(2 * log_scale[0].numpy()))
        return oracles.classical_elbo(mean[0].numpy(), covariance, x[0].numpy(), model, ANNEALED)

    by_mean = oracles.finite_difference(lambda m: objective(m, log_scale), z) * log_scale.exp()
    by_scale = oracles.finite_difference(lambda s: objective(z, s), log_scale)
    expected = max(float(by_mean.abs().max()), float(by_scale.abs().max()))
    assert float(stationarity(Diagonal(z, log_scale.exp()), x, model, ANNEALED)) == pytest.approx(
        expected, rel=1e-6
    )


def test_a_data_point_does_not_depend_on_its_batch(generator):
    model = make_model(16, 20, generator)
    x, _ = model.sample(40, generator)
    x[7] *= 30.0  # a hard one among easy ones
    inference = DiagonalInference(tolerance=1e-6)
    together, alone = inference(x, model), inference(x[7:8], model)
    torch.testing.assert_close(together.mean[7:8], alone.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(together.scale[7:8], alone.scale, rtol=1e-9, atol=1e-9)
    halves = [inference(part, model) for part in (x[:11], x[11:])]
    torch.testing.assert_close(together.mean, torch.cat([h.mean for h in halves]), rtol=1e-9, atol=1e-9)


def test_starting_at_the_answer_stays_there(generator):
    model = make_model(12, 8, generator)
    x, _ = model.sample(20, generator)
    inference = DiagonalInference(tolerance=1e-10)
    posterior = inference(x, model)
    again = inference(x, model, start=posterior)
    torch.testing.assert_close(again.mean, posterior.mean, rtol=0, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e4])
def test_float32_extremes_are_finite(generator, factor):
    """Data far smaller or larger than the model expects."""
    model = make_model(12, 8, generator, torch.float32)
    x, _ = model.sample(20, generator)
    posterior = DiagonalInference(tolerance=0.0, max_iterations=200)(factor * x, model)
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.scale > 0).all()


def test_nan_is_an_error_and_an_early_stop_a_warning(generator):
    model = make_model(6, 4, generator)
    x, _ = model.sample(5, generator)
    with pytest.warns(ConvergenceWarning, match="raise max_iterations"):
        DiagonalInference(tolerance=1e-12, max_iterations=2)(x, model)
    with pytest.raises(NumericalError):
        DiagonalInference(tolerance=0.0, max_iterations=2)(x * float("nan"), model)
