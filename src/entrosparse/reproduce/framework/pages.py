"""The page of results: complete in itself, so that it can be opened from disk and sent by mail."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from entrosparse._files import read_ours, write_atomically
from entrosparse.app.html import png_address, render, svg_address
from entrosparse.reproduce.framework.experiment import Claim
from entrosparse.reproduce.framework.results import MOST_BYTES, SavedResult


def write_page(folder: Path, results: Sequence[SavedResult]) -> None:
    """Write ``report.html``: an index of the claims, and a section for each result.

    Raises
    ------
    OSError
        When a file cannot be read or written.
    """
    page = render("reproduce.html.j2", results=results, svg=_svg, png=_png, verdict=_verdict)
    write_atomically(folder / "report.html", lambda file: file.write(page))


def _svg(path: Path, name: str) -> str:
    return svg_address(read_ours(path / f"{name}.svg", MOST_BYTES).decode())


def _png(path: Path, name: str) -> str:
    return png_address(read_ours(path / f"{name}.png", MOST_BYTES))


def _verdict(claim: Claim) -> Markup:
    return Markup(
        '<span class="holds">holds</span>' if claim.holds else '<span class="fails">does not hold</span>'
    )
