"""How long an EM epoch and an E-step take on CUDA, where there is a device."""

import time

import torch

from entrosparse.inference import LEARNING_SWEEPS, FullInference
from entrosparse.learning import Batch, OnlineEM, train
from measuring import Bench, Line, Part, started

N, MINIBATCH = 204_800, 4096


def measure(bench: Bench) -> Part:
    if not torch.cuda.is_available():
        return Part([])
    lines = []
    for n_components in (100,) if bench.quick else (100, 400, 1024, 4096):
        took = _epoch(n_components)
        share = _products(n_components) / took
        target = "≤0.3" if n_components == 100 else ""
        note = f"matrix products alone are {share:.0%} of it"
        lines.append(Line("GPU", f"EM epoch of {N:,} patches, H = {n_components}", took, "s", target, note))
    learned = train(OnlineEM(), bench.train[:10_240], bench.heldout[:64], n_components=100, epochs=4)
    model = learned.model.to("cuda")
    x = bench.test[:1024].cuda()
    took = _seconds(lambda: FullInference(0.0, 3)(x, model))
    lines.append(Line("GPU", "full covariance, H = 100, 3 sweeps", took / len(x) * 1e6, "µs a patch"))
    return Part(lines)


def _epoch(n_components: int) -> float:
    x = torch.randn(MINIBATCH, 256, device="cuda")
    learner, batch = OnlineEM(), Batch(x, progress=0.5)
    state = started(learner, x, n_components, "random")

    def epoch() -> None:
        nonlocal state
        for _ in range(N // MINIBATCH):
            state = learner.step(state, batch)

    return _seconds(epoch)


def _products(n_components: int) -> float:
    x = torch.randn(MINIBATCH, 256, device="cuda")
    W = torch.randn(256, n_components, device="cuda")
    G = W.T @ W

    def products() -> None:
        for _ in range(N // MINIBATCH):
            codes = x @ W
            for _ in range(1 + LEARNING_SWEEPS.max_iterations):  # the start, and the sweeps
                torch.mm(codes, G)
            codes @ W.T, x.T @ codes, codes.T @ codes

    return _seconds(products)


def _seconds(work) -> float:
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started
