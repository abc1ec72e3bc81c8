"""
The shape of sparsity
=====================

The Laplace prior is one choice among many. The generalized Gaussian prior has the energy ``|z|^p / pλ^p``:
p = 1 is the Laplace prior, p = 2 a Gaussian, and below 1 the codes are sparser still. With
``prior="generalized-gaussian"`` each latent learns its own p from the data.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from entrosparse import SparseCoding
from entrosparse.images import default_images, prepare_images, random_patches

# %%
# **Does it find the right shape?** Codes of three known shapes are drawn, and mixed by six random atoms.

rng = np.random.default_rng(0)
true_shape = np.repeat([0.5, 1.0, 2.0], 2)
codes = np.stack([stats.gennorm.rvs(p, size=2000, random_state=rng) for p in true_shape], axis=1)
codes /= codes.std(axis=0)
atoms = np.linalg.qr(rng.normal(size=(12, 6)))[0].T
X = codes @ atoms + 0.1 * rng.normal(size=(2000, 12))
coding = SparseCoding(6, prior="generalized-gaussian", tol=1e-2, random_state=0).fit(X)
nearest = np.abs(coding.components_ @ atoms.T).argmax(axis=0)
print("true shapes:   ", *(f"{p:5.2f}" for p in true_shape))
print("learned shapes:", *(f"{p:5.2f}" for p in coding.prior_shape_[nearest]))

# %%
# **Photographs.** Fields of whitened patches are sparser than a Laplace prior has it, and the bound rises.

side = 12
images = prepare_images(default_images())
train = random_patches(images.arrays, side, 10_000, rng=0)[:]
heldout = random_patches(images.arrays, side, 2000, rng=1)[:]
settings = {"algorithm": "online", "max_epochs": 5, "random_state": 0}
laplace = SparseCoding(48, **settings).fit(train)
learned = SparseCoding(48, prior="generalized-gaussian", **settings).fit(train)
for name, model in (("Laplace", laplace), ("learned shapes", learned)):
    print(f"{name:<15} {model.score(heldout):6.2f} nats per patch")

order = np.argsort(learned.prior_shape_)
figure = plt.figure(figsize=(9, 4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
axes = left.subplots()
axes.hist(learned.prior_shape_, bins=20, color="C1", rwidth=0.9)
axes.axvline(1, color="gray", linestyle=":")
axes.set(xlabel="learned shape p (1 is Laplace, dotted)", ylabel="number of fields")
for panel, index in zip(right.subplots(4, 5).flat, [*order[:10], *order[-10:]], strict=True):
    field = learned.components_[index]
    panel.imshow(field.reshape(side, side), cmap="gray", vmin=-np.abs(field).max(), vmax=np.abs(field).max())
    panel.set_title(f"{learned.prior_shape_[index]:.2f}", fontsize=7)
    panel.set_axis_off()
right.suptitle("Fields of the smallest and the largest p", fontsize=9)

# %%
# Three of these priors, at the same deviation, show what the shape means.

z = np.linspace(-5, 5, 801)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for p in (0.5, 1.0, 2.0):
    prior = stats.gennorm(p)
    axes.semilogy(z, prior.std() * prior.pdf(z * prior.std()), label=f"p = {p}")
axes.set(xlabel="code, in deviations", ylabel="density", ylim=(1e-4, 4))
axes.legend(frameon=False)
plt.show()
