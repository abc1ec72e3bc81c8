"""Where learning computes, and from what it starts: --device, --threads and --start-from."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from commands import SMALL, failure, write_images
from conftest import untimed
from entrosparse.app.cli import main
from entrosparse.app.progress import FitProgress
from entrosparse.app.runs import load_run
from entrosparse.learning._checkpoints import Checkpoints


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def fit(*arguments):
    return main(["fit", *map(str, arguments)])


# --- start-from

LONGER = [
    "--n-components=4",
    "--epochs=4",
]  # These learn from these images without falling below their start.


@pytest.fixture(scope="module")
def origin(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("origin") / "run"
    assert fit(images, *SMALL, *LONGER, "--out", out) == 0
    return out


@pytest.mark.filterwarnings("ignore:learning ended at an ELBO")
def test_a_run_starts_from_the_dictionary_of_another(origin, images, tmp_path, capsys):
    settings = [*SMALL, *LONGER, "--start-from", origin, "--prior=generalized-gaussian", "--covariance=full"]
    assert fit(write_images(tmp_path / "other", n=1, side=60), *settings, "--out", tmp_path / "run") == 0
    run = load_run(tmp_path / "run")
    assert run.info.start_from == str(origin)
    assert (run.info.config.prior, run.info.config.covariance) == ("generalized-gaussian", "full")
    assert main(["info", str(tmp_path / "run")]) == 0
    assert str(origin) in capsys.readouterr().out
    assert load_run(origin).info.start_from is None


def test_learning_goes_on_where_the_other_ended(origin, images, tmp_path, monkeypatch):
    """Epoch 0 has the dictionary of the other, at scales that fit the data."""
    monkeypatch.chdir(origin.parent)
    settings = [*SMALL, *LONGER, "--start-from", origin.name]
    models = {}

    def watch(self, model, record):
        models[record.epoch] = model

    monkeypatch.setattr(FitProgress, "on_epoch", watch)
    assert fit(images, *settings, "--out", tmp_path / "run") == 0
    before, run = load_run(origin), load_run(tmp_path / "run")
    torch.testing.assert_close(models[0].dictionary, before.model.dictionary)
    assert run.history[0].elbo == pytest.approx(before.history[-1].elbo, abs=0.05)
    assert run.info.start_from == str(origin)
    assert not run.model.dictionary.equal(before.model.dictionary)


def test_a_run_that_started_from_another_is_resumed(origin, images, tmp_path, capsys, monkeypatch):
    settings = [images, *SMALL, *LONGER, "--start-from", origin]
    assert fit(*settings, "--out", tmp_path / "whole") == 0

    def interrupt(self, samples_seen):
        if samples_seen == 448:
            raise KeyboardInterrupt

    path = "entrosparse.app.commands.fitting._checkpoints"
    monkeypatch.setattr(path, lambda out: Checkpoints(out / "checkpoints", 0.0))
    with monkeypatch.context() as patch:
        patch.setattr(FitProgress, "on_batch", interrupt)
        assert fit(*settings, "--out", tmp_path / "cut") == 130
    shutil.copytree(tmp_path / "cut", tmp_path / "edited")
    config = tmp_path / "edited" / "config.json"
    other = shutil.copytree(origin, tmp_path / "other")
    load_run(tmp_path / "whole").model.save(other / "model.safetensors")
    config.write_text(config.read_text().replace(str(origin), str(other)))
    capsys.readouterr()
    assert "'init' was" in failure(capsys, "resume", tmp_path / "edited")
    shutil.rmtree(other)
    assert "must be a run folder" in failure(capsys, "resume", tmp_path / "edited")
    assert main(["resume", str(tmp_path / "cut"), "--threads", "1"]) == 0
    whole, cut = load_run(tmp_path / "whole"), load_run(tmp_path / "cut")
    assert whole.model.dictionary.equal(cut.model.dictionary)
    assert untimed(whole.history) == untimed(cut.history)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--n-components=5", "the 'n_components' parameter must be 4, as in the run"),
        ("--patch-size=5", "the 'patch_size' parameter must be 4, as in the run"),
        ("--whiten=none", "the 'whiten' parameter must be 'olshausen', as in the run"),
    ],
)
def test_settings_that_the_other_run_does_not_share(origin, images, tmp_path, capsys, setting, message):
    settings = [*SMALL, *LONGER, setting, "--start-from", origin]
    assert message in failure(capsys, "fit", images, *settings, "--out", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_cannot_be_started_from(origin, images, tmp_path, capsys):
    for start, message in [(tmp_path / "gone", "must be a run folder"), (images, "config.json' is missing")]:
        command = ["fit", images, *SMALL, *LONGER, "--start-from", start, "--out", tmp_path / "run"]
        assert message in failure(capsys, *command)
    copy = shutil.copytree(origin, tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"start_from": 3}))
    assert "config.json" in failure(capsys, "info", copy)


# --- device and threads


def test_runs_remember_their_device_for_resume(origin, tmp_path, capsys):
    """Its checkpoints are of this device, so learning goes on there or not at all."""
    assert load_run(origin).info.config.device == "cpu"
    copy = shutil.copytree(origin, tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    content["config"] |= {"device": "elsewhere", "epochs": 5}
    (copy / "config.json").write_text(json.dumps(content))
    assert "'device' parameter must be one that PyTorch can compute on" in failure(capsys, "resume", copy)
    assert main(["info", str(copy)]) == 0


@pytest.mark.parametrize("device", ["gpu", "meta", ""])
@pytest.mark.parametrize("command", ["fit", "encode", "reconstruct"])
def test_a_device_that_is_not_there_is_one_line(origin, images, tmp_path, capsys, command, device):
    out = tmp_path / "out.npz"
    words = {
        "fit": ["fit", images, *SMALL],
        "encode": ["encode", origin, images],
        "reconstruct": ["reconstruct", origin, images / "0.png"],
    }[command]
    line = failure(capsys, *words, "--device", device, "--out", out)
    assert "the 'device' parameter must be one that PyTorch can compute on" in line
    assert not list(tmp_path.iterdir())


def test_threads_are_what_pytorch_is_told(origin, images, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    found = []
    for number in ("1", "2"):
        out = tmp_path / f"{number}.npz"
        assert main(["encode", str(origin), str(images), "--threads", number, "--out", str(out)]) == 0
        assert torch.get_num_threads() == int(number)
        with np.load(out) as codes:
            found.append(codes["mean"])
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize("threads", ["0", "-1", str(10**6), "many"])
@pytest.mark.parametrize("command", ["fit", "resume", "encode", "reconstruct", "compare"])
def test_a_number_of_threads_that_no_machine_has(origin, images, tmp_path, capsys, command, threads):
    words = {
        "fit": ["fit", images, *SMALL],
        "resume": ["resume", origin],
        "encode": ["encode", origin, images],
        "reconstruct": ["reconstruct", origin, images / "0.png"],
        "compare": ["compare", origin, origin],
    }[command]
    out = [] if command == "resume" else ["--out", tmp_path / "out.npz"]
    line = failure(capsys, *words, "--threads", threads, *out)
    assert "threads" in line
    if threads != "many":
        assert f"an integer from 1 to {os.cpu_count()}, the cores; got {threads}" in line
    assert not list(tmp_path.iterdir())
