import subprocess
import sys

import h5py
import numpy as np
import PIL.Image
import pytest
from scipy.io import savemat

from entrosparse.errors import FileFormatError, InputError
from entrosparse.images import Image, _pictures, default_images, load_images, load_mask

LUMA = np.array([0.2125, 0.7154, 0.0721])  # weights of red, green, blue


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, size=(20, 30), dtype=np.uint8)


@pytest.fixture
def colour():
    return np.random.default_rng(1).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


def save_picture(path, array, mode=None, **options):
    picture = PIL.Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def save_matlab_7_3(path, **arrays):
    """Write what MATLAB writes: a 512-byte text header, then HDF5 with the axes in reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array).T)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def save_array(path, array):
    """Write one array in the format that the suffix names; ``.hdf.mat`` is MATLAB 7.3."""
    if path.name.endswith(".hdf.mat"):
        save_matlab_7_3(path, IMAGES=array)
    elif path.suffix == ".mat":
        savemat(path, {"IMAGES": array})
    elif path.suffix == ".npz":
        np.savez(path, IMAGES=array)
    else:
        np.save(path, array)
    return path


def error_of(source, kind=InputError):
    with pytest.raises(kind) as caught:
        load_images(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) > 20
    return message


# Pictures


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".webp"])
def test_grey_picture_is_read_exactly(tmp_path, grey, suffix):
    (image,) = load_images(save_picture(tmp_path / f"bird{suffix}", grey, lossless=True))
    assert image.name == f"bird{suffix}"
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels, grey / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_colour_becomes_luma(tmp_path, colour, suffix):
    (image,) = load_images(str(save_picture(tmp_path / f"bird{suffix}", colour, lossless=True)))
    np.testing.assert_allclose(image.pixels, colour / 255 @ LUMA, atol=1e-6)


@pytest.mark.parametrize("channel", ["alpha", "", None, ["red"]])
def test_a_channel_that_there_is_not_is_refused(tmp_path, channel):
    """Before any file is opened, also for arrays, which have no channels."""
    message = "'channel' parameter must be one of luma, red, green, blue; got"
    with pytest.raises(InputError, match=message):
        load_images(tmp_path / "missing.png", channel)
    with pytest.raises(InputError, match=message):
        default_images(channel)


def test_channels_are_read_one_by_one(tmp_path, colour):
    path = save_picture(tmp_path / "bird.png", colour)
    for place, channel in enumerate(("red", "green", "blue")):
        (image,) = load_images(path, channel)
        np.testing.assert_allclose(image.pixels, colour[..., place] / 255, atol=1e-6)
    assert not np.array_equal(default_images("red")[0].pixels, default_images("blue")[0].pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_is_read(tmp_path, suffix):
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1))
    (image,) = load_images(save_picture(tmp_path / f"ramp{suffix}", ramp, quality=95))
    np.testing.assert_allclose(image.pixels, ramp / 255, atol=0.02)


def test_transparent_parts_are_white(tmp_path, colour):
    alpha = np.random.default_rng(2).integers(0, 256, size=(20, 30, 1), dtype=np.uint8)
    (image,) = load_images(save_picture(tmp_path / "a.png", np.dstack([colour, alpha])))
    opacity = alpha[:, :, 0] / 255
    np.testing.assert_allclose(image.pixels, opacity * (colour / 255 @ LUMA) + 1 - opacity, atol=0.01)


def test_grey_with_alpha(tmp_path, grey):
    alpha = np.where(np.arange(30) < 15, 0, 255).astype(np.uint8) * np.ones((20, 1), np.uint8)
    (image,) = load_images(save_picture(tmp_path / "a.png", np.dstack([grey, alpha])))
    np.testing.assert_allclose(image.pixels, np.where(np.arange(30) < 15, 1, grey / 255), atol=1e-6)


def test_palette_is_looked_up(tmp_path):
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=np.uint8)
    index = np.random.default_rng(3).integers(0, 3, size=(10, 12))
    picture = PIL.Image.fromarray(index.astype(np.uint8)).convert("P")
    picture.putpalette(colours.ravel().tolist())
    picture.save(tmp_path / "palette.png")
    (image,) = load_images(tmp_path / "palette.png")
    np.testing.assert_allclose(image.pixels, colours[index] / 255 @ LUMA, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "1"), ("a.jpg", "CMYK"), ("a.tif", "CMYK"), ("a.png", "LA")]
)
def test_other_colour_modes(tmp_path, name, mode):
    blocks = np.kron([[0, 255], [255, 0]], np.ones((16, 16))).astype(np.uint8)
    (image,) = load_images(save_picture(tmp_path / name, blocks, mode=mode))
    np.testing.assert_allclose(image.pixels, blocks / 255, atol=0.02)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".tif", np.float32)]
)
def test_deep_greys_keep_their_values(tmp_path, suffix, dtype):
    deep = (np.random.default_rng(4).random((9, 11)) * 60000).astype(dtype)
    (image,) = load_images(save_picture(tmp_path / f"deep{suffix}", deep))
    np.testing.assert_array_equal(image.pixels, deep)


def test_each_page_of_a_tiff_is_an_image(tmp_path):
    pages = [np.random.default_rng(k).integers(0, 256, (8 + k, 9), dtype=np.uint8) for k in range(3)]
    first, *others = [PIL.Image.fromarray(page) for page in pages]
    first.save(tmp_path / "stack.tif", save_all=True, append_images=others, compression="tiff_lzw")
    images = load_images(tmp_path / "stack.tif")
    assert [image.name for image in images] == ["stack.tif[0]", "stack.tif[1]", "stack.tif[2]"]
    for image, page in zip(images, pages, strict=True):
        np.testing.assert_allclose(image.pixels, page / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_camera_was(tmp_path, suffix, orientation):
    upright = np.kron([[0, 40, 80], [120, 160, 200]], np.ones((16, 16))).astype(np.uint8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = PIL.Image.Exif()
    exif[274] = orientation
    path = save_picture(tmp_path / f"a{suffix}", np.ascontiguousarray(stored), quality=95, exif=exif)
    (image,) = load_images(path)
    np.testing.assert_allclose(image.pixels, upright / 255, atol=0.03)


def test_a_large_picture_is_converted_in_blocks(tmp_path, colour, monkeypatch):
    opacity = np.random.default_rng(2).integers(0, 256, size=(20, 30, 1), dtype=np.uint8)
    path = save_picture(tmp_path / "a.png", np.dstack([colour, opacity]))
    (whole,) = load_images(path)
    monkeypatch.setattr(_pictures, "_BLOCK", 70)
    (image,) = load_images(path)
    np.testing.assert_array_equal(image.pixels, whole.pixels)


def test_folder_is_read_in_order_of_names(tmp_path, grey, colour):
    for name in ("c.PNG", "a.tif", "b.webp", ".hidden.png"):
        save_picture(tmp_path / name, grey)
    save_picture(tmp_path / "d.jpeg", colour)
    np.save(tmp_path / "array.npy", np.eye(4))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    assert [image.name for image in load_images(tmp_path)] == ["a.tif", "b.webp", "c.PNG", "d.jpeg"]


# Arrays


@pytest.mark.parametrize(
    ("name", "label"),
    [("a.npy", ""), ("a.npz", ":IMAGES"), ("a.mat", ":IMAGES"), ("a.hdf.mat", ":IMAGES")],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, ">f8"])
def test_array_files(tmp_path, name, label, dtype):
    stack = (100 * np.random.default_rng(5).random((6, 7, 3))).astype(dtype)
    images = load_images(save_array(tmp_path / name, stack))
    assert [image.name for image in images] == [f"{name}{label}[{k}]" for k in range(3)]
    for k, image in enumerate(images):
        assert image.pixels.dtype == np.float32
        assert image.pixels.flags.c_contiguous
        np.testing.assert_array_equal(image.pixels, stack[:, :, k].astype(np.float32))
    (image,) = load_images(save_array(tmp_path / name, stack[:, :, 0]))
    assert image.name == name + label
    np.testing.assert_array_equal(image.pixels, stack[:, :, 0].astype(np.float32))


def test_column_major_npy(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load_images(tmp_path / "a.npy")[0].pixels, array)


def test_pixels_do_not_follow_the_file(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4, dtype=np.float32))
    (image,) = load_images(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((4, 4), dtype=np.float32))
    np.testing.assert_array_equal(image.pixels, np.eye(4))


@pytest.mark.parametrize("kind", ["npz", "mat", "mat 7.3"])
def test_several_arrays_in_order_of_names_and_others_left_aside(tmp_path, kind):
    arrays = {"b": np.eye(3), "a": np.eye(4), "N": np.array([[10.0]]), "z": np.eye(3) * 1j}
    path = tmp_path / f"several.{kind[:3]}"
    if kind == "mat 7.3":
        save_matlab_7_3(path, **arrays)
    elif kind == "mat":
        savemat(path, arrays | {"note": "text", "cell": np.array([[1, "x"]], dtype=object), "s": {"x": 1}})
    else:
        np.savez(path, **arrays, note=np.array([["text", "more"], ["of", "it"]]))
    images = load_images(path)
    assert [image.name for image in images] == [f"{path.name}:a", f"{path.name}:b"]
    np.testing.assert_array_equal(images[0].pixels, np.eye(4))


# Photographs that come with scikit-image


def test_default_images():
    images = default_images()
    assert len({image.name for image in images}) == len(images) >= 5
    for image in images:
        assert min(image.pixels.shape) >= 150
        assert image.pixels.min() >= 0
        assert 0.5 < image.pixels.max() <= 1
        assert 0.05 < image.pixels.std() < 0.5


def test_default_images_average_blocks():
    from skimage.data import astronaut

    halved = (astronaut() / 255 @ LUMA)[:6, :4].reshape(3, 2, 2, 2).mean(axis=(1, 3))
    pixels = {image.name: image.pixels for image in default_images()}["astronaut"]
    assert pixels.shape == (256, 256)
    np.testing.assert_allclose(pixels[:3, :2], halved, atol=1e-6)


def test_importing_is_light():
    """The readers' libraries load only when something is read."""
    heavy = "{'torch', 'scipy', 'skimage', 'h5py', 'PIL'}"
    code = f"import sys, entrosparse.images; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Bad input


