"""What an estimator can do once a model is learned: codes, scores, samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from entrosparse._tables import TableRows, as_rows
from entrosparse._units import StandardizedRows, Units
from entrosparse.errors import InputError
from entrosparse.inference import Inference, infer_in_chunks
from entrosparse.learning._rows import check_weights
from entrosparse.model import SparseCodingModel, check_device
from entrosparse.objectives import ElboTerms, entropy_elbo, importance_log_likelihood, pointwise_elbo
from entrosparse.posteriors import Posterior
from entrosparse.recipes import Recipe, default_components
from entrosparse.statistics import Statistics


class FittedSparseCoding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The part of :class:`SparseCoding` that uses a learned model; it learns nothing."""

    n_components: int | None
    device: str
    random_state: Any
    n_features_in_: int
    _units: Units
    _model: SparseCodingModel
    _inference: Inference | None

    def _recipe(self) -> Recipe:
        """Return the parts that infer."""
        raise NotImplementedError

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
        means = [posterior.mean.numpy(force=True) for _, posterior in self._posteriors(X)]
        return self._units.codes(np.concatenate(means))

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
        rows = self._rows(X, reset=False)
        model = self._model_for(rows)
        x = self._units.standardize(rows[:]).to(model.dictionary)
        return self._units.posterior(self._inference_for(model)(x, model))

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
        values = [
            self._units.pointwise_elbo(pointwise_elbo(posterior, x, self._model.to(x)), x)
            for x, posterior in self._posteriors(X)
        ]
        return np.concatenate(values)

    def log_likelihood(
        self, X: Any, n_samples: int = 1000
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate the log-likelihood of each sample, of which :meth:`score_samples` is a lower bound.

        It is estimated by importance sampling, with codes drawn from the posteriors of ``covariance``. Where
        atoms are alike, use "full": draws without correlations may give estimates that are nats too low, with
        a standard error that does not show it.

        Parameters
        ----------
        X : array-like, sparse matrix, or table on disk of shape (n_samples_X, n_features)
            Data; of NaN entries there is no likelihood.
        n_samples : int
            Draws for each sample, at least 2.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples_X,)
            Nats. On average estimates are too low, and less so the more draws there are.
        standard_error : ndarray of shape (n_samples_X,)
            Nats. It is too small where the true posterior has heavier tails than the one drawn from. Beyond
            about 0.5 neither number can be relied on, and more draws or another covariance are needed.
        """
        check_is_fitted(self)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator(self.device).manual_seed(seed)
        values, errors = [], []
        for x, posterior in self._posteriors(X):
            value, error = importance_log_likelihood(posterior, x, self._model.to(x), n_samples, generator)
            values.append(self._units.pointwise_elbo(value, x))
            errors.append(error.numpy(force=True))
        return np.concatenate(values), np.concatenate(errors)

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
            sample_weight = self._weights(sample_weight, len(values))
            sample_weight = sample_weight / sample_weight.max()  # Tiny ones have few digits.
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
        model = self._model
        total = reduce(
            add,
            (
                Statistics.collect(
                    posterior, x, model.dictionary.to(x), model.prior, likelihood=model.likelihood
                )
                for x, posterior in self._posteriors(X)
            ),
        )
        n_seen = (total.n_entries / total.total_weight).numpy(force=True)
        return self._units.terms(entropy_elbo(total), self._model.n_components, n_seen)

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
        x, z = self._model.sample(n_samples, torch.Generator().manual_seed(seed))
        return self._units.data(x.numpy()), self._units.codes(z.numpy())

    # --- parts

    @property
    def _n_components(self) -> int:
        return self.n_components or default_components(self.n_features_in_)

    def _units_of(self, rows: TableRows, weights: NDArray[np.float64] | None) -> Units:
        """Return the units to learn in; where codes have a mean, data keep theirs."""
        recipe = self._recipe()
        return Units.from_rows(rows, weights, recipe.prior_part.centred, recipe.likelihood.per_feature)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _keep(
        self, units: Units, model: SparseCodingModel, inference: Inference | None, reorder: bool = True
    ) -> dict[str, Any]:
        """Take over a model, and return the attributes that this sets.

        Atoms are put in falling order of prior scale, with the largest entry of each positive, unless signs
        matter. They stay as they are under an encoder, whose outputs belong to certain latents, and while
        there is more to learn.
        """
        model = model.to("cpu")
        if reorder and inference is None:
            order = torch.argsort(model.prior_scale, descending=True, stable=True)
            dictionary = model.dictionary[:, order]
            largest = dictionary.gather(0, dictionary.abs().argmax(0, keepdim=True))
            flips = (largest[0] < 0) & (not model.prior.positive)
            shape = model.prior_shape
            if shape is not None:
                shape = torch.where(flips, model.prior.mirrored(shape[order]), shape[order])
            dictionary = dictionary * torch.where(flips, -1.0, 1.0)
            prior_scale = model.prior_scale[order]
            model = replace(model, dictionary=dictionary, prior_scale=prior_scale, prior_shape=shape)
        restored = units.model(model)
        self._units, self._model, self._inference = units, model, inference
        self.mean_ = units.mean
        self.components_ = np.ascontiguousarray(restored.dictionary.T.to(model.dictionary.dtype).numpy())
        self.prior_scale_ = restored.prior_scale.numpy()
        self.prior_shape_ = None if restored.prior_shape is None else restored.prior_shape.numpy()
        noise_variance = restored.noise_variance.numpy()
        self.noise_variance_ = noise_variance if noise_variance.ndim else float(noise_variance)
        own = ("_units", "_model", "_inference")
        names = (*own, "mean_", "components_", "prior_scale_", "prior_shape_", "noise_variance_")
        return {name: getattr(self, name) for name in names}

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave the estimator as it was if what is done inside fails or is interrupted."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            for name in vars(self).keys() - before.keys():
                delattr(self, name)
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _model_for(self, rows: TableRows) -> SparseCodingModel:
        """Return the model in the dtype of the rows, on the device."""
        return self._model.to(self.device, torch.as_tensor(np.empty(0, rows.dtype)).dtype)

    def _inference_for(self, model: SparseCodingModel) -> Inference:
        """Return what finds codes: the learned encoder, or the solver of the recipe."""
        if self._inference is not None:
            amortized: Any = getattr(self._inference, "amortized", self._inference)
            amortized.encoder.to(model.dictionary.device)  # It may come from a file, or from another device.
            return self._inference
        return self._recipe().final_inference(model.n_components, self._model.dictionary.dtype)

    def _posteriors(self, X: Any) -> Iterator[tuple[torch.Tensor, Posterior]]:
        """Yield standardized data and posteriors, block by block."""
        rows = self._rows(X, reset=False)
        model = self._model_for(rows)
        found = infer_in_chunks(StandardizedRows(rows, self._units), model, self._inference_for(model))
        return ((x, posterior) for _, x, posterior in found)

    def _rows(self, X: Any, reset: bool) -> TableRows:
        """Return checked rows, without reading a table that is on disk."""
        if not reset:
            check_is_fitted(self)
        check_device(self.device)
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

    def _samples(
        self, X: Any, sample_weight: Any, reset: bool
    ) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
        """Return a copy of checked rows, and their checked weights."""
        rows = self._rows(X, reset)
        return np.array(rows[:]), self._weights(sample_weight, len(rows))

    def _weights(self, sample_weight: Any, n_rows: int) -> NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        like = np.broadcast_to(np.float64(0.0), (n_rows, 1))
        weights = _check_sample_weight(sample_weight, like, dtype=np.float64, ensure_non_negative=True)
        check_weights(weights, n_rows)
        return weights

    def __sklearn_tags__(self) -> Any:
        """Say that NaN and sparse input are accepted and dtypes kept."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
