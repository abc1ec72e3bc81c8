"""Turns: inference under a model, then λ and σ² in closed form. Evaluation and exact EM are made of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.inference import STARTING_SWEEPS, DiagonalInference, Inference, infer_in_chunks
from entrosparse.learning._floors import Floors
from entrosparse.learning._m_step import exact_sweep, scale_step
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms, entropy_elbo, with_optimal_scales
from entrosparse.posteriors import Diagonal, Posterior
from entrosparse.processes import ALONE, Processes
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True, eq=False)
class Turn:
    """What inference under a model found for data, and what follows from it in closed form.

    Attributes
    ----------
    model : SparseCodingModel
        The dictionary that the posteriors belong to, with λ and σ² optimal for them (Eq. 10, 11).
    terms : ElboTerms
        The entropies of the data, in nats per data point.
    marginals : Diagonal
        Means ν and marginal deviations τ of the posteriors of the data points, (N, H) each.
    statistics : Statistics
        Sums over all data points of all processes.
    """

    model: SparseCodingModel
    terms: ElboTerms
    marginals: Diagonal
    statistics: Statistics


def sum_up(
    x: Tensor,
    model: SparseCodingModel,
    inference: Inference,
    weights: EntropyWeights = EntropyWeights(),
    start: Diagonal | None = None,
    sample_weight: Tensor | None = None,
    processes: Processes = ALONE,
) -> tuple[Statistics, Diagonal]:
    """Infer all data points chunk by chunk; return the sums over all processes, and the marginals found here.

    Parameters are those of :func:`take_turn`.
    """

    def collect(part: slice, x: Tensor, posterior: Posterior) -> tuple[Statistics, Tensor, Tensor]:
        row_weight = None if sample_weight is None else sample_weight[part]
        parts = model.prior, row_weight, model.likelihood, torch.ones_like(model.noise_variance)
        record = Statistics.collect(posterior, x, model.dictionary, *parts)
        return record, posterior.mean, posterior.marginal_scale()

    found = list(infer_in_chunks(x, model, inference, weights, start, collect))
    if not found:
        none = x.new_zeros((0, model.n_components))
        found = [(Statistics.of_nothing(model), none, none)]
    records, means, scales = zip(*found, strict=True)
    statistics: Statistics = reduce(add, records)
    if not processes.alone:
        statistics = statistics.with_numbers(processes.sum(statistics.numbers))
    return statistics.to_optimal_noise(model.dictionary), Diagonal(torch.cat(means), torch.cat(scales))


def take_turn(
    x: Tensor,
    model: SparseCodingModel,
    inference: Inference,
    weights: EntropyWeights = EntropyWeights(),
    start: Diagonal | None = None,
    sample_weight: Tensor | None = None,
    processes: Processes = ALONE,
) -> Turn:
    """Infer all data points chunk by chunk, sum up, and set λ and σ² to their optimum (Eq. 10, 11).

    Parameters
    ----------
    x : Tensor of shape (N, D)
        The data. Of their posteriors only ν and τ are ever held for all data points at once.
    model : SparseCodingModel
        The model.
    inference : Inference
        Finds the posteriors.
    weights : EntropyWeights
        γ and δ.
    start : Diagonal, optional
        Means and deviations to start inference from.
    sample_weight : Tensor of shape (N,), optional
        Weights of the data points in the statistics; one each by default.
    processes : Processes
        Those whose data are summed up together; each has data, perhaps none, of its own.
    """
    statistics, marginals = sum_up(x, model, inference, weights, start, sample_weight, processes)
    model = with_optimal_scales(model, statistics)
    least = torch.finfo(x.dtype).tiny ** 0.4  # For data of zeros, λ and σ² fall for ever.
    return Turn(
        replace(
            model,
            prior_scale=model.prior_scale.clamp_min(least),
            noise_variance=model.noise_variance.clamp_min(least),
        ),
        entropy_elbo(statistics, weights),
        marginals,
        statistics,
    )


def evaluate(
    model: SparseCodingModel,
    x: Tensor,
    inference: Inference = STARTING_SWEEPS,
    tolerance: float = 1e-3,
    max_turns: int = 100,
    weights: EntropyWeights = EntropyWeights(),
    start: Diagonal | None = None,
    sample_weight: Tensor | None = None,
    floors: Floors | None = None,
    processes: Processes = ALONE,
) -> Turn:
    """Maximize objective (17) of ``x`` over posteriors, λ and σ², with the dictionary fixed.

    Turns are taken until the objective gains less than the tolerance, so the result judges the dictionary
    alone, learned here or elsewhere. At the weights 1, 1 the objective is the ELBO (15). Between turns λ and
    σ² take lengthened steps; after one that led down, a plain one.

    Parameters
    ----------
    model : SparseCodingModel
        The dictionary, and λ, σ² to start from.
    x : Tensor of shape (N, D)
        The data: held out, if the value is to be reported.
    inference : Inference
        E-step of one turn, started from the last turn's posteriors.
    tolerance : float
        In nats per data point.
    max_turns : int
        Turns at most.
    weights : EntropyWeights
        γ and δ.
    start : Diagonal, optional
        Means and deviations to start the first turn from.
    sample_weight : Tensor of shape (N,), optional
        Weights of the data points; one each by default.
    floors : Floors, optional
        Least λ and σ² to infer with.
    processes : Processes
        Those that share the data.
    """
    best = turn = take_turn(x, model, inference, weights, start, sample_weight, processes)
    for _ in range(max_turns - 1):
        hastened = turn is best
        model = scale_step(model, turn.statistics, weights.likelihood) if hastened else best.model
        model = model if floors is None else floors.raised(model, weights)
        turn = take_turn(x, model, inference, weights, best.marginals, sample_weight, processes)
        gain = float(turn.terms.objective - best.terms.objective)
        if gain > 0.0:
            best = turn
        if gain < tolerance and (gain >= 0.0 or not hastened):
            break
    return best


def exact_em(
    x: Tensor,
    model: SparseCodingModel,
    weights: EntropyWeights = EntropyWeights(),
    inference: Inference = DiagonalInference(),
    n_sweeps: int = 1,
) -> Iterator[Turn]:
    """Iterate E-steps and exact M-steps on all data; take as many turns as wanted.

    At fixed λ, σ² objective (17) has a lower bound that touches it, ``L_γδ(Φ, λ, σ², W)``. The E-step
    maximizes that over Φ, the column updates over W, and Eq. 10, 11 over λ and σ², so objective (17) never
    falls from turn to turn, for every fixed γ and δ. That needs a likelihood that is quadratic in the
    residuals.

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
        The E-step, started from the posteriors of the turn before.
    n_sweeps : int
        Sweeps of column updates in each M-step.

    Raises
    ------
    InputError
        If the energy of the likelihood is not quadratic in the residuals, as that of Laplace noise.
    """
    if not model.likelihood.quadratic:
        raise InputError(
            "the 'model' of exact_em must have a likelihood whose M-step is exact, such as isotropic noise; "
            f"got {model.likelihood.name} noise, which BatchEM and OnlineEM learn with"
        )
    marginals = None
    while True:
        turn = take_turn(x, model, inference, weights, marginals)
        yield turn
        dictionary, marginals = turn.model.dictionary, turn.marginals
        for _ in range(n_sweeps):
            dictionary = exact_sweep(dictionary, turn.statistics)
        model = replace(turn.model, dictionary=dictionary)
