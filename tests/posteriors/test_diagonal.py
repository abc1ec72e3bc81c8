import pytest
import torch
from scipy import stats

from entrosparse.posteriors import Diagonal


@pytest.fixture
def posterior(generator):
    mean = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return Diagonal(mean, 0.1 + torch.rand(3, 4, generator=generator, dtype=torch.float64))


def _distribution(posterior, n):
    return stats.multivariate_normal(posterior.mean[n].numpy(), posterior.covariance()[n].numpy())


def test_entropy_and_log_prob(posterior, generator):
    z = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    for n in range(3):
        distribution = _distribution(posterior, n)
        assert float(posterior.entropy()[n]) == pytest.approx(float(distribution.entropy()), rel=1e-12)
        assert float(posterior.log_prob(z)[n]) == pytest.approx(
            float(distribution.logpdf(z[n].numpy())), rel=1e-10
        )


def test_expected_residual_and_moments_match_the_covariance(posterior, generator):
    dictionary = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    covariance = posterior.covariance()
    reconstruction = dictionary @ covariance @ dictionary.T
    expected = (x - posterior.mean @ dictionary.T).square().sum(1) + torch.einsum("ndd->n", reconstruction)
    torch.testing.assert_close(posterior.expected_residual(dictionary, x), expected)
    torch.testing.assert_close(
        posterior.reconstruction_variance(dictionary), torch.diagonal(reconstruction, dim1=1, dim2=2)
    )
    outer = torch.einsum("nh,nk->nhk", posterior.mean, posterior.mean) + covariance
    torch.testing.assert_close(posterior.second_moment(weights), torch.einsum("n,nhk->hk", weights, outer))
    torch.testing.assert_close(posterior.marginal_scale(), torch.diagonal(covariance, dim1=1, dim2=2).sqrt())


def test_samples_have_the_moments(posterior, generator):
    n = 50_000
    z = posterior.sample(n, generator)
    deviation = posterior.marginal_scale()
    assert ((z.mean(0) - posterior.mean).abs() < 5 * deviation / n**0.5).all()
    assert ((z.var(0) / deviation.square() - 1).abs() < 5 * (2 / n) ** 0.5).all()
