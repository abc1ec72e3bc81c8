"""The headline numbers of a run, as text."""

import math
from collections.abc import Sequence
from textwrap import shorten

from entrosparse._files import printable
from entrosparse.app.runs import Run
from entrosparse.model import SparseCodingModel

# Where posteriors come from, in words.
_ORIGINS = {
    "variational": "optimized one by one",
    "encoder": "from an encoder",
    "refined": "from an encoder, and then refined",
}


def summarise(run: Run) -> dict[str, str]:
    """Return the headline numbers of a run as text, by name."""
    start, end = run.history[0], run.history[-1]
    dimension, n_components = run.model.dictionary.shape
    config, one = run.info.config, run.info.config.data_point
    side = f"{config.patch_size} x {config.patch_size} pixels, D = {dimension}"
    return {
        "held-out ELBO": f"{end.elbo:.2f} nats per {one}",
        "bits per dimension": f"{-end.elbo / (dimension * math.log(2.0)):.3f}",
        "gained by learning": f"{end.elbo - start.elbo:.2f} nats per {one}",
        "generative fields": f"{n_components - end.dead_latents} in use of {n_components}",
        "dead latents": f"{end.dead_latents}",
        one: f"{dimension:,} columns" if config.rows else side,
        "posteriors": f"{config.covariance}, {_ORIGINS[config.inference]}",
        "prior": run.model.prior.name + _shapes_in_words(run.model),
        "noise": run.model.likelihood.name,
        "noise deviation": f"{end.noise_variance**0.5:#.4g} data units",
        "sparsity of the codes (Gini)": f"{end.gini_mean:.3f} ± {end.gini_std:.3f}",
        "epochs": f"{end.epoch}, converged" if run.info.converged else f"{end.epoch} of {config.epochs}",
        f"{config.data_points} seen": f"{end.samples_seen * config.passes:,}",
        "learning time": f"{end.seconds:.1f} s, and {end.evaluation_seconds:.1f} s for the figures",
    }


def listed(names: Sequence[str]) -> str:
    """Return names one after the other on a line that is not too long."""
    return shorten(printable(", ".join(names)), 200, placeholder=" ...")


def _shapes_in_words(model: SparseCodingModel) -> str:
    shape = model.prior_shape
    return "" if shape is None else f", shapes from {float(shape.min()):.2f} to {float(shape.max()):.2f}"
