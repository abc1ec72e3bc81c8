"""Slow and obvious versions: quadrature, big matrices, generic optimizers, Monte Carlo."""

import itertools
import math

import numpy as np
import torch
from scipy import integrate, optimize, special, stats

from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel
from kinds import SHAPES


def expected_magnitude(mean: float, scale: float) -> float:
    """E|z| by adaptive quadrature, split where the integrand has its kink and its peak."""
    density = stats.norm(mean, scale).pdf
    points = sorted({0.0, mean} | {mean + k * scale for k in (-40, -8, -3, 3, 8, 40)})
    total = 0.0
    for low, high in itertools.pairwise(points):
        total += integrate.quad(lambda z: abs(z) * density(z), low, high, epsabs=0, epsrel=1e-13, limit=200)[
            0
        ]
    return total


def entropy_by_quadrature(log_density, low: float, high: float, points=()) -> float:
    """−∫ p log p on [low, high]."""
    edges = [low, *points, high]
    total = 0.0
    for left, right in itertools.pairwise(edges):
        total -= integrate.quad(
            lambda z: math.exp(log_density(z)) * log_density(z),
            left,
            right,
            epsabs=0,
            epsrel=1e-12,
            limit=500,
        )[0]
    return total


def classical_elbo(
    mean: np.ndarray,
    covariance: np.ndarray,
    x: np.ndarray,
    model: SparseCodingModel,
    weights: EntropyWeights = EntropyWeights(),
) -> float:
    """L_γδ at given λ, σ² for one data point, from E|z_h| = ∫ and explicit matrices (Eq. 111-125)."""
    dictionary, prior_scale = model.dictionary.numpy(), model.prior_scale.numpy()
    noise_variance = float(model.noise_variance)
    n_features = len(dictionary)
    sign, log_determinant = np.linalg.slogdet(2 * math.pi * math.e * covariance)
    entropy = 0.5 * log_determinant if sign > 0 else -math.inf
    deviation = np.sqrt(np.diag(covariance))
    a = mean / deviation
    # E|z| from the cumulative distribution function, not from the closed form in use
    magnitude = deviation * 2 * stats.norm.pdf(a) + mean * (2 * stats.norm.cdf(a) - 1)
    log_prior = -(np.log(2 * prior_scale) + magnitude / prior_scale).sum()
    residual = ((x - dictionary @ mean) ** 2).sum() + np.trace(dictionary @ covariance @ dictionary.T)
    log_likelihood = -0.5 * (n_features * math.log(2 * math.pi * noise_variance) + residual / noise_variance)
    return float(entropy + weights.prior * log_prior + weights.likelihood * log_likelihood)


def best_diagonal_posterior(
    x: np.ndarray, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
) -> tuple[np.ndarray, np.ndarray, float]:
    """(ν, τ, objective) of one data point by a generic optimizer with numerical gradients."""
    n_components = model.n_components

    def loss(parameters: np.ndarray) -> float:
        mean, scale = parameters[:n_components], np.exp(parameters[n_components:])
        return -classical_elbo(mean, np.diag(scale**2), x, model, weights)

    start = np.concatenate([np.zeros(n_components), np.full(n_components, -1.0)])
    result = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-8, "maxiter": 5000})
    result = optimize.minimize(loss, result.x, method="Powell", options={"xtol": 1e-10, "ftol": 1e-14})
    return result.x[:n_components], np.exp(result.x[n_components:]), -result.fun


def best_full_posterior(x: np.ndarray, model: SparseCodingModel) -> float:
    """Objective of the best full posterior of one data point, by a generic optimizer."""
    n_components = model.n_components
    lower = np.tril_indices(n_components)

    def loss(parameters: np.ndarray) -> float:
        factor = np.zeros((n_components, n_components))
        factor[lower] = parameters[n_components:]
        np.fill_diagonal(factor, np.exp(np.diag(factor)))
        return -classical_elbo(parameters[:n_components], factor @ factor.T, x, model)

    start = np.zeros(n_components + len(lower[0]))
    return -optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 5000}).fun


class SkewedLaplace:
    """Exponential falls of lengths ``upper`` and ``lower``, with the methods of SciPy's distributions."""

    def __init__(self, upper, lower) -> None:
        self.upper, self.lower = upper, lower

    def logpdf(self, z):
        energy = np.where(np.asarray(z) > 0, z / self.upper, -np.asarray(z) / self.lower)
        return -energy - np.log(self.upper + self.lower)

    def cdf(self, z):
        below = self.lower * np.exp(np.minimum(z, 0.0) / self.lower)
        above = self.upper * -np.expm1(-np.maximum(z, 0.0) / self.upper)
        return (below + above) / (self.upper + self.lower)

    def std(self):
        upper, lower = self.upper, self.lower
        mean = (upper**2 - lower**2) / (upper + lower)
        return math.sqrt(2.0 * (upper**3 + lower**3) / (upper + lower) - mean**2)


