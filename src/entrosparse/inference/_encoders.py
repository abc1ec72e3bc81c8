"""Encoders: networks that map data points to their posteriors in one pass (D.3, Fig. 6 and 7).

The model stays the same when data and codes both change sign, so the networks keep that symmetry. Their
features h come from maps without bias and from the soft threshold, which is odd, so h(−x) = −h(x). The mean
is linear in h and changes sign with the data; the covariance is read from ``|h|`` and does not change.

Inside, the networks have no units: data are divided by their scale, and what is read out is multiplied by
posterior deviations. So one learning rate suits data of every scale.

Any other ``nn.Module`` that maps data (N, D) to a :class:`~entrosparse.posteriors.Posterior` will do as well.
"""

from abc import ABC, abstractmethod
from typing import Self, final

import torch
from torch import Tensor, nn

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError
from entrosparse.inference._problem import EStepProblem
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Diagonal, LowRank, Posterior

_MAX_LOG_SCALE = 8.0  # Deviations stay within a factor exp(±8) of those at the start.
_SMALL = 0.1  # Gain of the maps that should change little before training.


class _Encoder(nn.Module, ABC):
    """A linear map to more dimensions, two residual blocks, and linear read-outs.

    Before training, the mean is close to one Newton step from ν = 0, which is a linear map of the data, and
    the deviations are close to those of that step.
    """

    data_scale: Tensor
    unit: Tensor

    def __init__(
        self, x: Tensor, model: SparseCodingModel, generator: torch.Generator, width: int | None = None
    ) -> None:
        super().__init__()
        n_features, n_components = model.dictionary.shape
        width = n_features + n_components if width is None else width
        if width < 1:
            raise InputError(f"the 'width' parameter of an encoder must be an integer >= 1; got {width}")
        problem = EStepProblem.from_data(x[:1], model, EntropyWeights())
        precision = problem.shared_hessian.diagonal()
        curvature = problem.curvature(torch.zeros_like(precision), precision.rsqrt())
        newton = torch.linalg.solve(problem.shared_hessian + torch.diag(curvature), problem.loading.T)
        # In a new model the noise variance is half that of the data, or of each feature.
        data_scale = (2.0 * model.noise_variance).sqrt()
        self._lay_out(width, n_features, data_scale, (precision + curvature).rsqrt(), generator)
        with torch.no_grad():
            linear = newton * data_scale / self.unit.unsqueeze(-1)
            self.mean_readout.weight.copy_(linear @ self.lift.weight.T / self._gain**2)

    def _lay_out(
        self,
        width: int,
        n_features: int,
        data_scale: Tensor,
        unit: Tensor,
        generator: torch.Generator | None,
    ) -> None:
        """Make all layers but those of a subclass, with random weights or, without a generator, with none."""
        self.register_buffer("data_scale", data_scale)
        self.register_buffer("unit", unit)
        # The pseudo-inverse of the lift is its transpose / gain².
        self._gain = max(1.0, width / n_features) ** 0.5
        self.lift = _linear(n_features, width, self._gain, unit, generator, orthogonal=True)
        self.blocks = nn.Sequential(*(_Block(width, unit, generator) for _ in range(2)))
        self.mean_readout = _linear(width, len(unit), 0.0, unit, generator)
        self.scale_readout = _linear(width, len(unit), _SMALL, unit, generator, bias=True)

    @classmethod
    def shaped(cls, model: SparseCodingModel, width: int, rank: int = 0) -> Self:
        """Return an encoder for a model on the device "meta", with shapes but neither values nor memory."""
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        meta = model.to("meta")
        encoder._lay_out(width, model.n_features, meta.noise_variance, meta.prior_scale, None)
        return encoder

    @abstractmethod
    def forward(self, x: Tensor) -> Posterior:
        """Return the posteriors of the rows of ``x`` (N, D)."""

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return means (N, H), deviations (N, H) and magnitudes of the features (N, width)."""
        features = self.blocks(self.lift(x / self.data_scale))
        magnitude = features.abs()
        log_scale = _MAX_LOG_SCALE * torch.tanh(self.scale_readout(magnitude) / _MAX_LOG_SCALE)
        return self.unit * self.mean_readout(features), self.unit * log_scale.exp(), magnitude


@final
class DiagonalEncoder(_Encoder):
    """The network of Fig. 6: means and deviations of :class:`~entrosparse.posteriors.Diagonal` posteriors.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        A sample of the data, which gives dtype and device.
    model : SparseCodingModel
        Before training, the encoder's posteriors are roughly those of this model.
    generator : torch.Generator
        Source of randomness for the network's weights, on the CPU.
    width : int, optional
        Number of features h; D + H by default.

    Raises
    ------
    InputError
        If the width is below 1.
    """

    def forward(self, x: Tensor) -> Diagonal:
        """Return the posteriors of the rows of ``x`` (N, D)."""
        mean, scale, _ = self._read(x)
        return Diagonal(mean, scale)


@final
class LowRankEncoder(_Encoder):
    """The network of Fig. 7: a :class:`DiagonalEncoder` that also gives V of ``T = V Vᵀ + diag(d²)``.

    Parameters
    ----------
    x, model, generator, width
        As those of :class:`DiagonalEncoder`.
    rank : int
        Number r of directions of correlation, from 1 to H.

    Raises
    ------
    InputError
        If the width is below 1, or the rank not from 1 to H.
    """

    def __init__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        generator: torch.Generator,
        width: int | None = None,
        rank: int = 5,
    ) -> None:
        if not 1 <= rank <= model.n_components:
            raise InputError(
                f"the 'rank' parameter of the LowRankEncoder must be an integer from 1 to "
                f"{model.n_components}, the number of components; got {rank}"
            )
        super().__init__(x, model, generator, width)
        self._add_factor(rank, generator)

    def _add_factor(self, rank: int, generator: torch.Generator | None) -> None:
        self.rank = rank
        sizes = self.lift.out_features, len(self.unit) * rank
        self.factor_readout = _linear(*sizes, _SMALL, self.unit, generator, bias=True)

    @classmethod
    def shaped(cls, model: SparseCodingModel, width: int, rank: int = 0) -> Self:
        """Return an encoder for a model and of a rank, on the device "meta"."""
        encoder = super().shaped(model, width)
        encoder._add_factor(rank, None)
        return encoder

    def forward(self, x: Tensor) -> LowRank:
        """Return the posteriors of the rows of ``x`` (N, D)."""
        mean, scale, magnitude = self._read(x)
        factor = self.factor_readout(magnitude).unflatten(-1, (-1, self.rank))
        return LowRank(mean, self.unit.unsqueeze(-1) * factor, scale)


class _Block(nn.Module):
    """A residual block ``h + B soft(A h)``, which has the form of one step of iterated thresholding."""

    def __init__(self, width: int, like: Tensor, generator: torch.Generator | None) -> None:
        super().__init__()
        self.inner = _linear(width, width, 1.0, like, generator)
        self.outer = _linear(width, width, _SMALL, like, generator)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.outer(nn.functional.softshrink(self.inner(features)))


def _linear(
    n_inputs: int,
    n_outputs: int,
    gain: float,
    like: Tensor,
    generator: torch.Generator | None,
    bias: bool = False,
    orthogonal: bool = False,
) -> nn.Linear:
    """Return a linear map whose weights, unless orthogonal, are normal and of variance ``gain² / n_inputs``.

    Without a generator they have no values yet.
    """
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear,
        n_inputs,
        n_outputs,
        bias=bias,
        dtype=like.dtype,
        device=like.device if generator is None else generator.device,
    )
    if generator is not None:
        nn.init.normal_(layer.weight, std=gain / n_inputs**0.5, generator=generator)
        if orthogonal:
            nn.init.orthogonal_(layer.weight, gain, generator)
        if bias:
            nn.init.zeros_(layer.bias)
    return layer.to(like.device)
