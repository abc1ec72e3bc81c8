"""Images brought to a common scale and, where wanted, whitened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from entrosparse._checks import check_positive
from entrosparse.errors import InputError
from entrosparse.images._pictures import Image

_TARGET_VARIANCE = 0.1  # Mean variance of the images that set the gain.
_CUTOFF = 0.4  # f0, in cycles per pixel.
_LEAST_PASSED = 0.1  # Least value of the low pass at which a frequency can be brought back.


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images ready to be cut into patches.

    Attributes
    ----------
    names : list of str
        Names of the images.
    arrays : list of ndarray of float32, shape (height, width) each
        Their pixels, with zero mean in every image, and NaN where a pixel is missing.
    gain : float
        The one factor applied to all images last; prepare new images with the gain of the training images.
    whiten : str
        Name of the whitening, a key of `WHITENINGS`.
    means, deviations : list of float
        Mean and standard deviation of the pixels of each image, as they were given.
    """

    names: list[str]
    arrays: list[NDArray[np.float32]]
    gain: float
    whiten: str
    means: list[float]
    deviations: list[float]

    def restored(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Bring arrays like :attr:`arrays`, such as reconstructions of them, to the units of the images.

        Gain, whitening and standardisation are undone. Without whitening nothing is lost. The low pass of
        "olshausen" leaves less than a tenth of frequencies above 0.49 cycles per pixel, which are the corners
        of the spectrum; they are not brought back. Errors of the lowest frequencies grow most, for the ramp
        is undone by division by the frequency.

        Parameters
        ----------
        arrays : sequence of ndarray, shape (height, width) each
            One for each image, of its shape.

        Returns
        -------
        list of ndarray of float32, shape (height, width) each
        """
        undo = WHITENINGS[self.whiten].undo
        return [
            (mean + deviation * undo(np.asarray(array, dtype=np.float64) / self.gain)).astype(np.float32)
            for mean, deviation, array in zip(self.means, self.deviations, arrays, strict=True)
        ]


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
        If there is no image, the whitening is unknown, the gain is not a finite number above zero, or an
        image that is to be whitened has missing pixels.
    """
    if whiten not in WHITENINGS:
        raise InputError(f"the 'whiten' parameter must be one of {', '.join(WHITENINGS)}; got {whiten!r}")
    if gain is not None:
        check_positive("gain", gain)
    if len(images) == 0:
        raise InputError("the 'images' parameter must hold at least one image; got none")
    filtered, means, deviations = [], [], []
    for image in images:
        n_missing = int(np.isnan(image.pixels).sum())
        if n_missing and not WHITENINGS[whiten].pixelwise:
            raise InputError(
                f"image '{image.name}' must have all its pixels unless 'whiten' is 'none', as a filter mixes "
                f"them; {n_missing} of {image.pixels.size} are missing"
            )
        mean = np.nanmean(image.pixels, dtype=np.float64)
        centred = image.pixels - mean
        deviation = np.nanstd(centred)
        filtered.append(WHITENINGS[whiten].apply(centred / deviation))
        means.append(float(mean))
        deviations.append(float(deviation))
    if gain is None:
        gain = float(np.sqrt(_TARGET_VARIANCE / np.mean([np.nanvar(array) for array in filtered])))
    arrays = [(gain * array).astype(np.float32) for array in filtered]
    return PreparedImages([image.name for image in images], arrays, float(gain), whiten, means, deviations)


def _ramp_and_low_pass(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the two factors of the filter at the frequencies of a cosine transform."""
    height, width = shape
    rho = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width) / (2 * width))
    return rho, np.exp(-((rho / _CUTOFF) ** 4))


def _apply_olshausen(image: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.fft import dctn, idctn

    ramp, low_pass = _ramp_and_low_pass(image.shape)
    return idctn(dctn(image, norm="ortho") * (ramp * low_pass), norm="ortho")


def _undo_olshausen(image: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.fft import dctn, idctn

    ramp, low_pass = _ramp_and_low_pass(image.shape)
    kept = (ramp > 0) & (low_pass >= _LEAST_PASSED)
    spectrum = np.where(kept, dctn(image, norm="ortho"), 0.0) / np.where(kept, ramp * low_pass, 1.0)
    return idctn(spectrum, norm="ortho")


def _same(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return image


@final
@dataclass(frozen=True)
class Whitening:
    """How one standardised image is whitened, and how that is undone as far as it can be.

    Attributes
    ----------
    apply, undo : callable
        From an array of shape (height, width) to another.
    pixelwise : bool
        Whether each pixel is treated by itself, so that others may be missing (NaN).
    """

    apply: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    undo: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    pixelwise: bool


WHITENINGS = {
    "olshausen": Whitening(_apply_olshausen, _undo_olshausen, pixelwise=False),
    "none": Whitening(_same, _same, pixelwise=True),
}
"""Whitenings by name."""
