"""Sparse coding as a scikit-learn transformer."""

import os
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from entrosparse import _tables
from entrosparse._tables import TableRows
from entrosparse._units import StandardizedRows, Units, without_repeats
from entrosparse.annealing import SCHEDULES
from entrosparse.errors import InputError
from entrosparse.estimators._epochs import CallbackSupportMixin, HistoryInUnits, print_batch, with_callbacks
from entrosparse.estimators._saved import SavedSparseCoding
from entrosparse.estimators._stream import Stream, check_passes_once
from entrosparse.learning import (
    DICTIONARIES,
    Checkpoints,
    Learner,
    initial_model,
    train,
    with_fitting_scales,
)
from entrosparse.learning._identity import in_words
from entrosparse.learning._training import check_shared, starting_state
from entrosparse.likelihoods import LIKELIHOODS, Likelihood
from entrosparse.model import SparseCodingModel
from entrosparse.priors import PRIORS, PriorFamily
from entrosparse.processes import current_processes
from entrosparse.recipes import ALGORITHMS, COVARIANCES, INFERENCES, TOLERANCE, Recipe, default_epochs


class SparseCoding(CallbackSupportMixin, SavedSparseCoding):
    """Probabilistic sparse coding: a dictionary, codes with uncertainty, and the noise level.

    Data are modelled as ``x = mean + W z + noise`` with Laplace codes z of learned scales, unit columns of
    W, and Gaussian noise of learned variance (Eq. 5), by maximizing the entropy ELBO (15). There is no
    penalty to tune. Entries that are NaN are data not seen: learning, codes and scores use the others.

    Parameters
    ----------
    n_components : int, default=None
        Number of latents H; by default as many as features, but at most 256. It may exceed the number of
        features.
    covariance : {"diagonal", "low-rank", "full", "exact-factorial"} or Inference, default="diagonal"
        Covariance of the Gaussian posteriors, or the solver that finds them; or the best factorial ones.
    rank : int, default=5
        Rank of the low-rank covariance.
    prior : name in PRIORS or PriorFamily, default="laplace"
        Prior of the codes: "laplace", "gaussian"; "generalized-gaussian" or "skewed-laplace", which have a
        learned shape per latent; or "exponential", for codes that are never negative, which needs the
        "exact-factorial" covariance.
    noise : {"isotropic", "per-feature", "laplace"} or Likelihood, default="isotropic"
        Kind of noise: Gaussian of one variance, Gaussian with a variance for each feature as in factor
        analysis, or Laplace noise, which is robust to outliers.
    inference : {"variational", "encoder", "refined"}, default="variational"
        Optimize each posterior, read it from a learned encoder, or refine the encoder's answer.
    annealing : str or callable, default="none"
        Schedule of the entropy weights over epochs: a name in :data:`~entrosparse.annealing.SCHEDULES` or a
        function of the epoch. For "batch" an epoch is one iteration.
    algorithm : {"auto", "batch", "online"} or Learner, default="auto"
        Learn from all data in every iteration, or from minibatches; "auto" takes "batch" up to 10,000 samples
        when there is neither an encoder nor annealing. A learner of your own finds the dictionary in its own
        way; codes are then those of ``covariance``.
    init : {"ica", "data", "random"} or array of shape (n_features, n_components), default="ica"
        Initial dictionary: independent components and data points for those that are missing, data points,
        random directions, or atoms.
    n_init : int, default=1
        Runs from different initial dictionaries; the one with the highest ELBO is kept.
    max_epochs : int, default=None
        Passes over the data; by default 2000 for "batch", and 10 to 100 for "online", enough for 1000
        minibatches.
    batch_size : int, default=512
        Samples in a minibatch.
    tol : float, default=1e-3
        Algorithm "batch" stops when an iteration gains less than this, in nats per sample, averaged over ten.
    checkpoint_dir : str, default=None
        Folder where ``fit`` keeps what it takes to go on: the same call of ``fit`` after a crash ends as if
        there had been none. Other parameters or data have a folder of their own in it, so that the candidates
        of a grid search do not meet; each is removed when its ``fit`` ends. Needs a ``random_state``.
    warm_start : bool, default=False
        Start from the dictionary of the last fit.
    device : str, default="cpu"
        Where to compute, as PyTorch names it.
    random_state : int, RandomState instance or None, default=None
        Initial dictionary and order of minibatches.
    verbose : int, default=0
        Print a line for each epoch of minibatches, and for iterations 1, 2, 5, 10, 20, 50, ... of "batch" and
        such batches of :meth:`partial_fit`.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms of unit length, in falling order of prior scale; under a prior with signs, largest entries > 0.
        With ``noise="per-feature"`` lengths are those of features in units of their own root mean squares.
    prior_scale_ : ndarray of shape (n_components,), float64
        λ, in data units.
    prior_shape_ : ndarray of shape (n_components,), float64, or None
        Shapes of a prior that has some: p of a generalized Gaussian, λ₊/2λ of a skewed Laplace prior.
    noise_variance_ : float or ndarray of shape (n_features,)
        σ², in squared data units; of each feature for ``noise="per-feature"``.
    mean_ : ndarray of shape (n_features,)
        Mean of the training data; 0 where codes have a mean of their own.
    elbo_ : float
        ELBO in nats per sample, of training data: of all for "batch", and of at most 2,048 samples, spread
        evenly over the data, for "online", or of about as many last ones after :meth:`partial_fit`. For a
        bound on new data call :meth:`score` with them.
    history_ : list of dict
        An :class:`~entrosparse.learning.EpochRecord` of the same data per epoch, in the units of the data.
    n_iter_ : int
        Epochs that were run, or batches of :meth:`partial_fit`.
    converged_ : bool
        False exactly when ``fit`` warned with a :class:`~entrosparse.errors.ConvergenceWarning`: ``tol`` was
        not reached, or the noise variance is at its floor. :meth:`partial_fit` warns of the floor once.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when the names of features are all strings.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from entrosparse import SparseCoding
    >>> X = load_iris().data
    >>> coding = SparseCoding(n_components=3, random_state=0).fit(X)
    >>> coding.transform(X).shape
    (150, 3)
    """

    _stream: Stream | None = None
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "covariance": [StrOptions(set(COVARIANCES)), callable],
        "rank": [Interval(Integral, 1, None, closed="left")],
        "prior": [StrOptions(set(PRIORS)), PriorFamily],
        "noise": [StrOptions(set(LIKELIHOODS)), Likelihood],
        "inference": [StrOptions(set(INFERENCES))],
        "annealing": [StrOptions(set(SCHEDULES)), callable],
        "algorithm": [StrOptions(set(ALGORITHMS)), Learner],
        "init": [StrOptions(set(DICTIONARIES)), "array-like"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "checkpoint_dir": [str, os.PathLike, None],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        covariance: Any = "diagonal",
        rank: int = 5,
        prior: Any = "laplace",
        noise: Any = "isotropic",
        inference: str = "variational",
        annealing: Any = "none",
        algorithm: Any = "auto",
        init: Any = "ica",
        n_init: int = 1,
        max_epochs: int | None = None,
        batch_size: int = 512,
        tol: float = TOLERANCE,
        checkpoint_dir: Any = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.covariance = covariance
        self.rank = rank
        self.prior = prior
        self.noise = noise
        self.inference = inference
        self.annealing = annealing
        self.algorithm = algorithm
        self.init = init
        self.n_init = n_init
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.tol = tol
        self.checkpoint_dir = checkpoint_dir
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn dictionary, prior scales and noise variance; if that fails, the estimator stays as it was.

        Parameters
        ----------
        X : array-like, sparse matrix, or table on disk of shape (n_samples, n_features)
            Data. NaN are entries that were not seen. float32 is kept, all else becomes float64. Memory maps,
            Zarr arrays and HDF5 datasets are read in blocks. An iterator of batches is passed once, by
            :meth:`partial_fit`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights ≥ 0 of the samples.

        Returns
        -------
        self
        """
        with self._all_or_nothing():
            if isinstance(X, Iterator):
                self._fit_stream(X, sample_weight)
            else:
                rows = self._rows(X, reset=True)
                self._fit_rows(rows, self._weights(sample_weight, len(rows)))
        return self

    def _fit_stream(self, X: Iterator[Any], sample_weight: Any) -> None:
        if sample_weight is not None:
            raise InputError(
                "the 'sample_weight' parameter must be None for an iterator of batches; give partial_fit the "
                "weights of each batch"
            )
        if hasattr(self, "components_"):
            del self.components_
        for batch in _tables.stream(X):
            self.partial_fit(batch)

    def _fit_rows(self, rows: TableRows, weights: NDArray[np.float64] | None) -> None:
        if self.checkpoint_dir is not None and self.random_state is None:
            raise InputError("the 'random_state' parameter must be set to go on from checkpoints; got None")
        learner = self._learner(len(rows))
        if learner.sees_all_rows:
            rows, weights = without_repeats(rows, weights)
        units = self._units_of(rows, weights)
        told = HistoryInUnits(
            self, rows, weights, units, self._epochs(learner, len(rows)), learner.sees_all_rows
        )
        runs, folders, processes = [], self._checkpoint_folders(), current_processes()
        for seed, folder in zip(processes.from_first(self._seeds), folders, strict=True):
            told.history = []
            result = train(
                learner,
                StandardizedRows(rows, units),
                n_components=self._n_components,
                init=self._initial_dictionary(units),
                prior=self._recipe().prior_part,
                likelihood=self._recipe().likelihood,
                epochs=self._epochs(learner, len(rows)),
                batch_size=self.batch_size,
                annealing=self.annealing,
                seed=seed,
                device=self.device,
                sample_weight=weights,
                callbacks=(told,),
                checkpoints=folder,
            )
            runs.append((result, told.history))
        result, self.history_ = max(runs, key=lambda run: run[1][-1]["elbo"])
        self._stream = None
        self._keep(units, result.model, self._inference_after(result.inference))
        self.elbo_ = self.history_[-1]["elbo"]
        self.n_iter_ = self.history_[-1]["epoch"]
        self.converged_ = result.converged
        for folder in folders:
            if folder is not None and processes.rank == 0:
                folder.remove()
        told.end()

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn from one minibatch, by a step of online EM, or of an encoder.

        While there are fewer than 8,192 samples they are kept, and learning begins again from all of them
        each time that their number has doubled. Then centre and unit of the data are fixed, and nothing is
        kept. Batches count by their weight, of which only relative values matter.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A minibatch.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights ≥ 0 of the samples.

        Returns
        -------
        self
        """
        learner, processes = self._learner_of_streams(), current_processes()
        check_shared(processes, learner)
        with self._all_or_nothing():
            first = not hasattr(self, "components_")
            samples = processes.agreed(
                lambda: self._samples(X, sample_weight, reset=first),
                lambda read: {"X": in_words(read[0]), "sample_weight": in_words(read[1])},
            )
            learner = self._learner_of_streams()  # Now the number of components is known.
            if first:
                self.n_iter_, self.history_ = 0, []

            def begin(x: torch.Tensor, weight: torch.Tensor | None, units: Units) -> Any:
                def make(generator: torch.Generator) -> SparseCodingModel:
                    if model is not None:
                        return model
                    prior, likelihood = self._recipe().prior_part, self._recipe().likelihood
                    parts = (self._initial_dictionary(units), prior, generator, weight, likelihood)
                    return with_fitting_scales(initial_model(x, self._n_components, *parts), x, weight)

                return starting_state(learner, x, self._seeds()[0], make, processes)

            stream = None if first else self._stream
            model = None if first or stream else self._model
            if first:
                stream = Stream.first(samples, learner, begin, self.device, self._units_of)
            else:
                stream = (stream or Stream(self._units, self.device)).then(
                    samples, learner, begin, self._units_of
                )
            self.n_iter_ += 1
            self._stream, state = stream, stream.state
            self._keep(stream.units, stream.model, self._inference_after(state.inference), reorder=False)
            self.converged_ = not learner.at_noise_floor(state)
            self.elbo_ = stream.elbo
            if self.verbose and processes.rank == 0:
                print_batch(self.n_iter_, self.elbo_, float(np.mean(self.noise_variance_)))
        return self

    # --- parts

    def _recipe(self) -> Recipe:
        return Recipe(self.covariance, self.rank, self.inference, self.prior, self.noise)

    def _learner(self, n_samples: int) -> Learner:
        """Return what learns from so many samples."""
        if isinstance(self.algorithm, Learner):
            return self.algorithm
        recipe = self._recipe()
        if recipe.algorithm(self.algorithm, n_samples, self.annealing != "none") == "batch":
            return recipe.batch_learner(self._n_components, self.tol)
        return recipe.learner(self._n_components)

    def _learner_of_streams(self) -> Learner:
        """Return what learns from batches that pass once."""
        check_passes_once(self.annealing, self.checkpoint_dir, self.algorithm)
        if isinstance(self.algorithm, Learner):
            return self.algorithm
        return self._recipe().learner(self._n_components if hasattr(self, "n_features_in_") else 1)

    def _epochs(self, learner: Learner, n_samples: int) -> int:
        """Return how many epochs to learn for."""
        return self.max_epochs or default_epochs(learner.sees_all_rows, n_samples, self.batch_size)

    def _seeds(self) -> list[int]:
        """Return a seed for each run."""
        random_state = check_random_state(self.random_state)
        return [int(random_state.randint(2**31 - 1)) for _ in range(self.n_init)]

    def _checkpoint_folders(self) -> list[Checkpoints | None]:
        """Return where each run keeps what it takes to go on."""
        if self.checkpoint_dir is None:
            return [None] * self.n_init
        return [Checkpoints(self.checkpoint_dir, shared=True) for _ in range(self.n_init)]

    def _inference_after(self, inference: Any) -> Any:
        """Return how codes are found after learning, given how they were found in it."""
        if self.inference != "variational" and not isinstance(self.algorithm, Learner):
            return inference
        return None

    def _initial_dictionary(self, units: Units) -> Any:
        if self.warm_start and hasattr(self, "components_"):
            return torch.as_tensor(units.atoms(self.components_.T.copy()))
        return self.init if isinstance(self.init, str) else units.atoms(np.asarray(self.init))
