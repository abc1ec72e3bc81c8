import csv
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load, save

from conftest import untimed
from entrosparse.annealing import EntropyWeights, constant
from entrosparse.errors import FileFormatError, InputError, NumericalError
from entrosparse.inference import DiagonalEncoder, FullInference, LowRankEncoder, LowRankInference
from entrosparse.learning import (
    AdamLearner,
    BatchEM,
    Callback,
    Checkpoints,
    Learner,
    OnlineEM,
    RefinedEM,
    initial_model,
    train,
)
from entrosparse.priors import PRIORS

LEARNERS = {
    "diagonal": OnlineEM(),
    "low rank, H > D": OnlineEM(inference=LowRankInference(2, 0.0, 3)),
    "full, double": OnlineEM(inference=FullInference(0.0, 2)),
    "adam": AdamLearner(partial(LowRankEncoder, rank=2)),
    "refined": RefinedEM(OnlineEM()),
    "batch": BatchEM(),
    "batch, full": BatchEM(inference=FullInference(0.0, 1)),
    "batch, wide": BatchEM(),
}
RNG = np.random.default_rng(3)
ROWS = (RNG.laplace(size=(330, 10)) @ RNG.normal(size=(10, 10))).astype(np.float32)
FILES = ["manifest.json", "numbers.json", "tensors.safetensors"]


def learn(learner=LEARNERS["diagonal"], rows=ROWS, **arguments):
    """250 rows in minibatches of 64: four steps an epoch, twelve in all."""
    settings = {"n_components": 8, "epochs": 3, "batch_size": 64, "annealing": "prior"} | arguments
    heldout = settings.pop("heldout", rows[250:])
    return train(learner, rows[:250], heldout, **settings)


class Cut(BaseException):
    """As sudden as a kill, for learning keeps nothing of it."""


class CutOff(Callback):
    """Ends learning after a number of minibatches of this call."""

    error = Cut

    def __init__(self, batches):
        self.left = batches

    def on_batch(self, samples_seen):
        self.left -= 1
        if not self.left:
            raise self.error


def learn_until(batches, folder, *arguments, every_seconds=0.0, **settings):
    """Cut a run off in the minibatch after the given number of them, so that so many are kept."""
    checkpoints = Checkpoints(folder, every_seconds)
    with pytest.raises(Cut):
        learn(*arguments, checkpoints=checkpoints, callbacks=(CutOff(batches + 1),), **settings)


def assert_same(found, expected):
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert torch.equal(getattr(found.model, name), getattr(expected.model, name))
    assert untimed(found.history) == untimed(expected.history)


def content(folder):
    """All files but the one that keeps other runs out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole():
    return learn()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The checkpoints of a run that was cut off after its seventh minibatch."""
    folder = tmp_path_factory.mktemp("kept") / "checkpoints"
    learn_until(7, folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "checkpoints")


# --- going on


@pytest.mark.filterwarnings("ignore::entrosparse.errors.ConvergenceWarning")
def test_the_start_can_be_kept_after_going_on(tmp_path):
    """What is read from a checkpoint does not change the start, which is better than what is learned."""
    settings = {"learner": BatchEM(), "epochs": 4, "n_components": 5, "annealing": "none"}
    expected = learn(**settings)
    assert expected.history[-1].elbo < expected.history[0].elbo
    learn_until(2, tmp_path, **settings)
    assert_same(learn(**settings, checkpoints=Checkpoints(tmp_path, 0.0)), expected)


@pytest.mark.filterwarnings("ignore::entrosparse.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", LEARNERS)
def test_goes_on_as_if_it_had_not_been_cut_off(tmp_path, name):
    """Cut off after the first minibatch, within at the end of an epoch, and before the last one."""
    learner, rows = LEARNERS[name], ROWS.astype(np.float64 if "double" in name else np.float32)
    if "wide" in name:
        rows = rows @ np.random.default_rng(4).normal(size=(10, 520)).astype(rows.dtype)
    settings = {"n_components": 14 if "H > D" in name else 8}
    expected = [[0, 1, 2], 692, 3]
    if learner.sees_all_rows:  # each epoch is one batch, and there is no record before learning
        settings |= {"epochs": 14, "heldout": None}
        expected = [[*range(1, 11)], 11 * 250, 11, 12, 13, 14]
    for batches in (1, 2, 1, 4, 3):
        learn_until(batches, tmp_path, learner, rows, **settings)
    resumed = []

    class Watch(Callback):
        def on_resume(self, history, samples_seen):
            resumed.append([record.epoch for record in history])
            resumed.append(samples_seen)

        def on_epoch(self, model, record):
            resumed.append(record.epoch)

    again = learn(learner, rows, checkpoints=Checkpoints(tmp_path), callbacks=(Watch(),), **settings)
    assert resumed == expected
    assert_same(again, learn(learner, rows, **settings))
    seconds = [record.seconds for record in again.history]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0.0  # the start


