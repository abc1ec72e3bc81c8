"""How many threads learning uses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_SHARING = 5e7  # multiply-adds of a product; with fewer, threads wait longer than they work


_lock = threading.Lock()
_inside: list[int] = []  # For each fit that uses one thread now, the number that was set before the first.


@contextmanager
def as_many_threads_as_help(n_rows: int, n_features: int, n_components: int) -> Iterator[None]:
    """Use one thread inside if products of these sizes are too small to share, else as many as were set.

    A new Python thread starts with the number that PyTorch was given last. So a fit that begins beside others
    cannot read what was set before them, and takes that from the first.

    Parameters
    ----------
    n_rows, n_features, n_components : int
        Rows of a minibatch, D and H.
    """
    if n_rows * n_components * max(n_features, n_components) >= _WORTH_SHARING:
        yield
        return
    with _lock:
        _inside.append(_inside[0] if _inside else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_inside.pop())
