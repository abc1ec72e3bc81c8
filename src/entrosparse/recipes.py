"""The one table of parts: what the names of covariances, priors, noise and ways of inference stand for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, final

import torch

from entrosparse.errors import InputError
from entrosparse.inference import (
    EXACT_LEARNING_SWEEPS,
    LEARNING_SWEEPS,
    DiagonalEncoder,
    DiagonalInference,
    ExactFactorialInference,
    FullInference,
    Inference,
    LowRankEncoder,
    LowRankInference,
)
from entrosparse.learning import AdamLearner, BatchEM, Learner, MakeEncoder, OnlineEM, RefinedEM
from entrosparse.likelihoods import LIKELIHOODS, Likelihood
from entrosparse.posteriors import Diagonal, ExactFactorial, Full, LowRank, Posterior
from entrosparse.priors import PRIORS, PriorFamily

# What suits a table, unless something else is asked for.
_MOST_COMPONENTS = 256
_MOST_BATCH_ROWS = 10_000  # Up to so many, every iteration sees all rows.
_BATCH_EPOCHS = 2000
_MINIBATCHES = 1000  # Of online learning.
TOLERANCE = 1e-3
"""Gain at which learning from all rows ends, in nats per data point and iteration."""

ALGORITHMS = ("auto", "batch", "online")
"""Ways to go through the rows: all in every iteration, minibatch by minibatch, or what suits their number."""


@final
@dataclass(frozen=True)
class Covariance:
    """What finds posteriors of one kind of covariance. All are given a rank; those that have one use it.

    Attributes
    ----------
    posterior : type
        What is found.
    learning : callable
        From the rank to a solver of a few iterations, which are enough while learning.
    final : callable
        From the rank and a dtype to a solver that goes on until codes are exact to that dtype.
    encoder : callable or None
        From the rank to what makes an encoder; None where there is none.
    gaussian_noise : bool
        Whether it is found under Gaussian noise alone.
    """

    posterior: type[Posterior]
    learning: Callable[[int], Inference]
    final: Callable[[int, torch.dtype], Inference]
    encoder: Callable[[int], MakeEncoder] | None = None
    gaussian_noise: bool = False


COVARIANCES = {
    "diagonal": Covariance(
        Diagonal,
        lambda rank: LEARNING_SWEEPS,
        lambda rank, dtype: DiagonalInference(tolerance=1e-4, max_iterations=20_000),
        lambda rank: DiagonalEncoder,
    ),
    "low-rank": Covariance(
        LowRank,
        lambda rank: LowRankInference(rank, tolerance=0.0, max_iterations=2),
        lambda rank, dtype: LowRankInference(rank, tolerance=1e-3, max_iterations=2000),
        lambda rank: partial(LowRankEncoder, rank=rank),
    ),
    "full": Covariance(
        Full,
        lambda rank: FullInference(tolerance=0.0, max_iterations=1),
        lambda rank, dtype: FullInference(1e-4 if dtype == torch.float32 else 1e-8, max_iterations=1000),
    ),
    "exact-factorial": Covariance(
        ExactFactorial,
        lambda rank: EXACT_LEARNING_SWEEPS,
        lambda rank, dtype: ExactFactorialInference(tolerance=1e-4, max_iterations=20_000),
        gaussian_noise=True,
    ),
}
"""Covariances of the posterior by name."""


@final
@dataclass(frozen=True)
class Recipe:
    """Which parts learn, infer and describe: names that the tables here know, or parts themselves.

    Attributes
    ----------
    covariance : str or Inference
        Key of :data:`COVARIANCES`, or the solver that finds posteriors, in learning and after it.
    rank : int
        Rank of the low-rank covariance; with fewer components, as many as there are.
    inference : str
        Key of :data:`INFERENCES`.
    prior : str or PriorFamily
        Key of :data:`~entrosparse.priors.PRIORS`, or a prior.
    noise : str or Likelihood
        Key of :data:`~entrosparse.likelihoods.LIKELIHOODS`, or a likelihood.
    """

    covariance: str | Inference = "diagonal"
    rank: int = 5
    inference: str = "variational"
    prior: str | PriorFamily = "laplace"
    noise: str | Likelihood = "isotropic"

    def validate(self) -> None:
        """Check that all names are known, and that the parts go together.

        Raises
        ------
        InputError
            With one line that names the parameter, what is expected and what came.
        """
        tables: dict[str, Mapping[str, Any]] = {
            "covariance": COVARIANCES,
            "inference": INFERENCES,
            "prior": PRIORS,
            "noise": LIKELIHOODS,
        }
        for name, table in tables.items():
            value = getattr(self, name)
            if isinstance(value, str) and value not in table:
                known = ", ".join(repr(key) for key in table)
                raise InputError(f"the '{name}' parameter must be one of {known}; got {value!r}")
        if self.rank < 1:
            raise InputError(f"the 'rank' parameter must be an integer >= 1; got {self.rank!r}")
        self.learner(1)

    @property
    def prior_part(self) -> PriorFamily:
        """The prior itself."""
        return PRIORS[self.prior] if isinstance(self.prior, str) else self.prior

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood itself."""
        return LIKELIHOODS[self.noise] if isinstance(self.noise, str) else self.noise

    def algorithm(self, wanted: str, n_rows: int, annealed: bool) -> str:
        """Return "batch" or "online": the one that is wanted, or for "auto" the one that suits so many rows.

        Raises
        ------
        InputError
            If it is unknown, or cannot be "batch", as there is an encoder.
        """
        if wanted not in ALGORITHMS:
            known = ", ".join(map(repr, ALGORITHMS))
            raise InputError(f"the 'algorithm' parameter must be one of {known}; got {wanted!r}")
        plain = self.inference == "variational"
        if wanted == "batch" and not plain:
            raise InputError(
                "the 'algorithm' parameter must be 'auto' or 'online' with an encoder; got 'batch'"
            )
        if wanted != "auto":
            return wanted
        return "batch" if plain and not annealed and n_rows <= _MOST_BATCH_ROWS else "online"

    def learner(self, n_components: int) -> Learner:
        """Return the learner of minibatches.

        Raises
        ------
        InputError
            If there is no encoder for the covariance.
        """
        return INFERENCES[self.inference](self, n_components)

    def batch_learner(self, n_components: int, tolerance: float, iterations: int = 1) -> BatchEM:
        """Return the learner of all rows at once, which infers without an encoder."""
        inference = self.learning_inference(n_components)
        return BatchEM(inference, tolerance=tolerance, iterations=iterations)

    def learning_inference(self, n_components: int) -> Inference:
        """Return the solver of a few iterations that learning uses.

        Raises
        ------
        InputError
            If there are no posteriors of this covariance under the prior or the noise.
        """
        if not isinstance(self.covariance, str):
            return self.covariance
        return self._covariance.learning(min(self.rank, n_components))

    def final_inference(self, n_components: int, dtype: torch.dtype) -> Inference:
        """Return the solver that finds codes once a model is learned, exact to the dtype of the data.

        Raises
        ------
        InputError
            If there are no posteriors of this covariance under the prior or the noise.
        """
        if not isinstance(self.covariance, str):
            return self.covariance
        return self._covariance.final(min(self.rank, n_components), dtype)

    @property
    def _covariance(self) -> Covariance:
        found = COVARIANCES[cast(str, self.covariance)]
        found.posterior.check_prior(self.prior_part)
        if found.gaussian_noise and not self.likelihood.quadratic:
            raise InputError(
                "the 'noise' parameter must be 'isotropic' or 'per-feature' for "
                f"covariance={self.covariance!r}; got {self.likelihood.name!r}"
            )
        return found

    def encoder(self, n_components: int) -> MakeEncoder | None:
        """Return what makes an encoder for the covariance, or None where there is none."""
        make = COVARIANCES[self.covariance].encoder if isinstance(self.covariance, str) else None
        return None if make is None else make(min(self.rank, n_components))


