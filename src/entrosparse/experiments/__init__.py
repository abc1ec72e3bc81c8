"""The figures and tables of the paper: one module each, named as its command, under ``EXPERIMENTS``."""

from importlib import import_module

from entrosparse.errors import InputError
from entrosparse.experiments.base import Experiment

EXPERIMENTS = (
    "bars",
    "optimization",
    "annealing",
    "annealing-fields",
    "sparsity",
    "overcomplete",
    "external-dictionary",
    "erf",
    "stochastic",
    "theorems",
    "l1",
    "timing",
)
"""Names, in the order of the page."""


def get_experiment(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in EXPERIMENTS:
        raise InputError(
            f"the 'name' parameter must be one of {', '.join(EXPERIMENTS)}, all or list; got '{name}'"
        )
    return import_module(f"{__name__}.{name.replace('-', '_')}").EXPERIMENT
