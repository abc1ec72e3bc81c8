"""The artificial bars of appendix D.2, whose dictionary is known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from entrosparse._checks import check_positive, check_whole, random_generator


@dataclass(frozen=True, eq=False)
class BarsData:
    """Data x = W z + noise drawn from the model of Eq. 1, with the codes and the dictionary behind them.

    Attributes
    ----------
    data : ndarray of float64, shape (n_samples, size²)
        Data points x.
    codes : ndarray of float64, shape (n_samples, 2 size)
        Latents z.
    dictionary : ndarray of float64, shape (size², 2 size)
        Dictionary W, one bar per column: 1 on the bar, 0 elsewhere. Horizontal bars come first, from the top,
        then vertical ones, from the left.
    """

    data: NDArray[np.float64]
    codes: NDArray[np.float64]
    dictionary: NDArray[np.float64]


def bars(
    n_samples: int,
    size: int = 5,
    prior_scale: float = 1.0,
    noise_std: float = 0.1,
    *,
    rng: np.random.Generator | int,
) -> BarsData:
    """Draw the bars data of appendix D.2.

    Parameters
    ----------
    n_samples : int
        Number of data points, at least 1.
    size : int
        Side of the square image in pixels, at least 2.
    prior_scale : float
        Scale λ > 0 of the Laplace prior of every latent.
    noise_std : float
        Standard deviation σ >= 0 of the Gaussian noise.
    rng : numpy.random.Generator or int
        Source of randomness, or its seed.

    Returns
    -------
    BarsData
        The data, the latents and the dictionary.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    check_whole("n_samples", n_samples, 1)
    check_whole("size", size, 2)
    check_positive("prior_scale", prior_scale)
    check_positive("noise_std", noise_std, or_zero=True)
    rng = random_generator(rng)
    on, uniform = np.eye(size), np.ones((size, 1))
    dictionary = np.hstack([np.kron(on, uniform), np.kron(uniform, on)])
    codes = rng.laplace(scale=prior_scale, size=(n_samples, 2 * size))
    noise = noise_std * rng.standard_normal((n_samples, size**2))
    return BarsData(codes @ dictionary.T + noise, codes, dictionary)
