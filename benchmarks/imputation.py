"""Missing values: 30 % of the pixels of patches are removed at random and imputed.

SparseCoding learns with diagonal covariances, its default, and with no more components than pixels. The last
row keeps its model, but infers the codes with full covariances: learning with them takes minutes here.

Every method sees only the damaged patches. Errors are root mean squares over the removed pixels, in units of
the standard deviation of an image. The last column is how far the squared error is below that of
IterativeImputer: its mean over the patches, with the standard error.
"""

import argparse
import time

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from threadpoolctl import threadpool_limits

from entrosparse import SparseCoding
from entrosparse.images import default_images, load_images, prepare_images, random_patches
from entrosparse.reproduce.shared.quiet_fits import quietly
from measuring import PHOTOGRAPHS

SHARE = 0.3
SIDE = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help=f"folder or file; {PHOTOGRAPHS} by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-patches", type=int, default=2000)
    parser.add_argument("--n-components", type=int, default=SIDE**2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    images = load_images(options.images) if options.images else default_images()
    arrays = prepare_images(images, whiten="none", gain=1.0).arrays
    X = random_patches(arrays, SIDE, options.n_patches, rng=0)[:].astype(np.float64)
    missing = np.random.default_rng(1).random(X.shape) < SHARE
    damaged = np.where(missing, np.nan, X)
    source = options.images or PHOTOGRAPHS
    print(
        f"{options.n_patches} patches of {SIDE} x {SIDE} from {source}, {missing.mean():.1%} of the pixels "
        f"removed, {options.n_components} components, {options.threads} thread(s)"
    )
    print(f"{'imputation':<34}{'RMSE':>8}{'seconds':>10}{'below IterativeImputer':>28}")
    baseline = None

    def run(name, impute):
        started = time.perf_counter()
        imputed = impute(damaged)
        seconds = time.perf_counter() - started
        squares = (np.where(missing, imputed - X, 0.0) ** 2).sum(1) / missing.sum() * len(X)
        row = f"{name:<34}{np.sqrt(squares.mean()):>8.4f}{seconds:>10.1f}"
        if baseline is not None:
            gain = baseline - squares
            row += f"{f'{gain.mean():.5f} ± {gain.std() / len(X) ** 0.5:.5f}':>28}"
        print(row, flush=True)
        return squares

    coding = SparseCoding(options.n_components, random_state=0)

    with quietly(ConvergenceWarning):  # Ten rounds are IterativeImputer's default.
        baseline = run("IterativeImputer, its defaults", IterativeImputer(random_state=0).fit_transform)
    run("column means", SimpleImputer().fit_transform)
    run("SparseCoding", lambda X: coding.inverse_transform(coding.fit_transform(X)))
    coding.set_params(covariance="full")
    run("... its model, full covariances", lambda X: coding.inverse_transform(coding.transform(X)))


if __name__ == "__main__":
    main()
