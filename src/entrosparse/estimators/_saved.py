"""Estimators in files: tensors, and settings as plain data, which run no code when they are read."""

import json
import math
import os
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from entrosparse._files import one_line
from entrosparse._plain import LONGEST, from_plain, parsed, to_plain
from entrosparse._tensors import TensorFile, named, open_tensors, write_tensors
from entrosparse._units import Units
from entrosparse.errors import FileFormatError, InputError
from entrosparse.estimators._fitted import FittedSparseCoding
from entrosparse.inference import Inference
from entrosparse.inference._encoder_files import SOLVERS, encoder_content, encoder_from_content
from entrosparse.learning import BatchEM, EpochRecord, OnlineEM
from entrosparse.learning._history import ends_below_start
from entrosparse.likelihoods import LIKELIHOODS
from entrosparse.model import LARGEST_FILE, SparseCodingModel
from entrosparse.priors import PRIORS

_FORMAT = "entrosparse-estimator-1"
_RECORD = get_type_hints(EpochRecord)
_MOST_RECORDS = 10**5  # Epochs of a history, of which each takes about a kilobyte of memory.
_KINDS: dict[str, type] = SOLVERS | {
    kind.__name__: kind for kind in (*map(type, (*PRIORS.values(), *LIKELIHOODS.values())), OnlineEM, BatchEM)
}


class SavedSparseCoding(FittedSparseCoding):
    """The part of :class:`SparseCoding` that goes into files and comes back."""

    history_: list[dict[str, Any]]
    elbo_: float
    n_iter_: int
    converged_: bool

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one file, which :meth:`load` reads without running code of it.

        The file holds all parameters, the model, the encoder if there is one, and the attributes that ``fit``
        sets. It does not hold what :meth:`partial_fit` carries from batch to batch, nor what ``set_output``
        has set.

        Parameters
        ----------
        path : path-like
            The file, such as ``coding.safetensors``. It is written aside and then renamed into place.

        Raises
        ------
        InputError
            If a parameter is neither a number, a text nor a part of the package, as are an array for
            ``init``, a function for ``annealing``, a RandomState or a part of your own. What only decides how
            to learn may be set to something else before; it makes no difference to what was learned.
        """
        check_is_fitted(self)
        self._check_inference()
        parameters = self.get_params(deep=False)
        names = getattr(self, "feature_names_in_", None)
        state = {
            "parameters": {name: to_plain(name, value, _KINDS) for name, value in parameters.items()},
            "feature_names": None if names is None else [str(name) for name in names],
            "scale": float(self._units.scale),
            "elbo": float(self.elbo_),
            "n_iter": int(self.n_iter_),
            "converged": bool(self.converged_),
        }
        model, words = self._model.content()
        units = {"mean": torch.as_tensor(self._units.mean)}
        if self._units.spread is not None:
            units["spread"] = torch.as_tensor(self._units.spread)
        rows = [astuple(EpochRecord(**row)) for row in self.history_]
        records = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(_RECORD))
        tensors = named("model", model) | named("units", units) | named("history", {"records": records})
        if self._inference is not None:
            encoder, encoder_words = encoder_content(self._inference)
            tensors, words = tensors | named("encoder", encoder), words | encoder_words
        text = json.dumps(state)
        if len(rows) > _MOST_RECORDS or len(text) > LONGEST:
            raise InputError(
                f"an estimator that is saved must have a history of at most {_MOST_RECORDS:,} epochs, and "
                f"names of at most {LONGEST:,} characters; got {len(rows):,} and {len(text):,}"
            )
        words |= {"format": _FORMAT, "estimator": text}
        write_tensors(Path(path), "estimator", LARGEST_FILE, tensors, words)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator that :meth:`save` wrote.

        Codes, scores and samples have the same bits as before. :meth:`partial_fit` goes on from the model as
        after a ``fit``: with centre and unit of the data as they are, and with a new average of its own.

        Parameters
        ----------
        path : path-like
            The file.

        Returns
        -------
        SparseCoding

        Raises
        ------
        FileFormatError
            If the file is missing, too large, no regular file, damaged, or holds something else.
        """
        with open_tensors(Path(path), "estimator", LARGEST_FILE) as file:
            if file.metadata.get("format") != _FORMAT:
                raise FileFormatError(f"'{path}' is not an entrosparse estimator of a version known here")
            has_encoder = "encoder" in file.metadata
            file.check_parts({"model", "units", "history"} | ({"encoder"} if has_encoder else set()))
            state = _state(file)
            coding = cls._with_parameters(state["parameters"])
            model = SparseCodingModel.from_content(file.part("model"))
            units = _units(file.part("units"), state["scale"], model)
            inference = encoder_from_content(file.part("encoder"), model) if has_encoder else None
            coding._restore(units, model, inference, _history(file.part("history")))
            coding._check_inference()
            coding.elbo_, coding.n_iter_ = float(state["elbo"]), state["n_iter"]
            coding.converged_ = state["converged"]
            if state["feature_names"] is not None:
                if len(state["feature_names"]) != model.n_features:
                    raise FileFormatError(
                        f"'{path}' must have a name for each of {model.n_features} features"
                    )
                coding.feature_names_in_ = np.array(state["feature_names"], dtype=object)
            return coding

    @classmethod
    def from_run(cls, run: str | os.PathLike[str]) -> Self:
        """Return an estimator with the model of a run folder, which ``entrosparse fit`` made.

        Its samples are rows such as the run learned from, or patches as it saw them, whitened and scaled; the
        codes are those of ``entrosparse encode --rows``, and latents keep their order. Attributes are those
        of the run, the history that of what it held out. ``converged_`` says whether the run converged or,
        with minibatches, came to its last epoch, above its start. Annealing is not taken over, as it needs
        epochs.

        Parameters
        ----------
        run : path-like
            The folder.

        Returns
        -------
        SparseCoding

        Raises
        ------
        FileFormatError
            If the folder or one of its files is missing or damaged.
        """
        from entrosparse.app.runs import load_run  # Here, as most estimators come from no run.

        found = load_run(run)
        config, recipe = found.info.config, found.info.config.recipe
        names = ("n_components", "covariance", "rank", "inference", "noise", "algorithm", "batch_size")
        coding = cls(
            **{name: getattr(config, name) for name in names},
            prior=recipe.prior,
            max_epochs=config.epochs * config.passes,
            random_state=config.seed,
        )
        inference = None if config.inference == "variational" else found.inference
        history = [asdict(record) for record in found.history]
        coding._restore(found.units, found.model, inference, history)
        if found.info.column_names is not None:
            coding.feature_names_in_ = np.array(found.info.column_names, dtype=object)
        coding.elbo_, coding.n_iter_ = history[-1]["elbo"], history[-1]["epoch"]
        ended = found.info.converged or (config.algorithm, coding.n_iter_) == ("online", config.epochs)
        coding.converged_ = ended and not ends_below_start(found.history)
        return coding

    @classmethod
    def _with_parameters(cls, parameters: dict[str, Any]) -> Self:
        """Return an estimator with parameters that a file holds."""
        found = {name: from_plain(name, content, _KINDS) for name, content in parameters.items()}
        try:
            coding = cls(**found)
            coding._validate_params()
        except (TypeError, ValueError) as error:
            why = one_line(error)
            raise FileFormatError(f"the parameters must be those of an estimator: {why}") from error
        return coding

    def _restore(
        self,
        units: Units,
        model: SparseCodingModel,
        inference: Inference | None,
        history: list[dict[str, Any]],
    ) -> None:
        with np.errstate(over="ignore", under="ignore"):
            self._keep(units, model, inference, reorder=False)
        scales = (self.prior_scale_, np.asarray(self.noise_variance_), self.components_)
        if not all(np.isfinite(part).all() for part in scales):
            raise InputError("the units must be such that the model has finite scales in them")
        self.n_features_in_ = model.n_features
        self.history_ = history

    def _check_inference(self) -> None:
        """Raise InputError unless codes can be found under the learned model as the parameters say."""
        if self._inference is None:
            model = self._model
            recipe = replace(self._recipe(), prior=model.prior, noise=model.likelihood)
            recipe.final_inference(model.n_components, model.dictionary.dtype)


