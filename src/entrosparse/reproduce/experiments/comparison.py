"""Dictionaries of photographs, up to 32 x 32 pixels in colour, beside those of other libraries."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from entrosparse.app import plots
from entrosparse.errors import InputError
from entrosparse.images import Image, default_images, load_images, split_patches
from entrosparse.learning import OnlineEM, evaluate, initial_model, train
from entrosparse.metrics import gini
from entrosparse.priors import Laplace
from entrosparse.reproduce.framework import Claim, Config, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.shared import peers
from entrosparse.reproduce.shared.peers import Learned
from entrosparse.reproduce.shared.quiet_fits import quietly

_OURS, _PCA, _ICA, _SCIKIT, _SPAMS = "entropy ELBO", "PCA", "FastICA", "scikit-learn", "SPAMS"
_SAMPLE, _WATCHED = 4096, 256  # patches for the first λ and σ²; held-out patches that learning reports on
_BATCH = 512  # patches per minibatch, of all that learn from minibatches
_LEVELS = 255  # steps of a pixel from black to white

_Array = NDArray[np.float32]
_Learn = Callable[[_Array, int], NDArray[Any]]  # from patches (N, D) and a seed to a dictionary (D, H)


@final
@dataclass(frozen=True)
class ComparisonConfig(Config):
    """Settings.

    Attributes
    ----------
    patch_sizes : tuple of int
        Sides of the patches in pixels; D is the square, and three times that in colour.
    n_patches, n_heldout : int
        Patches to learn from, and to judge by.
    n_components : int
        Number of latents H; of PCA and FastICA at most D.
    epochs, scikit_epochs : int
        Passes over the patches: of the entropy ELBO and of SPAMS; of scikit-learn, whose passes take longer.
    penalties : tuple of float
        Weights of the l1 norm to try, beside half the squared residual.
    n_active : tuple of int
        Numbers of active codes of which the reconstruction is judged, rising.
    n_runs : int
        Seeds of patches and learning.
    """

    patch_sizes: tuple[int, ...] = (8, 16, 32)
    n_patches: int = 4096
    n_heldout: int = 1024
    n_components: int = 100
    epochs: int = 10
    scikit_epochs: int = 1
    penalties: tuple[float, ...] = (0.01, 0.05, 0.25)
    n_active: tuple[int, ...] = (2, 5, 20)
    n_runs: int = 3

    def validate(self) -> None:
        """Read the images, so that wrong ones are known before any work starts.

        Raises
        ------
        InputError
            If they cannot be used, or one is smaller than the largest patches.
        """
        side = max(self.patch_sizes)
        for image in _images(self, "luma"):
            height, width = image.pixels.shape
            if min(height, width) < side:
                raise InputError(
                    f"the 'images' must be at least {side} x {side} pixels, as the largest patches; "
                    f"got '{image.name}' of {height} x {width}"
                )


@final
@dataclass(frozen=True)
class _Photographs:
    """Photographs as lists of channels: three in colour, or one."""

    channels: Sequence[Sequence[_Array]]
    level: float  # one step of a pixel
    words: str

    def patches(self, side: int, config: ComparisonConfig, seed: int) -> tuple[_Array, _Array]:
        """Draw patches to learn from and to judge by, without the mean patch; channels come one by one."""
        drawn = [split_patches(of, side, config.n_patches, config.n_heldout, seed) for of in self.channels]
        learned, judged = (np.hstack([part[:] for part in parts]) for parts in zip(*drawn, strict=True))
        return learned - learned.mean(0), judged - learned.mean(0)


@final
@dataclass(frozen=True)
class _Measured:
    """What a dictionary is worth on held-out patches, and how long it took to learn."""

    n_components: int
    bits: float  # per dimension, by the ELBO
    errors: Sequence[float]  # share of the variance that so many active codes leave
    gini: float
    seconds: float


_Runs = Mapping[str, Mapping[float | None, Sequence[_Measured]]]  # by method, penalty and run


def run(config: ComparisonConfig) -> Result:
    """Learn dictionaries of each size in each way, and judge all of them in the same way."""
    photographs = _read(config)
    n_channels = len(photographs.channels)
    learners = _learners(config)
    _warm_up()
    found: dict[int, _Runs] = {}
    for side in config.patch_sizes:
        runs: dict[str, dict[float | None, list[_Measured]]] = {}
        for seed in range(config.seed, config.seed + config.n_runs):
            data = photographs.patches(side, config, seed)
            for (method, penalty), learn in learners.items():
                learned = peers.learned(partial(learn, data[0], seed), seed)
                measured = _judge(learned, *data, photographs.level, config)
                runs.setdefault(method, {}).setdefault(penalty, []).append(measured)
                if method == _OURS:
                    fields = learned.dictionary.reshape(n_channels, side**2, -1).mean(0)
        found[n_channels * side**2] = runs
    settings = (
        f"N = {config.n_patches:,}, H = {config.n_components}, of PCA and FastICA at most D, "
        f"{config.n_runs} runs"
    )
    return Result(
        data=f"Patches of {photographs.words}, the mean patch taken away, {config.n_heldout:,} held out",
        claims=_claims(found, config),
        pictures=(
            Picture(
                "bits",
                "Bits per dimension by the ELBO on held-out patches, above those of PCA: less is better; "
                f"mean and deviation over the runs ({settings}). Penalties are the best for this measure. "
                "Penalties, λ and σ² are chosen on the same held-out patches, which overlap patches to learn "
                "from: bits compare dictionaries, and are not the length of a code.",
                (_draw_bits(found),),
            ),
            Picture(
                "errors",
                "Share of the variance that is left by so many active codes, found by orthogonal matching "
                f"pursuit ({settings}). Penalties are the best for each number, on the same patches.",
                (_draw_errors(found, config),),
            ),
            Picture(
                "fields",
                f"Generative fields of the entropy ELBO, {side} x {side} pixels: mean over the channels, "
                "from fields that are grey to fields whose channels cancel.",
                (plots.draw_fields(fields, np.linalg.norm(fields, axis=0), (side, side)),),
            ),
        ),
        tables=(_table(found, config),),
        numbers={
            str(n_features): {
                method: {str(penalty): [vars(one) for one in of] for penalty, of in by_penalty.items()}
                for method, by_penalty in runs.items()
            }
            for n_features, runs in found.items()
        },
    )


def _images(config: ComparisonConfig, channel: str) -> list[Image]:
    return default_images(channel) if config.images is None else load_images(config.images, channel)


def _read(config: ComparisonConfig) -> _Photographs:
    """Read the photographs in colour, or one channel if the three are equal."""
    channels = [[image.pixels for image in _images(config, name)] for name in ("red", "green", "blue")]
    grey = all(np.array_equal(red, other) for red, *others in zip(*channels, strict=True) for other in others)
    white = max(1.0, *(float(pixels.max()) for channel in channels for pixels in channel))
    source = "the photographs that come with scikit-image" if config.images is None else config.images
    words = f"{source}, in {'grey' if grey else 'colour'}"
    return _Photographs(channels[:1] if grey else channels, white / _LEVELS, words)


def _learners(config: ComparisonConfig) -> dict[tuple[str, float | None], _Learn]:
    """Return what learns a dictionary, by method and penalty."""
    h = config.n_components

    def entropies(x: _Array, seed: int) -> _Array:
        result = train(
            OnlineEM(), x, x[:_WATCHED], n_components=h, epochs=config.epochs, batch_size=_BATCH, seed=seed
        )
        return result.model.dictionary.numpy()

    def scikit(penalty: float) -> _Learn:
        return lambda x, seed: peers.scikit_learn(x, h, penalty, config.scikit_epochs, _BATCH, seed)

    def spams(penalty: float) -> _Learn:
        return lambda x, seed: peers.spams(x, h, penalty, math.ceil(config.epochs * len(x) / _BATCH), _BATCH)

    learners: dict[tuple[str, float | None], _Learn] = {
        (_OURS, None): entropies,
        (_PCA, None): lambda x, seed: peers.pca(x, h, seed),
        (_ICA, None): lambda x, seed: peers.fast_ica(x, h, seed=seed),
    }
    learners |= {(_SCIKIT, penalty): scikit(penalty) for penalty in config.penalties}
    if find_spec("spams") is not None:
        learners |= {(_SPAMS, penalty): spams(penalty) for penalty in config.penalties}
    return learners


def _warm_up() -> None:
    """Learn something small: what is imported and set up for the first run must not count in its seconds."""
    x = np.random.default_rng(0).laplace(size=(64, 4)).astype(np.float32)
    train(OnlineEM(), x, x, n_components=2, epochs=1)


def _judge(learned: Learned, x: _Array, heldout: _Array, level: float, config: ComparisonConfig) -> _Measured:
    """Find the ELBO of a dictionary with all else at its optimum, and errors by matching pursuit."""
    from sklearn.linear_model import orthogonal_mp_gram

    dictionary, n_components = learned.dictionary, learned.dictionary.shape[1]
    start = initial_model(
        torch.from_numpy(x[:_SAMPLE]), n_components, dictionary, Laplace(), torch.Generator()
    )
    turn = evaluate(start, torch.from_numpy(heldout))
    errors = []
    for n_active in config.n_active:
        with quietly(RuntimeWarning):  # Atoms may be dependent.
            codes = orthogonal_mp_gram(
                dictionary.T @ dictionary,
                dictionary.T @ heldout.T,
                n_nonzero_coefs=min(n_active, n_components),
            )
        errors.append(float(np.square(heldout.T - dictionary @ codes).mean() / np.square(heldout).mean()))
    return _Measured(
        n_components=n_components,
        bits=-(float(turn.terms.elbo) / heldout.shape[1] + math.log(level)) / math.log(2.0),
        errors=errors,
        gini=float(gini(turn.marginals.mean).mean()),
        seconds=learned.seconds,
    )


def _best(
    by_penalty: Mapping[float | None, Sequence[_Measured]], value: Callable[[_Measured], float]
) -> tuple[float | None, NDArray[np.float64]]:
    """Return the penalty with the least mean of a value over the runs, and its values."""
    values = {penalty: np.array([value(one) for one in of]) for penalty, of in by_penalty.items()}
    best = min(values, key=lambda penalty: values[penalty].mean())
    return best, values[best]


def _bits(one: _Measured) -> float:
    return one.bits


def _error(place: int) -> Callable[[_Measured], float]:
    return lambda one: one.errors[place]


def _claims(found: Mapping[int, _Runs], config: ComparisonConfig) -> tuple[Claim, ...]:
    places = range(len(config.n_active))
    bits = {d: _beside(runs, _bits) for d, runs in found.items()}
    errors = {(d, k): _beside(runs, _error(k)) for d, runs in found.items() for k in places}
    sparse = {d: _beside(runs, lambda one: -one.gini) for d, runs in found.items()}
    seconds = {d: _seconds(runs) for d, runs in found.items()}
    return (
        Claim(
            "the dictionary of the entropy ELBO takes the fewest bits per dimension, with no penalty to tune",
            "; ".join(f"D = {d:,}: {ours:.3f}, {peer} {best:.3f}" for d, (ours, peer, best) in bits.items()),
            all(ours < best for ours, _, best in bits.values()),
        ),
        Claim(
            "with equal numbers of active codes it leaves no larger an error than the best of the others",
            "; ".join(
                f"D = {d:,}, {config.n_active[k]} active: {ours:.1%}, {peer} {best:.1%}"
                for (d, k), (ours, peer, best) in errors.items()
            ),
            all(ours <= best for ours, _, best in errors.values()),
        ),
        Claim(
            "its codes (posterior means) have the highest Gini index",
            "; ".join(
                f"D = {d:,}: {-ours:.2f}, {peer} {-best:.2f}" for d, (ours, peer, best) in sparse.items()
            ),
            all(ours < best for ours, _, best in sparse.values()),
        ),
        Claim(
            "it is learned before a library with penalties has tried them all",
            "; ".join(
                f"D = {d:,}: {of.pop(_OURS):.0f} s, {', '.join(f'{m} {s:.0f} s' for m, s in of.items())}"
                for d, of in ((d, dict(of)) for d, of in seconds.items())
            ),
            all(of[_OURS] == min(of.values()) for of in seconds.values()),
        ),
    )


def _beside(runs: _Runs, value: Callable[[_Measured], float]) -> tuple[float, str, float]:
    """Return our mean of a value that should be small, and the best of the others with its name."""
    means = {method: float(_best(of, value)[1].mean()) for method, of in runs.items()}
    ours = means.pop(_OURS)
    peer = min(means, key=means.__getitem__)
    return ours, peer, means[peer]


def _seconds(runs: _Runs) -> dict[str, float]:
    """Return the mean seconds of one run with all penalties: ours, and of methods that have penalties."""
    return {
        method: float(sum(np.mean([one.seconds for one in of]) for of in by_penalty.values()))
        for method, by_penalty in runs.items()
        if method == _OURS or None not in by_penalty
    }


def _table(found: Mapping[int, _Runs], config: ComparisonConfig) -> Table:
    rows = []
    for n_features, runs in found.items():
        for method, by_penalty in runs.items():
            penalty, bits = _best(by_penalty, _bits)
            shown = by_penalty[penalty]
            rows.append(
                (
                    f"{n_features:,}",
                    method,
                    shown[0].n_components,
                    penalty,
                    f"{bits.mean():.3f} ± {bits.std():.3f}",
                    *(np.mean([one.errors[k] for one in shown]) for k in range(len(config.n_active))),
                    np.mean([one.gini for one in shown]),
                    np.mean([one.seconds for one in shown]),
                )
            )
    return Table.from_values(
        "methods",
        "Means over the runs, with the penalty that is best for the bits. Bits are those of pixels with "
        f"{_LEVELS} steps. Errors are shares of the variance that so many active codes leave, or all codes "
        "where there are fewer.",
        {"D": "", "method": "", "H": "d", "penalty": "g", "bits per dimension": ""}
        | {f"error, {n} active": ".1%" for n in config.n_active}
        | {"Gini": ".3f", "seconds": ".1f"},
        rows,
    )


def _draw_bits(found: Mapping[int, _Runs]) -> Figure:
    figure, (axes,) = plots.panels(1, 1, (7.0, 3.8))
    methods = list(next(iter(found.values())))
    for shift, (method, colour) in enumerate(zip(methods, plots.PALETTE, strict=False)):
        above = [_best(of[method], _bits)[1] - _best(of[_PCA], _bits)[1] for of in found.values()]
        places = np.arange(len(found)) + 0.12 * (shift - 0.5 * (len(methods) - 1))
        means, deviations = [values.mean() for values in above], [values.std() for values in above]
        axes.errorbar(places, means, yerr=deviations, fmt="o", color=colour, capsize=3, label=method)
    axes.axhline(0.0, color=plots.PAPER_COLOUR, linewidth=1)
    axes.set_xticks(range(len(found)), [f"D = {d:,}" for d in found])
    axes.set_yscale("symlog", linthresh=0.05)
    axes.margins(y=0.1)
    axes.set_ylabel("bits per dimension above PCA")
    plots.add_legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _draw_errors(found: Mapping[int, _Runs], config: ComparisonConfig) -> Figure:
    figure, grid = plots.panels(1, len(found), (3.6 * len(found), 3.6))
    for axes, (n_features, runs) in zip(grid, found.items(), strict=True):
        for (method, of), colour in zip(runs.items(), plots.PALETTE, strict=False):
            errors = [_best(of, _error(k))[1].mean() for k in range(len(config.n_active))]
            axes.plot(config.n_active, errors, "o-", color=colour, label=method)
        axes.set(xscale="log", yscale="log", xlabel="active codes")
        axes.set_xticks(config.n_active, [str(n) for n in config.n_active])
        axes.minorticks_off()
        plots.add_title(axes, f"D = {n_features:,}")
    grid[0].set_ylabel("share of the variance that is left")
    plots.add_legend(grid[0])
    return figure


EXPERIMENT = Experiment(
    title="Photographs in colour, beside other libraries",
    configs=at_scales(
        ComparisonConfig(),
        smoke={
            "patch_sizes": (4, 6),
            "n_patches": 512,
            "n_heldout": 64,
            "n_components": 12,
            "epochs": 1,
            "penalties": (0.1, 0.3),
            "n_active": (1, 4),
            "n_runs": 1,
        },
        large={"n_patches": 51_200, "n_components": 400, "penalties": (0.003, 0.01, 0.03, 0.1, 0.3)},
    ),
    run=run,
)
