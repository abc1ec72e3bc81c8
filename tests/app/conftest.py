import pytest

from commands import SMALL, write_images
from entrosparse.app import reports
from entrosparse.app.cli import main

INLINE_FIGURE, FIELDS_PNG = reports.inline_figure, reports.fields_png


@pytest.fixture(scope="module", autouse=True)
def only_figures_asked_for(pages_without_figures):
    """No figures, but where a test asks for them."""


@pytest.fixture
def figures(monkeypatch):
    """Renders the figures of the runs of a test."""
    monkeypatch.setattr(reports, "inline_figure", INLINE_FIGURE)
    monkeypatch.setattr(reports, "fields_png", FIELDS_PNG)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of pictures."""
    return write_images(tmp_path_factory.mktemp("input") / "images")


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """The folder of a run on these pictures, which tests must leave as it is."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", str(images), *SMALL, "--out", str(out)]) == 0
    return out
