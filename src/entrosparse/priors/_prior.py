"""What priors over the codes must offer, as the parts that Theorem 4 asks for."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from entrosparse.errors import InputError


class PriorFamily(ABC):
    """Priors of one kind that differ in scale and, if they have one, in a shape per latent.

    A scale has the units of the codes; a shape has none. Sums of one statistic over data are enough to find
    the best member of the family: its shapes (:meth:`optimal_shape`) and then its scales. So the statistic
    does not depend on the shape, and records add whatever it is. It may have a leading axis of several
    numbers per latent, (K, H) instead of (H,).

    A family is a frozen dataclass whose fields are its parameters: two families are the same if they are
    equal. A :class:`Prior` is a family without shapes, which is its own only member.
    """

    name: ClassVar[str]
    """Name of the family, in model files and where a prior is chosen by name."""

    positive: ClassVar[bool] = False
    """Whether codes are never negative, so that the sign of an atom matters."""

    centred: ClassVar[bool] = True
    """Whether codes have the mean 0. If not, data are not centred either, for codes make up their mean."""

    shape_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """The least and the largest shape that a model may have."""

    @property
    def first_shape(self) -> float | None:
        """The shape of all latents that learning starts from; None for a family without shapes."""
        return None

    @abstractmethod
    def statistic(self, z: Tensor) -> Tensor:
        """Return the sufficient statistic of codes (N, H): of their shape, or with a leading axis."""

    @abstractmethod
    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return the expectation of the sufficient statistic under ``N(mean, marginal_scale²)``."""

    def optimal_shape(self, statistic: Tensor) -> Tensor | None:
        """Return the shapes (H,) that maximize the expected log-prior at their optimal scales (Theorem 2).

        They carry no gradients: at an optimum the objective does not change with them to first order.
        """
        return None

    @abstractmethod
    def at(self, shape: Tensor | None) -> "Prior":
        """Return the member of these shapes (H,)."""

    def member_statistic(self, statistic: Tensor, shape: Tensor | None) -> Tensor:
        """Return the mean statistic (H,) of the member of these shapes, given that of the family."""
        return statistic

    def slopes(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes of ``−log p`` in ``|z|``, for z < 0 and for z > 0, if it is linear on both sides.

        Exact factorial posteriors need them, and nothing else.
        """
        raise InputError(
            f"exact factorial posteriors need a prior that is linear on either side of zero, with a method "
            f"'slopes'; {type(self).__name__} has none"
        )

    def mirrored(self, shape: Tensor) -> Tensor:
        """Return the shapes after all codes have changed their sign."""
        return shape


class Prior(PriorFamily):
    """A factorial prior ``p(z) = Π_h p(z_h | λ_h)`` with one scale λ_h per latent.

    It enters the ELBO through one expected statistic per latent. When λ is at the optimum for that statistic,
    the expected log-prior is minus the prior's entropy, which is all that the entropy ELBO needs. A prior is
    a frozen dataclass whose fields are its parameters: two priors are the same if they are equal.

    Methods come in two groups. Objectives, and learning with encoders, need the abstract ones. The solvers of
    the E-step also need :meth:`deviation`, :meth:`tempered_scale`, :meth:`curvature`,
    :meth:`precision_share` and :meth:`majorizer`; a prior without them says so when a solver asks. A prior
    that is not even needs :meth:`tilt` too, and one whose energy is not convex says so by :attr:`convex`.
    """

    def at(self, shape: Tensor | None) -> "Prior":
        """Return the prior itself."""
        return self

    # --- what objectives need, besides the statistic

    @abstractmethod
    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return the scale λ that maximizes the expected log-prior, given the mean statistic (Theorem 2)."""

    @abstractmethod
    def entropy(self, scale: Tensor) -> Tensor:
        """Return the entropy in nats of each factor with scale λ."""

    @abstractmethod
    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``E[log p(z_h)]`` in nats, given the mean statistic."""

    @abstractmethod
    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes, shape (n_samples, H)."""

    def log_prob(self, z: Tensor, scale: Tensor) -> Tensor:
        """Return ``log p(z_h)`` in nats, elementwise."""
        return self.expected_log_prob(self.statistic(z), scale)

    # --- what solvers of the E-step need besides

    @property
    def convex(self) -> bool:
        """Whether ``−log p`` is convex, so that each E-step has one optimum."""
        return True

    def deviation(self, scale: Tensor) -> Tensor:
        """Return the standard deviation of each factor with scale λ."""
        raise self._lacks("deviation")

    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return the scale whose energy is ``weight`` times that of ``scale``: it makes γ part of λ."""
        raise self._lacks("tempered_scale")

    def curvature(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``∂²E[−log p] / ∂mean²``, which is also ``2 ∂E[−log p] / ∂marginal_scale²``."""
        raise self._lacks("curvature")

    def precision_share(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``marginal_scale² · curvature`` and its derivative in ``log(marginal_scale)``.

        At the optimum the first is the share of the posterior precision that comes from the prior. Both are
        new tensors.
        """
        raise self._lacks("precision_share")

    def majorizer(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``(∂E[−log p] / ∂mean) / mean``, after the :meth:`tilt` was taken from the slope.

        Where the factors are even and this ratio falls with ``|mean|``, it is the curvature of a quadratic
        that touches the expected energy at ``±mean`` and lies above it elsewhere.
        """
        raise self._lacks("majorizer")

    def tilt(self, scale: Tensor) -> Tensor | None:
        """Return the slope of ``−log p`` that both sides of zero share; None if the factors are even.

        It adds ``tilt · z`` to an energy that is even.
        """
        return None

    def _lacks(self, method: str) -> InputError:
        return InputError(
            f"solvers of the E-step need the method '{method}' of a prior; {type(self).__name__} has none"
        )
