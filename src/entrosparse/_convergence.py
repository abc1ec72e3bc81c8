"""The warning that an iteration stopped early."""

import sklearn.exceptions


class ConvergenceWarning(sklearn.exceptions.ConvergenceWarning):  # type: ignore[misc]
    """An iteration stopped before its tolerance, or where it has no optimum; the message says what to try."""


ConvergenceWarning.__module__ = "entrosparse.errors"
