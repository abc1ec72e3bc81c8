"""The command as a process of its own: signals, pipes, terminals and names of files."""

import io
import os
import shutil
import signal
import sys
import threading

import numpy as np
import pytest

from commands import SMALL, failure, process
from conftest import untimed
from entrosparse.app.cli import main
from entrosparse.app.interruption import Interruption
from entrosparse.app.runs import load_run

LATIN = os.fsdecode("grüße.png".encode("latin-1"))
LONG = ["--n-components=6", "--patch-size=4", "--n-patches=8000", "--batch-size=16", "--epochs=1"]


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("long") / "run"
    assert main(["fit", str(images), *LONG, "--out", str(out)]) == 0
    return load_run(out)


# --- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_first_epoch_keeps_what_was_learned(uninterrupted, images, tmp_path, capsys, number):
    """Resumed, the run ends with the same bits as one that nobody interrupted."""
    out = tmp_path / "run"
    with process("fit", str(images), *LONG, "--out", str(out)) as fit:
        assert fit.stdout.readline().split()[0] == b"epoch"
        assert fit.stdout.readline().split()[0] == b"0"
        fit.send_signal(number)
        _, errors = fit.communicate(timeout=60)
    assert fit.returncode == 128 + number, errors
    line = errors.decode()
    assert line.count("\n") == 1
    assert "can be used as of epoch 0" in line
    assert line.endswith(f"to go on: entrosparse resume {out}\n")
    assert main(["resume", str(out)]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert 0 < int(output.split("going on after ")[1].split()[0].replace(",", "")) < 8000
    found = load_run(out)
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert getattr(found.model, name).equal(getattr(uninterrupted.model, name))
    rows = [untimed(each.history) for each in (found, uninterrupted)]
    assert rows[0] == rows[1]


def test_signals_are_left_as_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption() as interruption:
        interruption.on_batch(1)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):  # The second signal does not wait.
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interruption.on_batch(2)
    assert interruption.exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_learning_in_another_thread_watches_no_signals(images, tmp_path):
    codes = []
    arguments = ["fit", str(images), *SMALL, "--out", str(tmp_path / "run")]
    thread = threading.Thread(target=lambda: codes.append(main(arguments)))
    thread.start()
    thread.join()
    assert codes == [0]


# --- pipes and terminals


def test_a_reader_that_goes_away_ends_the_command_without_a_word(run):
    with process("info", str(run)) as command:
        command.stdout.close()
        errors = command.stderr.read()
    assert (command.returncode, errors) == (141, b"")


def test_a_reader_that_goes_away_ends_learning(images, tmp_path, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["fit", str(images), *SMALL, "--out", str(tmp_path / "run")]) == 141
    assert capsys.readouterr().err == ""


def test_a_terminal_without_unicode_is_enough(run, monkeypatch):
    for arguments, code in ((["info", f"{run}ö"], 2), (["reproduce", "list"], 0)):
        streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        assert main(arguments) == code
        written = b"".join(stream.buffer.getvalue() for stream in streams.values())
        assert written
        assert written.isascii()


# --- names of files that are no text


@pytest.fixture
def latin(images, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    try:
        shutil.copy(images / "0.png", folder / LATIN)
    except OSError:
        pytest.skip("the file system holds no such names")
    return folder


def test_pictures_may_have_names_that_are_no_text(latin, tmp_path, capsys):
    source = latin / LATIN
    run = tmp_path / "run"
    assert main(["fit", str(source), *SMALL, "--out", str(run)]) == 0
    for command in ("info", "report", "resume"):
        assert main([command, str(run)]) == 0
    assert main(["encode", str(run), str(latin), "--out", str(tmp_path / "codes.npz")]) == 0
    assert load_run(run).info.source == str(source)
    assert load_run(run).info.image_names == ("gr??e.png",)
    source.write_text("no picture")
    assert "gr??e.png" in failure(capsys, "encode", run, source, "--out", tmp_path / "other.npz")


def test_outputs_with_names_that_are_no_text_are_refused_before_work(latin, images, tmp_path, capsys):
    taken = latin / LATIN.removesuffix(".png")
    assert "'out' parameter must be a path of printable" in failure(
        capsys, "fit", images, *SMALL, "--out", taken
    )
    assert "'out' parameter must be a path of printable" in failure(
        capsys, "reproduce", "erf", "--out", taken
    )
    assert [path.name for path in latin.iterdir()] == [LATIN]


def test_codes_may_have_a_name_that_is_no_text(latin, run, images):
    out = latin / LATIN.replace(".png", ".npz")
    assert main(["encode", str(run), str(images), "--out", str(out)]) == 0
    with np.load(out) as codes:
        assert "mean" in codes


# --- settings that no machine can serve


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        (
            "--n-patches",
            10**12,
            "the 'n_patches' parameter must be an integer <= 100000000; got 1000000000000",
        ),
        ("--n-components", 10**9, "the 'n_components' parameter must be an integer <= 2097152, the most for"),
        ("--patch-size", 10**9, "the 'patch_size' parameter must be an integer <= 1024; got 1000000000"),
        ("--seed", 10**23, "the 'seed' parameter must be an integer <= 9223372036854775807; got 1000000"),
        ("--epochs", 10**6, "the 'epochs' parameter must be an integer <= 100000; got 1000000"),
        ("--epochs", 1.5, "the 'epochs' parameter must be of type int; got 1.5"),
        ("--rank", 10**9, "the 'rank' parameter must be an integer <= 10000; got 1000000000"),
        ("--batch-size", 10**9, "the 'n_patches' parameter must be an integer >= 1000000000, the batch size"),
    ],
)
def test_settings_that_no_machine_can_serve_are_one_line(images, tmp_path, capsys, flag, value, message):
    out = tmp_path / "run"
    assert message in failure(capsys, "fit", images, *SMALL, f"{flag}={value}", "--out", out)
    assert not out.exists()


def test_a_missing_input_is_not_called_by_another_name(run, tmp_path, capsys):
    line = failure(capsys, "encode", run, tmp_path / "no.png", "--out", tmp_path / "codes.npz")
    assert "the source of the images must be an existing file or folder; got" in line
    assert "parameter" not in line


@pytest.mark.parametrize("name", ["pipe.png", "pipe.npy", "pipe.mat", "device.png", "rows.npy"])
def test_an_input_that_is_no_regular_file_is_refused_at_once(run, tmp_path, capsys, name):
    path = tmp_path / name
    if name.startswith("device"):
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    rows = ["--rows"] if name == "rows.npy" else []
    line = failure(capsys, "encode", run, path, *rows, "--out", tmp_path / "codes.npz")
    assert "must be a regular file" in line


def test_a_full_disk_under_the_report_names_the_file_and_how_to_go_on(run, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        line = failure(capsys, "resume", copy)
    assert f"'{copy / 'fields.png'}': No space left on device" in line
    assert line.endswith(f"to go on: entrosparse resume {copy}\n")
    assert not list(copy.glob(".*"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.npz", "a.mat"])
def test_a_failed_command_leaves_no_file_open(tmp_path, name, capsys):
    """The descriptors that are open after a failed command are those that were open before."""
    (tmp_path / name).write_text("no picture")
    before = set(os.listdir("/proc/self/fd"))
    assert name in failure(capsys, "fit", tmp_path / name, *SMALL, "--out", tmp_path / "run")
    assert set(os.listdir("/proc/self/fd")) == before
