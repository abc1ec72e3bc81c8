"""HTML pages that need no other file."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from entrosparse.app import plots

_SVG_STYLE = (
    "svg { color: #1d2128 } image { image-rendering: pixelated } "
    "@media (prefers-color-scheme: dark) { svg { color: #e8eaee } }"
)


def render(template: str, **values: Any) -> bytes:
    """Return a page made from one of the templates, as UTF-8."""
    environment = Environment(
        loader=PackageLoader("entrosparse.app"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Names of files may hold bytes that are no text.
    return environment.get_template(template).render(**values).encode(errors="replace")


def inline_svg(svg: str) -> Markup:
    """Return a figure's SVG as an element whose text and axes take the colour of the page."""
    return Markup(svg[svg.index("<svg") :].replace(plots.INK, "currentColor"))


def svg_address(svg: str) -> str:
    """Return the text of an address that holds a figure's SVG, with text and axes in the page's two colours.

    As a picture, an SVG from a folder that was tampered with can run no script and load nothing.
    """
    figure = svg[svg.index("<svg") :].replace(plots.INK, "currentColor")
    end = figure.index(">") + 1
    styled = f"{figure[:end]}<style>{_SVG_STYLE}</style>{figure[end:]}"
    return f"data:image/svg+xml;base64,{base64.b64encode(styled.encode()).decode()}"


def png_address(image: bytes) -> str:
    """Return the text of an address that holds a PNG."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
