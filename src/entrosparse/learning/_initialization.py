"""Where learning starts from."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from entrosparse.errors import InputError
from entrosparse.inference import learning_sweeps
from entrosparse.learning._floors import Floors
from entrosparse.learning._turns import evaluate
from entrosparse.likelihoods import Isotropic, Likelihood
from entrosparse.model import SparseCodingModel, split_missing, unit_columns
from entrosparse.priors import PriorFamily

_ICA_SAMPLE = 8192  # rows that FastICA is run on
_ICA_STEPS = 24  # iterations of FastICA, which are enough for a start
_ICA_SMALL, _ICA_SMALL_STEPS = 2**18, 100  # numbers that are few enough to go on to the end, and steps to it
_ICA_EARLY = 16  # iterations within which rounding errors stay small where there is no end
_ICA_STILL = 1e-4  # change of a matrix in a step that is at its end
_ICA_MOMENTUM = 0.9  # share of the last change that the next iteration starts ahead by
_ICA_NOISE = 0.1  # length of the noise that is added to the directions that FastICA starts from
_COLUMNS_AT_ONCE = 1024  # columns that are brought to float64 together
_SCALED, _SCALE_TURNS, _SCALE_TOLERANCE = (
    1024,
    5,
    0.05,
)  # data points at least, turns, nats: for λ and σ² of a start


def _from_data(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Take data points as atoms; random directions make up for those that are missing or zero."""
    order = torch.randperm(len(x), generator=generator).to(x.device)
    order = order[torch.linalg.vector_norm(x, dim=1)[order] > 0][:n_components]
    fill = _random(x, n_components - len(order), generator)
    return torch.cat([x[order].T, fill], dim=1)


