"""One battery for every kind of posterior, against explicit covariance matrices."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

import documents
import oracles
from entrosparse.posteriors import Diagonal, Full, LowRank, Posterior
from kinds import KINDS, RANK, Kind

N, H, D = 3, 6, 7
DOCUMENTED = Kind(
    lambda h: {"mean": (h,), "log_scale": ()},
    lambda mean, log_scale: documents.module("docs/extending.md", 1).Isotropic(mean, (0.5 * log_scale).exp()),
)
ALL_KINDS = KINDS | {"of docs/extending.md": DOCUMENTED}
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 2e-4, "atol": 2e-5},
}


@pytest.fixture(params=ALL_KINDS)
def kind(request) -> Kind:
    return ALL_KINDS[request.param]


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def posterior(kind, generator, dtype) -> Posterior:
    return kind.make(**kind.parameters(N, H, generator, dtype))


@pytest.fixture
def draw(generator, dtype):
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture
def close(dtype):
    def check(value, expected):
        assert value.dtype == dtype
        torch.testing.assert_close(value, expected.to(dtype), **TOLERANCE[dtype])

    return check


def _covariance(posterior: Posterior) -> Tensor:
    """In float64, whatever the posterior has."""
    return posterior.covariance().double()


def test_covariance_is_symmetric_positive_and_of_the_sizes(posterior, close):
    covariance = _covariance(posterior)
    assert covariance.shape == (N, H, H)
    assert posterior.mean.shape == (N, H)
    assert len(posterior) == N
    torch.testing.assert_close(covariance, covariance.mT)
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    close(posterior.marginal_scale(), covariance.diagonal(dim1=1, dim2=2).sqrt())


def test_entropy_and_log_prob_are_those_of_scipy(posterior, draw, close):
    z = draw(2, N, H)
    entropy, log_prob = torch.empty(N).double(), torch.empty(2, N).double()
    for n in range(N):
        distribution = stats.multivariate_normal(
            posterior.mean[n].double().numpy(), _covariance(posterior)[n].numpy()
        )
        entropy[n] = float(distribution.entropy())
        log_prob[:, n] = torch.as_tensor(distribution.logpdf(z[:, n].double().numpy()))
    close(posterior.entropy(), entropy)
    close(posterior.log_prob(z), log_prob)
    close(posterior.log_prob(z[0]), log_prob[0])


def test_mahalanobis_is_the_inverse(posterior, draw, close):
    difference = draw(2, N, H)
    inverse = torch.linalg.inv(_covariance(posterior))
    wide = difference.double()
    close(posterior.mahalanobis(difference), torch.einsum("snh,nhk,snk->sn", wide, inverse, wide))


def test_quadratic_forms(posterior, draw, close):
    dictionary, x = draw(D, H), draw(N, D)
    covariance = _covariance(posterior)
    gram = dictionary.double().T @ dictionary.double()
    reconstruction = dictionary.double() @ covariance @ dictionary.double().T
    close(posterior.trace_with(dictionary.T @ dictionary), torch.einsum("hk,nkh->n", gram, covariance))
    close(posterior.reconstruction_variance(dictionary), reconstruction.diagonal(dim1=1, dim2=2))
    error = x.double() - posterior.mean.double() @ dictionary.double().T
    expected = error.square().sum(1) + reconstruction.diagonal(dim1=1, dim2=2).sum(1)
    close(posterior.expected_residual(dictionary, x), expected)


def test_weighted_sums(posterior, draw, close):
    sample_weight = draw(N).abs()
    covariance, mean = _covariance(posterior), posterior.mean.double()
    total = torch.einsum("n,nhk->hk", sample_weight.double(), covariance)
    close(posterior.weighted_covariance(sample_weight), total)
    outer = torch.einsum("n,nh,nk->hk", sample_weight.double(), mean, mean)
    close(posterior.second_moment(sample_weight), total + outer)


def test_samples_have_the_moments(posterior, generator, dtype):
    n = 20_000
    z = posterior.sample(n, generator)
    assert z.shape == (n, N, H)
    assert z.dtype == dtype
    difference = z.double() - posterior.mean.double()
    covariance = _covariance(posterior)
    variance = covariance.diagonal(dim1=1, dim2=2)
    assert (difference.mean(0).abs() < 5 * (variance / n).sqrt()).all()
    # the variance of a product of two normal variables is T_hh T_kk + T_hk²
    error = (variance[:, :, None] * variance[:, None, :] + covariance.square()) / n
    found = torch.einsum("snh,snk->nhk", difference, difference) / n
    assert ((found - covariance).abs() < 5 * error.sqrt()).all()


def test_samples_repeat_with_the_seed(posterior):
    first, again, other = (posterior.sample(2, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_parameter_gets_its_gradient(kind, generator):
    """From each method, against finite differences."""
    dtype = torch.float64
    parameters = kind.parameters(N, H, generator)
    sample_weight = torch.tensor([0.5, 2.0, 1.0], dtype=dtype)
    dictionary, x, z = (
        torch.randn(shape, generator=generator, dtype=dtype) for shape in ((D, H), (N, D), (N, H))
    )
    noise = torch.randn(2, N, kind.make(**parameters).noise_dimension, generator=generator, dtype=dtype)
    methods: dict[str, Callable[[Posterior], Tensor]] = {
        "marginal_scale": lambda q: q.marginal_scale(),
        "entropy": lambda q: q.entropy(),
        "weighted_covariance": lambda q: q.weighted_covariance(sample_weight),
        "reconstruction_variance": lambda q: q.reconstruction_variance(dictionary),
        "expected_residual": lambda q: q.expected_residual(dictionary, x),
        "log_prob": lambda q: q.log_prob(z),
        "perturb": lambda q: q.perturb(noise).square(),
    }
    reached = dict.fromkeys(parameters, 0.0)
    for method in methods.values():
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        gradients = torch.autograd.grad(
            method(kind.make(**leaves)).sum(), list(leaves.values()), materialize_grads=True
        )
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
            expected = oracles.finite_difference(
                lambda v, name=name, method=method: method(kind.make(**{**parameters, name: v})).sum(), value
            )
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
            reached[name] += float(gradient.abs().sum())
    assert min(reached.values()) > 1.0


def _bound(posterior: Posterior, hessian: Tensor, curvature: Tensor) -> Tensor:
    """½ log |T| − ½ tr(P T) of each data point, P = s G + diag c, by explicit matrices."""
    covariance = posterior.covariance()
    precision = hessian + torch.diag_embed(curvature)
    return 0.5 * (torch.logdet(covariance) - torch.einsum("nhk,nkh->n", precision, covariance))


def _problem(generator) -> tuple[Tensor, Tensor]:
    factor = torch.randn(D, H, generator=generator, dtype=torch.float64)
    return factor.T @ factor, 2.0 + torch.rand(N, H, generator=generator, dtype=torch.float64)


def _climbed(kind: Kind, generator, hessian: Tensor, curvature: Tensor) -> Posterior:
    """The maximum of the bound over the family by a generic optimizer."""
    parameters = kind.parameters(N, H, generator)
    leaves = [value.requires_grad_() for name, value in parameters.items() if name != "mean"]
    optimizer = torch.optim.LBFGS(
        leaves, max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -_bound(kind.make(**parameters), hessian, curvature).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return kind.make(**{name: value.detach() for name, value in parameters.items()})


def test_stationarity_vanishes_at_the_maximum_and_only_there(kind, generator):
    hessian, curvature = _problem(generator)
    best = _climbed(kind, generator, hessian, curvature)
    start = kind.make(**kind.parameters(N, H, generator))
    assert best.stationarity(hessian, curvature).shape == (N,)
    assert (best.stationarity(hessian, curvature) < 1e-4).all()
    assert (start.stationarity(hessian, curvature) > 0.1).all()
    assert (_bound(best, hessian, curvature) > _bound(start, hessian, curvature)).all()


def test_stationarity_is_zero_at_the_closed_forms(generator):
    hessian, curvature = _problem(generator)
    mean = torch.zeros(N, H, dtype=torch.float64)
    precision = hessian + torch.diag_embed(curvature)
    full = Full(mean, torch.linalg.cholesky(torch.linalg.inv(precision)))
    diagonal = Diagonal(mean, precision.diagonal(dim1=1, dim2=2).rsqrt())
    for posterior in (full, diagonal):
        assert (posterior.stationarity(hessian, curvature) < 1e-12).all()


def test_diagonal_stationarity_is_the_gradient(generator):
    """The largest derivative of the bound in log τ."""
    hessian, curvature = _problem(generator)
    kind = KINDS["diagonal"]
    parameters = kind.parameters(N, H, generator)
    log_scale = parameters["log_scale"].requires_grad_()
    posterior = kind.make(**parameters)
    (gradient,) = torch.autograd.grad(_bound(posterior, hessian, curvature).sum(), log_scale)
    # the kind has τ = exp(log_scale / 2)
    torch.testing.assert_close(posterior.stationarity(hessian, curvature), 2.0 * gradient.abs().amax(1))


@pytest.mark.parametrize("name", ["full, lower", "full, upper"])
def test_full_stationarity_is_the_gradient(name, generator):
    """The largest derivative of the bound along T → F (I + E) Fᵀ, for all symmetric E of one entry."""
    hessian, curvature = _problem(generator)
    posterior = KINDS[name].make(**KINDS[name].parameters(N, H, generator))
    change = torch.zeros(N, H, H, dtype=torch.float64, requires_grad=True)
    root = torch.linalg.cholesky(torch.eye(H, dtype=torch.float64) + 0.5 * (change + change.mT))
    moved = Full(posterior.mean, posterior.factor @ root)
    (gradient,) = torch.autograd.grad(_bound(moved, hessian, curvature).sum(), change)
    torch.testing.assert_close(posterior.stationarity(hessian, curvature), 2.0 * gradient.abs().amax((1, 2)))


def test_low_rank_stationarity_is_the_gradient(generator):
    """∂/∂V = (T⁻¹ − P) V and 2 ∂/∂d² = diag(T⁻¹ − P), scaled by the deviations."""
    hessian, curvature = _problem(generator)
    kind = KINDS["low rank"]
    made = kind.make(**kind.parameters(N, H, generator))
    factor, variance = made.factor.clone().requires_grad_(), made.scale.square().requires_grad_()
    bound = _bound(LowRank(made.mean, factor, variance.sqrt()), hessian, curvature).sum()
    by_factor, by_variance = torch.autograd.grad(bound, (factor, variance))
    expected = torch.stack(
        [
            (made.factor.mT @ by_factor).abs().amax((1, 2)),
            (made.scale.unsqueeze(-1) * by_factor).abs().amax((1, 2)),
            (2.0 * variance * by_variance).abs().amax(1),
        ]
    ).amax(0)
    torch.testing.assert_close(made.stationarity(hessian, curvature), expected.detach())
    inverse = torch.linalg.inv(made.covariance())
    torch.testing.assert_close(made.precision_diagonal(), inverse.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("general", ["low rank", "full"])
def test_a_diagonal_is_a_special_case(general, generator, draw, close, dtype):
    mean, scale = draw(N, H), draw(N, H).abs() + 0.2
    special = Diagonal(mean, scale)
    posterior = {
        "low rank": LowRank(mean, mean.new_zeros(N, H, RANK), scale),
        "full": Full(mean, torch.diag_embed(scale)),
    }[general]
    dictionary, x, z, sample_weight = draw(D, H), draw(N, D), draw(N, H), draw(N).abs()
    for method, arguments in (
        ("covariance", ()),
        ("marginal_scale", ()),
        ("entropy", ()),
        ("log_prob", (z,)),
        ("mahalanobis", (z,)),
        ("second_moment", (sample_weight,)),
        ("weighted_covariance", (sample_weight,)),
        ("reconstruction_variance", (dictionary,)),
        ("trace_with", (dictionary.T @ dictionary,)),
        ("expected_residual", (dictionary, x)),
    ):
        close(getattr(posterior, method)(*arguments), getattr(special, method)(*arguments).double())


def test_low_rank_with_all_ranks_is_full(generator):
    mean, factor = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((N, H), (N, H, H)))
    low_rank = LowRank(mean, factor, torch.full_like(mean, math.sqrt(0.1)))
    full = Full(mean, torch.linalg.cholesky(low_rank.covariance()))
    z = torch.randn(N, H, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(low_rank.entropy(), full.entropy())
    torch.testing.assert_close(low_rank.log_prob(z), full.log_prob(z))


def test_low_rank_bears_one_large_deviation_beside_small_ones(generator):
    factor = 5e3 * torch.randn(20, 40, 1, generator=generator).expand(-1, -1, RANK)  # in one direction
    posterior = LowRank(torch.zeros(20, 40), factor, torch.full((20, 40), 0.1))
    exact = LowRank(*(part.double() for part in (posterior.mean, posterior.factor, posterior.scale)))
    torch.testing.assert_close(posterior.entropy().double(), exact.entropy(), rtol=1e-5, atol=1e-3)
