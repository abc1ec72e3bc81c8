"""EM on all rows at once, which cools the noise, with momentum."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from entrosparse.inference import LEARNING_SWEEPS, Inference
from entrosparse.learning._floors import Floors
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._m_step import Curvature, preconditioned_step
from entrosparse.learning._span import Span
from entrosparse.learning._turns import Turn, take_turn
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.posteriors import Diagonal
from entrosparse.processes import Processes

_WINDOW = 10  # iterations over which the gain of the objective is averaged
_CUT = 0.7  # factor on the step size when the objective fell


@final
@dataclass(frozen=True, eq=False)
class BatchState:
    """What batch EM carries from one iteration to the next.

    Attributes
    ----------
    span : Span or None
        Where all dictionaries here have their coordinates; None where they have all features.
    reached : SparseCodingModel
        The dictionary of the last turn, with its optimal λ and σ² above floors.
    inference : Inference
        The E-step.
    floors : Floors
        Least λ and σ².
    ahead : SparseCodingModel
        The model that the next turn is taken at: its dictionary is one step further, its noise still cooling.
    stepped : Tensor of shape (D, H)
        The dictionary of ``ahead`` before momentum moved it.
    step_size : float
        Step size of the dictionary.
    objectives : Tensor of shape (11,)
        Objective (17) of the last turns, the newest last, in float64.
    n_turns : int
        Turns since the entropy weights last changed.
    converged : bool
        Whether the noise has cooled down and the objective gains next to nothing.
    turn : Turn or None
        The last turn; None before the first.
    """

    span: Span | None
    reached: SparseCodingModel
    inference: Inference
    floors: Floors
    ahead: SparseCodingModel
    stepped: Tensor
    step_size: float
    objectives: Tensor
    n_turns: int = 0
    converged: bool = False
    turn: Turn | None = None

    @cached_property
    def model(self) -> SparseCodingModel:
        """What was reached, with all features."""
        return self.reached if self.span is None else self.span.outside(self.reached)


@final
@dataclass(frozen=True)
class BatchEM(Learner):
    """Learner for data that fit in memory: every iteration sees all rows.

    With little noise EM crawls, and what it crawls to is often a poor optimum. So σ² starts large and may
    only fall by the factor ``cooling`` an iteration until it is at its optimum (Eq. 10): at a high
    temperature there are few optima and EM is fast, and what is learned there leads into good ones.

    Where rows are few beside their features, it works with their coordinates in the space that they span,
    which leads to the same model.

    Attributes
    ----------
    inference : Inference
        The E-step of one iteration, started from the posteriors of the last one.
    cooling : float
        Least factor on σ² from one iteration to the next, in (0, 1); 0.98 is slow enough for the bars.
    step_size, momentum : float
        Of the dictionary step; when the noise has cooled down and the objective falls, the step is cut by 0.7
        and momentum dropped once.
    tolerance : float
        Learning has converged when the noise has cooled down and the objective gains less than this per
        iteration, averaged over ten, in nats per data point.
    iterations : int
        Iterations of a step, and so of an epoch.
    """

    sees_all_rows: ClassVar[bool] = True
    shares_batches: ClassVar[bool] = True

    inference: Inference = LEARNING_SWEEPS
    cooling: float = 0.98
    step_size: float = 1.0
    momentum: float = 0.8
    tolerance: float = 3e-5
    iterations: int = 1

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> BatchState:
        """Return the state before learning."""
        span = Span.where_it_pays(sample, model, self.inference)
        inside = model if span is None else span.inside(model)
        return BatchState(
            span=span,
            reached=inside,
            inference=self.inference,
            floors=Floors.from_sample(sample),
            ahead=inside,
            stepped=inside.dictionary,
            step_size=self.step_size,
            objectives=torch.zeros(_WINDOW + 1, dtype=torch.float64),
        )

    def step(self, state: BatchState, batch: Batch) -> BatchState:
        """Return the state after some iterations."""
        for _ in range(self.iterations):
            state = self._iterated(state, batch)
        return state

    def _iterated(self, state: BatchState, batch: Batch) -> BatchState:
        model, weights = state.ahead, batch.weights
        x = batch.x if state.span is None else state.span.coordinates(batch.x)
        start = None if state.turn is None else state.turn.marginals
        turn = take_turn(x, model, state.inference, weights, start, batch.sample_weight, batch.processes)
        n_turns = 1 + (state.n_turns if state.turn and state.turn.terms.weights == weights else 0)
        objectives = torch.cat([state.objectives[1:], turn.terms.objective.reshape(1).to(state.objectives)])

        noise_floor = state.floors.least_noise(model)
        coolest = torch.maximum(self.cooling * model.noise_variance, noise_floor)
        optimum = turn.model.noise_variance
        cooled = bool(((optimum >= coolest) | (coolest <= noise_floor)).all())
        reached = state.floors.raised(turn.model, weights)

        step_size, momentum = state.step_size, self.momentum
        if cooled and n_turns > 1 and objectives[-1] < objectives[-2]:
            step_size, momentum = _CUT * step_size, 0.0  # it overshot: start afresh, more carefully
        record = turn.statistics.normalized()
        stepped = preconditioned_step(
            model,
            record,
            Curvature.from_statistics(record),
            weights.likelihood,
            batch.step_factor * step_size,
        )
        return BatchState(
            span=state.span,
            reached=reached,
            inference=state.inference,
            floors=state.floors,
            ahead=replace(
                reached,
                dictionary=unit_columns(stepped + momentum * (stepped - state.stepped)),
                noise_variance=torch.maximum(optimum, coolest),
            ),
            stepped=stepped,
            step_size=step_size,
            objectives=objectives,
            n_turns=n_turns,
            converged=cooled and n_turns > _WINDOW and self._rests(objectives),
            turn=replace(turn, model=reached),
        )

    def whole(self, state: BatchState, processes: Processes) -> BatchState:
        """Return the state with the posteriors of all rows."""
        return _with_marginals(state, processes.gathered)

    def divided(self, state: BatchState, processes: Processes) -> BatchState:
        """Return the state with the posteriors of the rows of this process."""
        return _with_marginals(state, lambda rows: rows[processes.share(len(rows))])

    def at_noise_floor(self, state: BatchState) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return state.floors.reached(state.reached)

    def turn(self, state: BatchState) -> Turn | None:
        """Return the last turn."""
        return None if state.turn is None else replace(state.turn, model=state.model)

    def converged(self, state: BatchState) -> bool:
        """Return whether the noise has cooled down and the objective gains next to nothing."""
        return state.converged

    def _rests(self, objectives: Tensor) -> bool:
        return abs(float(objectives[-1] - objectives[0])) < _WINDOW * self.tolerance


def _with_marginals(state: BatchState, of: Callable[[Tensor], Tensor]) -> BatchState:
    if state.turn is None:
        return state
    marginals = Diagonal(of(state.turn.marginals.mean), of(state.turn.marginals.scale))
    return replace(state, turn=replace(state.turn, marginals=marginals))
