"""The paper's learner of small data: L-BFGS on the dictionary and all posteriors at once (4.1, D.2)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import ElboTerms, entropy_elbo
from entrosparse.posteriors import Full
from entrosparse.reproduce.shared.ascent import Ascent, with_optimal_scales
from entrosparse.statistics import Statistics


@final
@dataclass(frozen=True)
class JointLBFGS:
    """L-BFGS on W and the full posteriors of all data points, by automatic differentiation.

    The parameters are W, whose columns are normalized on the way to the objective, the N means, and the N
    Cholesky factors with the logarithms of their diagonals. Means start at zero, covariances at ``diag(λ²)``.
    Memory and time grow with N · H².

    Attributes
    ----------
    tolerance : float
        Learning ends when a call to L-BFGS, of 20 iterations, gains less than this in nats per data point.
    max_calls : int
        Calls to L-BFGS at most; the history has one entry for each.
    """

    tolerance: float = 1e-4
    max_calls: int = 500

    def fit(
        self, x: Tensor, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
    ) -> tuple[SparseCodingModel, list[ElboTerms]]:
        """Learn from the data ``x`` (N, D), held in memory, starting at a model.

        Returns
        -------
        model : SparseCodingModel
            With the λ and σ² that are optimal for the data.
        history : list of ElboTerms
            The entropies after each call to L-BFGS; as many as `max_calls` if it did not converge.

        Raises
        ------
        NumericalError
            If the objective stops being finite.
        """
        dictionary = model.dictionary.clone()
        mean = x.new_zeros(len(x), model.n_components)
        log_diagonal = model.prior_scale.log().expand_as(mean).clone()
        below = torch.diag_embed(torch.zeros_like(mean))
        ascent = Ascent(dictionary, mean, log_diagonal, below)

        def posterior() -> Full:
            return Full(mean, below.tril(-1) + torch.diag_embed(log_diagonal.exp()))

        def terms() -> ElboTerms:
            record = Statistics.collect(
                posterior(), x, unit_columns(dictionary), model.prior, likelihood=model.likelihood
            )
            return entropy_elbo(record, weights)

        history, gain = [ascent(terms)], float("inf")
        while gain >= self.tolerance and len(history) < self.max_calls:
            history.append(ascent(terms))
            gain = float(history[-1].objective) - float(history[-2].objective)
        with torch.no_grad():
            learned = replace(model, dictionary=unit_columns(dictionary))
            return with_optimal_scales(learned, posterior(), x), history
