"""The best of all factorial posteriors under a prior whose energy is linear on either side of zero."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from entrosparse.closed_form import HalfLine, half_line
from entrosparse.posteriors._factorial import Factorial
from entrosparse.priors import Prior, PriorFamily

_MOST_LOG_ODDS = 1e4  # Beyond, a side has no mass in any dtype.
_QUANTILE_STEPS = 60  # Newton steps to a quantile at most; a few are enough as a rule.
_ROUNDING = 16.0  # Steps of so many rounding errors are the end.


@final
@dataclass(frozen=True)
class ExactFactorial(Factorial):
    """``q(z_h) ∝ exp(−z²/2s² + z m/s²)``, with one m for z > 0 and another for z < 0, for each data point.

    Each latent has two cut-off Gaussians that meet at zero. With ``s² = σ²/δ‖w_h‖²`` and a prior
    ``exp(−|z|/λ)`` this is the posterior of one latent given the means of all others, so that no factorial
    posterior has a higher ELBO. ``left = −∞`` everywhere is a posterior on z ≥ 0 alone.

    Attributes
    ----------
    right : Tensor of shape (N, H)
        Mean of the Gaussian on the positive side before it is cut off, in the units of the codes.
    left : Tensor of shape (N, H)
        That of −z on the negative side.
    scale : Tensor of shape (N, H)
        The deviation s > 0 of both before they are cut off.
    mean : Tensor of shape (N, H)
        Posterior means ν.
    """

    gaussian: ClassVar[bool] = False
    right: Tensor
    left: Tensor
    scale: Tensor
    mean: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", self._positive_part - self._negative_part)

    @classmethod
    def from_natural(cls, linear: Tensor, precision: Tensor, slopes: tuple[Tensor, Tensor]) -> Self:
        """Return the densities ``exp(linear z − precision z²/2 − slope |z|)``, with slopes left and right.

        Where the precision is next to nothing beside the slopes, it is raised so that s stays finite; this
        changes moments by a share of a rounding error.
        """
        left, right = slopes
        scale = torch.minimum(precision.rsqrt(), cls.widest(slopes)).expand_as(linear)
        square = scale.square()
        return cls((linear - right) * square, (-linear - left) * square, scale)

    @classmethod
    def check_prior(cls, prior: PriorFamily) -> None:
        """Raise InputError unless the energy of the prior is linear on either side of zero."""
        prior.slopes(torch.ones(1))

    @staticmethod
    def widest(slopes: tuple[Tensor, Tensor]) -> Tensor:
        """Return the largest s, beside which q is the prior but for rounding, shape (H,)."""
        return torch.finfo(slopes[0].dtype).eps ** -0.5 / torch.minimum(*slopes)

    def marginal_scale(self) -> Tensor:
        """Return the marginal deviations τ, shape (N, H)."""
        return self._deviation

    def expected_statistic(self, prior: PriorFamily) -> Tensor:
        """Return ``E[t(z_h)]`` for a statistic t that is linear on either side of zero, shape (N, H).

        Raises
        ------
        InputError
            If the prior has another statistic.
        """
        self.check_prior(prior)
        return prior.statistic(self._positive_part) + prior.statistic(-self._negative_part)

    def entropy(self) -> Tensor:
        """Return ``H[q]`` in nats, shape (N,): that of the side, and of the density on it."""
        right, left = self._sides
        odds = self._log_odds
        of_side = softplus(-odds.abs()) + odds.abs() * torch.sigmoid(-odds.abs())
        of_density = torch.sigmoid(odds) * right.entropy
        of_density = of_density + torch.sigmoid(-odds) * left.entropy.masked_fill(left.log_mass.isinf(), 0.0)
        return (of_side + of_density + self.scale.log()).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ``log q(z)`` in nats for z of shape (..., N, H); the result has shape (..., N)."""
        right, left = self._sides
        positive, distance = z >= 0, z.abs() / self.scale
        a = torch.where(positive, *self._locations)
        outside = a == -torch.inf
        a = a.masked_fill(outside, 0.0)
        peak = a.clamp_min(0.0)
        energy = 0.5 * (distance - peak).square() - distance * (a - peak)
        log_density = -energy - torch.where(positive, right.log_peaked_mass, left.log_peaked_mass)
        log_side = logsigmoid(torch.where(positive, self._log_odds, -self._log_odds))
        log_prob = (log_side + log_density - self.scale.log()).masked_fill(outside, -torch.inf)
        return log_prob.sum(-1)

    def perturb(self, noise: Tensor) -> Tensor:
        """Return the quantiles of q at those of the noise, a rising function of it."""
        log_below, log_above = torch.special.log_ndtr(noise), torch.special.log_ndtr(-noise)
        odds = self._log_odds
        positive = log_above < logsigmoid(odds)
        log_survival = torch.where(positive, log_above - logsigmoid(odds), log_below - logsigmoid(-odds))
        a = torch.where(positive, *self._locations)
        distance = _half_line_quantile(a.masked_fill(a.isinf(), 0.0), log_survival.clamp(max=0.0))
        return self.scale * torch.where(positive, distance, -distance)

    def stationarity(self, hessian: Tensor, curvature: Tensor) -> Tensor:
        """Return the largest ``|s_h⁻² − s G_hh| τ_h²``, shape (N,); the curvature has no part in it."""
        excess = self.scale.square().reciprocal() - torch.diagonal(hessian, dim1=-2, dim2=-1)
        return (excess.abs() * self._deviation.square()).amax(-1)

    def distance_from_optimum(
        self, likelihood_gradient: Tensor, hessian: Tensor, prior: Prior, prior_scale: Tensor
    ) -> Tensor:
        """Return how far q is from the best factorial posterior, shape (N,), in nats per deviation.

        That one has ``linear = s (b − Gν)_h + s G_hh ν_h``, and the slopes of the prior.
        """
        diagonal = torch.diagonal(hessian, dim1=-2, dim2=-1)
        linear, square = diagonal * self.mean - likelihood_gradient, self.scale.square()
        left, right = prior.slopes(prior_scale)
        gaps = [self.right / square - (linear - right), self.left / square - (-linear - left)]
        gap = torch.stack([gap.nan_to_num(0.0) for gap in gaps]).abs().amax(0)  # −∞ is left alone.
        by_mean = (gap * self._deviation).amax(-1)
        return torch.maximum(by_mean, self.stationarity(hessian, self.scale))

    # --- parts

    @cached_property
    def _locations(self) -> tuple[Tensor, Tensor]:
        """The means of both sides before they are cut off, in units of s."""
        outside = self.left == -torch.inf  # The gradient in s of an infinite quotient would be NaN.
        left = self.left.masked_fill(outside, 0.0) / self.scale
        return self.right / self.scale, left.masked_fill(outside, -torch.inf)

    @cached_property
    def _sides(self) -> tuple[HalfLine, HalfLine]:
        right, left = self._locations
        return half_line(right), half_line(left)

    @cached_property
    def _log_odds(self) -> Tensor:
        """Log-odds of z > 0, shape (N, H)."""
        right, left = self._sides
        return (right.log_mass - left.log_mass).clamp(-_MOST_LOG_ODDS, _MOST_LOG_ODDS)

    @cached_property
    def _positive_part(self) -> Tensor:
        return self.scale * torch.sigmoid(self._log_odds) * self._sides[0].mean

    @cached_property
    def _negative_part(self) -> Tensor:
        return self.scale * torch.sigmoid(-self._log_odds) * self._sides[1].mean

    @cached_property
    def _deviation(self) -> Tensor:
        (right, left), odds = self._sides, self._log_odds
        on_right, on_left = torch.sigmoid(odds), torch.sigmoid(-odds)
        between = on_right * on_left * (right.mean + left.mean).square()
        return self.scale * (on_right * right.variance + on_left * left.variance + between).sqrt()