def test_missing_source(tmp_path):
    for source in (tmp_path / "nowhere.png", tmp_path / "nowhere", "a" * 5000, "x\0y.png"):
        message = error_of(source, FileFormatError)
        assert message.startswith("the source of the images must be an existing file or folder")
        assert str(source) in message


def test_empty_folder(tmp_path):
    message = error_of(tmp_path, FileFormatError)
    assert str(tmp_path) in message
    assert ".png" in message


def test_unknown_kind_lists_the_known(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    message = error_of(tmp_path / "a.gif", FileFormatError)
    assert "a.gif" in message
    assert ".npy" in message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".npy", ".npz", ".mat"])
@pytest.mark.parametrize("content", [b"", b"this is plain text, not data\n" * 40, bytes(700)])
def test_file_that_is_not_what_it_claims(tmp_path, suffix, content):
    path = tmp_path / f"fake{suffix}"
    path.write_bytes(content)
    assert "fake" in error_of(path, FileFormatError)


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.npy", "a.npz", "a.mat", "a.hdf.mat"]
)
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9])
def test_truncated_file(tmp_path, grey, name, kept):
    grey = np.tile(grey, (5, 5))
    path = tmp_path / name
    if path.suffix in (".png", ".jpg", ".tif", ".webp"):
        save_picture(path, grey)
    else:
        save_array(path, grey)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert name in error_of(path, FileFormatError)


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.npy", "a.npz", "a.mat", "a.hdf.mat"]
)
def test_flipped_bytes_never_leak_another_error(tmp_path, colour, name):
    """A damaged file is either still readable or refused with our error, without warnings."""
    path = tmp_path / name
    if path.suffix in (".png", ".jpg", ".tif", ".webp"):
        save_picture(path, colour)
    else:
        save_array(path, colour.astype(float))
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(6)
    messages = []
    for attempt in range(60):
        damaged = whole.copy()
        places = rng.integers(min(len(whole), 600 if attempt % 2 else len(whole)), size=3)
        damaged[places] = rng.integers(256, size=3)
        path.write_bytes(damaged.tobytes())
        try:
            load_images(path)
        except InputError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "a.hdf.mat"])
