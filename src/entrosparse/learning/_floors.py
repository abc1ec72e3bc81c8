"""Least values of λ and σ²."""

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.annealing import EntropyWeights
from entrosparse.model import SparseCodingModel, split_missing

_NOISE_FLOOR = 1e-6  # least noise variance, as a share of the data's mean square
_ROUNDING_SHARE = 0.01  # largest share of the data's mean square that rounding is taken to make up
_SCALE_FLOOR = 1e-6  # least λ, as a share of the λ of H equal latents that make up all of the data
_ANNEALING_SCALE_FLOOR = 0.48  # least λ while annealing, as a share of the data's root mean square


@final
@dataclass(frozen=True, eq=False)
class Floors:
    """Least values of λ and σ², which keep both from falling to zero.

    Attributes
    ----------
    mean_square : Tensor of shape ()
        Mean of ``x²`` over a sample of the data, in float64; entries that were not seen count as 0. It is 1
        for data of zeros alone, which have no size of their own.
    noise_variance : Tensor of shape ()
        Least noise variance, in squared data units and float64. It is 1e-6 of the mean square, or more for
        data that were rounded: the variance of their rounding errors, but at most 0.01 of the mean square.
    of_features : Tensor of shape (D,)
        The same for each feature, where features have noise variances of their own. A feature is taken to
        have a mean square that is not lost in rounding errors of that of all.
    """

    mean_square: Tensor
    noise_variance: Tensor
    of_features: Tensor

    @classmethod
    def from_sample(cls, sample: Tensor) -> Self:
        """Return the floors that belong to data like this sample (N, D)."""
        x, _ = split_missing(sample)
        row_share = torch.full_like(x[:, 0], 1.0 / len(x))
        mean_square = (row_share @ x.square().mean(1)).double()
        mean_square = torch.where(mean_square > 0, mean_square, 1.0)
        of_features = (row_share @ x.square()).double()
        # What is below is lost in rounding errors of the other features.
        noticed = torch.maximum(of_features, torch.finfo(x.dtype).eps * mean_square)
        rounding = _rounding_step(sample).square() / 12.0
        least, least_of_features = (
            torch.maximum(torch.minimum(rounding, _ROUNDING_SHARE * square), _NOISE_FLOOR * at_least)
            for square, at_least in ((mean_square, mean_square), (of_features, noticed))
        )
        return cls(mean_square, least, least_of_features)

    def prior_scale(self, model: SparseCodingModel, weights: EntropyWeights) -> Tensor:
        """Return the least λ, in units of the codes.

        Away from γ = δ = 1 a latent gains by shrinking to nothing (for γ > 1 objective (17) is unbounded),
        and λ_h → 0 would keep its codes at zero ever after; so while annealing λ is kept above about half the
        data's root mean square. A floor that fell with H would let overcomplete latents sink too deep to come
        back.
        """
        if weights != EntropyWeights():
            return _ANNEALING_SCALE_FLOOR * self.mean_square.sqrt()
        return _SCALE_FLOOR * torch.sqrt(self.mean_square * len(self.of_features) / model.n_components)

    def least_noise(self, model: SparseCodingModel) -> Tensor:
        """Return the least noise variance of a model, () or (D,), in its dtype."""
        least = self.of_features if model.likelihood.per_feature else self.noise_variance
        return least.to(model.dictionary)

    def raised(
        self, model: SparseCodingModel, weights: EntropyWeights = EntropyWeights()
    ) -> SparseCodingModel:
        """Return the model with λ and σ² at these values at least."""
        prior_scale, dictionary = self.prior_scale(model, weights), model.dictionary
        return replace(
            model,
            prior_scale=torch.maximum(model.prior_scale, prior_scale.to(dictionary)),
            noise_variance=torch.maximum(model.noise_variance, self.least_noise(model)),
        )

    def reached(self, model: SparseCodingModel) -> bool:
        """Return whether the noise variance of a model is at its floor.

        Where features have their own, all of them must be: some that the codes explain to the last digit are
        nothing unusual, and called Heywood cases in factor analysis.
        """
        least = self.of_features if model.likelihood.per_feature else self.noise_variance
        return bool((model.noise_variance <= least * (1.0 + 1e-6)).all())


def _rounding_step(sample: Tensor) -> Tensor:
    """Return the step that data (N, D) were rounded to, in float64; 0 if they do not look rounded.

    Data look rounded if, in each feature that varies, most values stand more than once. Their step is the
    least difference of two values of a feature.
    """
    step = float("inf")
    for features in torch.split(sample, 8, dim=1):  # The first feature that is not rounded ends the search.
        ascending = features.sort(0).values
        gaps = ascending.diff(dim=0)  # NaN, which entries not seen are, come last and are not above zero.
        differ = gaps > 0
        n_differences = differ.sum(0)
        varies, n_seen = n_differences > 0, (~features.isnan()).sum(0)
        if not bool((2 * (n_differences + 1) <= n_seen)[varies].all()):
            return sample.new_zeros((), dtype=torch.float64)
        if bool(varies.any()):
            step = min(step, float(gaps[differ].min()))
    return sample.new_full((), step if step < float("inf") else 0.0, dtype=torch.float64)
