"""
Outliers and Laplace noise
==========================

Gaussian noise takes a few wild pixels for structure, because large residuals cost it too much. Laplace
noise bears them. Here 5 % of the pixels of images of bars are replaced by values that have nothing to do
with the image.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from entrosparse import SparseCoding
from entrosparse.images import bars
from entrosparse.metrics import match_atoms

data = bars(1000, size=5, rng=0)
rng = np.random.default_rng(1)
wild = rng.random(data.data.shape) < 0.05
X = np.where(wild, rng.uniform(-15.0, 15.0, size=wild.shape), data.data)

# %%
# The same call with another ``noise``. What is printed is how alike each bar and its field are, by their
# cosine.

codings = {
    noise: SparseCoding(n_components=10, covariance="full", noise=noise, tol=1e-2, random_state=0).fit(X)
    for noise in ("isotropic", "laplace")
}
fields = {"true bars": data.dictionary.T}
for noise, coding in codings.items():
    match = match_atoms(torch.as_tensor(coding.components_.T), torch.as_tensor(data.dictionary))
    fields[f"{noise} noise"] = coding.components_[match.indices]
    cosine = match.cosine
    print(f"noise={noise!r:<12} mean |cosine| {cosine.mean():.3f}, least {cosine.min():.3f}")

figure, axes = plt.subplots(3, 10, figsize=(9, 3), layout="constrained")
for line, (name, images) in zip(axes, fields.items(), strict=True):
    for panel, image in zip(line, images, strict=True):
        top = np.abs(image).max()
        panel.imshow(image.reshape(5, 5) * np.sign(image.sum()), cmap="gray", vmin=-top, vmax=top)
        panel.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=8)

# %%
# The restored images show what the noise model is for: under Laplace noise the wild pixels leave hardly a
# trace.

shown = np.flatnonzero(wild.sum(1) == 2)[:8]
rows = {"before": data.data, "with outliers": X}
for noise, coding in codings.items():
    restored = coding.inverse_transform(coding.transform(X))
    rows[f"restored,\n{noise}"] = restored
    print(f"noise={noise!r:<12} error of restored images {np.sqrt(((restored - data.data) ** 2).mean()):.2f}")

figure, axes = plt.subplots(4, 8, figsize=(8, 4.2), layout="constrained")
for line, (name, images) in zip(axes, rows.items(), strict=True):
    for panel, index in zip(line, shown, strict=True):
        panel.imshow(images[index].reshape(5, 5), cmap="gray", vmin=-5, vmax=5)
        panel.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=8)
plt.show()
