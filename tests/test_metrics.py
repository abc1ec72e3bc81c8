import itertools

import numpy as np
import pytest
import torch

from entrosparse.metrics import dead_latents, gini, localization, match_atoms
from entrosparse.posteriors import Diagonal


def _gini_by_pairs(values):
    """Mean absolute difference over twice the mean: the definition."""
    values = np.abs(values)
    return np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())


def test_gini_is_the_mean_difference(rng):
    codes = rng.normal(size=(5, 8)) ** 3
    expected = [_gini_by_pairs(row) for row in codes]
    np.testing.assert_allclose(gini(torch.tensor(codes)).numpy(), expected, rtol=1e-12)


def test_gini_of_extremes():
    codes = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, -5.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert gini(codes).tolist() == pytest.approx([0.0, 0.75, 0.0])


def test_match_atoms_is_the_best_of_all_assignments(rng):
    reference, dictionary = rng.normal(size=(6, 3)), rng.normal(size=(6, 5))
    cosine = np.abs(
        (reference / np.linalg.norm(reference, axis=0)).T @ (dictionary / np.linalg.norm(dictionary, axis=0))
    )
    best = max(itertools.permutations(range(5), 3), key=lambda p: sum(cosine[k, p[k]] for k in range(3)))
    match = match_atoms(torch.tensor(dictionary), torch.tensor(reference))
    assert match.indices.tolist() == list(best)
    np.testing.assert_allclose(match.cosine.numpy(), [cosine[k, best[k]] for k in range(3)])


def test_match_atoms_ignores_sign_and_order(rng):
    reference = rng.normal(size=(6, 4))
    order = np.array([2, 0, 3, 1])
    match = match_atoms(torch.tensor(-2.0 * reference[:, order]), torch.tensor(reference))
    np.testing.assert_allclose(match.cosine.numpy(), 1.0)
    assert order[match.indices.numpy()].tolist() == [0, 1, 2, 3]


def test_dead_latents(rng):
    mean = torch.tensor(rng.normal(size=(50, 3)) * [1.0, 0.01, 1e-9])
    scale = torch.tensor([0.5, 0.5, 1e-9]).double().expand(50, 3)
    assert dead_latents(Diagonal(mean, scale)).tolist() == [False, True, False]
    assert dead_latents(Diagonal(torch.zeros(4, 2), torch.ones(4, 2))).tolist() == [True, True]


def test_localization_is_the_share_of_the_best_window(rng):
    fields = rng.normal(size=(3, 9, 7))
    expected = [
        max((f[r : r + 4, c : c + 4] ** 2).sum() for r in range(6) for c in range(4)) / (f**2).sum()
        for f in fields
    ]
    dictionary = torch.tensor(fields.reshape(3, -1).T)
    np.testing.assert_allclose(localization(dictionary, (9, 7), window=4).numpy(), expected)


def test_localization_of_the_extremes():
    point, flat = torch.zeros(64, 1), torch.ones(64, 1)
    point[13] = -3.0
    assert localization(point, (8, 8)).item() == pytest.approx(1.0)
    assert localization(flat, (8, 8)).item() == pytest.approx(25 / 64)
    assert localization(torch.zeros(64, 1), (8, 8)).item() == 0.0
