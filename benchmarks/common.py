"""What the benchmarks share: data, the PCA dictionary they are compared with, and tables."""

import argparse

import numpy as np
import torch

from entrosparse.data import default_images, load_images, prepare_images, random_patches
from entrosparse.learning import evaluate
from entrosparse.learning.initialization import initial_model
from entrosparse.model import SparseCodingModel
from entrosparse.priors import PRIORS


def arguments(description: str, **defaults: int) -> argparse.Namespace:
    """Parse ``--images``, ``--threads`` and the integers named in ``defaults``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder or file; photographs that ship with scikit-image by default")
    for name, default in ({"threads": 1} | defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def patches(options: argparse.Namespace, n_patches: int, n_heldout: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw 16 x 16 patches to learn from and others to judge by."""
    images = load_images(options.images) if options.images else default_images()
    arrays = prepare_images(images).arrays
    data = random_patches(arrays, 16, n_patches, rng=0)[:]
    heldout = random_patches(arrays, 16, n_heldout, rng=1)[:]
    source = options.images or "photographs that ship with scikit-image"
    print(f"{n_patches} patches of 16 x 16 from {source}, {n_heldout} held out, {options.threads} thread(s)")
    return data, heldout


def with_dictionary(dictionary: np.ndarray, data: np.ndarray) -> SparseCodingModel:
    """Return a model with these atoms, scaled to the data."""
    sample = torch.from_numpy(data[:4096])
    return initial_model(
        sample, dictionary.shape[1], dictionary, PRIORS["laplace"], torch.Generator().manual_seed(0)
    )


def pca_elbo(data: np.ndarray, heldout: np.ndarray, n_components: int) -> float:
    """Held-out ELBO, with diagonal posteriors, of the leading principal directions as dictionary."""
    directions = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)[2][:n_components].T.copy()
    return float(evaluate(with_dictionary(directions, data), torch.from_numpy(heldout)).terms.elbo)
