"""Objectives: the ELBO as entropies, as the classical sum, and by sampling; and the l1 objective beside them.

The analytic ones are pure functions of :class:`~entrosparse.statistics.Statistics`. All ELBOs are maximized;
the l1 objective is minimized.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.model import SparseCodingModel, split_missing
from entrosparse.posteriors import Posterior
from entrosparse.statistics import Statistics

_NUMBERS_AT_ONCE = 2**24  # Numbers of sampled codes and data that are held at a time.


@final
@dataclass(frozen=True)
class ElboTerms:
    """The three terms of the ELBO, in nats per data point, as tensors of shape ().

    At the optimal λ and σ² all three are entropies (Theorem 1, Eq. 7); elsewhere the last two are
    cross-entropies.

    Attributes
    ----------
    posterior : Tensor
        Mean of ``H[q(z)]``.
    prior : Tensor
        Mean of ``−E[log p(z)]``: ``H[p(z)]`` at the optimal prior scales.
    likelihood : Tensor
        Mean of ``−E[log p(x|z)]``: ``H[p(x|z)]`` at the optimal noise variance.
    weights : EntropyWeights
        γ and δ of :attr:`objective`.
    """

    posterior: Tensor
    prior: Tensor
    likelihood: Tensor
    weights: EntropyWeights = EntropyWeights()

    @property
    def elbo(self) -> Tensor:
        """``H[q] − H[p(z)] − H[p(x|z)]`` (Eq. 15): the bound, whatever the weights."""
        return self.posterior - self.prior - self.likelihood

    @property
    def objective(self) -> Tensor:
        """``H[q] − γ H[p(z)] − δ H[p(x|z)]`` (Eq. 17); to be maximized."""
        return self.posterior - self.weights.prior * self.prior - self.weights.likelihood * self.likelihood


def optimal_prior(statistics: Statistics) -> tuple[Tensor, Tensor | None]:
    """Return the optimal prior scales (H,), and shapes (H,) of a prior that has some (Theorem 2, Eq. 11)."""
    family, statistic = statistics.prior, statistics.prior_statistic / statistics.total_weight
    shape = family.optimal_shape(statistic)
    return family.at(shape).optimal_scale(family.member_statistic(statistic, shape)), shape


def optimal_scales(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return the optimal prior scales λ (H,) and noise variance σ² of Theorem 2 (Eq. 10, 11)."""
    return optimal_prior(statistics)[0], optimal_noise_variance(statistics)


def optimal_noise_variance(statistics: Statistics) -> Tensor:
    """Return the optimal noise variance σ², () or (D,) (Theorem 2, Eq. 10).

    A feature of which no entry was seen has the mean of the variances of the others. Data without any
    residual have the least variance that is not zero.
    """
    residual, n_entries = statistics.residual, statistics.n_entries
    mean_statistic = residual / n_entries
    if bool((n_entries == 0).any()):
        mean_statistic = torch.where(n_entries > 0, mean_statistic, mean_statistic.nanmean())
    variance = statistics.likelihood.optimal_variance(mean_statistic)
    return variance.clamp_min(torch.finfo(variance.dtype).tiny)


def with_optimal_scales(model: SparseCodingModel, statistics: Statistics) -> SparseCodingModel:
    """Return the model with optimal prior scales, prior shapes and noise variance (Theorem 2)."""
    prior_scale, shape = optimal_prior(statistics)
    return replace(
        model,
        prior_scale=prior_scale.to(model.dictionary),
        noise_variance=optimal_noise_variance(statistics).to(model.dictionary),
        prior_shape=None if shape is None else shape.to(model.dictionary),
    )


