"""How the explorations measure: on data whose answers are known."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import make_model
from entrosparse.errors import ConvergenceWarning, InputError
from entrosparse.images import bars
from entrosparse.inference import DiagonalInference
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import pointwise_elbo
from entrosparse.posteriors import Diagonal
from entrosparse.priors import GeneralizedGaussian
from entrosparse.reproduce.experiments import comparison, noise, posteriors, prior_shape, robustness
from entrosparse.reproduce.framework.results import load_results
from entrosparse.reproduce.framework.running import reproduce
from entrosparse.reproduce.shared import bars_runs, peers, posterior_kinds
from entrosparse.reproduce.shared.posterior_kinds import Measured
from entrosparse.reproduce.shared.quiet_fits import quietly


def row(*shares, first=1.0):
    return [robustness._Cell(first * 2.0**k, [share], [0.0], 0.0, None) for k, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((1.0, 1.0, 0.0), 2.0 * 2.0**0.5),
        ((1.0, 0.5, 0.2), 2.0),
        ((1.0, 0.3, 0.8, 0.2), 4.0 * 2.0**0.5),
        ((0.4, 0.3), 0.0),
        ((0.2, 0.9), math.inf),
    ],
)
def test_the_breakdown_is_where_half_of_the_bars_are_lost(shares, expected):
    assert robustness._breakdown(row(*shares)) == pytest.approx(expected)


BROKEN = row(1.0, 1.0, 0.0)  # at 2.83, between 2 and 4


@pytest.mark.parametrize(
    ("other", "words", "agree"),
    [
        (row(1.0, 0.5, 0.2), "σ/λ = 2", True),
        (row(1.0, 0.5, 0.2, first=0.5), "σ/λ = 1", False),
        (row(1.0, 1.0, first=0.5), "σ/λ above 1", True),  # may well break down at 2.4
        (row(1.0, 1.0, first=8.0), "σ/λ above 16", False),
        (row(0.0, 0.0, first=8.0), "σ/λ below 8", True),
        (row(0.0, 0.0, first=1.0), "σ/λ below 1", False),
    ],
)
def test_rows_that_break_down_beyond_their_ends_count_as_bounds(other, words, agree):
    grid = {0.5: BROKEN, 1.0: row(1.0, 0.5, 0.2), 2.0: other}
    claim = robustness._claims(grid, {100: BROKEN, 200: BROKEN}, BROKEN)[1]
    assert f"{words} at λ = 2" in claim.ours
    assert claim.holds == agree


def test_claims_of_nothing_do_not_hold():
    hard = row(1.0, 1.0, first=2.0)
    claims = robustness._claims({1.0: hard}, {100: hard}, hard)
    assert not any(claim.holds for claim in claims)
    assert claims[0].ours == "in 0 of 0 runs"
    config = noise.NoiseConfig(shares=())
    rows = noise._Rows(3, {"isotropic": [0.0], "per-feature": [0.0]}, {}, np.ones(3))
    claims = noise._claims({"wines": rows}, {"isotropic": {}, "laplace": {}}, config)
    assert not any(claim.holds for claim in claims)


def test_no_two_runs_of_the_grid_share_their_data(monkeypatch):
    """A learner that knows the bars finds all of them, whatever the noise."""
    seeds = []

    def learn(made, seed):
        seeds.append(seed)
        dictionary = unit_columns(torch.from_numpy(made.dictionary))
        model = SparseCodingModel(dictionary, torch.ones(10), torch.tensor(1.0))
        return SimpleNamespace(model=model, history=[SimpleNamespace(elbo=-len(made.data), seconds=1.0)])

    monkeypatch.setattr(bars_runs, "learn_bars", learn)
    monkeypatch.setattr(bars_runs, "generating_elbo", lambda made: 0.0)
    config = robustness.RobustnessConfig(
        prior_scales=(1.0, 2.0), noise_stds=(2.0, 8.0), n_samples=40, other_n_samples=(30,), n_runs=2
    )
    result = robustness.run(config)
    assert seeds == list(range(12))
    assert result.claims[2].ours == "no run lost a bar"
    cells = result.numbers["samples"]
    assert list(cells) == ["30", "40"]
    assert [cell["ratio"] for cell in result.numbers["grid"]["1"]] == [2.0, 8.0]
    assert [cell["excesses"] for cell in cells["30"]] == [[-30.0, -30.0]] * 2
    assert [cell["shares"] for cell in cells["40"]] == [[1.0, 1.0]] * 2


@pytest.fixture
def colours():
    """Two photographs whose channels are one ramp, each with an offset of its own."""
    ramps = [np.arange(48, dtype=np.float32).reshape(6, 8) * scale for scale in (1.0, -2.0)]
    return comparison._Photographs([[ramp + 100.0 * c for ramp in ramps] for c in range(3)], 1.0, "ramps")


def test_the_channels_of_a_patch_are_those_of_one_place(colours):
    config = comparison.ComparisonConfig(n_patches=30, n_heldout=20)
    for rows in colours.patches(3, config, seed=0):
        red, green, blue = np.split(rows, 3, axis=1)
        np.testing.assert_allclose(green, red, atol=1e-4)  # without the mean patch, the offsets are gone
        np.testing.assert_allclose(blue, red, atol=1e-4)
        assert np.ptp(red) > 1.0


def judged(scale):
    rng = np.random.default_rng(0)
    data = rng.laplace(size=(300, 4)) @ rng.normal(size=(4, 6)) + 0.1 * rng.normal(size=(300, 6))
    dictionary = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    x = (scale * data).astype(np.float32)
    config = comparison.ComparisonConfig(n_components=6, n_active=(1, 3, 6))
    return comparison._judge(peers.Learned(dictionary, 1.0), x[:200], x[200:], scale / 255, config)


def test_bits_and_errors_do_not_depend_on_the_unit_of_the_pixels():
    one, other = judged(1.0), judged(50.0)
    assert other.bits == pytest.approx(one.bits, abs=1e-3)
    assert other.errors == pytest.approx(one.errors, abs=1e-5)
    assert np.all(np.diff(one.errors) < 0.0)
    assert one.errors[-1] < 1e-9  # six active codes of an orthogonal basis leave nothing


def test_a_peer_is_shown_with_the_penalty_that_is_best_for_it():
    def runs(*bits):
        return [comparison._Measured(4, value, [1.0 / value], 0.5, 1.0) for value in bits]

    by_penalty = {0.1: runs(5.0, 6.0), 0.3: runs(4.0, 6.0), 1.0: runs(7.0, 7.0)}
    assert comparison._best(by_penalty, comparison._bits)[0] == 0.3
    assert comparison._best(by_penalty, comparison._error(0))[0] == 1.0


def test_grey_images_have_one_channel_and_spams_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "grey.npy", rng.normal(size=(40, 40)).cumsum(0).cumsum(1))
    tiny = {"images": str(tmp_path / "grey.npy"), "patch_sizes": (3,), "n_components": 4, "n_runs": 1}
    reproduce(["comparison"], tmp_path / "out", "smoke", tiny)
    (result,) = load_results(tmp_path / "out")
    assert "in grey" in result.data
    assert list(result.numbers) == ["9"]
    assert "SPAMS" not in result.numbers["9"]
    assert {"entropy ELBO", "PCA", "FastICA", "scikit-learn"} == set(result.numbers["9"])
    json.dumps(result.numbers, allow_nan=False)


def test_methods_without_so_many_atoms_are_compared_with_what_they_have(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "grey.npy", rng.normal(size=(40, 40)).cumsum(0).cumsum(1))
    tiny = {"images": str(tmp_path / "grey.npy"), "patch_sizes": (3,), "n_active": (1, 11), "n_runs": 1}
    reproduce(["comparison"], tmp_path / "out", "smoke", tiny | {"n_components": 12})
    (result,) = load_results(tmp_path / "out")
    (table,) = result.tables
    place = table.columns.index("H")
    found = {row[1]: int(row[place]) for row in table.rows}
    assert {found.pop("PCA"), found.pop("FastICA")} == {9}
    assert set(found.values()) == {12}
    assert "at most D" in result.pictures[0].caption


def test_images_that_are_smaller_than_the_patches_are_known_before_any_work(tmp_path):
    np.save(tmp_path / "small.npy", np.random.default_rng(0).normal(size=(40, 20)))
    config = comparison.ComparisonConfig(images=str(tmp_path / "small.npy"), patch_sizes=(8, 32))
    with pytest.raises(InputError, match=r"at least 32 x 32 pixels.*'small.npy' of 40 x 20"):
        config.validate()
    comparison.ComparisonConfig().validate()


def test_bounds_of_two_priors_are_compared_datum_by_datum():
    common = np.random.default_rng(0).normal(size=400)
    one, other = (prior_shape._Run(None, common + shift, 0.5, 1.0, 0) for shift in (0.0, 0.25))
    assert other.above(one) == pytest.approx((0.25, 0.0), abs=1e-12)
    noisy = prior_shape._Run(None, common + np.tile([0.0, 2.0], 200), 0.5, 1.0, 0)
    assert noisy.above(one) == pytest.approx((1.0, 1.0 / 20.0))


@pytest.mark.parametrize("solver", [DiagonalInference(1e-3), DiagonalInference(1e-3, 1)])
def test_data_held_out_change_nothing_that_was_learned(generator, solver):
    """Neither λ nor the shapes are found again; posteriors that solvers leave unfinished are counted."""
    model = make_model(6, 3, generator, prior=GeneralizedGaussian())
    model = replace(model, prior_shape=torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))
    x, _ = model.sample(200, generator)
    result = SimpleNamespace(model=model, history=[SimpleNamespace(seconds=1.0)])
    run = prior_shape._Run.judge(result, x, solver)
    with quietly(ConvergenceWarning):
        posterior = solver(x, model)
    np.testing.assert_allclose(run.bounds, pointwise_elbo(posterior, x, model))
    assert run.model is model
    assert (run.n_unfinished > 0) == (solver.max_iterations == 1)


def test_outliers_replace_their_share_of_the_pixels_and_nothing_else():
    made = bars(2000, rng=0)
    hit = noise.with_outliers(made, 0.05, seed=1)
    changed = hit.data != made.data
    assert changed.mean() == pytest.approx(0.05, abs=0.005)
    assert set(np.unique(hit.data[changed])) == {-20.0, 20.0}
    np.testing.assert_array_equal(hit.dictionary, made.dictionary)
    np.testing.assert_array_equal(noise.with_outliers(made, 0.0, seed=1).data, made.data)


def test_pixels_of_digits_are_spread_over_their_grey_level():
    x, seen = noise._digits(0)
    assert x.shape == (1797, 61)
    assert seen.sum() == 61
    levels = np.round(x)
    assert levels.min() >= 0.0
    assert levels.max() == 16.0
    assert (x - levels).std() == pytest.approx(12**-0.5, rel=0.01)


def test_intervals_of_true_posteriors_are_honest():
    generator = torch.Generator().manual_seed(0)
    q = Diagonal(*(torch.rand(4000, 3, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2)))
    codes = q.mean + q.scale * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    levels = [0.1, 0.5, 0.8, 0.95]
    covered = posterior_kinds.inside(q, codes, levels).mean(0).numpy()
    np.testing.assert_allclose(covered, levels, atol=0.02)
    wider = Diagonal(q.mean, 2.0 * q.scale)
    assert posterior_kinds.inside(wider, codes, [0.5]).mean() > 0.75


def test_the_estimate_of_two_posteriors_that_is_furthest_off_is_named():
    def measured(estimate):
        return Measured(np.zeros(4), np.full(4, estimate), np.ones(4), 1.0, np.zeros((4, 3)))

    kinds = {"one": measured(1.0), "two": measured(1.5), "three": measured(3.0)}
    apart, names = posteriors._disagreement(kinds)
    assert names == "one and three"
    assert apart == pytest.approx(2.0 / (0.5 * 2.0**0.5))