def _random(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Draw directions uniformly from the sphere."""
    return torch.randn(x.shape[1], n_components, dtype=x.dtype, generator=generator).to(x.device)


def _ica(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Take the mixing matrix of a short run of FastICA on the principal components.

    Data points make up for the atoms beyond the dimensions that the data span.
    """
    sample = x[torch.randperm(len(x), generator=generator)[:_ICA_SAMPLE].to(x.device)]
    sample -= sample.mean(0)
    variance, white = _principal_components(sample, n_components)
    rest = _from_data(x, n_components - len(variance), generator)
    if len(variance) == 0:
        return rest
    independent = sample.T @ (white @ _unmixing(white, generator).T) / len(sample)
    return torch.cat([independent, rest], dim=1)


def _principal_components(sample: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """Return the largest variances of centred data (N, D), in rising order, and components of variance 1.

    There are fewer than asked for where the data span fewer dimensions. The work grows with the cube of N or
    D, whichever is less.
    """
    n_rows, numbers = len(sample), torch.finfo(sample.dtype)
    wide = n_rows < sample.shape[1]
    parts = torch.split(sample, _COLUMNS_AT_ONCE, dim=1) if wide else ()
    products = sum(part @ part.T for part in map(Tensor.double, parts)) if wide else sample.T @ sample
    variance, axes = torch.linalg.eigh(torch.as_tensor(products).double() / n_rows)
    spanned = variance > max(10.0 * numbers.eps * float(variance[-1]), numbers.tiny)
    variance, axes = variance[spanned][-n_components:], axes[:, spanned][:, -n_components:]
    return variance, (axes * n_rows**0.5).to(sample) if wide else sample @ (axes / variance.sqrt()).to(sample)


def _unmixing(white: Tensor, generator: torch.Generator) -> Tensor:
    """Return the orthogonal matrix (K, K) whose rows unmix white data (N, K), by parallel FastICA with tanh.

    It starts near the directions of data points, which are closer to the independent components than random
    ones are, and momentum stands in for further iterations. A little noise moves directions apart that are
    linearly dependent. Small data are followed to the end, where rounding errors die out; if there is none
    within reach, the early directions are taken, before rounding errors have grown.
    """
    size, small = white.shape[1], white.numel() <= _ICA_SMALL
    points = white[torch.randperm(len(white), generator=generator)[:size].to(white.device)]
    noise = torch.randn(size, size, dtype=white.dtype, generator=generator).to(white)
    tiny = torch.finfo(white.dtype).tiny
    start = points / points.norm(dim=1, keepdim=True).clamp_min(tiny) + _ICA_NOISE * noise / size**0.5
    last = matrix = early = _orthogonal(start)
    for step in range(_ICA_SMALL_STEPS if small else _ICA_STEPS):
        ahead = matrix + _ICA_MOMENTUM * (matrix - last)
        bent = (white @ ahead.T).tanh_()
        target = bent.T @ white / -len(white)
        slope = 1.0 - bent.square_().mean(0)
        target.addcmul_(slope[:, None], ahead)
        target *= torch.linalg.vecdot(target, matrix).sign().unsqueeze(1)  # Momentum needs steady signs.
        last, matrix = matrix, _orthogonal(target)
        if step < _ICA_EARLY:
            early = matrix
        elif small and float((matrix - last).abs().max()) < _ICA_STILL:
            return matrix
    return early if small else matrix


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return ``(M Mᵀ)^(−1/2) M``; where M is nearly singular, an orthogonal matrix that is as close to M."""
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    if values[0] > torch.finfo(matrix.dtype).eps ** 0.5 * values[-1]:
        return vectors / values.sqrt() @ (vectors.T @ matrix)
    left, _, right = torch.linalg.svd(matrix)  # Squares would be lost in rounding errors.
    return left @ right


DICTIONARIES = {"data": _from_data, "random": _random, "ica": _ica}
"""Initial dictionaries by name."""


def initial_model(
    x: Tensor,
    n_components: int,
    dictionary: str | np.ndarray | Tensor,
    prior: PriorFamily,
    generator: torch.Generator,
    sample_weight: Tensor | None = None,
    likelihood: Likelihood = Isotropic(),
) -> SparseCodingModel:
    """Return a model to start from, scaled to a sample of the data.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        A sample of the data; missing entries (NaN) count as 0 here.
    n_components : int
        Number of latents H.
    dictionary : {"ica", "data", "random"} or array of shape (D, H)
        Independent components by FastICA (and data points, if H is more than the dimensions that the data
        span), data points, random directions, or the atoms themselves; columns are scaled to unit length.
    prior : PriorFamily
        Prior of the codes.
    generator : torch.Generator
        Source of randomness, on the CPU.
    sample_weight : Tensor of shape (N,), optional
        Weights of the data points in the scales.
    likelihood : Likelihood
        Kind of noise. Where features have variances of their own, initial dictionaries are found in data
        whose features all have the same mean square.

    Returns
    -------
    SparseCodingModel
        σ² is half the data variance, and λ half the optimum for codes that the model reads from the data.
    """
    x, _ = split_missing(x)
    row_weight = torch.ones_like(x[:, 0]) if sample_weight is None else sample_weight.to(x)
    row_weight = row_weight / row_weight.sum()
    of_features = row_weight @ x.square()
    unit = torch.ones_like(of_features)
    if likelihood.per_feature:
        unit = torch.where(of_features > 0, of_features.sqrt(), unit)
    if isinstance(dictionary, str):
        if dictionary not in DICTIONARIES:
            known = ", ".join(repr(name) for name in DICTIONARIES)
            raise InputError(f"the 'init' parameter must be one of {known} or an array; got {dictionary!r}")
        # Distinct rows only, so that a row of weight 2 and a row that stands twice give the same start.
        counted = row_weight > 0
        distinct = torch.unique(x if bool(counted.all()) else x[counted], dim=0)
        distinct = distinct.div_(unit) if likelihood.per_feature else distinct
        atoms = unit[:, None] * DICTIONARIES[dictionary](distinct, n_components, generator)
    else:
        atoms = torch.as_tensor(dictionary).to(x)
        if tuple(atoms.shape) != (x.shape[1], n_components):
            wanted = (x.shape[1], n_components)
            raise InputError(f"the 'init' array must have shape {wanted}; got {tuple(atoms.shape)}")
        lengths = atoms.norm(dim=0)
        n_bad = int((~(lengths.isfinite() & (lengths > 0))).sum())
        if n_bad:
            raise InputError(
                f"the 'init' array must have columns of finite length above zero; got {n_bad} others"
            )
    atoms, tiny = unit_columns(atoms).contiguous(), torch.finfo(x.dtype).tiny
    noise_variance = 0.5 * (of_features if likelihood.per_feature else row_weight @ x.square().mean(1))
    model = SparseCodingModel(
        dictionary=atoms,
        prior_scale=torch.ones_like(atoms[0]),
        noise_variance=noise_variance.clamp_min(tiny**0.25),
        prior=prior,
        likelihood=likelihood,
    )
    codes = x @ model.readout
    if prior.positive:  # Atoms point to where the data reach farther.
        sign = torch.where(row_weight @ codes**3 < 0.0, -1.0, 1.0)
        model, codes = replace(model, dictionary=atoms * sign), (codes * sign).clamp_min(0.0)
    prior_scale = model.factors.optimal_scale(row_weight @ model.factors.statistic(codes))
    return replace(model, prior_scale=(0.5 * prior_scale).clamp_min(tiny**0.25))


def with_fitting_scales(
    model: SparseCodingModel, x: Tensor, sample_weight: Tensor | None = None
) -> SparseCodingModel:
    """Return the model with λ and σ² that are nearly optimal for its atoms (Eq. 10, 11).

    Steps from others would spoil atoms that are good already.

    Parameters
    ----------
    model : SparseCodingModel
        Where to start from.
    x : Tensor of shape (N, D)
        A sample of the data; NaN are entries that were not seen.
    sample_weight : Tensor of shape (N,), optional
        Weights > 0 of the data points; one each by default.
    """
    some, floors = slice(None, None, max(1, len(x) // _SCALED)), Floors.from_sample(x)
    turn = evaluate(
        model,
        x[some],
        learning_sweeps(model.prior),
        _SCALE_TOLERANCE,
        _SCALE_TURNS,
        sample_weight=None if sample_weight is None else sample_weight[some],
        floors=floors,
    )
    return floors.raised(turn.model)