def test_a_run_that_was_never_kept_starts(tmp_path, whole):
    learn_until(5, tmp_path / "checkpoints", every_seconds=float("inf"))
    assert not list(tmp_path.iterdir())
    assert_same(learn(checkpoints=Checkpoints(tmp_path / "checkpoints")), whole)


def test_two_are_kept_and_only_checkpoints_are_removed(tmp_path, whole):
    (tmp_path / "checkpoint-of-mine").mkdir()
    (tmp_path / "2024").mkdir()
    (tmp_path / ".checkpoint-0123abcd").mkdir()
    mine = {"2024", "checkpoint-of-mine"}
    learn_until(7, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names - mine == {".lock", "checkpoint-00000006", "checkpoint-00000007"}
    assert sorted(path.name for path in (tmp_path / "checkpoint-00000007").iterdir()) == FILES
    Checkpoints(tmp_path).remove()
    assert {path.name for path in tmp_path.iterdir()} == mine
    assert_same(learn(checkpoints=Checkpoints(tmp_path / "new")), whole)


def test_one_can_be_asked_for(tmp_path):
    checkpoints = Checkpoints(tmp_path, float("inf"))

    class Ask(CutOff):
        def on_batch(self, samples_seen):
            super().on_batch(samples_seen)
            if samples_seen == 128:
                checkpoints.request()

    with pytest.raises(Cut):
        learn(checkpoints=checkpoints, callbacks=(Ask(6),))
    (path,) = tmp_path.glob("checkpoint-*")
    assert json.loads((path / "numbers.json").read_text())["numbers"]["position"] == 128


def test_they_come_after_some_time(tmp_path, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("entrosparse.learning._checkpoints.time.monotonic", lambda: next(now))
    learn(epochs=5, checkpoints=Checkpoints(tmp_path, 4))
    assert max(path.name for path in tmp_path.iterdir()) == "checkpoint-00000005"


@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_time_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="'every_seconds' parameter must be a number >= 0; got"):
        Checkpoints("somewhere", value)


def test_the_tensors_that_are_needed_are_there(kept):
    path = kept / "checkpoint-00000007"
    names = sorted(load_file(path / "tensors.safetensors"))
    assert names == sorted(
        ["generator", "history"]
        + [f"state.floors.{name}" for name in ("mean_square", "noise_variance", "of_features")]
        + [f"state.moving.{name}" for name in ("dictionary", "prior_scale", "noise_variance")]
        + ["state.mean_dictionary"]
        + [f"state.curvature.{name}" for name in ("posterior_variance", "second_moment")]
    )


def test_the_tensors_of_an_encoder_are_there_once(tmp_path):
    """Though the inference, the state and the optimizer hold them."""
    learn_until(1, tmp_path, LEARNERS["adam"])
    (found,) = (load_file(path / "tensors.safetensors") for path in tmp_path.glob("checkpoint-*"))
    x = torch.tensor(ROWS)
    model = initial_model(x, 8, "ica", PRIORS["laplace"], torch.Generator())
    encoder = LEARNERS["adam"].start(model, x, torch.Generator()).amortized.encoder
    expected = dict(encoder.state_dict())
    held = {name: [key for key in found if key.endswith(f"encoder.{name}")] for name in expected}
    assert all(len(keys) == 1 for keys in held.values())
    moments = [key for key in found if key.startswith("state.optimizer.")]
    n_parameters = len(list(encoder.parameters()))
    assert len(moments) == 3 * n_parameters + 4  # of each the two moments and the step; the dictionary


class Interrupt(CutOff):
    error = KeyboardInterrupt


def test_an_interruption_is_kept_and_nothing_before_the_first_step(tmp_path, whole):
    for batches, position in ((3, 192), (2, 64)):
        checkpoints = Checkpoints(tmp_path / "run", float("inf"))
        with pytest.raises(KeyboardInterrupt):
            learn(checkpoints=checkpoints, callbacks=(Interrupt(batches),))
        newest = max((tmp_path / "run").glob("checkpoint-*"))
        assert json.loads((newest / "numbers.json").read_text())["numbers"]["position"] == position
    assert_same(learn(checkpoints=Checkpoints(tmp_path / "run")), whole)
    weights = np.repeat([0.0, 1.0], [200, 50])
    checkpoints = Checkpoints(tmp_path / "weighted", 0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(batch_size=1, sample_weight=weights, checkpoints=checkpoints, callbacks=(Interrupt(1),))
    once = learn(batch_size=1, epochs=1, sample_weight=weights)
    for batches in (2, 40):
        with pytest.raises(Cut):
            learn(
                batch_size=1,
                epochs=1,
                sample_weight=weights,
                checkpoints=Checkpoints(tmp_path / "other", 0.0),
                callbacks=(CutOff(batches),),
            )
    again = learn(batch_size=1, epochs=1, sample_weight=weights, checkpoints=Checkpoints(tmp_path / "other"))
    assert_same(again, once)


class Dropout(torch.nn.Module):
    """An encoder that draws from PyTorch's own generator."""

    def __init__(self, x, model, generator):
        super().__init__()
        self.encoder = DiagonalEncoder(x, model, generator)
        self.drop = torch.nn.Dropout(0.3)

    def forward(self, x):
        return self.encoder(self.drop(x))


@pytest.mark.parametrize("learner", [AdamLearner(Dropout), RefinedEM(OnlineEM(), Dropout)])
def test_encoders_that_draw_random_numbers_go_on_too(tmp_path, learner):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = learn(learner)
    assert torch.equal(torch.get_rng_state(), before)
    learn_until(5, tmp_path, learner)
    torch.manual_seed(6)
    assert_same(learn(learner, checkpoints=Checkpoints(tmp_path)), whole)


def changing(epoch):
    """Weights of several types: learning goes on from each."""
    return [EntropyWeights(2), EntropyWeights(np.float64(1.5), np.float32(1)), EntropyWeights()][int(epoch)]


def test_the_type_of_a_number_does_not_matter(tmp_path):
    whole = learn(annealing=changing)
    for batches in (1, 4, 3):
        learn_until(batches, tmp_path, annealing=changing)
    assert_same(learn(annealing=changing, n_components=np.int64(8), checkpoints=Checkpoints(tmp_path)), whole)


def test_runs_that_share_a_folder_do_not_meet(tmp_path, whole):
    def kept(**settings):
        with pytest.raises(Cut):
            learn(checkpoints=Checkpoints(tmp_path, 0.0, shared=True), callbacks=(CutOff(6),), **settings)

    kept()
    kept(n_components=6)
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints = Checkpoints(tmp_path, 0.0, shared=True)
    assert_same(learn(checkpoints=checkpoints), whole)
    checkpoints.remove()
    assert len(list(tmp_path.iterdir())) == 1
    other = Checkpoints(tmp_path, 0.0, shared=True)
    assert_same(learn(n_components=6, checkpoints=other), learn(n_components=6))
    other.remove()
    assert not tmp_path.exists()


def test_a_folder_is_for_one_run_at_a_time(folder, whole):
    before = content(folder)

    class Meanwhile(Callback):
        def on_resume(self, history, samples_seen):
            with pytest.raises(InputError, match=r"the checkpoints in '.*' are in use by another run"):
                learn(checkpoints=Checkpoints(folder, 0.0))
            with pytest.raises(InputError, match="in use by another run"):
                Checkpoints(folder).remove()
            assert {
                path: bytes_ for path, bytes_ in content(folder).items() if path.name != ".lock"
            } == before

    assert_same(learn(checkpoints=Checkpoints(folder), callbacks=(Meanwhile(),)), whole)
    Checkpoints(folder).remove()
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_what_others_made_stays(folder, tmp_path, whole):
    """Folders of other tools with like names, and what links point to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in FILES:
        (elsewhere / name).write_text("precious")
    for name in ("checkpoint-500", "checkpoint-00000400", ".checkpoint-0123abcd"):
        (folder / name).mkdir()
        (folder / name / "weights.pt").write_text("precious")
    (folder / "checkpoint-00000300").symlink_to(elsewhere)
    (folder / ".checkpoint-aaaaaaaa").symlink_to(elsewhere)
    inside = folder / "checkpoint-00000200"
    inside.mkdir()
    (inside / "manifest.json").symlink_to(elsewhere / "manifest.json")
    others = {
        path: path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.read_bytes() == b"precious"
    }
    assert_same(learn(checkpoints=Checkpoints(folder, 0.0)), whole)
    Checkpoints(folder).remove()
    assert {path: path.read_text() for path in others} == others
    assert len(others) == 4  # what links point to is looked at below
    assert [path.read_text() for path in elsewhere.iterdir()] == 3 * ["precious"]
    assert not (folder / "checkpoint-00000007").exists()


def test_what_a_kill_left_half_written_is_removed(folder, whole):
    half = folder / ".checkpoint-0123abcd"
    half.mkdir()
    (half / ".tensors.safetensors.89abcdef.partial").write_text("half")
    with pytest.raises(Cut):
        learn(checkpoints=Checkpoints(folder, float("inf")), callbacks=(CutOff(1),))
    assert not half.exists()


# --- what cannot be gone on with


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "a bit":
        bytes_ = bytearray(path.read_bytes())
        bytes_[len(bytes_) // 2] ^= 1
        path.write_bytes(bytes_)
    elif kind == "huge":
        os.truncate(path, 2**42)  # sparse: takes no room


@pytest.mark.parametrize("kind", ["missing", "truncated", "a bit", "huge"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_skipped(folder, whole, name, kind):
    damage(folder / "checkpoint-00000007" / name, kind)
    with pytest.warns(UserWarning, match="checkpoint-00000007' is damaged: .*; going on from the one before"):
        learn_until(1, folder)
    assert {path.name for path in folder.glob("checkpoint-*")} == {
        "checkpoint-00000006",
        "checkpoint-00000008",
    }
    assert_same(learn(checkpoints=Checkpoints(folder)), whole)


def test_none_that_is_valid_is_an_error(folder):
    for path in folder.glob("checkpoint-*"):
        damage(path / "manifest.json", "truncated")
    before = content(folder)
    with pytest.raises(
        FileFormatError, match=r"none of the checkpoints in .* can be used; .*-00000007' is dam"
    ):
        learn(checkpoints=Checkpoints(folder))
    assert content(folder) == before


def seal(path):
    """Make the manifest right again."""
    files = {name: (path / name).read_bytes() for name in FILES[1:]}
    seals = {n: {"bytes": len(bytes_), "sha256": sha256(bytes_).hexdigest()} for n, bytes_ in files.items()}
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": seals}))


def forge_tensor(name, change):
    def forge(path):
        tensors = load((path / "tensors.safetensors").read_bytes())
        tensors[name] = change(tensors[name]) if name in tensors else change(None)
        (path / "tensors.safetensors").write_bytes(save(tensors))

    return forge


def forge_number(name, value):
    def forge(path):
        found = json.loads((path / "numbers.json").read_text())
        found["numbers"][name] = value
        (path / "numbers.json").write_text(json.dumps(found))

    return forge


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (forge_tensor("state.moving.dictionary", lambda w: w[:-1].clone()), "names, shapes or dtypes"),
        (forge_tensor("state.moving.dictionary", lambda w: w.double()), "names, shapes or dtypes"),
        (forge_tensor("state.moving.dictionary", lambda w: 2 * w), "length 1"),
        (forge_tensor("state.moving.prior_scale", lambda s: -s), "> 0"),
        (forge_tensor("state.curvature.second_moment", lambda s: s * torch.nan), "finite"),
        (forge_tensor("another", lambda _: torch.ones(2)), "names, shapes or dtypes"),
        (forge_tensor("history", lambda rows: rows[:, 1:].clone()), "argument"),
        (forge_tensor("history", lambda rows: rows[:0].clone()), "position"),
        (forge_tensor("history", lambda rows: rows[[0, 1, 1, 1]]), "position"),
        (forge_tensor("history", lambda rows: rows.repeat(1000, 1)), "at most"),
        (forge_tensor("history", lambda rows: rows * torch.nan), "finite"),
        (forge_tensor("generator", torch.zeros_like), "mt19937"),
        (forge_number("position", 0), "position"),
        (forge_number("position", 251), "position"),
        (forge_number("position", 64.0), "other numbers"),
        (forge_number("seconds", float("nan")), "other numbers"),
        (forge_number("seconds", "1"), "other numbers"),
        (forge_number("another", 1), "other numbers"),
    ],
)
def test_a_forged_one_is_refused(folder, forge, message):
    shutil.rmtree(folder / "checkpoint-00000006")
    path = folder / "checkpoint-00000007"
    forge(path)
    seal(path)
    with pytest.raises(FileFormatError, match=message) as caught:
        learn(checkpoints=Checkpoints(folder))
    assert "\n" not in str(caught.value)


def test_another_format_is_refused(folder):
    for path in folder.glob("checkpoint-*"):
        manifest = path / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(FileFormatError, match="the format must be 1; got 2"):
        learn(checkpoints=Checkpoints(folder))


def test_a_resealed_one_is_what_it_was(folder, whole):
    """So what is refused above is refused for the forgery alone."""
    shutil.rmtree(folder / "checkpoint-00000006")
    forge_tensor("state.moving.dictionary", lambda w: w)(folder / "checkpoint-00000007")
    seal(folder / "checkpoint-00000007")
    assert_same(learn(checkpoints=Checkpoints(folder)), whole)


def edited(row):
    rows = ROWS.copy()
    rows[row, 0] += 1e-3
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_components": 7}, "of another run: 'n_components' was 8, is 7; give"),
        ({"learner": OnlineEM(step_size=0.5)}, "'learner.step_size' was 1, is 0.5; give"),
        ({"init": np.eye(10)[:, :8]}, r"'init' was ica, is torch.float64 \(10, 8\)"),
        ({"prior": PRIORS["gaussian"]}, "'prior' was Laplace, is Gaussian; give"),
        ({"learner": AdamLearner()}, "of another run: 'learner' was OnlineEM, is AdamLearner; give"),
        ({"epochs": 4}, "'epochs' was 3, is 4; give"),
        ({"batch_size": 32}, "'batch_size' was 64, is 32; give"),
        ({"sample_weight": np.ones(250)}, r"'sample_weight' was None, is torch.float64 \(250,\) .*; give"),
        ({"seed": 1}, "of another run: 'seed' was 0, is 1; give"),
        (
            {"annealing": constant(prior=2.0)},
            "'annealing' was {0: EntropyWeights.* is {0: EntropyWeights.*; give",
        ),
        ({"rows": ROWS.astype(np.float64)}, r"'data' was 250 rows of float32 .* is 250 rows of float64"),
        ({"rows": edited(2)}, "of another run: 'data' was .*; give"),
        ({"rows": edited(-1)}, "of another run: 'heldout' was .*; give"),
        ({"rows": ROWS[:-1]}, r"'heldout' was torch.float32 \(80, 10\) .* is torch.float32 \(79, 10\)"),
    ],
)
def test_another_task_is_refused_and_nothing_touched(folder, whole, change, message):
    before = content(folder)
    with pytest.raises(InputError, match=message) as caught:
        learn(checkpoints=Checkpoints(folder, 0.0), **change)
    assert "\n" not in str(caught.value)
    assert content(folder) == before
    assert_same(learn(checkpoints=Checkpoints(folder)), whole)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (AdamLearner(partial(LowRankEncoder, rank=2)), AdamLearner(partial(LowRankEncoder, rank=3))),
        (AdamLearner(DiagonalEncoder), AdamLearner(LowRankEncoder)),
    ],
)
def test_settings_that_are_objects_are_told_apart(tmp_path, one, other):
    learn_until(1, tmp_path, one)
    with pytest.raises(InputError, match=r"of another run: 'learner\.encoder' was [^;]*; give"):
        learn(other, checkpoints=Checkpoints(tmp_path))


def test_rows_that_no_start_looks_at_count_too(tmp_path):
    """Learning starts from at most 8,192 rows, but all of them are what the run is about."""
    rows = RNG.laplace(size=(9000, 4)).astype(np.float32)
    settings = {"n_components": 4, "batch_size": 3000, "seed": 3}
    order = torch.randperm(9000, generator=torch.Generator().manual_seed(3))

    def learn_rows(rows, **more):
        return train(OnlineEM(), rows, rows[:50], epochs=2, checkpoints=Checkpoints(tmp_path, 0.0), **more)

    with pytest.raises(Cut):
        learn_rows(rows, callbacks=(CutOff(2),), **settings)
    other = rows.copy()
    other[int(order[-1])] += 1.0  # not among the first 8,192 of the order
    with pytest.raises(InputError, match="of another run: 'data' was 9000 rows of float32"):
        learn_rows(other, **settings)
    assert learn_rows(rows, **settings).history[-1].epoch == 2


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_full_disk_keeps_what_was_there(folder, whole, monkeypatch, failing):
    """A checkpoint is synced five times: three files and two folders."""
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            OSError, match="a checkpoint cannot be written: No space left on device"
        ) as caught:
            learn(checkpoints=Checkpoints(folder, 0.0))
    assert (caught.value.errno, caught.value.filename) == (28, str(folder))
    names = {path.name for path in folder.iterdir()}
    assert names >= {"checkpoint-00000006", "checkpoint-00000007"}
    assert not [name for name in names - {".lock"} if name.startswith(".")]
    assert_same(learn(checkpoints=Checkpoints(folder, 0.0)), whole)


def test_a_folder_that_cannot_be_written_to_is_refused_before_learning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "checkpoints"]

    class Never(Callback):
        def on_epoch(self, model, record):
            raise AssertionError("learning began")

    for place in places:
        with pytest.raises(InputError, match="the folder of checkpoints must be one that can be written to"):
            learn(checkpoints=Checkpoints(place), callbacks=(Never(),))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="the folder of checkpoints must be one that can be written to"):
        learn(checkpoints=Checkpoints(tmp_path / "new"), callbacks=(Never(),))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_state_of_another_kind_is_named(tmp_path):
    class State(dict):
        model = property(lambda self: self["running"].model)
        inference = property(lambda self: self["running"].inference)

    class Wrapped(Learner):
        def start(self, *arguments):
            return State(running=LEARNERS["diagonal"].start(*arguments))

        def step(self, state, batch):
            return State(running=LEARNERS["diagonal"].step(state["running"], batch))

    with pytest.raises(InputError, match="state of a learner must be a dataclass to be kept; got State"):
        learn(Wrapped(), checkpoints=Checkpoints(tmp_path, 0.0))


@pytest.mark.parametrize("count", [60, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damage_of_any_kind_is_our_own_error(folder, whole, count):
    """Bytes changed, cut out or put in; in half of the cases under a manifest that is right."""
    rng = np.random.default_rng(count)
    shutil.rmtree(folder / "checkpoint-00000006")
    path = folder / "checkpoint-00000007"
    good = content(path)
    refused = 0
    for _ in range(count):
        file = path / FILES[rng.integers(3)]
        bytes_ = bytearray(good[file])
        for _ in range(rng.integers(1, 4)):
            start = rng.integers(len(bytes_))
            new = rng.integers(256, size=rng.integers(0, 5), dtype=np.uint8).tobytes()
            bytes_[start : start + rng.integers(0, 5)] = new
        file.write_bytes(bytes_)
        if file.name != "manifest.json" and rng.random() < 0.5:
            seal(path)
        try:
            learn_until(0, folder, every_seconds=float("inf"))
        except (InputError, NumericalError):  # Numbers of any size may stand under a manifest that is right.
            refused += 1
        for each, was in good.items():
            each.write_bytes(was)
    assert refused > count // 2
    assert_same(learn(checkpoints=Checkpoints(folder)), whole)


# --- kill -9


def history_of(folder):
    if (folder / "history.json").exists():
        return json.loads((folder / "history.json").read_text())
    with (folder / "run" / "history.csv").open(newline="") as file:
        return [record | {"seconds": 0.0, "evaluation_seconds": 0.0} for record in csv.DictReader(file)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(
    ("kills", "targets"),
    [
        (1, ["online", "command"]),
        pytest.param(25, ["online", "adam", "refined", "batch", "command"], marks=pytest.mark.slow),
    ],
)
def test_runs_that_are_killed_end_as_if_they_had_not_been(tmp_path, kills, targets):
    """Each target is killed so often: learners, and the command line."""
    script = Path(__file__).with_name("kills.py")
    command = [sys.executable, "-W", "ignore", str(script), str(kills), str(kills), str(tmp_path), *targets]
    result = subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
    report = json.loads(result.stdout)
    print(report)
    assert report["kills"] >= len(targets) * kills
    assert report["while saving"] >= kills // 10
    for target in tmp_path.iterdir():
        runs = [run for run in target.iterdir() if run.name != "whole"]
        (whole,) = target.glob("whole/**/model.safetensors")
        for run in runs:
            (model,) = run.glob("**/model.safetensors")
            for name, tensor in load_file(whole).items():
                np.testing.assert_array_equal(load_file(model)[name], tensor)
            assert history_of(run) == history_of(target / "whole")
