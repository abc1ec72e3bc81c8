"""Image patches that are cut when they are asked for, so that only images and positions are held."""

from collections.abc import Sequence
from typing import Any, SupportsIndex, final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from entrosparse._checks import check_whole, random_generator
from entrosparse.errors import InputError


@final
class Patches:
    """Square patches of images, indexed like the array (n_patches, n_features) that is never made.

    ``patches[indices]`` takes what a NumPy array takes along its first axis (a slice, an integer array or
    tensor, a mask, one integer) and returns a new C-contiguous float32 array of shape (n, patch_size²). It
    holds the rows of a patch one after the other.

    Parameters
    ----------
    images : sequence of ndarray, shape (height, width) each
        Kept as one flat float32 copy.
    patch_size : int
        Side of a patch in pixels, at least 2.
    positions : ndarray of int, shape (n_patches, 3)
        Index of the image, and row and column of the patch's first pixel.

    Attributes
    ----------
    patch_size : int
        Side of a patch in pixels.
    positions : ndarray of int64, shape (n_patches, 3)
        As given.
    n_features : int
        Pixels of a patch, patch_size².

    Raises
    ------
    InputError
        If an image is smaller than a patch or a patch does not lie within its image.
    """

    def __init__(
        self, images: Sequence[NDArray[Any]], patch_size: int, positions: NDArray[np.integer[Any]]
    ) -> None:
        room = _admissible(images, patch_size)
        self.positions = check_positions(positions, room)
        self.patch_size = int(patch_size)
        self.n_features = self.patch_size**2
        sizes = np.array([array.size for array in images])
        flat = np.concatenate([np.asarray(array, dtype=np.float32).ravel() for array in images])
        self._runs = sliding_window_view(flat, self.patch_size)  # self._runs[i] is flat[i : i + patch_size]
        self._first_pixel = np.cumsum(sizes) - sizes
        self._width = np.array([array.shape[1] for array in images])

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(
        self, indices: slice | SupportsIndex | Sequence[int] | NDArray[Any]
    ) -> NDArray[np.float32]:
        chosen = self.positions[indices]
        image, row, column = chosen[..., 0], chosen[..., 1], chosen[..., 2]
        rows = row[..., None] + np.arange(self.patch_size)
        starts = (self._first_pixel[image] + column)[..., None] + rows * self._width[image][..., None]
        return self._runs[starts].reshape(*image.shape, self.n_features)


def random_patches(
    images: Sequence[NDArray[Any]], patch_size: int, n_patches: int, rng: np.random.Generator | int
) -> Patches:
    """Draw patches uniformly, with replacement, over all positions in all images.

    Parameters
    ----------
    images : sequence of ndarray, shape (height, width) each
        The images; each is drawn from in proportion to the positions it offers.
    patch_size : int
        Side of a patch in pixels, at least 2.
    n_patches : int
        Number of patches, at least 1.
    rng : numpy.random.Generator or int
        Source of randomness, or its seed.

    Returns
    -------
    Patches
        ``n_patches`` patches.

    Raises
    ------
    InputError
        If an argument is out of range or an image is smaller than a patch.
    """
    check_whole("n_patches", n_patches, 1)
    room = _admissible(images, patch_size)
    last = np.cumsum(room.prod(axis=1))
    drawn = random_generator(rng).integers(last[-1], size=n_patches)
    image = np.searchsorted(last, drawn, side="right")
    row, column = np.divmod(drawn - last[image] + room[image].prod(axis=1), room[image, 1])
    return Patches(images, patch_size, np.column_stack([image, row, column]))


