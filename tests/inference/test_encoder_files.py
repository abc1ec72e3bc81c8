"""Encoders come back from files as they were, with their models; what is no encoder is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import make_model
from entrosparse.errors import FileFormatError, InputError
from entrosparse.inference import (
    AmortizedInference,
    DiagonalEncoder,
    DiagonalInference,
    ExactFactorialInference,
    FullInference,
    LowRankEncoder,
    LowRankInference,
    RefinedInference,
    load_encoder,
    save_encoder,
)
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.priors import PRIORS

SOLVERS = [None, DiagonalInference(0.0, 3), LowRankInference(2, 0.0, 2), FullInference(0.0, 1)]
METADATA = {
    "format": "entrosparse-encoder-1",
    "prior": "laplace",
    "encoder": "diagonal",
    "inference": "encoder",
}


def make_inference(encoder, x, model, generator, solver=None):
    amortized = AmortizedInference(encoder(x, model, generator).eval())
    return amortized if solver is None else RefinedInference(amortized, solver)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "encoder.safetensors"


@pytest.fixture
def saved(path, generator):
    """The file of a diagonal encoder, its tensors and its metadata."""
    model = make_model(5, 3, generator)
    x, _ = model.sample(10, generator)
    save_encoder(path, make_inference(DiagonalEncoder, x, model, generator), model)
    return path, load_file(path), dict(METADATA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prior", ["laplace", "generalized-gaussian"])
@pytest.mark.parametrize("noise", ["isotropic", "per-feature"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("encoder", [DiagonalEncoder, LowRankEncoder])
def test_a_loaded_encoder_gives_the_same_bits(path, generator, encoder, solver, noise, prior, dtype):
    model = make_model(7, 6, generator, dtype, PRIORS[prior], LIKELIHOODS[noise])
    x, _ = model.sample(20, generator)
    inference = make_inference(encoder, x, model, generator, solver)
    save_encoder(path, inference, model)
    again, its_model = load_encoder(path)
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert torch.equal(getattr(its_model, name), getattr(model, name))
    expected, found = inference(x, model), again(x, its_model)
    assert type(found) is type(expected)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.marginal_scale(), expected.marginal_scale())
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_loaded_encoder_can_learn_on(saved, generator):
    inference, model = load_encoder(saved[0])
    assert not inference.encoder.training
    assert inference.encoder.lift.in_features == 5
    x, _ = model.sample(10, generator)
    inference.differentiable(x, model).mean.square().sum().backward()
    assert all(parameter.device.type == "cpu" for parameter in inference.encoder.parameters())
    assert float(inference.encoder.lift.weight.grad.abs().max()) > 0.0


class Custom(torch.nn.Module):
    """An encoder of the user's own."""


def test_what_is_not_of_the_package_is_not_saved(path, generator):
    model = make_model(5, 3, generator)
    x, _ = model.sample(10, generator)
    amortized = make_inference(DiagonalEncoder, x, model, generator)
    for inference, message in (
        (AmortizedInference(Custom()), "must be a DiagonalEncoder or LowRankEncoder; got Custom"),
        (DiagonalInference(), "must be a DiagonalEncoder or LowRankEncoder; got DiagonalInference"),
        (RefinedInference(amortized, amortized), "the 'solver' parameter must be .* got AmortizedInference"),
    ):
        with pytest.raises(InputError, match=message):
            save_encoder(path, inference, model)
    assert not path.exists()


def test_a_file_has_a_largest_size(path, generator, monkeypatch):
    model = make_model(5, 3, generator)
    x, _ = model.sample(10, generator)
    monkeypatch.setattr("entrosparse.inference._encoder_files.LARGEST_FILE", 200)
    with pytest.raises(InputError, match="a saved encoder must have at most 200 bytes; got"):
        save_encoder(path, make_inference(DiagonalEncoder, x, model, generator), model)
    assert not path.exists()


