"""
Gabor fields from photographs
=============================

Sparse coding of whitened photographs finds localised, oriented fields, like the receptive fields of simple
cells in the primary visual cortex. Nothing is tuned here: prior scales and noise are learned with the
dictionary.
"""

import matplotlib.pyplot as plt
import numpy as np

from entrosparse import SparseCoding
from entrosparse.images import default_images, prepare_images, random_patches

# %%
# The six photographs come with scikit-image. Whitening flattens their spectrum, and 30,000 patches of 16 x
# 16 pixels are drawn at random places.

side = 16
images = prepare_images(default_images())
X = random_patches(images.arrays, side, 30_000, rng=0)[:]
coding = SparseCoding(n_components=100, max_epochs=6, random_state=0).fit(X)
print(f"{coding.elbo_:.1f} nats per patch, noise deviation {coding.noise_variance_**0.5:.3f}")

# %%
# The fields are sorted by their prior scale λ, which says how strong the codes of a field are.


def mosaic(fields, side, n_columns):
    """Lay fields side by side, each on its own grey scale around zero."""
    fields = fields / np.abs(fields).max(axis=1, keepdims=True)
    framed = np.pad(
        fields.reshape(-1, n_columns, side, side), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1
    )
    return framed.transpose(0, 2, 1, 3).reshape(-1, n_columns * (side + 2))


figure, axes = plt.subplots(figsize=(7, 7), layout="constrained")
axes.imshow(mosaic(coding.components_, side, 10), cmap="gray", vmin=-1, vmax=1)
axes.set_axis_off()
axes.set_title("100 generative fields")

# %%
# Each field has a place in its patch, an orientation and a spatial frequency. The place below is the centre
# of its energy, and the other two are where its amplitude spectrum is largest. The size of a mark grows
# with λ.

fields = coding.components_.reshape(-1, side, side)
energy = fields**2
rows, columns = np.mgrid[:side, :side]
places = np.stack([(energy * columns).sum((1, 2)), (energy * rows).sum((1, 2))])

padded = 64
spectrum = np.abs(np.fft.rfft2(fields, s=(padded, padded)))
down, right = np.unravel_index(spectrum.reshape(len(fields), -1).argmax(1), spectrum.shape[1:])
down = np.where(down > padded // 2, down - padded, down)
frequency, orientation = np.hypot(down, right) / padded, np.arctan2(right, down) % np.pi

figure = plt.figure(figsize=(9, 4.2), layout="constrained")
size = 120 * coding.prior_scale_ / coding.prior_scale_.max()
in_patch = figure.add_subplot(1, 2, 1, aspect="equal", xlim=(0, side - 1), ylim=(side - 1, 0))
in_patch.scatter(*places, s=size, c=orientation, cmap="twilight", alpha=0.85)
in_patch.set(title="Centre of each field", xlabel="column (pixels)", ylabel="row (pixels)")
in_spectrum = figure.add_subplot(1, 2, 2, projection="polar")
marks = in_spectrum.scatter(orientation, frequency, s=size, c=orientation, cmap="twilight", alpha=0.85)
in_spectrum.set(
    title="Orientation, and frequency in cycles per pixel",
    thetamax=180,
    ylim=(0, 0.45),
    yticks=[0.1, 0.2, 0.3, 0.4],
)
plt.show()
