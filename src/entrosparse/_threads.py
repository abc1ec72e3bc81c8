"""How many threads are used, and for what."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

_WORTH_SHARING = 5e7  # multiply-adds of a product; with fewer, threads wait longer than they work


_here = threading.local()  # Whether this thread is in such a block.
_lock = threading.Lock()
_inside: list[int] = []  # For each block that uses one thread now, the number that was set before the first.


@contextmanager
def as_many_threads_as_help(n_rows: int, n_features: int, n_components: int) -> Iterator[None]:
    """Use one thread for a product inside if products of these sizes are too small to share, else all.

    Parameters
    ----------
    n_rows, n_features, n_components : int
        Rows of a minibatch, D and H.
    """
    if n_rows * n_components * max(n_features, n_components) >= _WORTH_SHARING:
        yield
    else:
        with _one_thread():
            yield


def in_threads(work: Callable[..., Any], parts: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield ``work(*part)`` for independent parts, in order, from as many threads as PyTorch was set to use.

    Each thread works at a part alone, which takes less waiting than to share each product. The parts are made
    one after the other in the calling thread, no further ahead than there are threads. The results do not
    depend on the number of threads.
    """
    parts = iter(parts)
    first = list(islice(parts, 2))
    n_threads = _number()
    if n_threads == 1 or len(first) < 2:
        for part in (*first, *parts):
            yield work(*part)
        return
    # Products ask their own thread how many to use, and a new one may not know.
    with _one_thread(), ThreadPoolExecutor(n_threads, initializer=lambda: torch.set_num_threads(1)) as pool:
        results: deque[Future[Any]] = deque(pool.submit(work, *part) for part in first)
        for part in parts:
            if len(results) > n_threads:
                yield results.popleft().result()
            results.append(pool.submit(work, *part))
        while results:
            yield results.popleft().result()


def _number() -> int:
    with _lock:
        return _inside[0] if _inside else torch.get_num_threads()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread for a product inside.

    A new Python thread starts with the number that PyTorch was given last. So a block that begins beside
    others cannot read what was set before them, and takes that from the first.
    """
    if getattr(_here, "uses_one", False):
        yield
        return
    with _lock:
        _inside.append(_inside[0] if _inside else torch.get_num_threads())
        torch.set_num_threads(1)
    _here.uses_one = True
    try:
        yield
    finally:
        _here.uses_one = False
        with _lock:
            torch.set_num_threads(_inside.pop())
