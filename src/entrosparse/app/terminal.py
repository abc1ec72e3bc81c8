"""What the commands say on a terminal, the codes that they exit with, and how their parsers are made."""

import os
import sys
from typing import Any, TextIO

from jsonargparse import ArgumentParser

from entrosparse._files import printable
from entrosparse._launch import is_first
from entrosparse.errors import InputError

FAILED, INTERRUPTED, UNREAD = 2, 130, 141


def show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning on one line; it takes the place of :func:`warnings.showwarning`."""
    say(f"entrosparse: warning: {' '.join(str(message).split())}", sys.stderr)


def fail(message: str, code: int) -> int:
    """Print an error on one line, and return the exit code."""
    if is_first():  # What fails in another process is told by the first.
        say(f"entrosparse: error: {' '.join(message.split())}", sys.stderr)
    return code


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line that cannot steer the terminal, with "?" for what the terminal cannot show."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"  # A process may have no stream at all.
    print(printable(line).encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def what_failed(error: OSError) -> str:
    """Return which file the operating system refused, and why."""
    about = f"'{os.fsdecode(error.filename)}': " if error.filename else ""
    return f"{about}{error.strerror or error}"


def use_threads(number: int | None) -> None:
    """Let PyTorch use as many threads as ``--threads`` says, or as it does by itself if that is None.

    Raises
    ------
    InputError
        If there are not as many cores.
    """
    import torch  # Here, so that the command line starts without PyTorch.

    if number is None:
        return
    most = os.cpu_count() or 1
    if not 1 <= number <= most:
        raise InputError(
            f"the 'threads' parameter must be an integer from 1 to {most}, the cores; got {number}"
        )
    torch.set_num_threads(number)


def add_threads(command: ArgumentParser) -> None:
    """Add the option whose value :func:`use_threads` takes."""
    threads = "threads at most; by default all cores, where that helps"
    command.add_argument("--threads", type=int, help=threads)


def new_parser(description: str, **options: Any) -> ArgumentParser:
    """Return a parser that raises its errors."""
    return ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, **options)
