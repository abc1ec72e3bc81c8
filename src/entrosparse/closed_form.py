"""Closed forms of the entropy ELBO: pure tensor functions, each with its equation number.

Expectations are over a Gaussian marginal ``z ~ N(mean, scale²)``; ``a = mean / scale``. All entropies are
in nats.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
LOG_2PI = math.log(2.0 * math.pi)
_FAR, _FRACTIONS = 6.0, 20  # Where the continued fraction of a tail takes over, and its levels: 1e-13 there.


def soft_magnitude(mean: Tensor, scale: Tensor) -> Tensor:
    r"""Return ``E|z|`` for ``z ~ N(mean, scale²)``, the soft magnitude (Eq. 12, 93-97, 177).

    .. math:: \tau M(\nu/\tau) = \tau\sqrt{2/\pi}\,e^{-\nu^2/2\tau^2} + \nu\,\mathrm{erf}(\nu/\sqrt2\tau)

    Parameters
    ----------
    mean, scale : Tensor
        Mean ν and deviation τ > 0, of shapes that broadcast.

    Returns
    -------
    Tensor
        ``E|z|``, in the units of ``mean``; never below ``|mean|``.
    """
    a = mean / scale
    decay = torch.exp(-0.5 * a.square())
    return torch.addcmul(mean * torch.erf(SQRT_HALF * a), scale, decay, value=SQRT_2_OVER_PI)


def soft_magnitude_ratio(a: Tensor) -> Tensor:
    """Return ``M(a) = E|z| / scale``, a function of ``a = mean / scale`` alone (Eq. 12)."""
    return soft_magnitude(a, torch.ones_like(a))


def magnitude_slope_over_a(a: Tensor) -> Tensor:
    """Return ``erf(a / √2) / a``, continued to ``√(2/π)`` at 0.

    Divided by ``scale`` it is the curvature of the tightest quadratic in the mean that touches ``E|z|`` at
    ±mean and lies above it everywhere.
    """
    return magnitude_slope_over_a_(a.clone())


def magnitude_slope_over_a_(a: Tensor) -> Tensor:
    """Return :func:`magnitude_slope_over_a`, and overwrite ``a``, since new memory takes time."""
    a.abs_().clamp_min_(1e-12)  # below this both erf and its argument are linear to rounding
    return torch.mul(a, SQRT_HALF).erf_().div_(a)


def magnitude_curvature(a: Tensor) -> Tensor:
    """Return ``scale · ∂²E|z| / ∂mean² = √(2/π) exp(−a²/2)``, also ``∂E|z| / ∂scale``."""
    return SQRT_2_OVER_PI * torch.exp(-0.5 * a.square())


def erf_burmann(x: Tensor) -> Tensor:
    r"""Return the Bürmann approximation of ``erf(x)`` of second order (Eq. 174; Schöpf and Supancic, 2014).

    .. math:: \frac{2}{\sqrt\pi}\,\mathrm{sgn}(x) \sqrt{1 - e^{-x^2}}
        \left(\frac{\sqrt\pi}{2} + \frac{31}{200} e^{-x^2} - \frac{341}{8000} e^{-2x^2}\right)

    It is off by at most 3.44e-3, near ``|x| = 1.41``, and by a share of at most 3.62e-3 near 1.38; the limits
    at infinity are exact. A first coefficient of 21/200 would be off by 2.2e-2.
    """
    x = x.clamp(-10.0, 10.0)  # beyond, erf is ±1 to rounding
    square = x.square().clamp_min(1e-30)
    decay = torch.exp(-square)
    series = 1.0 + 2.0 / math.sqrt(math.pi) * decay * (31 / 200 - 341 / 8000 * decay)
    return x * torch.sqrt(-torch.expm1(-square) / square) * series


def gaussian_entropy(log_determinant: Tensor, n_dimensions: int) -> Tensor:
    """Return ``½ log |2πe T|`` in nats from ``log |T|`` (first term of Eq. 15)."""
    return 0.5 * (log_determinant + n_dimensions * (LOG_2PI + 1.0))


def isotropic_gaussian_entropy(variance: Tensor, n_dimensions: Tensor | float) -> Tensor:
    """Return ``D/2 log(2πe σ²)`` in nats, the noise entropy of Eq. 72."""
    return 0.5 * n_dimensions * (torch.log(variance) + LOG_2PI + 1.0)


def laplace_entropy(scale: Tensor) -> Tensor:
    """Return ``log(2eλ)`` in nats for each scale λ (Eq. 72)."""
    return torch.log(scale) + (math.log(2.0) + 1.0)


class HalfLine(NamedTuple):
    """What :func:`half_line` returns, each of the shape of a."""

    log_mass: Tensor
    log_peaked_mass: Tensor
    mean: Tensor
    variance: Tensor
    entropy: Tensor


def half_line(a: Tensor) -> HalfLine:
    r"""Return mass, mean, variance and entropy of the density ``exp(ay − y²/2) / mass`` on y ≥ 0.

    That is ``N(a, 1)``, cut off below zero. With :math:`h = \varphi(a)/\Phi(a)` its mass is
    :math:`\sqrt{2\pi} e^{a^2/2} \Phi(a)`, its mean ``a + h``, its variance ``1 − h (a + h)`` and its entropy
    :math:`\log(\sqrt{2\pi e}\, \Phi(a)) - ah/2`. Each has as many digits for a far below zero, where it is an
    exponential density of mean ``−1/a``, as elsewhere. At ``a = −∞`` the mass is 0.
    The peaked mass is ``mass / exp(max(a, 0)²/2)``, which keeps its digits for large a.

    Parameters
    ----------
    a : Tensor
        The mean before the cut.
    """
    outside = a == -torch.inf
    a = a.masked_fill(outside, -1.0)
    scaled = torch.special.erfcx(SQRT_HALF * a.abs())
    decay = torch.exp(-0.5 * a.square())
    inside = 1.0 - 0.5 * decay * scaled  # Φ(|a|)
    hazard = torch.where(a > 0, decay / (math.sqrt(2.0 * math.pi) * inside), SQRT_2_OVER_PI / scaled)
    mean = a + hazard
    variance = 1.0 - hazard * mean
    far = a < -_FAR
    if bool(far.any()):  # Digits would cancel there.
        x = -a.clamp(max=-_FAR)
        fraction = x
        for k in range(_FRACTIONS, 2, -1):
            fraction = x + k / fraction
        rest = 2.0 / fraction
        tail = 1.0 / (x + rest)
        mean = torch.where(far, tail, mean)
        variance = torch.where(far, (rest - tail) * tail, variance)
    log_inside = torch.log(torch.where(a > 0, 2.0 * inside, scaled)) - math.log(2.0)
    square = torch.where(a > 0, 0.5 * a.square(), 0.0)
    log_peaked_mass = 0.5 * LOG_2PI + log_inside
    entropy = 0.5 * (LOG_2PI + 1.0) + log_inside - 0.5 * a * torch.where(a > 0, hazard, mean)
    log_mass = (log_peaked_mass + square).masked_fill(outside, -torch.inf)
    return HalfLine(log_mass, log_peaked_mass, mean, variance, entropy)