def entropy_elbo(statistics: Statistics, weights: EntropyWeights = EntropyWeights()) -> ElboTerms:
    """Evaluate the entropy ELBO (Eq. 15, 106-108) and its annealed form (Eq. 17, 109).

    Parameters
    ----------
    statistics : Statistics
        Sums over the data; gradients flow through them to the posterior and the dictionary.
    weights : EntropyWeights
        γ and δ.

    Returns
    -------
    ElboTerms
        The three entropies in nats per data point, at one λ and one σ² for all the data.
    """
    prior_scale, shape = optimal_prior(statistics)
    noise_variance = optimal_noise_variance(statistics)
    return ElboTerms(
        posterior=statistics.posterior_entropy / statistics.total_weight,
        prior=statistics.prior.at(shape).entropy(prior_scale).sum(),
        likelihood=statistics.likelihood.entropy(
            noise_variance, statistics.n_entries / statistics.total_weight
        ),
        weights=weights,
    )


def analytic_elbo(
    statistics: Statistics, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
) -> ElboTerms:
    """Evaluate the classical ELBO, with λ and σ² free (Eq. 111-125, 147-149).

    It is the entropy ELBO at the optimal λ and σ², and below it elsewhere (Theorem 1). With the model in the
    form of Eq. 1 (:func:`with_unit_scales`) and posteriors of its codes it is Eq. 123-125.

    Parameters
    ----------
    statistics : Statistics
        Sums over the data, collected with the model's dictionary and prior.
    model : SparseCodingModel
        λ and σ²; gradients flow to them too.
    weights : EntropyWeights
        γ and δ.

    Returns
    -------
    ElboTerms
        Posterior entropy and the two cross-entropies, in nats per data point.

    Raises
    ------
    InputError
        If the statistics were summed for another prior or likelihood than the model's.
    """
    for part in ("prior", "likelihood"):
        expected, got = getattr(model, part), getattr(statistics, part)
        if expected != got:
            raise InputError(f"the statistics must be those of the model's {part}, {expected}; got {got}")
    shape = None if model.prior_shape is None else model.prior_shape.double()
    statistic = model.prior.member_statistic(statistics.prior_statistic / statistics.total_weight, shape)
    log_prior = model.prior.at(shape).expected_log_prob(statistic, model.prior_scale.double())
    log_likelihood = model.likelihood.expected_log_prob(
        statistics.residual / statistics.total_weight,
        statistics.n_entries / statistics.total_weight,
        model.noise_variance.double(),
    )
    return ElboTerms(
        posterior=statistics.posterior_entropy / statistics.total_weight,
        prior=-log_prior.sum(),
        likelihood=-log_likelihood,
        weights=weights,
    )


