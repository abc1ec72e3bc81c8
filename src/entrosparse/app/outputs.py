"""What the commands may write to: new folders, and files of codes."""

import os
import zipfile
from pathlib import Path

from entrosparse._files import check_name, open_regular
from entrosparse.errors import FileFormatError, InputError

_NEW_FILE = "a file that does not exist yet, or a file of codes and --overwrite given"


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Raise InputError if something is at ``path`` already, or no run folder can be written there."""
    path = Path(path)
    if os.path.lexists(path):
        raise InputError(f"the 'out' parameter must be a folder that does not exist yet; got '{path}'")
    place = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise InputError(f"the 'out' parameter must lie in a folder that can be written to; got '{path}'")
    check_name("out", path)


def check_codes_file(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise InputError unless codes can be written to a new file, or over a file of codes if allowed."""
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"the 'out' parameter must be a file name that ends in .npz; got '{path}'")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise InputError(f"the 'out' parameter must lie in a folder that can be written to; got '{path}'")
    if os.path.lexists(path) and not (overwrite and _holds_codes(path)):
        expected = "a file of codes, or one that does not exist yet" if overwrite else _NEW_FILE
        raise InputError(f"the 'out' parameter must be {expected}; got '{path}'")


def _holds_codes(path: Path) -> bool:
    try:
        with open_regular(path, follow_links=False) as file, zipfile.ZipFile(file) as archive:
            return {"mean.npy", "marginal_scale.npy"} <= set(archive.namelist())
    except (OSError, FileFormatError, zipfile.BadZipFile):
        return False
