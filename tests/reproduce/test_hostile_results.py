"""Results that somebody tampered with: `reproduce --resume` shows no other file and runs no script."""

import base64
import json
import os
import re
import shutil

import numpy as np
import pytest

import entrosparse.reproduce.framework.running as running
from entrosparse.app import plots
from entrosparse.app.cli import main
from entrosparse.reproduce.framework.experiment import Claim, Config, Experiment, Picture, Result


@pytest.fixture(scope="module")
def toy():
    """An experiment of three figures."""

    def run(config):
        figure = plots.draw_fields(np.eye(4), np.ones(4), (2, 2))
        pictures = (Picture("one", "A.", (figure,)), Picture("two", "B.", (figure, figure), ("a", "b")))
        return Result("data", (Claim("it holds", "yes", True, "yes"),), pictures, (), {})

    return Experiment("Toy", {"smoke": Config()}, run, "Fig. 0")


@pytest.fixture(scope="module")
def made(toy, tmp_path_factory):
    """The folder of its result."""
    out = tmp_path_factory.mktemp("made") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "get_experiment", lambda name: toy)
        assert main(["reproduce", "erf", "--scale", "smoke", "--out", str(out)]) == 0
    return out


@pytest.fixture
def out(toy, made, tmp_path, monkeypatch):
    """A copy of that folder, to tamper with."""
    monkeypatch.setattr(running, "get_experiment", lambda name: toy)
    (tmp_path / "secret.svg").write_text("<svg>secret</svg>")
    (tmp_path / "secret.png").write_text("secret")
    return shutil.copytree(made, tmp_path / "out")


def resume(out):
    return main(["reproduce", "erf", "--scale", "smoke", "--out", str(out), "--resume"])


def edit(out, change):
    path = out / "erf" / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["pictures"][0].update(files=["../../secret"]),
        lambda content: content["pictures"][1].update(files=["two-00", "../../secret"]),
        lambda content: content["pictures"][0].update(files=["/etc/passwd"]),
        lambda content: content["pictures"][0].update(files=[""]),
        lambda content: content["pictures"][0].update(files=[]),
        lambda content: content["pictures"][0].update(files=[3]),
        lambda content: content["pictures"][0].update(labels=[]),
        lambda content: content.update(name="bars"),
        lambda content: content.update(seconds="long"),
        lambda content: content.update(config=3),
        lambda content: content.update(versions=None),
        lambda content: content.update(extra=1),
    ],
)
def test_a_result_that_cannot_be_shown_is_one_line(out, capsys, change):
    edit(out, change)
    page = (out / "report.html").read_bytes()
    capsys.readouterr()
    assert resume(out) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "erf'" in captured.err
    assert (out / "report.html").read_bytes() == page


@pytest.mark.parametrize("name", ["result.json", "one.svg", "two-00.png"])
@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_files_of_a_result_are_regular_and_of_bounded_size(out, tmp_path, capsys, name, kind):
    path = out / "erf" / name
    path.unlink()
    if kind == "link":
        path.symlink_to(tmp_path / "secret.png")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"")
        os.truncate(path, 2**31)
    capsys.readouterr()
    assert resume(out) == 2
    message = capsys.readouterr().err
    assert name in message
    assert kind != "large" or "must have at most" in message


def test_a_stored_figure_stays_a_picture(out):
    """As the content of an image, an SVG runs no script and loads nothing, whatever is in it."""
    (out / "erf" / "one.svg").write_text(
        '<?xml version="1.0"?><svg onload="alert(1)"><script>alert(2)</script>'
        '<foreignObject><img src="https://example.org/"/></foreignObject></svg>'
    )
    assert resume(out) == 0
    page = (out / "report.html").read_text()
    assert "alert" not in page
    assert "example.org" not in page
    assert "<svg" not in page
    (figure,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert "alert(1)" in base64.b64decode(figure).decode()


def test_stored_figures_take_the_colours_of_the_page(out):
    (figure,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', (out / "report.html").read_text())
    svg = base64.b64decode(figure).decode()
    assert svg.startswith("<svg")
    assert "prefers-color-scheme: dark" in svg
    assert plots.INK not in svg
