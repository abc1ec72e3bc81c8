"""HTML pages that need no other file."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from entrosparse.app import plots


def render(template: str, **values: Any) -> bytes:
    """Return a page made from one of the templates, as UTF-8."""
    environment = Environment(
        loader=PackageLoader("entrosparse.app"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values).encode()


def inline_svg(svg: str) -> Markup:
    """Return a figure's SVG as an element whose text and axes take the colour of the page."""
    return Markup(svg[svg.index("<svg") :].replace(plots.INK, "currentColor"))


def png_address(image: bytes) -> str:
    """Return the text of an address that holds a PNG."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
