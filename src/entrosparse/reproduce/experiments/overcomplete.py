"""Fig. 12, D.5: an overcomplete dictionary, learned with the prior entropy at weight 2, and at weight 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from entrosparse.annealing import EntropyWeights, Schedule, prior_annealing
from entrosparse.app import plots
from entrosparse.learning import OnlineEM, evaluate, take_turn
from entrosparse.metrics import dead_latents, gini, localization
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import PAPER, PatchConfig, PatchData, draw_patches

_KEPT, _ELBO = "γ = 2", "γ = 1"
_COLOURS = {_KEPT: plots.ENTROPY_COLOURS["prior"], _ELBO: plots.ELBO_COLOUR}
_WATCHED = 64  # held-out patches whose ELBO is reported during learning
_NEAR_ZERO = 0.1  # λ below this share of the largest λ counts as near zero
_DISTRIBUTIONS = ("prior_scale", "localization", "frequency")
_TEXTURE = 0.4  # cycles per pixel at which the whitening filter cuts off


@final
@dataclass(frozen=True, eq=False)
class _Learned:
    """A dictionary, judged by the posteriors of the objective that it was learned with."""

    model: SparseCodingModel
    prior_scale: Tensor  # λ of Eq. 11, (H,)
    localization: Tensor  # (H,)
    frequency: Tensor  # mean frequency of each field's power spectrum, in cycles per pixel, (H,)
    median_localization: float
    near_zero: int  # number of λ near zero
    textures: int  # number of those fields whose frequency is high
    texture_energy: float  # share of the squared codes that belongs to textures
    gini: float
    gini_in_use: float  # Gini index over the latents whose λ is not near zero
    dead: int  # latents without information
    elbo: float  # Eq. 15, with all but the dictionary at its optimum
    seconds: float

    def numbers(self) -> dict[str, Any]:
        """Return what goes into the result file."""
        values = {name: value for name, value in vars(self).items() if name != "model"}
        return values | {name: values[name].tolist() for name in _DISTRIBUTIONS}


def run(config: PatchConfig) -> Result:
    """Anneal the prior down to γ = 2, and to γ = 1, and compare the dictionaries."""
    data = draw_patches(config)
    schedules: dict[str, Schedule] = {_KEPT: _kept, _ELBO: prior_annealing}
    learned = {name: _learn(data, config, schedule) for name, schedule in schedules.items()}
    settings = f"{config.sizes}, {config.epochs} epochs"
    fields = tuple(
        Picture.from_models(
            f"fields-gamma-{name[-1]}",
            f"Generative fields after prior annealing to {name}, from the largest prior scale to the "
            f"smallest ({settings}, {found.seconds:.0f} s).",
            {"": found.model},
            config.shape,
        )
        for name, found in learned.items()
    )
    distributions = Picture(
        "distributions",
        "Prior scales by Eq. 11 from posteriors at the weight γ of learning, share of each field's energy in "
        "its best 5 x 5 pixels, and mean frequency of its power spectrum. Dashed: what is below "
        "counts as near zero, and if its frequency is above, as a texture. While γ > 1 learning uses no λ "
        f"below about half the root mean square of the data, or all would fall to zero ({settings}).",
        (_draw(learned),),
    )
    return Result(
        data=data.words,
        claims=_claims(learned),
        pictures=(*fields, distributions),
        tables=(_table(learned),),
        numbers={name: found.numbers() for name, found in learned.items()},
    )


def _kept(epoch: float) -> EntropyWeights:
    """Return the weights of prior annealing, but never γ below 2."""
    return EntropyWeights(prior=max(2.0, prior_annealing(epoch).prior))


def _learn(data: PatchData, config: PatchConfig, schedule: Schedule) -> _Learned:
    result = config.train(OnlineEM(), data.train, data.heldout[:_WATCHED], annealing=schedule)
    model = result.model
    turn = take_turn(data.test, model, result.inference, schedule(config.epochs))
    prior_scale, means = turn.model.prior_scale, turn.marginals.mean
    places = localization(model.dictionary, config.shape)
    frequency = _frequency(model.dictionary, config.shape)
    near_zero = prior_scale < _NEAR_ZERO * prior_scale.max()
    texture, energy = near_zero & (frequency > _TEXTURE), means.square().sum(0)
    return _Learned(
        model=turn.model,
        prior_scale=prior_scale,
        localization=places,
        frequency=frequency,
        median_localization=float(places.median()),
        near_zero=int(near_zero.sum()),
        textures=int(texture.sum()),
        texture_energy=float(energy[texture].sum() / energy.sum()),
        gini=float(gini(means).mean()),
        gini_in_use=float(gini(means[:, ~near_zero]).mean()),
        dead=int(dead_latents(turn.marginals).sum()),
        elbo=float(evaluate(model, data.test).terms.elbo),
        seconds=result.history[-1].seconds,
    )


def _frequency(dictionary: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the mean spatial frequency of each field, weighted by power, in cycles per pixel, shape (H,)."""
    power = torch.fft.fft2(dictionary.T.reshape(-1, *shape)).abs().square()
    vertical, horizontal = (torch.fft.fftfreq(side) for side in shape)
    radius = torch.hypot(vertical[:, None], horizontal[None, :])
    return (power * radius).sum((1, 2)) / power.sum((1, 2))


