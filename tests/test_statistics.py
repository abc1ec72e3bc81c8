from dataclasses import fields

import pytest
import torch

from conftest import make_model
from entrosparse.posteriors import Diagonal
from entrosparse.statistics import Statistics
from kinds import KINDS


@pytest.fixture
def case(generator):
    model = make_model(6, 4, generator)
    x, z = model.sample(30, generator)
    return model, x, Diagonal(z, 0.1 + torch.rand(z.shape, generator=generator, dtype=z.dtype))


def _collect(case, rows=slice(None), sample_weight=None):
    model, x, posterior = case
    part = Diagonal(posterior.mean[rows], posterior.scale[rows])
    return Statistics.collect(part, x[rows], model.dictionary, model.prior, sample_weight)


def _assert_same(one, other):
    for field in fields(Statistics)[2:]:  # without the prior and the likelihood
        torch.testing.assert_close(
            getattr(one, field.name), getattr(other, field.name), rtol=1e-12, atol=1e-12
        )


def test_records_of_unequal_parts_add(case):
    parts = _collect(case, slice(0, 3)) + _collect(case, slice(3, 20)) + _collect(case, slice(20, 30))
    _assert_same(parts, _collect(case))


def test_a_weight_counts_like_a_repetition(case):
    repeats = torch.arange(30) % 3
    rows = torch.repeat_interleave(torch.arange(30), repeats)
    _assert_same(_collect(case, sample_weight=repeats.double()), _collect(case, rows))


def test_normalized_has_weight_one(case):
    record = _collect(case).normalized()
    assert float(record.total_weight) == pytest.approx(1.0)
    assert float(record.n_entries) == pytest.approx(6.0)
    _assert_same(record * 30.0, _collect(case))


def test_moments_by_monte_carlo(case, generator):
    model, x, posterior = case
    z = posterior.sample(20_000, generator)
    record = _collect(case)
    second = torch.einsum("snh,snk->shk", z, z)
    cross = torch.einsum("nd,snh->sdh", x, z)
    residual = (x - z @ model.dictionary.T).square().sum((1, 2))
    for samples, value in (
        (second, record.second_moment),
        (cross, record.cross_moment),
        (residual, record.residual),
        (z.abs().sum(1), record.prior_statistic),
    ):
        standard_error = samples.std(0) / len(samples) ** 0.5
        assert ((samples.mean(0) - value).abs() < 5 * standard_error).all()


def test_sums_are_float64_for_float32_data(case):
    model, x, posterior = case
    single = Diagonal(posterior.mean.float(), posterior.scale.float())
    record = Statistics.collect(single, x.float(), model.dictionary.float(), model.prior)
    assert all(getattr(record, field.name).dtype == torch.float64 for field in fields(record)[2:])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_missing_entries_have_expected_moments(generator, kind):
    """As if they were drawn from the model, given the codes; and they have no residual."""
    model = make_model(6, 4, generator)
    x, _ = model.sample(5, generator)
    missing = torch.rand(x.shape, generator=generator) < 0.4
    posterior = kind.make(**kind.parameters(5, 4, generator))
    record = Statistics.collect(posterior, x.masked_fill(missing, torch.nan), model.dictionary, model.prior)
    z = posterior.sample(40_000, generator)
    reconstruction = z @ model.dictionary.T
    completed = torch.where(missing, reconstruction, x)
    cross = torch.einsum("snd,snh->sdh", completed, z)
    residual = (completed - reconstruction).square().sum((1, 2))
    for samples, value in ((cross, record.cross_moment), (residual, record.residual)):
        standard_error = samples.std(0) / len(samples) ** 0.5
        assert ((samples.mean(0) - value).abs() < 5 * standard_error).all()
    assert float(record.n_entries) == int((~missing).sum())
