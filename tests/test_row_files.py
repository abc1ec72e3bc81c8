"""Tables in files: every kind gives the rows that were written, and several files are one table."""

import sys

import h5py
import numpy as np
import pandas
import pytest
import zarr

from entrosparse import OnlineEM, SparseCoding, open_rows, train
from entrosparse.errors import FileFormatError, InputError

RNG = np.random.default_rng(0)
TABLE = RNG.laplace(size=(300, 4)) @ RNG.normal(size=(4, 5)) + 0.1 * RNG.normal(size=(300, 5))


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def write_zarr(path, table):
    zarr.create_array(str(path), shape=table.shape, chunks=(7, 3), dtype=table.dtype)[:] = table


WRITERS = {
    "npy": np.save,
    "npz": np.savez,
    "zarr": write_zarr,
    "h5": lambda path, table: write_hdf5(path, rows=table),
    "hdf5": lambda path, table: write_hdf5(path, rows=table),
    "csv": lambda path, table: pandas.DataFrame(table).to_csv(path, index=False),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_holds_its_rows(tmp_path, kind):
    WRITERS[kind](tmp_path / f"rows.{kind}", TABLE)
    rows = open_rows(tmp_path / f"rows.{kind}")
    assert (rows.shape, rows.dtype) == (TABLE.shape, np.float64)
    np.testing.assert_allclose(rows[:], TABLE, rtol=1e-15)
    np.testing.assert_allclose(rows[np.array([7, 3, 299, 3])], TABLE[[7, 3, 299, 3]], rtol=1e-15)


def test_parquet_is_read_by_pandas(tmp_path, monkeypatch):
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.setattr(pandas, "read_parquet", lambda file: pandas.DataFrame(TABLE))
    np.testing.assert_array_equal(open_rows(tmp_path / "rows.parquet")[:], TABLE)


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [1, 2]),
        ('"a, b",b\r\n1,2\r\n3,4\r\n', ("a, b", "b"), [1, 2]),
        (",7\n1,2\n3,4\n", None, [np.nan, 7]),
        ("5.5,6\n1,2\n3,4\n", None, [5.5, 6]),
        ('"5.5","6"\r\n"1","2"\r\n', None, [5.5, 6]),
        ("0,1\n5,6\n7,8\n", ("0", "1"), [5, 6]),
    ],
)
def test_the_first_line_of_a_csv_file_names_columns_unless_it_is_a_row(tmp_path, text, names, first):
    (tmp_path / "rows.csv").write_text(text, newline="")
    rows = open_rows(tmp_path / "rows.csv")
    assert rows.column_names == names
    np.testing.assert_array_equal(rows[:1], [first])


def test_names_of_columns_come_with_joined_and_parquet_files(tmp_path, monkeypatch):
    frame = pandas.DataFrame(TABLE, columns=list("abcde"))
    monkeypatch.setattr(pandas, "read_parquet", lambda file: frame)
    (tmp_path / "rows.parquet").write_bytes(b"")
    assert open_rows(tmp_path / "rows.parquet").column_names == tuple("abcde")
    for number in range(2):
        frame.to_csv(tmp_path / f"{number}.csv", index=False)
    assert open_rows(tmp_path / "*.csv").column_names == tuple("abcde")
    frame[list("bacde")].to_csv(tmp_path / "1.csv", index=False)
    with pytest.raises(InputError, match="columns of the same names in the same order"):
        open_rows(tmp_path / "*.csv")


def test_rows_are_read_in_the_type_asked_for(tmp_path):
    np.save(tmp_path / "rows.npy", TABLE.astype(np.float32))
    assert open_rows(tmp_path / "rows.npy").dtype == np.float32
    assert open_rows(tmp_path / "rows.npy", np.float64)[:].dtype == np.float64
    np.save(tmp_path / "rows.npy", np.arange(10).reshape(5, 2))
    np.testing.assert_array_equal(open_rows(tmp_path / "rows.npy", "float32")[1:3], [[2, 3], [4, 5]])


