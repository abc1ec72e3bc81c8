"""The generalized Gaussian prior, whose shape is given or learned."""

from dataclasses import dataclass
from functools import cache, cached_property
from numbers import Real
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.priors import _powers
from entrosparse.priors._prior import Prior, PriorFamily

_NODES = 8  # Shapes at which moments are summed when the shape is learned.
_CANDIDATES = 171  # Shapes that are compared, before interpolation between them.
_GAP = (_powers.MOST_SHAPE - _powers.LEAST_SHAPE) / (_CANDIDATES - 1)
_LEARNED = ("learned", "shared")


@final
@dataclass(frozen=True)
class GeneralizedGaussian(PriorFamily):
    """``p(z_h) ∝ exp(−|z_h|^p / p λ_h^p)``: Laplace at the shape p = 1, Gaussian at p = 2, sparser below 1.

    At the optimum ``λ_h^p = E|z_h|^p``, and the entropy is ``1/p + log 2λ_h + (log p)/p + log Γ(1 + 1/p)``.
    As λ grows with the codes and the rest depends on p alone, the best p is the minimum of a function of one
    variable. For it ``E|z|^p`` is summed at eight shapes; in between, its logarithm is interpolated. A shape
    that is given is its own and only one of them.

    Below p = 1 the energy is not convex. Each E-step then finds an optimum near its start, and learning
    starts from p = 1.

    Parameters
    ----------
    shape : float, "learned" or "shared"
        p in (0.3, 2], or how it is learned: each latent has one of its own, or all share one.

    Raises
    ------
    InputError
        If the shape is something else.
    """

    name: ClassVar[str] = "generalized-gaussian"
    shape_range: ClassVar[tuple[float, float]] = (_powers.LEAST_SHAPE, _powers.MOST_SHAPE)
    shape: float | str = "learned"

    def __post_init__(self) -> None:
        known = self.shape in _LEARNED
        number = isinstance(self.shape, Real) and not isinstance(self.shape, bool)
        if not known and not (number and _powers.LEAST_SHAPE < float(self.shape) <= _powers.MOST_SHAPE):
            raise InputError(
                "the 'shape' of a generalized Gaussian must be a number in (0.3, 2], 'learned' or 'shared'; "
                f"got {self.shape!r}"
            )

    @property
    def first_shape(self) -> float:
        """The shape that is given, or 1 for one that is learned: the Laplace prior."""
        return 1.0 if self.shape in _LEARNED else float(self.shape)

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``|z_h|^p`` at each node, shape (K, N, H)."""
        return z.abs() ** self._nodes(z)

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return ``E|z_h|^p`` at each node, shape (K, N, H)."""
        v, log_square = (part.mT for part in _variables(mean, marginal_scale))  # Rows of H are contiguous.
        nodes = self._nodes(mean)
        coefficients = _powers.polynomials(nodes.flatten())[_powers.MOMENT]
        return (torch.exp(0.5 * nodes * log_square) * torch.tensordot(coefficients.T, _powers.basis(v), 1)).mT

    def optimal_shape(self, statistic: Tensor) -> Tensor:
        """Return the shapes of least entropy."""
        with torch.no_grad():
            if self.shape not in _LEARNED:
                return torch.full_like(statistic[0], self.first_shape)
            ends = _powers.LEAST_SHAPE, _powers.MOST_SHAPE
            candidates, to_values = (part.to(statistic) for part in _candidates())
            logarithms = _logarithms(statistic)
            least = self._entropy(to_values @ logarithms, candidates).argmin(0)
            shape = candidates.squeeze(1)[least.clamp(1, _CANDIDATES - 2)]
            for gap in (_GAP, 0.1 * _GAP, 0.01 * _GAP):  # Minima of parabolas.
                shape = shape.clamp(ends[0] + gap, ends[1] - gap)
                around = torch.stack([shape - gap, shape, shape + gap])
                before, at, after = self._entropy(_interpolated(logarithms, around), around)
                bend = (before - 2.0 * at + after).clamp_min(torch.finfo(at.dtype).tiny)
                shape = shape + gap * (0.5 * (before - after) / bend).clamp(-1.0, 1.0)
            return shape

    def _entropy(self, log_moment: Tensor, shape: Tensor) -> Tensor:
        """Return the entropies (P, H) at shapes (P, 1) or (P, H) and their best scales, up to a constant.

        Of latents that share a shape it is their mean.
        """
        entropy = _unit_entropy(shape) + log_moment / shape
        return entropy.mean(1, keepdim=True).expand_as(entropy) if self.shape == "shared" else entropy

    def at(self, shape: Tensor | None) -> "Power":
        """Return the member of these shapes."""
        if shape is None:
            raise InputError("a generalized Gaussian prior must be given its shapes, a tensor (H,); got None")
        return Power(shape)

    def member_statistic(self, statistic: Tensor, shape: Tensor | None) -> Tensor:
        """Return ``E|z_h|^p`` at these shapes."""
        assert shape is not None
        if self.shape not in _LEARNED:
            return statistic.squeeze(0)
        return _interpolated(_logarithms(statistic), shape.unsqueeze(0)).exp().squeeze(0)

    def _nodes(self, like: Tensor) -> Tensor:
        """Return the shapes at which moments are summed, shape (K, 1, 1)."""
        if self.shape not in _LEARNED:
            return like.new_full((1, 1, 1), self.first_shape)
        return _unit_nodes().mul(_HALF_RANGE).add(_CENTRE).reshape(-1, 1, 1).to(like)


