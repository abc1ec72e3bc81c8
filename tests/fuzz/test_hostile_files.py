"""Files made to do harm rather than damaged: code in a pickle, and claims larger than the memory."""

import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import h5py
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from conftest import make_model
from entrosparse.errors import FileFormatError
from entrosparse.images import _pictures, load_images
from entrosparse.model import SparseCodingModel


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def payload(tmp_path):
    mark = tmp_path / "executed"
    with pickle.loads(pickle.dumps(Payload(mark))):
        assert mark.exists()  # the payload works
    mark.unlink()
    yield Payload(mark)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "raw.npy", "raw.npz", "raw.mat", "raw.png"])
def test_pickles_in_array_files_are_never_executed(tmp_path, payload, name):
    path, objects = tmp_path / name, np.array([[payload, payload], [payload, payload]], dtype=object)
    if name.startswith("raw"):
        path.write_bytes(pickle.dumps(payload))
    else:
        {".npy": np.save, ".npz": np.savez}[path.suffix](path, objects, allow_pickle=True)
    with pytest.raises(FileFormatError, match=name):
        load_images(path)


def test_pickles_as_models_are_never_executed(tmp_path, payload, generator):
    path = tmp_path / "model.safetensors"
    model = make_model(3, 2, generator)
    for content in (
        pickle.dumps(payload),
        len(pickle.dumps(payload)).to_bytes(8, "little") + pickle.dumps(payload),
    ):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"model\.safetensors"):
            SparseCodingModel.load(path)
    torch.save({"dictionary": model.dictionary, "extra": payload}, path)
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        SparseCodingModel.load(path)
    model.save(path)
    content = path.read_bytes()
    path.write_bytes(content + pickle.dumps(payload))  # behind the tensors
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        SparseCodingModel.load(path)


@pytest.mark.parametrize("wide", ["dictionary", "prior_scale", "noise_variance"])
def test_a_model_of_several_dtypes_is_refused(tmp_path, wide):
    tensors = {"dictionary": torch.eye(3), "prior_scale": torch.ones(3), "noise_variance": torch.tensor(1.0)}
    tensors[wide] = tensors[wide].double()
    save_file(tensors, tmp_path / "a", metadata={"format": "entrosparse-model-1", "prior": "laplace"})
    with pytest.raises(FileFormatError, match="one dtype"):
        SparseCodingModel.load(tmp_path / "a")


def save_pages(path, pixels):
    page = PIL.Image.fromarray(pixels)
    page.save(path, save_all=True, append_images=[page] * 9)


def save_hdf5(path, pixels):
    with h5py.File(path, "w") as file:
        file["IMAGES"] = np.repeat(pixels, 10, axis=0)


WRITERS = {
    "a.png": lambda path, pixels: PIL.Image.fromarray(np.repeat(pixels, 10, axis=0)).save(path),
    "a.tif": save_pages,
    "a.npz": lambda path, pixels: np.savez_compressed(path, a=np.repeat(pixels, 10, axis=0)),
    "a.mat": lambda path, pixels: savemat(path, {"a": np.tile(pixels, (10, 1))}, do_compression=True),
    "hdf.mat": save_hdf5,
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch, rng, name):
    path = tmp_path / name
    WRITERS[name](path, rng.integers(256, size=(20, 30), dtype=np.uint8))
    assert load_images(path)
    monkeypatch.setattr(_pictures, "most_bytes", lambda file: 5000)
    with pytest.raises(FileFormatError, match="5,000"):
        load_images(path)


def test_a_picture_without_its_lower_part_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(path)
    content, height = path.read_bytes(), struct.pack("<HHII", 257, 4, 1, 6)
    assert content.count(height) == 1
    path.write_bytes(content.replace(height, struct.pack("<HHII", 257, 4, 1, 60_000)))
    with pytest.raises(FileFormatError, match="a part has no pixels"):
        load_images(path)


@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_an_empty_dataset_of_terabytes_is_refused(tmp_path, dtype):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("IMAGES", shape=(10**6, 10**6), dtype=dtype, chunks=(100, 100))
    with pytest.raises(FileFormatError, match="at most 268,435,456 bytes"):
        load_images(tmp_path / "a.mat")