def changed(name, change):
    return lambda tensors, metadata: tensors.update({name: change(tensors[name]).contiguous()})


def without(name):
    return lambda tensors, metadata: tensors.pop(name)


def told(**words):
    return lambda tensors, metadata: metadata.update(words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (told(format="entrosparse-model-1"), "not an entrosparse encoder"),
        (told(format="entrosparse-encoder-2"), "not an entrosparse encoder"),
        (told(encoder="pickle"), "not of a kind known"),
        (told(encoder="low-rank"), "layers"),
        (told(inference="variational"), "not of a kind known"),
        (told(inference="refined"), "'solver' must be JSON"),
        (told(inference="refined", solver="null"), "the solver in .* must be one of DiagonalInference"),
        (told(inference="refined", solver="[" * 5000), "'solver' must be JSON"),
        (told(inference="refined", solver='{"part": "system"}'), "'solver' must be .* one of"),
        (told(inference="refined", solver='{"part": "DiagonalInference"}'), "with the settings tolerance"),
        (told(prior="exponential"), "exponential"),
        (told(prior="cauchy"), "not an entrosparse model"),
        (told(likelihood="per-feature"), "shape"),
        (without("encoder.unit"), "must hold"),
        (without("model.dictionary"), "must hold"),
        (lambda tensors, metadata: tensors.update(extra=torch.ones(2)), "must hold the parts"),
        (lambda tensors, metadata: tensors.update({"encoder.extra": torch.ones(2)}), "must hold"),
        (changed("encoder.lift.weight", lambda t: t[:, :4]), "layers"),
        (changed("encoder.lift.weight", lambda t: t[:7]), "shape"),
        (changed("encoder.lift.weight", lambda t: t[:0]), "layers"),
        (changed("encoder.lift.weight", lambda t: t[0]), "layers"),
        (changed("encoder.lift.weight", lambda t: t * torch.nan), "finite"),
        (changed("encoder.unit", lambda t: t[:2]), "shape"),
        (changed("encoder.unit", lambda t: -t), "> 0"),
        (changed("encoder.data_scale", lambda t: 0.0 * t), "> 0"),
        (changed("encoder.blocks.0.inner.weight", lambda t: t.to(torch.int64)), "dtype"),
        (changed("model.dictionary", lambda t: 2.0 * t), "length 1"),
    ],
)
def test_what_is_no_encoder_is_refused(saved, change, message):
    path, tensors, metadata = saved
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FileFormatError, match=message) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tolerance", "max_iterations"])
@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-1", '"a"', "null", "true", "[]", "{}", "1" + "0" * 400]
)
def test_solvers_of_other_settings_are_refused(saved, name, value):
    path, tensors, metadata = saved
    settings = {"tolerance": "1.0", "max_iterations": "3"} | {name: value}
    solver = ", ".join(f'"{key}": {text}' for key, text in settings.items())
    metadata |= {"inference": "refined", "solver": f'{{"part": "DiagonalInference", {solver}}}'}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FileFormatError, match=f"'solver.{name}' must be"):
        load_encoder(path)


def test_encoder_and_model_have_one_dtype(saved):
    path, tensors, metadata = saved
    tensors |= {name: tensor.float() for name, tensor in tensors.items() if name.startswith("model")}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FileFormatError, match="must have one dtype"):
        load_encoder(path)


def test_a_refined_encoder_of_exact_factorial_posteriors_comes_back(path, generator):
    model = make_model(5, 3, generator)
    x, _ = model.sample(10, generator)
    solver = ExactFactorialInference(0.0, 4)
    save_encoder(path, make_inference(DiagonalEncoder, x, model, generator, solver), model)
    again, its_model = load_encoder(path)
    assert again.solver == solver
    model = replace(its_model, prior_scale=2.0 * its_model.prior_scale)
    save_encoder(path, again, model)  # It replaces what is there.
    assert torch.equal(load_encoder(path)[1].prior_scale, model.prior_scale)
