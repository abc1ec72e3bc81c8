"""What the commands say where one of several processes fails, and where all of them do."""

import os
import subprocess
import sys

import numpy as np
import pytest

from commands import SMALL, write_images
from entrosparse.app.cli import main
from entrosparse.app.runs import load_run

SCRIPT = """
import os, sys
import entrosparse.images, entrosparse.inference
from entrosparse.app.cli import main
from entrosparse.errors import FileFormatError

def refuse(*_):
    raise FileFormatError("the disk is broken")

module, name, ranks = sys.argv[1:4]
if os.environ["RANK"] in ranks.split(","):
    setattr(sys.modules[module], name, refuse)
sys.exit(main(sys.argv[4:]))
"""


def launched(*arguments):
    """Run something in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launch, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)


def failed(folder, module, name, ranks, *arguments):
    """Run a command in two processes, in some of which a function fails; return the errors that it says."""
    (folder / "command.py").write_text(SCRIPT)
    done = launched(folder / "command.py", module, name, ranks, *arguments)
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if line.startswith("entrosparse: error: ")]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ("1", "process 1 of 2 failed: the disk is broken"),
        pytest.param("0,1", "the disk is broken", marks=pytest.mark.slow),
    ],
)
def test_a_failure_in_any_process_is_said_once(tmp_path, ranks, expected):
    images = write_images(tmp_path / "images")
    fit = ("fit", images, *SMALL, "--out", tmp_path / "run")
    found = failed(tmp_path, "entrosparse.images", "load_images", ranks, *fit)
    assert found == [f"entrosparse: error: {expected}"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [("entrosparse.images", "load_images"), ("entrosparse.inference", "infer_in_chunks")],
)
def test_a_failure_of_one_process_to_encode_is_said(run, images, tmp_path, module, name):
    encode = ("encode", run, images, "--out", tmp_path / "codes.npz")
    found = failed(tmp_path, module, name, "1", *encode)
    assert found == ["entrosparse: error: process 1 of 2 failed: the disk is broken"]
    assert not (tmp_path / "codes.npz").exists()


@pytest.mark.slow
def test_two_processes_learn_from_rows_what_one_does(tmp_path):
    rows = np.random.default_rng(0).laplace(size=(400, 4)) @ np.diag([1.0, 2.0, 3.0, 4.0]) + 5.0
    rows[::7, 1] = np.nan
    for number, part in enumerate(np.array_split(rows, 3)):
        np.save(tmp_path / f"{number}.npy", part)
    fit = [
        "fit",
        tmp_path / "*.npy",
        "--rows",
        "--algorithm=online",
        "--n-components=4",
        "--epochs=2",
        "--batch-size=64",
        "--out",
    ]
    assert main([*map(str, fit), str(tmp_path / "one")]) == 0
    done = launched("-m", "entrosparse", *fit, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 processes")
    one, two = load_run(tmp_path / "one"), load_run(tmp_path / "two")
    np.testing.assert_allclose(two.model.dictionary, one.model.dictionary, atol=1e-9)
    assert two.history[-1].elbo == pytest.approx(one.history[-1].elbo, abs=1e-9)
