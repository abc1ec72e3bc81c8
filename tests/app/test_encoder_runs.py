"""Runs that learn an encoder: it is kept with its model, finds the codes, and learns on after a kill."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from commands import SMALL, failure
from conftest import untimed
from entrosparse.app.cli import main
from entrosparse.app.config import FitConfig
from entrosparse.app.progress import FitProgress
from entrosparse.app.runs import load_run
from entrosparse.errors import FileFormatError
from entrosparse.inference import (
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    LowRankEncoder,
    RefinedInference,
    load_encoder,
)
from entrosparse.learning import Callback, OnlineEM, RefinedEM, train
from entrosparse.learning._checkpoints import Checkpoints
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.priors import PRIORS
from entrosparse.recipes import COVARIANCES, INFERENCES, Recipe

KINDS = {
    ("encoder", "diagonal"): (DiagonalEncoder, None),
    ("refined", "diagonal"): (DiagonalEncoder, DiagonalInference),
    ("refined", "full"): (DiagonalEncoder, FullInference),
    ("encoder", "low-rank"): (LowRankEncoder, None),
}


def fit(images, out, *settings):
    assert main(["fit", str(images), *SMALL, *settings, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def learned(request, images, tmp_path_factory):
    """The folder of a run of each kind, and what finds its codes."""
    inference, covariance = request.param
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(images, out, f"--inference={inference}", f"--covariance={covariance}"), KINDS[request.param]


@pytest.fixture
def folder(images, tmp_path):
    """A run that a test may damage."""
    return fit(images, tmp_path / "run", "--inference=encoder")


def parts_of(inference):
    amortized = getattr(inference, "amortized", inference)
    return amortized.encoder, getattr(inference, "solver", None)


def codes_of(folder, rows, *options):
    out = folder.parent / "codes.npz"
    np.save(folder.parent / "rows.npy", rows)
    arguments = [
        "encode",
        folder,
        folder.parent / "rows.npy",
        "--rows",
        *options,
        "--out",
        out,
        "--overwrite",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    with np.load(out) as codes:
        return codes["mean"], codes["marginal_scale"]


def test_codes_are_those_of_the_encoder(learned):
    folder, (kind, solver) = learned
    run = load_run(folder)
    encoder, refinement = parts_of(run.inference)
    assert type(encoder) is kind
    assert refinement is None if solver is None else type(refinement) is solver
    expected = run.inference(torch.from_numpy(run.examples), run.model)
    mean, scale = codes_of(folder, run.examples)
    np.testing.assert_array_equal(mean, expected.mean.numpy())
    np.testing.assert_array_equal(scale, expected.marginal_scale().numpy())


def test_a_covariance_that_is_given_means_its_solver(learned):
    folder, _ = learned
    run = load_run(folder)
    exact = Recipe("full").final_inference(6, torch.float32)(torch.from_numpy(run.examples), run.model)
    np.testing.assert_array_equal(codes_of(folder, run.examples, "--covariance=full")[0], exact.mean.numpy())


def test_info_and_report_say_where_posteriors_come_from(learned, capsys):
    folder, (_, solver) = learned
    words = "from an encoder" if solver is None else "from an encoder, and then refined"
    assert main(["info", str(folder)]) == 0
    line = f"{load_run(folder).info.config.covariance}, {words}"
    assert [text.split("  ")[-1].strip() for text in capsys.readouterr().out.splitlines()].count(line) == 1
    assert line in (folder / "report.html").read_text()


def test_the_files_of_a_run_belong_together(folder):
    inference, model = load_encoder(folder / "encoder.safetensors")
    run = load_run(folder)
    assert torch.equal(run.model.dictionary, type(model).load(folder / "model.safetensors").dictionary)
    assert torch.equal(run.model.dictionary, model.dictionary)
    x = torch.from_numpy(run.examples)
    assert torch.equal(inference(x, model).mean, run.inference(x, run.model).mean)


def test_a_run_from_before_there_was_a_choice_opens(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "old") / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["inference"]
    path.write_text(json.dumps(content))
    assert load_run(tmp_path / "old").info.config.inference == "variational"
    assert isinstance(load_run(tmp_path / "old").inference, DiagonalInference)


def test_a_missing_or_damaged_encoder_is_named(folder, capsys):
    path = folder / "encoder.safetensors"
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:-10], (folder / "model.safetensors").read_bytes()):
        path.write_bytes(damaged)
        assert "encoder.safetensors" in failure(capsys, "info", folder)
    path.unlink()
    assert "encoder.safetensors' is missing" in failure(capsys, "info", folder)
    path.symlink_to(folder / "model.safetensors")
    assert "not a link" in failure(capsys, "info", folder)


@pytest.mark.parametrize("other", ["refined", "magic", 3])
def test_an_encoder_of_another_kind_than_the_settings_say_is_refused(folder, other):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"inference": "encoder"', f'"inference": {json.dumps(other)}'))
    with pytest.raises(FileFormatError, match="inference"):
        load_run(folder)


# --- what goes together


@pytest.mark.parametrize("noise", LIKELIHOODS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("inference", INFERENCES)
def test_the_command_refuses_what_the_library_does_before_work(
    images, tmp_path, capsys, inference, covariance, prior, noise
):
    recipe, out = Recipe(covariance, 5, inference, prior, noise), tmp_path / "run"
    settings = {name: getattr(recipe, name) for name in ("inference", "covariance", "prior", "noise")}
    try:
        recipe.validate()
    except ValueError as error:
        message = str(error)
    else:
        FitConfig(**settings).validate()
        return
    options = [f"--{name}={value}" for name, value in settings.items()]
    assert message in failure(capsys, "fit", images, *SMALL, *options, "--out", out)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("noise", LIKELIHOODS)
@pytest.mark.parametrize("prior", ["laplace", "generalized-gaussian", "skewed-laplace"])
@pytest.mark.parametrize(
    ("inference", "covariance"), [*KINDS, ("refined", "low-rank"), ("refined", "exact-factorial")]
)
def test_the_command_learns_what_the_library_does(
    figures, images, tmp_path, inference, covariance, prior, noise
):
    try:
        Recipe(covariance, 5, inference, prior, noise).validate()
    except ValueError:
        pytest.skip("the library refuses it")
    settings = {"inference": inference, "covariance": covariance, "prior": prior, "noise": noise}
    folder = fit(images, tmp_path / "run", *(f"--{name}={value}" for name, value in settings.items()))
    mean, _ = codes_of(folder, load_run(folder).examples)
    assert np.isfinite(mean).all()


@pytest.mark.parametrize(
    ("settings", "size"),
    [(["--patch-size=64", "--n-components=4096"], "369,098,752"), (["--rank=99"], None)],
)
def test_an_encoder_that_no_file_holds_is_refused_before_work(images, tmp_path, capsys, settings, size):
    out = tmp_path / "run"
    arguments = ["fit", images, *SMALL, "--inference=encoder", *settings, "--out", out]
    if size is None:  # The rank of encoders that have none, or of few components, is of no account.
        assert main([str(argument) for argument in arguments]) == 0
    else:
        line = failure(capsys, *arguments)
        assert "the 'n_components' parameter must be such that an encoder has at most 67,108,864" in line
        assert size in line


# --- kills


def interrupted_after(patch, samples):
    def interrupt(self, samples_seen):
        if samples_seen == samples:
            raise KeyboardInterrupt

    patch.setattr(
        "entrosparse.app.commands.fitting._checkpoints", lambda out: Checkpoints(out / "checkpoints", 0.0)
    )
    patch.setattr(FitProgress, "on_batch", interrupt)


@pytest.mark.parametrize("samples", [128, 448])
def test_a_resumed_run_ends_with_the_same_encoder(learned, images, tmp_path, monkeypatch, samples):
    whole, _ = learned
    config, out = load_run(whole).info.config, tmp_path / "run"
    settings = [f"--inference={config.inference}", f"--covariance={config.covariance}"]
    with monkeypatch.context() as patch:
        interrupted_after(patch, samples)
        assert main(["fit", str(images), *SMALL, *settings, "--out", str(out)]) == 130
    assert load_run(out).history[-1].epoch == samples // 256
    assert main(["resume", str(out)]) == 0
    for name in ("encoder.safetensors", "model.safetensors"):
        tensors = [load_file(folder / name) for folder in (out, whole)]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())
    rows = [untimed(load_run(folder).history) for folder in (out, whole)]
    assert rows[0] == rows[1]


# --- the start


class Told(Callback):
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def on_inference(self, inference):
        self.told.append(inference)

    def on_epoch(self, model, record):
        self.told.append(record.epoch)


def test_callbacks_are_told_of_the_inference_before_each_epoch(generator):
    x = torch.randn((64, 4), generator=generator)
    told = Told()
    result = train(OnlineEM(), x, n_components=2, epochs=2, batch_size=32, callbacks=[told])
    assert told.told == [OnlineEM().inference, 0, OnlineEM().inference, 1, OnlineEM().inference, 2]
    assert result.inference == OnlineEM().inference


def weights_of(inference):
    return {name: tensor.clone() for name, tensor in inference.amortized.encoder.state_dict().items()}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_start_that_is_kept_keeps_its_encoder(generator):
    """Though steps change encoders in place."""
    x = torch.randn((256, 4), generator=generator)

    class Weights(Callback):
        found: list = []  # noqa: RUF012

        def on_inference(self, inference):
            self.found.append(weights_of(inference))

    learner = RefinedEM(OnlineEM(step_size=500.0), learning_rate=1.0)  # Steps that cannot end well.
    result = train(learner, x, n_components=4, epochs=2, batch_size=32, callbacks=[Weights()])
    assert result.history[-1].elbo < result.history[0].elbo
    assert isinstance(result.inference, RefinedInference)
    for name, tensor in weights_of(result.inference).items():
        assert torch.equal(tensor, Weights.found[0][name])
        assert torch.equal(tensor, Weights.found[-1][name])
