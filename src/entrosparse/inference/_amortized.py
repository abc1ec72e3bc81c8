"""Amortized inference: an encoder gives the posteriors, alone or before a few exact iterations (D.3)."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self, cast, final

import torch
from torch import Tensor, nn

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import InputError, NumericalError
from entrosparse.inference._protocol import Inference
from entrosparse.model import SparseCodingModel, split_missing
from entrosparse.posteriors import Posterior


@final
@dataclass(frozen=True)
class AmortizedInference:
    """The posteriors that an encoder returns; they depend on the data alone.

    Attributes
    ----------
    encoder : torch.nn.Module
        Maps data (N, D) to a :class:`~entrosparse.posteriors.Posterior`.
    """

    encoder: nn.Module

    def to(self, device: str) -> Self:
        """Return the same with a copy of the encoder on a device."""
        return replace(self, encoder=deepcopy(self.encoder).to(device))

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        weights: EntropyWeights = EntropyWeights(),
        start: Posterior | None = None,
    ) -> Posterior:
        """Return the posteriors of the rows of ``x`` (N, D), without gradients.

        Of ``model``, only the number of components is used. The errors are those of :meth:`differentiable`.
        """
        return self.differentiable(x, model)

    def differentiable(self, x: Tensor, model: SparseCodingModel) -> Posterior:
        """Return the posteriors of the rows of ``x`` (N, D), with gradients to the encoder's parameters.

        Entries that were not seen (NaN) are 0 to the encoder. It computes in the dtype of its parameters, and
        the posteriors are of the dtype of the data.

        Raises
        ------
        InputError
            If the encoder returns something else than posteriors of N data points over H latents.
        NumericalError
            If a number is not finite, or a covariance not positive definite.
        """
        seen, _ = split_missing(x)
        like = next(self.encoder.parameters(), seen)
        posterior: Any = self.encoder(seen.to(like.dtype))
        self._check(posterior, (len(x), model.n_components))
        if like.dtype == x.dtype:
            return cast(Posterior, posterior)
        parts = {part.name: getattr(posterior, part.name).to(x.dtype) for part in fields(posterior)}
        return cast(Posterior, replace(posterior, **parts))

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded."""
        return max(1, 2**21 // n_components)

    def _check(self, posterior: Posterior, shape: tuple[int, int]) -> None:
        name = type(self.encoder).__name__
        if not (isinstance(posterior, Posterior) and is_dataclass(posterior)):
            raise InputError(
                f"the encoder {name} must return a Posterior, such as Diagonal(mean, scale); "
                f"got {type(posterior).__name__}"
            )
        for part in fields(posterior):
            tensor = getattr(posterior, part.name)
            if tuple(tensor.shape[:2]) != shape:
                raise InputError(
                    f"the encoder {name} must return '{part.name}' of a shape that starts with {shape}, the "
                    f"data points and components; got {tuple(tensor.shape)}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise NumericalError(
                    f"the encoder {name} must return a finite '{part.name}'; got NaN or infinity: lower the "
                    "learning rate, or scale the data to unit variance"
                )
        # Gradients are on here, because posteriors may keep what they compute.
        with suppress(torch.linalg.LinAlgError):
            if bool(torch.isfinite(posterior.entropy()).all()):
                return
        raise NumericalError(
            f"the encoder {name} must return deviations > 0 and covariances that are positive definite; "
            "got others"
        )


@final
@dataclass(frozen=True)
class RefinedInference:
    """An encoder's answer that a solver brings closer to the optimum, which closes the amortization gap.

    Attributes
    ----------
    amortized : AmortizedInference
        Gives the start.
    solver : Inference
        A few exact iterations for posteriors of the encoder's kind, such as
        ``DiagonalInference(tolerance=0.0, max_iterations=3)``.
    """

    amortized: AmortizedInference
    solver: Inference

    def to(self, device: str) -> Self:
        """Return the same with a copy of the encoder on a device."""
        return replace(self, amortized=self.amortized.to(device))

    def __call__(
        self,
        x: Tensor,
        model: SparseCodingModel,
        weights: EntropyWeights = EntropyWeights(),
        start: Posterior | None = None,
    ) -> Posterior:
        """Return the posteriors of the rows of ``x`` (N, D).

        The solver always starts from the encoder's answer and ``start`` is ignored, so that the posterior of
        a data point depends on the model alone.
        """
        return self.solver(x, model, weights, self.amortized(x, model))

    def rows_at_once(self, n_components: int) -> int:
        """Return how many data points to infer together so that memory stays bounded."""
        return min(self.amortized.rows_at_once(n_components), self.solver.rows_at_once(n_components))
