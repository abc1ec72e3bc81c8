"""What the kinds of Gaussian noise share."""

from abc import ABC

import torch
from torch import Tensor

from entrosparse import closed_form
from entrosparse.likelihoods._likelihood import Likelihood


class GaussianNoise(Likelihood, ABC):
    """Gaussian noise; the statistic is the squared residual."""

    def optimal_variance(self, statistic: Tensor) -> Tensor:
        """Return the mean squared residual (Eq. 10)."""
        return statistic

    def entropy(self, noise_variance: Tensor, n_entries: Tensor) -> Tensor:
        """Return ``n/2 log 2πeσ²`` (Eq. 72), summed over features that have their own."""
        return self._summed(closed_form.isotropic_gaussian_entropy(noise_variance, n_entries))

    def expected_log_prob(self, statistic: Tensor, n_entries: Tensor | int, noise_variance: Tensor) -> Tensor:
        """Return ``−½ (n log 2πσ² + E‖x − Wz‖² / σ²)``, summed over features that have their own."""
        log_normalizer = n_entries * (closed_form.LOG_2PI + noise_variance.log())
        return -0.5 * self._summed(log_normalizer + statistic / noise_variance)

    def sample(
        self, shape: tuple[int, int], noise_variance: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw normal noise."""
        dtype, device = noise_variance.dtype, noise_variance.device
        return noise_variance.sqrt() * torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def precision(self, noise_variance: Tensor) -> Tensor:
        """Return ``1/σ²``."""
        return noise_variance.reciprocal()

    def _summed(self, terms: Tensor) -> Tensor:
        return terms.sum(-1) if self.per_feature else terms
