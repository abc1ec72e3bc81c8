"""The generative model of Eq. 5: Laplace codes, a dictionary with unit columns, Gaussian noise."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from entrosparse._files import open_ours, write_atomically
from entrosparse.closed_form import LOG_2PI
from entrosparse.errors import FileFormatError, InputError
from entrosparse.priors import PRIORS, Laplace, Prior

_FORMAT = "entrosparse-model-1"
_UNIT_TOLERANCE = 1e-3
LARGEST_FILE = 2**29  # Bytes of a model that is saved or loaded.


@final
@dataclass(frozen=True)
class SparseCodingModel:
    """``x = W z + noise`` with ``z_h ~ prior(λ_h)`` and noise ``N(0, σ² I)`` (Eq. 5).

    Attributes
    ----------
    dictionary : Tensor of shape (D, H)
        W̃, with columns of unit length.
    prior_scale : Tensor of shape (H,)
        λ > 0, in units of the codes.
    noise_variance : Tensor of shape ()
        σ² > 0, in squared data units.
    prior : Prior
        The family of ``p(z_h)``; Laplace by default.

    Raises
    ------
    InputError
        If shapes disagree.
    """

    dictionary: Tensor
    prior_scale: Tensor
    noise_variance: Tensor
    prior: Prior = Laplace()

    def __post_init__(self) -> None:
        shape = tuple(self.dictionary.shape)
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"the 'dictionary' must have shape (D, H) with D, H >= 1; got {shape}")
        if tuple(self.prior_scale.shape) != shape[1:]:
            got = tuple(self.prior_scale.shape)
            raise InputError(f"the 'prior_scale' must have shape ({shape[1]},) to match W; got {got}")
        if self.noise_variance.ndim != 0:
            got = tuple(self.noise_variance.shape)
            raise InputError(f"the 'noise_variance' must be a scalar tensor; got shape {got}")

    @property
    def n_features(self) -> int:
        """Data dimension D."""
        return self.dictionary.shape[0]

    @property
    def n_components(self) -> int:
        """Number of latents H."""
        return self.dictionary.shape[1]

    @cached_property
    def gram(self) -> Tensor:
        """``G = W̃ᵀW̃``, shape (H, H)."""
        return self.dictionary.T @ self.dictionary

    @cached_property
    def gram_norm(self) -> Tensor:
        """``‖G‖₁₆``, the Schatten norm: from ``λ_max(G)`` to ``H^(1/16)`` times it, shape ()."""
        overcomplete = self.n_components > self.n_features
        product = self.dictionary @ self.dictionary.T if overcomplete else self.gram  # same norms, D x D
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
        z = self.prior.sample(n_samples, self.prior_scale, generator)
        shape = (n_samples, self.n_features)
        noise = torch.randn(shape, dtype=z.dtype, device=z.device, generator=generator)
        return z @ self.dictionary.T + self.noise_variance.sqrt() * noise, z

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ``log p(x, z)`` in nats for x (..., D) and z (..., H); the result has shape (...).

        NaN are entries that were not seen: they have no likelihood.
        """
        x, observed = split_missing(x)
        n_entries = self.n_features if observed is None else observed.sum(-1)
        error = x - z @ self.dictionary.T
        residual = (error if observed is None else observed * error).square().sum(-1)
        log_likelihood = -0.5 * (
            n_entries * (LOG_2PI + self.noise_variance.log()) + residual / self.noise_variance
        )
        return log_likelihood + self.prior.log_prob(z, self.prior_scale).sum(-1)

    def validate(self) -> Self:
        """Return the model itself if it is sound.

        Raises
        ------
        InputError
            If a value is not finite, a scale or the variance is not positive, or a column of the dictionary
            is not of unit length.
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
        if not self.noise_variance > 0:
            raise InputError(f"the 'noise_variance' must be > 0; got {float(self.noise_variance)}")
        deviation = float((self.dictionary.double().norm(dim=0) - 1.0).abs().max())
        if deviation > _UNIT_TOLERANCE:
            raise InputError(
                f"the 'dictionary' must have columns of length 1; got lengths off by {deviation:.3g}"
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write the three tensors as safetensors, aside first and then renamed into place.

        Raises
        ------
        InputError
            If the file could not be read back: it would be too large, or the prior is not one of the package,
            of which the file holds the name alone.
        """
        if PRIORS.get(self.prior.name) != self.prior:
            known = ", ".join(PRIORS)
            raise InputError(f"the 'prior' of a model that is saved must be one of {known}; got {self.prior}")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        data = safetensors_bytes(tensors, metadata={"format": _FORMAT, "prior": self.prior.name})
        if len(data) > LARGEST_FILE:
            raise InputError(f"a saved model must have at most {LARGEST_FILE:,} bytes; got {len(data):,}")
        write_atomically(path, lambda stream: stream.write(data))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        FileFormatError
            If the file is missing, too large, no regular file, damaged, or holds what is not a model.
        """
        expected = {"dictionary": 2, "prior_scale": 1, "noise_variance": 0}
        try:
            with (
                open_ours(Path(path), LARGEST_FILE, follow_links=True),
                safetensors.safe_open(str(path), framework="pt") as file,
            ):
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT or metadata.get("prior") not in PRIORS:
                    raise FileFormatError(f"'{path}' is not an entrosparse model of a version known here")
                if set(file.keys()) != set(expected):
                    raise FileFormatError(f"'{path}' must hold {sorted(expected)}; got {sorted(file.keys())}")
                for name, n_axes in expected.items():
                    part = file.get_slice(name)
                    if len(part.get_shape()) != n_axes or part.get_dtype() not in ("F32", "F64"):
                        raise FileFormatError(f"'{name}' in '{path}' has the wrong shape or dtype")
                if len({file.get_slice(name).get_dtype() for name in expected}) > 1:
                    raise FileFormatError(f"the tensors in '{path}' must have one dtype")
                tensors = {name: file.get_tensor(name) for name in expected}
            return cls(**tensors, prior=PRIORS[metadata["prior"]]).validate()
        except FileFormatError:
            raise
        except FileNotFoundError as error:
            raise FileFormatError(f"'{path}' does not exist") from error
        except (OSError, InputError, safetensors.SafetensorError) as error:
            raise FileFormatError(f"'{path}' cannot be read as a model: {error}") from error

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "dictionary": self.dictionary,
            "prior_scale": self.prior_scale,
            "noise_variance": self.noise_variance,
        }


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
