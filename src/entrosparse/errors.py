"""Errors that entrosparse raises on purpose; every message is one line that says what to do."""


class EntrosparseError(Exception):
    """Base of all errors that entrosparse raises on purpose."""


class InputError(EntrosparseError, ValueError):
    """An argument or the data cannot be used; the message names it, what was expected and what came."""


class FileFormatError(InputError):
    """A file is missing, damaged, or not of the kind it claims to be."""


class NumericalError(EntrosparseError, ArithmeticError):
    """A computation left the range of floating-point numbers and could not be repaired."""


class ConvergenceWarning(UserWarning):
    """An iteration stopped at its limit before its tolerance; the message says what to try."""
