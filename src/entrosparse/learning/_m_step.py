"""M-steps: pure functions from statistics to a new dictionary, and to λ and σ²."""

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import optimal_noise_variance, optimal_prior
from entrosparse.statistics import Statistics

_MAX_DETERMINED = 0.9  # largest share of the posterior precision that is taken to come from the data
_RIDGE = 1e-3  # added to the second moments of codes, in units of each, where they are solved for
_LEAST_SHARE = 0.1  # least share of its way that a logarithm of λ or σ² is taken to go in one EM step


@final
@dataclass(frozen=True, eq=False)
class Curvature:
    """What the length of a step of the dictionary goes by: averages over data points.

    Attributes
    ----------
    second_moment : Tensor of shape (H,) or (H, H)
        ``E[z_h²]``, or ``E[z zᵀ]`` where codes are never negative.
    posterior_variance : Tensor of shape (H,)
        ``E[τ_h²]``.
    """

    second_moment: Tensor
    posterior_variance: Tensor

    @classmethod
    def from_statistics(cls, statistics: Statistics) -> Self:
        """Return the averages of a record."""
        moment = statistics.second_moment
        moment = moment if statistics.prior.positive else moment.diagonal()
        return cls(moment / statistics.total_weight, statistics.posterior_variance / statistics.total_weight)

    def moved(self, newest: Self, share: float) -> Self:
        """Return the averages after they went a share of their way to the newest."""
        return type(self)(
            torch.lerp(self.second_moment, newest.second_moment, share),
            torch.lerp(self.posterior_variance, newest.posterior_variance, share),
        )


def exact_sweep(dictionary: Tensor, statistics: Statistics) -> Tensor:
    """Return the dictionary after one sweep of column updates that never raise the expected residual.

    With ``A = Σ E[zzᵀ]`` and ``B = Σ x E[z]ᵀ`` the expected residual is, up to a constant, linear in one
    column of unit length, so ``w_h ∝ B_h − Σ_{k≠h} w_k A_kh`` is the minimum over the unit sphere. Where
    features have variances of their own, ``A_hh Σ_d w_dh² / σ_d²`` is not constant on the sphere. There an
    upper bound takes its place that is linear and touches: the gradient ``(B − W A)_dh`` of each feature
    counts by ``σ_min² / σ_d²``. Valid for every γ and δ.
    """
    second_moment = statistics.second_moment
    variance = optimal_noise_variance(statistics)
    variance = variance.clamp_min(torch.finfo(variance.dtype).tiny)
    share = variance.amin() / variance
    atoms = dictionary.to(second_moment, copy=True)
    for h in range(atoms.shape[1]):
        gradient = statistics.cross_moment[:, h] - atoms @ second_moment[:, h]
        target = share * gradient + atoms[:, h] * second_moment[h, h]
        length = target.norm()
        if length > 0:
            atoms[:, h] = target / length
    return atoms.to(dictionary)


def preconditioned_step(
    model: SparseCodingModel,
    batch: Statistics,
    curvature: Curvature,
    likelihood: float,
    step_size: float,
    free_overlap: float = 1.0,
) -> Tensor:
    """Return the dictionary after one approximate Newton step on a minibatch.

    The gradient of the bound is ``s R`` with ``R = B − W A`` and s the precision times δ. EM's own step
    ``R diag(A)⁻¹`` crawls inside the span of W when noise is small, because there the codes follow the atoms:
    with the codes eliminated, the curvature of column h is ``A_hh s (I − f W Wᵀ)`` for orthogonal atoms,
    where ``f = s E[τ²]`` is the share of the posterior precision that comes from the data. Its inverse gives
    the step ``(R + W diag(f/(1 − f)) Wᵀ R) diag(A)⁻¹``; division by ‖WᵀW‖ and f ≤ 0.9 keep it from
    overshooting where atoms are not orthogonal or the data give nearly all precision. Where features have
    precisions of their own, all this holds in the metric of the noise: Wᵀ becomes the model's readout.

    Codes that are never negative are far from uncorrelated, so that ``diag(A)⁻¹`` would overshoot; then the
    step is that of exact EM, ``R A⁻¹``.

    Parameters
    ----------
    model : SparseCodingModel
        W̃ and σ².
    batch : Statistics
        Of the minibatch, of total weight 1.
    curvature : Curvature
        Of this minibatch and earlier ones.
    likelihood : float
        δ.
    step_size : float
        1 would be a full Newton step.
    free_overlap : float
        ‖WᵀW‖ up to which atoms are taken as orthogonal; 1 if they are, and 2 if two of them coincide.
    """
    dictionary = model.dictionary
    second_moment = batch.second_moment.to(dictionary)
    gradient = batch.cross_moment.to(dictionary) - dictionary @ second_moment
    gradient = _tangent(dictionary, gradient)
    if not model.prior.positive:
        size = curvature.second_moment.to(dictionary).clamp_min(torch.finfo(dictionary.dtype).tiny)
        determined = _determined(model, curvature.posterior_variance, likelihood).clamp(max=_MAX_DETERMINED)
        overlap = (model.gram_norm / free_overlap).clamp(min=1.0)
        gain = (determined / (1.0 - determined)).to(dictionary) / overlap
        step = gradient + dictionary @ (gain[:, None] * (model.readout.T @ gradient))
        step = step / size
    else:
        size = curvature.second_moment.diagonal().clamp_min(torch.finfo(dictionary.dtype).tiny)
        length = size.sqrt()
        alike = curvature.second_moment / torch.outer(length, length)
        alike = alike + _RIDGE * torch.eye(len(length)).to(alike)
        step = (torch.linalg.solve(alike, (gradient.double() / length).T).T / length).to(gradient)
    return unit_columns(dictionary + step_size * _tangent(dictionary, step))


