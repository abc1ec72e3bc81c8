"""Settings as plain data that JSON can hold, and back: numbers, texts, and parts of kinds in a table.

A part is a dataclass whose fields are its settings, such as a solver. Its kind and its settings are written
by their names, and the table says which kinds may be made again, so that reading runs no code but theirs.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from entrosparse._files import printable
from entrosparse.errors import FileFormatError, InputError

_PART = "part"
LONGEST = 2**24  # Characters of JSON, which may take much more memory when it is read.

Kinds = Mapping[str, type]
"""The classes of parts by their own names."""


def to_plain(name: str, value: Any, kinds: Kinds) -> Any:
    """Return a setting as plain data.

    Raises
    ------
    InputError
        If it is neither None, a number, a text or a path nor a part of one of the kinds.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    kind = type(value)
    if kinds.get(kind.__name__) is not kind:
        raise InputError(
            f"the '{name}' parameter must be None, a number, a text or one of {', '.join(kinds)} to be "
            f"saved; got {kind.__name__}"
        )
    settings = {f.name: to_plain(f"{name}.{f.name}", getattr(value, f.name), kinds) for f in fields(value)}
    return {_PART: kind.__name__, **settings}


def from_plain(name: str, content: Any, kinds: Kinds) -> Any:
    """Return the setting that plain data stand for.

    Raises
    ------
    InputError
        If there is no such setting.
    """
    if isinstance(content, int) and abs(content) >= 2**63:
        raise _unfit(name, "a number below 2^63", content)
    if content is None or isinstance(content, int | float | str):
        return content
    kind = kinds.get(str(content.get(_PART))) if isinstance(content, dict) else None
    if kind is None:
        raise _unfit(name, f"None, a number, a text or one of {', '.join(kinds)}", content)
    defaults = {field.name: field.default for field in fields(kind)}
    if content.keys() != {_PART, *defaults}:
        raise _unfit(name, f"a {kind.__name__} with the settings {', '.join(defaults)}", content)
    settings = {key: from_plain(f"{name}.{key}", content[key], kinds) for key in defaults}
    for key, default in defaults.items():
        if not _is_like(settings[key], default):
            raise _unfit(f"{name}.{key}", f"a setting like {default!r}", settings[key])
    return kind(**settings)


def to_json(name: str, value: Any, kinds: Kinds) -> str:
    """Return a setting as JSON."""
    return json.dumps(to_plain(name, value, kinds))


def from_json(name: str, text: str, kinds: Kinds) -> Any:
    """Return the setting that a text of JSON stands for; raise as :func:`from_plain` does."""
    return from_plain(name, parsed(name, text), kinds)


def parsed(name: str, text: str) -> Any:
    """Return what a text of JSON says; raise FileFormatError if it is none, or too long."""
    if len(text) > LONGEST:
        raise FileFormatError(f"the '{name}' must have at most {LONGEST:,} characters; got {len(text):,}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the '{name}' must be JSON; got {printable(text)[:60]}") from error


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a value can take the place of a default: numbers are finite and not negative."""
    if isinstance(default, int | float):
        numbers = (int,) if type(default) is int else (int, float)
        return type(value) in numbers and value >= 0 and math.isfinite(value)
    if isinstance(default, str):
        return isinstance(value, str | int | float)
    return callable(default) and callable(value)  # Solvers, which parts are made of, are called.


def _unfit(name: str, expected: str, content: Any) -> FileFormatError:
    return FileFormatError(f"the '{printable(name)}' must be {expected}; got {printable(content)[:60]}")
