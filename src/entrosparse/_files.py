"""Writing files so that a reader never sees half of one."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
    except BaseException:
        aside.unlink(missing_ok=True)
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
