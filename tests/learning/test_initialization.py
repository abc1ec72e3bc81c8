"""Where learning starts from."""

import subprocess
import sys

import pytest
import torch
from sklearn.decomposition import PCA, FastICA

from entrosparse.learning import _initialization, initial_model
from entrosparse.learning._initialization import _principal_components, _unmixing
from entrosparse.priors import Laplace

# A start in few rows of many features, and the memory that it took.
WIDE_START = """
import resource
import torch
from entrosparse.learning import _initialization, initial_model
from entrosparse.priors import Laplace

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

generator = torch.Generator().manual_seed(0)
initial_model(torch.randn(50, 20, generator=generator), 5, "ica", Laplace(), generator)
x = torch.randn(100, 6000, generator=generator)
before = peak()
initial_model(x, 5, "ica", Laplace(), generator)
print(peak() - before)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 7), (40, 2500)])
def test_principal_components_are_those_of_scikit_learn(generator, dtype, shape):
    x = torch.randn(shape, generator=generator, dtype=dtype) * torch.linspace(1, 2, shape[1]).to(dtype)
    oracle = PCA(5, svd_solver="full").fit(x.double().numpy())
    sample = x - x.mean(0)
    variance, white = _principal_components(sample, 5)
    assert variance.flip(0).numpy() * len(x) / (len(x) - 1) == pytest.approx(
        oracle.explained_variance_, rel=1e-5 if dtype == torch.float32 else 1e-6
    )
    axes = torch.nn.functional.normalize(sample.T @ white, dim=0).flip(1).double()
    cosines = (axes * torch.tensor(oracle.components_.T)).sum(0).abs()
    torch.testing.assert_close(cosines, torch.ones(5).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(white.T @ white / len(x), torch.eye(5, dtype=dtype), rtol=0, atol=1e-4)


def test_rows_span_fewer_dimensions_than_there_are(generator):
    x = torch.randn(10, 3, generator=generator) @ torch.randn(3, 50, generator=generator)
    assert len(_principal_components(x - x.mean(0), 8)[0]) == 3
    assert len(_principal_components(torch.zeros(5, 50), 8)[0]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unmixing_finds_what_fast_ica_of_scikit_learn_converges_to(generator, dtype):
    x = torch.randn(2000, 7, generator=generator, dtype=dtype).pow(3)
    x[:, 0] = x[:, 0].sign() + 0.1 * x[:, 1]  # Of a component with light tails, too.
    white = _principal_components(x - x.mean(0), 7)[1]
    oracle = FastICA(whiten=False, max_iter=500, random_state=5).fit(white.numpy())
    found = _unmixing(white, generator)
    torch.testing.assert_close(found @ found.T, torch.eye(7, dtype=dtype), rtol=0, atol=1e-5)
    cosines = (found @ torch.tensor(oracle.components_).to(dtype).T).abs()
    assert float(cosines.amax(1).min()) > 0.999
    assert float(cosines.amax(0).min()) > 0.999


def test_few_rows_that_never_settle_keep_their_early_directions(generator, monkeypatch):
    white = _principal_components(torch.randn(12, 9, generator=generator).double(), 8)[1]
    found = _unmixing(white, torch.Generator().manual_seed(0))
    monkeypatch.setattr(_initialization, "_ICA_STILL", 0.0)
    assert torch.equal(found, _unmixing(white, torch.Generator().manual_seed(0)))
    monkeypatch.setattr(_initialization, "_ICA_SMALL_STEPS", _initialization._ICA_STEPS)
    assert torch.equal(found, _unmixing(white, torch.Generator().manual_seed(0)))


def test_unmixing_starts_anywhere():
    """Data points may lie in few directions, and one of them at the mean."""
    white = torch.cat([torch.eye(4), -torch.eye(4), torch.zeros(1, 4)]).repeat(3, 1) * 2.0
    for seed in range(20):
        found = _unmixing(white, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(found @ found.T, torch.eye(4), rtol=0, atol=1e-2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_a_start_in_many_features_takes_no_matrix_of_features_by_features():
    done = subprocess.run([sys.executable, "-c", WIDE_START], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # A matrix of 6000 x 6000 takes 144 MB in float32.


def test_a_start_is_a_function_of_the_generator():
    x = torch.randn(30, 50, generator=torch.Generator().manual_seed(1))
    starts = [
        initial_model(x, 4, "ica", Laplace(), torch.Generator().manual_seed(seed)).dictionary
        for seed in (0, 0, 1)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
