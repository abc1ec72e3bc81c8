import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from entrosparse._tables import as_rows, stream
from entrosparse.errors import InputError
from entrosparse.learning import OnlineEM, train

N, D = 40, 5


def make_zarr(table, folder):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(store=folder / "a.zarr", shape=table.shape, chunks=(7, 3), dtype=table.dtype)
    array[:] = table
    return array


def make_hdf5(table, folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=table, chunks=(7, 3), compression="gzip")
    return h5py.File(folder / "a.h5", "r")["x"]


def make_memmap(table, folder):
    np.save(folder / "a.npy", table)
    return np.load(folder / "a.npy", mmap_mode="r")


def make_read_only(table, folder):
    table.flags.writeable = False
    return table


SOURCES = {
    "array": lambda table, folder: table,
    "Fortran order": lambda table, folder: np.asfortranarray(table),
    "read-only": make_read_only,
    "memory map": make_memmap,
    "zarr": make_zarr,
    "hdf5": make_hdf5,
    "tensor": lambda table, folder: torch.from_numpy(table),
    "tensor with gradient": lambda table, folder: torch.from_numpy(table).requires_grad_(),
}
SPARSE = {
    "csr array": lambda table, folder: scipy.sparse.csr_array(table),
    "coo matrix": lambda table, folder: scipy.sparse.coo_matrix(table),
    "dia array": lambda table, folder: scipy.sparse.dia_array(table),
}


@pytest.fixture
def table(rng):
    table = rng.standard_normal((N, D))
    table[rng.random((N, D)) < 0.3] = 0
    return table


@pytest.mark.parametrize("make", (SOURCES | SPARSE).values(), ids=(SOURCES | SPARSE).keys())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_those_of_the_array(tmp_path, table, make, dtype):
    table = table.astype(dtype)
    source = make(table.copy(), tmp_path)
    rows = as_rows(source)
    assert (len(rows), rows.n_rows, rows.n_features, rows.dtype) == (N, N, D, dtype)
    for index in (
        slice(None), slice(3, 9), slice(30, 99), slice(9, 3), slice(-4, None), slice(30, 2, -3),
        np.array([3, 4, 11]), np.array([11, 3, 39, 3, 0, 3]), np.array([-1, 2, -N]), np.array([], dtype=int),
    ):  # fmt: skip
        block = rows[index]
        assert type(block) is np.ndarray
        assert block.dtype == dtype
        assert block.flags.c_contiguous
        assert block.flags.writeable
        np.testing.assert_array_equal(block, table[index])
        block[:] = 99
    np.testing.assert_array_equal(rows[:], table)
    for outside in (N, -N - 1):
        with pytest.raises(IndexError):
            rows[np.array([outside])]


@given(index=st.lists(st.integers(0, N - 1)))
def test_disks_are_read_in_ascending_order_and_each_row_once(index):
    class Disk:
        shape, dtype = (N, 1), np.dtype(float)

        def __getitem__(self, index):
            assert (np.diff(index) > 0).all()
            return np.asarray(index)[:, None]

    index = np.array(index, dtype=int)
    np.testing.assert_array_equal(as_rows(Disk())[index], index[:, None])


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        ("?", "f8"),
        ("u1", "f8"),
        ("i8", "f8"),
        ("f2", "f4"),
        (">f4", "f4"),
        (">f8", "f8"),
        ("longdouble", "f8"),
    ],
)
def test_other_numbers_become_floats(tmp_path, given_dtype, expected):
    table = np.array([[0, 1, 1], [1, 0, 0]]).astype(given_dtype)
    rows = as_rows(table)
    assert rows.dtype == rows[:].dtype == np.dtype(expected)
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows[np.array([1, 0])], table[::-1])


