"""Fits without the warnings that are part of what is measured."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly(category: type[Warning] = Warning) -> Iterator[None]:
    """Silence warnings of a category, for work that is judged by its result, however it ended.

    scikit-learn's ``ConvergenceWarning`` includes that of this package.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
