"""The history of a training run, and who is told of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from entrosparse.inference import Inference
from entrosparse.model import SparseCodingModel


@final
@dataclass(frozen=True)
class EpochRecord:
    """One row of the history; entropies and ELBO in nats per data point, at one λ and one σ².

    They are those of held-out rows at γ = δ = 1, with λ and σ² optimal for these rows, as far as a few turns
    find them: the ELBO may be a bit low, and is a bound for all that. Where no rows are held out, they are
    those of training rows (see :func:`~entrosparse.learning.train`).

    Attributes
    ----------
    epoch : int
        0 is the state before learning.
    seconds : float
        Time spent learning so far, the start included.
    samples_seen : int
        Data points learned from so far.
    elbo, posterior_entropy, prior_entropy, likelihood_entropy : float
        The ELBO and its three entropies.
    gamma, delta : float
        Weights γ and δ of the epoch.
    noise_variance : float
        σ² of the learned model; the geometric mean where features have variances of their own.
    gini_mean, gini_std : float
        Gini index of the posterior means: mean and standard deviation over the data points.
    dead_latents : int
        Number of latents that carry no information on the data.
    evaluation_seconds : float
        Time spent so far on the figures of this history, which is not in ``seconds``.
    """

    epoch: int
    seconds: float
    samples_seen: int
    elbo: float
    posterior_entropy: float
    prior_entropy: float
    likelihood_entropy: float
    gamma: float
    delta: float
    noise_variance: float
    gini_mean: float
    gini_std: float
    dead_latents: int
    evaluation_seconds: float = 0.0


def ends_below_start(history: Sequence[EpochRecord], by: float = 0.0) -> bool:
    """Return whether learning without annealing has come to an ELBO that is below that of its start."""
    first, last = history[0], history[-1]
    unchanged = all((record.gamma, record.delta) == (1.0, 1.0) for record in history)
    return unchanged and first.epoch == 0 and last.elbo < first.elbo - by


class Callback:
    """Watches a training run; the methods do nothing unless overridden."""

    def on_resume(self, history: Sequence[EpochRecord], samples_seen: int) -> None:
        """Be told of the epochs so far before learning goes on from a checkpoint."""

    def on_batch(self, samples_seen: int) -> None:
        """Be told after each batch."""

    def on_inference(self, inference: Inference) -> None:
        """Be told how posteriors are found, just before each :meth:`on_epoch` and for the model of it.

        An encoder is part of it, which further batches change.
        """

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> bool | None:
        """Be told before learning (epoch 0) and after each epoch; return True to end learning.

        The model is the one that would be kept now: the start, while learning is below it.
        """
