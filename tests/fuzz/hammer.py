"""Load many damaged files, each kind in a fork of its own, and report in JSON how it went.

Run as ``python hammer.py SEED FOLDER TARGET COUNT [TARGET COUNT ...]``. An error that is not the library's
own ends the process, and so does a crash of a reader in C; the damaged file is then still in the folder. The
fork may use one gigabyte of addresses more than it has when the damage begins.
"""

import json
import os
import resource
import shutil
import struct
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pandas
import PIL.Image
import torch
from mutations import mutate
from scipy.io import savemat

from entrosparse.app.config import FitConfig
from entrosparse.app.runs import RunInfo, RunWriter, load_run
from entrosparse.errors import FileFormatError, InputError, NumericalError
from entrosparse.estimators import SparseCoding
from entrosparse.images import load_images
from entrosparse.inference import (
    AmortizedInference,
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    LowRankEncoder,
    RefinedInference,
    load_encoder,
    save_encoder,
)
from entrosparse.learning import Checkpoints, EpochRecord, OnlineEM, train
from entrosparse.model import SparseCodingModel
from entrosparse.priors import GeneralizedGaussian


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes (Linux)."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def limit_memory() -> None:
    """Let this process have a gigabyte more of addresses than it has now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def make_model(dtype: torch.dtype = torch.float32) -> SparseCodingModel:
    dictionary = torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)
    scale, variance = torch.full((3,), 0.5, dtype=dtype), torch.tensor(0.1, dtype=dtype)
    return SparseCodingModel(dictionary / dictionary.norm(dim=0), scale, variance)


def models(folder: Path) -> list[Path]:
    paths = [folder / "single.safetensors", folder / "double.safetensors"]
    for path, dtype in zip(paths, (torch.float32, torch.float64), strict=True):
        make_model(dtype).save(path)
    return paths


def rewrite_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Change words of the JSON header, with its length kept right, so that the damage is read as meant."""
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    old, new = HEADER_EDITS[rng.integers(len(HEADER_EDITS))]
    header = header.replace(old, new) if rng.random() < 0.5 else mutate(header, rng)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


HEADER_EDITS = [
    (b"[4,3]", b"[4000000000,3000000000]"),
    (b"[4,3]", b"[1099511627776]"),
    (b"[4,3]", b"[-4,-3]"),
    (b"[4,3]", b"[3,4]"),
    (b"[4,3]", b"[4,3,1]"),
    (b"[4,3]", b"[1e400,3]"),
    (b"[3]", b"[]"),
    (b"[3]", b"[0]"),
    (b"[]", b"[1]"),
    (b"F32", b"F64"),
    (b"F64", b"F32"),
    (b"F32", b"I32"),
    (b"F32", b"U8"),
    (b"F64", b"C64"),
    (b"F32", b"pickle"),
    (b"data_offsets", b"shape"),
    (b"[0,", b"[18446744073709551615,"),
    (b"[0,", b"[-1,"),
    (b"[0,", b"[4,"),
    (b"prior_scale", b"dictionary"),
    (b"noise_variance", b"prior_scale"),
    (b'"laplace"', b"1"),
    (b'"laplace"', b'"normal"'),
    (b"model-1", b"model-2"),
    (b"encoder-1", b"encoder-2"),
    (b'"diagonal"', b'"low-rank"'),
    (b'"low-rank"', b'"diagonal"'),
    (b'"encoder"', b'"refined"'),
    (b'"refined"', b'"encoder"'),
    (b"lift", b"unit"),
    (b"[7,4]", b"[4,7]"),
    (b"[7,4]", b"[4611686018427387904,4]"),
    (b"[7,4]", b"[0,4]"),
    (b"DiagonalInference", b"FullInference"),
    (b"max_iterations", b"tolerance"),
    (b'tolerance\\": 0.0', b'tolerance\\": 1e999'),
    (b'max_iterations\\": 3', b'max_iterations\\": [3]'),
    (b"estimator-1", b"estimator-2"),
    (b'\\"rank\\": ', b'\\"rank\\": 99999999'),
    (b'\\"part\\"', b'\\"kind\\"'),
    (b"GeneralizedGaussian", b"Gaussian"),
    (b"FullInference", b"DiagonalInference"),
    (b"FullInference", b"ExactFactorialInference"),
    (b'\\"laplace\\"', b'\\"exponential\\"'),
    (b'\\"diagonal\\"', b'\\"exact-factorial\\"'),
    (b'\\"cpu\\"', b'\\"meta\\"'),
    (b'\\"variational\\"', b'\\"encoder\\"'),
    (b"null", b"[]"),
    (b"null", b"1e999"),
    (b"null", b"true"),
    (b'\\"scale\\": ', b'\\"scale\\": 1e300, \\"x\\": '),
    (b'\\"scale\\": ', b'\\"scale\\": -'),
    (b"spread", b"mean"),
    (b"records", b"mean"),
    (b"F64", b"F16"),
    (b"{", b"{" * 5000),
    (b"[", b"[" * 5000),
    (b"}}", b'},"dictionary":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}}'),
    (b"}}", b'},"__metadata__":{"format":"entrosparse-model-1","prior":"laplace"}}'),
]


