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
from entrosparse.reproduce.framework import Claim, Experiment, Picture, Result, Table, at_scales
from entrosparse.reproduce.framework.patches import PAPER, PatchConfig, PatchData, draw_patches

_KEPT, _ELBO = "γ = 2", "γ = 1"
_COLOURS = {_KEPT: plots.ENTROPY_COLOURS["prior"], _ELBO: plots.ELBO_COLOUR}
_WATCHED = 64  # held-out patches whose ELBO is reported during learning
_NEAR_ZERO = 0.1  # λ below this share of the largest λ counts as near zero
_TEXTURE = 0.4  # cycles per pixel at which the whitening filter cuts off


@final
@dataclass(frozen=True, eq=False)
class _Learned:
    """A dictionary, judged by the posteriors of the objective that it was learned with."""

    dictionary: Tensor
    prior_scale: Tensor  # λ of Eq. 11
    localization: Tensor
    frequency: Tensor  # mean frequency of each field's power spectrum, in cycles per pixel
    means: Tensor  # ν, (N, H)
    n_dead: int
    elbo: float  # Eq. 15, with all but the dictionary at its optimum
    seconds: float

    @property
    def near_zero(self) -> Tensor:
        return self.prior_scale < _NEAR_ZERO * self.prior_scale.max()

    @property
    def texture(self) -> Tensor:
        return self.near_zero & (self.frequency > _TEXTURE)

    @property
    def texture_energy(self) -> float:
        """Share of the squared codes that belongs to textures."""
        energy = self.means.square().sum(0)
        return float(energy[self.texture].sum() / energy.sum())

    @property
    def gini(self) -> float:
        return float(gini(self.means).mean())

    @property
    def gini_in_use(self) -> float:
        """Mean Gini index over the latents whose λ is not near zero."""
        return float(gini(self.means[:, ~self.near_zero]).mean())

    def numbers(self) -> dict[str, Any]:
        """Return what goes into the result file."""
        return {
            "elbo": self.elbo,
            "gini": self.gini,
            "gini_in_use": self.gini_in_use,
            "near_zero": int(self.near_zero.sum()),
            "textures": int(self.texture.sum()),
            "texture_energy": self.texture_energy,
            "dead": self.n_dead,
            "median_localization": float(self.localization.median()),
            "seconds": self.seconds,
            "prior_scale": self.prior_scale.tolist(),
            "localization": self.localization.tolist(),
            "frequency": self.frequency.tolist(),
        }


def run(config: PatchConfig) -> Result:
    """Anneal the prior down to γ = 2, and to γ = 1, and compare the dictionaries."""
    data = draw_patches(config)
    schedules: dict[str, Schedule] = {_KEPT: _kept, _ELBO: prior_annealing}
    learned = {name: _learn(data, config, schedule) for name, schedule in schedules.items()}
    settings = f"{config.sizes}, {config.epochs} epochs"
    fields = tuple(
        Picture(
            f"fields-gamma-{name[-1]}",
            f"Generative fields after prior annealing to {name}, from the largest prior scale to the "
            f"smallest ({settings}, {found.seconds:.0f} s).",
            (plots.draw_fields(found.dictionary, found.prior_scale, config.shape),),
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
    return _Learned(
        dictionary=model.dictionary,
        prior_scale=turn.model.prior_scale,
        localization=localization(model.dictionary, config.shape),
        frequency=_frequency(model.dictionary, config.shape),
        means=turn.marginals.mean,
        n_dead=int(dead_latents(turn.marginals).sum()),
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
    h = len(elbo.prior_scale)
    near_zero = {name: int(found.near_zero.sum()) for name, found in learned.items()}
    textures = {name: int(found.texture.sum()) for name, found in learned.items()}
    medians = {name: float(found.localization.median()) for name, found in learned.items()}
    return (
        Claim(
            "with γ = 1 after annealing, more than half of the prior scales are close to zero",
            f"{near_zero[_ELBO]} of {h} below {_NEAR_ZERO:.0%} of the largest (γ = 2: {near_zero[_KEPT]})",
            near_zero[_ELBO] > h / 2,
            paper="more than 200 of 400",
        ),
        Claim(
            "approximately half of the fields are then high-frequency textures that contribute only "
            "marginally to the reconstruction",
            f"{textures[_ELBO]} of {h} have λ near zero and more than {_TEXTURE} cycles per pixel, with "
            f"{elbo.texture_energy:.1%} of the squared codes (γ = 2: {textures[_KEPT]})",
            1 / 3 < textures[_ELBO] / h < 2 / 3 and elbo.texture_energy < 0.1,
            paper="approximately half",
        ),
        Claim(
            "with γ kept at 2 the fields are localized",
            f"median localization {medians[_KEPT]:.2f} against {medians[_ELBO]:.2f} with γ = 1",
            medians[_KEPT] > medians[_ELBO],
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
                *(of.elbo, int(of.near_zero.sum()), of.n_dead, int(of.texture.sum()), of.texture_energy),
                *(float(of.localization.median()), of.gini, of.gini_in_use, of.seconds),
            )
            for name, of in learned.items()
        ],
    )


def _draw(learned: Mapping[str, _Learned]) -> Figure:
    figure, grid = plots.panels(3, len(learned), (9.0, 7.4))
    largest = max(float(found.prior_scale.max()) for found in learned.values())
    rows = {
        "prior_scale": ("prior scale λ (data units)", largest),
        "localization": ("localization", 1.0),
        "frequency": ("mean frequency (cycles per pixel)", 0.6),
    }
    for row, (measure, (label, end)) in enumerate(rows.items()):
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