def monte_carlo_elbo(
    posterior: Posterior,
    x: Tensor,
    model: SparseCodingModel,
    n_samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate the ELBO (Eq. 4) from samples: ``E[log p(x, z)]`` by sampling, ``H[q]`` in closed form.

    Samples are reparameterized, so gradients of the estimate are unbiased for posterior and model.

    Parameters
    ----------
    posterior : Posterior
        Posteriors of the N data points.
    x : Tensor of shape (N, D)
        The data points.
    model : SparseCodingModel
        W, λ and σ².
    n_samples : int
        Samples for each data point, at least 1.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    Tensor of shape ()
        Nats per data point.

    Raises
    ------
    InputError
        If ``n_samples`` is below 1.
    """
    if n_samples < 1:
        raise InputError(f"the 'n_samples' parameter must be an integer >= 1; got {n_samples}")
    log_joint = model.log_joint(x, posterior.sample(n_samples, generator))
    return (log_joint.mean(0) + posterior.entropy()).mean()


def importance_log_likelihood(
    posterior: Posterior,
    x: Tensor,
    model: SparseCodingModel,
    n_samples: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate ``log p(x_n)`` of each data point by importance sampling from its posterior.

    ``p(x) = E_q[p(x, z) / q(z)]``. On average the logarithm of a mean over samples is not above
    ``log p(x)`` and not below the ELBO, and it rises to the former with the number of samples.

    Parameters
    ----------
    posterior : Posterior
        Where codes are drawn from. The closer it is to the true posterior, the fewer samples are needed: full
        and low-rank covariances are better than diagonal ones.
    x : Tensor of shape (N, D)
        The data points; NaN are entries that were not seen.
    model : SparseCodingModel
        W, λ and σ².
    n_samples : int
        Samples for each data point, at least 2.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    log_likelihood : Tensor of shape (N,)
        Nats, in float64.
    standard_error : Tensor of shape (N,)
        Of the estimates, from the spread of the ratios ``p(x, z) / q(z)`` that were seen. Where the tails of
        q are lighter than those of the true posterior, rare large ratios are missing, and it is too small.

    Raises
    ------
    InputError
        If ``n_samples`` is below 2.
    """
    if n_samples < 2:
        raise InputError(f"the 'n_samples' parameter must be an integer >= 2; got {n_samples}")
    at_once = max(1, _NUMBERS_AT_ONCE // (len(x) * sum(model.dictionary.shape)))
    log_ratios = []
    for first in range(0, n_samples, at_once):
        z = posterior.sample(min(at_once, n_samples - first), generator)
        log_ratios.append((model.log_joint(x, z) - posterior.log_prob(z)).double())
    log_ratio = torch.cat(log_ratios)
    log_likelihood = log_ratio.logsumexp(0) - math.log(n_samples)
    return log_likelihood, (log_ratio - log_likelihood).exp().std(0) / n_samples**0.5


def l1_objective(codes: Tensor, x: Tensor, dictionary: Tensor, penalty: float | Tensor) -> Tensor:
    """Evaluate deterministic sparse coding, ``Σ_n ‖x − Wz‖² + penalty Σ_nh |z_h|`` (Eq. 2); minimized.

    With ``penalty = 2γσ²/(δλ_h)`` at the optimal λ, σ² its gradient in the codes is ``−2Nσ²/δ`` times that
    of Eq. 17 in the means, once posterior deviations vanish and soft magnitudes become magnitudes (3.4).

    Parameters
    ----------
    codes : Tensor of shape (N, H)
        Deterministic codes, such as posterior means.
    x : Tensor of shape (N, D)
        The data points.
    dictionary : Tensor of shape (D, H)
        W̃.
    penalty : float or Tensor of shape (H,)
        Weight of the sparsity term, in data units.

    Returns
    -------
    Tensor of shape ()
        The sum over data points, in squared data units.
    """
    return (x - codes @ dictionary.T).square().sum() + (penalty * codes.abs()).sum()


def with_unit_scales(model: SparseCodingModel) -> SparseCodingModel:
    """Return the same ``p(x)`` in the form of Eq. 1: ``W = W̃ diag(λ)`` is free and λ = 1.

    Codes z, posterior means and deviations of the given model are those of the result after division by λ.
    """
    dictionary = model.dictionary * model.prior_scale
    return replace(model, dictionary=dictionary, prior_scale=torch.ones_like(model.prior_scale))


def pointwise_elbo(posterior: Posterior, x: Tensor, model: SparseCodingModel) -> Tensor:
    """Return the ELBO of each data point at the model's own λ and σ², shape (N,), in nats (Eq. 111-125).

    Each is a lower bound on ``log p(x_n)`` of the entries seen; where λ and σ² are optimal for the data,
    their mean is the entropy ELBO (15).
    """
    seen, observed = split_missing(x)
    statistic = posterior.expected_statistic(model.factors)
    log_prior = model.factors.expected_log_prob(statistic, model.prior_scale).sum(1)
    residual = model.likelihood.expected_statistic(posterior, model.dictionary, seen, observed)
    n_entries: Tensor | int = x.shape[1]
    if model.likelihood.per_feature:
        n_entries = torch.ones_like(seen) if observed is None else observed
    elif observed is not None:
        n_entries = observed.sum(1)
    log_likelihood = model.likelihood.expected_log_prob(residual, n_entries, model.noise_variance)
    return posterior.entropy() + log_prior + log_likelihood