@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 5)), np.zeros((5, 5, 0)), np.ones((4, 4)) * 1j, np.zeros((1, 9)), np.zeros((3, 3, 3, 3))],
    ids=["no rows", "no slices", "complex", "one row", "4-D"],
)
def test_array_of_the_wrong_kind(tmp_path, name, array):
    assert name in error_of(save_array(tmp_path / name, array), FileFormatError)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_refused(tmp_path, suffix):
    array = np.array([[1, "x"], [None, 2]], dtype=object)
    assert "a.np" in error_of(save_array(tmp_path / f"a{suffix}", array), FileFormatError)
    np.array([1]).dump(tmp_path / "pickled.npy")
    assert "pickled.npy" in error_of(tmp_path / "pickled.npy", FileFormatError)


def test_strings_are_refused(tmp_path):
    np.save(tmp_path / "words.npy", np.array([["a", "b"], ["c", "d"]]))
    assert "<U1 of shape (2, 2)" in error_of(tmp_path / "words.npy", FileFormatError)


def test_matlab_file_without_images(tmp_path):
    savemat(tmp_path / "a.mat", {"N": 5, "note": "text", "s": {"x": np.eye(3)}})
    assert "float64" not in error_of(tmp_path / "a.mat", FileFormatError)
    savemat(tmp_path / "a.mat", {})
    assert "no array" in error_of(tmp_path / "a.mat", FileFormatError)


