"""The figures and tables of the paper: a module each in `experiments`, and one table of their names."""

from importlib import import_module
from typing import TYPE_CHECKING

from entrosparse.errors import InputError

if TYPE_CHECKING:
    from entrosparse.reproduce.framework.experiment import Experiment

EXPERIMENTS = {
    "bars": "bars_recovery",
    "optimization": "optimization",
    "annealing": "annealing_table",
    "annealing-fields": "annealing_fields",
    "sparsity": "sparsity",
    "overcomplete": "overcomplete",
    "external-dictionary": "external_dictionary",
    "erf": "erf",
    "stochastic": "stochastic",
    "theorems": "theorems",
    "l1": "l1",
    "timing": "timing",
}
"""Experiments by the names that the command line knows, in the order of the page; values are modules."""


def get_experiment(name: str) -> "Experiment":
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
    return import_module(f"{__name__}.experiments.{EXPERIMENTS[name]}").EXPERIMENT
