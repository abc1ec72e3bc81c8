"""The libraries that are compared: each learns a dictionary of unit columns, and is timed."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning

PENALTIES = (0.1, 0.2, 0.4)  # of ½‖x − Wz‖² + penalty ‖z‖₁: the three settings of each peer
MINIBATCH = 512


@dataclass(frozen=True, eq=False)
class Learned:
    """A dictionary (D, H) of a peer, and the seconds that learning took."""

    dictionary: np.ndarray
    seconds: float


def scikit_learn(data: np.ndarray, n_components: int, penalty: float, passes: int = 1) -> Learned:
    learner = MiniBatchDictionaryLearning(
        n_components, alpha=penalty, batch_size=MINIBATCH, max_iter=passes, fit_algorithm="cd",
        transform_algorithm="lasso_cd", random_state=0, max_no_improvement=None, tol=0.0,
    )  # fmt: skip
    return _timed(lambda: learner.fit(data).components_.T)


def spams(data: np.ndarray, n_components: int, penalty: float, minibatches: int = 1000) -> Learned:
    from spams import trainDL

    columns = np.asfortranarray(data.T)
    return _timed(
        lambda: trainDL(
            columns, K=n_components, lambda1=penalty, iter=minibatches, batchsize=MINIBATCH, numThreads=1,
            verbose=False,
        )
    )  # fmt: skip


def fast_ica(data: np.ndarray, n_components: int) -> Learned:
    return _timed(
        lambda: FastICA(n_components, whiten="unit-variance", random_state=0, max_iter=50).fit(data).mixing_
    )


def lasso_codes(
    data: np.ndarray, dictionary: np.ndarray, penalty: float
) -> Mapping[str, Callable[[], object]]:
    """Lasso codes of the data by each library, as works to time."""
    from sklearn.decomposition import sparse_encode
    from spams import lasso

    columns, atoms = np.asfortranarray(data.T), np.asfortranarray(dictionary)
    return {
        "SPAMS lasso": lambda: lasso(columns, D=atoms, lambda1=penalty, numThreads=1),
        "scikit-learn lasso_cd": lambda: _quietly(
            lambda: sparse_encode(data, dictionary.T, algorithm="lasso_cd", alpha=penalty, n_jobs=1)
        ),
    }


def _quietly(work: Callable[[], np.ndarray]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return work()


def _timed(learn: Callable[[], np.ndarray]) -> Learned:
    started = time.perf_counter()
    dictionary = np.array(_quietly(learn), dtype=np.float32)
    took = time.perf_counter() - started
    length = np.linalg.norm(dictionary, axis=0)
    unused = length == 0
    dictionary[:, unused] = np.random.default_rng(0).normal(size=(len(dictionary), unused.sum()))
    return Learned(dictionary / np.linalg.norm(dictionary, axis=0), took)