def test_matlab_7_3_without_h5py(tmp_path, monkeypatch):
    path = save_matlab_7_3(tmp_path / "a.mat", IMAGES=np.eye(3))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'entrosparse[hdf5]'" in error_of(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_pixels_that_are_not_finite(tmp_path, bad):
    stack = np.random.default_rng(7).random((5, 6, 3))
    stack[:2, 1, 1] = bad
    np.save(tmp_path / "stack.npy", stack)
    message = error_of(tmp_path / "stack.npy")
    assert "stack.npy[1]" in message
    assert "2 of 30" in message


def test_missing_pixels_are_read_where_they_are_allowed(tmp_path):
    pixels = np.random.default_rng(7).random((5, 6))
    pixels[1, 2:] = np.nan
    (image,) = load_images(save_array(tmp_path / "holes.npy", pixels), allow_missing=True)
    np.testing.assert_array_equal(image.pixels, pixels.astype(np.float32))
    for bad, message in [(np.inf, "1 of 30 are infinite"), (np.nan, "all 30 are missing")]:
        pixels[0 if np.isinf(bad) else slice(None), slice(1) if np.isinf(bad) else slice(None)] = bad
        with pytest.raises(InputError, match=message):
            Image("holes", pixels, allow_missing=True)
    with pytest.raises(InputError, match="all 2 pixels are 1"):
        Image("flat", [[1.0, np.nan], [np.nan, 1.0]], allow_missing=True)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_a_mask_marks_what_is_not_zero(tmp_path, dtype):
    marked = np.eye(6, dtype=bool)
    path = save_array(tmp_path / "mask.npy", marked.astype(dtype))
    np.testing.assert_array_equal(load_mask(path), marked)
    picture = save_picture(tmp_path / "mask.png", marked * np.uint8(255))
    np.testing.assert_array_equal(load_mask(picture), marked)


def test_a_mask_is_one_array(tmp_path):
    with pytest.raises(InputError, match=r"mask must be one array.*holds 2"):
        load_mask(save_array(tmp_path / "mask.npy", np.zeros((4, 5, 2))))
    with pytest.raises(InputError, match="cannot read"):
        load_mask(tmp_path / "gone.png")


def test_constant_picture(tmp_path):
    path = save_picture(tmp_path / "flat.png", np.full((8, 8), 51, dtype=np.uint8))
    message = error_of(path)
    assert "flat.png" in message
    assert "0.2" in message


@pytest.mark.parametrize(
    "pixels", [np.zeros(4), np.eye(3) * 1j, np.array([["a"]]), np.zeros((1, 4)), [[None]]]
)
def test_image_refuses_what_is_not_a_picture(pixels):
    with pytest.raises(InputError, match="image 'mine' must be a real numeric array"):
        Image("mine", pixels)


def test_image_keeps_a_copy():
    given = np.eye(3, dtype=np.float32)
    image = Image("mine", given)
    given[:] = 0
    np.testing.assert_array_equal(image.pixels, np.eye(3))
