"""Fits by other libraries without what they warn of."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """Silence all warnings: early stops and dependent atoms are part of what is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
