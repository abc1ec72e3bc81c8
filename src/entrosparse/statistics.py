"""The additive record: everything that the objective and the M-step need from data."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.likelihoods import Isotropic, Likelihood
from entrosparse.model import SparseCodingModel, split_missing
from entrosparse.posteriors import Posterior
from entrosparse.priors import PriorFamily

_PARTS = ("prior", "likelihood")  # Fields that say what is summed.


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over data points, in float64; records of disjoint data add (Eq. 10, 11, 15).

    Attributes
    ----------
    prior : PriorFamily
        The prior whose statistic is summed.
    likelihood : Likelihood
        The likelihood whose statistic is summed.
    total_weight : Tensor of shape ()
        Sum of the weights of the data points: N when none is weighted.
    n_entries : Tensor of shape () or (D,)
        Weighted number of data entries that were seen: N · D, or N for each feature that has its own noise.
    posterior_entropy : Tensor of shape ()
        ``Σ_n H[q_n]``, in nats.
    prior_statistic : Tensor of shape (H,) or (K, H)
        ``Σ_n E[t(z_h)]`` for the statistic t of the prior (``|z|`` for Laplace), which may be of K numbers.
    posterior_variance : Tensor of shape (H,)
        ``Σ_n T_hh``, the marginal variances, in squared units of the codes.
    residual : Tensor of shape () or (D,)
        ``Σ_n E[t(x − Wz)]`` for the statistic t of the likelihood (``‖x − Wz‖²``, in squared data units, for
        isotropic noise).
    second_moment : Tensor of shape (H, H)
        ``A = Σ_n E[z zᵀ]``.
    cross_moment : Tensor of shape (D, H)
        ``B = Σ_n x E[z]ᵀ``; in general, ``B − W A`` is minus the gradient of the expected energy
        in W, over the precision.
    """

    prior: PriorFamily
    likelihood: Likelihood
    total_weight: Tensor
    n_entries: Tensor
    posterior_entropy: Tensor
    prior_statistic: Tensor
    posterior_variance: Tensor
    residual: Tensor
    second_moment: Tensor
    cross_moment: Tensor

    @classmethod
    def collect(
        cls,
        posterior: Posterior,
        x: Tensor,
        dictionary: Tensor,
        prior: PriorFamily,
        sample_weight: Tensor | None = None,
        likelihood: Likelihood = Isotropic(),
        noise_variance: Tensor | None = None,
    ) -> Self:
        """Make the record of one batch; differentiable in the posterior and the dictionary.

        Parameters
        ----------
        posterior : Posterior
            Posteriors of the N data points.
        x : Tensor of shape (N, D)
            The data points. NaN are entries that were not seen: they count in neither ``n_entries`` nor
            ``residual``, and ``cross_moment`` takes their expectation ``E[Wz zᵀ]``, as EM does.
        dictionary : Tensor of shape (D, H)
            W̃, for the residual.
        prior : PriorFamily
            Says which statistic of the codes is summed.
        sample_weight : Tensor of shape (N,), optional
            Weights ≥ 0 of the data points; one each by default.
        likelihood : Likelihood
            Says which statistic of the residuals is summed.
        noise_variance : Tensor of shape () or (D,), optional
            The σ² at which ``cross_moment`` is taken, if the energy of the noise is not quadratic. Records
            add if it is the same for all, and can then be brought :meth:`to_optimal_noise`, which is taken by
            default: that of these data.
        """
        row_weight = torch.ones_like(x[:, 0]) if sample_weight is None else sample_weight.to(x)
        deviation = posterior.marginal_scale()
        statistic = posterior.expected_statistic(prior)
        x, observed = split_missing(x)
        n_entries = likelihood.n_entries(x, observed, row_weight)
        expected = likelihood.expected_statistic(posterior, dictionary, x, observed)
        residual = row_weight.double() @ expected.double()
        second_moment = posterior.second_moment(row_weight)
        if likelihood.quadratic:
            cross_moment = _cross_moment(posterior, x, observed, dictionary, row_weight)
        else:
            error, spread = x - posterior.mean @ dictionary.T, posterior.reconstruction_variance(dictionary)
            # Minus the gradient of the expected energy in W, over the precision.
            if noise_variance is None:
                noise_variance = likelihood.optimal_variance(residual / n_entries)
            majorizer, curvature = (
                row_weight[:, None] * (weight if observed is None else observed * weight)
                for weight in likelihood.entry_weights(error, spread, noise_variance.to(x))
            )
            cross_moment = (majorizer * error).T @ posterior.mean
            cross_moment = cross_moment - posterior.weighted_reconstruction(dictionary, curvature)
            cross_moment = cross_moment + dictionary @ second_moment
        return cls(
            prior=prior,
            likelihood=likelihood,
            total_weight=row_weight.double().sum(),
            n_entries=n_entries,
            posterior_entropy=row_weight.double() @ posterior.entropy().double(),
            prior_statistic=(row_weight @ statistic).double(),
            posterior_variance=(row_weight @ deviation.square()).double(),
            residual=residual,
            second_moment=second_moment.double(),
            cross_moment=cross_moment.double(),
        )

    @classmethod
    def of_nothing(cls, model: SparseCodingModel) -> Self:
        """Return the record of no data under a model, whose sums are all zero."""
        like = model.dictionary.double()
        codes = like.new_zeros((0, model.n_components))
        return cls(
            prior=model.prior,
            likelihood=model.likelihood,
            total_weight=like.new_zeros(()),
            n_entries=like.new_zeros(model.noise_variance.shape),
            posterior_entropy=like.new_zeros(()),
            prior_statistic=model.prior.statistic(codes).sum(-2),
            posterior_variance=codes.sum(0),
            residual=like.new_zeros(model.noise_variance.shape),
            second_moment=codes.T @ codes,
            cross_moment=torch.zeros_like(like),
        )

    def __add__(self, other: Self) -> Self:
        """Return the record of both data sets together.

        Raises
        ------
        InputError
            If they are records of different priors or likelihoods, whose statistics do not add.
        """
        for part in _PARTS:
            one, another = getattr(self, part), getattr(other, part)
            if one != another:
                raise InputError(f"records of one {part} add; got {one} and {another}")
        return self._map(lambda name: getattr(self, name) + getattr(other, name))

    def __mul__(self, factor: float | Tensor) -> Self:
        """Return the record with every data point's weight multiplied by ``factor``."""
        return self._map(lambda name: getattr(self, name) * factor)

    def to_optimal_noise(self, dictionary: Tensor) -> Self:
        """Return the record whose ``cross_moment`` is taken at the optimal σ² of its data, no longer at 1."""
        if self.likelihood.quadratic:
            return self
        anchor = dictionary.double() @ self.second_moment
        unit = self.likelihood.entry_unit(self.likelihood.optimal_variance(self.residual / self.n_entries))
        return replace(self, cross_moment=anchor + unit * (self.cross_moment - anchor))

    @property
    def numbers(self) -> Tensor:
        """All sums in one tensor of one axis."""
        return torch.cat([sums.reshape(-1) for sums in self._sums().values()])

    def with_numbers(self, numbers: Tensor) -> Self:
        """Return the record with other :attr:`numbers`."""
        sums = self._sums()
        parts = torch.split(numbers, [each.numel() for each in sums.values()])
        shaped = {name: part.reshape(sums[name].shape) for name, part in zip(sums, parts, strict=True)}
        return self._map(shaped.__getitem__)

    def normalized(self) -> Self:
        """Return the record per data point: total weight 1."""
        return self * (1.0 / self.total_weight)

    def _map(self, value: Callable[[str], Tensor]) -> Self:
        sums = {name: value(name) for name in self._sums()}
        return type(self)(self.prior, self.likelihood, **sums)

    def _sums(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _PARTS}


def _cross_moment(
    posterior: Posterior, x: Tensor, observed: Tensor | None, dictionary: Tensor, row_weight: Tensor
) -> Tensor:
    """Return B of a likelihood that is quadratic in the residuals, with expectations of what was not seen."""
    cross_moment = x.T @ (posterior.mean * row_weight[:, None])
    if observed is not None:
        missing = row_weight[:, None] * (1.0 - observed)
        cross_moment = cross_moment + (missing * (posterior.mean @ dictionary.T)).T @ posterior.mean
        cross_moment = cross_moment + posterior.weighted_reconstruction(dictionary, missing)
    return cross_moment
