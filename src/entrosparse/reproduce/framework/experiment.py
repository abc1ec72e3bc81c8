"""What an experiment is: a frozen configuration, ``run(config) -> Result``, and claims that it tests."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, final

from matplotlib.figure import Figure

from entrosparse.app import plots
from entrosparse.images import load_images
from entrosparse.model import SparseCodingModel


@dataclass(frozen=True)
class Config:
    """Settings that every experiment has; each adds its own.

    Attributes
    ----------
    seed : int
        Decides the data drawn and the start of learning.
    images : str or None
        Folder or file of the images that patches are cut from; by default the photographs that come with
        scikit-image. Experiments that make their own data do not look at it.
    """

    seed: int = 0
    images: str | None = None

    def validate(self) -> None:
        """Read the files that the settings name, so that a wrong one is known before any work starts.

        Raises
        ------
        InputError
            If one is missing or cannot be used.
        """
        if self.images is not None:
            load_images(self.images)


def at_scales(small: Config, smoke: Mapping[str, Any], **larger: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by scale: the small ones, and what changes in them for the others.

    Smoke takes some seconds, small some minutes on two cores. The larger ones are ``paper``, the sizes of the
    paper, and ``large`` for what is not in the paper; both take hours.
    """
    scales = {name: replace(small, **changes) for name, changes in larger.items()}
    return {"smoke": replace(small, **smoke), "small": small} | scales


@final
@dataclass(frozen=True)
class Claim:
    """One thing that the paper says, or that is expected where there is no paper, beside what was found.

    Attributes
    ----------
    statement : str
        What is said or expected, as a sentence without its full stop.
    ours : str
        The value found, with its unit.
    holds : bool
        Whether what was found agrees, computed from the numbers.
    paper : str
        The paper's value, with its unit; empty where it gives none.
    """

    statement: str
    ours: str
    holds: bool
    paper: str = ""


@final
@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    name : str
        What it is called in the result file.
    caption : str
        What it shows.
    columns : tuple of str
        Headings, with units.
    rows : tuple of tuple of str
        One text for each column.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def from_values(
        cls, name: str, caption: str, columns: Mapping[str, str], rows: Iterable[Sequence[object]]
    ) -> Self:
        """Write values as text, by the format of their column; None becomes a dash, and text stays as it is.

        `columns` are formats by heading, such as ``".2f"``; empty where the values are text.
        """
        texts = (tuple(map(_as_text, row, columns.values())) for row in rows)
        return cls(name, caption, tuple(columns), tuple(texts))


@final
@dataclass(frozen=True, eq=False)
class Picture:
    """A figure, or several that are leafed through with a slider.

    Attributes
    ----------
    name : str
        What its files are called.
    caption : str
        What it shows: N, H, epochs, seconds.
    frames : tuple of Figure
        One figure, or the frames.
    labels : tuple of str
        What each of several frames is, such as ``"epoch 3"``.
    """

    name: str
    caption: str
    frames: tuple[Figure, ...]
    labels: tuple[str, ...] = ("",)

    @classmethod
    def from_models(
        cls, name: str, caption: str, models: Mapping[str, SparseCodingModel], shape: tuple[int, int]
    ) -> Self:
        """Draw the generative fields of models in the order of their prior scales, a frame for each model."""
        frames = (plots.draw_fields(of.dictionary, of.prior_scale, shape) for of in models.values())
        return cls(name, caption, tuple(frames), tuple(models))


@final
@dataclass(frozen=True, eq=False)
class Result:
    """What an experiment found.

    Attributes
    ----------
    data : str
        Which data were used, in words.
    claims : tuple of Claim
        What the paper says or what is expected, and whether it holds here.
    pictures : tuple of Picture
        Figures.
    tables : tuple of Table
        Tables.
    numbers : mapping
        Everything measured, as it goes into ``result.json``: numbers, texts, lists and mappings of them.
    shared_seconds : float
        Seconds of the runs that are shown here and that another experiment had made already. They count in
        the seconds of this result too, so it does not matter which experiment came first.
    """

    data: str
    claims: tuple[Claim, ...]
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    shared_seconds: float = 0.0


@final
@dataclass(frozen=True)
class Experiment:
    """One figure or table of the paper, or one result beyond it, as a command.

    Attributes
    ----------
    title : str
        What it shows.
    configs : mapping of str to Config
        Settings by scale, as `at_scales` makes them.
    run : callable
        From a configuration to a `Result`.
    source : str
        Where it stands in the paper; empty for what goes beyond it.
    """

    title: str
    configs: Mapping[str, Any]
    run: Callable[[Any], Result]
    source: str = ""


def _as_text(value: object, form: str) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else format(value, form)
