"""How near an epoch, an E-step and an encoder's epoch are to what the machine allows."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning

from entrosparse.inference import (
    LEARNING_SWEEPS,
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    LowRankEncoder,
    infer_in_chunks,
)
from entrosparse.learning import AdamLearner, Batch, Learner, OnlineEM, train
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.shared.quiet_fits import quietly
from measuring import Bench, Line, Part, elbos, ratio, started

H, D, MINIBATCH = 100, 256, 512
GUARD = "≥0.2"  # of an EM epoch; the share of products alone says too much about how fast they are here


def measure(bench: Bench) -> Part:
    model = train(OnlineEM(), bench.train[:10_240], bench.heldout[:64], n_components=H, epochs=4).model
    parts = (
        encode(bench, model),
        roofline(bench),
        full_covariance(bench, model),
        encoders(bench),
        missing(bench),
    )
    return Part(
        [line for part in parts for line in part.lines], {k: v for p in parts for k, v in p.curves.items()}
    )


def encode(bench: Bench, model: SparseCodingModel) -> Part:
    """Posteriors within 1e-3 nats of the optimum, against lasso codes of the same patches."""
    n = 2048 if bench.quick else 20_480
    data = bench.train[:n]
    x = torch.from_numpy(data)
    exact = elbos(x[:1024], model, DiagonalInference(1e-5, 20_000))
    tolerance = next(
        t for t in (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
        if float((exact - elbos(x[:1024], model, DiagonalInference(t))).max()) < 1e-3
    )  # fmt: skip
    infer = DiagonalInference(tolerance)
    size = infer.rows_at_once(H)

    def ours() -> None:
        for start in range(0, n, size):
            infer(x[start : start + size], model)

    penalty = float(model.noise_variance / model.prior_scale.mean())
    lines = []
    for name, theirs in lasso_codes(data, model.dictionary.numpy(), penalty).items():
        times, took = ratio(theirs, ours, 3)
        own = took / times / n * 1e6
        note = f"{own:.0f} against {took / n * 1e6:.0f} µs a patch; every patch within 1e-3 nats"
        lines.append(Line("encode", name, times, "x", "≥5" if "SPAMS" in name else "", note))
    return Part(lines)


def lasso_codes(
    data: np.ndarray, dictionary: np.ndarray, penalty: float
) -> Mapping[str, Callable[[], object]]:
    """Lasso codes of the data by each library, as works to time."""
    from spams import lasso

    columns, atoms = np.asfortranarray(data.T), np.asfortranarray(dictionary)

    def by_scikit_learn() -> None:
        with quietly(ConvergenceWarning):
            sparse_encode(data, dictionary.T, algorithm="lasso_cd", alpha=penalty, n_jobs=1)

    return {
        "SPAMS lasso": lambda: lasso(columns, D=atoms, lambda1=penalty, numThreads=1),
        "scikit-learn lasso_cd": by_scikit_learn,
    }


def roofline(bench: Bench) -> Part:
    """An EM epoch over its own matrix products alone in the same shapes, and over these and its functions."""
    n = 5120 if bench.quick else 20_480
    x = torch.from_numpy(bench.train[:n])
    W, G = torch.randn(D, H), torch.randn(H, H)

    def products() -> None:
        for start in range(0, n, MINIBATCH):
            batch = x[start : start + MINIBATCH]
            codes = batch @ W
            for _ in range(1 + LEARNING_SWEEPS.max_iterations):  # the start, and the sweeps
                torch.mm(codes, G)
            codes @ W.T, batch.T @ codes, codes.T @ codes
            W.T @ W, W @ G, W.T @ W, W @ G

    def functions() -> None:
        codes = torch.randn(MINIBATCH, H)
        for _ in range(n // MINIBATCH):
            for _ in range(LEARNING_SWEEPS.max_iterations):
                codes.erf(), codes.exp(), codes.exp()
            codes.erf(), codes.exp(), codes.log()

    share, epoch = _epoch_over(OnlineEM(), x, products)
    share_of_both, _ = _epoch_over(OnlineEM(), x, lambda: (products(), functions()))
    note = f"{epoch / n * 51_200:.2f} s an epoch of 51,200 patches"
    return Part(
        [
            Line("roofline", "products' share of an EM epoch", share, "", "≥0.5", note),
            Line("guard", "an EM epoch's share of products, erf, exp and log", share_of_both, "", GUARD),
        ]
    )


def full_covariance(bench: Bench, model: SparseCodingModel) -> Part:
    """The E-step with full covariances to 1e-3 nats, over its Cholesky factorisations alone."""
    n = 128 if bench.quick else 512
    x = bench.test[:n]
    exact = elbos(x, model, FullInference(1e-4, 100))
    sweeps = next(
        k for k in range(1, 20) if float((exact - elbos(x, model, FullInference(0.0, k))).mean()) < 1e-3
    )
    infer = FullInference(0.0, sweeps)
    precision = torch.eye(H) + model.dictionary.T @ model.dictionary
    matrices = precision.expand(n, H, H).contiguous()
    times, took = ratio(
        lambda: infer(x, model), lambda: [torch.linalg.cholesky_ex(matrices) for _ in range(sweeps)], 3
    )
    note = f"{took / n * 1e6:.0f} µs a patch, {sweeps} sweeps"
    return Part([Line("full covariance", "E-step over its factorisations", times, "x", "≤2", note)])


def encoders(bench: Bench) -> Part:
    """An Adam epoch of 204,800 patches, and the share of the matrix products in it."""
    n = 5120 if bench.quick else 20_480
    x = torch.from_numpy(bench.train[:n])
    lines = []
    for name, make in (("diagonal", DiagonalEncoder), ("low rank 5", LowRankEncoder)):
        learner = AdamLearner(make)
        encoder = started(learner, x[:1024], H).amortized.encoder
        shapes = [tuple(p.shape) for p in encoder.parameters() if p.ndim == 2]

        def products(shapes: list[tuple[int, ...]] = shapes) -> None:
            for start in range(0, n, MINIBATCH):
                batch = x[start : start + MINIBATCH]
                for out, into in shapes:  # forward, and backward to input and weights
                    w, a = torch.empty(out, into), torch.empty(len(batch), into)
                    b = a @ w.T
                    b @ w, b.T @ a
                codes = batch @ (w := torch.empty(D, H))
                for _ in range(3):
                    codes @ w.T, batch.T @ codes, codes.T @ codes

        share, epoch = _epoch_over(learner, x, products)
        note = f"{epoch / n * 204_800:.1f} s an epoch of 204,800 patches"
        lines.append(Line("encoder", f"{name}: products' share of an Adam epoch", share, "", "≥0.6", note))
    return Part(lines)


def missing(bench: Bench) -> Part:
    """Posteriors of 8 x 8 patches with half of the pixels missing, over those of complete ones.

    How hard they are depends on the noise, so they are timed at what is learned and at a share of its own.
    """
    data = np.ascontiguousarray(bench.train[:, _QUARTER])
    model = train(OnlineEM(), data[:10_240], data[:64], n_components=128, epochs=4).model
    learned, variance = float(model.noise_variance), float(data.var())
    rows = data[: 512 if bench.quick else 2048]
    return Part([_missing_line(rows, model, noise, "≤4") for noise in (learned, _NOISE_SHARE * variance)])


def _missing_line(data: np.ndarray, model: SparseCodingModel, noise: float, target: str) -> Line:
    x = torch.from_numpy(data)
    damaged = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5, torch.nan)
    model, infer = replace(model, noise_variance=torch.tensor(noise)), DiagonalInference(1e-3)

    def codes(rows: torch.Tensor) -> None:
        with quietly(ConvergenceWarning):
            for _ in infer_in_chunks(rows, model, infer):
                pass

    times, took = ratio(lambda: codes(damaged), lambda: codes(x), 3)
    note = f"8 x 8, H = 128; {took / len(x) * 1e6:.0f} against {took / times / len(x) * 1e6:.0f} µs a patch"
    share = noise / float(data.var())
    return Line(
        "missing", f"half missing over complete, noise {share:.2g} of variance", times, "x", target, note
    )


_NOISE_SHARE = 0.1  # of the variance of the data
_QUARTER = np.arange(D).reshape(16, 16)[:8, :8].ravel()
"""The pixels of an 8 x 8 patch in one of 16 x 16."""


def _epoch_over(learner: Learner, x: torch.Tensor, products) -> tuple[float, float]:
    """Time of the products over that of an epoch half-way through learning, and the seconds of the epoch."""
    state = started(learner, x[:4096], H)

    def epoch() -> None:
        nonlocal state
        for start in range(0, len(x), MINIBATCH):
            state = learner.step(state, Batch(x[start : start + MINIBATCH], progress=0.5))

    times, took = ratio(epoch, products)
    return 1.0 / times, took
