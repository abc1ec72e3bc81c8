"""The paper's learner of small data: L-BFGS on the dictionary and all posteriors at once (4.1, D.2)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import ElboTerms, entropy_elbo
from entrosparse.posteriors import Full
from entrosparse.reproduce.shared.ascent import Ascent, Climbed, with_optimal_scales
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

    def fit(self, x: Tensor, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()) -> Climbed:
        """Learn from the data ``x`` (N, D), held in memory, starting at a model.

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
            record = Statistics.collect(posterior(), x, unit_columns(dictionary), model.prior)
            return entropy_elbo(record, weights)

        history: list[ElboTerms] = []
        last, converged = float("-inf"), False
        while not converged and len(history) < self.max_calls:
            history.append(ascent(terms))
            converged = float(history[-1].objective) - last < self.tolerance
            last = float(history[-1].objective)
        with torch.no_grad():
            learned = replace(model, dictionary=unit_columns(dictionary))
            return Climbed(with_optimal_scales(learned, posterior(), x), history[-1], history, converged)
