"""The main job: seconds of learning, and the held-out ELBO above that of the PCA dictionary.

All runs learn from the same patches and are judged on the same held-out patches; `--images` names a folder or
file of photographs (by default those that ship with scikit-image).
"""

import argparse

import numpy as np
import torch

from entrosparse.data import default_images, load_images, prepare_images, random_patches
from entrosparse.learning import OnlineEM, evaluate, train
from entrosparse.learning.initialization import initial_model
from entrosparse.priors import Laplace


def pca_dictionary(x: np.ndarray, n_components: int) -> np.ndarray:
    """Leading principal directions of the rows of x, as columns."""
    return np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:n_components].T.copy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images")
    parser.add_argument("--n-patches", type=int, default=51_200)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    images = prepare_images(load_images(options.images) if options.images else default_images()).arrays
    data = random_patches(images, 16, options.n_patches, rng=0)[:]
    heldout = random_patches(images, 16, 4096, rng=1)[:]
    sample = torch.from_numpy(data[:4096])
    pca = initial_model(sample, 100, pca_dictionary(data, 100), Laplace(), torch.Generator())
    baseline = evaluate(pca, torch.from_numpy(heldout)).terms.elbo.item()

    source = options.images or "photographs that ship with scikit-image"
    print(f"{options.n_patches} patches of 16 x 16 from {source}, H = 100, {options.threads} thread(s)")
    print(f"{'learner':<24}{'epochs':>8}{'seconds':>10}{'ELBO':>10}{'above PCA':>12}{'Gini':>8}{'dead':>6}")
    print(f"{'PCA':<24}{'':>8}{'':>10}{baseline:>10.2f}{0:>12.2f}")
    for annealing in ("none", "prior", "likelihood", "tempering"):
        last = train(OnlineEM(100), data, heldout, epochs=options.epochs, annealing=annealing).history[-1]
        gain = last.elbo - baseline
        print(
            f"{'online EM, ' + annealing:<24}{options.epochs:>8}{last.seconds:>10.1f}{last.elbo:>10.2f}"
            f"{gain:>12.2f}{last.gini_mean:>8.3f}{last.dead_latents:>6}",
            flush=True,
        )


if __name__ == "__main__":
    main()
