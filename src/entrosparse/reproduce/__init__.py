"""The paper's figures and tables, and what goes beyond: modules in `experiments`, and their names here."""

from collections.abc import Mapping
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
"""What ``entrosparse reproduce`` knows: modules by name, in the order of the page."""

EXPLORATIONS = {
    "prior-shape": "prior_shape",
    "noise": "noise",
    "posteriors": "posteriors",
    "robustness": "robustness",
    "comparison": "comparison",
}
"""What ``entrosparse explore`` knows, in the same way; no name is in both tables."""


def get_experiment(name: str, table: Mapping[str, str] | None = None) -> "Experiment":
    """Return the experiment of that name in a table; by default, in either of them.

    Raises
    ------
    InputError
        If there is none.
    """
    table = EXPERIMENTS | EXPLORATIONS if table is None else table
    if name not in table:
        raise InputError(f"the 'name' parameter must be one of {', '.join(table)}, all or list; got '{name}'")
    return import_module(f"{__name__}.experiments.{table[name]}").EXPERIMENT
