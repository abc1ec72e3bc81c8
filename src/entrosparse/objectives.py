"""Objectives: pure functions of :class:`~entrosparse.statistics.Statistics`. All are maximized."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.closed_form import isotropic_gaussian_entropy
from entrosparse.priors import PRIORS, Prior
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True)
class ElboTerms:
    """The three entropies of Eq. 7, in nats per data point, as tensors of shape ().

    Attributes
    ----------
    posterior : Tensor
        Mean of ``H[q(z)]``.
    prior : Tensor
        ``H[p(z)]`` at the optimal prior scales.
    likelihood : Tensor
        ``H[p(x|z)]`` at the optimal noise variance.
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


def optimal_scales(statistics: Statistics, prior: Prior = PRIORS["laplace"]) -> tuple[Tensor, Tensor]:
    """Return the optimal prior scales λ (H,) and noise variance σ² () of Theorem 2 (Eq. 10, 11)."""
    return (
        prior.optimal_scale(statistics.prior_statistic / statistics.weight),
        statistics.residual / statistics.n_entries,
    )


def entropy_elbo(
    statistics: Statistics,
    weights: EntropyWeights = EntropyWeights(),
    prior: Prior = PRIORS["laplace"],
) -> ElboTerms:
    """Evaluate the entropy ELBO (Eq. 15, 106-108) and its annealed form (Eq. 17, 109).

    Parameters
    ----------
    statistics : Statistics
        Sums over the data; gradients flow through them to the posterior and the dictionary.
    weights : EntropyWeights
        γ and δ.
    prior : Prior
        The prior whose statistic was summed.

    Returns
    -------
    ElboTerms
        The three entropies in nats per data point, at one λ and one σ² for all the data.
    """
    prior_scale, noise_variance = optimal_scales(statistics, prior)
    return ElboTerms(
        posterior=statistics.posterior_entropy / statistics.weight,
        prior=prior.entropy(prior_scale).sum(),
        likelihood=isotropic_gaussian_entropy(noise_variance, statistics.n_entries / statistics.weight),
        weights=weights,
    )