def load_model(path: Path) -> None:
    model = SparseCodingModel.load(path).validate()
    dtypes = {model.dictionary.dtype, model.prior_scale.dtype, model.noise_variance.dtype}
    if len(dtypes) != 1:
        raise AssertionError(f"a model of several dtypes was loaded: {dtypes}")
    model.sample(2)


def damage_model(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes((mutate if rng.random() < 0.5 else rewrite_header)(content, rng))


def encoders(folder: Path) -> list[Path]:
    paths = [folder / f"{name}.safetensors" for name in ("diagonal", "low-rank", "refined")]
    generator, model = torch.Generator().manual_seed(1), make_model()
    for path, kind in zip(paths, (DiagonalEncoder, LowRankEncoder, DiagonalEncoder), strict=True):
        rank = {"rank": 2} if kind is LowRankEncoder else {}
        inference = AmortizedInference(kind(torch.ones(1, 4), model, generator, **rank))
        if path.stem == "refined":
            inference = RefinedInference(inference, DiagonalInference(0.0, 3))
        save_encoder(path, inference, model)
    return paths


def load_an_encoder(path: Path) -> None:
    inference, model = load_encoder(path)
    with suppress(NumericalError):  # Weights may be sound and large.
        posterior = inference(torch.ones(2, model.n_features, dtype=model.dictionary.dtype), model)
        if posterior.mean.shape != (2, model.n_components):
            raise AssertionError("an encoder of other codes than its model's was loaded")


DATA = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)


def estimators(folder: Path) -> list[Path]:
    """Write estimators whose files hold all that there is: shapes, spreads, encoders, parts, names."""
    recipes = {
        "plain": {},
        "parts": {"covariance": FullInference(1e-3, 50), "prior": GeneralizedGaussian(0.8)},
        "encoder": {"inference": "encoder", "covariance": "low-rank", "rank": 2, "noise": "per-feature"},
        "refined": {"inference": "refined", "prior": "skewed-laplace", "algorithm": "online"},
    }
    for name, parameters in recipes.items():
        coding = SparseCoding(3, max_epochs=2, batch_size=10, random_state=0, **parameters)
        coding.fit(pandas.DataFrame(DATA, columns=list("abcd")) if name == "plain" else DATA)
        coding.save(folder / f"{name}.safetensors")
    return sorted(folder.iterdir())


def load_an_estimator(path: Path) -> None:
    coding = SparseCoding.load(path)
    with suppress(NumericalError, InputError):  # A device that is not there, say, is for the user to change.
        if coding.transform(DATA[:2]).shape != (2, len(coding.components_)):
            raise AssertionError("an estimator with other codes than components was loaded")
        coding.score(DATA[:2])
        coding.sample(2)


def runs(folder: Path) -> list[Path]:
    info = RunInfo(
        FitConfig(n_components=3, patch_size=2, n_patches=600).for_data(600, 4),
        "somewhere",
        ("a.png", "größer.png"),
        gain=0.25,
    )
    writer = RunWriter(folder / "run", info, np.arange(8, dtype=np.float32).reshape(2, 4))
    for epoch in range(3):
        writer.on_epoch(make_model(), EpochRecord(epoch, 0.5, 600 * epoch, *[1.0 + epoch] * 9, 1))
    return [writer.path]


def load_a_run(path: Path) -> None:
    run = load_run(path)
    if len({run.model.n_features, run.examples.shape[1], run.info.config.patch_size**2}) != 1:
        raise AssertionError("a run of several patch sizes was loaded")
    if run.examples.dtype.kind != "f" or not np.isfinite(run.examples).all():
        raise AssertionError("a run with unusable examples was loaded")


def damage_run(path: Path, rng: np.random.Generator) -> None:
    file = path / ("config.json", "history.csv", "examples.npz", "model.safetensors")[rng.integers(4)]
    content = file.read_bytes()
    if file.name == "config.json" and rng.random() < 0.1:
        file.write_bytes(content.replace(b"[", b"[" * 100_000))
    else:
        file.write_bytes(mutate(content, rng))


LEARNED: list[SparseCodingModel] = []


def learn(folder: Path) -> SparseCodingModel:
    """Learn a tiny model from 8 minibatches, each of which is kept, or go on with what is in the folder."""
    data = torch.randn((128, 4), generator=torch.Generator().manual_seed(1))
    kept = Checkpoints(folder, every_seconds=0.0)
    return train(
        OnlineEM(), data, data[:8], n_components=3, init="random", epochs=1, batch_size=16, checkpoints=kept
    ).model


