import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import integrate, stats

from conftest import make_model
from entrosparse.errors import FileFormatError, InputError
from entrosparse.model import SparseCodingModel
from entrosparse.priors import GeneralizedGaussian, SkewedLaplace


def test_log_joint_is_prior_times_likelihood(generator):
    model = make_model(5, 3, generator)
    x, z = model.sample(4, generator)
    expected = stats.laplace(scale=model.prior_scale.numpy()).logpdf(z.numpy()).sum(1)
    mean = (z @ model.dictionary.T).numpy()
    expected += stats.norm(mean, math.sqrt(float(model.noise_variance))).logpdf(x.numpy()).sum(1)
    np.testing.assert_allclose(model.log_joint(x, z).numpy(), expected, rtol=1e-12)


def test_log_joint_integrates_to_one(generator):
    model = make_model(1, 1, generator)
    line = torch.linspace(-12, 12, 1201, dtype=torch.float64)  # The kink of the prior is at an even node.
    points = torch.cartesian_prod(line, line)
    density = model.log_joint(points[:, :1], points[:, 1:]).exp().reshape(1201, 1201)
    total = integrate.simpson(integrate.simpson(density, line.numpy()), line.numpy())
    assert total == pytest.approx(1.0, abs=1e-3)


def test_sample_moments(generator):
    model = make_model(4, 3, generator)
    n = 100_000
    x, z = model.sample(n, generator)
    spread = z.abs().std(0) / math.sqrt(n)
    assert ((z.abs().mean(0) - model.prior_scale).abs() < 5 * spread).all()
    residual = (x - z @ model.dictionary.T).square()
    spread = float(residual.std()) / math.sqrt(residual.numel())
    assert abs(float(residual.mean()) - float(model.noise_variance)) < 5 * spread


def test_sample_repeats_with_the_seed(generator):
    model = make_model(4, 3, generator)
    first = model.sample(3, torch.Generator().manual_seed(1))
    again = model.sample(3, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load_are_inverse(tmp_path, generator, dtype):
    model = make_model(5, 3, generator, dtype)
    model.save(tmp_path / "model.safetensors")
    again = SparseCodingModel.load(tmp_path / "model.safetensors")
    assert set(load_file(tmp_path / "model.safetensors")) == {"dictionary", "prior_scale", "noise_variance"}
    assert again.dictionary.dtype == dtype
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert torch.equal(getattr(again, name), getattr(model, name))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("prior", [GeneralizedGaussian(), GeneralizedGaussian(0.6), SkewedLaplace()])
def test_a_file_holds_the_prior_its_parameters_and_its_shapes(tmp_path, generator, prior):
    path = tmp_path / "model.safetensors"
    model = make_model(5, 3, generator, prior=prior)
    model = replace(model, prior_shape=torch.linspace(0.4, 0.9, 3).double())
    model.save(path)
    again = SparseCodingModel.load(path)
    assert again.prior == prior
    assert torch.equal(again.prior_shape, model.prior_shape)
    tensors = load_file(path)
    for parameters in ('{"shape": 7}', '{"width": 1}', "[]", "{"):
        metadata = {"format": "entrosparse-model-1", "prior": prior.name, "prior_parameters": parameters}
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(FileFormatError):
            SparseCodingModel.load(path)


def test_shapes_belong_to_priors_that_have_some(generator):
    model = make_model(5, 3, generator)
    with pytest.raises(InputError, match="'prior_shape' must be None, as this prior has no shapes; got"):
        replace(model, prior_shape=torch.ones(3))
    with pytest.raises(InputError, match=r"'prior_shape' must have shape \(3,\); got \(2,\)"):
        replace(model, prior=SkewedLaplace(), prior_shape=torch.ones(2))


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        (GeneralizedGaussian(), -1.0),
        (GeneralizedGaussian(), 2.5),
        (SkewedLaplace(), 0.0),
        (SkewedLaplace(), 1.0),
    ],
)
def test_shapes_beyond_those_of_the_prior_are_not_loaded(tmp_path, generator, prior, shape):
    model = make_model(5, 3, generator, prior=prior)
    for sound in prior.shape_range:
        replace(model, prior_shape=torch.full((3,), sound, dtype=torch.float64)).validate()
    replace(model, prior_shape=torch.tensor([0.7, shape, 0.7]).double()).save(tmp_path / "a")
    with pytest.raises(FileFormatError, match="the 'prior_shape' must lie within"):
        SparseCodingModel.load(tmp_path / "a")


