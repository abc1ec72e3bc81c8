"""The E-step's problem, which all solvers share.

At fixed λ, σ² and W, each data point has a problem of its own. Write s = δ/σ², G = WᵀW and b = Wᵀx, and let
c and w be the curvature and the majorizer of the prior's expected energy, times γ. Each posterior maximizes

    ½ log |T| − s (½ νᵀGν − bᵀν + ½ tr GT) − γ Σ_h E[energy_h(ν_h, T_hh)],

which is jointly concave in ν and the deviations τ, or in ν and the Cholesky factor of T. It is stationary
where

    ν:  s (Gν − b)_h + w_h ν_h = 0,    w_h = γ erf(ν_h / √2 τ_h) / (λ_h ν_h)             for the Laplace prior
    T:  T⁻¹ = s G + diag(c),           c_h = γ √(2/π) exp(−ν_h² / 2τ_h²) / (λ_h τ_h)     for the Laplace prior

Diagonal and low-rank posteriors meet the second condition as far as their covariances can.

Where features have precisions of their own, s is a diagonal matrix and ``s G`` means ``Wᵀ s W``. Where the
energy of the noise is not quadratic in the residuals (Laplace noise), each entry also has weights of its own,
which depend on the posterior: a majorizer for the mean, and a curvature for the covariance and for Newton
steps, as the prior has them for each latent. :meth:`EStepProblem.at` gives the problem with these weights, a
quadratic one with the same gradient; solvers ask for it again after each step.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from entrosparse import errors
from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError, NumericalError
from entrosparse.likelihoods import Likelihood
from entrosparse.model import SparseCodingModel, split_missing
from entrosparse.posteriors import Diagonal, Posterior
from entrosparse.priors import Prior

PATIENCE = 500  # Sweeps without progress after which solvers by Newton steps give a data point up.
_MOST_GROWTH = 1e3  # Largest power of a deviation that the curvature of an entry is taken to grow with.
_FALL = 0.98  # Factor by which a residual must fall to count as progress.


@final
@dataclass(frozen=True)
class EStepProblem:
    """The E-step of some data points. Entries that were not seen (NaN) have no likelihood.

    ``linear`` is column-major: the numbers of a latent lie together, also in what is computed from it.
    """

    prior: Prior  # With its shapes.
    prior_scale: Tensor  # Scales that include γ, shape (H,): λ/γ for the Laplace prior.
    precision: Tensor  # s, shape (), or (D, 1) where each feature has its own.
    dictionary: Tensor  # W, shape (D, H).
    loading: Tensor  # s W, shape (D, H).
    shared_hessian: Tensor  # s G, shape (H, H), the likelihood's Hessian where no entry is missing.
    linear: Tensor  # s b less the tilt, shape (N, H).
    tilt: Tensor | None  # Linear part of the prior's energy, shape (H,); None if the prior is even.
    seen: Tensor  # The data, with 0 for entries that were not seen, shape (N, D).
    observed: Tensor | None  # 1 where an entry was seen, 0 where not, shape (N, D); None when all were.
    likelihood: Likelihood
    noise_variance: Tensor
    steepness: Tensor | None = None  # Weights of the entries in :meth:`deviation_slope`, where it has such.

    @classmethod
    def from_data(cls, x: Tensor, model: SparseCodingModel, weights: EntropyWeights) -> Self:
        """Return the problem of the rows of ``x`` under a model, at the weights γ, δ."""
        precision = weights.likelihood * model.precision
        limit = torch.finfo(precision.dtype).max ** 0.5
        if not bool((precision <= limit).all()):
            raise InputError(
                f"the 'noise_variance' of the model must be at least {weights.likelihood / limit:.2g} in "
                f"{precision.dtype}; got {float(model.noise_variance.min()):.2g}"
            )
        loading = model.dictionary * precision
        prior = model.factors
        prior_scale = prior.tempered_scale(model.prior_scale, weights.prior)
        tilt = prior.tilt(prior_scale)
        seen, observed = split_missing(x)
        linear = (loading.T @ seen.T).T
        if tilt is not None:
            linear -= tilt
        hessian = loading.T @ model.dictionary if model.likelihood.per_feature else model.gram * precision
        return cls(
            prior,
            prior_scale,
            precision,
            model.dictionary,
            loading,
            hessian,
            linear,
            tilt,
            seen,
            observed,
            model.likelihood,
            model.noise_variance,
        )

    def rows(self, index: Tensor) -> Self:
        """Return the problem of some of the data points."""
        observed = None if self.observed is None else self.observed[index]
        return replace(self, linear=self.linear.T[:, index].T, seen=self.seen[index], observed=observed)

    def spread(self, posterior: Posterior) -> Tensor | None:
        """Return the variances of ``Wz`` (N, D) if entries have weights that depend on them."""
        return None if self.likelihood.quadratic else posterior.reconstruction_variance(self.dictionary)

    def at(self, mean: Tensor, spread: Tensor | None, caution: Tensor | None = None) -> Self:
        """Return the problem that is quadratic in the residuals and has the gradient of this one there.

        It is this one if the likelihood is quadratic. Otherwise its entries have weights (N, D) in place of
        ``observed``: the curvatures, or a share of the majorizers (caution, (N, 1)) where that is more.
        """
        if spread is None:
            return self
        fitted = mean @ self.dictionary.T
        error = self.seen - fitted
        majorizer, curvature = self.likelihood.entry_weights(error, spread, self.noise_variance)
        weight = curvature if caution is None else torch.maximum(curvature, caution * majorizer)
        # Where deviations of the codes grow by a common factor, the curvature changes with the factor's power
        # (error² / spread − 1). Newton steps are safe if they leave out what is below 0.
        tiny = torch.finfo(spread.dtype).tiny
        growth = (error.square() / spread.clamp_min(tiny) - 1.0).clamp(0.0, _MOST_GROWTH)
        if self.observed is not None:
            majorizer, weight = self.observed * majorizer, self.observed * weight
        return replace(
            self,
            seen=weight * fitted + majorizer * error,
            observed=weight,
            steepness=weight * (1.0 + 0.5 * growth),
        )

    def hessian(self) -> Tensor:
        """Return the likelihood's Hessian in ν: (H, H) for all data points, or (N, H, H)."""
        if self.observed is None:
            return self.shared_hessian
        n_components = self.dictionary.shape[1]
        products = (self.dictionary.unsqueeze(2) * self.loading.unsqueeze(1)).flatten(1)
        return (self.observed @ products).reshape(-1, n_components, n_components)

    def diagonal(self) -> Tensor:
        """Return the diagonal of :meth:`hessian`: (H,) or (N, H)."""
        if self.observed is None:
            return self.shared_hessian.diagonal().contiguous()  # Elementwise work is slow on strides.
        return self._diagonal(self.observed)

    def deviation_slope(self, scale: Tensor, of_data: Tensor) -> Tensor:
        """Return half the derivative of ``τ² diagonal``, which is ``of_data`` (N, H), in log τ, or more."""
        if self.steepness is None:
            return of_data
        return scale.square() * self._diagonal(self.steepness)

    def _diagonal(self, entry_weight: Tensor) -> Tensor:
        return ((self.dictionary * self.loading).T @ entry_weight.T).T

    def curvature(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Return c, shape (N, H)."""
        return self.prior.curvature(mean, scale, self.prior_scale)

    def gradient(self, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient in ν of minus the objective, and the majorizer w, (N, H) each."""
        majorizer = self.prior.majorizer(mean, scale, self.prior_scale)
        return self.likelihood_gradient(mean).addcmul_(majorizer, mean), majorizer

    def likelihood_gradient(self, mean: Tensor, latents: slice = slice(None)) -> Tensor:
        """Return ``s (Gν − b)`` and tilt of some latents, (N, len(latents)), a new column-major tensor."""
        if self.observed is None:
            linear = self.linear[:, latents]
            return torch.addmm(linear.T, self.shared_hessian[latents], mean.T, beta=-1.0).T
        error = (mean @ self.dictionary.T).mul_(self.observed).sub_(self.seen)
        gradient = (self.loading[:, latents].T @ error.T).T
        return gradient if self.tilt is None else gradient.add_(self.tilt[latents])

    def variance_slope(self, mean: Tensor, spread: Tensor) -> Tensor:
        """Return the derivative of the energy of the noise in the variances of ``Wz``, (N, D)."""
        error = self.seen - mean @ self.dictionary.T
        _, curvature = self.likelihood.entry_weights(error, spread, self.noise_variance)
        slope = 0.5 * self.precision.reshape(-1) * curvature
        return slope if self.observed is None else self.observed * slope

    def likelihood_slope(
        self, mean: Tensor, spread: Tensor | None, step: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return the derivative of the likelihood's energy along a step, as a function of the share taken.

        The share and the derivative are (N, 1). The spread is that of :meth:`spread`, and stays.
        """
        if spread is None:
            start = torch.linalg.vecdot(self.likelihood_gradient(mean), step).unsqueeze(1)
            bend = torch.linalg.vecdot(self.hessian_product(step), step).unsqueeze(1)
            return lambda share: start + share * bend
        error, change = self.seen - mean @ self.dictionary.T, step @ self.dictionary.T
        pull = step @ self.loading.T if self.observed is None else self.observed * (step @ self.loading.T)

        def slope(share: Tensor) -> Tensor:
            there = error - share * change
            majorizer, _ = self.likelihood.entry_weights(there, spread, self.noise_variance)
            of_noise = -torch.linalg.vecdot(majorizer * there, pull).unsqueeze(1)
            return of_noise if self.tilt is None else of_noise + (step @ self.tilt).unsqueeze(1)

        return slope

    def hessian_product(self, vectors: Tensor) -> Tensor:
        """Return ``s G v`` of each row v, (N, H), a new column-major tensor."""
        if self.observed is None:
            return (self.shared_hessian @ vectors.T).T
        return (self.loading.T @ (vectors @ self.dictionary.T).mul_(self.observed).T).T

    def diagonal_stationarity(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Return :meth:`stationarity` of diagonal posteriors, without a matrix for each data point."""
        local = self.at(mean, self.spread(Diagonal(mean, scale)))
        by_mean = local.gradient(mean, scale)[0].mul_(scale).abs_()
        by_scale = (scale.square() * (local.diagonal() + self.curvature(mean, scale)) - 1.0).abs_()
        return torch.maximum(by_mean, by_scale).amax(1)

    def stationarity(self, posterior: Posterior) -> Tensor:
        """Return how far each posterior is from its optimum, shape (N,), in nats per posterior deviation."""
        local = self.at(posterior.mean, self.spread(posterior))
        gradient = local.likelihood_gradient(posterior.mean)
        return posterior.distance_from_optimum(gradient, local.hessian(), self.prior, self.prior_scale)


def stationarity(
    posterior: Posterior, x: Tensor, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
) -> Tensor:
    """Return how far each posterior is from its optimum, shape (N,), in nats per posterior deviation.

    This is for Eq. 17 at fixed λ and σ²; see
    :meth:`~entrosparse.posteriors.Posterior.distance_from_optimum`.
    """
    return EStepProblem.from_data(x, model, weights).stationarity(posterior)


@final
class Progress:
    """Knows which data points get no closer to their optimum, because rounding keeps them from it.

    Attributes
    ----------
    n_given_up : int
        Data points that were given up.

    Parameters
    ----------
    mean : Tensor of shape (N, H)
        Any tensor with a row for each data point, of the dtype and device of the residuals.
    patience : int
        Looks at a residual in which it must fall by a fiftieth.
    """

    def __init__(self, mean: Tensor, patience: int) -> None:
        self._best = torch.full_like(mean[:, 0], torch.inf)
        self._waited = torch.zeros_like(self._best)
        self._patience = patience
        self.n_given_up = 0

    def goes_on(self, rows: Tensor, residual: Tensor, tolerance: float) -> Tensor:
        """Take note of the residuals of some rows; return which are neither small enough nor given up."""
        better = residual < _FALL * self._best[rows]
        self._best[rows] = torch.where(better, residual, self._best[rows])
        self._waited[rows] = torch.where(better, 0.0, self._waited[rows] + 1.0)
        left, given_up = residual > tolerance, self._waited[rows] >= self._patience
        self.n_given_up += int((left & given_up).sum())
        return left & ~given_up


def check_finite(*tensors: Tensor) -> None:
    """Raise NumericalError unless all posteriors are finite."""
    if not all(bool(torch.isfinite(tensor.sum())) for tensor in tensors):
        raise NumericalError("inference gave codes that are not finite; scale the data to unit variance")


def warn_unfinished(n_left: int, n_rows: int, tolerance: float, max_iterations: int) -> None:
    """Warn that data points are left above the tolerance."""
    warnings.warn(
        f"{n_left} of {n_rows} data points are above the tolerance {tolerance:g} after {max_iterations} "
        "iterations, or got no closer for many; raise max_iterations or the tolerance, or work in float64",
        errors.ConvergenceWarning,
        stacklevel=3,
    )
