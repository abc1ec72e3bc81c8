"""Draw the generative model and the posterior, for three fields and one image."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from entrosparse import DiagonalInference, FullInference, SparseCodingModel

SIDE, SCALE, NOISE = 12, np.array([1.0, 0.7, 0.5]), 0.15
COLOURS = ("C0", "C1", "C2")


def gabor(row, column, angle, frequency=0.16, width=2.2):
    """Return a field of length 1."""
    y, x = np.mgrid[:SIDE, :SIDE]
    y, x = y - row, x - column
    wave = np.cos(2.0 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
    field = (np.exp(-(x**2 + y**2) / (2.0 * width**2)) * wave).ravel()
    return field / np.linalg.norm(field)


fields = np.stack([gabor(5, 5, 0.3), gabor(5.5, 5.5, 0.7), gabor(8, 8, 2.3)], axis=1)
codes = np.array([1.4, -0.9, 0.6])
image = fields @ codes + NOISE * np.random.default_rng(3).normal(size=SIDE**2)
model = SparseCodingModel(torch.tensor(fields), torch.tensor(SCALE), torch.tensor(NOISE**2))
full = FullInference()(torch.tensor(image)[None], model)
diagonal = DiagonalInference()(torch.tensor(image)[None], model)

figure = plt.figure(figsize=(10, 4.6), layout="constrained")
above, below = figure.subfigures(2, 1)
above.suptitle("generative model: from codes to an image")
below.suptitle("posterior: from the image back to the codes")
z = np.linspace(-3, 3, 601)


def show(axes, values, top):
    axes.imshow(values.reshape(SIDE, SIDE), cmap="gray", vmin=-top, vmax=top)
    axes.set(xticks=[], yticks=[])


panels = above.subplots(1, 7, width_ratios=[1.2, 1, 1, 1, 1, 1, 1])
for scale, code, colour in zip(SCALE, codes, COLOURS, strict=True):
    panels[0].plot(z, np.exp(-np.abs(z) / scale) / (2.0 * scale), color=colour)
    panels[0].plot(code, 0.0, "o", color=colour, clip_on=False)
panels[0].set(title="codes from p(z)", yticks=[], ylim=(0, 1.05))
for h, (panel, colour) in enumerate(zip(panels[1:4], COLOURS, strict=True)):
    show(panel, fields[:, h], 0.35)
    panel.set_title(f"{'+ ' if h else ''}{codes[h]:.1f} ×".replace("+ -", "− "), color=colour)
show(panels[4], fields @ codes, 0.5)
panels[4].set_title("=  W̃z")
show(panels[5], image - fields @ codes, 0.5)
panels[5].set_title("+  noise")
show(panels[6], image, 0.5)
panels[6].set_title("=  image x")

panels = below.subplots(1, 5, width_ratios=[0.9, 1.2, 1.2, 1.2, 1.2])
show(panels[0], image, 0.5)
panels[0].set_title("image x")
for h, (panel, colour) in enumerate(zip(panels[1:4], COLOURS, strict=True)):
    mean, deviation = float(full.mean[0, h]), float(full.marginal_scale()[0, h])
    q = np.exp(-0.5 * ((z - mean) / deviation) ** 2)
    panel.fill_between(z, q, color=colour, alpha=0.5, linewidth=0)
    panel.plot(z, np.exp(-np.abs(z) / SCALE[h]), color=colour)
    panel.axvline(codes[h], color="black", linestyle=":")
    panel.set(title=f"code {h + 1}", yticks=[], ylim=(0, 1.05))
angle = np.linspace(0.0, 2.0 * np.pi, 200)
circle = 2.0 * np.stack([np.cos(angle), np.sin(angle)])
for posterior, style, name in ((full, "-", "full"), (diagonal, "--", "diagonal")):
    root = np.linalg.cholesky(posterior.covariance()[0, :2, :2].numpy())
    panels[4].plot(
        *(posterior.mean[0, :2].numpy()[:, None] + root @ circle), style, color="black", label=name
    )
panels[4].plot(*codes[:2], "*", color="black")
panels[4].set(title="codes 1 and 2", xlabel="code 1", ylabel="code 2")
panels[4].margins(0.3)
panels[4].legend(frameon=False, fontsize=7)
