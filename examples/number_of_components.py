"""
Choosing the number of components by the bound
==============================================

The score of :class:`~entrosparse.SparseCoding` is a lower bound on the log-likelihood of data. On data that
were not learned from, it can be compared between models, and so a grid search needs neither labels nor a
penalty to tune.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from entrosparse import SparseCoding
from entrosparse.images import default_images, prepare_images, random_patches

# %%
# **Data with a true number.** Eight random atoms with Laplace codes, and noise. The bound is highest at
# eight components: with fewer the model cannot explain the data, and more are paid for by their own
# entropies.

rng = np.random.default_rng(0)
X = rng.laplace(size=(600, 8)) @ rng.normal(size=(8, 20)) + rng.normal(size=(600, 20))
grid = {"n_components": [2, 4, 6, 8, 10]}
search = GridSearchCV(SparseCoding(tol=1e-2, random_state=0), grid, cv=2).fit(X)
print("best:", search.best_params_)

# %%
# **Photographs have none.** On whitened patches the bound rises until H reaches the number of pixels D, and
# the noise falls all the way. The whitening filters the highest frequencies away, so some directions of the
# data have almost no variance. Once H is at D or above, every direction can be explained, and the noise
# falls to nearly nothing. That gains nats and says little about structure. Choose H well below D, or by
# what the codes are for.

side = 6
images = prepare_images(default_images())
train = random_patches(images.arrays, side, 5000, rng=0)[:].astype(float)
heldout = random_patches(images.arrays, side, 300, rng=1)[:].astype(float)
numbers = [8, 20, 32, 36, 40]
models = [
    SparseCoding(H, algorithm="online", batch_size=128, max_epochs=8, random_state=0).fit(train)
    for H in numbers
]
bounds = [model.score(heldout) for model in models]
for H, model, bound in zip(numbers, models, bounds, strict=True):
    print(f"H = {H:2}: {bound:6.1f} nats per patch, noise deviation {model.noise_variance_**0.5:.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
mean, deviation = search.cv_results_["mean_test_score"], search.cv_results_["std_test_score"]
left.errorbar(grid["n_components"], mean, deviation, marker="o", markersize=4, capsize=3)
left.axvline(8, color="gray", linestyle=":")
left.set(title="Eight components are true", xlabel="components H", ylabel="held-out bound (nats)")
right.plot(numbers, bounds, marker="o", markersize=4)
right.axvline(side**2, color="gray", linestyle=":")
right.set(
    title="Photographs: H = D is dotted", xlabel="components H", ylabel="held-out bound (nats per patch)"
)
noise = right.twinx()
noise.semilogy(numbers, [model.noise_variance_**0.5 for model in models], color="C1", marker=".")
noise.set_ylabel("noise deviation", color="C1")

# %%
# Variances of the patches along their principal directions show why: the last ones are nearly empty.

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.semilogy(range(1, side**2 + 1), np.linalg.eigvalsh(np.cov(train.T))[::-1], marker=".")
axes.set(xlabel="principal direction", ylabel="variance")
plt.show()