def _half_line_quantile(a: Tensor, log_survival: Tensor) -> Tensor:
    """Return y with ``P(Y > y) = exp(log_survival)`` for :func:`~entrosparse.closed_form.half_line`.

    The logarithm of the survival function is concave and at most ``ay − y²/2``, or ``−(y − a)²/2`` if a > 0.
    So Newton steps from where these have the value come from one side. One more has the gradients.
    """
    log_mass, log_inside = half_line(a).log_mass, torch.special.log_ndtr(a)

    def missing(y: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much ``log P(Y > y)`` is too large, and how fast it falls."""
        there = half_line(a - y)
        below = there.log_mass - log_mass + a * y - 0.5 * y.square()
        above = torch.special.log_ndtr(a - y) - log_inside
        return torch.where(a > 0, above, below) - log_survival, there.mean - (a - y)

    with torch.no_grad():
        root = (a.clamp(max=0.0).square() - 2.0 * log_survival).sqrt()
        y = torch.where(a > 0, a + root, -2.0 * log_survival / (root - a.clamp(max=0.0)).clamp_min(1e-30))
        for _ in range(_QUANTILE_STEPS):
            gap, hazard = missing(y)
            y = (y + gap / hazard).clamp_min(0.0)
            if bool((gap.abs() <= _ROUNDING * torch.finfo(y.dtype).eps * (1.0 + y * hazard)).all()):
                break
        hazard = missing(y)[1]
    return y + missing(y)[0] / hazard
