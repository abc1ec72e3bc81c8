"""Images made of patches that may overlap."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from entrosparse.errors import InputError
from entrosparse.images._patches import check_positions


def average_patches(
    patches: NDArray[Any], positions: NDArray[np.integer[Any]], shapes: Sequence[tuple[int, int]]
) -> list[NDArray[np.float64]]:
    """Put patches where they came from; a pixel that several of them hold has their mean.

    It undoes :func:`tile_patches`.

    Parameters
    ----------
    patches : ndarray of shape (n_patches, n_features)
        Square patches, each with its rows one after the other.
    positions : ndarray of int, shape (n_patches, 3)
        Index of the image, and row and column of the patch's first pixel, as in :class:`Patches`.
    shapes : sequence of (int, int)
        Height and width of each image.

    Returns
    -------
    list of ndarray of float64, shape (height, width) each
        The images, with NaN at pixels that no patch holds.

    Raises
    ------
    InputError
        If the patches are not square, or do not lie within their images.

    Examples
    --------
    >>> import numpy as np
    >>> from entrosparse.images import average_patches, tile_patches
    >>> image = np.arange(35.0).reshape(5, 7)
    >>> tiles = tile_patches([image], patch_size=4, stride=2)
    >>> tiles.positions.tolist()
    [[0, 0, 0], [0, 0, 2], [0, 0, 3], [0, 1, 0], [0, 1, 2], [0, 1, 3]]
    >>> (again,) = average_patches(tiles[:], tiles.positions, [image.shape])
    >>> bool((again == image).all())
    True
    """
    patches = np.asarray(patches)
    side = round(patches.shape[-1] ** 0.5) if patches.ndim == 2 else 0
    if patches.ndim != 2 or side**2 != patches.shape[1] or len(patches) != len(positions):
        raise InputError(
            f"the 'patches' parameter must have shape (n, side²), with n = {len(positions)} positions; "
            f"got shape {patches.shape}"
        )
    average = PatchAverage(shapes, side)
    average.add(patches, positions)
    return average.images()


@final
class PatchAverage:
    """The means of :func:`average_patches`, of patches that come one group after the other.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Height and width of each image.
    patch_size : int
        Side of a patch in pixels.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], patch_size: int) -> None:
        if len(shapes) == 0:
            raise InputError("the 'shapes' parameter must hold the shape of at least one image; got none")
        self._shapes = np.array(shapes, dtype=np.int64)
        self._patch_size = patch_size
        self._ends = self._shapes.prod(axis=1).cumsum()
        self._sum = np.zeros(self._ends[-1])
        self._count = np.zeros(len(self._sum), dtype=np.int64)

    def add(self, patches: NDArray[Any], positions: NDArray[np.integer[Any]]) -> None:
        """Add patches (n, patch_size²) at positions (n, 3)."""
        positions = check_positions(positions, self._shapes - self._patch_size + 1)
        image, row, column = positions.T[..., None, None]
        within = np.arange(self._patch_size)
        first = self._ends[image] - self._shapes[image].prod(-1)
        pixel = first + (row + within[:, None]) * self._shapes[image, 1] + column + within
        np.add.at(self._sum, pixel.ravel(), np.asarray(patches, dtype=np.float64).ravel())
        np.add.at(self._count, pixel.ravel(), 1)

    def images(self) -> list[NDArray[np.float64]]:
        """Return the images as far as patches were added; NaN at pixels that none holds."""
        with np.errstate(invalid="ignore"):
            means = np.split(self._sum / self._count, self._ends[:-1])
        return [mean.reshape(shape) for mean, shape in zip(means, self._shapes, strict=True)]