def test_an_array_within_a_file_is_named(tmp_path):
    write_hdf5(tmp_path / "two.h5", a=TABLE, **{"deep/b": 2.0 * TABLE})
    np.savez(tmp_path / "two.npz", a=TABLE, b=2.0 * TABLE)
    group = zarr.open_group(str(tmp_path / "two.zarr"), mode="w")
    for name, table in (("a", TABLE), ("b", 2.0 * TABLE)):
        group.create_array(name, shape=table.shape, dtype=table.dtype)[:] = table
    for name in ("two.h5::deep/b", "two.h5::/deep/b", "two.npz::b", "two.zarr::b"):
        np.testing.assert_array_equal(open_rows(tmp_path / name)[:], 2.0 * TABLE)
    for name in ("two.h5", "two.npz", "two.zarr"):
        with pytest.raises(
            FileFormatError, match=r"must hold one array, or be followed by :: and a name; .* a"
        ):
            open_rows(tmp_path / name)
    for name in ("two.h5::c", "two.npz::c"):
        with pytest.raises(FileFormatError, match="must hold an array 'c'; found a"):
            open_rows(tmp_path / name)


@pytest.fixture
def shards(tmp_path):
    """The table in files of other sizes and kinds, one of which has a single row."""
    for k, part in enumerate(np.split(TABLE, [100, 101, 250])):
        (write_zarr if k == 2 else np.save)(tmp_path / f"part-{k}.{'zarr' if k == 2 else 'npy'}", part)
    return str(tmp_path / "part-*")


def test_the_files_of_a_pattern_are_one_table(shards):
    rows = open_rows(shards)
    assert rows.shape == TABLE.shape
    for index in (
        slice(None),
        slice(99, 102),
        slice(300, 300),
        slice(None, None, -7),
        np.array([], int),
        np.array([100]),
        RNG.integers(0, 300, 500),
    ):
        np.testing.assert_array_equal(rows[index], TABLE[index])


def test_learning_from_shards_is_learning_from_their_table(shards):
    settings = {"n_components": 4, "epochs": 2, "batch_size": 64}
    found, expected = (train(OnlineEM(), rows, **settings).model for rows in (open_rows(shards), TABLE))
    assert (found.dictionary == expected.dictionary).all()
    codings = [SparseCoding(4, random_state=0, tol=0.1).fit(X) for X in (open_rows(shards), TABLE)]
    np.testing.assert_array_equal(codings[0].components_, codings[1].components_)


def test_shards_of_other_widths_or_none_are_refused(shards, tmp_path):
    with pytest.raises(FileFormatError, match=r"the files of '.*gone-.*' must exist; found none"):
        open_rows(tmp_path / "gone-*.npy")
    np.save(tmp_path / "part-9.npy", TABLE[:, :3])
    with pytest.raises(InputError, match=r"must have the same number of columns; got \[3, 5\]"):
        open_rows(shards)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.npy", lambda path: None, "does not exist"),
        ("note.txt", lambda path: path.write_text("1 2"), r"must be of kind \.npy, \.npz, \.zarr"),
        ("note.npy", lambda path: path.write_text("1 2"), "cannot be read as a table"),
        ("note.npz", lambda path: path.write_text("1 2"), "cannot be read as a table"),
        ("note.h5", lambda path: path.write_text("1 2"), "cannot be read as a table"),
        ("note.zarr", lambda path: path.write_text("1 2"), "cannot be read as a table"),
        ("note.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read as a table"),
        ("words.csv", lambda path: path.write_text("a,b\none,two\n"), "must hold real numbers"),
        ("line.npy", lambda path: np.save(path, TABLE[0]), r"must hold real numbers .* of shape \(5,\)"),
        ("none.npy", lambda path: np.save(path, TABLE[:0]), r"of shape \(0, 5\)"),
        ("words.npy", lambda path: np.save(path, np.full((3, 2), "a")), "must hold real numbers"),
        ("pickle.npy", lambda path: np.save(path, np.full((3, 2), None)), "cannot be read as a table"),
        (
            "short.npy",
            lambda path: (np.save(path, TABLE), path.write_bytes(path.read_bytes()[:500])),
            "cannot",
        ),
        ("folder.npy", lambda path: path.mkdir(), "must be a regular file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(FileFormatError, match=message):
        open_rows(tmp_path / name)


def test_links_of_hdf5_files_are_not_followed(tmp_path):
    write_hdf5(tmp_path / "secret.h5", rows=TABLE)
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["rows"] = h5py.ExternalLink("secret.h5", "/rows")
    for name in ("links.h5", "links.h5::rows"):
        with pytest.raises(FileFormatError, match="found none"):
            open_rows(tmp_path / name)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write_hdf5(tmp_path / "rows.h5", rows=TABLE)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"rows.h5' needs a package that is missing: .*h5py"):
        open_rows(tmp_path / "rows.h5")
