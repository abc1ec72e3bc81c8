"""
Bars: a dictionary that is known
================================

Each image of 5 x 5 pixels is a sum of ten bars, of which every one has a strength drawn from a Laplace
distribution, and noise. Sparse coding gets only the images and should find the bars.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from entrosparse import SparseCoding
from entrosparse.images import bars
from entrosparse.metrics import match_atoms

data = bars(3000, size=5, rng=0)
figure, axes = plt.subplots(2, 10, figsize=(9, 2), layout="constrained")
for panel, image in zip(axes.flat, data.data, strict=False):
    panel.imshow(image.reshape(5, 5), cmap="gray", vmin=-3, vmax=3)
    panel.set_axis_off()
figure.suptitle("Twenty of the 3,000 images")

# %%
# Nothing in a single image shows that it is made of bars, because the strengths of all ten are different
# from zero. The full covariance keeps the correlations between codes of bars that cross.

coding = SparseCoding(n_components=10, covariance="full", tol=1e-3, random_state=0).fit(data.data)
match = match_atoms(torch.as_tensor(coding.components_.T), torch.as_tensor(data.dictionary))
print("least |cosine| between a bar and its field:", f"{match.cosine.min():.4f}")
print(f"noise deviation {coding.noise_variance_**0.5:.3f}, and 0.1 in the data")

# %%
# Signs and order of the fields are arbitrary. Here they stand in the order of the bars that they match.

figure, axes = plt.subplots(2, 10, figsize=(9, 2.2), layout="constrained")
for column, (bar, index) in enumerate(zip(data.dictionary.T, match.indices, strict=True)):
    for panel, field in zip(axes[:, column], (bar, coding.components_[index]), strict=True):
        panel.imshow(field.reshape(5, 5), cmap="gray", vmin=-0.45, vmax=0.45)
        panel.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("bar")
axes[1, 0].set_ylabel("field")

# %%
# The codes come with deviations. Of the true strengths of new images, nearly 95 % should lie within 1.96
# deviations of the mean; a few less do, because the deviations take the learned model for the true one.

new = bars(1000, size=5, rng=1)
posterior = coding.posterior(new.data)
order = match.indices.numpy()
length = np.linalg.norm(data.dictionary, axis=0)  # Fields have length 1, and bars have not.
sign = np.sign((coding.components_[order] * data.dictionary.T).sum(1))
mean = posterior.mean.numpy()[:, order] * sign / length
deviation = posterior.marginal_scale().numpy()[:, order] / length
inside = np.abs(mean - new.codes) < 1.96 * deviation
print(f"{inside.mean():.1%} of the true strengths are in their 95 % interval")

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
shown = np.argsort(new.codes[:60, 0])
axes.errorbar(
    range(60), mean[shown, 0], 1.96 * deviation[shown, 0], fmt="none", color="C0", label="95 % interval"
)
axes.plot(range(60), new.codes[shown, 0], ".", color="black", markersize=4, label="true strength")
axes.set(xlabel="60 new images, in the order of the strength", ylabel="strength of the first bar")
axes.legend(frameon=False)
plt.show()
# sphinx_gallery_thumbnail_number = 2