def test_missing_values_pass(table):
    table[3, 2] = np.nan
    np.testing.assert_array_equal(as_rows(table)[2:5], table[2:5])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones(3), r"2 dimensions.*got shape \(3,\)"),
        (np.ones((2, 3, 4)), r"2 dimensions.*got shape \(2, 3, 4\)"),
        (np.ones((0, 3)), r"at least one row.*got shape \(0, 3\)"),
        (np.ones((3, 0)), r"one column; got shape \(3, 0\)"),
        (np.float64(3), r"got shape \(\)"),
        (scipy.sparse.coo_array(np.ones(3)), r"got shape \(3,\)"),
        (np.ones((2, 2)) * 1j, "real numbers; got dtype complex128"),
        (np.array([["a", "b"]]), "real numbers; got dtype <U1"),
        (np.array([[1, None]]), "real numbers; got dtype object"),
        (np.zeros((2, 2), dtype="M8[s]"), "real numbers; got dtype datetime64"),
        (torch.ones(2, 2, dtype=torch.complex64), "real numbers; got dtype complex64"),
        (torch.ones(2, 2, dtype=torch.bfloat16), r"NumPy has; got torch\.strided of torch\.bfloat16"),
        (torch.eye(2).to_sparse(), r"dense tensor.*torch\.sparse_coo"),
        ([[1.0, 2.0]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_table_is_refused(table, message):
    with pytest.raises(InputError, match=message) as caught:
        as_rows(table)
    assert str(caught.value).startswith("the 'X' parameter must ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [np.zeros(N, dtype=bool), np.array([1.0]), np.array(["a"])])
def test_rows_are_chosen_by_integers(table, index):
    with pytest.raises(InputError, match="rows must be chosen by a slice or an array of integers"):
        as_rows(table)[index]


def test_a_stream_is_passed_once_and_keeps_its_dtype(table):
    parts = [table[:3].astype(np.float32), scipy.sparse.csr_array(table[3:4]), torch.from_numpy(table[4:])]
    taken = []

    def batches():
        for part in parts:
            taken.append(part)
            yield part

    blocks = stream(batches())
    assert not taken
    next(blocks)
    assert len(taken) == 1
    rest = list(blocks)
    assert [block.dtype for block in rest] == [np.float32] * 2
    np.testing.assert_array_equal(np.concatenate(rest), table[3:].astype(np.float32))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the 'X' parameter must yield at least one batch; got none"),
        ([np.ones((2, 3)), np.ones((2, 4))], "must have 3 columns, as the first has; batch 1 has 4"),
        ([np.ones((2, 3)), np.ones(3)], r"got shape \(3,\) in batch 1"),
        ([np.ones((2, 3)), np.ones((0, 3))], r"got shape \(0, 3\) in batch 1"),
        (["words"], "got str in batch 0"),
    ],
)
def test_a_stream_of_other_things_is_refused(batches, message):
    with pytest.raises(InputError, match=message):
        list(stream(iter(batches)))


@pytest.mark.parametrize("name", ["memory map", "zarr", "hdf5", "csr array"])
def test_learning_from_disk_equals_learning_from_memory(tmp_path, rng, name):
    table = rng.standard_normal((300, 4)).astype(np.float32)
    make = (SOURCES | SPARSE)[name]
    models = [
        train(OnlineEM(), source, table[:20], n_components=3, epochs=1, batch_size=32).model
        for source in (table, as_rows(make(table, tmp_path)))
    ]
    assert torch.equal(models[0].dictionary, models[1].dictionary)


# Memory


STREAMED = """
import mmap, sys, threading, time
import numpy as np, torch
from entrosparse._tables import as_rows
from entrosparse.learning import OnlineEM, train

path, batch_size = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)

def anonymous():
    # Pages of a mapped file that happen to be in the page cache count as resident but can be dropped at any
    # time, so the memory that a process needs is its anonymous part.
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

def learn(data, heldout):
    train(OnlineEM(), data, heldout, n_components=4, epochs=1, batch_size=batch_size)

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

table = np.load(path, mmap_mode="r")
learn(as_rows(table[:10_000]), as_rows(table[:1000]))  # what libraries take once is no part of the growth
base = peak = anonymous()
threading.Thread(target=watch, daemon=True).start()
rows = as_rows(table)
total = sum(rows[k : k + batch_size].sum(dtype=float) for k in range(0, len(rows), batch_size))
learn(rows, as_rows(table[:1000]))
streamed, before = peak, anonymous()
held = mmap.mmap(-1, table.nbytes // 2, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.write(table[: len(table) // 2].tobytes()[: len(held)])
print(streamed - base, anonymous() - before, total)
"""


def stream_once(path, batch_size=2048):
    """Read a file in chunks and learn from it in a new process.

    Returns the growth of the memory of the process in bytes, that with half of the file held, and the sum.
    """
    command = [sys.executable, "-W", "ignore", "-c", STREAMED, str(path), str(batch_size)]
    given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the process at once
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200, env=given_back)
    growth, with_half, total = done.stdout.split()
    return int(growth), int(with_half), float(total)


def write_table(path, n_rows, n_features):
    """Write random rows block by block; return their sum."""
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, n_features))
    rng, total = np.random.default_rng(3), 0.0
    for first in range(0, n_rows, 50_000):
        block = file[first : first + 50_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        total += block.sum(dtype=float)
    file.flush()
    return total


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@needs_proc
@pytest.mark.parametrize(
    "megabytes", [60, pytest.param(400, marks=pytest.mark.slow)], ids=lambda size: f"{size} MB"
)
def test_streaming_needs_little_memory(tmp_path, megabytes):
    size = megabytes * 10**6
    expected = write_table(tmp_path / "big.npy", size // (64 * 4), 64)
    growth, with_half, total = stream_once(tmp_path / "big.npy")
    assert total == pytest.approx(expected, rel=1e-9, abs=1e-3)
    assert growth < size / 4
    assert with_half > 0.45 * size  # the meter sees what is held


@needs_proc
@pytest.mark.slow
def test_ten_million_rows_are_streamed(tmp_path):
    """The order of 10 million rows takes 80 MB by itself, a quarter of this file."""
    expected = write_table(tmp_path / "long.npy", 10_000_000, 8)
    growth, _, total = stream_once(tmp_path / "long.npy", batch_size=8192)
    assert total == pytest.approx(expected, rel=1e-9, abs=1e-3)
    assert growth < 160e6
