"""
A Gaussian VAE as a sum of three entropies
==========================================

The ELBO of a Gaussian variational autoencoder becomes a sum of three entropies where its learning stands
still (Damm et al., AISTATS 2023). Here a small one learns handwritten digits, and the two meet.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
x = torch.tensor(load_digits().data[:1000] / 16.0, dtype=torch.float32)
label = load_digits().target[:1000]
n_features, n_latents, width, n_steps = x.shape[1], 2, 64, 1500

# %%
# The encoder's last layers and the decoder's first layer are linear, so that a latent may change its unit
# freely.

trunk = nn.Sequential(nn.Linear(n_features, width), nn.Tanh())
to_mean, to_log_scale = nn.Linear(width, n_latents), nn.Linear(width, n_latents)
decoder = nn.Sequential(nn.Linear(n_latents, width), nn.Tanh(), nn.Linear(width, n_features))
log_variance = nn.Parameter(torch.tensor(-2.0))


def elbo_and_sum(n_samples=1):
    """Return the ELBO in nats per digit, by samples of z, and the sum of entropies."""
    hidden = trunk(x)
    mean, log_scale = to_mean(hidden), to_log_scale(hidden)
    z = mean + log_scale.exp() * torch.randn(n_samples, *mean.shape)
    residual = (x - decoder(z)).square().sum(2).mean()
    divergence = 0.5 * (mean.square() + (2.0 * log_scale).exp() - 1.0 - 2.0 * log_scale).sum(1).mean()
    noise = n_features * (math.log(2.0 * math.pi) + log_variance)
    elbo = -0.5 * (noise + residual / log_variance.exp()) - divergence
    posterior = log_scale.sum(1).mean() + 0.5 * n_latents * math.log(2.0 * math.pi * math.e)
    prior = 0.5 * n_latents * math.log(2.0 * math.pi * math.e)
    likelihood = 0.5 * (noise + n_features)
    return elbo, posterior - prior - likelihood


parameters = [*nn.ModuleList([trunk, to_mean, to_log_scale, decoder]).parameters(), log_variance]
optimizer = torch.optim.Adam(parameters, lr=0.02)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
course = []
for step in range(n_steps + 1):
    if step % 50 == 0:
        with torch.no_grad():
            course.append([step, *(float(value) for value in elbo_and_sum(n_samples=10))])
    optimizer.zero_grad()
    (-elbo_and_sum()[0]).backward()
    optimizer.step()
    schedule.step()

# %%
# Early on they differ by many nats, because neither σ² nor the units of the latents are at their optimum.

step, elbo, entropies = np.array(course).T
for index in (0, 1, 4, -1):
    print(f"step {step[index]:4.0f}: ELBO {elbo[index]:7.2f}, sum of entropies {entropies[index]:7.2f} nats")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
left.plot(step, elbo, label="ELBO")
left.plot(step, entropies, "--", label="sum of three entropies")
left.set(xlabel="step", ylabel="nats per digit", ylim=(-40, elbo.max() + 5))
left.legend(frameon=False)
with torch.no_grad():
    codes = to_mean(trunk(x)).numpy()
marks = right.scatter(*codes.T, c=label, cmap="tab10", s=8, vmin=-0.5, vmax=9.5)
right.set(xlabel="first latent", ylabel="second latent", title="Posterior means, by digit")
figure.colorbar(marks, ticks=range(10))

# %%
# The decoder draws what lies between the digits.

n_cells = 9
places = torch.linspace(-2.2, 2.2, n_cells)
grid = torch.stack(torch.meshgrid(places, places.flip(0), indexing="xy"), dim=-1).reshape(-1, n_latents)
with torch.no_grad():
    drawn = decoder(grid).reshape(n_cells, n_cells, 8, 8).permute(0, 2, 1, 3).reshape(8 * n_cells, -1)
figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
axes.imshow(drawn.numpy(), cmap="gray", vmin=0, vmax=1, extent=(-2.4, 2.4, -2.4, 2.4))
axes.set(xlabel="first latent", ylabel="second latent")
plt.show()
# sphinx_gallery_thumbnail_number = 2