def test_a_compressed_variable_of_gigabytes_is_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"a": np.eye(3)})
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    tag = np.array([15, len(packed)], dtype="<u4").tobytes()
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:128] + tag + packed)
    with pytest.raises(FileFormatError, match="unpacks to more than 268,435,456 bytes"):
        load_images(tmp_path / "a.mat")


@pytest.mark.parametrize("kind", ["external storage", "external link", "soft link", "virtual"])
def test_a_matlab_file_cannot_show_other_files(tmp_path, kind):
    """Whatever HDF5 offers to point elsewhere is refused, before the other file is opened."""
    secret, path = tmp_path / "secret", tmp_path / "a.mat"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(64.0).reshape(8, 8)
    with h5py.File(path, "w") as file:
        file["IMAGES"] = np.eye(8)
        if kind == "external storage":
            file.create_dataset("x", (8, 8), "u1", external=[(str(secret), 0, 64)])
        elif kind == "external link":
            file["x"] = h5py.ExternalLink(str(secret), "x")
        elif kind == "soft link":
            file["x"] = h5py.SoftLink("/IMAGES")
        else:
            layout = h5py.VirtualLayout((8, 8), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "x", (8, 8))
            file.create_virtual_dataset("x", layout)
    with pytest.raises(FileFormatError, match=r"a\.mat' must hold its variables itself"):
        load_images(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("side", "refused"), [(8000, True), (4500, False)])
def test_a_picture_takes_no_more_memory_than_the_limit(tmp_path, side, refused):
    """Measured as a process: what is counted per pixel is what is used."""
    PIL.Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (side, side // 250))).save(tmp_path / "a.png")
    script = (
        "import sys, PIL.Image, PIL.ImageOps, PIL.PngImagePlugin\n"
        "from pathlib import Path\n"
        "from entrosparse.images import load_images\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "try: load_images(sys.argv[1])\n"
        "except ValueError: print('refused', end=' ')\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", script, tmp_path / "a.png"]
    *words, kilobytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert words == ["refused"] * refused
    assert int(kilobytes) < 2**28 / 1024


def test_threads_that_read_at_once_share_nothing(tmp_path, rng):
    """No descriptor is redirected and no filter of warnings replaced, for these belong to the process."""
    paths = [tmp_path / f"{k}.tif" for k in range(4)]
    for path in paths:
        save_pages(path, rng.integers(256, size=(20, 30), dtype=np.uint8))
    errors, filters, found = os.fstat(2), list(warnings.filters), []
    threads = [
        threading.Thread(target=lambda path=path: found.extend(load_images(path) for _ in range(20)))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(images) for images in found] == [10] * 80
    assert os.path.samestat(os.fstat(2), errors)
    assert warnings.filters == filters


def test_names_in_a_file_cannot_steer_a_terminal(tmp_path):
    np.savez(tmp_path / "a.npz", **{"\x1b[31m\ngrün": np.eye(3)})
    (image,) = load_images(tmp_path / "a.npz")
    assert image.name == "a.npz:?[31m?grün"


@pytest.mark.parametrize("big_endian", [False, True])
def test_both_byte_orders_of_matlab_5(tmp_path, big_endian):
    """Written by hand after the format's description: a name in its tag, single numbers stored as int16."""
    order = ">" if big_endian else "<"

    def element(code, content):
        data = np.array([code, len(content)], dtype=order + "u4").tobytes() + content
        return data + bytes(-len(data) % 8)

    numbers = np.arange(6, dtype=order + "i2").tobytes()
    flags, shape = (
        np.array([7, 0], dtype=order + "u4").tobytes(),
        np.array([2, 3], dtype=order + "i4").tobytes(),
    )
    name = np.array([1 << 16 | 1], dtype=order + "u4").tobytes() + b"a\0\0\0"
    matrix = element(14, element(6, flags) + element(5, shape) + name + element(3, numbers))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + np.array([0x0100, 0x4D49], dtype=order + "u2").tobytes()
    (tmp_path / "a.mat").write_bytes(header + matrix)
    (image,) = load_images(tmp_path / "a.mat")
    assert image.name == "a.mat:a"
    np.testing.assert_array_equal(image.pixels, [[0, 2, 4], [1, 3, 5]])
