"""Run folders made to do harm, and outputs that would take over what is there."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import SMALL, failure
from entrosparse.app.cli import main
from entrosparse.app.runs import load_run
from entrosparse.errors import FileFormatError

FILES = ("config.json", "model.safetensors", "history.csv", "examples.npz")


@pytest.fixture
def run(run, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(run, tmp_path / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- encode takes over nothing


def test_encode_replaces_codes_only_and_only_when_told(run, images, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    command = ["encode", run, images, "--out", out]
    assert main([str(word) for word in command]) == 0
    codes = out.read_bytes()
    out.write_bytes(codes + b" ")
    assert "--overwrite" in failure(capsys, *command)
    assert out.read_bytes() == codes + b" "
    assert main([*map(str, command), "--overwrite"]) == 0
    assert out.read_bytes() == codes


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
@pytest.mark.parametrize("kind", ["model", "examples", "picture", "text", "other", "pipe", "link", "device"])
def test_encode_never_takes_over_what_is_no_file_of_codes(run, images, tmp_path, capsys, kind, options):
    codes = tmp_path / "real.npz"
    np.savez(codes, mean=np.eye(2), marginal_scale=np.eye(2))
    out = {
        "model": run / "model.safetensors", "examples": run / "examples.npz", "picture": images / "0.png",
        "text": tmp_path / "codes.txt", "device": Path("/dev/null"),
    }.get(kind, tmp_path / "taken.npz")  # fmt: skip
    if kind == "other":
        np.savez(out, rows=np.eye(3))
    elif kind == "pipe":
        os.mkfifo(out)
    elif kind == "link":
        out.symlink_to(codes)
    before = contents(tmp_path)
    assert "the 'out' parameter must" in failure(capsys, "encode", run, images, "--out", out, *options)
    assert contents(tmp_path) == before


def test_encode_works_with_a_model_of_double_precision(run, images, tmp_path):
    load_run(run).model.to(torch.float64).save(run / "model.safetensors")
    assert main(["encode", str(run), str(images), "--out", str(tmp_path / "codes.npz")]) == 0
    assert main(["report", str(run)]) == 0


# --- files of a run


def edit_history(run, edit):
    path = run / "history.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *edit([row.split(",") for row in rows])]) + "\n")


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(1, 0, "2"), (1, 0, "0"), (0, 0, "1"), (2, 0, "3"), (1, 2, "255"), (2, 2, "5120"), (1, 3, "nan"),
     (1, 3, "1e300"), (2, 9, "-1"), (2, 9, "0"), (1, 1, "inf"), (1, 4, "x")],
)  # fmt: skip
def test_a_wrong_number_in_the_history_is_damage_and_removes_nothing(run, capsys, row, column, value):
    """Epochs are 0, 1, 2, ...: a digit must not make a run look complete, for then its checkpoints go."""

    def edit(rows):
        rows[row][column] = value
        return map(",".join, rows)

    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "kept").write_text("")
    edit_history(run, edit)
    before = contents(run)
    for command in ("info", "resume", "report"):
        assert "history.csv' is damaged" in failure(capsys, command, run)
    assert contents(run) == before


def test_more_epochs_than_the_run_has_are_damage(run, capsys):
    edit_history(run, lambda rows: map(",".join, [*rows, ["3", rows[-1][1], "768", *rows[-1][3:]]]))
    assert "history.csv' is damaged" in failure(capsys, "resume", run)


def zip_bomb(path):
    array = np.zeros((2**12, 2**15), np.float32)  # 512 MiB, as 0.5 MB
    np.savez_compressed(path, patches=array)


def test_examples_that_unpack_to_too_much_are_refused_before_they_are(run):
    zip_bomb(run / "examples.npz")
    script = (
        "import sys, torch, matplotlib.figure\n"
        "from pathlib import Path\n"
        "from entrosparse.app.cli import main\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "import entrosparse.app.reports\n"
        "before = peak()\n"
        "for command in ('info', 'report'): print(main([command, sys.argv[1]]), peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, run], capture_output=True, text=True, check=True)
    outputs, errors = done.stdout.splitlines(), done.stderr.splitlines()
    assert len(outputs) == len(errors) == 2
    for output, error in zip(outputs, errors, strict=True):
        code, kilobytes = map(int, output.split())
        assert code == 2
        assert "must unpack to at most" in error
        assert kilobytes < 50_000


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder", "large"])
def test_files_of_a_run_are_regular_and_of_bounded_size(run, tmp_path, capsys, name, kind):
    path, elsewhere = run / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        path.write_bytes(elsewhere.read_bytes())
        os.truncate(path, 2**31)  # A hole: it takes no room.
    else:
        path.symlink_to(elsewhere if kind == "link" else "/dev/zero")
    for command in ("info", "resume", "report"):
        message = failure(capsys, command, run)
        assert name in message
        assert kind != "large" or "must have at most" in message


@pytest.mark.parametrize(
    "examples",
    [np.zeros((0, 16)), np.zeros((2, 4, 4)), np.full((2, 16), "a"), np.full((2, 16), np.nan), np.zeros(16),
     np.zeros((2, 16), int), np.zeros((13, 16)), np.zeros((2, 9)), np.full((2, 16), 1e35),
     np.full((2, 16), None)],
)  # fmt: skip
def test_examples_that_cannot_be_drawn_are_one_line(run, capsys, examples):
    np.savez(run / "examples.npz", patches=examples)
    before = contents(run)
    failure(capsys, "report", run)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("gain", "high"), ("gain", 0), ("gain", -1), ("gain", float("nan")), ("gain", None), ("source", 3),
     ("version", None), ("image_names", [3]), ("image_names", 3), ("n_patches", 10**12), ("seed", 10**23),
     ("stretch_annealing", "yes")],
)  # fmt: skip
def test_settings_that_no_run_has_are_one_line(run, capsys, name, value):
    content = json.loads((run / "config.json").read_text())
    (content if name in content else content["config"])[name] = value
    (run / "config.json").write_text(json.dumps(content))
    for command in ("info", "report", "resume"):
        assert "config.json" in failure(capsys, command, run)


def test_a_run_cannot_steer_a_terminal(run, capsys):
    content = json.loads((run / "config.json").read_text())
    content |= {"source": "\x1b]0;owned\x07\x1b[31m", "version": "1\x1b[2J\n\r2"}
    (run / "config.json").write_text(json.dumps(content))
    assert main(["info", str(run)]) == 0
    captured = capsys.readouterr().out
    assert all(character.isprintable() for character in captured.replace("\n", ""))
    assert "1?[2J??2" in captured
    assert "\x1b" not in failure(capsys, "info", run.with_name("no\x1b[31m"))


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(run):
    leavings = [run / f".{name}.0123abcd.partial" for name in FILES]
    for path in leavings:
        path.write_text("half")
    kept = [run / ".mine.partial", run / "history.csv.0123abcd.partial"]
    for path in kept:
        path.write_text("mine")
    link = run / ".link.0123abcd.partial"
    link.symlink_to(kept[0])
    assert main(["resume", str(run)]) == 0
    assert not any(path.exists() for path in leavings)
    assert all(path.exists() for path in [*kept, link])


def test_a_zip_that_claims_less_than_it_holds_is_refused(run):
    """The size that is checked is the one that is unpacked."""
    path = run / "examples.npz"
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (200).to_bytes(4, "little")))
    with pytest.raises(FileFormatError, match=r"examples\.npz"):
        load_run(run)


def test_a_lack_of_memory_is_one_line(run, images, tmp_path):
    """With 1 GiB more than the imports take, ten million patches cannot be drawn."""
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import torch, scipy.fft, sklearn.decomposition, matplotlib.figure, entrosparse.images\n"
        "from entrosparse.app.cli import main\n"
        "import entrosparse.app.reports\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["fit", images, *SMALL, "--n-patches", "100000000", "--out", tmp_path / "new"]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the memory does not suffice" in done.stderr
    assert not (tmp_path / "new").exists()
