"""Images brought to a common scale and, where wanted, whitened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from entrosparse._checks import check_positive
from entrosparse.errors import InputError
from entrosparse.images._pictures import Image

_TARGET_VARIANCE = 0.1  # Mean variance of the images that set the gain.
_CUTOFF = 0.4  # f0, in cycles per pixel.


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images ready to be cut into patches.

    Attributes
    ----------
    names : list of str
        Names of the images.
    arrays : list of ndarray of float32, shape (height, width) each
        Their pixels, with zero mean in every image.
    gain : float
        The one factor applied to all images last; prepare new images with the gain of the training images.
    whiten : str
        Name of the whitening, a key of `WHITENINGS`.
    """

    names: list[str]
    arrays: list[NDArray[np.float32]]
    gain: float
    whiten: str


def prepare_images(
    images: Sequence[Image], whiten: str = "olshausen", gain: float | None = None
) -> PreparedImages:
    """Standardise each image, whiten it, and scale all images by one factor.

    Each image is brought to zero mean and unit deviation, so that none dominates by its contrast. Then
    "olshausen" multiplies its spectrum by ρ exp(−(ρ/f0)⁴) (Olshausen and Field, 1996): a ramp that flattens
    the 1/ρ amplitude of natural images, and a low pass at f0 = 0.4 cycles per pixel against noise and the
    corners of the spectrum; "none" leaves the image as it is. The frequency ρ is in cycles per pixel, which
    treats images of all sizes and shapes alike. The spectrum is that of the image continued by its mirror
    images (a cosine transform). If it were continued periodically, opposite borders would meet in seams.
    Whitening would turn the seams into edges, and the dictionary would learn them as straight lines.

    Parameters
    ----------
    images : sequence of Image
        At least one image.
    whiten : str
        A key of `WHITENINGS`.
    gain : float, optional
        The common factor. By default it is chosen such that the mean variance over the images is 0.1.

    Returns
    -------
    PreparedImages
        The arrays and the factor used.

    Raises
    ------
    InputError
        If there is no image, the whitening is unknown, or the gain is not a finite number above zero.
    """
    if whiten not in WHITENINGS:
        raise InputError(f"the 'whiten' parameter must be one of {', '.join(WHITENINGS)}; got {whiten!r}")
    if gain is not None:
        check_positive("gain", gain)
    if len(images) == 0:
        raise InputError("the 'images' parameter must hold at least one image; got none")
    filtered = [WHITENINGS[whiten](_standardised(image.pixels)) for image in images]
    if gain is None:
        gain = float(np.sqrt(_TARGET_VARIANCE / np.mean([array.var() for array in filtered])))
    arrays = [(gain * array).astype(np.float32) for array in filtered]
    return PreparedImages([image.name for image in images], arrays, float(gain), whiten)


def _standardised(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    centred = pixels - pixels.mean(dtype=np.float64)
    return centred / centred.std()


def _olshausen(image: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.fft import dctn, idctn

    height, width = image.shape
    rho = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width) / (2 * width))
    spectrum = dctn(image, norm="ortho") * (rho * np.exp(-((rho / _CUTOFF) ** 4)))
    return idctn(spectrum, norm="ortho")


WHITENINGS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "olshausen": _olshausen,
    "none": lambda image: image,
}
"""Whitening of one standardised image, by name."""
