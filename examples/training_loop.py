"""
An encoder in a training loop of your own
=========================================

The entropy ELBO is a differentiable function of the posterior and of the dictionary. So any encoder and any
optimizer of PyTorch can be used with it. The prior scales λ and the noise variance σ² need no gradients,
because their optimum is known in closed form.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from entrosparse import (
    Diagonal,
    EntropyWeights,
    Laplace,
    Statistics,
    entropy_elbo,
    optimal_scales,
    unit_columns,
)
from entrosparse.images import default_images, prepare_images, random_patches

side, n_fields, n_steps = 10, 36, 1200
images = prepare_images(default_images())
x = torch.from_numpy(random_patches(images.arrays, side, 20_000, rng=0)[:])
heldout = torch.from_numpy(random_patches(images.arrays, side, 2000, rng=1)[:])

# %%
# The encoder is a small network with a connection past its hidden layer. It returns means and deviations of
# all codes.


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(side**2, n_fields)
        self.network = nn.Sequential(nn.Linear(side**2, 128), nn.GELU(), nn.Linear(128, 2 * n_fields))

    def forward(self, x):
        correction, log_scale = self.network(x).chunk(2, dim=1)
        return Diagonal(self.linear(x) + correction, (log_scale - 2.0).exp())


torch.manual_seed(0)
encoder = Encoder()
atoms = nn.Parameter(unit_columns(x[:n_fields].T))  # Data points are a better start than random numbers.
with torch.no_grad():
    encoder.linear.weight.copy_(atoms.T)
optimizer = torch.optim.Adam([{"params": encoder.parameters(), "lr": 2e-3}, {"params": [atoms], "lr": 2e-2}])
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)


def objective(x, weights):
    statistics = Statistics.collect(encoder(x), x, unit_columns(atoms), Laplace())
    return entropy_elbo(statistics, weights), statistics


# %%
# The weight δ of the likelihood entropy starts at 1/3 and comes up to 1, where the objective is the ELBO.

course = []
for step in range(n_steps):
    weights = EntropyWeights(likelihood=1.0 / max(1.0, 3.0 - 10.0 * step / n_steps))
    if step % 50 == 0:
        with torch.no_grad():
            terms, _ = objective(heldout, weights)
        course.append([step, terms.elbo, terms.posterior, terms.prior, terms.likelihood])
    batch = x[torch.randint(len(x), (256,))]
    loss = -objective(batch, weights)[0].objective
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

with torch.no_grad():
    terms, statistics = objective(heldout, EntropyWeights())
prior_scale, noise_variance = optimal_scales(statistics)
print(f"{terms.elbo:.1f} nats = {terms.posterior:.1f} − ({terms.prior:.1f}) − ({terms.likelihood:.1f})")
print(f"noise deviation {noise_variance**0.5:.3f}, largest prior scale {prior_scale.max():.2f}")

# %%
# The ELBO is the entropy of the posteriors minus those of prior and likelihood, all three on data that was
# held out.

step, elbo, *entropies = np.array(course).T
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.plot(step, elbo, color="black", label="ELBO", linewidth=2)
for values, name in zip(entropies, ("H[q(z)]", "H[p(z)]", "H[p(x|z)]"), strict=True):
    left.plot(step, values, label=name)
left.axvspan(0, n_steps / 5, color="gray", alpha=0.15, linewidth=0)
left.set(xlabel="step (δ < 1 where grey)", ylabel="nats per patch")
left.legend(frameon=False)

fields = unit_columns(atoms).detach().T[prior_scale.argsort(descending=True)].reshape(6, 6, side, side)
fields = fields / fields.abs().amax((2, 3), keepdim=True)
mosaic = nn.functional.pad(fields, (1, 1, 1, 1), value=1.0).permute(0, 2, 1, 3).reshape(6 * (side + 2), -1)
right.imshow(mosaic.numpy(), cmap="gray")
right.set_axis_off()
plt.show()
