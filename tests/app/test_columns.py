"""Names of the columns of a table: learned with, shown, asked for again, and given back."""

import json
import shutil

import numpy as np
import pandas
import pytest

from commands import failure
from entrosparse import SparseCoding, load_run
from entrosparse.app.cli import main
from entrosparse.app.row_plots import draw_atoms, draw_rows
from entrosparse.errors import InputError

NAMES = ("age", "height <cm>", "price in $", "$\\frac", "größe")
RNG = np.random.default_rng(0)
ROWS = RNG.laplace(size=(120, 2)) @ RNG.normal(size=(2, 5)) + 0.2 * RNG.normal(size=(120, 5)) + 7.0


def write(path, rows=ROWS, names=NAMES):
    pandas.DataFrame(rows, columns=list(names)).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("table") / "table.csv")


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert (
        main(
            [
                "fit",
                str(table),
                "--rows",
                "--n-components=2",
                "--epochs=2",
                "--algorithm=online",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


def test_names_are_kept_and_shown(run, capsys):
    assert load_run(run).info.column_names == NAMES
    assert main(["info", str(run)]) == 0
    assert "age, height <cm>, price in $, $\\frac, größe" in capsys.readouterr().out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "height &lt;cm&gt;" in page
    assert SparseCoding.from_run(run).feature_names_in_.tolist() == list(NAMES)


def test_figures_name_the_columns_where_there_is_room():
    def labels(figure):
        figure.draw_without_rendering()
        return [label.get_text() for label in figure.axes[0].get_xticklabels()]

    long = (*NAMES[:4], "a" * 30)
    assert labels(draw_atoms(np.eye(5), np.ones(5), long)) == [*NAMES[:4], "a" * 19 + "…"]
    assert labels(draw_rows(np.eye(5), np.eye(5), np.eye(5), ["row"] * 5, NAMES)) == list(NAMES)
    many = [f"column{number}" for number in range(41)]
    assert many[0] not in labels(draw_atoms(np.eye(41), np.ones(41), many))


def test_reconstructions_carry_the_names(run, table, tmp_path):
    assert main(["reconstruct", str(run), str(table), "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "out" / "arrays.npz") as arrays:
        assert tuple(arrays["column_names"]) == NAMES


def test_frames_are_tables_too(run, tmp_path):
    found, frame = load_run(run), pandas.DataFrame(ROWS, columns=list(NAMES))
    np.testing.assert_array_equal(found.encode(frame).mean, found.encode(ROWS).mean)
    with pytest.raises(InputError, match="column 0 must be 'age'; got 'größe'"):
        found.encode(frame[list(NAMES[::-1])])


@pytest.mark.parametrize("command", ["encode", "reconstruct", "fit"])
@pytest.mark.parametrize("names", [NAMES[::-1], (*NAMES[:4], "other\n")], ids=["order", "other"])
def test_columns_of_other_names_are_refused(run, tmp_path, capsys, command, names):
    new = write(tmp_path / "new.csv", names=names)
    arguments = ["fit", new, "--rows", "--n-components=2", "--start-from", run]
    if command != "fit":
        arguments = [command, run, new]
    message = failure(capsys, *arguments, "--out", tmp_path / ("out.npz" if command == "encode" else "out"))
    number = 0 if names[0] != NAMES[0] else 4
    assert (
        f"in their order: column {number} must be '{NAMES[number]}'; got '{names[number].strip()}" in message
    )
    assert list(tmp_path.iterdir()) == [new]


def test_a_table_without_names_is_taken_by_its_places(run, table, tmp_path):
    np.save(tmp_path / "new.npy", ROWS)
    for source, name in ((table, "named.npz"), (tmp_path / "new.npy", "bare.npz")):
        assert main(["encode", str(run), str(source), "--out", str(tmp_path / name)]) == 0
    with np.load(tmp_path / "named.npz") as named, np.load(tmp_path / "bare.npz") as bare:
        np.testing.assert_allclose(named["mean"], bare["mean"], atol=1e-12)


def test_runs_of_other_names_do_not_compare(run, tmp_path, capsys):
    new = write(tmp_path / "new.csv", names=NAMES[::-1])
    other = tmp_path / "other"
    assert (
        main(
            [
                "fit",
                str(new),
                "--rows",
                "--n-components=2",
                "--epochs=2",
                "--algorithm=online",
                "--out",
                str(other),
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert "column 0 must be 'age'" in failure(capsys, "compare", run, other, "--out", tmp_path / "out")


def test_names_that_no_run_has_are_refused(run, tmp_path, capsys):
    for number, (names, message) in enumerate(
        [(NAMES[:4], "must have the same number of columns"), ([1, 2, 3, 4, 5], "must be texts")]
    ):
        copy = shutil.copytree(run, tmp_path / str(number))
        config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
        (copy / "config.json").write_text(json.dumps(config | {"column_names": names}))
        assert message in failure(capsys, "info", copy)


def test_names_without_end_are_refused_before_learning(tmp_path, capsys):
    source = write(tmp_path / "table.csv", names=("a" * 2**22, *NAMES[1:]))
    message = failure(capsys, "fit", source, "--rows", "--out", tmp_path / "out")
    assert "must have names of columns with at most 2,097,152 characters" in message
