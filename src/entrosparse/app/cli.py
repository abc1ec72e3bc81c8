"""The command line."""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from jsonargparse import ArgumentParser

from entrosparse.app.commands import (
    Command,
    about_runs,
    comparing,
    encoding,
    experiments,
    fitting,
    reconstructing,
)
from entrosparse.app.terminal import FAILED, INTERRUPTED, UNREAD, fail, new_parser, show_warning, what_failed
from entrosparse.errors import EntrosparseError

_WRONG_KIND = re.compile(r"Parser key \"(\w+)\":\s+Expected an? <class '(\w+)'>\.\s+Got value: ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    It is 0, 2 after an error, 130 after Ctrl-C, 143 after a signal to end, 141 when nobody reads the output.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.
    """
    with warnings.catch_warnings():
        warnings.showwarning = show_warning  # type: ignore[assignment]
        return _run(sys.argv[1:] if argv is None else argv)


def _run(arguments: Sequence[str]) -> int:
    try:
        parser, commands = _parser()
        options = parser.parse_args(_config_first(arguments))
        code = commands[options.command](options[options.command])
        print(end="", flush=True)  # A reader that has gone away is met here and not at the end of Python.
        return code
    except (EntrosparseError, argparse.ArgumentError) as error:
        return fail(_WRONG_KIND.sub(r"the '\1' parameter must be of type \2; got ", str(error)), FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends.
        return UNREAD
    except OSError as error:
        return fail(what_failed(error), FAILED)
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no error of its own for a lack of memory.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        return fail(f"the memory does not suffice for so much data or so large a model: {error}", FAILED)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)


def _config_first(arguments: Sequence[str]) -> list[str]:
    """Put ``--config`` right behind the command, so that a flag wins over it wherever it stands."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config")
    found, rest = finder.parse_known_args(arguments)
    return rest if found.config is None else [*rest[:1], "--config", found.config, *rest[1:]]


def _parser() -> tuple[ArgumentParser, dict[str, Command]]:
    description = "Learn sparse codes with honest uncertainty, by the entropy ELBO."
    parser = new_parser(description, prog="entrosparse", version=version("entrosparse"))
    subcommands = parser.add_subcommands(required=True, dest="command")
    commands: dict[str, Command] = {}
    for module in (fitting, encoding, reconstructing, comparing, experiments, about_runs):
        commands |= module.add_commands(subcommands)
    return parser, commands


if __name__ == "__main__":
    sys.exit(main())
