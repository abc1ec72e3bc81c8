"""
A run from the command line, opened in Python
=============================================

``entrosparse fit`` learns from pictures and leaves a folder: the model, the history of every epoch, some
patches that were held out, and a page to look at. :func:`~entrosparse.load_run` reads it back.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from entrosparse import DiagonalInference, load_run

# %%
# Without a folder of pictures, the command takes the photographs that come with scikit-image. In a shell
# one would write ``entrosparse fit --n-components 64 ...``.

folder = Path(tempfile.mkdtemp()) / "run"
options = ["--n-components", "64", "--patch-size", "12", "--n-patches", "20000", "--epochs", "6"]
command = [sys.executable, "-m", "entrosparse", "fit", *options, "--out", str(folder)]
subprocess.run(command, check=True, capture_output=True)
print(*sorted(path.name for path in folder.iterdir()), sep="\n")

# %%
# The history has a record for each epoch. Epoch 0 is the state before learning.

run = load_run(folder)
print(f"{run.model.n_components} fields of {run.model.n_features} pixels, from:", *run.info.image_names)
for record in run.history:
    print(f"epoch {record.epoch}: ELBO {record.elbo:6.2f} nats per patch, Gini index {record.gini_mean:.2f}")

# %%
# The ELBO of held-out patches is a sum of three entropies, and here is how each of them moves while the
# model learns.

names = {"posterior_entropy": "H[q(z)]", "prior_entropy": "H[p(z)]", "likelihood_entropy": "H[p(x|z)]"}
epochs = [record.epoch for record in run.history]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(epochs, [record.elbo for record in run.history], color="black", marker="o")
left.set(xlabel="epoch", ylabel="ELBO (nats per patch)")
for name, label in names.items():
    values = np.array([getattr(record, name) for record in run.history])
    right.plot(epochs, values - values[0], marker="o", label=label)
right.axhline(0, color="gray", linewidth=0.8)
right.set(xlabel="epoch", ylabel="change of the entropy (nats per patch)")
right.legend(frameon=False)

# %%
# The model infers codes of any patches. Here are the held-out ones that the run has kept, and what their
# codes stand for.

posterior = DiagonalInference()(torch.from_numpy(run.examples), run.model)
restored = (posterior.mean @ run.model.dictionary.T).numpy()
side = int(run.model.n_features**0.5)
figure, axes = plt.subplots(2, len(restored), figsize=(10, 2), layout="constrained")
for column, pair in enumerate(zip(run.examples, restored, strict=True)):
    top = np.abs(pair[0]).max()
    for panel, patch in zip(axes[:, column], pair, strict=True):
        panel.imshow(patch.reshape(side, side), cmap="gray", vmin=-top, vmax=top)
        panel.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("patch")
axes[1, 0].set_ylabel("restored")

# %%
# The run folder has a picture of all fields too, which the page ``report.html`` shows with all the rest.

figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
axes.imshow(plt.imread(folder / "fields.png"))
axes.set_axis_off()
plt.show()
# sphinx_gallery_thumbnail_number = -1
