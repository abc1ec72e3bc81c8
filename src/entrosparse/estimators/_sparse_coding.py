"""Sparse coding as a scikit-learn transformer."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from entrosparse._tables import TableRows, as_rows, chunks, stream
from entrosparse.annealing import SCHEDULES, EntropyWeights
from entrosparse.errors import InputError
from entrosparse.estimators._callbacks import CallbackSupportMixin, Epochs, with_callbacks
from entrosparse.estimators._units import StandardizedRows, Units, without_repeats
from entrosparse.inference import Inference
from entrosparse.learning import BatchEM, Callback, Checkpoints, EpochRecord, OnlineEM, train
from entrosparse.learning._averages import RunningState
from entrosparse.learning._initialization import DICTIONARIES
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms, entropy_elbo, pointwise_elbo
from entrosparse.posteriors import Posterior
from entrosparse.priors import PRIORS
from entrosparse.recipes import COVARIANCES, final_solver, learning_solver, minibatch_learner
from entrosparse.statistics import Statistics

_BATCH_LIMIT = 10_000  # samples up to which every iteration sees all of them
_JUDGES = 2048  # samples on which the ELBO of an epoch of minibatches is taken
_STEPS = 1000  # minibatches that are enough, unless max_epochs says otherwise


class SparseCoding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CallbackSupportMixin, BaseEstimator):
    """Probabilistic sparse coding: a dictionary, codes with uncertainty, and the noise level.

    Data are modelled as ``x = mean + W z + noise`` with Laplace codes z of learned scales, unit columns of
    W, and Gaussian noise of learned variance (Eq. 5), by maximizing the entropy ELBO (15). There is no
    penalty to tune. Entries that are NaN are data not seen: learning, codes and scores use the others.

    Parameters
    ----------
    n_components : int, default=None
        Number of latents H; as many as features by default. It may exceed the number of features.
    covariance : {"diagonal", "low-rank", "full"} or Inference, default="diagonal"
        Covariance of the Gaussian posterior of each data point, or the solver that finds it.
    rank : int, default=5
        Rank of the low-rank covariance.
    prior : {"laplace", "gaussian"}, default="laplace"
        Prior of the codes.
    inference : {"variational", "encoder", "refined"}, default="variational"
        Optimize each posterior, read it from a learned encoder, or refine the encoder's answer.
    annealing : str or callable, default="none"
        Schedule of the entropy weights over epochs of minibatches: a name in
        :data:`~entrosparse.annealing.SCHEDULES` or a function of the epoch.
    algorithm : {"auto", "batch", "online"}, default="auto"
        Learn from all data in every iteration, or from minibatches; "auto" takes "batch" up to 10,000 samples
        when there is neither an encoder nor annealing nor a checkpoint_dir.
    init : {"ica", "data", "random"} or array of shape (n_features, n_components), default="ica"
        Initial dictionary: independent components and data points for those that are missing, data points,
        random directions, or atoms.
    n_init : int, default=1
        Runs of algorithm "batch" from different initial dictionaries; the one with the highest ELBO is kept.
    max_epochs : int, default=None
        Passes over the data; by default 2000 for "batch", and 10 to 100 for "online", enough for 1000
        minibatches.
    batch_size : int, default=512
        Samples in a minibatch.
    tol : float, default=1e-4
        Algorithm "batch" stops when an iteration gains less than this, in nats per sample.
    checkpoint_dir : str, default=None
        Folder where "online" keeps what it takes to go on: the same call of ``fit`` after a crash ends as if
        there had been none. It is removed when ``fit`` ends. Needs a ``random_state``.
    warm_start : bool, default=False
        Start from the dictionary of the last fit.
    device : str, default="cpu"
        Where to compute, as PyTorch names it.
    random_state : int, RandomState instance or None, default=None
        Initial dictionary and order of minibatches.
    verbose : int, default=0
        Print a line for each epoch of minibatches.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms of unit length, in falling order of prior scale; the largest entry of each is positive.
    prior_scale_ : ndarray of shape (n_components,), float64
        λ, in data units.
    noise_variance_ : float
        σ², in squared data units.
    mean_ : ndarray of shape (n_features,)
        Mean of the training data.
    elbo_ : float
        ELBO in nats per sample: of the training data for "batch", of a sample of them for "online".
    history_ : list of dict
        ELBO and entropies, in nats per sample, for each epoch.
    n_iter_ : int
        Epochs that were run.
    converged_ : bool
        Whether ``tol`` was reached; "online" always runs its epochs and says True.
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

    _encoder: Inference | None
    _running: RunningState | None
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "covariance": [StrOptions(set(COVARIANCES)), callable],
        "rank": [Interval(Integral, 1, None, closed="left")],
        "prior": [StrOptions(set(PRIORS))],
        "inference": [StrOptions({"variational", "encoder", "refined"})],
        "annealing": [StrOptions(set(SCHEDULES)), callable],
        "algorithm": [StrOptions({"auto", "batch", "online"})],
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
        prior: str = "laplace",
        inference: str = "variational",
        annealing: Any = "none",
        algorithm: str = "auto",
        init: Any = "ica",
        n_init: int = 1,
        max_epochs: int | None = None,
        batch_size: int = 512,
        tol: float = 1e-4,
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

    # --- learning

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn dictionary, prior scales and noise variance.

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
        if isinstance(X, Iterator):
            self.__dict__.pop("components_", None)
            for batch in stream(X):
                self.partial_fit(batch)
            return self
        rows = self._rows(X, reset=True)
        weights = self._weights(sample_weight, rows)
        all_at_once = self._is_batch(len(rows))
        if all_at_once:
            rows, weights = without_repeats(rows, weights)
        self._set_units(Units.of(rows, weights))
        self._running = None
        if all_at_once:
            self._fit_batch(rows, weights)
        else:
            self._fit_online(rows, weights)
        return self

    def _fit_batch(self, rows: TableRows, weights: NDArray[np.float64] | None) -> None:
        x = self._standardized(rows[:])
        seen = float(np.average((~x.isnan()).sum(1).numpy(force=True), weights=weights))
        max_iterations = self.max_epochs or 2000
        learner = BatchEM(
            self._n_components,
            self._initial_dictionary(),
            PRIORS[self.prior],
            self._learning_solver(),
            n_init=self.n_init,
            tolerance=self.tol,
            max_iterations=max_iterations,
        )
        epochs = Epochs(self, rows, max_iterations)
        self.history_: list[dict[str, float]] = []

        def told(model: SparseCodingModel, terms: ElboTerms) -> bool:
            self.history_.append(self._record(terms, seen))
            return epochs.end_epoch(lambda: self._attributes(model))

        self._encoder = None
        result = learner.fit(
            x,
            torch.Generator().manual_seed(self._seed()),
            sample_weight=None if weights is None else torch.as_tensor(weights).to(x),
            on_iteration=told,
        )
        self.__dict__.update(self._attributes(result.model))
        self.history_ = [self._record(terms, seen) for terms in result.history]
        self.elbo_ = self.history_[-1]["elbo"]
        self.n_iter_ = len(result.history)
        self.converged_ = result.converged
        epochs.end()
        if not self.converged_:
            warnings.warn(
                f"the ELBO still changed by more than tol={self.tol:g} nats an iteration after "
                f"{self.n_iter_} iterations; raise max_epochs or tol",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _fit_online(self, rows: TableRows, weights: NDArray[np.float64] | None) -> None:
        steps = -(-len(rows) // self.batch_size)
        n_epochs = self.max_epochs or min(100, max(10, -(-_STEPS // steps)))
        data = StandardizedRows(rows, self._units)
        judges = data[np.linspace(0, len(rows) - 1, min(len(rows), _JUDGES)).astype(int)]
        epochs = Epochs(self, rows, n_epochs)
        told = _Told(self, epochs, float((~np.isnan(judges)).sum(1).mean()))
        self.history_ = told.history
        self._encoder = None
        checkpoints = None if self.checkpoint_dir is None else Checkpoints(self.checkpoint_dir)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = train(
                minibatch_learner(
                    self.inference,
                    self.covariance,
                    self._rank,
                    self._n_components,
                    self._initial_dictionary(),
                    PRIORS[self.prior],
                    self._learning_solver(),
                ),
                data,
                judges,
                epochs=n_epochs,
                batch_size=self.batch_size,
                annealing=self.annealing,
                seed=self._seed(),
                device=self.device,
                sample_weight=weights,
                callback=told,
                checkpoints=checkpoints,
            )
        for warning in caught:
            warnings.warn(str(warning.message), ConvergenceWarning, stacklevel=5)
        self._encoder = None if self.inference == "variational" else result.inference
        self.__dict__.update(self._attributes(result.model))
        self.elbo_ = self.history_[-1]["elbo"]
        self.n_iter_ = len(self.history_) - 1
        self.converged_ = not caught
        if checkpoints is not None:
            checkpoints.remove()
        epochs.end()

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn from one minibatch, by a step of online EM.

        The first batch fixes the centre and the unit of the data. Running statistics weigh batches by their
        size, and the step of the dictionary falls with the square root of the number of batches.

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
        first = not hasattr(self, "components_")
        rows = self._rows(X, reset=first)
        weights = self._weights(sample_weight, rows)
        if first:
            self._set_units(Units.of(rows, weights))
            self._encoder = self._running = None
            self.n_iter_, self.history_, self.converged_ = 0, [], True
        solver = self._learning_solver()
        learner = OnlineEM(self._n_components, self._initial_dictionary(), PRIORS[self.prior], solver)
        x = self._standardized(rows[:])
        shares = None if weights is None else torch.as_tensor(weights).to(x)
        if self._running is None:
            started = learner.start(x, torch.Generator().manual_seed(self._seed()), shares)
            model = started.model if first else self._model.to(x)
            self._running = RunningState(model, solver, started.mean_square)
        self.n_iter_ += 1
        size = len(x) if shares is None else float(shares.sum())
        scale = min(1.0, size / self.batch_size) * 2.0 / (1.0 + self.n_iter_**0.5)
        self._running = learner.step(self._running, x, EntropyWeights(), 0.0, scale, shares)
        self.__dict__.update(self._attributes(self._running.model, reorder=False))
        self.elbo_ = self.score(X)
        return self

    # --- codes

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the posterior means of the codes.

        Parameters
        ----------
        X : array-like, sparse matrix, or table on disk of shape (n_samples, n_features)
            Data; NaN are entries that were not seen.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Codes, in data units.
        """
        means = np.concatenate([posterior.mean.numpy(force=True) for _, posterior in self._posteriors(X)])
        return means * means.dtype.type(self._units.scale)

    def inverse_transform(self, Z: Any) -> NDArray[Any]:
        """Return the data that codes stand for, ``mean + W z``.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32], input_name="Z")
        if Z.shape[1] != len(self.components_):
            raise InputError(
                f"Z must have {len(self.components_)} columns, one a component; got {Z.shape[1]}"
            )
        return Z @ self.components_.astype(Z.dtype) + self.mean_.astype(Z.dtype)

    def posterior(self, X: Any) -> Posterior:
        """Return the posteriors of the codes: means, deviations, covariances, samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, all inferred at once; a full covariance takes n_samples × n_components² numbers.

        Returns
        -------
        Posterior
            In data units, as PyTorch tensors.
        """
        x = self._standardized(self._rows(X, reset=False)[:])
        return self._final_inference()(x, self._model.to(x)).rescaled(self._units.scale)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return the ELBO of each sample, a lower bound on its log-likelihood.

        Parameters
        ----------
        X : array-like, sparse matrix, or table on disk of shape (n_samples, n_features)
            Data; of NaN entries nothing is scored.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, at the learned prior scales and noise variance.
        """
        values = []
        for x, posterior in self._posteriors(X):
            elbo = pointwise_elbo(posterior, x, self._model.to(x)).double()
            values.append((elbo - (~x.isnan()).sum(1).double() * self._units.log_scale).numpy(force=True))
        return np.concatenate(values)

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Return the mean ELBO of the samples, in nats: higher is better.

        Parameters
        ----------
        X : array-like, sparse matrix, or table on disk of shape (n_samples, n_features)
            Data.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        """
        values = self.score_samples(X)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, values[:, None], dtype=np.float64)
        return float(np.average(values, weights=sample_weight))

    def entropies(self, X: Any) -> ElboTerms:
        """Return the three entropies of the entropy ELBO (15) for data, with their own optimal λ and σ².

        Parameters
        ----------
        X : array-like, sparse matrix, or table on disk of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ElboTerms
            Nats per sample.
        """
        total: Statistics | None = None
        for x, posterior in self._posteriors(X):
            record = Statistics.collect(posterior, x, self._model.dictionary.to(x), PRIORS[self.prior])
            total = record if total is None else total + record
        assert total is not None  # there is a row at least
        terms = entropy_elbo(total, prior=PRIORS[self.prior])
        codes = len(self.components_) * self._units.log_scale
        seen = float(total.n_entries / total.weight) * self._units.log_scale
        return ElboTerms(terms.posterior + codes, terms.prior + codes, terms.likelihood + seen)

    def sample(self, n_samples: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw data from the model.

        Parameters
        ----------
        n_samples : int
            Number of samples.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        Z : ndarray of shape (n_samples, n_components)
            The codes behind them.
        """
        check_is_fitted(self)
        x, z = self._model.sample(n_samples, torch.Generator().manual_seed(self._seed()))
        scale = self.components_.dtype.type(self._units.scale)
        return x.numpy() * scale + self.mean_.astype(self.components_.dtype), z.numpy() * scale

    # --- parts

    @property
    def _n_components(self) -> int:
        return self.n_components or self.n_features_in_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    @property
    def _rank(self) -> int:
        return min(self.rank, self._n_components)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _is_batch(self, n_samples: int) -> bool:
        plain = self.inference == "variational" and self.annealing == "none" and self.checkpoint_dir is None
        if self.algorithm == "batch" and not plain:
            raise InputError(
                "the 'algorithm' parameter must be 'auto' or 'online' with an encoder, annealing or "
                "checkpoints; got 'batch'"
            )
        if self.checkpoint_dir is not None and self.random_state is None:
            raise InputError("the 'random_state' parameter must be set to go on from checkpoints; got None")
        small = self.algorithm == "auto" and n_samples <= _BATCH_LIMIT
        return plain and (self.algorithm == "batch" or small)

    def _learning_solver(self) -> Inference:
        if not isinstance(self.covariance, str):
            return self.covariance
        return learning_solver(self.covariance, self._rank)

    def _final_inference(self) -> Inference:
        if self._encoder is not None:
            return self._encoder
        if not isinstance(self.covariance, str):
            return self.covariance
        return final_solver(self.covariance, self._rank, self.components_.dtype == np.float32)

    def _initial_dictionary(self) -> Any:
        if self.warm_start and hasattr(self, "components_"):
            return torch.as_tensor(self.components_.T.copy())
        return self.init if isinstance(self.init, str) else np.asarray(self.init)

    def _set_units(self, units: Units) -> None:
        self._units = units
        self.mean_ = units.mean

    def _attributes(self, model: SparseCodingModel, reorder: bool = True) -> dict[str, Any]:
        """Return what a fitted estimator holds of a model.

        Atoms are put in falling order of prior scale, with the largest entry of each positive; but not under
        an encoder, which knows its latents by their place, nor while there is more to learn.
        """
        model = model.to("cpu")
        if reorder and self._encoder is None:
            order = torch.argsort(model.prior_scale, descending=True, stable=True)
            dictionary = model.dictionary[:, order]
            largest = dictionary.gather(0, dictionary.abs().argmax(0, keepdim=True))
            dictionary = dictionary * torch.where(largest < 0, -1.0, 1.0)
            model = SparseCodingModel(dictionary, model.prior_scale[order], model.noise_variance, model.prior)
        return {
            "_model": model,
            "components_": np.ascontiguousarray(model.dictionary.T.numpy()),
            "prior_scale_": model.prior_scale.double().numpy() * self._units.scale,
            "noise_variance_": float(model.noise_variance) * self._units.scale**2,
        }

    def _record(self, terms: ElboTerms, seen: float) -> dict[str, float]:
        """Return a row of the history in data units, for ``seen`` entries a sample."""
        shift = seen * self._units.log_scale
        return {
            "elbo": float(terms.elbo) - shift,
            "posterior_entropy": float(terms.posterior),
            "prior_entropy": float(terms.prior),
            "likelihood_entropy": float(terms.likelihood) + shift,
        }

    def _rows(self, X: Any, reset: bool) -> TableRows:
        """Return checked rows, without reading a table that is on disk."""
        if not reset:
            check_is_fitted(self)
        on_disk = hasattr(X, "shape") and hasattr(X, "dtype") and not hasattr(X, "__array_interface__")
        if on_disk and not scipy.sparse.issparse(X) and not hasattr(X, "__array_namespace__"):
            rows = as_rows(X)
            validate_data(self, X, reset=reset, skip_check_array=True)
            return rows
        X = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
        )
        return as_rows(X)

    def _weights(self, sample_weight: Any, rows: TableRows) -> NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        like = np.broadcast_to(np.float64(0.0), (len(rows), 1))
        weights = _check_sample_weight(sample_weight, like, dtype=np.float64, ensure_non_negative=True)
        if not weights.sum() > 0:
            raise InputError("the 'sample_weight' parameter must have a weight above zero; got none")
        return weights

    def _standardized(self, block: NDArray[Any]) -> torch.Tensor:
        return self._units.standardized(block).to(self.device)

    def _posteriors(self, X: Any) -> Iterator[tuple[torch.Tensor, Posterior]]:
        """Yield standardized data and posteriors, block by block."""
        rows = self._rows(X, reset=False)
        inference = self._final_inference()
        for block in chunks(rows, min(inference.rows_at_once(len(self.components_)), 8192)):
            x = self._standardized(block)
            yield x, inference(x, self._model.to(x))

    def __sklearn_tags__(self) -> Any:
        """Say that NaN and sparse input are accepted and dtypes kept."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Told(Callback):
    """Keeps the history of minibatch learning in data units, and tells scikit-learn's callbacks."""

    def __init__(self, estimator: SparseCoding, epochs: Epochs, seen: float) -> None:
        self.history: list[dict[str, float]] = []
        self._estimator, self._epochs, self._seen = estimator, epochs, seen

    def on_resume(self, history: list[EpochRecord], samples_seen: int) -> None:
        """Take note of the epochs before."""
        self.history += [self._row(record) for record in history]

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> bool:
        """Take note of an epoch."""
        row = self._row(record)
        self.history.append(row)
        if self._estimator.verbose:
            print(f"epoch {record.epoch}: ELBO {row['elbo']:.4f} nats per sample")
        return record.epoch > 0 and self._epochs.end_epoch(lambda: self._estimator._attributes(model))

    def _row(self, record: EpochRecord) -> dict[str, float]:
        shift = self._seen * self._estimator._units.log_scale
        row = asdict(record)
        row["elbo"] -= shift
        row["likelihood_entropy"] += shift
        row["noise_variance"] *= self._estimator._units.scale**2
        return row
