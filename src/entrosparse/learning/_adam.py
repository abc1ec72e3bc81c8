"""Learning with an encoder (D.3): Adam for encoder and dictionary, or for the encoder beside online EM."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from entrosparse.annealing import EntropyWeights
from entrosparse.errors import NumericalError
from entrosparse.inference import AmortizedInference, DiagonalEncoder, Inference, RefinedInference
from entrosparse.learning._averages import RunningState
from entrosparse.learning._initialization import initial_model
from entrosparse.learning._online_em import OnlineEM
from entrosparse.model import SparseCodingModel, unit_columns
from entrosparse.objectives import entropy_elbo, optimal_scales
from entrosparse.priors import PRIORS, Prior
from entrosparse.statistics import Statistics

_DICTIONARY_RATE = 5.0  # atoms are worth larger steps than weights of the encoder

MakeEncoder = Callable[[Tensor, SparseCodingModel, torch.Generator], nn.Module]
"""Makes an encoder from a sample of the data, the initial model and a source of randomness."""


@final
@dataclass(frozen=True)
class AdamState:
    """What learning with an encoder carries along; steps change encoder and optimizer in place.

    Attributes
    ----------
    running : RunningState
        The model, whose λ and σ² follow running averages, and the inference.
    amortized : AmortizedInference
        The encoder.
    optimizer : torch.optim.Adam
        Of the encoder and, if it learns by Adam too, of the dictionary.
    """

    running: RunningState
    amortized: AmortizedInference
    optimizer: torch.optim.Adam

    @property
    def model(self) -> SparseCodingModel:
        """The current model."""
        return self.running.model

    @property
    def inference(self) -> Inference:
        """How posteriors are found: by the encoder, refined if learning was."""
        return self.running.inference

    @property
    def at_noise_floor(self) -> bool:
        """Whether the noise variance was kept from falling to zero."""
        return self.running.at_noise_floor


@final
@dataclass(frozen=True)
class AdamLearner:
    """Learner by Adam on the annealed entropy ELBO (17) of minibatches, for encoder and dictionary together.

    The objective sees the dictionary through :func:`~entrosparse.model.unit_columns`, so its gradient is
    tangent to the sphere of each atom; and atoms are brought back to unit length after each step, lest
    growing lengths slow them down. While annealing, the prior entropy is that of λ above the floor of online
    EM: without it latents vanish for good.

    Attributes
    ----------
    n_components : int
        Number of latents H.
    encoder : callable
        Makes the encoder from a sample of the data, the initial model and a generator: ``DiagonalEncoder``,
        ``LowRankEncoder``, or a function that returns any module from data to posteriors.
    init : {"ica", "data", "random"} or array of shape (D, H)
        Initial dictionary.
    prior : Prior
        Prior of the codes.
    learning_rate : float
        Of the encoder at first, five times that for the dictionary; both fall to 0 by a cosine.
    max_gradient_norm : float
        Longer gradients, in nats per data point, are cut to this length.
    """

    n_components: int
    encoder: MakeEncoder = DiagonalEncoder
    init: str | Any = "ica"
    prior: Prior = PRIORS["laplace"]
    learning_rate: float = 4e-3
    max_gradient_norm: float = 100.0

    def start(self, x: Tensor, generator: torch.Generator, sample_weight: Tensor | None = None) -> AdamState:
        """Return the state before learning, scaled to ``x`` (N, D), a sample of the data."""
        model = initial_model(x, self.n_components, self.init, self.prior, generator, sample_weight)
        amortized = AmortizedInference(self.encoder(x, model, generator).eval())
        return AdamState(
            RunningState(model, amortized, 2.0 * model.noise_variance.double()),
            amortized,
            torch.optim.Adam(
                [
                    {"params": list(amortized.encoder.parameters()), "factor": 1.0},
                    {"params": [nn.Parameter(model.dictionary.clone())], "factor": _DICTIONARY_RATE},
                ]
            ),
        )

    def step(
        self,
        state: AdamState,
        x: Tensor,
        weights: EntropyWeights,
        progress: float,
        scale: float = 1.0,
        sample_weight: Tensor | None = None,
    ) -> AdamState:
        """Return the state after one minibatch.

        Parameters
        ----------
        state : AdamState
        x : Tensor of shape (N, D)
            The minibatch.
        weights : EntropyWeights
            γ and δ.
        progress : float
            Share of the learning that is done, in [0, 1].
        scale : float
            Factor on the learning rates, for a minibatch smaller than the others.
        sample_weight : Tensor of shape (N,), optional
            Weights of the data points; one each by default.

        Raises
        ------
        InputError
            If the encoder returns something else than posteriors of these data.
        NumericalError
            If the objective, or something that the encoder returns, is not finite.
        """
        (dictionary,) = state.optimizer.param_groups[-1]["params"]
        rate = scale * _cosine(progress) * self.learning_rate
        batch = _ascend(
            state, x, unit_columns(dictionary), weights, rate, self.max_gradient_norm, sample_weight
        )
        with torch.no_grad():
            dictionary.copy_(unit_columns(dictionary))
            averages = state.running.average(batch, weights)
            return replace(state, running=state.running.follow(dictionary.detach().clone(), averages))


@final
@dataclass(frozen=True)
class RefinedEM:
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

    online_em: OnlineEM
    encoder: MakeEncoder = DiagonalEncoder
    learning_rate: float = 4e-3
    max_gradient_norm: float = 100.0

    def start(self, x: Tensor, generator: torch.Generator, sample_weight: Tensor | None = None) -> AdamState:
        """Return the state before learning, scaled to ``x`` (N, D), a sample of the data."""
        running = self.online_em.start(x, generator, sample_weight)
        amortized = AmortizedInference(self.encoder(x, running.model, generator).eval())
        return AdamState(
            replace(running, inference=RefinedInference(amortized, running.inference)),
            amortized,
            torch.optim.Adam([{"params": list(amortized.encoder.parameters()), "factor": 1.0}]),
        )

    def step(
        self,
        state: AdamState,
        x: Tensor,
        weights: EntropyWeights,
        progress: float,
        scale: float = 1.0,
        sample_weight: Tensor | None = None,
    ) -> AdamState:
        """Return the state after one minibatch; parameters and errors are those of :class:`AdamLearner`."""
        rate = scale * _cosine(progress) * self.learning_rate
        _ascend(state, x, state.model.dictionary, weights, rate, self.max_gradient_norm, sample_weight)
        return replace(
            state, running=self.online_em.step(state.running, x, weights, progress, scale, sample_weight)
        )


def _ascend(
    state: AdamState,
    x: Tensor,
    dictionary: Tensor,
    weights: EntropyWeights,
    rate: float,
    max_norm: float,
    sample_weight: Tensor | None,
) -> Statistics:
    """Take one step of Adam up the objective of a minibatch, and return its statistics."""
    encoder, model, optimizer = state.amortized.encoder, state.model, state.optimizer
    encoder.train()
    posterior = state.amortized.differentiable(x, model)
    batch = Statistics.collect(posterior, x, dictionary, model.prior, sample_weight)
    prior_scale = torch.maximum(optimal_scales(batch, model.prior)[0], state.running.scale_floor(weights))
    terms = entropy_elbo(batch, weights, model.prior)
    objective = replace(terms, prior=model.prior.entropy(prior_scale).sum()).objective
    if not bool(torch.isfinite(objective)):
        raise NumericalError(
            f"the objective of the encoder {type(encoder).__name__} is not finite; lower the learning rate, "
            "or scale the data to unit variance"
        )
    loss = -objective
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    optimizer.step()
    encoder.eval()
    return batch


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
