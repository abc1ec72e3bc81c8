import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from entrosparse.app.config import FitConfig
from entrosparse.app.outputs import check_new_folder
from entrosparse.app.runs import RunInfo, RunWriter, load_run, pick_examples
from entrosparse.app.summaries import summarise
from entrosparse.errors import FileFormatError, InputError
from entrosparse.inference import AmortizedInference, DiagonalEncoder
from entrosparse.learning import EpochRecord
from entrosparse.model import SparseCodingModel
from entrosparse.priors import GeneralizedGaussian

INFO = RunInfo(
    FitConfig(n_components=3, patch_size=2, n_patches=1000).for_data(1000, 4),
    "somewhere",
    ("a.png", "größer.png"),
    gain=0.25,
)
ENCODER_INFO = replace(INFO, config=replace(INFO.config, inference="encoder"))
EXAMPLES = np.arange(8, dtype=np.float32).reshape(2, 4)
FILES = ("config.json", "model.safetensors", "history.csv", "examples.npz")


def make_model(scale=1.0):
    dictionary = torch.linspace(-1, 1, 12).reshape(4, 3)
    return SparseCodingModel(dictionary / dictionary.norm(dim=0), torch.full((3,), scale), torch.tensor(0.1))


def make_encoder(mark):
    """An encoder that can be told from others."""
    encoder = DiagonalEncoder(torch.ones(1, 4), make_model(), torch.Generator().manual_seed(1), width=1)
    encoder.unit = torch.full((3,), mark)
    return AmortizedInference(encoder.eval())


def make_record(epoch):
    return EpochRecord(
        epoch=epoch, seconds=0.1 + epoch, samples_seen=1000 * epoch, elbo=-1 / 3 + epoch,
        posterior_entropy=1.5, prior_entropy=2.5, likelihood_entropy=-1e-17, gamma=1.0, delta=0.2,
        noise_variance=0.01, gini_mean=0.5, gini_std=0.1, dead_latents=1,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    writer = RunWriter(tmp_path / "deep" / "run", INFO, EXAMPLES)
    writer.on_epoch(make_model(1.0), make_record(0))
    writer.on_epoch(make_model(2.0), make_record(1))
    return writer.path


def test_a_run_is_read_back_as_it_was_written(folder):
    run = load_run(folder)
    assert run.info == INFO
    assert run.history == (make_record(0), make_record(1))
    torch.testing.assert_close(run.model.prior_scale, torch.full((3,), 2.0))
    np.testing.assert_array_equal(run.examples, EXAMPLES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_run_that_goes_on_writes_epochs_in_place_of_its_own(folder):
    writer = RunWriter(folder, INFO, EXAMPLES, load_run(folder).history)
    writer.on_epoch(make_model(3.0), make_record(2))
    assert load_run(folder).history == tuple(make_record(epoch) for epoch in range(3))
    writer.on_epoch(make_model(4.0), replace(make_record(1), seconds=7.0))
    run = load_run(folder)
    assert run.history == (make_record(0), replace(make_record(1), seconds=7.0))
    torch.testing.assert_close(run.model.prior_scale, torch.full((3,), 4.0))


def test_a_run_that_learns_an_encoder_keeps_it_with_its_model(tmp_path):
    writer = RunWriter(tmp_path / "run", ENCODER_INFO, EXAMPLES)
    for epoch in range(3):
        writer.on_inference(make_encoder(epoch + 1.0))
        writer.on_epoch(make_model(epoch + 1.0), make_record(epoch))
        run = load_run(writer.path)
        assert run.inference.encoder.unit[0] == run.model.prior_scale[0] == epoch + 1.0
    assert sorted(path.name for path in writer.path.iterdir()) == sorted([*FILES, "encoder.safetensors"])
    writer.path.joinpath("encoder.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"encoder\.safetensors' is missing"):
        load_run(writer.path)


def test_headlines_are_those_of_the_last_epoch(folder):
    headlines = summarise(load_run(folder))
    assert headlines["held-out ELBO"] == "0.67 nats per patch"
    assert headlines["gained by learning"] == "1.00 nats per patch"
    assert headlines["generative fields"] == "2 in use of 3"
    assert headlines["noise deviation"] == "0.1000 data units"
    assert headlines["epochs"] == "1 of 10"
    assert headlines["posteriors"] == "diagonal, optimized one by one"
    assert (headlines["prior"], headlines["noise"]) == ("laplace", "isotropic")


def test_headlines_say_the_shapes_of_the_prior(folder):
    run = load_run(folder)
    shaped = replace(run.model, prior=GeneralizedGaussian(), prior_shape=torch.tensor([0.5, 1.25, 0.75]))
    headlines = summarise(replace(run, model=shaped))
    assert headlines["prior"] == "generalized-gaussian, shapes from 0.50 to 1.25"


def test_examples_are_spaced_evenly_in_contrast():
    contrast = np.random.default_rng(0).permutation(25)
    patches = np.outer(contrast, [1.0, -1.0, 1.0, -1.0])
    np.testing.assert_array_equal(pick_examples(patches)[:, 0], np.arange(2, 25, 2))


@pytest.mark.parametrize(("n_patches", "expected"), [(64, 64), (5000, 500), (1_000_000, 2048)])
def test_a_tenth_of_the_patches_is_held_out_within_bounds(n_patches, expected):
    assert FitConfig(n_patches=n_patches).n_heldout == expected


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileFormatError, match=name) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_truncated_file_is_named(folder, name, kept):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileFormatError, match=name) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '{"format": 99}', '{"format": 1}', '{"format": 1, "config": 7}',
     '{"format": 1, "config": {"n_components": 0}, "source": "", "image_names": [], "gain": 1}'],
)  # fmt: skip
def test_a_config_of_another_kind_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"config\.json"):
        load_run(folder)


