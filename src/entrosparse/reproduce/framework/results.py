"""Results on disk: a folder each, with numbers, figures and a page.

``result.json``
    Everything about one experiment: configuration, data, versions, machine, seconds, claims, tables, numbers.
``<picture>.png``, ``<picture>.svg``
    Figures; the frames of a picture with several are numbered.
``report.html``
    The page (see `entrosparse.reproduce.framework.pages`).
"""

import io
import json
import math
import os
import re
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any, final

from matplotlib.figure import Figure

from entrosparse._files import one_line, read_ours, write_atomically
from entrosparse.errors import FileFormatError
from entrosparse.reproduce import EXPERIMENTS, EXPLORATIONS
from entrosparse.reproduce.framework.experiment import Claim, Result, Table

FORMAT = 1
MOST_BYTES = 2**25
"""Size of the largest file of a result that is read."""


@final
@dataclass(frozen=True)
class SavedPicture:
    """A picture in a folder: names of its files without suffix, and what each frame is."""

    name: str
    caption: str
    files: tuple[str, ...]
    labels: tuple[str, ...]


@final
@dataclass(frozen=True)
class SavedResult:
    """A result read back from its folder, as `reproduce` left it."""

    path: Path
    name: str
    title: str
    source: str
    scale: str
    config: dict[str, Any]
    data: str
    seconds: float
    versions: dict[str, str]
    machine: str
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    pictures: tuple[SavedPicture, ...]
    numbers: dict[str, Any]


def write_result(folder: Path, header: dict[str, Any], result: Result) -> None:
    """Write figures and ``result.json`` into a folder; the header is what the result does not know itself.

    Raises
    ------
    OSError
        When a file cannot be written.
    """
    pictures = []
    for picture in result.pictures:
        many = len(picture.frames) > 1
        files = tuple(f"{picture.name}-{i:02d}" if many else picture.name for i in range(len(picture.frames)))
        for file, figure in zip(files, picture.frames, strict=True):
            _write_figure(folder / file, figure)
        pictures.append(SavedPicture(picture.name, picture.caption, files, picture.labels))
    content = {
        "format": FORMAT,
        **header,
        "data": result.data,
        "claims": [asdict(claim) for claim in result.claims],
        "tables": [asdict(table) for table in result.tables],
        "pictures": [asdict(picture) for picture in pictures],
        "numbers": result.numbers,
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "result.json", lambda file: file.write(text.encode()))


def load_result(path: Path) -> SavedResult:
    """Read the result in a folder.

    Raises
    ------
    FileFormatError
        If it is damaged.
    """
    try:
        content = json.loads(read_ours(path / "result.json", MOST_BYTES))
        found = content.pop("format")
        if found != FORMAT:
            raise FileFormatError(
                f"'{path / 'result.json'}' must have the result format {FORMAT}; got {found!r}"
            )
        for name, kind in (("claims", Claim), ("tables", Table), ("pictures", SavedPicture)):
            content[name] = tuple(kind(**_with_tuples(part)) for part in content[name])
        result = SavedResult(path=path, **content)
        _check(result)
        return result
    except (FileFormatError, PermissionError):
        raise
    except Exception as error:  # damaged files make their readers raise nearly anything
        raise FileFormatError(f"'{path}' is no complete result: {one_line(error)}") from error


def load_results(out: str | os.PathLike[str]) -> list[SavedResult]:
    """Read all results in a folder, in the order of their tables.

    Raises
    ------
    FileFormatError
        If one is damaged.
    """
    folders = [Path(out) / name for name in EXPERIMENTS | EXPLORATIONS]
    results = [load_result(folder) for folder in folders if folder.is_dir()]
    for result in results:
        if result.name != result.path.name:
            raise FileFormatError(f"'{result.path}' must hold the result of its name; got {result.name!r}")
    return results


def _check(result: SavedResult) -> None:
    """Raise ValueError if a result cannot be shown, or would show files from elsewhere."""
    for picture in result.pictures:
        if not 0 < len(picture.files) == len(picture.labels):
            raise ValueError("a picture must have a label for each of its files")
        if not all(re.fullmatch(r"[\w-]+", file) for file in picture.files):
            raise ValueError("a picture must name files in the folder")
    if not (isinstance(result.config, dict) and isinstance(result.versions, dict)):
        raise ValueError("settings and versions must be given by name")
    if not (isinstance(result.seconds, Real) and math.isfinite(result.seconds)):
        raise ValueError("the seconds must be a number")


def _with_tuples(content: Any) -> Any:
    """Return content of a result file with a tuple for each list."""
    if isinstance(content, list):
        return tuple(map(_with_tuples, content))
    return {k: _with_tuples(v) for k, v in content.items()} if isinstance(content, dict) else content


def _write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, on white, and as SVG, on nothing."""
    image, text = io.BytesIO(), io.StringIO()
    figure.savefig(image, format="png", dpi=figure.dpi if figure.dpi > 100 else 100, facecolor="white")
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    write_atomically(path.with_suffix(".png"), lambda file: file.write(image.getvalue()))
    write_atomically(path.with_suffix(".svg"), lambda file: file.write(text.getvalue().encode()))
