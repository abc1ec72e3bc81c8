"""Errors that entrosparse raises on purpose; every message is one line that says what to do."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entrosparse._convergence import ConvergenceWarning as ConvergenceWarning


class EntrosparseError(Exception):
    """Base of all errors that entrosparse raises on purpose."""


class InputError(EntrosparseError, ValueError):
    """An argument or the data cannot be used; the message names it, what was expected and what came."""


class FileFormatError(InputError):
    """A file is missing, damaged, or not of the kind it claims to be."""


class NumericalError(EntrosparseError, ArithmeticError):
    """A computation left the range of floating-point numbers and could not be repaired."""


class ProcessError(EntrosparseError, RuntimeError):
    """Another of the processes that learn together failed; the message says which, and why."""


def __getattr__(name: str) -> Any:
    """Import the warning when it is first used: it extends scikit-learn's, whose import takes a while."""
    if name == "ConvergenceWarning":
        from entrosparse._convergence import ConvergenceWarning

        return ConvergenceWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
