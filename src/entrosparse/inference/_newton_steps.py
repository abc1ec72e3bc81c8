"""Newton steps for diagonal posteriors, on the means and on the deviations.

Where entries are missing, each data point has a Hessian s G of its own, and sweeps over blocks of latents
are slow: their steps are as short as the shared Hessian asks, and each block costs a reconstruction of the
data. A Newton step on all means solves (s G + diag k) Δ = −gradient by conjugate gradients instead. Their
turns need only products with s G, so no matrix is kept per data point.

With k = c, the prior's curvature, steps converge fast near the optimum. Far from it they are too long,
because c vanishes with exp(−ν²/2τ²). With k = w, the majorizer, steps are safe but converge slowly: that is
iteratively reweighted least squares. So k is the larger of c and a share of w, which is called caution. It
falls tenfold when a line search along the step accepts half of it or more, and grows tenfold otherwise.
Noise whose energy is not quadratic has curvature and majorizer too, for each entry, and caution mixes them
in the same way.

Under a prior that is not convex some c are negative, and k lies between c and w, at the share of caution. The
matrix then need not be positive definite: conjugate gradients end at the first direction along which it is
not. As a valley may lie behind a hill, the line search begins close by, and goes on as long as it leads
downhill. With k = w instead, hundreds of steps would be needed to leave the neighbourhood of a saddle point.
"""

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.inference._problem import EStepProblem
from entrosparse.posteriors import Diagonal

_MORE_TURNS = 4  # Turns of conjugate gradients by which each step is more exact than the one before.
_MOST_TURNS = 4  # Most turns per latent; without rounding, one per latent would be exact.
_LOOKS = 4  # Looks at the slope along a step: at its end, further on by doubling, and by bisection.
_LEAST_CAUTION = 1e-3  # Keeps k above rounding errors, at a price of few steps.
_NEAR = 3.0  # Deviations within which the line search begins where a prior is not convex.
_NEAR_SHARE = 1e-3  # The same as a share of the largest mean, if that is more.


@final
@dataclass(frozen=True)
class NewtonState:
    """What one Newton step hands to the next."""

    mean: Tensor  # ν, shape (N, H).
    scale: Tensor  # τ, shape (N, H).
    caution: Tensor  # Share of the majorizer w that k is at least, from 0 to 1, shape (N, 1).
    turns: int  # Turns of conjugate gradients that the last step took.

    @classmethod
    def start(cls, mean: Tensor, scale: Tensor) -> Self:
        """Return the state before the first step."""
        return cls(mean, scale, torch.ones_like(mean[:, :1]), 0)

    def rows(self, index: Tensor) -> Self:
        """Return the state of some of the data points."""
        mean, scale, caution = (part.T[:, index].T for part in (self.mean, self.scale, self.caution))
        return type(self)(mean, scale, caution, self.turns)


def newton_step(problem: EStepProblem, state: NewtonState) -> NewtonState:
    """Return the state after one step of all means, and then one of all deviations."""
    mean, scale = state.mean, state.scale
    turns = min(state.turns + _MORE_TURNS, _MOST_TURNS * mean.shape[1])
    spread = problem.spread(Diagonal(mean, scale))
    local = problem.at(mean, spread, state.caution)
    gradient, majorizer = local.gradient(mean, scale)
    curvature = problem.curvature(mean, scale)
    added = torch.maximum(curvature, state.caution * majorizer)
    added = torch.where(curvature < 0.0, torch.lerp(curvature, majorizer, state.caution), added)
    step = _conjugate_gradients(local, added, gradient, turns)

    slope, of_likelihood = _dot(gradient, step), problem.likelihood_slope(mean, spread, step)
    least, taken = slope.abs(), torch.zeros_like(slope)
    concave = (curvature < 0.0).any(1, keepdim=True)
    near = (_NEAR_SHARE * _largest(mean / scale)).clamp_min(_NEAR)
    first = torch.where(concave, (near / _largest(step / scale)).clamp(max=1.0), 1.0)
    low, high, share = taken, torch.where(concave, torch.inf, first), first
    for _ in range(_LOOKS):
        there = torch.addcmul(mean, share, step)
        of_prior = problem.prior.majorizer(there, scale, problem.prior_scale) * there
        slope = of_likelihood(share) + _dot(of_prior, step)
        descends = (slope < 0.0) & (share > taken)  # Ever faster, where the prior is not convex.
        taken = torch.where(descends | (slope.abs() < least), share, taken)
        least = torch.minimum(slope.abs(), least)
        low, high = torch.where(slope < 0.0, share, low), torch.where(slope < 0.0, high, share)
        share = torch.where(high.isinf(), 2.0 * share, 0.5 * (low + high))

    mean = torch.addcmul(mean, taken, step)
    caution = (torch.where(taken >= 0.5 * first, 0.1, 10.0) * state.caution).clamp(_LEAST_CAUTION, 1.0)
    return NewtonState(mean, deviation_step(problem, mean, scale), caution, turns)


def deviation_step(problem: EStepProblem, mean: Tensor, scale: Tensor) -> Tensor:
    """Return τ after one Newton step on log τ, of length 1 at most, towards τ_h² (s G_hh + c_h) = 1."""
    share, slope = problem.prior.precision_share(mean, scale, problem.prior_scale)
    local = problem.at(mean, problem.spread(Diagonal(mean, scale)))
    of_data = scale.square().mul_(local.diagonal())
    slope.add_(local.deviation_slope(scale, of_data), alpha=2.0)
    excess = share.add_(of_data).sub_(1.0)
    slope = torch.maximum(slope, torch.abs(excess, out=of_data), out=slope)  # Where it is negative, too.
    return excess.div_(slope).neg_().exp_().mul_(scale)


def _conjugate_gradients(problem: EStepProblem, added: Tensor, gradient: Tensor, turns: int) -> Tensor:
    """Return nearly ``−(s G + diag k)⁻¹ gradient``, preconditioned by the diagonal; ``added`` is k.

    Data points stay where they are after a direction along which the matrix is not positive. If the first
    direction is one, it is the step.
    """
    preconditioner = (problem.diagonal() + added.abs()).reciprocal_()
    tiny = torch.finfo(added.dtype).tiny
    step, residual = torch.zeros_like(gradient), -gradient
    direction = preconditioner * residual
    size = _dot(residual, direction)
    convex = torch.ones_like(size, dtype=torch.bool)
    for turn in range(turns):
        product = problem.hessian_product(direction).addcmul_(added, direction)
        bend = _dot(direction, product)
        convex &= bend > 0.0
        length = torch.where(convex, size / bend.clamp_min(tiny), float(turn == 0))
        step.addcmul_(length, direction)
        residual.addcmul_(length, product, value=-1.0)
        image = preconditioner * residual
        previous, size = size, _dot(residual, image)
        direction = image.addcmul_(size / previous.clamp_min(tiny), direction)
    return step


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the scalar product of each row, shape (N, 1)."""
    return torch.linalg.vecdot(left, right).unsqueeze(1)


def _largest(step: Tensor) -> Tensor:
    """Return the largest magnitude in each row, shape (N, 1)."""
    return step.abs().amax(1, keepdim=True)
