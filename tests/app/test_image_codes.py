"""Images in, codes out, and back: in Python, and by the command ``reconstruct``."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.ndimage import uniform_filter

from commands import failure
from entrosparse.app.cli import main
from entrosparse.app.runs import load_run
from entrosparse.errors import InputError
from entrosparse.images import Image, default_images, prepare_images, tile_patches
from entrosparse.inference import DiagonalInference

PHOTOGRAPH = default_images()[1].pixels[20:100, 60:150]
SETTINGS = ["--n-components=24", "--patch-size=6", "--n-patches=4096", "--batch-size=256", "--epochs=3"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs on photographs, by their whitening."""
    out = tmp_path_factory.mktemp("runs")
    for whiten in ("none", "olshausen"):
        assert main(["fit", *SETTINGS, "--whiten", whiten, "--out", str(out / whiten)]) == 0
    return out


@pytest.fixture(scope="module")
def runs(folders):
    return {path.name: load_run(path) for path in folders.iterdir()}


def relative_error(found, image):
    return np.sqrt(np.mean((found - image) ** 2)) / image.std()


# --- in Python


def test_codes_are_those_of_the_tiles(runs):
    run = runs["none"]
    images = [PHOTOGRAPH, Image("other", PHOTOGRAPH[:30].T)]
    codes = run.encode(images, stride=4)
    prepared = prepare_images([Image("", PHOTOGRAPH), images[1]], "none", run.info.gain)
    tiles = tile_patches(prepared.arrays, 6, 4)
    np.testing.assert_array_equal(codes.positions, tiles.positions)
    expected = DiagonalInference(tolerance=1e-4)(torch.from_numpy(tiles[:]), run.model)
    np.testing.assert_allclose(codes.mean, expected.mean, atol=1e-3)
    np.testing.assert_allclose(codes.marginal_scale, expected.scale, rtol=1e-2)


@pytest.mark.parametrize(("whiten", "most"), [("none", 0.15), ("olshausen", 0.3)])
def test_an_image_comes_back_from_its_codes(runs, whiten, most):
    run = runs[whiten]
    small = PHOTOGRAPH[:41, :50]  # No multiple of the stride.
    large, again = run.decode(run.encode([PHOTOGRAPH, small]))
    assert relative_error(large, PHOTOGRAPH) < most
    assert relative_error(again, small) < most
    (found,) = run.reconstruct(small)
    np.testing.assert_allclose(found.image, again, atol=1e-3)
    np.testing.assert_array_equal(found.filled, small)
    assert not found.missing.any()


def test_units_of_the_image_do_not_matter(runs):
    for run in runs.values():
        (one,), (other,) = (run.reconstruct(pixels) for pixels in (PHOTOGRAPH, 40 * PHOTOGRAPH - 7))
        np.testing.assert_allclose(other.image, 40 * one.image - 7, atol=0.05)
    (one,), (other,) = (runs["none"].reconstruct(each) for each in (PHOTOGRAPH, 40 * PHOTOGRAPH - 7))
    np.testing.assert_allclose(other.deviation, 40 * one.deviation, rtol=1e-2)


def test_codes_that_were_changed_are_decoded(runs):
    run = runs["none"]
    codes = run.encode(PHOTOGRAPH)
    (flat,) = run.decode(replace(codes, mean=0 * codes.mean))
    np.testing.assert_allclose(flat, PHOTOGRAPH.mean(), rtol=1e-5)
    with pytest.raises(InputError, match="'mean' of the codes must have shape"):
        run.decode(replace(codes, mean=codes.mean[:, :5]))


def test_missing_pixels_are_nearer_to_the_truth_than_local_means(runs):
    missing = np.random.default_rng(0).random(PHOTOGRAPH.shape) < 0.3
    missing[40:52, 30:42] = True  # Larger than a patch: nothing is known of its middle.
    scattered = missing.copy()
    scattered[39:53, 29:43] = False
    (found,) = runs["none"].reconstruct(np.where(missing, np.nan, PHOTOGRAPH))
    np.testing.assert_array_equal(found.missing, missing)
    np.testing.assert_array_equal(found.filled[~missing], PHOTOGRAPH[~missing])
    error = np.abs(found.filled - PHOTOGRAPH)
    for side in (3, 5):
        seen = uniform_filter(np.where(missing, 0.0, PHOTOGRAPH), side)
        means = seen / np.maximum(uniform_filter(np.where(missing, 0.0, 1.0), side), 1e-9)
        theirs = np.abs(means - PHOTOGRAPH)
        assert np.square(error[scattered]).mean() < 0.8 * np.square(theirs[scattered]).mean()
    assert (found.deviation > 0).all()
    assert found.deviation[45:47, 35:37].min() > 3 * found.deviation[scattered].max()
    assert np.mean(error[scattered] < 2 * found.deviation[scattered]) > 0.8


def test_images_that_cannot_be_used(runs):
    holes = np.where(np.eye(20, dtype=bool), np.nan, PHOTOGRAPH[:20, :20])
    for images, message in [
        (holes, "must have all its pixels unless 'whiten' is 'none'"),
        (PHOTOGRAPH[:5], "'patch_size' parameter must fit into every image"),
        (np.zeros((20, 20, 3)), "must be a real numeric array"),
        ([], "'images' parameter must hold at least one image"),
    ]:
        with pytest.raises(InputError, match=message):
            runs["olshausen"].reconstruct(images)


