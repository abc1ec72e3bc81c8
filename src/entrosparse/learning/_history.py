"""The history of a training run."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class EpochRecord:
    """One row of the history; entropies and ELBO in nats per held-out data point, at γ = δ = 1.

    Attributes
    ----------
    epoch : int
        0 is the state before learning.
    seconds : float
        Time spent learning so far, the start included and evaluation left out.
    samples_seen : int
        Data points learned from so far.
    elbo, posterior_entropy, prior_entropy, likelihood_entropy : float
        The held-out ELBO and its three entropies, at one λ and one σ² that are optimal for the held-out data.
    gamma, delta : float
        Weights γ and δ of the epoch.
    noise_variance : float
        σ² of the learned model.
    gini_mean, gini_std : float
        Gini index of the held-out posterior means.
    dead_latents : int
        Number of latents that carry no information on the held-out data.
    """

    epoch: int
    seconds: float
    samples_seen: int
    elbo: float
    posterior_entropy: float
    prior_entropy: float
    likelihood_entropy: float
    gamma: float
    delta: float
    noise_variance: float
    gini_mean: float
    gini_std: float
    dead_latents: int
