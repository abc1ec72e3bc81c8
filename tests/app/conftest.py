import pytest

from commands import SMALL, write_images
from entrosparse.app.cli import main


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