def _state(file: TensorFile) -> dict[str, Any]:
    """Return what a file says in JSON, each of the right kind."""
    kinds = {
        "parameters": dict,
        "feature_names": list | None,
        "scale": float,
        "elbo": float,
        "n_iter": int,
        "converged": bool,
    }
    state = parsed("estimator", file.metadata.get("estimator", ""))
    fits = isinstance(state, dict) and state.keys() == kinds.keys()
    if not (
        fits
        and all(isinstance(state[name], kind) for name, kind in kinds.items())
        and all(isinstance(name, str) for name in state["feature_names"] or ())
        and math.isfinite(state["elbo"])
        and math.isfinite(state["scale"])
        and state["scale"] > 0.0
        and type(state["n_iter"]) is int
        and state["n_iter"] >= 0
    ):
        raise FileFormatError(f"'{file.path}' must say {', '.join(kinds)} of an estimator")
    return state


def _units(file: TensorFile, scale: float, model: SparseCodingModel) -> Units:
    """Return the units that a part of a file holds."""
    names = ("mean", "spread") if "spread" in file.shapes else ("mean",)
    file.check(dict.fromkeys(names, (model.n_features,)))
    if file.dtype != torch.float64:
        raise FileFormatError(f"the units in '{file.path}' must be float64; got {file.dtype}")
    parts = {name: tensor.numpy() for name, tensor in file.read().items()}
    if not (parts.get("spread", np.ones(1)) > 0.0).all():
        raise FileFormatError(f"the units of the features in '{file.path}' must be > 0")
    return Units(parts["mean"], scale, parts.get("spread"))


def _history(file: TensorFile) -> list[dict[str, Any]]:
    """Return the rows of the history that a part of a file holds."""
    n_rows = (*file.shapes.get("records", ()), 0)[0]
    file.check({"records": (n_rows, len(_RECORD))})
    if n_rows > _MOST_RECORDS:
        raise FileFormatError(f"'{file.path}' must hold at most {_MOST_RECORDS:,} records; got {n_rows:,}")
    return [
        {name: kind(value) for (name, kind), value in zip(_RECORD.items(), row, strict=True)}
        for row in file.read()["records"].tolist()
    ]
