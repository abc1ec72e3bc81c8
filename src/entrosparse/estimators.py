"""The scikit-learn estimator: NumPy in, NumPy out."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
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

from entrosparse.annealing import SCHEDULES, EntropyWeights
from entrosparse.errors import InputError
from entrosparse.inference import (
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    Inference,
    LowRankEncoder,
    LowRankInference,
)
from entrosparse.learning import AdamLearner, BatchEM, OnlineEM, RefinedEM, train
from entrosparse.learning.initialization import DICTIONARIES
from entrosparse.learning.running import RunningState
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import ElboTerms, entropy_elbo, pointwise_elbo
from entrosparse.posteriors import Posterior
from entrosparse.priors import PRIORS
from entrosparse.statistics import Statistics

_BATCH_LIMIT = 10_000  # data points up to which every iteration sees all of them
_HELD = 2048  # data points on which the ELBO of an epoch of minibatches is taken
_STEPS = 1000  # minibatches that are enough, unless max_epochs says otherwise


class SparseCoding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
        when there is neither an encoder nor annealing.
    init : {"random", "data", "ica"} or array of shape (n_features, n_components), default="random"
        Initial dictionary.
    n_init : int, default=1
        Runs of algorithm "batch" from different initial dictionaries; the one with the highest ELBO is kept.
    max_epochs : int, default=None
        Passes over the data; by default 1000 for "batch", and 10 to 100 for "online", enough for 1000
        minibatches.
    batch_size : int, default=512
        Samples in a minibatch.
    tol : float, default=1e-4
        Algorithm "batch" stops when an iteration gains less than this, in nats per sample.
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
        "covariance": [StrOptions({"diagonal", "low-rank", "full"}), callable],
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
        init: Any = "random",
        n_init: int = 1,
        max_epochs: int | None = None,
        batch_size: int = 512,
        tol: float = 1e-4,
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
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ---------------------------------------------------------------- learning

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn dictionary, prior scales and noise variance.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data. NaN are entries that were not seen. float32 is kept, all else becomes float64.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights ≥ 0 of the samples; only for algorithm "batch".

        Returns
        -------
        self
        """
        X = self._validate(X, reset=True)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            X, weights = X[weights > 0], weights[weights > 0]
            if len(weights) == 0:
                raise InputError("the 'sample_weight' parameter must have a weight above zero; got none")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        self.mean_, self._scale = _location_and_scale(X, weights)
        init = self._initial_dictionary()
        if self._is_batch(X.shape[0]):
            self._fit_batch(X, weights, generator, init)
        elif weights is None:
            self._fit_online(X, seed, init)
        else:
            raise InputError("the 'sample_weight' parameter needs algorithm='batch'; got minibatches")
        self._running = None
        return self

    def _fit_batch(self, X: Any, weights: Any, generator: torch.Generator, init: Any) -> None:
        x = self._standardized(_dense(X))
        learner = BatchEM(
            self._n_components,
            init,
            PRIORS[self.prior],
            self._solver(learning=True),
            n_init=self.n_init,
            tolerance=self.tol,
            max_iterations=self.max_epochs or 1000,
        )
        sample_weight = None if weights is None else torch.as_tensor(weights).to(x)
        result = learner.fit(x, generator, sample_weight=sample_weight)
        self._encoder = None
        self._set(result.model)
        shift = self._shift(_n_seen(X, weights))
        self.history_ = [_record(terms, shift) for terms in result.history]
        self.elbo_ = self.history_[-1]["elbo"]
        self.n_iter_ = len(result.history)
        self.converged_ = result.converged
        if not self.converged_:
            warnings.warn(
                f"the ELBO still gained more than tol={self.tol:g} nats an iteration after {self.n_iter_} "
                "iterations; raise max_epochs or tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _fit_online(self, X: Any, seed: int, init: Any) -> None:
        n_samples = X.shape[0]
        steps = -(-n_samples // self.batch_size)
        epochs = self.max_epochs or min(100, max(10, -(-_STEPS // steps)))
        rows = _Standardized(X, self)
        every = np.linspace(0, n_samples - 1, min(n_samples, _HELD)).astype(int)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = train(
                self._learner(init),
                rows,
                rows[every],
                epochs=epochs,
                batch_size=self.batch_size,
                annealing=self.annealing,
                seed=seed,
                device=self.device,
            )
        for warning in caught:
            warnings.warn(str(warning.message), ConvergenceWarning, stacklevel=3)
        self._encoder = result.inference if self.inference != "variational" else None
        self._set(result.model)
        shift = self._shift(_n_seen(X[every], None))
        self.history_ = [
            asdict(record)
            | {"elbo": record.elbo - shift, "likelihood_entropy": record.likelihood_entropy + shift}
            for record in result.history
        ]
        if self.verbose:
            for record in self.history_:
                print(f"epoch {record['epoch']}: ELBO {record['elbo']:.4f} nats per sample")
        self.elbo_ = self.history_[-1]["elbo"]
        self.n_iter_ = epochs
        self.converged_ = True

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        """Learn from one minibatch, by a step of online EM.

        The first batch fixes the centre and the unit of the data. Statistics of batches weigh by their size.

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
        X = self._validate(X, reset=first)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if first:
            self.mean_, self._scale = _location_and_scale(X, weights)
            self._encoder = None
            self.n_iter_, self.history_, self.converged_ = 0, [], True
        learner = OnlineEM(
            self._n_components, self._initial_dictionary(), PRIORS[self.prior], self._solver(learning=True)
        )
        x = self._standardized(_dense(X))
        share = None if weights is None else torch.as_tensor(weights).to(x)
        running: RunningState | None = getattr(self, "_running", None)
        if running is None:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            running = learner.start(x, torch.Generator().manual_seed(seed), share)
            if not first:
                running = RunningState(self._model, running.inference, running.mean_square)
        self.n_iter_ += 1
        size = len(x) if share is None else float(share.sum())
        if size > 0:
            scale = min(1.0, size / self.batch_size) * 2.0 / (1.0 + self.n_iter_**0.5)
            running = learner.step(running, x, EntropyWeights(), 0.0, scale, share)
        self._running = running
        self._set(running.model, reorder=False)
        self.elbo_ = float(self.score(X))
        return self

    # ---------------------------------------------------------------- codes

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the posterior means of the codes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data; NaN are entries that were not seen.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Codes, in data units.
        """
        means = [posterior.mean.cpu().numpy() for _, posterior in self._posteriors(X)]
        return np.concatenate(means) * self._scale_like(means[0])

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
        check_is_fitted(self)
        x = self._standardized(_dense(self._validate(X, reset=False)))
        return self._infer(x, self._model_like(x)).rescaled(self._scale)

    def score_samples(self, X: Any) -> NDArray[Any]:
        """Return the ELBO of each sample, a lower bound on its log-likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; of NaN entries nothing is scored.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, at the learned prior scales and noise variance.
        """
        values = []
        for x, posterior in self._posteriors(X):
            elbo = pointwise_elbo(posterior, x, self._model_like(x)).double()
            values.append((elbo - (~x.isnan()).double().sum(1) * np.log(self._scale)).cpu().numpy())
        return np.concatenate(values)

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Return the mean ELBO of the samples, in nats: higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
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
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ElboTerms
            Nats per sample.
        """
        total = None
        for x, posterior in self._posteriors(X):
            model = self._model_like(x)
            record = Statistics.collect(posterior, x, model.dictionary, model.prior)
            total = record if total is None else total + record
        terms = entropy_elbo(total, prior=PRIORS[self.prior])  # type: ignore[arg-type]
        codes = len(self.components_) * np.log(self._scale)
        seen = float(total.n_entries / total.weight) * np.log(self._scale)  # type: ignore[union-attr]
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
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        x, z = self._model.to("cpu").sample(n_samples, torch.Generator().manual_seed(seed))
        scale = self._scale_like(x.numpy())
        return x.numpy() * scale + self.mean_, z.numpy() * scale

    # ---------------------------------------------------------------- parts

    @property
    def _n_components(self) -> int:
        return self.n_components or self.n_features_in_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _is_batch(self, n_samples: int) -> bool:
        plain = self.inference == "variational" and self.annealing == "none"
        if self.algorithm == "batch" and not plain:
            raise InputError(
                "the 'algorithm' parameter must be 'auto' or 'online' with encoder or annealing; got 'batch'"
            )
        return plain and (
            self.algorithm == "batch" or (self.algorithm == "auto" and n_samples <= _BATCH_LIMIT)
        )

    def _solver(self, learning: bool) -> Inference:
        """Return the solver: a few warm-started iterations when learning, else run to convergence."""
        if not isinstance(self.covariance, str):
            return self.covariance
        if learning:
            table: dict[str, Inference] = {
                "diagonal": DiagonalInference(0.0, 6),
                "low-rank": LowRankInference(min(self.rank, self._n_components), 0.0, 2),
                "full": FullInference(0.0, 1),
            }
        else:
            single = self.components_.dtype == np.float32
            table = {
                "diagonal": DiagonalInference(1e-4, 20_000),
                "low-rank": LowRankInference(min(self.rank, self._n_components), 1e-3, 2000),
                "full": FullInference(1e-4 if single else 1e-8, 200),
            }
        return table[self.covariance]

    def _learner(self, init: Any) -> Any:
        online = OnlineEM(self._n_components, init, PRIORS[self.prior], self._solver(learning=True))
        rank = min(self.rank, self._n_components)
        encoder: Any = (
            DiagonalEncoder if self.covariance == "diagonal" else partial(LowRankEncoder, rank=rank)
        )
        if self.inference == "refined":
            return RefinedEM(online, encoder)
        if self.inference == "encoder":
            if self.covariance not in ("diagonal", "low-rank"):
                raise InputError(
                    "the 'covariance' parameter must be 'diagonal' or 'low-rank' for inference='encoder'; "
                    f"got {self.covariance!r}, for which there is no encoder"
                )
            return AdamLearner(self._n_components, encoder, init, PRIORS[self.prior])
        return online

    def _initial_dictionary(self) -> Any:
        if self.warm_start and hasattr(self, "components_"):
            return torch.as_tensor(self.components_.T.copy())
        return self.init if isinstance(self.init, str) else np.asarray(self.init)

    def _set(self, model: SparseCodingModel, reorder: bool = True) -> None:
        """Keep the model, its atoms in falling order of prior scale, the largest entry of each positive."""
        model = model.to("cpu")
        dictionary = model.dictionary
        if reorder and self._encoder is None:  # an encoder knows its latents by their place
            order = torch.argsort(model.prior_scale, descending=True, stable=True)
            dictionary = dictionary[:, order]
            largest = dictionary.gather(0, dictionary.abs().argmax(0, keepdim=True))
            dictionary = dictionary * torch.where(largest < 0, -1.0, 1.0)
            model = SparseCodingModel(dictionary, model.prior_scale[order], model.noise_variance, model.prior)
        self._model = model
        self.components_ = np.ascontiguousarray(dictionary.T.numpy())
        self.prior_scale_ = model.prior_scale.double().numpy() * self._scale
        self.noise_variance_ = float(model.noise_variance) * self._scale**2

    def _validate(self, X: Any, reset: bool) -> Any:
        if not reset:
            check_is_fitted(self)
        return validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
        )

    def _standardized(self, X: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor((X - self.mean_.astype(X.dtype)) / self._scale_like(X)).to(self.device)

    def _scale_like(self, X: NDArray[Any]) -> Any:
        return X.dtype.type(self._scale)

    def _shift(self, n_seen: float) -> float:
        """Return what the log-density of n entries loses by the change of units."""
        return n_seen * float(np.log(self._scale))

    def _model_like(self, x: torch.Tensor) -> SparseCodingModel:
        return self._model.to(x)

    def _infer(self, x: torch.Tensor, model: SparseCodingModel) -> Posterior:
        return (self._encoder or self._solver(learning=False))(x, model)

    def _posteriors(self, X: Any) -> Iterator[tuple[torch.Tensor, Posterior]]:
        """Yield standardized data and posteriors, chunk by chunk."""
        X = self._validate(X, reset=False)
        inference = self._encoder or self._solver(learning=False)
        size = min(inference.rows_at_once(len(self.components_)), 8192)
        for first in range(0, X.shape[0], size):
            x = self._standardized(_dense(X[first : first + size]))
            yield x, inference(x, self._model_like(x))

    def __sklearn_tags__(self) -> Any:
        """Say that NaN and sparse input are accepted and dtypes kept."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Standardized:
    """Rows of the training data in the estimator's units, made when they are read."""

    def __init__(self, X: Any, estimator: SparseCoding) -> None:
        self._rows, self._estimator = X, estimator

    def __len__(self) -> int:
        return self._rows.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return self._estimator._standardized(_dense(self._rows[index])).cpu().numpy()


def _dense(X: Any) -> NDArray[Any]:
    return X.toarray() if scipy.sparse.issparse(X) else X


def _n_seen(X: Any, weights: Any) -> float:
    """Return the mean number of entries seen in a sample."""
    seen = (~np.isnan(_dense(X))).sum(1)
    return float(np.average(seen, weights=weights))


def _location_and_scale(X: Any, weights: Any) -> tuple[NDArray[np.float64], float]:
    """Return the mean of each feature, and the root mean square around it, of entries seen, in float64."""
    shares = np.ones(X.shape[0]) if weights is None else weights
    count, total = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    blocks = [slice(first, first + 8192) for first in range(0, X.shape[0], 8192)]
    for block in blocks:
        part = _dense(X[block]).astype(np.float64)
        seen = ~np.isnan(part)
        count += shares[block] @ seen
        total += shares[block] @ np.where(seen, part, 0.0)
    mean = total / np.maximum(count, np.finfo(float).tiny)
    largest, squares = 0.0, 0.0
    for block in blocks:
        centred = np.abs(_dense(X[block]).astype(np.float64) - mean)
        largest = max(largest, np.nanmax(centred, initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return mean, 1.0
    for block in blocks:
        centred = (_dense(X[block]).astype(np.float64) - mean) / largest
        squares += float(shares[block] @ np.nansum(centred**2, axis=1))
    return mean, largest * float(np.sqrt(squares / max(count.sum(), np.finfo(float).tiny)))


def _record(terms: ElboTerms, shift: float) -> dict[str, float]:
    return {
        "elbo": float(terms.elbo) - shift,
        "posterior_entropy": float(terms.posterior),
        "prior_entropy": float(terms.prior),
        "likelihood_entropy": float(terms.likelihood) + shift,
    }
