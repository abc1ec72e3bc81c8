"""Thousands of damaged files, none of which may crash, hang, fill the memory or raise what is not ours."""

import json
import re
import subprocess
import sys

import pytest

# What libtiff says begins with the file's name as Pillow gives it, or with the name of a function.
LIBTIFF = re.compile(r"(tempfile\.tif: |MissingRequired: |\w*TIFF|LZW|Zip|ZIP|PackBits|Fax|JPEG)")

# What is loaded, and the memory in bytes by which the process may grow meanwhile.
MEMORY = {
    "model": 50e6,
    "encoder": 50e6,
    "estimator": 100e6,
    "run": 50e6,
    "checkpoints": 50e6,
    "images": 400e6,
}

FEW = {"model": 300, "encoder": 300, "estimator": 200, "run": 200, "checkpoints": 60, "images": 300}
MANY = {
    "model": 20_000,
    "encoder": 5000,
    "estimator": 5000,
    "run": 20_000,
    "checkpoints": 20_000,
    "images": 20_000,
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(FEW, id="few"),
        *(pytest.param({name: n}, marks=pytest.mark.slow, id=name) for name, n in MANY.items()),
    ],
)
def test_damaged_files_are_refused_or_sound(tmp_path, request, counts):
    """Whatever a reader prints is a failure too: each message must come as an error of the library.

    But libtiff speaks from C, in lines of its own, and cannot be silenced without hiding what others say.
    """
    script = request.path.with_name("hammer.py")
    words = [str(word) for pair in counts.items() for word in pair]
    command = [sys.executable, "-X", "faulthandler", script, "1", tmp_path, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if not LIBTIFF.match(line)]
    for (target, count), line in zip(counts.items(), done.stdout.splitlines(), strict=True):
        report = json.loads(line)
        loaded, refused = (sum(report[kind].values()) for kind in ("loaded", "refused"))
        assert loaded + refused == count
        # The damage is neither harmless nor always fatal; a run or a checkpoint knows nearly every change.
        assert min(loaded, refused) > (0 if target in ("run", "checkpoints") else 0.01 * count)
        assert report["slowest"][0] < 10.0  # seconds; usually far less than one
        assert report["memory"] < MEMORY[target]
