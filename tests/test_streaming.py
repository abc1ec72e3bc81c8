"""Tables on disk, and batches that pass once, through the estimator."""

from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import zarr

from conftest import make_model
from entrosparse import SparseCoding
from entrosparse.errors import ConvergenceWarning, InputError


@pytest.fixture
def table(generator):
    return make_model(8, 4, generator).sample(1500, generator)[0].numpy()


def _memmap(table, path):
    np.save(path / "table.npy", table)
    return np.load(path / "table.npy", mmap_mode="r")


def _zarr(table, path):
    stored = zarr.create_array(
        str(path / "table.zarr"), shape=table.shape, chunks=(100, 8), dtype=table.dtype
    )
    stored[:] = table
    return stored


def _hdf5(table, path):
    file = h5py.File(path / "table.h5", "w")
    return file.create_dataset("table", data=table)


@pytest.mark.parametrize("open_table", [_memmap, _zarr, _hdf5])
@pytest.mark.parametrize("algorithm", ["batch", "online"])
def test_a_table_on_disk_is_as_good_as_an_array(tmp_path, table, open_table, algorithm):
    stored = open_table(table, tmp_path)
    options = {"algorithm": algorithm, "max_epochs": 4, "random_state": 0}
    with pytest.warns() if algorithm == "batch" else nullcontext():
        one = SparseCoding(4, **options).fit(table)
        other = SparseCoding(4, **options).fit(stored)
    np.testing.assert_array_equal(other.components_, one.components_)
    np.testing.assert_array_equal(other.transform(stored), one.transform(table))
    assert other.score(stored) == one.score(table)


def test_batches_that_pass_once(table):
    coding = SparseCoding(4, random_state=0).fit(table[k : k + 50] for k in range(0, 1500, 50))
    by_hand = SparseCoding(4, random_state=0)
    for k in range(0, 1500, 50):
        by_hand.partial_fit(table[k : k + 50])
    np.testing.assert_array_equal(coding.components_, by_hand.components_)
    assert coding.n_iter_ == 30


def test_a_stream_at_its_noise_floor_warns_once(rng):
    """Data without spread are at the floor; noise that comes later lifts the variance off it."""
    still, moving = np.tile([1.0, 2.0, 4.0], (50, 1)), rng.normal(size=(500, 3))
    coding = SparseCoding(2, random_state=0)
    with pytest.warns(ConvergenceWarning, match="noise variance reached its floor, 1e-06 of") as caught:
        coding.partial_fit(still).partial_fit(still)
    assert len(caught) == 1
    assert not coding.converged_
    coding.partial_fit(moving)
    assert coding.converged_
    with pytest.warns(ConvergenceWarning, match="noise variance reached its floor") as caught:
        coding.fit(iter([still] * 3))
    assert len(caught) == 1
    assert not coding.converged_


def test_a_stream_shows_its_progress(table, capsys):
    SparseCoding(4, random_state=0, verbose=1).fit(table[k : k + 50] for k in range(0, 600, 50))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"batch {k}" for k in (1, 2, 5, 10)]
    assert all("ELBO" in line and "noise variance" in line for line in lines)
    SparseCoding(4, random_state=0).partial_fit(table[:50])
    assert not capsys.readouterr().out


def test_tables_that_are_no_tables(tmp_path):
    file = h5py.File(tmp_path / "bad.h5", "w")
    with pytest.raises(InputError, match="2 dimensions"):
        SparseCoding(2).fit(file.create_dataset("cube", data=np.ones((2, 3, 4))))
    with pytest.raises(InputError, match="real numbers"):
        SparseCoding(2).fit(file.create_dataset("complex", data=np.ones((5, 2), dtype=complex)))


@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_callbacks_see_every_epoch(table, algorithm):
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from version 1.9 on")
    seen = []

    class Stopper:
        def setup(self, estimator, context):
            seen.append("setup")

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "epoch":
                seen.append(fitted_estimator.score(table[:100]))
            return len(seen) > 3

        def teardown(self, estimator, context):
            seen.append("teardown")

    coding = SparseCoding(4, algorithm=algorithm, max_epochs=20, random_state=0).set_callbacks(Stopper())
    coding.fit(table)
    assert (seen[0], seen[-1]) == ("setup", "teardown")
    assert coding.n_iter_ == 3
    assert seen[3] > seen[1]


def test_one_pass_in_small_batches_ends_as_well_as_fit(generator):
    """Although the first batch is too small for a good start, and its mean for that of the data."""
    model = make_model(16, 8, generator)
    x, test = (5.0 + model.sample(n, generator)[0].numpy() for n in (12_000, 1000))
    passed, fitted = (SparseCoding(8, algorithm="online", max_epochs=1, random_state=0) for _ in range(2))
    for first in range(0, len(x), 200):
        passed.partial_fit(x[first : first + 200])
    assert passed.score(test) > fitted.fit(x).score(test) - 0.2
    assert passed.elbo_ == pytest.approx(passed.score(x[-2000:]), abs=0.1)
