import pytest
import torch
from torch import nn

from conftest import make_model
from entrosparse.errors import InputError, NumericalError
from entrosparse.inference import (
    AmortizedInference,
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    LowRankEncoder,
    RefinedInference,
)
from entrosparse.objectives import entropy_elbo
from entrosparse.posteriors import Diagonal, LowRank
from entrosparse.priors import PRIORS
from entrosparse.statistics import Statistics

ENCODERS = [DiagonalEncoder, LowRankEncoder]


class Returns(nn.Module):
    """An encoder that returns what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_features", "n_components", "width"), [(9, 6, None), (4, 7, None), (9, 6, 5)])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_shapes_and_dtypes(generator, encoder, n_features, n_components, width, dtype):
    model = make_model(n_features, n_components, generator, dtype)
    x, _ = model.sample(11, generator)
    posterior = AmortizedInference(encoder(x, model, generator, width))(x, model)
    assert posterior.mean.shape == posterior.scale.shape == (11, n_components)
    assert {posterior.mean.dtype, posterior.scale.dtype, posterior.entropy().dtype} == {dtype}
    assert not posterior.mean.requires_grad
    if encoder is LowRankEncoder:
        assert posterior.factor.shape == (11, n_components, 5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_gets_a_gradient(generator, encoder):
    model = make_model(9, 6, generator)
    x, _ = model.sample(40, generator)
    inference = AmortizedInference(encoder(x, model, generator))
    posterior = inference.differentiable(x, model)
    statistics = Statistics.collect(posterior, x, model.dictionary, model.prior)
    entropy_elbo(statistics).objective.backward()
    for name, parameter in inference.encoder.named_parameters():
        assert float(parameter.grad.abs().max()) > 1e-6, name


def test_checks_leave_the_gradient_alone(generator):
    model = make_model(9, 6, generator)
    x, _ = model.sample(40, generator)
    encoder = LowRankEncoder(x, model, generator)
    gradients = [
        torch.autograd.grad(posterior.entropy().sum(), encoder.factor_readout.weight)[0]
        for posterior in (encoder(x), AmortizedInference(encoder).differentiable(x, model))
    ]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert float(gradients[0].abs().max()) > 1e-6


@pytest.mark.parametrize("encoder", ENCODERS)
def test_has_the_symmetry_of_the_model(generator, encoder):
    """Codes and data may change sign together."""
    model = make_model(9, 6, generator)
    x, _ = model.sample(20, generator)
    inference = AmortizedInference(encoder(x, model, generator))
    one, other = inference(x, model), inference(-x, model)
    torch.testing.assert_close(one.mean, -other.mean)
    torch.testing.assert_close(one.covariance(), other.covariance())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_has_no_units(generator, encoder):
    """Data and model in other units give codes in other units, from the same weights."""
    model = make_model(9, 6, generator)
    x, _ = model.sample(20, generator)
    other = type(model)(model.dictionary, 1e-3 * model.prior_scale, 1e-6 * model.noise_variance)
    one, small = (
        AmortizedInference(encoder(data, m, torch.Generator().manual_seed(1)))(data, m)
        for data, m in ((x, model), (1e-3 * x, other))
    )
    torch.testing.assert_close(1e-3 * one.mean, small.mean)
    torch.testing.assert_close(1e-3 * one.marginal_scale(), small.marginal_scale())


def test_starts_near_the_optimum_of_the_gaussian_prior(generator):
    """Where one Newton step is exact, in the mean and nearly so in the deviations."""
    model = make_model(9, 6, generator, prior=PRIORS["gaussian"])
    x, _ = model.sample(50, generator)
    posterior = AmortizedInference(DiagonalEncoder(x, model, generator))(x, model)
    exact = FullInference()(x, model)
    distance = (posterior.mean - exact.mean).square().mean() / exact.mean.square().mean()
    assert float(distance) < 0.05
    precision = 1.0 / model.noise_variance + model.prior_scale.square().reciprocal()
    assert float((posterior.scale * precision.sqrt()).log().abs().max()) < 1.0


def test_weights_come_from_the_generator_alone(generator):
    model = make_model(5, 3, generator)
    x, _ = model.sample(10, generator)
    state = torch.random.get_rng_state()
    first, again, other = (
        LowRankEncoder(x, model, torch.Generator().manual_seed(seed), rank=2) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    assert not torch.equal(first.lift.weight, other.lift.weight)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x: (x, x), InputError, "must return a Posterior.* got tuple"),
        (lambda x: Diagonal(x, x.exp()), InputError, r"'mean' .* \(8, 3\).* got \(8, 5\)"),
        (lambda x: Diagonal(x[:, :3], x[:, :1].exp()), InputError, r"'scale' .* got \(8, 1\)"),
        (lambda x: Diagonal(x[1:, :3], x[1:, :3].exp()), InputError, r"got \(7, 3\)"),
        (
            lambda x: LowRank(x[:, :3], x[:, :2, None], x[:, :3].exp()),
            InputError,
            r"'factor' .* got \(8, 2, 1",
        ),
        (lambda x: Diagonal(x[:, :3] / 0.0, x[:, :3].exp()), NumericalError, "finite 'mean'"),
        (lambda x: Diagonal(x[:, :3], 0.0 * x[:, :3]), NumericalError, "deviations > 0"),
        (lambda x: Diagonal(x[:, :3], -x[:, :3].exp()), NumericalError, "deviations > 0"),
        (lambda x: LowRank(x[:, :3], x[:, :3, None], 0.0 * x[:, :3]), NumericalError, "deviations > 0"),
    ],
)
def test_a_bad_encoder_is_named(generator, answer, error, message):
    model = make_model(5, 3, generator)
    x, _ = model.sample(8, generator)
    with pytest.raises(error, match=f"the encoder Returns .*{message}"):
        AmortizedInference(Returns(answer))(x, model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rank": 0}, "from 1 to 3.* got 0"), ({"rank": 4}, "got 4"), ({"width": 0, "rank": 1}, "'width'")],
)
def test_bad_sizes_are_errors(generator, arguments, message):
    model = make_model(5, 3, generator)
    x, _ = model.sample(8, generator)
    with pytest.raises(InputError, match=message):
        LowRankEncoder(x, model, generator, **arguments)


@pytest.mark.parametrize("solver", [DiagonalInference(tolerance=1e-9), FullInference(tolerance=1e-9)])
def test_refinement_to_the_end_is_exact_inference(generator, solver):
    model = make_model(9, 6, generator)
    x, _ = model.sample(20, generator)
    refined = RefinedInference(AmortizedInference(LowRankEncoder(x, model, generator)), solver)
    exact = solver(x, model)
    torch.testing.assert_close(refined(x, model).mean, exact.mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(refined(x, model).covariance(), exact.covariance(), rtol=0, atol=1e-7)


def test_refinement_starts_at_the_encoder(generator):
    model = make_model(9, 6, generator)
    x, _ = model.sample(20, generator)
    amortized = AmortizedInference(DiagonalEncoder(x, model, generator))
    nothing_done = RefinedInference(amortized, DiagonalInference(tolerance=0.0, max_iterations=0))
    away = Diagonal(torch.ones_like(amortized(x, model).mean), torch.ones_like(amortized(x, model).mean))
    assert torch.equal(nothing_done(x, model, start=away).mean, amortized(x, model).mean)
