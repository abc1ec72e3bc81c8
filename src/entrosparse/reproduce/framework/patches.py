"""Experiments on natural image patches: their settings, and their data."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from entrosparse.images import default_images, load_images, prepare_images, split_patches
from entrosparse.learning import Learner, TrainingResult, train
from entrosparse.reproduce.framework.experiment import Config

SMOKE = {"n_heldout": 64, "n_components": 16, "patch_size": 8}
"""Sizes that the smoke scale of most experiments shares."""

PAPER = {"n_patches": 204_800, "n_heldout": 4_096, "epochs": 200}
"""Sizes of the paper."""


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

    @property
    def sizes(self) -> str:
        """The numbers of patches, pixels and latents, for captions."""
        return f"N = {self.n_patches:,}, D = {self.patch_size**2}, H = {self.n_components}"

    def train(
        self, learner: Learner, patches: np.ndarray, heldout: np.ndarray, **options: Any
    ) -> TrainingResult:
        """Learn from patches with the configured latents, epochs and seed; options go to `train`."""
        settings = {"n_components": self.n_components, "epochs": self.epochs, "seed": self.seed}
        return train(learner, patches, heldout, **(settings | options))


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
