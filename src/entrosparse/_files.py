"""Reading files that may be made to do harm, and writing them so that a reader never sees half of one."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from entrosparse.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def printable(text: object) -> str:
    """Return a text with "?" for all that could steer a terminal, and for bytes of names that are no text."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def one_line(error: BaseException) -> str:
    """Return what an error says on one line of at most 200 characters."""
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__


def check_name(parameter: str, path: Path) -> None:
    """Raise InputError unless all names in a path are text, as libraries that read and write there need."""
    if printable(path) != str(path):
        raise InputError(
            f"the '{parameter}' parameter must be a path of printable characters in the system's encoding; "
            f"got '{printable(path)}'"
        )


def open_regular(path: str | os.PathLike[str], follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading. A pipe is never waited for, and no device is opened.

    Raises
    ------
    OSError
        If the file cannot be opened.
    FileFormatError
        If it is not a regular file, or a link and links are not followed.
    """

    def open_if_regular(name: str, flags: int) -> int:
        if not stat.S_ISREG(os.stat(name, follow_symlinks=follow_links).st_mode):
            raise FileFormatError(f"'{path}' must be a regular file{'' if follow_links else ', not a link'}")
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    return open(path, "rb", opener=open_if_regular)


def open_ours(path: Path, limit: int, follow_links: bool = False) -> BinaryIO:
    """Open a file that the package wrote: a regular one, no link, of at most ``limit`` bytes.

    Raises
    ------
    OSError
        If the file cannot be opened.
    FileFormatError
        If it is not such a file; a link is one if links are followed.
    """
    file = open_regular(path, follow_links)
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        file.close()
        raise FileFormatError(f"'{path}' must have at most {limit:,} bytes; it has {size:,}")
    return file


def read_ours(path: Path, limit: int) -> bytes:
    """Return the content of a file that :func:`open_ours` opens."""
    with open_ours(path, limit) as file:
        return file.read(limit)


def read_arrays(file: BinaryIO, limit: int) -> dict[str, "NDArray[Any]"]:
    """Return the arrays of a .npz file by name, or that of a .npy file under ""; nothing is unpickled.

    The arrays of a ``.npz`` file together may unpack to ``limit`` bytes.

    Raises
    ------
    Exception
        Of nearly any kind, if the file is damaged.
    """
    import numpy as np  # Here, so that the command line starts without NumPy.

    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"": loaded}
    check_claim(file, sum(member.file_size for member in loaded.zip.infolist()), limit)
    arrays = {name: loaded[name] for name in sorted(loaded.files)}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def map_array(path: str | os.PathLike[str]) -> "NDArray[Any]":
    """Map the array of a .npy file into memory, from which it is read where it is used; nothing is unpickled.

    Raises
    ------
    Exception
        Of nearly any kind, if the file is damaged.
    """
    import numpy as np  # Here, so that the command line starts without NumPy.

    open_regular(path).close()
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def most_bytes(file: BinaryIO) -> int:
    """Return to how many bytes a file may unpack: enough for any photograph, too few to fill the memory."""
    return max(2**28, 100 * os.fstat(file.fileno()).st_size)


def check_claim(file: BinaryIO, n_bytes: int, limit: int) -> None:
    """Raise FileFormatError if what a file unpacks to, or takes while it is read, is above the limit."""
    if n_bytes > limit:
        raise FileFormatError(f"'{file.name}' must unpack to at most {limit:,} bytes; it claims {n_bytes:,}")


def write_atomically(path: str | os.PathLike[str], writer: Callable[[BinaryIO], object]) -> None:
    """Write a temporary file in the same folder, then rename it to ``path`` in one step.

    Whoever opens ``path`` finds what was there before or all of the new content, even when the process
    is killed or the disk fills up while it writes.

    The writer is called once, with a binary file open for writing. After an error, such as the OSError of a
    folder that does not exist, ``path`` is as it was before.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with aside.open("xb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # A full disk does not say what it had no room for.
        raise


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder to fill, and rename it to ``path`` in one step when it is complete.

    The folder must not exist, and the one that it is in must. After an error nothing is left of it.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        aside.mkdir()
        yield aside
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_leavings(folder: Path) -> None:
    """Remove the regular files that :func:`write_atomically` left in a folder when it was killed."""
    for path in folder.glob(".*.partial"):
        if _PARTIAL.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)


_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