def _claims(learned: Mapping[str, _Learned]) -> tuple[Claim, ...]:
    kept, elbo = learned[_KEPT], learned[_ELBO]
    h = elbo.model.n_components
    return (
        Claim(
            "with γ = 1 after annealing, more than half of the prior scales are close to zero",
            f"{elbo.near_zero} of {h} below {_NEAR_ZERO:.0%} of the largest (γ = 2: {kept.near_zero})",
            elbo.near_zero > h / 2,
            paper="more than 200 of 400",
        ),
        Claim(
            "approximately half of the fields are then high-frequency textures that contribute only "
            "marginally to the reconstruction",
            f"{elbo.textures} of {h} have λ near zero and more than {_TEXTURE} cycles per pixel, with "
            f"{elbo.texture_energy:.1%} of the squared codes (γ = 2: {kept.textures})",
            1 / 3 < elbo.textures / h < 2 / 3 and elbo.texture_energy < 0.1,
            paper="approximately half",
        ),
        Claim(
            "with γ kept at 2 the fields are localized",
            f"median localization {kept.median_localization:.2f} against {elbo.median_localization:.2f} with "
            "γ = 1",
            kept.median_localization > elbo.median_localization,
            paper="localized Gabor-like fields",
        ),
        Claim(
            "with γ kept at 2 the codes are sparser",
            f"Gini {kept.gini:.3f} against {elbo.gini:.3f} with γ = 1, where λ near zero counts as silence; "
            f"over the other latents {kept.gini_in_use:.3f} against {elbo.gini_in_use:.3f}",
            kept.gini > elbo.gini,
            paper="significantly",
        ),
    )


def _table(learned: Mapping[str, _Learned]) -> Table:
    return Table.from_values(
        "dictionaries",
        "Held-out patches, with posteriors at the weight γ of learning; the ELBO has γ = 1, and all but the "
        "dictionary at its optimum.",
        {
            "learned with": "",
            "ELBO (nats)": ".2f",
            "λ near zero": "",
            "latents without information": "",
            "textures": "",
            "their share of the squared codes": ".1%",
            "localization, median": ".2f",
            "Gini of the codes": ".3f",
            "the same but for λ near zero": ".3f",
            "seconds": ".0f",
        },
        [
            (
                name,
                *(of.elbo, of.near_zero, of.dead, of.textures, of.texture_energy),
                *(of.median_localization, of.gini, of.gini_in_use, of.seconds),
            )
            for name, of in learned.items()
        ],
    )


def _draw(learned: Mapping[str, _Learned]) -> Figure:
    figure, grid = plots.panels(3, len(learned), (9.0, 7.4))
    largest = max(float(found.prior_scale.max()) for found in learned.values())
    labels = ("prior scale λ (data units)", "localization", "mean frequency (cycles per pixel)")
    rows = zip(_DISTRIBUTIONS, labels, (largest, 1.0, 0.6), strict=True)
    for row, (measure, label, end) in enumerate(rows):
        pair = grid[row * len(learned) : (row + 1) * len(learned)]
        for axes, (name, found) in zip(pair, learned.items(), strict=True):
            values = getattr(found, measure).numpy()
            axes.hist(values, np.linspace(0.0, end, 41).tolist(), color=_COLOURS[name], rwidth=0.9)
            axes.set_xlabel(label)
            plots.add_title(axes, name, _COLOURS[name])
        top = max(axes.get_ylim()[1] for axes in pair)
        for axes in pair:
            axes.set_ylim(0.0, top)
        pair[0].set_ylabel("number of fields")
    for column, found in enumerate(learned.values()):
        edge = _NEAR_ZERO * float(found.prior_scale.max())
        grid[column].axvline(edge, color=plots.PAPER_COLOUR, linestyle="--")
        grid[2 * len(learned) + column].axvline(_TEXTURE, color=plots.PAPER_COLOUR, linestyle="--")
    return figure


EXPERIMENT = Experiment(
    title="Overcomplete dictionaries: prior entropy at weight 2 and 1",
    source="Fig. 12, D.5",
    configs=at_scales(
        PatchConfig(n_patches=25_600, n_heldout=1024, n_components=400, epochs=16),
        smoke={"n_patches": 512, "n_heldout": 32, "n_components": 64, "patch_size": 6, "epochs": 6},
        paper=PAPER,
    ),
    run=run,
)
