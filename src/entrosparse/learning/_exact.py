"""Exact EM on data held in memory: every step raises objective (17) or leaves it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import DiagonalInference, Inference
from entrosparse.learning._e_step import e_step
from entrosparse.learning._m_step import exact_sweep
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms, entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal


@final
@dataclass(frozen=True)
class ExactEMStep:
    """The state after an E-step and the closed forms of λ and σ².

    Attributes
    ----------
    terms : ElboTerms
        Entropies of the data, in nats per data point; ``terms.objective`` never falls from step to step.
    model : SparseCodingModel
        The dictionary that the posteriors belong to, with their optimal λ and σ².
    marginals : Diagonal
        Means and marginal deviations of the posteriors of all data points.
    """

    terms: ElboTerms
    model: SparseCodingModel
    marginals: Diagonal


def exact_em(
    x: Tensor,
    model: SparseCodingModel,
    weights: EntropyWeights = EntropyWeights(),
    inference: Inference = DiagonalInference(),
    n_sweeps: int = 1,
) -> Iterator[ExactEMStep]:
    """Iterate E-steps and exact M-steps on all data; take as many steps as wanted.

    At fixed λ, σ² objective (17) has a lower bound that touches it, ``L_γδ(Φ, λ, σ², W)``. The E-step
    maximizes that over Φ, the column updates over W, and Eq. 10, 11 over λ and σ², so objective (17) never
    falls, for every fixed γ and δ.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        The data.
    model : SparseCodingModel
        Where to start.
    weights : EntropyWeights
        γ and δ. For γ > 1 the objective has no upper bound (a latent that vanishes gains without limit), so
        more steps are not better.
    inference : Inference
        The E-step, started from the posteriors of the step before.
    n_sweeps : int
        Sweeps of column updates in each M-step.
    """
    marginals = None
    while True:
        statistics, marginals = e_step(x, model, inference, weights, marginals)
        prior_scale, noise_variance = optimal_scales(statistics, model.prior)
        model = replace(model, prior_scale=prior_scale.to(x), noise_variance=noise_variance.to(x))
        yield ExactEMStep(entropy_elbo(statistics, weights, model.prior), model, marginals)
        dictionary = model.dictionary
        for _ in range(n_sweeps):
            dictionary = exact_sweep(dictionary, statistics)
        model = replace(model, dictionary=dictionary)
