"""The additive record: everything that the objective and the M-step need from data."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self, final

import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.model import split_missing
from entrosparse.posteriors import Posterior
from entrosparse.priors import Prior


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over data points, in float64; records of disjoint data add (Eq. 10, 11, 15).

    Attributes
    ----------
    prior : Prior
        The prior whose statistic is summed.
    total_weight : Tensor of shape ()
        Sum of the weights of the data points: N when none is weighted.
    n_entries : Tensor of shape ()
        Weighted number of data entries that were seen: N · D.
    posterior_entropy : Tensor of shape ()
        ``Σ_n H[q_n]``, in nats.
    prior_statistic : Tensor of shape (H,)
        ``Σ_n E[t(z_h)]`` for the statistic t of the prior (``|z|`` for Laplace).
    posterior_variance : Tensor of shape (H,)
        ``Σ_n T_hh``, the marginal variances, in squared units of the codes.
    residual : Tensor of shape ()
        ``Σ_n E‖x − Wz‖²``, in squared data units.
    second_moment : Tensor of shape (H, H)
        ``A = Σ_n E[z zᵀ]``.
    cross_moment : Tensor of shape (D, H)
        ``B = Σ_n x E[z]ᵀ``.
    """

    prior: Prior
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
        prior: Prior,
        sample_weight: Tensor | None = None,
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
        prior : Prior
            Says which statistic of the codes is summed.
        sample_weight : Tensor of shape (N,), optional
            Weights ≥ 0 of the data points; one each by default.
        """
        row_weight = torch.ones_like(x[:, 0]) if sample_weight is None else sample_weight.to(x)
        deviation = posterior.marginal_scale()
        statistic = posterior.expected_statistic(prior)
        total_weight = row_weight.double().sum()
        x, observed = split_missing(x)
        cross_moment = x.T @ (posterior.mean * row_weight[:, None])
        if observed is None:
            n_entries = total_weight * x.shape[1]
        else:
            n_entries = row_weight.double() @ observed.double().sum(1)
            missing = row_weight[:, None] * (1.0 - observed)
            cross_moment = cross_moment + (missing * (posterior.mean @ dictionary.T)).T @ posterior.mean
            cross_moment = cross_moment + posterior.weighted_reconstruction(dictionary, missing)
        return cls(
            prior=prior,
            total_weight=total_weight,
            n_entries=n_entries,
            posterior_entropy=row_weight.double() @ posterior.entropy().double(),
            prior_statistic=(row_weight @ statistic).double(),
            posterior_variance=(row_weight @ deviation.square()).double(),
            residual=row_weight.double() @ posterior.expected_residual(dictionary, x, observed).double(),
            second_moment=posterior.second_moment(row_weight).double(),
            cross_moment=cross_moment.double(),
        )

    def __add__(self, other: Self) -> Self:
        """Return the record of both data sets together.

        Raises
        ------
        InputError
            If they are records of different priors, whose statistics do not add.
        """
        if self.prior != other.prior:
            raise InputError(f"records of one prior add; got {self.prior} and {other.prior}")
        return self._map(lambda name: getattr(self, name) + getattr(other, name))

    def __mul__(self, factor: float | Tensor) -> Self:
        """Return the record with every data point's weight multiplied by ``factor``."""
        return self._map(lambda name: getattr(self, name) * factor)

    def normalized(self) -> Self:
        """Return the record per data point: total weight 1."""
        return self * (1.0 / self.total_weight)

    def _map(self, value: Callable[[str], Tensor]) -> Self:
        sums = {field.name: value(field.name) for field in fields(self) if field.name != "prior"}
        return type(self)(prior=self.prior, **sums)