# --- the command


def reconstruct(*arguments):
    return main(["reconstruct", *map(str, arguments)])


def test_reconstruct_writes_arrays_and_pictures(folders, runs, tmp_path, capsys):
    missing = np.random.default_rng(0).random(PHOTOGRAPH.shape) < 0.3
    np.save(tmp_path / "holes.npy", np.where(missing, np.nan, PHOTOGRAPH))
    out = tmp_path / "deep" / "out"
    assert reconstruct(folders / "none", tmp_path / "holes.npy", "--stride", 2, "--out", out) == 0
    (expected,) = runs["none"].reconstruct(np.where(missing, np.nan, PHOTOGRAPH), stride=2)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"posterior deviation from {expected.deviation.min():.4g} to ")
    assert said[1:] == [f"filled in {missing.sum():,} of 7,200 pixels", f"wrote {out}"]
    names = {"arrays.npz", "image.png", "deviation.png", "filled.png"}
    assert {path.name for path in out.iterdir()} == names
    with np.load(out / "arrays.npz") as arrays:
        assert set(arrays) == {"image", "deviation", "filled", "missing"}
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], getattr(expected, name))
    grey = np.asarray(PIL.Image.open(out / "filled.png")) / 255.0
    np.testing.assert_allclose(grey, np.clip(expected.filled, 0, 1), atol=0.5 / 255 + 1e-6)
    heat = np.asarray(PIL.Image.open(out / "deviation.png").convert("L"))
    assert heat.shape == PHOTOGRAPH.shape
    assert heat[np.unravel_index(expected.deviation.argmax(), heat.shape)] == heat.max()


def test_a_mask_is_the_same_as_nan(folders, tmp_path):
    missing = np.random.default_rng(0).random(PHOTOGRAPH.shape) < 0.3
    np.save(tmp_path / "holes.npy", np.where(missing, np.nan, PHOTOGRAPH))
    np.save(tmp_path / "whole.npy", PHOTOGRAPH)
    PIL.Image.fromarray(missing).save(tmp_path / "mask.png")
    run = folders / "none"
    assert reconstruct(run, tmp_path / "holes.npy", "--out", tmp_path / "a") == 0
    mask = tmp_path / "mask.png"
    assert reconstruct(run, tmp_path / "whole.npy", "--mask", mask, "--out", tmp_path / "b") == 0
    assert (tmp_path / "a" / "filled.png").read_bytes() == (tmp_path / "b" / "filled.png").read_bytes()


def test_reconstruct_of_a_whole_picture(folders, tmp_path, capsys):
    PIL.Image.fromarray((255 * PHOTOGRAPH).astype(np.uint8)).save(tmp_path / "whole.png")
    out = tmp_path / "out"
    full = ["--covariance", "full", "--stride", 6]
    assert reconstruct(folders / "olshausen", tmp_path / "whole.png", *full, "--out", out) == 0
    assert "(units of the whitened image, data units)" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"arrays.npz", "image.png", "deviation.png"}


@pytest.mark.parametrize(
    ("whiten", "image", "arguments", "message"),
    [
        ("none", "gone.npy", [], "gone.npy"),
        ("none", "two.npy", [], "must be a file of one image"),
        ("none", "whole.npy", ["--stride", 7], "'stride' parameter must be at most the patch size, 6"),
        ("none", "whole.npy", ["--stride", 0], "'stride' parameter must be a whole number >= 1"),
        ("none", "whole.npy", ["--stride", "wide"], "stride"),
        ("none", "whole.npy", ["--mask", "two.npy"], "mask must be one array"),
        ("none", "whole.npy", ["--mask", "narrow.npy"], "'mask' parameter must have the size of the image"),
        ("none", "whole.npy", ["--mask", "all.npy"], "all 7200 are missing"),
        ("none", "whole.npy", ["--covariance", "round"], "'covariance' parameter must be one of"),
        ("none", "narrow.npy", [], "must fit into every image"),
        ("olshausen", "whole.npy", ["--mask", "holes.npy"], "must have all its pixels unless"),
        ("nowhere", "whole.npy", [], "must be a run folder"),
    ],
)
def test_reconstruct_refuses(folders, tmp_path, monkeypatch, capsys, whiten, image, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("whole.npy", PHOTOGRAPH)
    np.save("two.npy", np.dstack([PHOTOGRAPH, PHOTOGRAPH]))
    np.save("narrow.npy", PHOTOGRAPH[:5])
    np.save("all.npy", np.ones_like(PHOTOGRAPH))
    np.save("holes.npy", np.random.default_rng(0).random(PHOTOGRAPH.shape) < 0.3)
    before = sorted(tmp_path.rglob("*"))
    line = failure(capsys, "reconstruct", folders / whiten, image, *arguments, "--out", "deep/out")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_reconstruct_takes_over_no_folder(folders, tmp_path, capsys):
    np.save(tmp_path / "whole.npy", PHOTOGRAPH)
    (tmp_path / "out").mkdir()
    command = ("reconstruct", folders / "none", tmp_path / "whole.npy", "--out", tmp_path / "out")
    assert "does not exist yet" in failure(capsys, *command)
    assert not list((tmp_path / "out").iterdir())