def _damage(name, value):
    def change(tensors):
        tensors[name] = value(tensors[name])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_damage("dictionary", lambda w: w * 1.5), "length 1"),
        (_damage("dictionary", lambda w: w * math.nan), "finite"),
        (_damage("dictionary", lambda w: w[0]), "shape"),
        (_damage("dictionary", lambda w: w.to(torch.int32)), "dtype"),
        (_damage("prior_scale", lambda s: -s), "> 0"),
        (_damage("prior_scale", lambda s: s[:-1].clone()), "shape"),
        (_damage("noise_variance", lambda v: v * 0), "> 0"),
        (_damage("noise_variance", lambda v: v * math.inf), "finite"),
        (lambda tensors: tensors.pop("noise_variance"), "must hold"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "must hold"),
    ],
)
def test_load_refuses_what_is_not_a_model(tmp_path, generator, change, message):
    path = tmp_path / "model.safetensors"
    make_model(5, 3, generator).save(path)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "entrosparse-model-1", "prior": "laplace"})
    with pytest.raises(FileFormatError, match=message):
        SparseCodingModel.load(path)


def test_load_refuses_damaged_and_missing_files(tmp_path, generator):
    path = tmp_path / "model.safetensors"
    make_model(5, 3, generator).save(path)
    content = path.read_bytes()
    for length in (0, 4, 40, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError):
            SparseCodingModel.load(path)
    save_file({"dictionary": torch.eye(2)}, path)
    with pytest.raises(FileFormatError, match="not an entrosparse model"):
        SparseCodingModel.load(path)
    with pytest.raises(FileFormatError, match="does not exist"):
        SparseCodingModel.load(tmp_path / "none.safetensors")


def test_load_refuses_a_file_that_is_too_large_before_it_is_read(tmp_path):
    """A file of holes takes no room on the disk, but would in memory."""
    shapes = {"dictionary": [2**14, 2**13], "prior_scale": [2**13], "noise_variance": []}
    header, end = {"__metadata__": {"format": "entrosparse-model-1", "prior": "laplace"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    os.truncate(path, 8 + len(content) + end)
    with pytest.raises(FileFormatError, match="must have at most 536,870,912 bytes; it has"):
        SparseCodingModel.load(path)


def test_save_refuses_what_load_would(tmp_path, generator, monkeypatch):
    monkeypatch.setattr("entrosparse.model.LARGEST_FILE", 200)
    with pytest.raises(InputError, match="a saved model must have at most 200 bytes; got"):
        make_model(5, 3, generator).save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_load_follows_links_and_waits_for_no_pipe(tmp_path, generator):
    make_model(5, 3, generator).save(tmp_path / "model.safetensors")
    (tmp_path / "link").symlink_to(tmp_path / "model.safetensors")
    assert SparseCodingModel.load(tmp_path / "link").n_features == 5
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FileFormatError, match="must be a regular file"):
            SparseCodingModel.load(path)


def test_shapes_that_disagree_are_refused():
    ok = {"dictionary": torch.eye(3), "prior_scale": torch.ones(3), "noise_variance": torch.tensor(1.0)}
    for name, bad in (
        ("dictionary", torch.ones(3)),
        ("prior_scale", torch.ones(2)),
        ("noise_variance", torch.ones(1)),
    ):
        with pytest.raises(InputError, match=name):
            SparseCodingModel(**(ok | {name: bad}))


def test_gram_norm_bounds_the_largest_eigenvalue(generator):
    for n_features, n_components in ((30, 20), (10, 40), (5, 1)):
        model = make_model(n_features, n_components, generator)
        largest = float(torch.linalg.eigvalsh(model.gram)[-1])
        assert (
            largest * (1 - 1e-9) <= float(model.gram_norm) <= largest * n_components ** (1 / 16) * (1 + 1e-9)
        )
