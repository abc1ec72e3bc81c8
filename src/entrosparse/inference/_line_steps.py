"""Steps with line searches, for full posteriors under noise whose energy is not quadratic in the residuals.

The curvatures of entries and of latents then vanish with the distance of their residuals and codes from zero.
On data far from what was learned, steps by curvatures are too long by many powers of ten, so that neither
bounds nor damping help. But with T = F Fᵀ and a triangular F, objective (17) is jointly concave in ν and F.
So it is concave along each line, and its slope says where to stop.

A step factorizes the precision P at the posterior. It moves F towards the root of P⁻¹, and then ν along −P⁻¹
times its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.inference._newton import inverse_cholesky_of, precision_of
from entrosparse.inference._problem import EStepProblem
from entrosparse.posteriors import Full

_LOOKS = 4  # Looks at the slope along a line.
_ROUNDING = 4.0  # Rounding errors of a slope, in relative units for each latent.
_GROWTH = 4.0  # Times the share that was taken, where the next search begins.


@final
@dataclass(frozen=True)
class LineState:
    """What one step hands to the next."""

    mean: Tensor  # ν, shape (N, H).
    factor: Tensor  # F, upper triangular, shape (N, H, H).
    reach_of_factor: Tensor  # The share of a step of F at which to look first, shape (N, 1).
    reach_of_mean: Tensor  # The same for ν.

    @classmethod
    def start(cls, mean: Tensor, scale: Tensor) -> Self:
        """Return the state before the first step."""
        whole = torch.ones_like(mean[:, :1])
        return cls(mean, torch.diag_embed(scale), whole, whole)

    def rows(self, index: Tensor) -> Self:
        """Return the state of some of the data points."""
        return type(self)(*(tensor[index] for tensor in vars(self).values()))


def line_step(problem: EStepProblem, state: LineState) -> LineState:
    """Return the state after one step of the covariances, and then one of the means."""
    mean, factor, prior, prior_scale = state.mean, state.factor, problem.prior, problem.prior_scale
    scale, seen = Full(mean, factor).marginal_scale(), problem.dictionary @ factor
    local = problem.at(mean, seen.square().sum(-1))
    eps = torch.finfo(scale.dtype).eps
    least = eps / scale.square()  # Far from zero all curvatures may be 0.
    precision, _ = precision_of(local.hessian(), problem.curvature(mean, scale) + least)
    inverse, rounding = inverse_cholesky_of(precision), _ROUNDING * eps * scale.shape[1]
    target = inverse.mT
    of_codes, of_data = _lengths(factor, target), _lengths(seen, problem.dictionary @ target)
    diagonal = torch.diagonal(factor, dim1=-2, dim2=-1)
    change = torch.diagonal(target, dim1=-2, dim2=-1) - diagonal

    def slope_of_factor(share: Tensor) -> Tensor:
        (square, by_square), (spread, by_spread) = of_codes(share), of_data(share)
        of_entropy = change / torch.addcmul(diagonal, share, change)
        of_prior = 0.5 * prior.curvature(mean, square.sqrt(), prior_scale) * by_square
        of_noise = problem.variance_slope(mean, spread) * by_spread
        return of_noise.sum(1, keepdim=True) + (of_prior - of_entropy).sum(1, keepdim=True)

    share, reach_of_factor = _search(slope_of_factor, state.reach_of_factor, rounding)
    factor = torch.lerp(factor, target, share.unsqueeze(2))
    scale, spread = of_codes(share)[0].sqrt(), of_data(share)[0]
    gradient = problem.at(mean, spread).gradient(mean, scale)[0]
    move = -(gradient.unsqueeze(1) @ target @ inverse).squeeze(1)
    of_likelihood = problem.likelihood_slope(mean, spread, move)

    def slope_of_mean(share: Tensor) -> Tensor:
        there = torch.addcmul(mean, share, move)
        of_prior = prior.majorizer(there, scale, prior_scale) * there
        return of_likelihood(share) + torch.linalg.vecdot(of_prior, move).unsqueeze(1)

    share, reach_of_mean = _search(slope_of_mean, state.reach_of_mean, rounding)
    return LineState(torch.addcmul(mean, share, move), factor, reach_of_factor, reach_of_mean)


def _lengths(root: Tensor, target: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return, for a share of the way from one matrix to another, squared lengths of rows and their slopes."""
    first, last, mixed = root.square().sum(-1), target.square().sum(-1), torch.linalg.vecdot(root, target)

    def lengths(share: Tensor) -> tuple[Tensor, Tensor]:
        rest = 1.0 - share
        square = rest.square() * first + 2.0 * rest * share * mixed + share.square() * last
        slope = 2.0 * ((rest - share) * mixed - rest * first + share * last)
        return square.clamp_min(torch.finfo(square.dtype).tiny), slope

    return lengths


def _search(slope: Callable[[Tensor], Tensor], first: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Return the share of each step, at most 1, with the least slope, and where to look first in the next.

    Where the slope of a step is no larger than rounding errors, the optimum is close and the step is whole.
    """
    taken = low = torch.zeros_like(first)
    share, high, least = first, torch.full_like(first, torch.inf), slope(taken).abs()
    close = least <= rounding
    for _ in range(_LOOKS):
        found = slope(share)
        taken = torch.where(found.abs() < least, share, taken)
        least = torch.minimum(found.abs(), least)
        low, high = torch.where(found < 0.0, share, low), torch.where(found < 0.0, high, share)
        share = torch.where(high.isinf(), (2.0 * share).clamp(max=1.0), 0.5 * (low + high))
    taken = torch.where(close, 1.0, taken)
    closer = 0.5 ** (_LOOKS - 1) * first
    return taken, torch.where(taken > 0.0, (_GROWTH * taken).clamp(max=1.0), closer)
