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
"""

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.inference._problem import EStepProblem
from entrosparse.posteriors import Diagonal

_MORE_TURNS = 4  # Turns of conjugate gradients by which each step is more exact than the one before.
_MOST_TURNS = 4  # Most turns per latent; without rounding, one per latent would be exact.
_LOOKS = 4  # Looks at the slope along a step: at its end, and by bisection.
_LEAST_CAUTION = 1e-3  # Keeps k above rounding errors, at a price of few steps.
_MAX_LOG_STEP = 1.0  # Largest change of log τ per step.


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
    local = problem.at(mean, problem.spread(Diagonal(mean, scale)), state.caution)
    gradient, majorizer = local.gradient(mean, scale)
    curvature = problem.curvature(mean, scale)
    added = torch.maximum(curvature, state.caution * majorizer)
    # Where the prior is far from convex, the line search could not tell a step too long.
    added = torch.where(curvature < -_LEAST_CAUTION * majorizer, majorizer, added)
    step = _conjugate_gradients(local, added, gradient, turns)

    slope, of_likelihood = _dot(gradient, step), problem.likelihood_slope(mean, scale, step)
    least, taken = slope.abs(), torch.zeros_like(slope)
    low, high, share = taken, torch.ones_like(slope), torch.ones_like(slope)
    for _ in range(_LOOKS):
        there = torch.addcmul(mean, share, step)
        of_prior = problem.prior.majorizer(there, scale, problem.prior_scale) * there
        slope = of_likelihood(share) + _dot(of_prior, step)
        descends = (slope < 0.0) & (share > taken)  # Ever faster, where the prior is not convex.
        taken = torch.where(descends | (slope.abs() < least), share, taken)
        least = torch.minimum(slope.abs(), least)
        low, high = torch.where(slope < 0.0, share, low), torch.where(slope < 0.0, high, share)
        share = 0.5 * (low + high)

    mean = torch.addcmul(mean, taken, step)
    caution = (torch.where(taken >= 0.5, 0.1, 10.0) * state.caution).clamp(_LEAST_CAUTION, 1.0)
    return NewtonState(mean, deviation_step(problem, mean, scale), caution, turns)


def deviation_step(problem: EStepProblem, mean: Tensor, scale: Tensor) -> Tensor:
    """Return τ after one Newton step on log τ towards τ_h² (s G_hh + c_h) = 1."""
    share, slope = problem.prior.precision_share(mean, scale, problem.prior_scale)
    local = problem.at(mean, problem.spread(Diagonal(mean, scale)))
    of_data = scale.square().mul_(local.diagonal())
    slope.add_(local.deviation_slope(scale, of_data), alpha=2.0)
    excess = share.add_(of_data).sub_(1.0)
    slope = torch.maximum(slope, excess.abs().div_(_MAX_LOG_STEP))  # Where it is negative, too.
    return excess.div_(slope).neg_().exp_().mul_(scale)


def _conjugate_gradients(problem: EStepProblem, added: Tensor, gradient: Tensor, turns: int) -> Tensor:
    """Return nearly ``−(s G + diag k)⁻¹ gradient``, preconditioned by the diagonal; ``added`` is k."""
    preconditioner = (problem.diagonal() + added).reciprocal_()
    tiny = torch.finfo(added.dtype).tiny
    step, residual = torch.zeros_like(gradient), -gradient
    direction = preconditioner * residual
    size = _dot(residual, direction)
    for _ in range(turns):
        product = problem.hessian_product(direction).addcmul_(added, direction)
        length = size / _dot(direction, product).clamp_min(tiny)
        step.addcmul_(length, direction)
        residual.addcmul_(length, product, value=-1.0)
        image = preconditioner * residual
        previous, size = size, _dot(residual, image)
        direction = image.addcmul_(size / previous.clamp_min(tiny), direction)
    return step


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the scalar product of each row, shape (N, 1)."""
    return torch.linalg.vecdot(left, right).unsqueeze(1)
