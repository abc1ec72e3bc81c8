"""Runs that learn from the rows of a table: ``fit --rows``, and every command that then reads the run."""

import json
import re
import shutil

import h5py
import numpy as np
import pandas
import pytest
import torch
import zarr

from commands import failure, write_images
from conftest import untimed
from entrosparse import SparseCoding, load_run
from entrosparse._tables import as_rows
from entrosparse.app import sources
from entrosparse.app.cli import main
from entrosparse.app.progress import FitProgress
from entrosparse.app.sources import split_rows
from entrosparse.errors import FileFormatError, InputError
from entrosparse.learning._checkpoints import Checkpoints

ROWS = ["--rows", "--n-components=3", "--algorithm=online", "--batch-size=64", "--epochs=2"]
RNG = np.random.default_rng(0)
WHOLE = RNG.laplace(size=(300, 3)) @ RNG.normal(size=(3, 5)) + 0.2 * RNG.normal(size=(300, 5)) + 7.0
TABLE = np.where(RNG.random(WHOLE.shape) < 0.1, np.nan, WHOLE)

NO_PAGE = "entrosparse.app.reports.write_report", lambda run: None  # It takes longer to draw than to learn.


def fit(source, out, *arguments):
    """Return a run without its page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*NO_PAGE)
        assert main(["fit", str(source), *ROWS, *map(str, arguments), "--out", str(out)]) == 0
    return load_run(out)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.npy"
    np.save(path, TABLE)
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """The folder of a run on this table, with its page, which tests must leave as it is."""
    out = tmp_path_factory.mktemp("rows") / "run"
    assert main(["fit", str(table), *ROWS, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def per_feature(table, tmp_path_factory):
    return fit(table, tmp_path_factory.mktemp("rows") / "per_feature", "--noise=per-feature").path


# --- fit


def test_fit_leaves_a_whole_run(run, table, capsys):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "history.csv", "examples.npz", "units.npz", "fields.png",
        "report.html",
    }  # fmt: skip
    found = load_run(run)
    assert (found.info.source, found.info.n_rows, found.info.image_names) == (str(table), 270, ())
    assert [record.samples_seen for record in found.history] == [0, 270, 540]
    assert found.model.dictionary.shape == (5, 3)
    assert found.examples.shape == (12, 5)
    assert np.isnan(found.examples).any()
    assert main(["info", str(run)]) == 0
    lines = dict(re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    assert lines["held-out ELBO"] == f"{found.history[-1].elbo:.2f} nats per row"
    assert (lines["row"], lines["rows seen"]) == ("5 columns", "540")


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["other"], file["rows"] = np.eye(3), TABLE
    return f"{path}::rows"


def write_npz(path):
    np.savez(path, other=np.eye(3), rows=TABLE)
    return f"{path}::rows"


def write_zarr(path):
    zarr.create_array(str(path), shape=TABLE.shape, chunks=(7, 3), dtype=TABLE.dtype)[:] = TABLE
    return path


def write_csv(path):
    pandas.DataFrame(TABLE).to_csv(path, index=False)
    return path


def write_shards(path):
    for number, rows in enumerate(np.array_split(TABLE, 4)):
        np.save(path.with_name(f"{number}.npy"), rows)
    return path.with_name("*.npy")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.h5", write_hdf5),
        ("t.npz", write_npz),
        ("t.zarr", write_zarr),
        ("t.csv", write_csv),
        ("t", write_shards),
    ],
)
def test_every_kind_of_file_is_learned_from_alike(run, tmp_path, name, write):
    found = fit(write(tmp_path / name), tmp_path / "run")
    np.testing.assert_allclose(found.model.dictionary, load_run(run).model.dictionary, atol=1e-9)


def test_rows_that_are_held_out_are_not_learned_from(run, table, tmp_path):
    """Neither dictionary nor centre and unit depend on them; the report does."""
    _, heldout = split_rows(str(table))
    changed, is_held_out = TABLE.copy(), (TABLE[:, None] == heldout[None]).any(axis=2).any(axis=1)
    assert is_held_out.sum() == len(heldout) == 30
    changed[is_held_out] = TABLE[~is_held_out][:30]
    np.save(tmp_path / "changed.npy", changed)
    before, after = load_run(run), fit(tmp_path / "changed.npy", tmp_path / "run")
    assert after.model.dictionary.equal(before.model.dictionary)
    np.testing.assert_array_equal(after.units.mean, before.units.mean)
    assert abs(after.history[-1].elbo - before.history[-1].elbo) > 0.1


def test_a_table_is_split_without_reading_it(monkeypatch):
    class Counted:
        shape, dtype = (1000, 2), np.dtype(np.float64)
        n_read = 0

        def __getitem__(self, index):
            rows = np.arange(2000.0).reshape(1000, 2)[index]
            self.n_read += len(rows)
            return rows

    counted = Counted()
    monkeypatch.setattr(sources, "open_rows", lambda source: as_rows(counted))
    train, heldout = split_rows("table")
    assert (train.shape, heldout.shape, counted.n_read) == ((900, 2), (100, 2), 100)
    kept = np.array(sorted(set(range(0, 2000, 2)) - set(heldout[:, 0])))
    np.testing.assert_array_equal(train[:][:, 0], kept)
    np.testing.assert_array_equal(train[250:300][:, 0], kept[250:300])
    chosen = np.array([7, 899, 0, 333, 7])
    np.testing.assert_array_equal(train[chosen][:, 0], kept[chosen])
    assert len(train[5:5]) == 0


@pytest.mark.parametrize(("n_rows", "n_heldout"), [(10, 2), (150, 15), (100_000, 2048)])
def test_a_tenth_of_the_rows_is_held_out_within_bounds(monkeypatch, n_rows, n_heldout):
    monkeypatch.setattr(sources, "open_rows", lambda source: as_rows(np.arange(n_rows)[:, None]))
    train, heldout = split_rows("table")
    assert (len(train), len(heldout)) == (n_rows - n_heldout, n_heldout)


def test_a_file_of_settings_may_ask_for_rows(table, tmp_path, monkeypatch):
    monkeypatch.setattr(*NO_PAGE)
    (tmp_path / "settings.yaml").write_text(
        f"rows: true\nalgorithm: online\nn_components: 2\nepochs: 1\ninput: {table}\n"
    )
    command = ["fit", "--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert load_run(tmp_path / "run").info.config.rows


# --- units


def test_figures_are_in_the_units_of_the_table(run, tmp_path):
    """In tenths of the unit, each entry that is seen loses log 10 nats, and noise is ten times as large."""
    np.save(tmp_path / "tenths.npy", 10.0 * TABLE - 300.0)
    before, after = load_run(run), fit(tmp_path / "tenths.npy", tmp_path / "run")
    _, heldout = split_rows(before.info.source)
    n_seen = (~np.isnan(heldout)).sum(axis=1).mean()
    for one, ten in zip(before.history, after.history, strict=True):
        assert ten.elbo == pytest.approx(one.elbo - n_seen * np.log(10.0), abs=1e-6)
        assert ten.noise_variance == pytest.approx(100.0 * one.noise_variance, rel=1e-6)
    np.testing.assert_allclose(after.encode(10.0 * TABLE - 300.0).mean, 10 * before.encode(TABLE).mean, 1e-6)


def test_per_feature_noise_makes_units_of_columns_indifferent(per_feature, tmp_path):
    factors = np.array([1.0, 1e3, 1e-3, 7.0, 1e6])
    np.save(tmp_path / "other.npy", TABLE * factors)
    before, after = (
        load_run(per_feature),
        fit(tmp_path / "other.npy", tmp_path / "run", "--noise=per-feature"),
    )
    np.testing.assert_allclose(after.model.dictionary, before.model.dictionary, atol=1e-6)


# --- encode, and the run in Python


@pytest.mark.parametrize("folder", ["run", "per_feature"])
def test_codes_are_those_of_the_run_and_of_its_estimator(request, folder, table, tmp_path):
    folder = request.getfixturevalue(folder)
    for number, flag in enumerate([[], ["--rows"]]):
        out = tmp_path / f"{number}.npz"
        assert main(["encode", str(folder), str(table), *flag, "--out", str(out)]) == 0
        with np.load(out) as codes:
            assert set(codes) == {"mean", "marginal_scale"}
            mean, scale = codes["mean"], codes["marginal_scale"]
    run, coding = load_run(folder), SparseCoding.from_run(folder)
    found = run.encode(TABLE)
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.marginal_scale, scale)
    np.testing.assert_allclose(coding.transform(TABLE), mean, rtol=1e-12)
    np.testing.assert_allclose(coding.posterior(TABLE).marginal_scale(), scale, rtol=1e-12)
    np.testing.assert_allclose(run.decode(found), coding.inverse_transform(mean), rtol=1e-9)
    _, heldout = split_rows(str(table))
    assert coding.elbo_ == run.history[-1].elbo
    assert coding.score(heldout) == pytest.approx(coding.elbo_, abs=0.5)


def test_a_run_of_rows_refuses_what_is_for_images(run):
    found = load_run(run)
    for method in (found.encode, found.reconstruct):
        with pytest.raises(InputError, match="'stride' parameter is for images"):
            method(TABLE, 2)
        with pytest.raises(InputError, match=r"must have 5 columns, as those .* got 4"):
            method(TABLE[:, :4])
    with pytest.raises(InputError, match=r"must have shape \(N, 3\)"):
        found.decode(type(found.encode(TABLE))(np.zeros((2, 4)), np.zeros((2, 4))))


def test_a_run_of_an_encoder_finds_codes_with_it(table, tmp_path):
    run = fit(table, tmp_path / "run", "--inference=encoder")
    assert np.isfinite(run.encode(TABLE).mean).all()
    np.testing.assert_allclose(SparseCoding.from_run(run.path).transform(TABLE), run.encode(TABLE).mean)


# --- reconstruct


def test_reconstruct_fills_in_what_is_missing(run, table, tmp_path, capsys):
    assert main(["reconstruct", str(run), str(table), "--out", str(tmp_path / "out")]) == 0
    missing = np.isnan(TABLE)
    assert f"filled in {missing.sum()} of 1,500 entries" in capsys.readouterr().out
    found = load_run(run).reconstruct(TABLE)
    with np.load(tmp_path / "out" / "arrays.npz") as arrays:
        assert set(arrays) == {"rows", "deviation", "filled", "missing"}
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], getattr(found, name))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["arrays.npz"]
    np.testing.assert_array_equal(found.filled[~missing], TABLE[~missing])
    np.testing.assert_array_equal(found.filled[missing], found.rows[missing])
    error = found.filled[missing] - WHOLE[missing]
    columns = np.broadcast_to(np.nanmean(TABLE, axis=0), TABLE.shape)[missing] - WHOLE[missing]
    assert np.square(error).mean() < 0.5 * np.square(columns).mean()
    assert 0.5 < np.square(error / np.hypot(found.deviation[missing], 0.2)).mean() < 2.0


@pytest.mark.parametrize("folder", ["run", "per_feature"])
def test_reconstructions_are_as_sure_as_the_posteriors_in_data_units(request, folder):
    folder = request.getfixturevalue(folder)
    found, coding = load_run(folder).reconstruct(TABLE), SparseCoding.from_run(folder)
    variance = coding.posterior(TABLE).reconstruction_variance(torch.from_numpy(coding.components_.T.copy()))
    np.testing.assert_allclose(found.deviation, variance.sqrt(), rtol=1e-9)
    np.testing.assert_allclose(found.rows, coding.inverse_transform(coding.transform(TABLE)), rtol=1e-9)


def test_a_table_without_gaps_has_nothing_to_fill_in(run, tmp_path):
    np.save(tmp_path / "whole.npy", WHOLE)
    command = ["reconstruct", run, tmp_path / "whole.npy", "--out", tmp_path / "out"]
    assert main([str(word) for word in command]) == 0
    with np.load(tmp_path / "out" / "arrays.npz") as arrays:
        assert set(arrays) == {"rows", "deviation"}


# --- resume and start-from


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(run, table, tmp_path, capsys, monkeypatch):
    def interrupt(self, samples_seen):
        if samples_seen > 300:
            raise KeyboardInterrupt

    path = "entrosparse.app.commands.fitting._checkpoints"
    monkeypatch.setattr(path, lambda out: Checkpoints(out / "checkpoints", 0.0))
    monkeypatch.setattr(*NO_PAGE)
    shutil.copy(table, tmp_path / "table.npy")
    with monkeypatch.context() as patch:
        patch.setattr(FitProgress, "on_batch", interrupt)
        command = ["fit", tmp_path / "table.npy", *ROWS, "--out", tmp_path / "cut"]
        assert main([str(word) for word in command]) == 130
    np.save(tmp_path / "table.npy", TABLE[:-1])
    capsys.readouterr()
    assert "must be those it began with" in failure(capsys, "resume", tmp_path / "cut")
    shutil.copy(table, tmp_path / "table.npy")
    assert main(["resume", str(tmp_path / "cut")]) == 0
    assert re.search(r"going on after [\d,]+ rows", capsys.readouterr().out)
    whole, cut = load_run(run), load_run(tmp_path / "cut")
    assert cut.model.dictionary.equal(whole.model.dictionary)
    assert untimed(cut.history) == untimed(whole.history)


def test_learning_starts_from_the_dictionary_of_another_run(run, table, tmp_path, monkeypatch):
    """Also where columns have units of their own only in the new run."""
    dictionaries = {}

    def watch(self, model, record):
        dictionaries[record.epoch] = model.dictionary

    monkeypatch.setattr(FitProgress, "on_epoch", watch)
    after = fit(table, tmp_path / "run", "--start-from", run, "--noise=per-feature")
    before = load_run(run)
    assert after.info.start_from == str(run)
    in_data_units = dictionaries[0].numpy() * after.units.spread[:, None]
    in_data_units /= np.linalg.norm(in_data_units, axis=0)
    np.testing.assert_allclose(in_data_units, before.model.dictionary, atol=1e-9)


# --- compare

OF_IMAGES = "patch|mosaic|pixel|whiten|gain</th>"


def without_figures(page):
    return re.sub(r"<svg.*?</svg>|<style.*?</style>|base64,[^\"]*", "", page, flags=re.DOTALL)


def test_bounds_are_those_of_the_same_heldout_rows(run, per_feature, table, tmp_path, capsys):
    folders = [str(run), str(per_feature)]
    assert main(["compare", *folders, "--out", str(tmp_path / "out")]) == 0
    assert "nats per row" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (content["n_rows"], content["n_columns"], content["source"]) == (30, 5, str(table))
    _, heldout = split_rows(str(table))
    scores = [SparseCoding.from_run(folder).score_samples(heldout) for folder in folders]
    for found, score in zip(content["runs"], scores, strict=True):
        assert found["bound"] == pytest.approx(score.mean(), abs=1e-6)
    assert content["runs"][1]["ahead"] == pytest.approx((scores[1] - scores[0]).mean(), abs=1e-6)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "30 rows of 5 columns" in re.sub(r"\s+", " ", page)
    assert not re.search(OF_IMAGES, without_figures(page))


# --- info and report


def test_the_page_says_rows_and_needs_nothing(run):
    page = (run / "report.html").read_text()
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?:|<script|<link|@import", without_namespaces)
    assert page.count("<figcaption>") == 6
    assert page.count("<svg") == 5
    assert (run / "fields.png").read_bytes().startswith(b"\x89PNG")
    assert not re.search(OF_IMAGES, without_figures(page))
    assert "rows learned from" in page


# --- what cannot be done is said in one line, and leaves nothing


def written(name, write):
    def make(folder):
        write(folder / name)
        return folder / name

    return make


def array(values):
    return written("in.npy", lambda path: np.save(path, values))


def text(content):
    return written("in.csv", lambda path: path.write_text(content))


@pytest.mark.parametrize(
    ("make_input", "arguments", "message"),
    [
        (lambda folder: folder / "missing.csv", [], "missing.csv' does not exist"),
        (lambda folder: folder / "*.npy", [], "found none"),
        (lambda folder: write_images(folder / "in"), [], "a file of rows must be of kind"),
        (text(""), [], "in.csv"),
        (text("a,b\n" + "1,x\n" * 20), [], "must hold real numbers"),
        (array(np.zeros(20)), [], "must hold real numbers in at least one row"),
        (array(np.zeros((20, 2, 2))), [], "shape (20, 2, 2)"),
        (array(np.eye(9)), [], "must be 10 at least"),
        (array(np.full((20, 2), np.nan)), [], "the 'input' parameter must have an entry that was seen"),
        (array(np.full((20, 2), np.inf)), [], "the 'input' parameter must be finite"),
        (lambda folder: write_hdf5(folder / "in.h5").replace("rows", "gone"), [], "an array 'gone'"),
        (lambda folder: write_npz(folder / "in.npz").partition(":")[0], [], "one array, or be followed by"),
        (array(TABLE), ["--patch-size=4"], "the 'patch_size' parameter is for images"),
        (array(TABLE), ["--n-patches=9000"], "the 'n_patches' parameter is for images"),
        (array(TABLE), ["--whiten=none"], "the 'whiten' parameter is for images"),
        (array(TABLE), ["--n-components=10000000"], "the most for rows of 5 columns"),
        (array(TABLE), ["--inference=encoder", "--n-components=9000"], "an encoder has at most"),
        (array(np.zeros((10, 2**18 + 1), np.float32)), [], "at most 262,144 columns"),
    ],
)
def test_fit_refuses(tmp_path, capsys, make_input, arguments, message):
    source = make_input(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert message in failure(capsys, "fit", source, *ROWS, *arguments, "--out", tmp_path / "deep" / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_need_an_input_and_a_table_needs_rows(run, table, tmp_path, capsys):
    out = ["--out", tmp_path / "out.npz"]
    assert "must name a table" in failure(capsys, "fit", *ROWS, *out)
    (tmp_path / "table.csv").write_text("a,b\n" + "1,2\n" * 20)
    for source in (table, tmp_path / "table.csv"):
        assert "to take the rows of a table, give --rows" in failure(capsys, "fit", source, *out)
    assert "--rows" not in failure(capsys, "fit", tmp_path / "missing", *out)
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv"}


def test_a_run_of_rows_and_what_does_not_go_with_it(run, table, images, tmp_path, capsys):
    np.save(tmp_path / "narrow.npy", TABLE[:, :3])
    np.save(tmp_path / "infinite.npy", np.full((20, 5), np.inf))
    before = sorted(tmp_path.rglob("*"))
    start = [*ROWS, "--start-from", run]
    for arguments, message in [
        (["encode", run, tmp_path / "narrow.npy"], "the 'input' parameter must have 5 columns"),
        (["encode", run, tmp_path / "infinite.npy"], "the 'input' parameter must be finite"),
        (["encode", run, images], "a file of rows must be of kind"),
        (["reconstruct", run, tmp_path / "narrow.npy"], "must have 5 columns"),
        (["reconstruct", run, table, "--stride", 2], "the 'stride' parameter is for images"),
        (["reconstruct", run, table, "--mask", table], "the 'mask' parameter is for images"),
        (["compare", run, run, "--images", images], "the 'images' parameter is for runs of images"),
        (["fit", tmp_path / "narrow.npy", *start], "must have 5 columns, as those that the run"),
        (["fit", table, *start, "--n-components=2"], "the 'n_components' parameter must be 3"),
        (["fit", images, "--n-components=3", "--start-from", run], "the 'rows' parameter must be True"),
    ]:
        assert message in failure(capsys, *arguments, "--out", tmp_path / "out.npz")
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_of_other_tables_do_not_compare(run, tmp_path, capsys):
    for name, rows in (("narrow", TABLE[:, :4]), ("short", TABLE[:-20])):
        np.save(tmp_path / f"{name}.npy", rows)
        fit(tmp_path / f"{name}.npy", tmp_path / name, "--epochs=1")
    out = ["--out", tmp_path / "out"]
    line = failure(capsys, "compare", run, tmp_path / "narrow", *out)
    assert "the same 'number of columns'" in line
    np.save(tmp_path / "short.npy", TABLE)
    line = failure(capsys, "compare", tmp_path / "short", run, *out)
    assert "must be those it began with" in line


# --- files of a run


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(4)},
        {"mean": np.full(5, np.nan)},
        {"mean": np.zeros((5, 1))},
        {"mean": np.zeros(5, np.float32)},
        {"scale": np.float64(0.0)},
        {"scale": np.float64(np.inf)},
        {"scale": np.ones(5)},
        {"spread": np.ones(4)},
        {"spread": -np.ones(5)},
    ],
)
def test_units_that_no_run_has_are_refused(run, tmp_path, capsys, change):
    copy = shutil.copytree(run, tmp_path / "run")
    with np.load(run / "units.npz") as units:
        np.savez(copy / "units.npz", **dict(units) | change)
    with pytest.raises(FileFormatError, match=r"units\.npz|number of columns"):
        load_run(copy)
    failure(capsys, "report", copy)


@pytest.mark.parametrize("n_rows", [None, 0, 271, "270"])
def test_a_number_of_rows_that_the_run_has_not_is_refused(run, tmp_path, n_rows):
    copy = shutil.copytree(run, tmp_path / "run")
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"n_rows": n_rows}))
    with pytest.raises(FileFormatError, match=r"config\.json|history\.csv"):
        load_run(copy)


def test_a_run_without_units_is_no_whole_run(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "units.npz").unlink()
    with pytest.raises(FileFormatError, match=r"units\.npz' is missing"):
        load_run(copy)
