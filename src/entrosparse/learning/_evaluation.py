"""The ELBO that is reported: of given data, at one λ and one σ² for all of them."""

from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from entrosparse.inference import DiagonalInference, Inference
from entrosparse.learning._e_step import e_step
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms, entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal


@final
@dataclass(frozen=True)
class Evaluation:
    """A dictionary judged on data.

    Attributes
    ----------
    terms : ElboTerms
        ELBO and entropies in nats per data point.
    marginals : Diagonal
        Means ν and marginal deviations τ of the posteriors, (N, H) each.
    model : SparseCodingModel
        The dictionary with the λ and σ² that are optimal for these data.
    """

    terms: ElboTerms
    marginals: Diagonal
    model: SparseCodingModel


def evaluate(
    model: SparseCodingModel,
    x: Tensor,
    inference: Inference = DiagonalInference(tolerance=0.0, max_iterations=5),
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> Evaluation:
    """Maximize the entropy ELBO (15) of ``x`` over the posteriors, with the dictionary fixed.

    Inference at fixed λ, σ² and their closed-form optimum (Eq. 10, 11) take turns until the ELBO gains less
    than the tolerance, so the result judges the dictionary alone, learned here or elsewhere.

    Parameters
    ----------
    model : SparseCodingModel
        The dictionary, and λ, σ² to start from.
    x : Tensor of shape (N, D)
        The data: held-out, if the value is to be reported.
    inference : Inference
        E-step of one turn, started from the last turn's posteriors.
    tolerance : float
        In nats per data point.
    max_iterations : int
        Turns at most.
    """
    marginals: Diagonal | None = None
    last = float("-inf")
    while True:
        max_iterations -= 1
        statistics, marginals = e_step(x, model, inference, start=marginals)
        terms = entropy_elbo(statistics, prior=model.prior)
        prior_scale, noise_variance = optimal_scales(statistics, model.prior)
        model = replace(model, prior_scale=prior_scale.to(x), noise_variance=noise_variance.to(x))
        if float(terms.elbo) - last < tolerance or max_iterations <= 0:
            return Evaluation(terms, marginals, model)
        last = float(terms.elbo)
