"""How many threads learning uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_SHARING = 5e7  # multiply-adds of a product; with fewer, threads wait longer than they work


@contextmanager
def as_many_threads_as_help(n_rows: int, n_features: int, n_components: int) -> Iterator[None]:
    """Use one thread inside if products of these sizes are too small to share, else as many as were set.

    Parameters
    ----------
    n_rows, n_features, n_components : int
        Rows of a minibatch, D and H.
    """
    before = torch.get_num_threads()
    if n_rows * n_components * max(n_features, n_components) < _WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
