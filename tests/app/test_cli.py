import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import entrosparse
import entrosparse._files
from commands import SMALL, failure, write_images
from conftest import untimed
from entrosparse.app.cli import main
from entrosparse.app.progress import FitProgress
from entrosparse.app.runs import load_run
from entrosparse.inference import DiagonalInference, FullInference, LowRankInference
from entrosparse.learning._checkpoints import Checkpoints
from entrosparse.priors import GeneralizedGaussian

# --- fit


def test_fit_leaves_a_whole_run(run, images):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "history.csv", "examples.npz", "fields.png", "report.html"
    }  # fmt: skip
    found = load_run(run)
    assert [record.epoch for record in found.history] == [0, 1, 2]
    assert found.history[-1].samples_seen == 512
    assert found.info.source == str(images)
    assert found.info.image_names == ("0.png", "1.png")
    assert found.model.dictionary.shape == (16, 6)
    assert found.examples.shape == (12, 16)


def test_fit_prints_a_line_an_epoch_when_not_on_a_terminal(images, tmp_path, capsys):
    assert main(["fit", str(images), *SMALL, "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["epoch", "ELBO", "H[q(z)]", "H[p(z)]", "H[p(x|z)]", "seconds", "figures"]
    last = load_run(tmp_path / "run").history[-1]
    assert float(lines[3].split()[1]) == pytest.approx(last.elbo, abs=1e-3)
    assert lines[4:] == [f"wrote {tmp_path / 'run' / 'report.html'}"]
    assert captured.err == ""


def test_a_seed_decides_the_run(run, images, tmp_path):
    for seed in ("0", "1"):
        assert main(["fit", str(images), *SMALL, "--seed", seed, "--out", str(tmp_path / seed)]) == 0
    models = [load_run(path).model.dictionary.numpy() for path in (run, tmp_path / "0", tmp_path / "1")]
    np.testing.assert_array_equal(models[0], models[1])
    assert not np.array_equal(models[0], models[2])


def test_a_restart_goes_on_with_its_own_run_alone(run, images, tmp_path, monkeypatch, capsys):
    """Also where the first attempt was refused because the folder is that of another run."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(run, tmp_path / "run")
    before = (copy / "model.safetensors").read_bytes()
    fit = ["fit", str(images), *SMALL]
    assert "other settings or images" in failure(capsys, *fit, "--seed=5", "--out", copy)
    assert "other settings or images" in failure(capsys, "fit", images / "0.png", *SMALL, "--out", copy)
    assert main([*fit, "--out", str(copy)]) == 0
    assert (copy / "model.safetensors").read_bytes() == before
    capsys.readouterr()
    assert main(fit) == 0
    assert Path(capsys.readouterr().out.splitlines()[-1].split()[-1]).parent.parent == Path("runs")


def test_fit_names_the_folder_by_the_time_when_none_is_named(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(images), *SMALL, "--epochs", "1"]) == 0
    (out,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}", out.name)
    load_run(out)


@pytest.mark.parametrize(("stretch", "gammas"), [("false", [10, 8, 6, 4, 2]), ("true", [10, 6, 2, 1, 1])])
def test_annealing_is_stretched_over_the_epochs_when_asked(images, tmp_path, stretch, gammas):
    arguments = ["--annealing", "prior", "--stretch-annealing", stretch, "--epochs", "5"]
    assert main(["fit", str(images), *SMALL, *arguments, "--out", str(tmp_path / "run")]) == 0
    assert [record.gamma for record in load_run(tmp_path / "run").history[1:]] == gammas


# --- flag over --config file over default


def printed_config(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["fit", *map(str, arguments), "--print_config"])
    assert caught.value.code == 0
    return dict(line.split(": ") for line in capsys.readouterr().out.splitlines())


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("n_components: 5\nepochs: 3\ninput: pictures\n")
    for arguments in (
        ["--n-components", 7, "--config", file],
        ["--config", file, "--n-components", 7],
        ["--n-components=7", f"--config={file}"],
    ):
        found = printed_config(capsys, *arguments)
        assert (found["n_components"], found["epochs"], found["batch_size"]) == ("7", "3", "512")
        assert found["input"] == "pictures"
    assert printed_config(capsys, "others", "--config", file)["input"] == "others"


def test_the_printed_config_can_be_used_again(images, tmp_path, capsys):
    settings = [images, *SMALL, "--out", tmp_path / "run"]
    with pytest.raises(SystemExit):
        main(["fit", *map(str, settings), "--print_config"])
    (tmp_path / "settings.yaml").write_text(capsys.readouterr().out)
    assert main(["fit", "--config", str(tmp_path / "settings.yaml"), "--epochs", "1"]) == 0
    config = load_run(tmp_path / "run").info.config
    assert (config.n_components, config.patch_size, config.epochs) == (6, 4, 1)


# --- encode, info, report


@pytest.mark.parametrize("noise", ["per-feature", "laplace"])
def test_the_noise_is_part_of_the_run(images, tmp_path, capsys, noise):
    out, codes = tmp_path / "run", tmp_path / "codes.npz"
    assert main(["fit", str(images), *SMALL, "--noise", noise, "--out", str(out)]) == 0
    run = load_run(out)
    assert (run.info.config.noise, run.model.likelihood.name) == (noise, noise)
    assert run.history[-1].noise_variance == pytest.approx(run.model.mean_noise_variance, rel=1e-6)
    assert main(["info", str(out)]) == 0
    assert "noise deviation" in capsys.readouterr().out
    assert main(["encode", str(out), str(images), "--out", str(codes)]) == 0
    with np.load(codes) as found:
        assert np.isfinite(found["mean"]).all()


@pytest.mark.parametrize(
    ("shape", "prior"),
    [("0.7", GeneralizedGaussian(0.7)), ("shared", GeneralizedGaussian("shared"))],
)
def test_the_shape_of_the_prior_is_part_of_the_run(images, tmp_path, capsys, shape, prior):
    out = tmp_path / "run"
    settings = ["--prior", "generalized-gaussian", "--prior-shape", shape]
    assert main(["fit", str(images), *SMALL, *settings, "--out", str(out)]) == 0
    model = load_run(out).model
    assert model.prior == prior
    assert len(set(model.prior_shape.tolist())) == 1
    assert main(["info", str(out)]) == 0
    assert "generalized-gaussian" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "shape"), [("0.7", 0.7), ("1", 1.0), ("shared", "shared")])
def test_a_file_of_settings_may_name_the_shape_of_the_prior(images, tmp_path, text, shape):
    out, file = tmp_path / "run", tmp_path / "settings.yaml"
    file.write_text(f"prior: generalized-gaussian\nprior_shape: {text}\n")
    assert main(["fit", str(images), *SMALL, "--config", str(file), "--out", str(out)]) == 0
    assert load_run(out).model.prior == GeneralizedGaussian(shape)
    assert load_run(out).info.config.prior_shape == shape


def test_a_run_from_before_there_was_a_choice_of_noise_opens(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["noise"]
    path.write_text(json.dumps(content))
    assert load_run(tmp_path / "old").info.config.noise == "isotropic"


def test_encode_gives_the_codes_of_every_tile(run, images, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    assert main(["encode", str(run), str(images), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote the codes of 200 patches to {out}\n"
    with np.load(out) as codes:
        assert set(codes) == {"mean", "marginal_scale", "positions", "image_names"}
        assert codes["mean"].shape == codes["marginal_scale"].shape == (200, 6)
        assert (codes["marginal_scale"] > 0).all()
        assert codes["positions"][11].tolist() == [0, 4, 4]
        assert codes["image_names"].tolist() == ["0.png", "1.png"]


@pytest.mark.parametrize("covariance", ["diagonal", "low-rank", "full"])
def test_encode_finds_every_kind_of_posterior(run, tmp_path, covariance):
    rows = load_run(run).examples
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "codes.npz"
    arguments = ["encode", str(run), str(tmp_path / "rows.npy"), "--rows", "--covariance", covariance]
    assert main([*arguments, "--out", str(out)]) == 0
    model = load_run(run).model
    solver = {
        "diagonal": DiagonalInference(tolerance=1e-4),
        "low-rank": LowRankInference(min(5, model.n_components)),
        "full": FullInference(tolerance=1e-4),
    }[covariance]
    expected = solver(torch.from_numpy(rows), model)
    with np.load(out) as codes:
        np.testing.assert_allclose(codes["mean"], expected.mean.numpy(), atol=1e-3)
        np.testing.assert_allclose(codes["marginal_scale"], expected.marginal_scale().numpy(), rtol=1e-2)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_encode_rows_takes_them_as_they_are(run, images, tmp_path, kind):
    """The rows that `encode` makes of images, given as rows, have the same codes."""
    from entrosparse.images import load_images, prepare_images, tile_patches

    info = load_run(run).info
    rows = tile_patches(prepare_images(load_images(images), "olshausen", info.gain).arrays, 4)[:]
    source = tmp_path / f"rows.{kind}"
    np.save(source, rows) if kind == "npy" else np.savez(source, rows=rows)
    assert main(["encode", str(run), str(images), "--out", str(tmp_path / "tiles.npz")]) == 0
    assert main(["encode", str(run), str(source), "--rows", "--out", str(tmp_path / "rows_codes.npz")]) == 0
    with np.load(tmp_path / "tiles.npz") as tiles, np.load(tmp_path / "rows_codes.npz") as codes:
        assert set(codes) == {"mean", "marginal_scale"}
        np.testing.assert_array_equal(codes["mean"], tiles["mean"])


def test_info_prints_the_headlines(run, capsys):
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert f"{load_run(run).history[-1].elbo:.2f} nats per patch" in text
    assert "of 6" in text


def test_report_needs_the_run_folder_only_and_the_page_nothing(figures, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(images), *SMALL, "--out", "run"]) == 0
    run = (tmp_path / "run").rename(tmp_path / "moved")
    page = (run / "report.html").read_text()
    for name in ("report.html", "fields.png"):
        (run / name).unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "fields.png").read_bytes().startswith(b"\x89PNG")
    again = (run / "report.html").read_text()
    assert len(again) == pytest.approx(len(page), rel=0.01)
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", again)
    assert not re.search(r"https?:|<script|<link|@import", without_namespaces)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]{5})', again))
    assert again.count("<svg") == 5
    assert again.count("<figcaption>") == 6
    assert "currentColor" in again
    assert "prefers-color-scheme: dark" in again
    assert "width=device-width" in again
    assert f"{load_run(run).history[-1].elbo:.2f} nats per patch" in again


def test_report_escapes_what_comes_from_outside(run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = json.loads((copy / "config.json").read_text())
    content["source"] = "<b>&"
    (copy / "config.json").write_text(json.dumps(content))
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


# --- what cannot be done is said in one line, and leaves nothing


def text_named_png(folder):
    (folder / "in").mkdir()
    (folder / "in" / "note.png").write_text("no picture")
    return folder / "in"


def empty_folder(folder):
    (folder / "in").mkdir()
    return folder / "in"


def array(pixels):
    def write(folder):
        np.save(folder / "in.npy", pixels)
        return folder / "in.npy"

    return write


NOISE = np.random.default_rng(0).normal(size=(30, 30))
WITH_NAN = np.where(np.eye(30, dtype=bool), np.nan, NOISE)
GENERALIZED = ["--prior", "generalized-gaussian"]
WITH_INFINITY = np.where(np.eye(30, dtype=bool), np.inf, NOISE)


@pytest.mark.parametrize(
    ("make_input", "arguments", "message"),
    [
        (empty_folder, [], "found none in"),
        (text_named_png, [], "note.png"),
        (lambda folder: folder / "missing.png", [], "missing.png"),
        (lambda folder: write_images(folder / "in", side=3), [], "patch_size"),
        (array(np.ones((30, 30))), [], "constant"),
        (array(WITH_NAN), [], "finite"),
        (array(WITH_INFINITY), [], "finite"),
        (array(NOISE), ["--n-components", "0"], "'n_components' parameter must be an integer >= 1; got 0"),
        (array(NOISE), ["--n-components", "many"], "n_components"),
        (array(NOISE), ["--n-components", "2.5"], "n_components"),
        (array(NOISE), ["--patch-size", "1"], "'patch_size' parameter must be an integer >= 2; got 1"),
        (array(NOISE), ["--epochs", "0"], "'epochs' parameter must be an integer >= 1; got 0"),
        (array(NOISE), ["--batch-size", "-3"], "'batch_size' parameter must be an integer >= 1; got -3"),
        (array(NOISE), ["--seed", "-1"], "'seed' parameter must be an integer >= 0; got -1"),
        (array(NOISE), ["--n-patches", "63"], "'n_patches' parameter must be an integer >= 64"),
        (array(NOISE), ["--annealing", "slow"], "'none', 'prior', 'likelihood', 'tempering'"),
        (array(NOISE), ["--whiten", "bleach"], "'olshausen', 'none'; got 'bleach'"),
        (array(NOISE), ["--prior-shape", "1"], "'prior_shape' must be 'learned' unless"),
        (array(NOISE), [*GENERALIZED, "--prior-shape", "0.3"], "must be a number in (0.3, 2]"),
        (array(NOISE), [*GENERALIZED, "--prior-shape", "nan"], "must be a number in (0.3, 2]"),
        (array(NOISE), [*GENERALIZED, "--prior-shape", "round"], "got 'round'"),
        (array(NOISE), ["--prior", "exponential"], "exponential"),
        (array(NOISE), ["--colour", "red"], "nrecognized arguments: --colour"),
        (array(NOISE), ["--n-comp", "3"], "nrecognized arguments: --n-comp"),
        (array(NOISE), ["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_fit_refuses(tmp_path, capsys, make_input, arguments, message):
    source = make_input(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    line = failure(capsys, "fit", source, *SMALL, *arguments, "--out", tmp_path / "deep" / "run")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", ["n_componentz: 5\n", "n_components: [\n", "n_components: many\n"])
def test_fit_refuses_a_config_file_that_does_not_fit(tmp_path, capsys, content):
    (tmp_path / "settings.yaml").write_text(content)
    line = failure(capsys, "fit", "--config", tmp_path / "settings.yaml", "--out", tmp_path / "run")
    assert "n_component" in line or "parsing" in line


def test_fit_refuses_an_output_folder_that_exists(images, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert "does not exist yet" in failure(capsys, "fit", images, *SMALL, "--out", tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(images, tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(entrosparse._files.os, "fsync", full)
    line = failure(capsys, "fit", images, *SMALL, "--out", tmp_path / "run")
    assert "No space left on device" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["info"], ["report"], ["encode", "images", "--out", "codes.npz"]])
def test_a_truncated_model_is_refused(run, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "run"
    broken.mkdir()
    for path in run.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    model = broken / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-10])
    before = sorted(tmp_path.rglob("*"))
    assert "model.safetensors" in failure(capsys, command[0], broken, *command[1:])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["info", "report", "resume"])
def test_a_missing_run_is_refused(tmp_path, capsys, command):
    assert "nowhere" in failure(capsys, command, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((3, 15)), "must have 16 columns, as those that the run '{}' learned from; got 15"),
        (np.ones(16), "of shape (16,)"),
        (np.ones((0, 16)), "of shape (0, 16)"),
        (np.full((3, 16), np.inf), "got 48 infinite entries"),
        (np.full((3, 16), "a"), "must hold real numbers"),
        (np.full((3, 16), None), "cannot be read as a table"),
    ],
)
def test_encode_refuses_rows(run, tmp_path, capsys, rows, message):
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "codes.npz"
    found = failure(capsys, "encode", run, tmp_path / "rows.npy", "--rows", "--out", out)
    assert message.format(run) in found
    assert not out.exists()


def test_encode_refuses_what_it_cannot_read_or_write(run, images, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    assert "gone.npy" in failure(capsys, "encode", run, tmp_path / "gone.npy", "--rows", "--out", out)
    (tmp_path / "note.npz").write_text("no archive")
    assert "note.npz" in failure(capsys, "encode", run, tmp_path / "note.npz", "--rows", "--out", out)
    assert "'out' parameter" in failure(capsys, "encode", run, images, "--out", tmp_path / "no" / "codes.npz")
    assert "'out' parameter" in failure(capsys, "encode", run, images, "--out", tmp_path)
    assert not out.exists()


@pytest.mark.parametrize("arguments", [[], ["learn"], ["encode"], ["info"], ["encode", "--config", "a", "b"]])
def test_a_wrong_command_line_is_one_line(capsys, arguments):
    failure(capsys, *arguments)


# --- Ctrl-C


def test_ctrl_c_leaves_a_usable_run(images, tmp_path, capsys, monkeypatch):
    def interrupt(self, samples_seen):
        if samples_seen > 300:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FitProgress, "on_batch", interrupt)
    out = tmp_path / "run"
    assert main(["fit", str(images), *SMALL, "--out", str(out)]) == 130
    line = capsys.readouterr().err
    assert "can be used as of epoch 1" in line
    assert line.endswith(f"to go on: entrosparse resume {out}\n")
    assert load_run(out).history[-1].epoch == 1
    assert (out / "report.html").exists()
    assert main(["encode", str(out), str(images), "--out", str(tmp_path / "codes.npz")]) == 0


def test_ctrl_c_before_the_first_epoch_leaves_nothing(images, tmp_path, capsys, monkeypatch):
    def interrupt(self):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FitProgress, "__enter__", interrupt)
    assert main(["fit", str(images), *SMALL, "--out", str(tmp_path / "run")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- resume


def keep_each_minibatch(patch):
    patch.setattr(
        "entrosparse.app.commands.fitting._checkpoints", lambda out: Checkpoints(out / "checkpoints", 0.0)
    )


@pytest.fixture(scope="module")
def unfinished(images, tmp_path_factory):
    """A run that was cut off after seven of its eight minibatches."""

    def interrupt(self, samples_seen):
        if samples_seen == 448:
            raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        keep_each_minibatch(patch)
        patch.setattr(FitProgress, "on_batch", interrupt)
        assert main(["fit", str(images), *SMALL, "--out", str(out)]) == 130
    return out


@pytest.fixture
def cut_off(unfinished, tmp_path, monkeypatch):
    """A copy of that run, to go on with."""
    keep_each_minibatch(monkeypatch)
    return shutil.copytree(unfinished, tmp_path / "run")


def assert_same_run(found, expected):
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    found, expected = load_run(found), load_run(expected)
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert getattr(found.model, name).equal(getattr(expected.model, name))
    rows = [untimed(each.history) for each in (found, expected)]
    assert rows[0] == rows[1]
    assert (found.info, found.examples.tolist()) == (expected.info, expected.examples.tolist())


def test_a_resumed_run_ends_as_if_it_had_not_been_cut_off(run, cut_off, capsys):
    assert load_run(cut_off).history[-1].epoch == 1
    assert main(["resume", str(cut_off)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[1] == "going on after 448 patches"
    assert [line.split()[0] for line in lines[2:]] == ["2", "wrote"]
    assert captured.err == ""
    assert_same_run(cut_off, run)


def test_a_run_that_kept_nothing_starts_again(run, cut_off, capsys):
    shutil.rmtree(cut_off / "checkpoints")
    assert main(["resume", str(cut_off)]) == 0
    assert "going on" not in capsys.readouterr().out
    assert_same_run(cut_off, run)


@pytest.mark.filterwarnings("default")
def test_a_damaged_checkpoint_is_a_warning_and_the_one_before_is_used(run, cut_off, capsys):
    path = max((cut_off / "checkpoints").glob("checkpoint-*")) / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["resume", str(cut_off)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("entrosparse: warning: the checkpoint ")
    assert captured.err.count("\n") == 1
    assert "going on after 384 patches" in captured.out
    assert_same_run(cut_off, run)


def test_a_complete_run_needs_its_page_only(run, cut_off, images):
    """As when the kill came after the last epoch, even half way through the removal of checkpoints."""
    for name in ("model.safetensors", "history.csv"):
        shutil.copy(run / name, cut_off / name)
    for path in (cut_off / "checkpoints").glob("checkpoint-*"):
        (path / "manifest.json").unlink()
    (cut_off / "report.html").unlink()
    assert main(["resume", str(cut_off)]) == 0
    assert_same_run(cut_off, run)


def test_the_images_are_found_from_another_folder(run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(images.parent)
    assert main(["fit", images.name, *SMALL, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    monkeypatch.chdir(tmp_path)
    assert load_run("run").info.source == str(images)


def changed_image(out, folder):
    path = folder / "1.png"
    pixels = np.asarray(PIL.Image.open(path)).copy()
    pixels[20, 20] ^= 64
    PIL.Image.fromarray(pixels).save(path)


def missing_images(out, folder):
    shutil.rmtree(folder)


def edited_settings(out, folder):
    path = out / "config.json"
    path.write_text(path.read_text().replace('"n_components": 6', '"n_components": 5'))


def damaged_checkpoints(out, folder):
    for path in (out / "checkpoints").glob("checkpoint-*"):
        (path / "numbers.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_image, "must be those it began with; got others in"),
        (missing_images, "must be an existing file or folder"),
        (edited_settings, "'n_components' was 6, is 5"),
        (damaged_checkpoints, "none of the checkpoints in"),
    ],
)
def test_resume_refuses_and_touches_nothing(cut_off, images, tmp_path, capsys, change, message):
    folder = shutil.copytree(images, tmp_path / "images")
    path = cut_off / "config.json"
    path.write_text(path.read_text().replace(str(images), str(folder)))
    change(cut_off, folder)
    before = {path: path.read_bytes() for path in cut_off.rglob("*") if path.is_file()}
    assert message in failure(capsys, "resume", cut_off)
    assert {path: path.read_bytes() for path in cut_off.rglob("*") if path.is_file()} == before


def test_a_disk_that_fills_up_while_learning_is_one_line(run, cut_off, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        line = failure(capsys, "resume", cut_off)
    assert line.endswith("checkpoints': a checkpoint cannot be written: No space left on device\n")
    assert load_run(cut_off).history[-1].epoch == 1
    assert main(["resume", str(cut_off)]) == 0
    assert_same_run(cut_off, run)


def test_a_run_folder_that_cannot_be_written_to_is_refused(cut_off, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "must be one that can be written to" in failure(capsys, "resume", cut_off)


# --- the process


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["fit", "--help"], "--n-components"), (["--version"], f"entrosparse {entrosparse.__version__}\n")],
)
def test_help_and_version_come_without_the_heavy_imports(arguments, told):
    script = (
        "import sys\n"
        "from entrosparse.app.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("entrosparse")
    result = subprocess.run([command, "fit", "--epochs", "none"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in result.stderr