def _logarithms(statistic: Tensor) -> Tensor:
    """Return ``log E|z_h|^p`` at the nodes (K, H)."""
    return statistic.clamp_min(torch.finfo(statistic.dtype).tiny).log()


def _interpolated(logarithms: Tensor, shape: Tensor) -> Tensor:
    """Return ``log E|z_h|^p`` at other shapes (P, H), given that at the nodes (K, H)."""
    values = _powers.chebyshev_values(_powers.unit_interval(shape.to(logarithms)), _NODES - 1)
    return torch.einsum("kph,kh->ph", values, _to_coefficients().to(logarithms) @ logarithms)


def _unit_nodes() -> Tensor:
    """Return the Chebyshev nodes (K,) in [−1, 1]."""
    return torch.cos(torch.arange(_NODES, dtype=torch.float64).add(0.5).mul(torch.pi / _NODES))


@cache
def _to_coefficients() -> Tensor:
    """Return the matrix (K, K) from values at the nodes to coefficients of Chebyshev polynomials."""
    return torch.linalg.inv(_powers.chebyshev_values(_unit_nodes(), _NODES - 1).T)


@cache
def _candidates() -> tuple[Tensor, Tensor]:
    """Return the shapes (P, 1) that are compared, and the matrix (P, K) to values at them."""
    shapes = torch.linspace(_powers.LEAST_SHAPE, _powers.MOST_SHAPE, _CANDIDATES, dtype=torch.float64)
    values = _powers.chebyshev_values(_powers.unit_interval(shapes), _NODES - 1)
    return shapes.unsqueeze(1), values.T @ _to_coefficients()


_CENTRE = 0.5 * (_powers.MOST_SHAPE + _powers.LEAST_SHAPE)
_HALF_RANGE = 0.5 * (_powers.MOST_SHAPE - _powers.LEAST_SHAPE)


