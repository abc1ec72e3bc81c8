"""
Digits with uncertainty for each pixel
======================================

The posterior of the codes tells how sure a reconstruction is, pixel by pixel. It matters most where pixels
are missing. Here the lower three rows of each digit are hidden, and the model says what may be there.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from entrosparse import SparseCoding

X, label = load_digits(return_X_y=True)
train, test = X[:1500], X[1500:]
coding = SparseCoding(n_components=32, covariance="full", tol=3e-2, random_state=0).fit(train)

# %%
# Entries that are NaN are data not seen. The variance of a pixel is that of ``W z`` under the posterior,
# ``W T Wᵀ``, and that of the noise.

chosen = np.array([np.flatnonzero(label[1500:] == digit)[0] for digit in range(8)])
seen = test[chosen].reshape(-1, 8, 8).copy()
seen[:, 5:] = np.nan
posterior = coding.posterior(seen.reshape(-1, 64))
restored = coding.inverse_transform(posterior.mean.numpy())
spread = posterior.reconstruction_variance(torch.as_tensor(coding.components_.T)).numpy()
deviation = np.sqrt(spread + coding.noise_variance_)

hidden = np.isnan(seen).reshape(-1, 64)
print(f"mean deviation: hidden pixels {deviation[hidden].mean():.2f}, others {deviation[~hidden].mean():.2f}")

figure, axes = plt.subplots(4, 8, figsize=(9, 5), layout="constrained")
rows = {
    "digit": test[chosen],
    "seen": seen.reshape(-1, 64),
    "restored": restored,
    "deviation": deviation,
}
for line, (name, values) in zip(axes, rows.items(), strict=True):
    top = deviation.max() if name == "deviation" else 16
    for panel, image in zip(line, values, strict=True):
        colours = plt.get_cmap("magma" if name == "deviation" else "gray").with_extremes(bad="steelblue")
        panel.imshow(image.reshape(8, 8), cmap=colours, vmin=0, vmax=top)
        panel.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)

# %%
# Draws from the posterior show the same in another way: above they agree, below they differ.

draws = posterior.sample(5)[:, 3].numpy()
figure, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
axes[0].imshow(test[chosen[3]].reshape(8, 8), cmap="gray", vmin=0, vmax=16)
axes[0].set_title("digit")
for number, (panel, image) in enumerate(zip(axes[1:], coding.inverse_transform(draws), strict=True), 1):
    panel.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=16)
    panel.set_title(f"draw {number}")
for panel in axes:
    panel.set(xticks=[], yticks=[])
plt.show()
