"""The settings of a learning run: plain data that is checked before any work starts."""

from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, final

from entrosparse.annealing import get_schedule
from entrosparse.errors import InputError

if TYPE_CHECKING:
    from entrosparse.learning import Learner
    from entrosparse.recipes import Recipe


_MOST_NUMBERS = 2**25  # In a dictionary.
_MOST_OF_ENCODER = 2**26
_MOST_COLUMNS = 2**18
_FIELDS_OF_IMAGES, _EPOCHS_OF_IMAGES = 100, 10
_PASSES = 10  # In an epoch of batch learning, so that measuring it takes less time than learning does.
_OF_IMAGES = ("patch_size", "n_patches", "whiten")  # What says nothing about rows.


def _setting(default: Any, description: str, minimum: int | None = None, maximum: int = 2**63 - 1) -> Any:
    return field(default=default, metadata={"help": description, "minimum": minimum, "maximum": maximum})


@final
@dataclass(frozen=True)
class FitConfig:
    """What `entrosparse fit` learns, and from how much data.

    Attributes
    ----------
    rows : bool
        Whether data points are the rows of a table; else they are patches of images.
    n_components : int
        Number of latents H, that is of generative fields; None until :meth:`for_data` chooses it.
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
    algorithm : str
        Whether a pass over the rows is one iteration ("batch") or minibatches ("online"); "auto" until
        :meth:`for_data` chooses.
    epochs : int
        Passes over the data points, or tens of passes for "batch", at most; None until :meth:`for_data`
        chooses their number.
    batch_size : int
        Data points per minibatch, at most.
    annealing : str
        Name of the schedule of the entropy weights (Eq. 17, D.4).
    stretch_annealing : bool
        Spread what the schedule does in its first 10 epochs over all epochs.
    whiten : str
        ``"olshausen"`` or ``"none"``.
    seed : int
        Decides the patches drawn, the order of the data points and the start of learning.
    device : str
        Where to compute, as PyTorch names it; checkpoints are of one device.
    """

    rows: bool = _setting(
        False, "INPUT is a table, one data point a row: .npy, .npz, .zarr, .h5::name, .csv or .parquet"
    )
    n_components: int = _setting(
        None, "number of generative fields H; by default 100, and for rows as many as columns, at most 256", 1
    )
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
    algorithm: str = _setting(
        "auto", "for rows: batch (all at once), online (minibatches), or auto: batch up to 10,000 rows"
    )
    epochs: int = _setting(
        None,
        "passes over the data; by default 10, and for rows 10 to 100, enough for 1000 minibatches; for batch "
        "tens of passes, 200 at most, as it ends when it has converged",
        1,
        10**5,
    )
    batch_size: int = _setting(512, "patches or rows per minibatch", 1)
    annealing: str = _setting("none", "entropy annealing: none, prior, likelihood or tempering")
    stretch_annealing: bool = _setting(False, "spread the annealing of 10 epochs over all epochs")
    whiten: str = _setting("olshausen", "whitening of the images: olshausen or none")
    seed: int = _setting(0, "seed of the patches, the order of the data and the start of learning", 0)
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
    def learner(self) -> "Learner":
        """What learns, once :meth:`for_data` has chosen it."""
        from entrosparse.recipes import TOLERANCE

        if self.algorithm == "batch":
            return self.recipe.batch_learner(self.n_components, TOLERANCE, self.passes)
        return self.recipe.learner(self.n_components)

    @property
    def passes(self) -> int:
        """Passes over the data points in an epoch."""
        return _PASSES if self.algorithm == "batch" else 1

    @property
    def n_heldout(self) -> int:
        """Number of patches held out to measure learning: a tenth of the others, from 64 to 2048."""
        return min(2048, max(64, self.n_patches // 10))

    @property
    def data_point(self) -> str:
        """What a data point is called."""
        return "row" if self.rows else "patch"

    @property
    def data_points(self) -> str:
        """What several data points are called."""
        return "rows" if self.rows else "patches"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that say something about the data of the run, by name."""
        return {name: value for name, value in asdict(self).items() if not (self.rows and name in _OF_IMAGES)}

    def for_data(self, n_rows: int, n_features: int) -> "FitConfig":
        """Return the settings with what suits so much data where nothing was asked for.

        For rows that is what :class:`~entrosparse.SparseCoding` takes.
        """
        # Here, so that the command line starts without PyTorch.
        from entrosparse.recipes import default_components, default_epochs

        algorithm, n_components, epochs = "online", _FIELDS_OF_IMAGES, _EPOCHS_OF_IMAGES
        if self.rows:
            algorithm = self.recipe.algorithm(self.algorithm, n_rows, self.annealing != "none")
            n_components = default_components(n_features)
            epochs = default_epochs(algorithm == "batch", n_rows, self.batch_size)
        chosen = replace(self, algorithm=algorithm, n_components=self.n_components or n_components)
        return replace(chosen, epochs=self.epochs or epochs // chosen.passes)

    def check_size(self, n_features: int) -> None:
        """Check that the model of so many features is not too large; :meth:`validate` does it for patches.

        Raises
        ------
        InputError
            With one line that names what is too large.
        """
        if n_features > _MOST_COLUMNS and self.rows:
            raise InputError(
                f"the 'input' parameter must have at most {_MOST_COLUMNS:,} columns; got {n_features:,}"
            )
        most, side = _MOST_NUMBERS // n_features, self.patch_size
        if self.n_components > most:
            of = f"rows of {n_features} columns" if self.rows else f"patches of {side} x {side}"
            raise InputError(
                f"the 'n_components' parameter must be an integer <= {most}, the most for {of}; "
                f"got {self.n_components}"
            )
        size = self._size_of_encoder(n_features)
        if self.inference != "variational" and size > _MOST_OF_ENCODER:
            raise InputError(
                f"the 'n_components' parameter must be such that an encoder has at most "
                f"{_MOST_OF_ENCODER:,} numbers; got {self.n_components}, with {size:,}"
            )

    def _size_of_encoder(self, n_features: int) -> int:
        """Return how many numbers an encoder has, nearly: D + H features, and perhaps a low rank read out."""
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
            if value is None and parameter.default is None:
                continue
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
        if self.rows:
            self._refuse_settings_of_images()
        else:
            self._validate_images()
        get_schedule(self.annealing)
        self.recipe.validate()
        self.recipe.algorithm(self.algorithm, 1, annealed=False)

    def _refuse_settings_of_images(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if parameter.name in _OF_IMAGES and value != parameter.default:
                raise InputError(
                    f"the '{parameter.name}' parameter is for images, and must be left out where 'rows' is "
                    f"given; got {value!r}"
                )

    def _validate_images(self) -> None:
        self.for_data(self.n_patches, self.patch_size**2).check_size(self.patch_size**2)
        if self.algorithm == "batch":
            raise InputError("the 'algorithm' parameter must be 'auto' or 'online' for images; got 'batch'")
        if self.n_patches < self.batch_size:
            raise InputError(
                f"the 'n_patches' parameter must be an integer >= {self.batch_size}, the batch size; "
                f"got {self.n_patches}"
            )
        from entrosparse.images import WHITENINGS  # Here, so that the command line starts without NumPy.

        if self.whiten not in WHITENINGS:
            known = ", ".join(repr(name) for name in WHITENINGS)
            raise InputError(f"the 'whiten' parameter must be one of {known}; got {self.whiten!r}")