def test_a_run_from_before_there_were_rows_opens(folder):
    content = json.loads((folder / "config.json").read_text())
    del content["config"]["rows"], content["n_rows"]
    (folder / "config.json").write_text(json.dumps(content))
    run = load_run(folder)
    assert run.info == INFO
    assert (run.units.mean == 0.0).all()
    (folder / "config.json").write_text(json.dumps(content | {"n_rows": 1000}))
    with pytest.raises(FileFormatError, match="'n_rows' and 'column_names' must be null"):
        load_run(folder)


def test_files_of_different_runs_are_refused(folder):
    content = json.loads((folder / "config.json").read_text())
    content["config"]["patch_size"] = 3
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match="patch size"):
        load_run(folder)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="nowhere"):
        load_run(tmp_path / "nowhere")


def test_a_new_folder_is_checked_and_not_made(tmp_path):
    check_new_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for taken in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="the 'out' parameter must"):
            check_new_folder(taken)


def test_a_folder_that_appeared_meanwhile_is_kept(folder):
    writer = RunWriter(folder, replace(INFO, source="elsewhere"), EXAMPLES)
    with pytest.raises(OSError, match="not empty"):
        writer.on_epoch(make_model(), make_record(0))
    assert load_run(folder).info.source == "somewhere"
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_failing_disk_keeps_the_previous_epoch(folder, monkeypatch):
    writer = RunWriter(folder.with_name("other"), INFO, EXAMPLES)
    writer.on_epoch(make_model(1.0), make_record(0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            writer.on_epoch(make_model(2.0), make_record(1))
    assert load_run(writer.path).history == (make_record(0),)
    assert sorted(path.name for path in writer.path.iterdir()) == sorted(FILES)
    writer.on_epoch(make_model(2.0), make_record(1))
    assert len(load_run(writer.path).history) == 2


class Instants:
    """What is in a folder before each line of the package that is run: what a kill there would leave."""

    def __init__(self, folder):
        self.folder, self.found = folder, []

    def __enter__(self):
        self.tracing = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.tracing)

    def trace(self, frame, event, argument):
        if "entrosparse" not in Path(frame.f_code.co_filename).parts:
            return None
        if event == "line":
            self.found.append(
                {
                    path.relative_to(self.folder): path.read_bytes() if path.is_file() else None
                    for path in self.folder.rglob("*")
                }
            )
        return self.trace


@pytest.mark.parametrize("info", [INFO, ENCODER_INFO], ids=["model", "encoder"])
def test_a_kill_at_any_instant_leaves_a_usable_run_or_none(tmp_path, info):
    """Read what is there before each line of the package that a writer runs."""
    (tmp_path / "written").mkdir()
    writer = RunWriter(tmp_path / "written" / "run", info, EXAMPLES)
    states = [(make_encoder(k + 1.0), make_model(k + 1.0), make_record(k)) for k in range(3)]
    with Instants(tmp_path / "written") as instants:
        for inference, model, record in states:
            writer.on_inference(inference)
            writer.on_epoch(model, record)
    epochs, before = [], None
    for number, files in enumerate(instants.found):
        if files != before:
            place, before = tmp_path / str(number), files
            place.mkdir()
            for path, content in files.items():  # folders before what they hold
                (place / path).mkdir() if content is None else (place / path).write_bytes(content)
            epoch = last_epoch(place / "run", info)
        epochs.append(epoch)
    assert epochs == sorted(epochs)
    assert set(epochs) == {-1, 0, 1, 2}
    assert min(epochs.count(epoch) for epoch in (-1, 0, 1)) >= 4  # the instants between two whole states


def last_epoch(folder, info):
    """Load a run, see that its parts belong together, and return its last epoch; -1 where there is none."""
    if not folder.exists():
        return -1
    run = load_run(folder)
    mark, epoch = run.model.prior_scale[0].item(), run.history[-1].epoch
    assert mark - 1 in (epoch, epoch + 1)
    if info is ENCODER_INFO:  # Encoder and model always belong together.
        assert run.inference.encoder.unit[0].item() == mark
    return epoch
