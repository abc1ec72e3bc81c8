"""What a likelihood must offer, as the parts that Theorem 4 asks for."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from entrosparse.posteriors import Posterior


class Likelihood(ABC):
    """A likelihood ``p(x | z)`` of independent noise around ``Wz``, whose variance σ² is learned.

    It enters the ELBO through an expected statistic of the residuals. When σ² is at the optimum for that
    statistic, the expected log-likelihood is minus the entropy of the noise, which is all that the entropy
    ELBO needs. As for a prior, that holds exactly where the energy is homogeneous up to a constant: at
    residuals t times as large it is t^p times as large.

    A likelihood is a frozen dataclass whose fields are its parameters. Sums of a statistic, numbers of
    entries and variances have shape (), or (D,) where each feature has a variance of its own.
    """

    name: ClassVar[str]
    """Name of the family, in model files and where a likelihood is chosen by name."""

    per_feature: ClassVar[bool] = False
    """Whether each feature has a variance of its own: σ² then has shape (D,)."""

    quadratic: ClassVar[bool] = True
    """Whether the energy is quadratic in the residuals.

    If not, solvers need :meth:`entry_weights`, and learning :meth:`entry_unit` too.
    """

    # --- what objectives need

    @abstractmethod
    def statistic(self, residual: Tensor) -> Tensor:
        """Return the statistic of residuals (..., D): (...), or (..., D) where each feature has its own."""

    @abstractmethod
    def expected_statistic(
        self, posterior: Posterior, dictionary: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Return the expectation of :meth:`statistic` of ``x − Wz`` over the entries seen, (N,) or (N, D)."""

    def n_entries(self, x: Tensor, observed: Tensor | None, row_weight: Tensor) -> Tensor:
        """Return the weighted number of entries seen of x (N, D), in float64: () or (D,)."""
        row_weight = row_weight.double()
        if self.per_feature:
            seen = torch.ones_like(x) if observed is None else observed
            return row_weight @ seen.double()
        return row_weight.sum() * x.shape[1] if observed is None else row_weight @ observed.double().sum(1)

    @abstractmethod
    def optimal_variance(self, statistic: Tensor) -> Tensor:
        """Return the σ² that maximizes the expected log-likelihood, given the mean statistic per entry."""

    @abstractmethod
    def entropy(self, noise_variance: Tensor, n_entries: Tensor) -> Tensor:
        """Return the entropy in nats of the noise of so many entries."""

    @abstractmethod
    def expected_log_prob(self, statistic: Tensor, n_entries: Tensor | int, noise_variance: Tensor) -> Tensor:
        """Return ``E[log p(x | z)]`` in nats, given the statistic of so many entries.

        Features that have a statistic of their own are summed over: the shape is that of :meth:`statistic`
        without them.
        """

    @abstractmethod
    def sample(
        self, shape: tuple[int, int], noise_variance: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw noise of shape (N, D)."""

    def log_prob(self, residual: Tensor, noise_variance: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return ``log p(x | z)`` in nats for residuals ``x − Wz`` (..., D); the result has shape (...).

        Entries that were not seen (0 in ``observed``) have no likelihood.
        """
        n_entries: Tensor | int = 1 if self.per_feature else residual.shape[-1]
        if observed is not None:
            residual, n_entries = observed * residual, observed if self.per_feature else observed.sum(-1)
        return self.expected_log_prob(self.statistic(residual), n_entries, noise_variance)

    # --- what solvers of the E-step, and M-steps, need besides

    @abstractmethod
    def precision(self, noise_variance: Tensor) -> Tensor:
        """Return the Fisher information of an entry about its mean, which is 1/σ² for Gaussian noise."""

    def entry_weights(
        self, residual: Tensor, variance: Tensor, noise_variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return majorizer and curvature of the expected energy in the residuals r (N, D).

        The expectation is over ``N(r, variance)``. The majorizer is the derivative in r, divided by r. The
        curvature is the second derivative, which is also twice that in the variance. Both are in units of the
        precision, so that they would be 1 for Gaussian noise. Curvatures are never above majorizers.
        """
        raise NotImplementedError(f"the energy of {self.name} noise is quadratic: all weights are 1")

    def entry_unit(self, noise_variance: Tensor) -> Tensor:
        """Return what :meth:`entry_weights` are proportional to when σ² changes; it is 1 at σ² = 1."""
        raise NotImplementedError(f"the energy of {self.name} noise is quadratic: all weights are 1")
