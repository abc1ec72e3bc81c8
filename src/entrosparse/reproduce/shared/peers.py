"""Dictionaries that other libraries learn, to be laid beside ours."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA, FastICA, MiniBatchDictionaryLearning
from threadpoolctl import threadpool_limits

from entrosparse.reproduce.shared.quiet_fits import quietly

_Array = NDArray[np.float32]


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """A dictionary with columns of length 1, shape (D, H), and how long it took to learn.

    Attributes
    ----------
    dictionary : ndarray of float32, shape (D, H)
        The dictionary.
    seconds : float
        Wall time of learning.
    """

    dictionary: _Array
    seconds: float


def learned(learn: Callable[[], NDArray[Any]], seed: int = 0) -> Learned:
    """Time what learns a dictionary, and give its columns length 1; columns of zeros are drawn anew."""
    started = time.perf_counter()
    with quietly():  # Early stops and dependent atoms are part of what is compared.
        dictionary = np.array(learn(), dtype=np.float32)
    seconds = time.perf_counter() - started
    unused = ~dictionary.any(axis=0)
    dictionary[:, unused] = np.random.default_rng(seed).normal(size=(len(dictionary), int(unused.sum())))
    return Learned(dictionary / np.linalg.norm(dictionary, axis=0), seconds)


def scikit_learn(
    x: _Array, n_components: int, penalty: float, passes: int = 1, batch_size: int = 512, seed: int = 0
) -> NDArray[Any]:
    """Return a dictionary of half the squared residual + penalty · Σ|z|, shape (D, H)."""
    learner = MiniBatchDictionaryLearning(
        n_components,
        alpha=penalty,
        max_iter=passes,
        batch_size=batch_size,
        fit_algorithm="cd",
        tol=0.0,
        max_no_improvement=None,
        random_state=seed,
    )
    return learner.fit(x).components_.T


def spams(
    x: _Array, n_components: int, penalty: float, n_batches: int = 1000, batch_size: int = 512
) -> NDArray[Any]:
    """Return a dictionary of the same objective by SPAMS, which must be installed, on one thread."""
    from spams import trainDL

    settings = {"lambda1": penalty, "iter": n_batches, "batchsize": batch_size}
    with threadpool_limits(1):  # Its own BLAS is loaded only here.
        return trainDL(np.asfortranarray(x.T), K=n_components, numThreads=1, verbose=False, **settings)


def fast_ica(x: _Array, n_components: int, max_iterations: int = 50, seed: int = 0) -> NDArray[Any]:
    """Return the mixing matrix of FastICA; it has no more columns than D or the number of rows."""
    h = min(n_components, *x.shape)
    return FastICA(h, whiten="unit-variance", max_iter=max_iterations, random_state=seed).fit(x).mixing_


def pca(x: _Array, n_components: int, seed: int = 0) -> NDArray[Any]:
    """Return the principal directions as columns, no more than D or the number of rows."""
    return PCA(min(n_components, *x.shape), random_state=seed).fit(x).components_.T