def scale_step(
    model: SparseCodingModel, statistics: Statistics, likelihood: float, rate: float = 1.0
) -> SparseCodingModel:
    """Return the model after a step of λ and σ² towards their optimum (Eq. 10, 11), longer than EM's.

    Shapes of the prior go the share ``rate`` of their way.

    Posteriors follow λ and σ², and keep them near where they were: in one E-step and one M-step log λ_h goes
    only about the share f_h of its way, because of deviations that the prior determines, and log σ² the share
    1 − Σ_h f_h / D, because of those that the data determine, with ``f_h = s E[τ_h²]``; where a feature has a
    variance of its own, the share of log σ_d² is ``1 − s_d Σ_h W_dh² E[τ_h²]``. So the steps of the
    logarithms are divided by these shares, but by 0.1 at least, and not lengthened beyond 1.

    Parameters
    ----------
    model : SparseCodingModel
        The λ and σ² that the posteriors belong to.
    statistics : Statistics
        Of the data.
    likelihood : float
        δ.
    rate : float
        Weight of these data, in (0, 1], against those that λ and σ² were found from.
    """
    variance = statistics.posterior_variance / statistics.total_weight
    determined = _determined(model, variance, likelihood).clamp(max=1.0)
    if model.likelihood.per_feature:
        spread = model.dictionary.double().square() @ variance
        of_noise = 1.0 - likelihood * model.precision.double().squeeze(1) * spread
    else:
        of_noise = 1.0 - determined.sum() * statistics.total_weight / statistics.n_entries
    (prior_scale, best_shape), noise_variance = optimal_prior(statistics), optimal_noise_variance(statistics)
    old, shape = model.prior_scale, model.prior_shape
    if shape is not None and best_shape is not None:
        # Where λ goes because the shapes change is no step of EM, and not lengthened.
        before, shape = _scale_at(shape, statistics), torch.lerp(shape, best_shape.to(shape), rate)
        prior_scale = _scale_at(shape, statistics)
        old = old * (prior_scale / before).to(old)
    return replace(
        model,
        prior_scale=_lengthened(old, prior_scale, determined, rate),
        noise_variance=_lengthened(model.noise_variance, noise_variance, of_noise, rate),
        prior_shape=shape,
    )


def _scale_at(shape: Tensor, statistics: Statistics) -> Tensor:
    """Return the scales (H,) that are optimal at these shapes, above zero."""
    shape, prior = shape.double(), statistics.prior
    statistic = prior.member_statistic(statistics.prior_statistic / statistics.total_weight, shape)
    return prior.at(shape).optimal_scale(statistic).clamp_min(torch.finfo(torch.float64).tiny)


def _lengthened(old: Tensor, new: Tensor, share: Tensor, rate: float) -> Tensor:
    tiny = torch.finfo(old.dtype).tiny ** 0.4  # For data of zeros, scales fall for ever.
    step = torch.lerp(torch.ones_like(new), new / old.double(), rate).clamp_min(tiny).log()
    bound = step.abs().clamp_min(1.0)
    step = (step / share.clamp_min(_LEAST_SHARE)).clamp(-bound, bound)
    return (old * step.exp()).to(old).clamp_min(tiny)


def _determined(model: SparseCodingModel, variance: Tensor, likelihood: float) -> Tensor:
    """Return ``f_h = s E[τ_h²]``: the share of the posterior precision of each latent that the data give."""
    precision = model.likelihood.precision(model.noise_variance.double())
    if model.likelihood.per_feature:
        precision = precision @ model.dictionary.double().square()
    return likelihood * precision * variance


def _tangent(dictionary: Tensor, direction: Tensor) -> Tensor:
    """Remove from each column its component along the atom."""
    return direction - dictionary * (dictionary * direction).sum(0)
