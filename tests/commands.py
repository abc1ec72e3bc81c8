"""What the tests of the command share."""

import subprocess
import sys

import numpy as np
import PIL.Image

from entrosparse.app.cli import main

SMALL = ["--n-components=6", "--patch-size=4", "--n-patches=256", "--batch-size=64", "--epochs=2"]


def write_images(folder, n=2, side=40):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(n):
        pixels = rng.normal(size=(side, side)).cumsum(0).cumsum(1)
        scaled = 255 * (pixels - pixels.min()) / np.ptp(pixels)
        PIL.Image.fromarray(scaled.astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def failure(capsys, *arguments):
    """Run a command that must fail, and return the one line that it says."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("entrosparse: error: ")
    return captured.err


def process(*arguments, **options):
    """Start a command in a process of its own; its output and errors are pipes."""
    command = [sys.executable, "-m", "entrosparse.app.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
