"""The units that tables are learned in."""

import numpy as np
import pytest

from entrosparse._tables import as_rows
from entrosparse._units import Units


class ReadOnce:
    """A table that counts how often each of its rows is read."""

    def __init__(self, X):
        self.shape, self.dtype, self._X = X.shape, X.dtype, X
        self.n_reads = np.zeros(len(X), int)

    def __getitem__(self, index):
        self.n_reads[index] += 1
        return self._X[index]


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e12])
def test_units_are_those_of_two_passes(offset):
    rng = np.random.default_rng(0)
    X = rng.laplace(size=(20_000, 30)) * np.linspace(1, 3, 30) + np.linspace(-1, 1, 20_000)[:, None] + offset
    X[rng.random(X.shape) < 0.1] = np.nan
    X[:, 3], X[:, 4] = 0.1, np.nan
    X[:15_000, 5] = np.nan  # It is seen late.
    weights = rng.integers(3, size=20_000).astype(float)
    weights[7] = 1e4
    table = ReadOnce(X)
    with pytest.warns(UserWarning, match="columns 4 of 'X'"):
        units = Units.from_rows(as_rows(table), weights)
    assert (table.n_reads == 1).all()
    seen, exact = ~np.isnan(X), np.nan_to_num(X) - offset
    count = weights @ seen
    mean = weights @ np.where(seen, exact, 0.0) / np.maximum(count, 1e-300)
    scale = np.sqrt((weights @ np.where(seen, exact - mean, 0.0) ** 2).sum() / count.sum())
    assert units.scale == pytest.approx(scale, rel=1e-9 if abs(offset) < 1e7 else 1e-3)
    np.testing.assert_allclose(
        units.mean[[0, 5, 9]] - offset, mean[[0, 5, 9]], atol=1e-15 * abs(offset) + 1e-9
    )
    assert units.mean[3] == 0.1
    assert units.mean[4] == 0.0
