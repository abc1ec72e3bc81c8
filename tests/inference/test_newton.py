"""Factorizations and their jitter, against PyTorch's own."""

import pytest
import torch

from conftest import make_model
from entrosparse.errors import ConvergenceWarning, NumericalError
from entrosparse.inference import FullInference
from entrosparse.inference._newton import cholesky_of, inverse_cholesky_of

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def definite(size, n, generator):
    root = torch.randn(n, size, 2 * size, generator=generator, dtype=torch.float64)
    return root @ root.mT / (2 * size)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 33, 100, 130])
def test_inverse_cholesky_is_the_inverse_of_the_factor(size, dtype, generator):
    matrices = definite(size, 3, generator)
    given = matrices.to(dtype)
    before = given.clone()
    inverse = inverse_cholesky_of(given)
    assert inverse.dtype == dtype
    assert torch.equal(given, before)
    assert torch.equal(inverse, inverse.tril())
    expected = torch.linalg.inv(torch.linalg.cholesky(matrices)).to(dtype)
    torch.testing.assert_close(inverse, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_inverse_cholesky_is_as_accurate_as_the_factor_for_near_singular_matrices(generator):
    basis = torch.linalg.qr(torch.randn(20, 100, 100, generator=generator, dtype=torch.float64)).Q
    matrices = (basis * torch.logspace(0, -6, 100, dtype=torch.float64)) @ basis.mT
    given = ((matrices + matrices.mT) / 2).float()
    variance = torch.linalg.inv(given.double()).diagonal(dim1=1, dim2=2)

    def error(inverse):
        return float((inverse.double().square().sum(1) / variance - 1).abs().amax(1).mean())

    assert error(inverse_cholesky_of(given)) < 1.5 * error(torch.linalg.inv(cholesky_of(given)))


def test_inverse_cholesky_adds_jitter_only_where_it_is_needed_and_says_so(generator):
    good = definite(40, 1, generator)[0]
    singular = torch.ones(40, 40).double() - 1e-9 * torch.eye(40).double()
    with pytest.warns(RuntimeWarning, match=r"1 of 2 posterior precisions .* added up to 1e-06"):
        inverse = inverse_cholesky_of(torch.stack([good, singular]))
    assert torch.equal(inverse[0], inverse_cholesky_of(good[None])[0])
    factor = torch.linalg.inv(inverse[1])
    torch.testing.assert_close(factor @ factor.T, singular, rtol=0, atol=2e-6)
    with (
        pytest.warns(RuntimeWarning, match="not positive definite"),
        pytest.raises(NumericalError, match=r"1 posterior precisions are not .* even with jitter"),
    ):
        inverse_cholesky_of(torch.stack([good, -good]))


def test_full_posteriors_do_not_depend_on_how_many_fit_the_cache(generator, monkeypatch):
    model = make_model(9, 5, generator)
    x = model.sample(10, generator)[0]
    together = FullInference()(x, model)
    monkeypatch.setattr("entrosparse.inference._full_solver._CACHED", 4 * 5**2)
    apart = FullInference()(x, model)
    torch.testing.assert_close(apart.mean, together.mean)
    torch.testing.assert_close(apart.factor, together.factor)
    with pytest.warns(ConvergenceWarning, match="10 of 10 data points") as record:
        FullInference(1e-12, max_iterations=1)(x, model)
    assert len(record) == 1