@final
@dataclass(frozen=True, eq=False)
class Power(Prior):
    """The generalized Gaussian of given shapes; the statistic is ``|z_h|^p``, its optimum λ_h^p = E|z_h|^p.

    Attributes
    ----------
    shape : Tensor of shape (H,)
        p, of the dtype of the codes. Any shape that goes with that of the codes will do.
    """

    name: ClassVar[str] = GeneralizedGaussian.name
    shape: Tensor

    def statistic(self, z: Tensor) -> Tensor:
        """Return ``|z_h|^p``."""
        return z.abs() ** self.shape

    def expected_statistic(self, mean: Tensor, marginal_scale: Tensor) -> Tensor:
        """Return ``E|z_h|^p``."""
        v, log_square = _variables(mean, marginal_scale)
        moment = _powers.polynomial(self._polynomials[_powers.MOMENT], v)
        return moment * torch.exp(0.5 * self.shape * log_square)

    def optimal_scale(self, statistic: Tensor) -> Tensor:
        """Return ``λ_h = (E|z_h|^p)^(1/p)``."""
        return statistic ** (1.0 / self.shape)

    def entropy(self, scale: Tensor) -> Tensor:
        """Return ``1/p + log 2λ_h + (log p)/p + log Γ(1 + 1/p)``."""
        return _unit_entropy(self.shape.to(scale)) + scale.log()

    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """Return ``−log 2λ_h − (log p)/p − log Γ(1 + 1/p) − E|z_h|^p / p λ_h^p``."""
        p = self.shape.to(scale)
        return (1.0 - statistic / scale**p) / p - _unit_entropy(p) - scale.log()

    def deviation(self, scale: Tensor) -> Tensor:
        """Return ``λ p^(1/p) √(Γ(3/p) / Γ(1/p))``."""
        p = self.shape
        return scale * torch.exp(p.log() / p + 0.5 * (torch.lgamma(3.0 / p) - torch.lgamma(1.0 / p)))

    def sample(self, n_samples: int, scale: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes: ``|z_h|^p / p λ_h^p`` has a gamma distribution of shape 1/p."""
        p = self.shape.to(scale).expand_as(scale)
        size = (n_samples, *scale.shape)
        gamma = torch._standard_gamma((1.0 / p).expand(size), generator=generator)
        sign = torch.randint(2, size, device=scale.device, generator=generator).to(scale)
        return scale * (2.0 * sign - 1.0) * (p * gamma) ** (1.0 / p)

    @property
    def convex(self) -> bool:
        """Whether no shape is below 1."""
        return bool((self.shape >= 1.0).all())

    def curvature(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``τ^(p−2) M″(ν/τ) / p λ^p``, which is negative far from zero if p < 1."""
        return self._of_energy(_powers.CURVATURE, mean, marginal_scale, scale)

    def precision_share(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``q = τ^p M″(a) / p λ^p`` and ``τ^p (p M″(a) − a M‴(a)) / p λ^p``, with a = ν/τ."""
        v, log_square = _variables(mean, marginal_scale)
        factor = self._falling(log_square, scale) * marginal_scale.square()
        share = _powers.polynomial(self._polynomials[_powers.CURVATURE], v)
        slope = _powers.polynomial(self._polynomials[_powers.SHARE_SLOPE], v)
        return share * factor, slope * factor

    def tempered_scale(self, scale: Tensor, weight: float) -> Tensor:
        """Return ``λ / γ^(1/p)``."""
        return scale / weight ** (1.0 / self.shape)

    def majorizer(self, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        """Return ``τ^(p−2) M'(a) / a p λ^p``, with a = ν/τ."""
        return self._of_energy(_powers.SLOPE, mean, marginal_scale, scale)

    @cached_property
    def _polynomials(self) -> Tensor:
        return _powers.polynomials(self.shape)

    def _of_energy(self, function: int, mean: Tensor, marginal_scale: Tensor, scale: Tensor) -> Tensor:
        v, log_square = _variables(mean, marginal_scale)
        return _powers.polynomial(self._polynomials[function], v) * self._falling(log_square, scale)

    def _falling(self, log_square: Tensor, scale: Tensor) -> Tensor:
        """Return ``r^(p−2) / λ^p``."""
        return torch.exp((0.5 * self.shape - 1.0) * log_square - self.shape * scale.log())


def _variables(mean: Tensor, marginal_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``v = 2w − 1`` and ``log r²``, where r² = ν² + L τ² and w = L τ² / r²."""
    part = _powers.SPREAD * marginal_scale.square()
    square = torch.addcmul(part, mean, mean)
    return 2.0 * (part / square) - 1.0, square.log()


def _unit_entropy(p: Tensor) -> Tensor:
    """Return the entropy of the generalized Gaussian with λ = 1."""
    return (1.0 + p.log()) / p + torch.lgamma(1.0 + 1.0 / p) + torch.log(torch.full_like(p, 2.0))