def split_patches(
    arrays: Sequence[NDArray[Any]], patch_size: int, n_train: int, n_heldout: int, seed: int
) -> tuple[Patches, Patches]:
    """Draw the patches to learn from and the patches held out, each from its own stream of random numbers.

    Both are drawn from all images by :func:`random_patches`, so a held-out patch may overlap a patch to learn
    from. The streams are independent: the number of patches of one kind does not change those of the other.

    Parameters
    ----------
    arrays : sequence of ndarray, shape (height, width) each
        The prepared images.
    patch_size : int
        Side of a patch in pixels, at least 2.
    n_train, n_heldout : int
        Numbers of patches, at least 1 each.
    seed : int
        Seed of both streams.

    Returns
    -------
    train, heldout : Patches
        ``n_train`` and ``n_heldout`` patches.

    Raises
    ------
    InputError
        If an argument is out of range or an image is smaller than a patch.
    """
    check_whole("seed", seed, 0)
    of_train, of_heldout = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    train = random_patches(arrays, patch_size, n_train, of_train)
    return train, random_patches(arrays, patch_size, n_heldout, of_heldout)


def tile_patches(images: Sequence[NDArray[Any]], patch_size: int, stride: int | None = None) -> Patches:
    """Cut images into tiles: patches at equal distances, from the top left on.

    :func:`average_patches` makes images of such patches again.

    Parameters
    ----------
    images : sequence of ndarray, shape (height, width) each
        The images.
    patch_size : int
        Side of a patch in pixels, at least 2.
    stride : int, optional
        Pixels from one tile to the next, at most the side of a patch. The last tiles of a row and a column
        begin where they end with the image, so that every pixel is in a tile. By default tiles are adjacent,
        and pixels on the right and at the bottom that fill no tile are left out.

    Returns
    -------
    Patches
        The tiles, image by image and row by row.

    Raises
    ------
    InputError
        If the patch size or the stride is out of range, or an image is smaller than a patch.
    """
    room = _admissible(images, patch_size)
    if stride is not None:
        check_whole("stride", stride, 1)
        if stride > patch_size:
            raise InputError(
                f"the 'stride' parameter must be at most the patch size, {patch_size}, "
                f"so that no pixel is left out; got {stride}"
            )
    corners = []
    for image, sides in enumerate(room):
        starts = [np.arange(0, side, stride or patch_size) for side in sides]
        if stride is not None:
            starts = [np.union1d(start, side - 1) for start, side in zip(starts, sides, strict=True)]
        row, column = (axis.ravel() for axis in np.meshgrid(*starts, indexing="ij"))
        corners.append(np.column_stack([np.full_like(row, image), row, column]))
    return Patches(images, patch_size, np.concatenate(corners))


def check_positions(positions: NDArray[np.integer[Any]], room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return positions of patches (n, 3) as int64, if there is room for them.

    Parameters
    ----------
    positions : ndarray of int, shape (n, 3)
        Image, row and column of each patch.
    room : ndarray of int64, shape (n_images, 2)
        Numbers of rows and of columns at which a patch may start, for each image.
    """
    positions = np.asarray(positions)
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.dtype.kind not in "ui":
        raise InputError(
            "the 'positions' parameter must be an integer array of shape (n, 3): image, row, column; "
            f"got {positions.dtype} of shape {positions.shape}"
        )
    checked = positions.astype(np.int64)
    image, corner = checked[:, 0], checked[:, 1:]
    outside = (image < 0) | (image >= len(room))
    outside |= ((corner < 0) | (corner >= room[np.where(outside, 0, image)])).any(axis=1)
    if outside.any():
        first = int(outside.argmax())
        raise InputError(
            "the 'positions' parameter must place every patch within its image; "
            f"patch {first} is at image, row, column = {checked[first].tolist()}"
        )
    return checked


def _admissible(images: Sequence[NDArray[Any]], patch_size: int) -> NDArray[np.int64]:
    """Count the rows and the columns at which a patch may start, for each image: shape (n_images, 2)."""
    check_whole("patch_size", patch_size, 2)
    if len(images) == 0:
        raise InputError("the 'images' parameter must hold at least one image; got none")
    for index, image in enumerate(images):
        if np.ndim(image) != 2:
            raise InputError(
                f"the 'images' parameter must hold 2-D arrays; image {index} is {np.ndim(image)}-D"
            )
        if min(image.shape) < patch_size:
            height, width = image.shape
            raise InputError(
                f"the 'patch_size' parameter must fit into every image; "
                f"image {index} is {height} x {width} pixels, a patch {patch_size} x {patch_size}"
            )
    return np.array([image.shape for image in images], dtype=np.int64) - patch_size + 1
