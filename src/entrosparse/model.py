"""The generative model of Eq. 5: sparse codes, a dictionary with unit columns, and noise."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor

from entrosparse._tensors import TensorFile, open_tensors, write_tensors
from entrosparse.errors import FileFormatError, InputError
from entrosparse.likelihoods import LIKELIHOODS, Isotropic, Likelihood
from entrosparse.priors import PRIORS, Laplace, Prior, PriorFamily

# Files of the second format name a likelihood; the first, which older versions read, has isotropic noise.
_FORMATS = ("entrosparse-model-1", "entrosparse-model-2")
_TABLES: dict[str, dict[str, Any]] = {"prior": PRIORS, "likelihood": LIKELIHOODS}
_UNIT_TOLERANCE, _SHAPE_TOLERANCE = 1e-3, 1e-4
LARGEST_FILE = 2**29  # Bytes of a model that is saved or loaded.


@final
@dataclass(frozen=True)
class SparseCodingModel:
    """``x = W z + noise`` with ``z_h ~ prior(λ_h)`` and noise of variance σ² (Eq. 5).

    Attributes
    ----------
    dictionary : Tensor of shape (D, H)
        W̃, with columns of unit length.
    prior_scale : Tensor of shape (H,)
        λ > 0, in units of the codes.
    noise_variance : Tensor of shape () or (D,)
        σ² > 0, in squared data units; of each feature if the likelihood is one of such.
    prior : PriorFamily
        The family of ``p(z_h)``; Laplace by default.
    likelihood : Likelihood
        The family of ``p(x | z)``; isotropic Gaussian noise by default.
    prior_shape : Tensor of shape (H,) or None
        Shapes of a family of priors that has some, by default its first ones; None for others.

    Raises
    ------
    InputError
        If shapes disagree.
    """

    dictionary: Tensor
    prior_scale: Tensor
    noise_variance: Tensor
    prior: PriorFamily = Laplace()
    likelihood: Likelihood = Isotropic()
    prior_shape: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.dictionary.shape)
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"the 'dictionary' must have shape (D, H) with D, H >= 1; got {shape}")
        if tuple(self.prior_scale.shape) != shape[1:]:
            got = tuple(self.prior_scale.shape)
            raise InputError(f"the 'prior_scale' must have shape ({shape[1]},) to match W; got {got}")
        wanted, got = shape[:1] if self.likelihood.per_feature else (), tuple(self.noise_variance.shape)
        if got != wanted:
            expected = f"have shape {wanted} to match W" if wanted else "be a scalar tensor"
            raise InputError(
                f"the 'noise_variance' of {self.likelihood.name} noise must {expected}; got shape {got}"
            )
        first = self.prior.first_shape
        if self.prior_shape is None and first is not None:
            object.__setattr__(self, "prior_shape", torch.full_like(self.prior_scale, first))
        got_shape = None if self.prior_shape is None else tuple(self.prior_shape.shape)
        if got_shape != (None if first is None else shape[1:]):
            needed = "be None, as this prior has no shapes" if first is None else f"have shape ({shape[1]},)"
            raise InputError(f"the 'prior_shape' must {needed}; got {got_shape}")

    @property
    def n_features(self) -> int:
        """Data dimension D."""
        return self.dictionary.shape[0]

    @property
    def n_components(self) -> int:
        """Number of latents H."""
        return self.dictionary.shape[1]

    @cached_property
    def factors(self) -> Prior:
        """The factors ``p(z_h)`` of the prior, at their shapes."""
        return self.prior.at(self.prior_shape)

    @cached_property
    def gram(self) -> Tensor:
        """``G = W̃ᵀW̃``, shape (H, H)."""
        return self.dictionary.T @ self.dictionary

    @cached_property
    def precision(self) -> Tensor:
        """What an entry tells about its mean, 1/σ² for Gaussian noise: shape (), or (D, 1) if per feature."""
        precision = self.likelihood.precision(self.noise_variance)
        return precision[:, None] if self.likelihood.per_feature else precision

    @property
    def mean_noise_variance(self) -> float:
        """σ², or the geometric mean over features that have their own: the one that has the same entropy."""
        variance = self.noise_variance
        return float(variance if variance.ndim == 0 else variance.double().log().mean().exp())

    @cached_property
    def readout(self) -> Tensor:
        """The (D, H) matrix that gives the best codes of data made of one atom each: W̃, or with weights.

        Where features have precisions P of their own, that is ``P W̃ diag(W̃ᵀP W̃)⁻¹``.
        """
        if not self.likelihood.per_feature:
            return self.dictionary
        weighted = self.dictionary * self.precision
        return weighted / (self.dictionary * weighted).sum(0)

    @cached_property
    def gram_norm(self) -> Tensor:
        """``‖UᵀU‖₁₆`` of the atoms U, of unit length in the metric of the noise, shape ().

        This is the Schatten norm: from ``λ_max(UᵀU)`` to ``H^(1/16)`` times it.
        """
        atoms, gram = self.dictionary, self.gram
        if self.likelihood.per_feature:
            atoms = unit_columns(atoms * self.precision.sqrt())
            gram = atoms.T @ atoms
        overcomplete = self.n_components > self.n_features
        product = atoms @ atoms.T if overcomplete else gram  # same norms, D x D
        size = torch.linalg.matrix_norm(product)
        power = product / size
        for _ in range(3):
            power = power @ power
        return size * torch.linalg.matrix_norm(power) ** 0.125

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the model with its tensors moved or cast, as :meth:`torch.Tensor.to` does."""
        return replace(
            self,
            dictionary=self.dictionary.to(*args, **kwargs),
            prior_scale=self.prior_scale.to(*args, **kwargs),
            noise_variance=self.noise_variance.to(*args, **kwargs),
            prior_shape=None if self.prior_shape is None else self.prior_shape.to(*args, **kwargs),
        )

    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw data and the codes behind them.

        Parameters
        ----------
        n_samples : int
            Number of data points N.
        generator : torch.Generator, optional
            Source of randomness.

        Returns
        -------
        x : Tensor of shape (N, D)
        z : Tensor of shape (N, H)
        """
        z = self.factors.sample(n_samples, self.prior_scale, generator)
        noise = self.likelihood.sample((n_samples, self.n_features), self.noise_variance, generator)
        return z @ self.dictionary.T + noise, z

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ``log p(x, z)`` in nats for x (..., D) and z (..., H); the result has shape (...).

        NaN are entries that were not seen: they have no likelihood.
        """
        x, observed = split_missing(x)
        log_likelihood = self.likelihood.log_prob(x - z @ self.dictionary.T, self.noise_variance, observed)
        return log_likelihood + self.factors.log_prob(z, self.prior_scale).sum(-1)

    def validate(self) -> Self:
        """Return the model itself if it is sound.

        Raises
        ------
        InputError
            If a value is not finite, a scale or the variance is not positive, a shape is beyond the range of
            the prior, or a column of the dictionary is not of unit length.
        """
        for name, tensor in self._tensors().items():
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"the '{name}' must be finite; got {int((~torch.isfinite(tensor)).sum())} others"
                )
        if not (self.prior_scale > 0).all():
            raise InputError(
                f"the 'prior_scale' must be > 0; got a minimum of {float(self.prior_scale.min())}"
            )
        if not (self.noise_variance > 0).all():
            raise InputError(f"the 'noise_variance' must be > 0; got {float(self.noise_variance.min())}")
        if self.prior_shape is not None:
            least, most = self.prior.shape_range
            low, high = (float(bound) for bound in self.prior_shape.aminmax())
            if not least - _SHAPE_TOLERANCE <= low <= high <= most + _SHAPE_TOLERANCE:
                raise InputError(
                    f"the 'prior_shape' must lie within [{least:g}, {most:g}]; got {low:g} to {high:g}"
                )
        deviation = float((self.dictionary.double().norm(dim=0) - 1.0).abs().max())
        if deviation > _UNIT_TOLERANCE:
            raise InputError(
                f"the 'dictionary' must have columns of length 1; got lengths off by {deviation:.3g}"
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write the tensors as safetensors, aside first and then renamed into place.

        Raises
        ------
        InputError
            If the file could not be read back: it would be too large, or the prior or the likelihood is not
            one of the package, of which the file holds the name and the parameters.
        """
        tensors, parts = self.content()
        metadata = {"format": _FORMATS["likelihood" in parts]} | parts
        write_tensors(path, "model", LARGEST_FILE, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        FileFormatError
            If the file is missing, too large, no regular file, damaged, or holds what is not a model.
        """
        with open_tensors(path, "model", LARGEST_FILE) as file:
            if file.metadata.get("format") not in _FORMATS:
                raise FileFormatError(f"'{path}' is not an entrosparse model of a version known here")
            return cls.from_content(file)

    def content(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return what a file must hold of the model: tensors, and words on its prior and likelihood.

        Raises
        ------
        InputError
            If the prior or the likelihood is not one of the package.
        """
        for name, table in _TABLES.items():
            part = getattr(self, name)
            if type(table.get(part.name)) is not type(part):
                known = ", ".join(table)
                raise InputError(f"the '{name}' of a model that is saved must be one of {known}; got {part}")
        parts = {"prior": self.prior.name}
        if parameters := vars(self.prior):
            parts["prior_parameters"] = json.dumps(parameters)
        if self.likelihood != Isotropic():
            parts["likelihood"] = self.likelihood.name
        return self._tensors(), parts

    @classmethod
    def from_content(cls, file: TensorFile) -> Self:
        """Return the model whose :meth:`content` a file holds, or a part of it.

        Raises
        ------
        InputError
            If the file holds something else.
        """
        name = file.metadata.get("likelihood", Isotropic.name)
        if file.metadata.get("prior") not in PRIORS or name not in LIKELIHOODS:
            raise FileFormatError(f"'{file.path}' is not an entrosparse model of a version known here")
        prior, likelihood = _prior_from(file.metadata), LIKELIHOODS[name]
        n_features, n_components = (*file.shapes.get("dictionary", ()), -1, -1)[:2]
        shapes: dict[str, tuple[int, ...]] = {
            "dictionary": (n_features, n_components),
            "prior_scale": (n_components,),
            "noise_variance": (n_features,) if likelihood.per_feature else (),
        }
        if prior.first_shape is not None:
            shapes["prior_shape"] = (n_components,)
        file.check(shapes)
        return cls(**file.read(), prior=prior, likelihood=likelihood).validate()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "dictionary": self.dictionary,
            "prior_scale": self.prior_scale,
            "noise_variance": self.noise_variance,
        }
        return tensors if self.prior_shape is None else tensors | {"prior_shape": self.prior_shape}


def _prior_from(metadata: dict[str, str]) -> PriorFamily:
    """Return the prior that the metadata of a file describe."""
    prior = PRIORS[metadata["prior"]]
    try:
        found = type(prior)(**json.loads(metadata.get("prior_parameters", "{}")))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"the prior {prior.name!r} has other parameters: {error}") from error
    return prior if found == prior else found


def unit_columns(matrix: Tensor) -> Tensor:
    """Return the matrix with each column divided by its length; a column of zeros stays as it is."""
    length = matrix.norm(dim=0)
    return matrix / torch.where(length > 0, length, torch.ones_like(length))


def split_missing(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the data with 0 for NaN, and where entries were seen (1 or 0), or None when all were."""
    if bool(torch.isfinite(x.sum())):  # cheaper than a look at each
        return x, None
    missing = torch.isnan(x)
    if not bool(missing.any()):
        return x, None
    return x.masked_fill(missing, 0.0), (~missing).to(x)


def check_data(x: Tensor, name: str) -> None:
    """Raise InputError unless ``x`` (N, D) is of numbers that can be computed with, or NaN: entries not seen.

    In computing with data, powers up to the fourth of them appear.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"the '{name}' must have shape (N, D) with N, D >= 1; got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"the '{name}' must be of float32 or float64; got {x.dtype}")
    limit = torch.finfo(x.dtype).max ** 0.25
    lowest, highest = (float(bound) for bound in x.aminmax())
    if -limit <= lowest and highest <= limit:  # That is the usual case; NaN, too, take the closer look.
        return
    n_bad = int(torch.isinf(x).sum())
    if n_bad:
        raise InputError(f"the '{name}' must be finite, or NaN where not seen; got {n_bad} infinite entries")
    n_bad = int((x.abs() > limit).sum())
    if n_bad:
        raise InputError(
            f"the '{name}' must lie within ±{limit:.2g} in {x.dtype}; got {n_bad} entries beyond"
        )


def check_sample(x: Tensor, name: str) -> None:
    """Raise InputError unless data have an entry that was seen, and are not too small to compute with."""
    if bool(x.isnan().all()):
        raise InputError(f"the '{name}' must have an entry that was seen; got NaN alone")
    largest, limit = float(x.abs().nan_to_num(0.0).amax()), torch.finfo(x.dtype).tiny ** 0.25
    if 0.0 < largest < limit:
        raise InputError(
            f"the '{name}' must hold zeros alone or a value beyond {limit:.2g} in {x.dtype}; "
            f"got {largest:.2g} at most"
        )


def check_device(device: str) -> None:
    """Raise InputError unless PyTorch can compute on the device."""
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # PyTorch raises a different one for each way to be wrong.
        known = "'cpu' or 'cuda'" if torch.cuda.is_available() else "'cpu', as PyTorch finds no GPU here"
        raise InputError(
            f"the 'device' parameter must be one that PyTorch can compute on, such as {known}; got {device!r}"
        ) from error
