"""What an experiment is: a frozen configuration, ``run(config) -> Result``, and what the paper says of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from matplotlib.figure import Figure

from entrosparse.images import default_images, load_images, prepare_images, split_patches

SCALES = ("smoke", "small", "paper")
"""Sizes of all experiments: some seconds each; some minutes each on two cores; as in the paper."""


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


@dataclass(frozen=True)
class PatchConfig(Config):
    """Settings of experiments on natural image patches.

    Attributes
    ----------
    n_patches, n_heldout : int
        Patches to learn from, and to judge by.
    n_components : int
        Number of latents H.
    patch_size : int
        Side of a patch in pixels; D is its square.
    epochs : int
        Passes over the patches.
    """

    n_patches: int = 51_200
    n_heldout: int = 4_096
    n_components: int = 100
    patch_size: int = 16
    epochs: int = 10

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.patch_size, self.patch_size


@final
@dataclass(frozen=True, eq=False)
class PatchData:
    """Whitened patches, (N, D) float32 each.

    Attributes
    ----------
    train, heldout : ndarray
        Patches to learn from, and to judge by.
    words : str
        What they are, for captions.
    """

    train: np.ndarray
    heldout: np.ndarray
    words: str

    @property
    def test(self) -> torch.Tensor:
        """The held-out patches as a tensor."""
        return torch.from_numpy(self.heldout)


def draw_patches(config: PatchConfig) -> PatchData:
    """Cut the patches that the configuration asks for from whitened images.

    Raises
    ------
    FileFormatError
        If the images are missing or cannot be read.
    """
    images = default_images() if config.images is None else load_images(config.images)
    arrays = prepare_images(images).arrays
    side = config.patch_size
    train, heldout = split_patches(arrays, side, config.n_patches, config.n_heldout, config.seed)
    source = "the photographs that come with scikit-image" if config.images is None else config.images
    words = f"{len(train):,} patches of {side} x {side} pixels from {source}, {len(heldout):,} held out"
    return PatchData(train[:], heldout[:], words)


@final
@dataclass(frozen=True)
class Claim:
    """One thing that the paper says, beside what was found.

    Attributes
    ----------
    statement : str
        What the paper says, as a sentence without its full stop.
    paper : str
        The paper's value, with its unit; empty where it gives none.
    ours : str
        The value found, with its unit.
    holds : bool
        Whether what was found agrees, computed from the numbers.
    """

    statement: str
    paper: str
    ours: str
    holds: bool


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


@final
@dataclass(frozen=True, eq=False)
class Result:
    """What an experiment found.

    Attributes
    ----------
    data : str
        Which data were used, in words.
    claims : tuple of Claim
        What the paper says, and whether it holds here.
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
    """One figure or table of the paper, as a command.

    Attributes
    ----------
    title : str
        What it shows.
    source : str
        Where it stands in the paper.
    configs : mapping of str to Config
        Settings for each of `SCALES`.
    run : callable
        From a configuration to a `Result`.
    """

    title: str
    source: str
    configs: Mapping[str, Any]
    run: Callable[[Any], Result]
