"""Entropy weights and their schedules: pure functions of progress (Eq. 17, D.4)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import final

from entrosparse.errors import InputError


@final
@dataclass(frozen=True)
class EntropyWeights:
    """Weights γ of the prior entropy and δ of the likelihood entropy in Eq. 17; 1, 1 is the ELBO.

    Attributes
    ----------
    prior : float
        γ > 0.
    likelihood : float
        δ > 0, which is 1/β of β-annealing.
    """

    prior: float = 1.0
    likelihood: float = 1.0

    def __post_init__(self) -> None:
        for name in ("prior", "likelihood"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0.0 < float(value) < math.inf):
                raise InputError(f"the '{name}' entropy weight must be a finite number > 0; got {value!r}")
            object.__setattr__(self, name, float(value))


Schedule = Callable[[float], EntropyWeights]
"""Weights as a function of the epoch 0, 1, 2, ..."""


def no_annealing(epoch: float) -> EntropyWeights:
    """γ = δ = 1: the ELBO itself."""
    return EntropyWeights()


def prior_annealing(epoch: float) -> EntropyWeights:
    """γ_i = max(1, 2(5 − i)), δ = 1 (D.4).

    For γ > 1 the objective (17) has no upper bound: a latent that shrinks to nothing gains (γ − 1) |log ε|.
    Annealing is a path to walk along, not a problem to solve to its end, so the learner keeps λ above a floor
    while γ > 1.
    """
    return EntropyWeights(prior=max(1.0, 2.0 * (5.0 - epoch)))


def likelihood_annealing(epoch: float) -> EntropyWeights:
    """δ_i = min(1, 1/(7 − i)), γ = 1: β-annealing with β = 1/δ (D.4)."""
    return EntropyWeights(likelihood=1.0 / max(1.0, 7.0 - epoch))


def energy_tempering(epoch: float) -> EntropyWeights:
    """γ = δ = max(1, 2(5 − i)): energy tempering, also called α-annealing (section 3.3)."""
    weight = max(1.0, 2.0 * (5.0 - epoch))
    return EntropyWeights(prior=weight, likelihood=weight)


SCHEDULES: dict[str, Schedule] = {
    "none": no_annealing,
    "prior": prior_annealing,
    "likelihood": likelihood_annealing,
    "tempering": energy_tempering,
}


def constant(prior: float = 1.0, likelihood: float = 1.0) -> Schedule:
    """Return the schedule that keeps γ and δ as they are."""
    weights = EntropyWeights(prior, likelihood)
    return lambda epoch: weights


def stretched(schedule: Schedule, epochs: int, length: int = 10) -> Schedule:
    """Return a schedule that does in ``epochs`` what the given one does in its first ``length`` epochs."""
    return lambda epoch: schedule(epoch * length / epochs)


def get_schedule(annealing: str | Schedule) -> Schedule:
    """Return the schedule of that name; a callable is passed through.

    Raises
    ------
    InputError
        If no schedule has that name.
    """
    if callable(annealing):
        return annealing
    if annealing not in SCHEDULES:
        known = ", ".join(repr(name) for name in SCHEDULES)
        raise InputError(f"the 'annealing' parameter must be one of {known} or a callable; got {annealing!r}")
    return SCHEDULES[annealing]
