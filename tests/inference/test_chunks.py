import numpy as np
import pytest
import torch

from conftest import make_model
from entrosparse.annealing import EntropyWeights
from entrosparse.images import random_patches
from entrosparse.inference import DiagonalInference, FullInference, infer_in_chunks
from entrosparse.posteriors import Diagonal

ANNEALED = EntropyWeights(prior=2.0, likelihood=0.6)


class InSmallChunks:
    """An inference of few rows at once, which keeps how it was called."""

    def __init__(self, solver, size):
        self.solver, self.size, self.calls = solver, size, []

    def __call__(self, x, model, weights=EntropyWeights(), start=None):
        self.calls.append((x, weights, start))
        return self.solver(x, model, weights, start)

    def rows_at_once(self, n_components):
        return self.size


@pytest.mark.parametrize("size", [1, 5, 23, 100])
def test_chunks_are_consecutive_and_as_large_as_allowed(generator, size):
    model = make_model(6, 4, generator)
    x, _ = model.sample(23, generator)
    inference = InSmallChunks(DiagonalInference(), size)
    parts = [part for part, _, _ in infer_in_chunks(x, model, inference)]
    sizes = [part.stop - part.start for part in parts]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(23))
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= size


@pytest.mark.parametrize("solver", [DiagonalInference(1e-9), FullInference(1e-9)], ids=["diagonal", "full"])
def test_equals_inference_in_one_go(generator, solver):
    model = make_model(6, 4, generator)
    x, _ = model.sample(23, generator)
    together = solver(x, model, ANNEALED)
    chunks = list(infer_in_chunks(x, model, InSmallChunks(solver, 5), ANNEALED))
    assert torch.equal(torch.cat([chunk for _, chunk, _ in chunks]), x)
    for part, chunk, posterior in chunks:
        assert torch.equal(chunk, x[part])
        torch.testing.assert_close(posterior.mean, together.mean[part], rtol=0, atol=1e-7)
        torch.testing.assert_close(posterior.covariance(), together.covariance()[part], rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", [DiagonalInference(1e-9), FullInference(1e-9)], ids=["diagonal", "full"])
def test_weights_and_start_are_passed_on(generator, solver):
    model = make_model(6, 4, generator)
    x, _ = model.sample(12, generator)
    start = solver(x, model)
    inference = InSmallChunks(DiagonalInference(0.0, 1), 5)
    parts = [part for part, _, _ in infer_in_chunks(x, model, inference, ANNEALED, start)]
    for part, (chunk, weights, given) in zip(parts, inference.calls, strict=True):
        assert torch.equal(chunk, x[part])
        assert weights is ANNEALED
        assert isinstance(given, Diagonal)
        assert torch.equal(given.mean, start.mean[part])
        assert torch.equal(given.scale, start.marginal_scale()[part])
    inference.calls.clear()
    next(infer_in_chunks(x, model, inference))
    assert [given for _, _, given in inference.calls] == [None]  # and no chunk before it is asked for


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_brought_to_the_dtype_of_the_model(generator, dtype):
    model = make_model(9, 4, generator, dtype)
    patches = random_patches([np.random.default_rng(0).random((8, 8))], 3, 7, rng=0)
    for rows in (patches, patches[:].astype(np.float64), torch.from_numpy(patches[:])):
        chunks = list(infer_in_chunks(rows, model, InSmallChunks(DiagonalInference(), 3)))
        assert [len(x) for _, x, _ in chunks] == [3, 3, 1]
        assert {tensor.dtype for _, x, posterior in chunks for tensor in (x, posterior.mean)} == {dtype}
        np.testing.assert_allclose(torch.cat([x for _, x, _ in chunks]).numpy(), patches[:], rtol=1e-6)


def test_no_rows_have_no_chunks(generator):
    assert list(infer_in_chunks(torch.empty(0, 6), make_model(6, 4, generator), DiagonalInference())) == []
