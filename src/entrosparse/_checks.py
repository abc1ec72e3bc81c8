"""Checks of arguments that several modules share."""

import math
from numbers import Integral, Real

import numpy as np

from entrosparse.errors import InputError


def check_whole(name: str, value: object, minimum: int) -> None:
    """Raise `InputError` unless ``value`` is a whole number of at least ``minimum``."""
    if not isinstance(value, Integral) or value < minimum:
        raise InputError(f"the '{name}' parameter must be a whole number >= {minimum}; got {value!r}")


def check_positive(name: str, value: object, or_zero: bool = False) -> None:
    """Raise `InputError` unless ``value`` is a finite number above zero (or zero, if allowed)."""
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        bound = ">= 0" if or_zero else "> 0"
        raise InputError(f"the '{name}' parameter must be a finite number {bound}; got {value!r}")


def random_generator(rng: np.random.Generator | int) -> np.random.Generator:
    """Return the generator itself, or a new one for a seed."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the 'rng' parameter must be a numpy Generator or a seed >= 0; got {rng!r}"
        ) from error