_P, _KAPPA = SHAPES["generalized-gaussian"], SHAPES["skewed-laplace"]
DENSITIES = {
    "laplace": lambda scale: stats.laplace(scale=scale),
    "gaussian": lambda scale: stats.norm(scale=scale),
    "generalized-gaussian": lambda scale: stats.gennorm(_P, scale=scale * _P ** (1.0 / _P)),
    "skewed-laplace": lambda scale: SkewedLaplace(2.0 * _KAPPA * scale, 2.0 * (1.0 - _KAPPA) * scale),
    "exponential": lambda scale: stats.expon(scale=scale),
}
"""The density of each prior, at its shape in tests."""


def log_joint(x, z, model):
    """log p(x, z) by SciPy for one data point x (D,) and codes z (S, H)."""
    noise = stats.norm(scale=math.sqrt(float(model.noise_variance)))
    likelihood = noise.logpdf(x - z @ model.dictionary.numpy().T).sum(1)
    return likelihood + DENSITIES[model.prior.name](model.prior_scale.numpy()).logpdf(z).sum(1)


def evidence_by_quadrature(x, model):
    """log p(x) by Gauss-Legendre in each orthant, so that the kinks of the prior are at the edges."""
    node, weight = np.polynomial.legendre.leggauss(150)
    side, side_weight = 6.0 * (node + 1.0), 6.0 * weight
    line, line_weight = np.append(-side, side), np.append(side_weight, side_weight)
    h = model.n_components
    z = np.stack(np.meshgrid(*[line] * h), axis=-1).reshape(-1, h)
    log_weight = np.log(np.stack(np.meshgrid(*[line_weight] * h), axis=-1)).reshape(-1, h).sum(1)
    return np.array([special.logsumexp(log_joint(row, z, model) + log_weight) for row in x.numpy()])


def gaussian_evidence(x, model):
    """log p(x) under the Gaussian prior, where ``x ~ N(0, W diag(λ²) Wᵀ + σ² I)``, of the entries seen."""
    loading = (model.dictionary * model.prior_scale).numpy()
    covariance = loading @ loading.T + float(model.noise_variance) * np.eye(len(loading))
    evidence = np.zeros(len(x))
    for n, row in enumerate(x.numpy()):
        seen = ~np.isnan(row)
        if seen.any():
            evidence[n] = stats.multivariate_normal(cov=covariance[np.ix_(seen, seen)]).logpdf(row[seen])
    return evidence


def finite_difference(function, x: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Central differences of a scalar function at every entry of x."""
    gradient = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        for sign in (1.0, -1.0):
            shifted = x.clone()
            shifted[index] += sign * step
            gradient[index] += sign * function(shifted) / (2.0 * step)
    return gradient


def two_sided_density(right: float, left: float, scale: float):
    """The logarithm of ``exp(−z²/2s² + z m/s²)``, m = right for z > 0 and −left for z < 0, and its integral's
    edges: around zero and the peaks of both sides.
    """

    def log_density(z: float) -> float:
        m = right if z >= 0 else -left
        return (z * m - 0.5 * z * z) / scale**2

    peaks = [max(right, 0.0), 0.0, -max(left, 0.0)]
    # The width of a side: s for a peak inside, and that of an exponential density for one far outside.
    widths = [scale / max(1.0, -m / scale) for m in (right, left)]
    edges = {0.0}
    for peak in peaks:
        for k in (1, 4, 12, 45):
            if peak >= 0:
                edges |= {max(0.0, peak - k * widths[0]), peak + k * widths[0]}
            if peak <= 0 and left > -math.inf:
                edges |= {min(0.0, peak + k * widths[1]), peak - k * widths[1]}
    return log_density, sorted(edges)


def expectation(log_density, edges, function) -> float:
    """E[function(z)] under a density that is not normalized."""
    largest = max(log_density(z) for z in edges)

    def integral(f):
        return sum(
            integrate.quad(
                lambda z: math.exp(log_density(z) - largest) * f(z), *pair, epsabs=0, epsrel=1e-12, limit=200
            )[0]
            for pair in itertools.pairwise(edges)
        )

    return integral(function) / integral(lambda z: 1.0)


def log_integral(log_density, edges) -> float:
    """The logarithm of the integral of a density that is not normalized."""
    largest = max(log_density(z) for z in edges)
    return largest + math.log(
        sum(
            integrate.quad(
                lambda z: math.exp(log_density(z) - largest), *pair, epsabs=1e-14, epsrel=1e-12, limit=200
            )[0]
            for pair in itertools.pairwise(edges)
        )
    )
