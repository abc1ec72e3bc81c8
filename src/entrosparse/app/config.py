"""The settings of a learning run: plain data that is checked before any work starts."""

from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, final

from entrosparse.annealing import get_schedule
from entrosparse.errors import InputError

if TYPE_CHECKING:
    from entrosparse.recipes import Recipe


_MOST_NUMBERS = 2**25  # In a dictionary.
_MOST_OF_ENCODER = 2**26


def _setting(default: Any, description: str, minimum: int | None = None, maximum: int = 2**63 - 1) -> Any:
    return field(default=default, metadata={"help": description, "minimum": minimum, "maximum": maximum})


@final
@dataclass(frozen=True)
class FitConfig:
    """What `entrosparse fit` learns, and from how much data.

    Attributes
    ----------
    n_components : int
        Number of latents H, that is of generative fields.
    patch_size : int
        Side of the square patches in pixels; D is its square.
    n_patches : int
        Number of patches drawn from the images for learning; they fill at least one minibatch.
    covariance : str
        Covariance of the posteriors, in learning and after it: a name in
        :data:`~entrosparse.recipes.COVARIANCES`.
    rank : int
        Rank of the low-rank covariance.
    inference : str
        Whether posteriors are optimized one by one or come from an encoder, in learning and after it: a name
        in :data:`~entrosparse.recipes.INFERENCES`.
    prior : str
        Prior of the codes: a name in :data:`~entrosparse.priors.PRIORS`.
    prior_shape : float or str
        Shape of the generalized Gaussian prior: a number in (0.3, 2], "learned" or "shared".
    noise : str
        Kind of noise: a name in :data:`~entrosparse.likelihoods.LIKELIHOODS`.
    epochs : int
        Passes over the patches.
    batch_size : int
        Patches per minibatch.
    annealing : str
        Name of the schedule of the entropy weights (Eq. 17, D.4).
    stretch_annealing : bool
        Spread what the schedule does in its first 10 epochs over all epochs.
    whiten : str
        ``"olshausen"`` or ``"none"``.
    seed : int
        Decides the patches drawn, their order and the start of learning.
    device : str
        Where to compute, as PyTorch names it; checkpoints are of one device.
    """

    n_components: int = _setting(100, "number of generative fields H", 1)
    patch_size: int = _setting(16, "side of the square patches, in pixels", 2, 1024)
    n_patches: int = _setting(204_800, "patches drawn from the images for learning", 1, 10**8)
    covariance: str = _setting(
        "diagonal", "covariance of the posteriors: diagonal, low-rank, full or exact-factorial"
    )
    rank: int = _setting(5, "rank of the low-rank covariance", 1, 10**4)
    inference: str = _setting(
        "variational", "where posteriors come from: variational, encoder (a network) or refined (both)"
    )
    prior: str = _setting(
        "laplace",
        "prior of the codes: laplace, gaussian, generalized-gaussian, skewed-laplace or exponential",
    )
    prior_shape: float | str = _setting(
        "learned", "shape of the generalized Gaussian: a number in (0.3, 2], learned or shared"
    )
    noise: str = _setting("isotropic", "kind of noise: isotropic, per-feature or laplace")
    epochs: int = _setting(10, "passes over the patches", 1, 10**5)
    batch_size: int = _setting(512, "patches per minibatch", 1)
    annealing: str = _setting("none", "entropy annealing: none, prior, likelihood or tempering")
    stretch_annealing: bool = _setting(False, "spread the annealing of 10 epochs over all epochs")
    whiten: str = _setting("olshausen", "whitening of the images: olshausen or none")
    seed: int = _setting(0, "seed of the patches, their order and the start of learning", 0)
    device: str = _setting("cpu", "where to compute: cpu or cuda")

    @property
    def recipe(self) -> "Recipe":
        """The parts that learn and infer."""
        # Here, so that the command line starts without PyTorch.
        from entrosparse.priors import GeneralizedGaussian
        from entrosparse.recipes import Recipe

        recipe = Recipe(self.covariance, self.rank, self.inference, self.prior, self.noise)
        if self.prior_shape == "learned":
            return recipe
        if self.prior != GeneralizedGaussian.name:
            raise InputError(
                f"the 'prior_shape' must be 'learned' unless 'prior' is {GeneralizedGaussian.name!r}; "
                f"got {self.prior_shape!r} and {self.prior!r}"
            )
        return replace(recipe, prior=GeneralizedGaussian(self.prior_shape))

    @property
    def n_heldout(self) -> int:
        """Number of patches held out to measure learning: a tenth of the others, from 64 to 4096."""
        return min(4096, max(64, self.n_patches // 10))

    @property
    def _size_of_encoder(self) -> int:
        """How many numbers an encoder has, nearly: it has D + H features, and may read out a low rank."""
        n_features = self.patch_size**2
        width = n_features + self.n_components
        rank = min(self.rank, self.n_components) if self.covariance == "low-rank" else 0
        return width * (n_features + 4 * width + self.n_components * (2 + rank))

    def validate(self) -> None:
        """Check every setting.

        Raises
        ------
        InputError
            With one line that names the setting, what is expected and what came.
        """
        for parameter in fields(self):
            minimum, value = parameter.metadata["minimum"], getattr(self, parameter.name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if minimum is not None and not (whole and value >= minimum):
                raise InputError(
                    f"the '{parameter.name}' parameter must be an integer >= {minimum}; got {value!r}"
                )
            kind: Any = parameter.type
            if minimum is None and not isinstance(value, kind):
                expected = getattr(kind, "__name__", kind)
                raise InputError(f"the '{parameter.name}' parameter must be a {expected}; got {value!r}")
            maximum = parameter.metadata["maximum"]
            if minimum is not None and value > maximum:
                raise InputError(
                    f"the '{parameter.name}' parameter must be an integer <= {maximum}; got {value}"
                )
        if self.n_components > _MOST_NUMBERS // self.patch_size**2:
            raise InputError(
                f"the 'n_components' parameter must be an integer <= {_MOST_NUMBERS // self.patch_size**2}, "
                f"the most for patches of {self.patch_size} x {self.patch_size}; got {self.n_components}"
            )
        if self.n_patches < self.batch_size:
            raise InputError(
                f"the 'n_patches' parameter must be an integer >= {self.batch_size}, the batch size; "
                f"got {self.n_patches}"
            )
        from entrosparse.images import WHITENINGS  # Here, so that the command line starts without NumPy.

        get_schedule(self.annealing)
        self.recipe.validate()
        if self.inference != "variational" and self._size_of_encoder > _MOST_OF_ENCODER:
            raise InputError(
                f"the 'n_components' parameter must be such that an encoder has at most "
                f"{_MOST_OF_ENCODER:,} numbers; got {self.n_components}, with {self._size_of_encoder:,}"
            )
        if self.whiten not in WHITENINGS:
            known = ", ".join(repr(name) for name in WHITENINGS)
            raise InputError(f"the 'whiten' parameter must be one of {known}; got {self.whiten!r}")
