"""The command ``compare``: bounds of several runs on the same patches."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch

from commands import SMALL, failure, write_images
from entrosparse.app.cli import main
from entrosparse.app.comparisons import compare
from entrosparse.app.runs import load_run
from entrosparse.errors import InputError
from entrosparse.images import load_images, prepare_images, split_patches
from entrosparse.inference import DiagonalInference
from entrosparse.objectives import pointwise_elbo


@pytest.fixture(scope="module")
def others(images, tmp_path_factory):
    """Folder of runs that differ from the first in one setting each."""
    out = tmp_path_factory.mktemp("others")
    differences = {"narrow": ["--n-components=3"], "five": ["--n-components=5"], "plain": ["--whiten=none"]}
    for name, setting in differences.items():
        assert main(["fit", str(images), *SMALL, *setting, "--out", str(out / name)]) == 0
    return out


def heldout_of(run, images):
    config = run.info.config
    arrays = prepare_images(load_images(images), config.whiten, run.info.gain).arrays
    return split_patches(arrays, config.patch_size, 1, config.n_heldout, config.seed)[1][:]


def test_bounds_are_those_of_the_heldout_patches_at_the_scales_of_each_run(run, others, images):
    runs = [load_run(path) for path in (run, others / "narrow")]
    rows, n_patches = compare(runs, load_images(images))
    patches = torch.from_numpy(heldout_of(runs[0], images))
    assert n_patches == len(patches) == runs[0].info.config.n_heldout
    bounds = [
        pointwise_elbo(DiagonalInference(tolerance=1e-4)(patches, each.model), patches, each.model).numpy()
        for each in runs
    ]
    for row, bound in zip(rows, bounds, strict=True):
        assert row.bound == pytest.approx(bound.mean(), abs=1e-3)
        assert row.bits_per_dimension == pytest.approx(-bound.mean() / math.log(2) / 16, abs=1e-4)
    ahead = bounds[1] - bounds[0]
    assert rows[0].ahead == rows[0].ahead_error == 0
    assert rows[1].ahead == pytest.approx(ahead.mean(), abs=1e-3)
    assert rows[1].ahead_error == pytest.approx(ahead.std(ddof=1) / len(patches) ** 0.5, rel=1e-2)
    # The last report of learning is on the same patches, at λ and σ² that are optimal for them.
    assert rows[0].bound == pytest.approx(runs[0].history[-1].elbo, abs=1.0)
    assert rows[0].bound <= runs[0].history[-1].elbo + 0.05


def test_the_units_of_a_run_do_not_matter(run, images):
    """A run whose images were scaled by 3 and whose model knows it is the same model."""
    first = load_run(run)
    model = replace(
        first.model, prior_scale=3 * first.model.prior_scale, noise_variance=9 * first.model.noise_variance
    )
    scaled = replace(first, model=model, info=replace(first.info, gain=3 * first.info.gain))
    rows, _ = compare([first, scaled], load_images(images))
    assert rows[1].ahead == pytest.approx(0.0, abs=1e-3)


def test_compare_prints_a_table_and_writes_a_page(run, others, tmp_path, capsys):
    folders, out = [run, others / "narrow", others / "five"], tmp_path / "deep" / "out"
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((out / "comparison.json").read_text())
    assert [row["run"] for row in content["runs"]] == list(map(str, folders))
    for line, row in zip(lines[1:4], content["runs"], strict=True):
        bound, bits = map(float, line.split()[:2])
        assert bound == pytest.approx(row["bound"], abs=1e-3)
        assert bits == pytest.approx(row["bits_per_dimension"], abs=1e-4)
        assert line.endswith(row["run"])
    assert lines[4:] == [f"wrote {out / 'report.html'}"]
    assert {path.name for path in out.iterdir()} == {"comparison.json", "report.html"}
    page = (out / "report.html").read_text()
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?:|<script|<link|@import", without_namespaces)
    assert page.count('<img src="data:') == 3
    assert all(f"{row['bound']:.3f}" in page for row in content["runs"])


def test_compare_takes_patches_of_other_images(run, others, tmp_path):
    elsewhere = write_images(tmp_path / "other", n=1, side=60)
    for name, images in (("own", []), ("other", ["--images", str(elsewhere)])):
        command = [
            "compare",
            str(run),
            str(others / "narrow"),
            *images,
            "--out",
            str(tmp_path / name / "out"),
        ]
        assert main(command) == 0
    own, other = (
        json.loads((tmp_path / n / "out" / "comparison.json").read_text()) for n in ("own", "other")
    )
    assert other["source"] == str(elsewhere)
    assert own["runs"][0]["bound"] != other["runs"][0]["bound"]


def test_names_of_folders_are_escaped(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "a <b> & $x$")
    assert main(["compare", str(run), str(copy), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in page
    assert "a &lt;b&gt; &amp; $x$" in page


def test_compare_refuses(run, others, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    narrow = others / "narrow"
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in [
        ([run], "must name at least two run folders; got 1"),
        ([run, others / "plain"], "must have the same 'whiten'"),
        ([run, tmp_path / "gone"], "must be a run folder"),
        ([run, narrow, "--images", tmp_path / "gone"], "must be an existing file or folder"),
        ([run, narrow, "--out", run], "must be a folder that does not exist yet"),
        ([], "runs"),
    ]:
        assert message in failure(capsys, "compare", "--out", "deep/out", *arguments)
    assert sorted(tmp_path.rglob("*")) == before
    smaller = load_run(run)
    smaller = replace(smaller, info=replace(smaller.info, config=replace(smaller.info.config, patch_size=5)))
    with pytest.raises(InputError, match=r"same 'patch_size'.* has 4, .* has 5"):
        compare([load_run(run), smaller], [])
