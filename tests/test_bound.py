"""The ELBO is a lower bound: held against ``log p(x)`` by quadrature and by importance sampling."""

import math

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


@pytest.mark.parametrize("n_components", [1, 2])
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_below_the_evidence_by_quadrature(pair, n_components, generator):
    family = (FAMILIES | FACTORIAL)[pair[0]]
    model = make_model(3, n_components, generator, prior=PRIORS[pair[1]])
    x, _ = model.sample(N, generator)
    evidence = oracles.evidence_by_quadrature(x, model)
    parameters = family.parameters(N, n_components, generator)
    best = _best(family, parameters, x, model)
    assert (_each(family, parameters, x, model) < evidence).all()
    assert (_each(family, best, x, model) <= evidence + 1e-9).all()
    assert (_each(family, best, x, model) > evidence - 1.0).all()


@pytest.mark.parametrize("n_components", [1, 2])
def test_the_quadrature_is_right(n_components, generator):
    """Against the closed form of the Gaussian prior."""
    model = make_model(3, n_components, generator, prior=PRIORS["gaussian"])
    x, _ = model.sample(N, generator)
    expected = oracles.gaussian_evidence(x, model)
    np.testing.assert_allclose(oracles.evidence_by_quadrature(x, model), expected, atol=1e-9)


def test_below_the_evidence_by_importance_sampling(prior, generator, rng):
    """Ten latents; the proposal is a Student t, of heavier tails than a prior, at the best posterior."""
    model = make_model(12, 10, generator, prior=prior)
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
        log_weight = oracles.log_joint(x[n].numpy(), z, model) - proposal.logpdf(z)
        evidence = special.logsumexp(log_weight) - math.log(len(z))
        relative = np.exp(log_weight - evidence)
        standard_error = relative.std() / math.sqrt(len(z))
        assert standard_error < 0.02
        for elbo in elbos.values():
            assert elbo[n] < evidence + 5 * standard_error
        assert elbos["full"][n] > evidence - 0.5
    assert elbos["diagonal"].mean() < elbos["low rank"].mean() < elbos["full"].mean()
