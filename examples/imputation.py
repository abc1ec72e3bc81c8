"""
Missing pixels, beside IterativeImputer
=======================================

Entries that are NaN are data not seen: learning, codes and scores use the others. So a model can be learned
from damaged data alone, and the codes that it finds fill the gaps. scikit-learn's ``IterativeImputer``
regresses each column on the others in turn, and is the comparison here.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer

from entrosparse import SparseCoding
from entrosparse.images import default_images, prepare_images, random_patches

# %%
# Photographs as they are, not whitened, in patches of 8 x 8 pixels. Of all pixels 30 % are removed at
# random.

side = 8
images = prepare_images(default_images(), whiten="none", gain=1.0)
X = random_patches(images.arrays, side, 1000, rng=2)[:].astype(float)
missing = np.random.default_rng(1).random(X.shape) < 0.3
damaged = np.where(missing, np.nan, X)

# %%
# The codes of damaged patches are inferred with full covariances once the model is learned. Learning with
# them would take longer.

coding = SparseCoding(n_components=48, max_epochs=40, tol=0.0, random_state=0)


def by_sparse_coding(damaged):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 40 iterations are enough here
        coding.set_params(covariance="diagonal").fit(damaged)
    return coding.inverse_transform(coding.set_params(covariance="full").transform(damaged))


def by_iterative_imputer(damaged):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are its default
        return IterativeImputer(random_state=0).fit_transform(damaged)


methods = {
    "column means": SimpleImputer().fit_transform,
    "IterativeImputer": by_iterative_imputer,
    "SparseCoding": by_sparse_coding,
}
imputed = {}
for name, impute in methods.items():
    started = time.perf_counter()
    imputed[name] = np.where(missing, impute(damaged), X)
    error = np.sqrt(((imputed[name] - X)[missing] ** 2).mean())
    print(f"{name:<18} RMSE {error:.3f} in {time.perf_counter() - started:4.1f} s")

# %%
# The eight patches with the most contrast among the first hundred. Removed pixels are blue.

shown = np.argsort(-X[:100].std(axis=1))[:8]
rows = {"patch": X, "damaged": damaged, **{name: imputed[name] for name in list(methods)[1:]}}
figure, axes = plt.subplots(len(rows), len(shown), figsize=(9, 5.4), layout="constrained")
colours = plt.get_cmap("gray").with_extremes(bad="steelblue")
for line, (name, patches) in zip(axes, rows.items(), strict=True):
    for panel, index in zip(line, shown, strict=True):
        low, high = X[index].min(), X[index].max()
        panel.imshow(patches[index].reshape(side, side), cmap=colours, vmin=low, vmax=high)
        panel.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=8)
plt.show()
