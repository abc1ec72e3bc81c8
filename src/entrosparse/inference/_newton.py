"""What the E-steps with correlated latents share: safe factorizations and safe Newton steps."""

import warnings
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from entrosparse.errors import NumericalError

MAX_LOG_STEP = 1.0  # Largest change of the logarithm of a deviation per sweep.

_MAX_STEP = 3.0  # Largest change of a mean per sweep, in posterior deviations.
_MAX_SHARE = 1e-3  # Largest change of a mean per sweep, as a share of the largest mean, if that is more.
_SMALLER, _LARGER = 0.5, 1.2  # Factors on the damping of a data point whose residual grew, and fell.
_MIN_DAMPING = 0.1  # Least factor on the steps of a data point.
_JITTERS = (1e-6, 1e-4)  # What is added to a diagonal in turn, as a share of its mean.
_BLOCK = 16  # Rows that are eliminated together.


@final
class TrustRegion:
    """Keeps the sweeps of each data point from overshooting.

    Where the likelihood does not determine a direction, only the prior's curvature does. That curvature falls
    with exp(−ν²/2τ²), so it vanishes for a deviation that starts too small, and the Newton step becomes far
    too long. Therefore means and deviations change by bounded amounts per sweep. If the residual of a data
    point grows, its next steps are damped, and less and less so as it falls.
    """

    def __init__(self, mean: Tensor) -> None:
        self._damping = torch.ones_like(mean[:, :1])
        self._last = torch.full_like(mean[:, :1], torch.inf)

    def move(
        self, rows: Tensor, mean: Tensor, step: Tensor, scale: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move means to ``mean − step`` and deviations from ``scale`` to ``target``, as far as allowed."""
        damping = self._damping[rows]
        log_step = (target / scale).log().clamp(-MAX_LOG_STEP, MAX_LOG_STEP)
        scale = scale * torch.exp(damping * log_step)
        bound = (_MAX_SHARE * (mean / scale).abs().amax(1, keepdim=True)).clamp_min(_MAX_STEP)
        share = (bound / (step / scale).abs().amax(1, keepdim=True)).clamp(max=1.0)
        return mean - damping * share * step, scale

    def follow(self, rows: Tensor, spread: Tensor | None, target: Tensor | None) -> None:
        """Move variances of other combinations of latents (N, K) to a target as deviations move; in place."""
        if spread is not None and target is not None:
            log_step = (target / spread[rows]).log().clamp(-2.0 * MAX_LOG_STEP, 2.0 * MAX_LOG_STEP)
            spread[rows] *= torch.exp(self._damping[rows] * log_step)

    def report(self, rows: Tensor, residual: Tensor) -> None:
        """Note the residuals after a move, shape (len(rows),), and damp the rows that overshot."""
        residual = residual.unsqueeze(1)
        damping = torch.where(residual > self._last[rows], _SMALLER, _LARGER) * self._damping[rows]
        self._damping[rows] = damping.clamp(_MIN_DAMPING, 1.0)
        self._last[rows] = residual


def precision_of(hessian: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``P = s G + diag(c)`` (N, H, H), and c (N, H) raised above the rounding errors of G.

    Under a prior that is not convex some c are negative. They stay so where P is positive definite; elsewhere
    their magnitudes take their place.
    """
    largest = torch.diagonal(hessian, dim1=-2, dim2=-1).amax(-1, keepdim=True)
    raised = curvature.abs().clamp_min(8.0 * torch.finfo(hessian.dtype).eps * largest)
    concave = (curvature < 0.0).any(-1)
    if bool(concave.any()):
        whole = _with_diagonal(hessian, torch.where(curvature < 0.0, curvature, raised))
        definite = concave & (torch.linalg.cholesky_ex(whole).info == 0)
        raised = torch.where(definite.unsqueeze(-1) & (curvature < 0.0), curvature, raised)
    return _with_diagonal(hessian, raised), raised


def _with_diagonal(hessian: Tensor, added: Tensor) -> Tensor:
    precision = hessian.expand(*added.shape, -1).clone()
    torch.diagonal(precision, dim1=-2, dim2=-1).add_(added)
    return precision


def cholesky_of(matrices: Tensor) -> Tensor:
    """Return the lower Cholesky factors L, with jitter added to a matrix only where it is needed.

    A RuntimeWarning says to how many matrices, and how much. NumericalError says that it was not enough.
    """
    return _with_jitter(torch.linalg.cholesky_ex, matrices)


def inverse_cholesky_of(matrices: Tensor) -> Tensor:
    """Return ``L⁻¹`` for the lower Cholesky factors L of :func:`cholesky_of`, with its warning and error."""
    return _with_jitter(_eliminate, matrices)


def _eliminate(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``L⁻¹`` and, for each matrix, a number above 0 where it is not positive definite.

    This is Gauss-Jordan elimination of [P | I] by blocks of rows. Each block is scaled by the inverse
    Cholesky factor of its pivot, so that nearly all work is in matrix products. The columns of I are stored
    in place of the columns of P that have been eliminated.
    """
    work = matrices.clone()
    failed = torch.zeros(len(work), dtype=torch.int32, device=work.device)
    for start in range(0, work.shape[-1], _BLOCK):
        block, rest = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        pivot, info = torch.linalg.cholesky_ex(work[:, block, block])
        failed |= info
        identity = torch.eye(pivot.shape[-1], dtype=work.dtype, device=work.device)
        scaling = torch.linalg.solve_triangular(pivot, identity.expand_as(pivot), upper=False)
        work[:, block, block] = identity
        rows = scaling @ work[:, block]
        work[:, rest, block] = 0.0
        work[:, rest].baddbmm_(rows[..., rest].mT, rows, alpha=-1.0)
        rows[..., rest] = 0.0
        work[:, block] = rows
    return work, failed


def _with_jitter(factorize: Callable[[Tensor], tuple[Tensor, Tensor]], matrices: Tensor) -> Tensor:
    """Return the factors; ``factorize`` gives factors, and a number above 0 for each that failed."""
    factor, failed = factorize(matrices)
    for jitter in _JITTERS:
        bad = failed > 0
        if not bool(bad.any()):
            return factor
        amount = jitter * torch.diagonal(matrices[bad], dim1=-2, dim2=-1).mean(-1, keepdim=True)
        warnings.warn(
            f"{int(bad.sum())} of {len(matrices)} posterior precisions were not positive definite; "
            f"added up to {float(amount.max()):.3g} to their diagonals ({jitter:g} of its mean)",
            RuntimeWarning,
            stacklevel=4,
        )
        jittered = matrices[bad] + torch.diag_embed(amount.expand(-1, matrices.shape[-1]))
        factor[bad], failed[bad] = factorize(jittered)
    if bool((failed > 0).any()):
        raise NumericalError(
            f"{int((failed > 0).sum())} posterior precisions are not positive definite even with jitter "
            f"{_JITTERS[-1]:g} of their diagonals; scale the data, or work in float64"
        )
    return factor
