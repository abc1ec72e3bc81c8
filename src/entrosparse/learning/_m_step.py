"""M-steps: pure functions from statistics to a new dictionary (λ and σ² are in closed form, Eq. 10, 11)."""

import torch
from torch import Tensor

from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.statistics import Statistics

_MAX_DETERMINED = 0.8  # largest share of the posterior precision that is taken to come from the data


def exact_sweep(dictionary: Tensor, statistics: Statistics) -> Tensor:
    """Return the dictionary after one sweep of exact column updates, each the maximum over the unit sphere.

    With ``A = Σ E[zzᵀ]`` and ``B = Σ x E[z]ᵀ`` the expected residual is, up to a constant, linear in one
    column of unit length, so ``w_h ∝ B_h − Σ_{k≠h} w_k A_kh`` never raises it. Valid for every γ and δ.
    """
    second_moment = statistics.second_moment
    atoms = dictionary.to(second_moment, copy=True)
    for h in range(atoms.shape[1]):
        target = (
            statistics.cross_moment[:, h] - atoms @ second_moment[:, h] + atoms[:, h] * second_moment[h, h]
        )
        length = target.norm()
        if length > 0:
            atoms[:, h] = target / length
    return atoms.to(dictionary)


def preconditioned_step(
    model: SparseCodingModel, batch: Statistics, running: Statistics, likelihood: float, step_size: float
) -> Tensor:
    """Return the dictionary after one approximate Newton step on a minibatch.

    The gradient of the bound is ``s R`` with ``R = B − W A`` and ``s = δ/σ²``. EM's own step ``R diag(A)⁻¹``
    crawls inside the span of W when noise is small, because there the codes follow the atoms: with the codes
    eliminated, the curvature of column h is ``A_hh s (I − f W Wᵀ)`` for orthogonal atoms, where
    ``f = s E[τ²]`` is the share of the posterior precision that comes from the data. Its inverse gives the
    step ``(R + W diag(f/(1 − f)) Wᵀ R) diag(A)⁻¹``; division by ‖WᵀW‖ and f ≤ 0.8 keep it from
    overshooting where atoms are not orthogonal or nearly all posterior precision comes from the data.

    Parameters
    ----------
    model : SparseCodingModel
        W̃ and σ².
    batch, running : Statistics
        Of the minibatch, for the gradient, and running averages, for the curvature; each of total weight 1.
    likelihood : float
        δ, in ``s = δ/σ²``.
    step_size : float
        1 would be a full Newton step.
    """
    dictionary, precision = model.dictionary, likelihood / model.noise_variance
    second_moment = batch.second_moment.to(dictionary)
    gradient = batch.cross_moment.to(dictionary) - dictionary @ second_moment
    determined = (precision.double() * running.posterior_variance).clamp(max=_MAX_DETERMINED)
    gain = (determined / (1.0 - determined)).to(dictionary) / model.gram_norm
    gradient = _tangent(dictionary, gradient)
    step = gradient + dictionary @ (gain[:, None] * (dictionary.T @ gradient))
    scale = running.second_moment.diagonal().to(dictionary)
    step = step / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    return unit_columns(dictionary + step_size * _tangent(dictionary, step))


def _tangent(dictionary: Tensor, direction: Tensor) -> Tensor:
    """Remove from each column its component along the atom."""
    return direction - dictionary * (dictionary * direction).sum(0)
