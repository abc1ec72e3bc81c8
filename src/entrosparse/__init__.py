"""Sparse codes with honest uncertainty: probabilistic sparse coding learned by entropy-based ELBOs.

Everything listed here is imported when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entrosparse.annealing import EntropyWeights as EntropyWeights
    from entrosparse.estimators import SparseCoding as SparseCoding
    from entrosparse.inference import DiagonalInference as DiagonalInference
    from entrosparse.learning import OnlineEM as OnlineEM
    from entrosparse.learning import evaluate as evaluate
    from entrosparse.learning import exact_em as exact_em
    from entrosparse.learning import train as train
    from entrosparse.model import SparseCodingModel as SparseCodingModel
    from entrosparse.objectives import ElboTerms as ElboTerms
    from entrosparse.objectives import entropy_elbo as entropy_elbo
    from entrosparse.statistics import Statistics as Statistics

_HOMES = {
    "DiagonalInference": "inference",
    "ElboTerms": "objectives",
    "EntropyWeights": "annealing",
    "OnlineEM": "learning",
    "SparseCoding": "estimators",
    "SparseCodingModel": "model",
    "Statistics": "statistics",
    "entropy_elbo": "objectives",
    "evaluate": "learning",
    "exact_em": "learning",
    "train": "learning",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
