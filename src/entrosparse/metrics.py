"""Measures of codes and dictionaries."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from entrosparse.posteriors import Posterior


def gini(codes: Tensor) -> Tensor:
    """Return the Gini index of ``|z|`` for each data point (Hurley and Rickard, 2009).

    Parameters
    ----------
    codes : Tensor of shape (N, H)
        Codes, usually posterior means.

    Returns
    -------
    Tensor of shape (N,)
        0 when all latents are equally strong, 1 − 1/H when one does everything; 0 for a code of zeros.
    """
    magnitude = codes.abs().sort(dim=-1).values
    n = codes.shape[-1]
    rank_weight = (2.0 * torch.arange(1, n + 1, dtype=codes.dtype, device=codes.device) - n - 1.0) / n
    return magnitude @ rank_weight / magnitude.sum(-1).clamp_min(torch.finfo(codes.dtype).tiny)


class AtomMatch(NamedTuple):
    """An optimal one-to-one assignment of atoms to reference atoms.

    Attributes
    ----------
    cosine : Tensor of shape (K,)
        ``|cosine|`` of each matched pair, in the order of the reference atoms.
    indices : Tensor of shape (K,)
        For each reference atom the matched column of the dictionary.
    """

    cosine: Tensor
    indices: Tensor


def match_atoms(dictionary: Tensor, reference: Tensor) -> AtomMatch:
    """Match the columns of two dictionaries up to sign and order, by ``|cosine|``.

    Parameters
    ----------
    dictionary, reference : Tensor of shape (D, H) and (D, K), K ≤ H
        Columns need not be of unit length.
    """
    cosine = torch.nn.functional.normalize(reference.double(), dim=0).T
    cosine = (cosine @ torch.nn.functional.normalize(dictionary.double(), dim=0)).abs()
    rows, columns = linear_sum_assignment(cosine.cpu().numpy(), maximize=True)
    order = torch.as_tensor(columns[rows.argsort()])
    return AtomMatch(cosine.cpu()[torch.arange(len(order)), order], order)


def dead_latents(posterior: Posterior, threshold: float = 0.01) -> Tensor:
    """Return which latents carry no information on the data, shape (H,), bool.

    A latent is dead when its means hold at most ``threshold`` of its second moment ``Σ_n E[z_h²]``: its
    posterior is the same for all data points, as after a posterior collapse.
    """
    return dead_by_moments(*signal_and_variance(posterior), threshold)


def signal_and_variance(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return ``Σ_n ν_h²`` and ``Σ_n τ_h²``, shape (H,) each, which add over data points."""
    return posterior.mean.square().sum(0), posterior.marginal_scale().square().sum(0)


def dead_by_moments(signal: Tensor, variance: Tensor, threshold: float = 0.01) -> Tensor:
    """Return :func:`dead_latents` of the sums that :func:`signal_and_variance` returns."""
    return signal <= threshold * (signal + variance)


def localization(dictionary: Tensor, shape: tuple[int, int], window: int = 5) -> Tensor:
    """Return how localized each field is: the share of its energy in the best square window, shape (H,).

    Parameters
    ----------
    dictionary : Tensor of shape (D, H)
        One field a column.
    shape : (int, int)
        Height and width of a field in pixels; their product is D.
    window : int
        Side of the window in pixels, at most that of a field.

    Returns
    -------
    Tensor of shape (H,)
        1 when all energy lies in one window; ``window² / D`` for a field of constant magnitude.
    """
    energy = dictionary.T.reshape(-1, 1, *shape).square()
    windows = torch.nn.functional.avg_pool2d(energy, window, stride=1) * window**2
    total = energy.sum((1, 2, 3)).clamp_min(torch.finfo(energy.dtype).tiny)
    return windows.amax((1, 2, 3)) / total
