"""Images as codes under the model of a run, and images made of codes again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from entrosparse.errors import InputError
from entrosparse.images import Image, Patches, PreparedImages, average_patches, prepare_images, tile_patches
from entrosparse.images._averages import PatchAverage
from entrosparse.images._whitening import WHITENINGS
from entrosparse.inference import infer_in_chunks
from entrosparse.posteriors import Posterior

if TYPE_CHECKING:
    from entrosparse.app.runs import Run

Images = Image | NDArray[Any] | Sequence[Image | NDArray[Any]]


@final
@dataclass(frozen=True, eq=False)
class ImageCodes:
    """Codes of the tiles of some images.

    Attributes
    ----------
    mean : ndarray of shape (n_tiles, n_components)
        Posterior means ν, in data units.
    marginal_scale : ndarray of shape (n_tiles, n_components)
        Posterior deviations τ, in data units.
    positions : ndarray of int64, shape (n_tiles, 3)
        Index of the image, and row and column of the tile's first pixel.
    prepared : PreparedImages
        The images as the model sees them, in data units.
    """

    mean: NDArray[Any]
    marginal_scale: NDArray[Any]
    positions: NDArray[np.int64]
    prepared: PreparedImages


@final
@dataclass(frozen=True, eq=False)
class Reconstruction:
    """An image made of the codes of its tiles, and how sure the model is of it.

    Attributes
    ----------
    image : ndarray of float32, shape (height, width)
        Mean over the tiles that hold a pixel of ``Wν``, in the units of the image.
    deviation : ndarray of float32, shape (height, width)
        Posterior deviation of ``Wz``, without noise: the mean of those of the tiles that hold a pixel. The
        deviation of the mean over tiles is that if their errors agree, and less if they do not. It is in the
        units of the image if each pixel is prepared by itself. If the image is whitened, it is that of the
        whitened image, in data units, because un-whitening spreads the error of each pixel over all others.
    missing : ndarray of bool, shape (height, width)
        Where pixels of the image are missing.
    filled : ndarray of float32, shape (height, width)
        The pixels that were given, and the reconstruction where they are missing.
    """

    image: NDArray[np.float32]
    deviation: NDArray[np.float32]
    missing: NDArray[np.bool_]
    filled: NDArray[np.float32]


def encode_images(run: "Run", images: Images, stride: int | None) -> ImageCodes:
    """Do what :meth:`entrosparse.app.runs.Run.encode` says."""
    prepared, tiles = _prepare_and_tile(run, _listed(images), stride)
    found = [(q.mean.cpu(), q.marginal_scale().cpu()) for _, q in _infer(run, tiles)]
    mean, marginal_scale = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return ImageCodes(mean, marginal_scale, tiles.positions, prepared)


def decode_images(run: "Run", codes: ImageCodes) -> list[NDArray[np.float32]]:
    """Do what :meth:`entrosparse.app.runs.Run.decode` says."""
    wanted, got = (len(codes.positions), run.model.n_components), np.shape(codes.mean)
    if got != wanted:
        raise InputError(f"the 'mean' of the codes must have shape {wanted}; got {got}")
    mean = torch.as_tensor(codes.mean).to(run.model.dictionary)
    patches = (mean @ run.model.dictionary.T).numpy(force=True)
    shapes = [array.shape for array in codes.prepared.arrays]
    return codes.prepared.restored(average_patches(patches, codes.positions, shapes))


def reconstruct_images(run: "Run", images: Images, stride: int | None) -> list[Reconstruction]:
    """Do what :meth:`entrosparse.app.runs.Run.reconstruct` says."""
    given = _listed(images)
    prepared, tiles = _prepare_and_tile(run, given, stride)
    shapes, dictionary = [array.shape for array in prepared.arrays], run.model.dictionary
    image, deviation = (PatchAverage(shapes, tiles.patch_size) for _ in range(2))
    for part, q in _infer(run, tiles):
        image.add((q.mean @ dictionary.T).numpy(force=True), tiles.positions[part])
        spread = q.reconstruction_variance(dictionary).sqrt()
        deviation.add(spread.numpy(force=True), tiles.positions[part])
    deviations = deviation.images()
    if WHITENINGS[prepared.whiten].pixelwise:
        units = (scale / prepared.gain for scale in prepared.deviations)
        deviations = [unit * array for unit, array in zip(units, deviations, strict=True)]
    found = []
    for of, restored, array in zip(given, prepared.restored(image.images()), deviations, strict=True):
        missing = np.isnan(of.pixels)
        filled = np.where(missing, restored, of.pixels)
        found.append(Reconstruction(restored, array.astype(np.float32), missing, filled))
    return found


def _listed(images: Images) -> list[Image]:
    """Return the images, one or many, as a list; arrays get names."""
    single = isinstance(images, Image | np.ndarray)
    several: Sequence[Image | NDArray[Any]] = [images] if single else images  # type: ignore[list-item, assignment]
    return [
        image if isinstance(image, Image) else Image(f"number {index}", image, allow_missing=True)
        for index, image in enumerate(several)
    ]


def _prepare_and_tile(run: "Run", images: list[Image], stride: int | None) -> tuple[PreparedImages, Patches]:
    config = run.info.config
    prepared = prepare_images(images, config.whiten, run.info.gain)
    overlapping = max(1, config.patch_size // 2) if stride is None else stride
    return prepared, tile_patches(prepared.arrays, config.patch_size, overlapping)


def _infer(run: "Run", tiles: Patches) -> Iterator[tuple[slice, Posterior]]:
    for part, _, posterior in infer_in_chunks(tiles, run.model, run.inference):
        yield part, posterior
