"""Learning with an encoder (D.3): Adam for encoder and dictionary, or for the encoder beside online EM."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from entrosparse.errors import NumericalError
from entrosparse.inference import AmortizedInference, DiagonalEncoder, Inference, RefinedInference
from entrosparse.learning._floors import Floors
from entrosparse.learning._learner import Batch, Learner
from entrosparse.learning._online_em import OnlineEM, OnlineState
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import (
    analytic_elbo,
    optimal_noise_variance,
    optimal_prior,
    with_optimal_scales,
)
from entrosparse.processes import Processes
from entrosparse.statistics import Statistics

_DICTIONARY_RATE = 5.0  # learning rate of the dictionary, in times of that of the encoder
_NEWEST = 0.05  # share of the newest minibatch in λ and σ²

MakeEncoder = Callable[[Tensor, SparseCodingModel, torch.Generator], nn.Module]
"""Makes an encoder from a sample of the data, the initial model and a source of randomness."""


@final
@dataclass(frozen=True, eq=False)
class AdamState:
    """What learning with an encoder carries along; steps change encoder and optimizer in place.

    Attributes
    ----------
    running : OnlineState
        The model, whose λ and σ² follow the minibatches, and the inference.
    amortized : AmortizedInference
        The encoder.
    optimizer : torch.optim.Adam
        Of the encoder and, if it learns by Adam too, of the dictionary.
    noise : Tensor of uint8
        State of PyTorch's own random generator for the encoder, which dropout draws from.
    """

    running: OnlineState
    amortized: AmortizedInference
    optimizer: torch.optim.Adam
    noise: Tensor

    @property
    def model(self) -> SparseCodingModel:
        """The current model."""
        return self.running.model

    @property
    def inference(self) -> Inference:
        """How posteriors are found: by the encoder, refined if learning was."""
        return self.running.inference


@final
@dataclass(frozen=True)
class AdamLearner(Learner):
    """Learner by Adam on the annealed entropy ELBO (17) of minibatches, for encoder and dictionary together.

    The objective sees the dictionary through :func:`~entrosparse.model.unit_columns`, so its gradient is
    tangent to the sphere of each atom; and atoms are brought back to unit length after each step, lest
    growing lengths slow them down. While annealing, the prior entropy is that of λ above the floor of online
    EM: without it latents vanish for good.

    Attributes
    ----------
    encoder : callable
        Makes the encoder from a sample of the data, the initial model and a generator: ``DiagonalEncoder``,
        ``LowRankEncoder``, or a function that returns any module from data to posteriors.
    learning_rate : float
        Of the encoder at first, five times that for the dictionary; both fall to 0 by a cosine.
    max_gradient_norm : float
        Longer gradients, in nats per data point, are cut to this length.
    """

    shares_batches: ClassVar[bool] = True

    encoder: MakeEncoder = DiagonalEncoder
    learning_rate: float = 4e-3
    max_gradient_norm: float = 100.0

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> AdamState:
        """Return the state before learning."""
        amortized = AmortizedInference(self.encoder(sample, model, generator).eval())
        return AdamState(
            OnlineState(model, amortized, Floors.from_sample(sample), model.dictionary),
            amortized,
            torch.optim.Adam(
                [
                    {"params": list(amortized.encoder.parameters()), "factor": 1.0},
                    {"params": [nn.Parameter(model.dictionary.clone())], "factor": _DICTIONARY_RATE},
                ]
            ),
            generator.get_state(),
        )

    def step(self, state: AdamState, batch: Batch) -> AdamState:
        """Return the state after one minibatch.

        Raises
        ------
        InputError
            If the encoder returns something else than posteriors of these data.
        NumericalError
            If the objective, or something that the encoder returns, is not finite.
        """
        (dictionary,) = state.optimizer.param_groups[-1]["params"]
        rates = (self.learning_rate, self.max_gradient_norm)
        record, noise = _ascend(state, batch, unit_columns(dictionary), *rates)
        with torch.no_grad():
            dictionary.copy_(unit_columns(dictionary))
            kept, running = dictionary.detach().clone(), state.running
            old = running.moving
            best = with_optimal_scales(old, record)
            model = replace(
                old,
                dictionary=kept,
                prior_scale=torch.lerp(old.prior_scale, best.prior_scale, _NEWEST),
                noise_variance=torch.lerp(old.noise_variance, best.noise_variance, _NEWEST),
            )
            if old.prior_shape is not None and best.prior_shape is not None:
                shape = torch.lerp(old.prior_shape, best.prior_shape, _NEWEST)
                model = replace(model, prior_shape=shape)
            moving = running.floors.raised(model, batch.weights)
            return replace(state, running=replace(running, moving=moving, mean_dictionary=kept), noise=noise)

    def at_noise_floor(self, state: AdamState) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return state.running.floors.reached(state.model)


@final
@dataclass(frozen=True)
class RefinedEM(Learner):
    """Online EM whose E-steps start at the answers of an encoder, which learns beside it.

    The dictionary learns from the refined posteriors, and the encoder climbs its own annealed entropy ELBO
    (17) at that dictionary by Adam. So the dictionary does not suffer from what the encoder cannot do.

    Attributes
    ----------
    online_em : OnlineEM
        Learns the dictionary; its inference is what refines the encoder's answers.
    encoder, learning_rate, max_gradient_norm
        As those of :class:`AdamLearner`.
    """

    shares_batches: ClassVar[bool] = True

    online_em: OnlineEM = OnlineEM()
    encoder: MakeEncoder = DiagonalEncoder
    learning_rate: float = 4e-3
    max_gradient_norm: float = 100.0

    def start(self, model: SparseCodingModel, sample: Tensor, generator: torch.Generator) -> AdamState:
        """Return the state before learning."""
        running = self.online_em.start(model, sample, generator)
        amortized = AmortizedInference(self.encoder(sample, model, generator).eval())
        return AdamState(
            replace(running, inference=RefinedInference(amortized, running.inference)),
            amortized,
            torch.optim.Adam([{"params": list(amortized.encoder.parameters()), "factor": 1.0}]),
            generator.get_state(),
        )

    def step(self, state: AdamState, batch: Batch) -> AdamState:
        """Return the state after one minibatch; errors are those of :class:`AdamLearner`."""
        rates = (self.learning_rate, self.max_gradient_norm)
        _, noise = _ascend(state, batch, state.model.dictionary, *rates)
        return replace(state, running=self.online_em.step(state.running, batch), noise=noise)

    def at_noise_floor(self, state: AdamState) -> bool:
        """Return whether the noise variance had to be kept from falling to zero."""
        return self.online_em.at_noise_floor(state.running)


def _ascend(
    state: AdamState, batch: Batch, dictionary: Tensor, learning_rate: float, max_norm: float
) -> tuple[Statistics, Tensor]:
    """Take one step of Adam up the objective of a minibatch; return its statistics and the next noise."""
    encoder, model, optimizer = state.amortized.encoder, state.model, state.optimizer
    encoder.train()
    with torch.random.fork_rng(devices=[]):  # Dropout draws from PyTorch's own generator and no other.
        torch.set_rng_state(state.noise)
        posterior = state.amortized.differentiable(batch.x, model)
        noise = torch.get_rng_state()
    record = Statistics.collect(
        posterior, batch.x, dictionary, model.prior, batch.sample_weight, model.likelihood
    )
    whole = record.with_numbers(batch.processes.sum(record.numbers.detach()))
    prior_scale, shape = optimal_prior(whole)
    floor = state.running.floors.prior_scale(model, batch.weights)
    # At the optimal λ and σ² the classical ELBO has the gradient of the entropies (Theorem 3) and is linear
    # in the sums, so that the gradients of several processes add. A λ below its floor has no gradient.
    statistic = record.prior_statistic
    shared = replace(
        record,
        prior_statistic=torch.where(prior_scale < floor, statistic.detach(), statistic),
        total_weight=whole.total_weight,
        n_entries=whole.n_entries,
    )
    best = replace(
        model,
        prior_scale=prior_scale,
        prior_shape=shape,
        noise_variance=optimal_noise_variance(whole),
    )
    objective = analytic_elbo(shared, best, batch.weights).objective
    if not bool(torch.isfinite(objective)):
        raise NumericalError(
            f"the objective of the encoder {type(encoder).__name__} is not finite; lower the learning rate, "
            "or scale the data to unit variance"
        )
    loss = -objective
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    _add_gradients(learned, batch.processes)
    nn.utils.clip_grad_norm_(learned, max_norm)
    for group in optimizer.param_groups:
        group["lr"] = batch.step_factor * _cosine(batch.progress) * learning_rate * group["factor"]
    optimizer.step()
    encoder.eval()
    return whole, noise


def _add_gradients(parameters: list[Tensor], processes: Processes) -> None:
    """Make each gradient the sum of those of all processes."""
    if processes.alone or not parameters:
        return
    gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
    sums = processes.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, part in zip(gradients, torch.split(sums, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
