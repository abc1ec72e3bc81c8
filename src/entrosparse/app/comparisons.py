"""Bounds of several runs on the same held-out patches or rows, and their page."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from entrosparse._files import whole_folder, write_atomically
from entrosparse.app import plots
from entrosparse.app.html import render
from entrosparse.app.reports import fields_address, inline_figure
from entrosparse.app.row_codes import check_columns
from entrosparse.app.runs import Run
from entrosparse.app.sources import split_rows
from entrosparse.errors import InputError
from entrosparse.images import Image, prepare_images, split_patches
from entrosparse.inference import infer_in_chunks
from entrosparse.objectives import pointwise_elbo


@final
@dataclass(frozen=True)
class ComparedRun:
    """What is known of one run beside the others.

    Attributes
    ----------
    run : str
        Folder of the run.
    bound : float
        Mean ELBO of the held-out data points at the λ and σ² of the run, in nats per data point.
    bits_per_dimension : float
        ``−bound / (D ln 2)``: smaller is better. It depends on the units of the data, and may be below 0.
    ahead, ahead_error : float
        How far the bound is above that of the first run in nats per data point, and the standard error of
        that, from the differences of the single data points.
    covariance, prior, noise : str
        Parts of the run.
    n_components, n_dead, epochs : int
        Latents, those of them that carry no information, and epochs learned.
    seconds : float
        Time of learning.
    source : str
        What the run learned from.
    """

    run: str
    bound: float
    bits_per_dimension: float
    ahead: float
    ahead_error: float
    covariance: str
    prior: str
    noise: str
    n_components: int
    n_dead: int
    epochs: int
    seconds: float
    source: str


def compare(runs: Sequence[Run], images: Sequence[Image]) -> tuple[list[ComparedRun], int]:
    """Return the bounds of runs on the same held-out patches, and the number of these.

    The patches are those that the first run would hold out of the images, in its data units. A run that
    scaled its images by another factor sees them scaled so, and its density is brought to those units.

    Raises
    ------
    InputError
        If there are fewer than two runs, or their patch sizes or whitenings differ, so that their bounds are
        on different data; or if the images cannot be used.
    """
    _check_alike(runs)
    first = runs[0].info
    arrays = prepare_images(images, first.config.whiten, first.gain).arrays
    _, heldout = split_patches(arrays, first.config.patch_size, 1, first.config.n_heldout, first.config.seed)
    patches = heldout[:]
    return _side_by_side(runs, [_bounds(run, patches, run.info.gain / first.gain) for run in runs])


def compare_rows(runs: Sequence[Run]) -> tuple[list[ComparedRun], int]:
    """Return the bounds of runs of rows on those that the first held out, and the number of these.

    Raises
    ------
    InputError
        If there are fewer than two runs, or their rows have other columns; or if the table of the first
        cannot be read, or has another number of rows than it had.
    """
    _check_alike(runs)
    first = runs[0].info
    for run in runs:
        check_columns(runs[0], run.model.n_features, run.info.column_names, "runs")
    train, heldout = split_rows(first.source)
    check_columns(runs[0], train.n_features, train.column_names, "input")
    if len(train) != first.n_rows:
        raise InputError(
            f"the rows of the run '{runs[0].path}' must be those it began with; got others in "
            f"'{first.source}'"
        )
    return _side_by_side(runs, [_bounds_of_rows(run, heldout) for run in runs])


def _check_alike(runs: Sequence[Run]) -> None:
    """Raise InputError unless there are several runs, which learned from data of one kind."""
    if len(runs) < 2:
        raise InputError(f"the 'runs' parameter must name at least two run folders; got {len(runs)}")
    kinds = [
        {name: getattr(run.info.config, name) for name in ("rows", "patch_size", "whiten")}
        | {"number of columns": run.model.n_features}
        for run in runs
    ]
    for run, kind in zip(runs, kinds, strict=True):
        for name, expected in kinds[0].items():
            if kind[name] != expected:
                raise InputError(
                    f"the 'runs' must have the same '{name}', or their bounds do not compare; "
                    f"'{runs[0].path}' has {expected}, '{run.path}' has {kind[name]}"
                )


def _side_by_side(runs: Sequence[Run], bounds: Sequence[np.ndarray]) -> tuple[list[ComparedRun], int]:
    rows = [_compared(run, bound, bound - bounds[0]) for run, bound in zip(runs, bounds, strict=True)]
    return rows, len(bounds[0])


def _bounds_of_rows(run: Run, rows: np.ndarray) -> np.ndarray:
    """Return the ELBO of each row, in the units of the data."""
    chunks = infer_in_chunks(
        run.units.standardize(rows, "input"),
        run.model,
        run.inference,
        then=lambda _, x, posterior: run.units.pointwise_elbo(pointwise_elbo(posterior, x, run.model), x),
    )
    return np.concatenate(list(chunks))


def _bounds(run: Run, patches: np.ndarray, factor: float) -> np.ndarray:
    """Return the ELBO of each patch as a density of the patches, which the run sees times a factor."""
    chunks = infer_in_chunks(
        patches * np.float32(factor),
        run.model,
        run.inference,
        then=lambda _, x, posterior: pointwise_elbo(posterior, x, run.model),
    )
    return torch.cat(list(chunks)).double().numpy(force=True) + patches.shape[1] * math.log(factor)


def _compared(run: Run, bound: np.ndarray, ahead: np.ndarray) -> ComparedRun:
    end, model = run.history[-1], run.model
    mean = float(bound.mean())
    return ComparedRun(
        run=str(run.path),
        bound=mean,
        bits_per_dimension=-mean / (model.n_features * math.log(2.0)),
        ahead=float(ahead.mean()),
        ahead_error=float(ahead.std(ddof=1) / len(ahead) ** 0.5),
        covariance=run.info.config.covariance,
        prior=model.prior.name,
        noise=model.likelihood.name,
        n_components=model.n_components,
        n_dead=end.dead_latents,
        epochs=end.epoch,
        seconds=end.seconds,
        source=run.info.source,
    )


def write_comparison(
    out: Path, runs: Sequence[Run], rows: Sequence[ComparedRun], about: dict[str, Any]
) -> None:
    """Write ``comparison.json`` and ``report.html`` into a new folder, which is whole or not there."""
    figure = plots.draw_bounds([row.bound for row in rows], [row.ahead_error for row in rows])
    page = render(
        "compare.html.j2",
        rows=rows,
        about=about,
        bounds=inline_figure(figure),
        fields=[fields_address(run) for run in runs],
        config=runs[0].info.config,
    )
    text = json.dumps(about | {"runs": [asdict(row) for row in rows]}, indent=2) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as aside:
        write_atomically(aside / "comparison.json", lambda file: file.write(text.encode(errors="replace")))
        write_atomically(aside / "report.html", lambda file: file.write(page))
