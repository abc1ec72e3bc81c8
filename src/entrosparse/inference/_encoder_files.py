"""Files of encoders: networks of known architecture, each with the model that it was learned with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from entrosparse._plain import from_json, to_json
from entrosparse._tensors import TensorFile, named, open_tensors, write_tensors
from entrosparse.errors import FileFormatError, InputError
from entrosparse.inference._amortized import AmortizedInference, RefinedInference
from entrosparse.inference._diagonal_solver import DiagonalInference
from entrosparse.inference._encoders import DiagonalEncoder, LowRankEncoder
from entrosparse.inference._factorial_solver import ExactFactorialInference
from entrosparse.inference._full_solver import FullInference
from entrosparse.inference._low_rank_solver import LowRankInference
from entrosparse.inference._protocol import Inference
from entrosparse.model import LARGEST_FILE, SparseCodingModel
from entrosparse.posteriors import Diagonal

_FORMAT = "entrosparse-encoder-1"
_ENCODERS: dict[str, type[DiagonalEncoder] | type[LowRankEncoder]] = {
    "diagonal": DiagonalEncoder,
    "low-rank": LowRankEncoder,
}

SOLVERS: dict[str, type] = {
    solver.__name__: solver
    for solver in (DiagonalInference, LowRankInference, FullInference, ExactFactorialInference)
}
"""The solvers by the names of their classes."""


def save_encoder(path: str | Path, inference: Inference, model: SparseCodingModel) -> None:
    """Write an encoder and the model that it was learned with into one file, so that they stay together.

    Parameters
    ----------
    path : path-like
        The file, ``encoder.safetensors`` for one. It is written aside and then renamed into place.
    inference : AmortizedInference or RefinedInference
        Codes from a :class:`DiagonalEncoder` or :class:`LowRankEncoder`, alone or refined by a solver.
    model : SparseCodingModel
        The model.

    Raises
    ------
    InputError
        If the file could not be read back: it would be too large, or holds the name and the settings of a
        part that is not one of the package.
    """
    tensors, words = model.content()
    encoder_tensors, encoder_words = encoder_content(inference)
    tensors = named("model", tensors) | named("encoder", encoder_tensors)
    write_tensors(path, "encoder", LARGEST_FILE, tensors, {"format": _FORMAT} | words | encoder_words)


def load_encoder(path: str | Path) -> tuple[Inference, SparseCodingModel]:
    """Read an encoder and its model that :func:`save_encoder` wrote.

    Returns
    -------
    inference : AmortizedInference or RefinedInference
    model : SparseCodingModel

    Raises
    ------
    FileFormatError
        If the file is missing, too large, no regular file, damaged, or holds something else.
    """
    with open_tensors(path, "encoder", LARGEST_FILE) as file:
        if file.metadata.get("format") != _FORMAT:
            raise FileFormatError(f"'{path}' is not an entrosparse encoder of a version known here")
        file.check_parts({"model", "encoder"})
        model = SparseCodingModel.from_content(file.part("model"))
        return encoder_from_content(file.part("encoder"), model), model


def encoder_content(inference: Inference) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what a file must hold of an encoder: tensors, its name, and whether and how it is refined.

    Raises
    ------
    InputError
        If the encoder or the solver is not one of the package.
    """
    words = {"inference": "encoder"}
    encoder: Any = inference
    if isinstance(encoder, RefinedInference):
        words = {"inference": "refined", "solver": to_json("solver", encoder.solver, SOLVERS)}
        encoder = encoder.amortized
    if isinstance(encoder, AmortizedInference):
        encoder = encoder.encoder
    names = [name for name, kind in _ENCODERS.items() if type(encoder) is kind]
    if not names:
        known = " or ".join(kind.__name__ for kind in _ENCODERS.values())
        raise InputError(f"an encoder that is saved must be a {known}; got {type(encoder).__name__}")
    return dict(encoder.state_dict()), {"encoder": names[0], **words}


def encoder_from_content(file: TensorFile, model: SparseCodingModel) -> Inference:
    """Return the encoder whose :func:`encoder_content` a file holds, or a part of it, for its model.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    kind, words = _ENCODERS.get(file.metadata.get("encoder", "")), file.metadata
    if kind is None or words.get("inference") not in ("encoder", "refined"):
        raise FileFormatError(f"the encoder in '{file.path}' is not of a kind known here")
    Diagonal.check_prior(model.prior)
    encoder = _shaped(kind, model, file.shapes)
    file.check({name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()})
    if file.dtype != model.dictionary.dtype:
        raise FileFormatError(f"encoder and model in '{file.path}' must have one dtype")
    tensors = file.read()
    if not all(bool((tensors[name] > 0).all()) for name in ("data_scale", "unit")):
        raise FileFormatError(f"the scales of the encoder in '{file.path}' must be > 0")
    encoder.load_state_dict(tensors, assign=True)
    amortized = AmortizedInference(encoder.eval())
    if words["inference"] == "encoder":
        return amortized
    solver = from_json("solver", words.get("solver", ""), SOLVERS)
    if type(solver) not in SOLVERS.values():
        raise FileFormatError(f"the solver in '{file.path}' must be one of {', '.join(SOLVERS)}")
    return RefinedInference(amortized, solver)


def _shaped(
    kind: type[DiagonalEncoder] | type[LowRankEncoder],
    model: SparseCodingModel,
    shapes: Mapping[str, tuple[int, ...]],
) -> DiagonalEncoder | LowRankEncoder:
    """Return an encoder without values for a model, of the width and the rank that the shapes tell."""
    width, n_features = (*shapes.get("lift.weight", ()), 0, 0)[:2]
    rank = (*shapes.get("factor_readout.bias", ()), 0)[0] // model.n_components
    if width < 1 or n_features != model.n_features or (kind is LowRankEncoder and rank < 1):
        raise FileFormatError("the encoder must have layers for the features and components of its model")
    return kind.shaped(model, width, rank)
