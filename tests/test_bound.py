"""The ELBO is a lower bound: held against ``log p(x)`` by quadrature and by importance sampling."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats

import oracles
from conftest import make_model
from entrosparse.objectives import analytic_elbo
from entrosparse.priors import PRIORS
from entrosparse.statistics import Statistics
from kinds import FACTORIAL, FAMILIES, PAIRS, SIGNED

N = 4
SHAPE = {"generalized-gaussian": 0.8, "skewed-laplace": 0.3}
DENSITIES = {
    "laplace": lambda scale: stats.laplace(scale=scale),
    "gaussian": lambda scale: stats.norm(scale=scale),
    "generalized-gaussian": lambda scale: stats.gennorm(0.8, scale=scale * 0.8**1.25),
    "skewed-laplace": lambda scale: oracles.SkewedLaplace(0.6 * scale, 1.4 * scale),
    "exponential": lambda scale: stats.expon(scale=scale),
}


def model_with_shapes(n_features, n_components, generator, prior):
    """A model whose prior is at the shape of its density here."""
    model = make_model(n_features, n_components, generator, prior=prior)
    if model.prior_shape is None:
        return model
    return replace(model, prior_shape=torch.full_like(model.prior_shape, SHAPE[prior.name]))


@pytest.fixture(params=SIGNED)
def prior(request):
    return PRIORS[request.param]


def _elbo(posterior, x, model):
    return analytic_elbo(Statistics.collect(posterior, x, model.dictionary, model.prior), model).elbo


def _each(family, parameters, x, model):
    """The ELBO of each data point."""
    return np.array(
        [
            float(_elbo(family.make(**{k: v[n : n + 1] for k, v in parameters.items()}), x[n : n + 1], model))
            for n in range(len(x))
        ]
    )


def _best(family, parameters, x, model):
    """Parameters of nearly the highest ELBO, where a violation would show."""
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.LBFGS(list(leaves.values()), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -_elbo(family.make(**leaves), x, model)
        loss.backward()
        return loss

    optimizer.step(closure)
    return {name: value.detach() for name, value in leaves.items()}


def _log_joint(x, z, model):
    """log p(x, z) by SciPy for one data point x (D,) and codes z (S, H)."""
    noise = stats.norm(scale=math.sqrt(float(model.noise_variance)))
    likelihood = noise.logpdf(x - z @ model.dictionary.numpy().T).sum(1)
    return likelihood + DENSITIES[model.prior.name](model.prior_scale.numpy()).logpdf(z).sum(1)


def _evidence_by_quadrature(x, model):
    """Gauss-Legendre in each orthant, so that the kinks of the prior are at the edges."""
    node, weight = np.polynomial.legendre.leggauss(150)
    side, side_weight = 6.0 * (node + 1.0), 6.0 * weight
    line, line_weight = np.append(-side, side), np.append(side_weight, side_weight)
    h = model.n_components
    z = np.stack(np.meshgrid(*[line] * h), axis=-1).reshape(-1, h)
    log_weight = np.log(np.stack(np.meshgrid(*[line_weight] * h), axis=-1)).reshape(-1, h).sum(1)
    return np.array([special.logsumexp(_log_joint(row, z, model) + log_weight) for row in x.numpy()])


@pytest.mark.parametrize("n_components", [1, 2])
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_below_the_evidence_by_quadrature(pair, n_components, generator):
    family = (FAMILIES | FACTORIAL)[pair[0]]
    model = model_with_shapes(3, n_components, generator, PRIORS[pair[1]])
    x, _ = model.sample(N, generator)
    evidence = _evidence_by_quadrature(x, model)
    parameters = family.parameters(N, n_components, generator)
    best = _best(family, parameters, x, model)
    assert (_each(family, parameters, x, model) < evidence).all()
    assert (_each(family, best, x, model) <= evidence + 1e-9).all()
    assert (_each(family, best, x, model) > evidence - 1.0).all()


@pytest.mark.parametrize("n_components", [1, 2])
def test_the_quadrature_is_right(n_components, generator):
    """Against the closed form of the Gaussian prior."""
    model = replace(make_model(3, n_components, generator), prior=PRIORS["gaussian"])
    x, _ = model.sample(N, generator)
    loading = (model.dictionary * model.prior_scale).numpy()
    covariance = loading @ loading.T + float(model.noise_variance) * np.eye(3)
    expected = stats.multivariate_normal(cov=covariance).logpdf(x.numpy())
    np.testing.assert_allclose(_evidence_by_quadrature(x, model), expected, atol=1e-9)


def test_below_the_evidence_by_importance_sampling(prior, generator, rng):
    """Ten latents; the proposal is a Student t, of heavier tails than a prior, at the best posterior."""
    model = model_with_shapes(12, 10, generator, prior)
    x, _ = model.sample(N, generator)
    elbos, posteriors = {}, {}
    for name, family in FAMILIES.items():
        parameters = _best(family, family.parameters(N, 10, generator), x, model)
        elbos[name] = _each(family, parameters, x, model)
        posteriors[name] = family.make(**parameters)
    for n in range(N):
        full = posteriors["full"]
        proposal = stats.multivariate_t(full.mean[n].numpy(), 1.2 * full.covariance()[n].numpy(), df=8)
        z = proposal.rvs(20_000, random_state=rng)
        log_weight = _log_joint(x[n].numpy(), z, model) - proposal.logpdf(z)
        evidence = special.logsumexp(log_weight) - math.log(len(z))
        relative = np.exp(log_weight - evidence)
        standard_error = relative.std() / math.sqrt(len(z))
        assert standard_error < 0.02
        for elbo in elbos.values():
            assert elbo[n] < evidence + 5 * standard_error
        assert elbos["full"][n] > evidence - 0.5
    assert elbos["diagonal"].mean() < elbos["low rank"].mean() < elbos["full"].mean()
