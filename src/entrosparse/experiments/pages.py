"""The page of results: complete in itself, so that it can be opened from disk and sent by mail."""

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from entrosparse import plots
from entrosparse.experiments.base import Claim
from entrosparse.experiments.results import SavedResult
from entrosparse.files import write_atomically


def write_page(folder: Path, results: Sequence[SavedResult]) -> None:
    """Write ``report.html``: an index of the claims, and a section for each result.

    Raises
    ------
    OSError
        When a file cannot be read or written.
    """
    environment = Environment(
        loader=PackageLoader("entrosparse"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(svg=_svg, png=_png, verdict=_verdict)
    page = environment.get_template("reproduce.html.j2").render(results=results).encode()
    write_atomically(folder / "report.html", lambda file: file.write(page))


def _svg(path: Path, name: str) -> Markup:
    """Return a figure as an SVG element whose text and axes take the colour of the page."""
    text = (path / f"{name}.svg").read_text(encoding="utf-8")
    return Markup(text[text.index("<svg") :].replace(plots.INK, "currentColor"))


def _png(path: Path, name: str) -> str:
    """Return a figure as the text of an address that holds it."""
    content = base64.b64encode((path / f"{name}.png").read_bytes()).decode()
    return f"data:image/png;base64,{content}"


def _verdict(claim: Claim) -> Markup:
    return Markup(
        '<span class="holds">holds</span>' if claim.holds else '<span class="fails">does not hold</span>'
    )