def default_components(n_features: int) -> int:
    """Return how many latents suit a table of so many columns, unless a number is given."""
    return min(n_features, _MOST_COMPONENTS)


def default_epochs(sees_all_rows: bool, n_rows: int, batch_size: int) -> int:
    """Return how many epochs suit so many rows, at most, unless a number is given."""
    if sees_all_rows:
        return _BATCH_EPOCHS
    return min(100, max(10, -(-_MINIBATCHES // -(-n_rows // batch_size))))


def _variational(recipe: Recipe, n_components: int) -> Learner:
    return OnlineEM(recipe.learning_inference(n_components))


def _encoder(recipe: Recipe, n_components: int) -> Learner:
    Diagonal.check_prior(recipe.prior_part)
    make = recipe.encoder(n_components)
    if make is None:
        known = " or ".join(repr(name) for name, parts in COVARIANCES.items() if parts.encoder)
        raise InputError(
            f"the 'covariance' parameter must be {known} for inference='encoder'; got "
            f"{recipe.covariance!r}, for which there is no encoder"
        )
    return AdamLearner(make)


def _refined(recipe: Recipe, n_components: int) -> Learner:
    Diagonal.check_prior(recipe.prior_part)
    online = OnlineEM(recipe.learning_inference(n_components))
    return RefinedEM(online, recipe.encoder(n_components) or DiagonalEncoder)


INFERENCES = {"variational": _variational, "encoder": _encoder, "refined": _refined}
"""Ways to find posteriors by name: each optimized, read from an encoder, or read and then refined."""