def checkpoints(folder: Path) -> list[Path]:
    LEARNED.append(learn(folder / "checkpoints"))
    return [folder / "checkpoints"]


def damage_checkpoints(path: Path, rng: np.random.Generator) -> None:
    """Damage a file of the newest checkpoint, and as often one of the checkpoint before as well."""
    for kept in sorted(path.glob("checkpoint-*"))[rng.integers(2) :]:
        file = kept / ("manifest.json", "numbers.json", "tensors.safetensors")[rng.integers(3)]
        file.write_bytes(mutate(file.read_bytes(), rng))


def go_on(path: Path) -> None:
    model = learn(path)
    if not torch.equal(model.dictionary, LEARNED[0].dictionary):
        raise AssertionError("a run went on from a damaged checkpoint")


def images(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(1).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(pixels)
    for name in ("colour.png", "colour.jpg", "colour.tif", "colour.webp"):
        picture.save(folder / name)
    picture.save(folder / "pages.tif", save_all=True, append_images=[picture] * 2, compression="tiff_lzw")
    PIL.Image.fromarray(pixels[:, :, 0].astype(np.uint16)).save(folder / "deep.png")
    picture.convert("LA").save(folder / "packed.tif", compression="tiff_adobe_deflate")
    picture.convert("P").save(folder / "palette.png")
    variables = {"IMAGES": pixels.astype(float), "note": "text", "s": {"x": np.eye(3)}, "n": 5}
    savemat(folder / "plain.mat", variables)
    savemat(folder / "packed.mat", variables, do_compression=True)
    savemat(folder / "old.mat", {"IMAGES": pixels[:, :, 0].astype(float), "n": 5}, format="4")
    np.save(folder / "array.npy", pixels)
    np.savez(folder / "plain.npz", a=pixels, b=pixels[:, :, 0].astype(np.float32))
    np.savez_compressed(folder / "packed.npz", a=pixels)
    with h5py.File(folder / "new.mat", "w", userblock_size=512) as file:
        file["IMAGES"] = pixels.astype(float).T
        file.create_dataset("packed", data=pixels.T, chunks=(1, 10, 10), compression="gzip")
    with (folder / "new.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return sorted(folder.iterdir())


def load_pictures(path: Path) -> None:
    for image in load_images(path):
        if not np.isfinite(image.pixels).all():
            raise AssertionError(f"'{image.name}' is not finite")


def damage_file(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(mutate(path.read_bytes(), rng))


Target = tuple[
    Callable[[Path], list[Path]], Callable[[Path, np.random.Generator], None], Callable[[Path], None]
]
TARGETS: dict[str, tuple[Target, type[Exception]]] = {
    "model": ((models, damage_model, load_model), FileFormatError),
    "encoder": ((encoders, damage_model, load_an_encoder), FileFormatError),
    "estimator": ((estimators, damage_model, load_an_estimator), FileFormatError),
    "run": ((runs, damage_run, load_a_run), FileFormatError),
    "checkpoints": ((checkpoints, damage_checkpoints, go_on), InputError),
    "images": ((images, damage_file, load_pictures), InputError),
}


def copy(original: Path, folder: Path) -> Path:
    """Copy a file or a folder, in place of what an earlier turn left."""
    place = folder / original.name
    if original.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(original, place)
    else:
        shutil.copyfile(original, place)
    return place


def hammer(target: str, count: int, seed: int, folder: Path) -> dict[str, object]:
    """Damage and load each original in turn."""
    (make, damage, load), refusal = TARGETS[target]
    whole, damaged = folder / "whole", folder / "damaged"
    whole.mkdir()
    damaged.mkdir()
    originals = make(whole)
    for original in originals:
        load(copy(original, damaged))
    limit_memory()
    before, slowest, loaded, refused = peak_memory(), (0.0, ""), Counter(), Counter()
    rng = np.random.default_rng(seed)
    for turn in range(count):
        path = copy(originals[turn % len(originals)], damaged)
        damage(path, rng)
        started = time.perf_counter()
        try:
            load(path)
            loaded[path.name] += 1
        except refusal as error:
            refused[path.name] += 1
            if "\n" in str(error):
                raise AssertionError("the message has several lines") from error
        seconds = time.perf_counter() - started
        if seconds > slowest[0]:
            slowest = seconds, path.name
    return {
        "loaded": loaded,
        "refused": refused,
        "slowest": slowest,
        "memory": peak_memory() - before,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Readers and checkpoints warn of damage that they can mend.
    seed, place = int(sys.argv[1]), Path(sys.argv[2])
    for target, count in zip(sys.argv[3::2], sys.argv[4::2], strict=True):
        (place / target).mkdir()
        child = os.fork()  # Imports are made once.
        if not child:
            print(json.dumps(hammer(target, int(count), seed, place / target)), flush=True)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"loading a damaged {target} failed")
