"""An E-step over data in memory, chunk by chunk, so that only ν and τ of all data points are ever held."""

from functools import reduce
from operator import add

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.inference import LEARNING_SWEEPS, Inference
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal
from entrosparse.statistics import Statistics

LEARNING_INFERENCE = LEARNING_SWEEPS


def e_step(
    x: Tensor,
    model: SparseCodingModel,
    inference: Inference,
    weights: EntropyWeights = EntropyWeights(),
    start: Diagonal | None = None,
    sample_weight: Tensor | None = None,
) -> tuple[Statistics, Diagonal]:
    """Infer all data points and sum up what learning needs.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        The data.
    model : SparseCodingModel
        The model.
    inference : Inference
        Finds the posteriors.
    weights : EntropyWeights
        γ and δ.
    start : Diagonal, optional
        Means and deviations to start from.
    sample_weight : Tensor of shape (N,), optional
        Weights of the data points in the statistics; one each by default.

    Returns
    -------
    statistics : Statistics
        Of all data points.
    marginals : Diagonal
        Means ν and marginal deviations τ of the posteriors, (N, H) each.
    """
    chunk = inference.rows_at_once(model.n_components)
    records, means, scales = [], [], []
    for first in range(0, len(x), chunk):
        part = slice(first, first + chunk)
        warm = None if start is None else Diagonal(start.mean[part], start.scale[part])
        posterior = inference(x[part], model, weights, warm)
        share = None if sample_weight is None else sample_weight[part]
        records.append(Statistics.collect(posterior, x[part], model.dictionary, model.prior, share))
        means.append(posterior.mean)
        scales.append(posterior.marginal_scale())
    return reduce(add, records), Diagonal(torch.cat(means), torch.cat(scales))
