import numpy as np
import pytest

from entrosparse.errors import InputError
from entrosparse.images import bars


@pytest.mark.parametrize("size", [2, 5])
def test_dictionary_holds_every_bar_once(size):
    made = bars(1, size, rng=0)
    fields = made.dictionary.T.reshape(2 * size, size, size)
    for k in range(size):
        horizontal, vertical = np.zeros((size, size)), np.zeros((size, size))
        horizontal[k, :] = 1
        vertical[:, k] = 1
        np.testing.assert_array_equal(fields[k], horizontal)
        np.testing.assert_array_equal(fields[size + k], vertical)


def test_shapes_and_types():
    made = bars(7, 4, rng=0)
    assert made.data.shape == (7, 16)
    assert made.codes.shape == (7, 8)
    assert made.dictionary.shape == (16, 8)
    assert made.data.dtype == made.codes.dtype == made.dictionary.dtype == np.float64


def test_without_noise_data_are_exact():
    made = bars(20, rng=0, noise_std=0.0)
    np.testing.assert_allclose(made.data, np.einsum("dh,nh->nd", made.dictionary, made.codes), atol=1e-12)


def z_score(samples, expected):
    return abs(samples.mean() - expected) / (samples.std() / np.sqrt(samples.size))


@pytest.mark.parametrize(("prior_scale", "noise_std"), [(1.0, 0.1), (0.4, 0.7)])
def test_statistics(prior_scale, noise_std):
    made = bars(20_000, prior_scale=prior_scale, noise_std=noise_std, rng=1)
    noise = made.data - made.codes @ made.dictionary.T
    assert z_score(made.codes, 0) < 4
    assert z_score(np.abs(made.codes), prior_scale) < 4  # E|z| = λ
    assert z_score(made.codes**2, 2 * prior_scale**2) < 4  # E z² = 2 λ²: Laplace, not Gaussian
    assert z_score(noise, 0) < 4
    assert z_score(noise**2, noise_std**2) < 4
    assert z_score(noise**4, 3 * noise_std**4) < 4
    covariance = 2 * prior_scale**2 * made.dictionary @ made.dictionary.T + noise_std**2 * np.eye(25)
    np.testing.assert_allclose(np.cov(made.data.T, bias=True), covariance, atol=0.06 * covariance.max())


def test_seeds():
    np.testing.assert_array_equal(bars(5, rng=3).data, bars(5, rng=np.random.default_rng(3)).data)
    assert (bars(5, rng=3).data != bars(5, rng=4).data).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_samples", 0),
        ("n_samples", 2.5),
        ("size", 1),
        ("prior_scale", 0.0),
        ("prior_scale", np.nan),
        ("noise_std", -0.1),
        ("noise_std", np.inf),
        ("rng", "seed"),
    ],
)
def test_bad_arguments(name, value):
    with pytest.raises(InputError, match=f"the '{name}' parameter must be .*; got"):
        bars(**{"n_samples": 3, "rng": 0, name: value})
