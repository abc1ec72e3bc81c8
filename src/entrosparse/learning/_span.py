"""Few rows of many features: learning in the space that they and the atoms span."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from entrosparse.inference import Inference
from entrosparse.likelihoods import Isotropic
from entrosparse.likelihoods._gaussian_noise import GaussianNoise
from entrosparse.model import SparseCodingModel
from entrosparse.posteriors import Posterior

_WORTH_IT = 2  # Features per dimension of the span from which on learning there pays.


@final
class Span:
    """The space that some rows and atoms span, and coordinates in it.

    Isotropic noise is alike in all directions, so EM needs only the scalar products of rows and atoms, and
    its atoms never leave what the rows and the first atoms span. Coordinates in an orthonormal basis of that
    space have the same scalar products, and are N + H numbers in place of D.

    Checkpoints hold nothing of it: it follows from the rows and the first atoms.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        The rows.
    dictionary : Tensor of shape (D, H)
        The first atoms.
    """

    def __init__(self, x: Tensor, dictionary: Tensor) -> None:
        self._axes = torch.linalg.qr(torch.cat([x.T, dictionary], dim=1)).Q.T.contiguous()  # (K, D)
        self._noise = _NoiseOfSpan(len(dictionary))
        self._rows, self._coordinates = x[:0], x[:0]

    @classmethod
    def where_it_pays(cls, x: Tensor, model: SparseCodingModel, inference: Inference) -> Self | None:
        """Return the span of rows (N, D) and the atoms of a model, or None if learning needs all features.

        It does if entries are missing, if features have noise of their own, or if an inference is not known
        to use scalar products alone. It may as well if the features are not many more than the rows.
        """
        known = getattr(inference, "uses_scalar_products_alone", False)
        few = _WORTH_IT * (len(x) + model.n_components) <= model.n_features
        if not (known and few and model.likelihood == Isotropic()) or bool(x.isnan().any()):
            return None
        return cls(x, model.dictionary)

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the coordinates of rows, shape (N, K); the last rows are remembered."""
        if x.data_ptr() != self._rows.data_ptr() or x.shape != self._rows.shape:
            self._rows, self._coordinates = x, x @ self._axes.T
        return self._coordinates

    def inside(self, model: SparseCodingModel) -> SparseCodingModel:
        """Return the model whose atoms are coordinates (K, H); its noise is that of all D features."""
        return replace(model, dictionary=self._axes @ model.dictionary, likelihood=self._noise)

    def outside(self, model: SparseCodingModel) -> SparseCodingModel:
        """Return the model with atoms (D, H), from :meth:`inside`."""
        dictionary = (model.dictionary.T @ self._axes).T.contiguous()  # Thrice as fast as the axes first.
        return replace(model, dictionary=dictionary, likelihood=Isotropic())


@final
@dataclass(frozen=True)
class _NoiseOfSpan(GaussianNoise):
    """Isotropic noise of so many features, most of which are not among the coordinates."""

    name: ClassVar[str] = "isotropic"

    n_features: int

    def statistic(self, residual: Tensor) -> Tensor:
        return Isotropic().statistic(residual)

    def expected_statistic(
        self, posterior: Posterior, dictionary: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        return Isotropic().expected_statistic(posterior, dictionary, x, observed)

    def n_entries(self, x: Tensor, observed: Tensor | None, row_weight: Tensor) -> Tensor:
        return row_weight.double().sum() * self.n_features
