"""Drawing of figures. Every function takes NumPy arrays and numbers and returns a Matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

INK = "#40454d"
"""Colour of all text and axes, so that a page can replace it by its own."""

ELBO_COLOUR = "#8a63d2"
PAPER_COLOUR = "#8b93a1"
"""Colour of the values that the paper reports, and of references."""

PALETTE = ("#8a63d2", "#3b82d6", "#d97a2b", "#2a9d78", "#c8456b", "#b8961e", "#4cb3c4", "#7a5c46")
"""Colours of the things that a figure compares, in order."""

ENTROPY_COLOURS = {"posterior": "#3b82d6", "prior": "#d97a2b", "likelihood": "#2a9d78"}
ENTROPY_LABELS = {
    "posterior": r"posterior  $\mathcal{H}[q(z)]$",
    "prior": r"prior  $\mathcal{H}[p(z)]$",
    "likelihood": r"likelihood  $\mathcal{H}[p(x|z)]$",
}


def draw_fields(dictionary: ArrayLike, prior_scale: ArrayLike, shape: tuple[int, int]) -> Figure:
    """Draw the generative fields as a mosaic, from the largest prior scale to the smallest.

    Parameters
    ----------
    dictionary : array of shape (D, H)
        One field per column.
    prior_scale : array of shape (H,)
        λ, which gives the order.
    shape : (int, int)
        Height and width of a field in pixels; their product is D.

    Returns
    -------
    matplotlib.figure.Figure
        Each field on its own grey scale from −max|w| (black) to max|w| (white), zero in the middle.
        The gaps between the fields are transparent.
    """
    order = np.argsort(-np.asarray(prior_scale), kind="stable")
    images = np.asarray(dictionary).T[order].reshape(-1, *shape)
    peak = np.abs(images).max(axis=(1, 2), keepdims=True)
    mosaic = _mosaic(images / np.where(peak > 0, peak, 1.0), n_columns=int(np.ceil(np.sqrt(len(images)))))
    height, width = mosaic.shape
    scale = max(1, round(1000 / width))
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    axes.imshow(mosaic, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    return figure


def draw_elbo(epoch: Sequence[int], elbo: Sequence[float], annealed: Sequence[bool]) -> Figure:
    """Draw the held-out ELBO (nats per data point) over the epochs; annealed epochs are shaded."""
    figure, (axes,) = _panels(1, height=3.2)
    axes.plot(epoch, elbo, color=ELBO_COLOUR, marker="o", markersize=4)
    axes.set_ylabel("held-out ELBO (nats per data point)")
    last = max((e for e, shaded in zip(epoch, annealed, strict=True) if shaded), default=None)
    if last is not None:
        axes.axvspan(epoch[0], last, color=ELBO_COLOUR, alpha=0.12, linewidth=0)
        axes.text(epoch[0], 1.0, " annealed", color=INK, va="bottom", transform=axes.get_xaxis_transform())
    return figure


def draw_entropies(epoch: Sequence[int], entropies: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the terms of the ELBO (nats per data point) over the epochs, one panel each.

    Parameters
    ----------
    epoch : sequence of int
        Epochs.
    entropies : mapping of str to sequence of float
        ``"posterior"``, ``"prior"`` and ``"likelihood"``: one value per epoch. The ELBO is the first
        minus the other two (Eq. 15).

    Returns
    -------
    matplotlib.figure.Figure
        Three panels over one axis of epochs, each with its own range.
    """
    figure, panels = _panels(len(entropies), height=5.4)
    for axes, (name, values) in zip(panels, entropies.items(), strict=True):
        axes.plot(epoch, values, color=ENTROPY_COLOURS[name], marker="o", markersize=3.5)
        add_title(axes, ENTROPY_LABELS[name], ENTROPY_COLOURS[name])
    panels[len(panels) // 2].set_ylabel("entropy (nats per data point)")
    return figure


def draw_bounds(bounds: Sequence[float], errors: Sequence[float]) -> Figure:
    """Draw the bounds of runs (nats per data point), one below the other, with two errors to each side.

    Parameters
    ----------
    bounds, errors : sequence of float
        The bounds, and the standard errors of their differences from the first.
    """
    figure, (axes,) = panels(1, 1, (10.4, 1.0 + 0.4 * len(bounds)))
    places = range(1, len(bounds) + 1)
    axes.axvline(bounds[0], color=PAPER_COLOUR, linestyle=":", linewidth=1.2)
    axes.errorbar(bounds, places, xerr=2 * np.asarray(errors), fmt="o", color=ELBO_COLOUR, capsize=3)
    axes.set_yticks(places)
    axes.set_ylim(len(bounds) + 0.5, 0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("bound (nats per data point)")
    axes.set_ylabel("run")
    return figure


def draw_usage(prior_scale: ArrayLike, noise_deviation: float) -> Figure:
    """Draw how strongly each field is used.

    Parameters
    ----------
    prior_scale : array of shape (H,)
        λ in data units.
    noise_deviation : float
        σ in data units.

    Returns
    -------
    matplotlib.figure.Figure
        λ in falling order, the order of :func:`draw_fields`, on a logarithmic axis, and a line at σ.
    """
    figure, (axes,) = panels(1, 1, (5.6, 3.2))
    ordered = np.sort(np.asarray(prior_scale))[::-1]
    places = np.arange(1, len(ordered) + 1)
    axes.plot(places, ordered, color=ENTROPY_COLOURS["prior"], marker=".", markersize=5, linewidth=1)
    axes.axhline(noise_deviation, color=PAPER_COLOUR, linestyle="--", linewidth=1.2)
    axes.annotate(
        "noise deviation σ",
        (1.0, noise_deviation),
        (0, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        color=INK,
        fontsize=8.5,
        ha="right",
    )
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel("number of the field")
    axes.set_ylabel("prior scale λ (data units)")
    return figure


def draw_codes(
    means: ArrayLike, deviations: ArrayLike, prior_scale: ArrayLike, titles: Sequence[str], n_codes: int = 8
) -> Figure:
    """Draw the largest codes of a few patches, with two posterior deviations to each side.

    Parameters
    ----------
    means, deviations : array of shape (N, H)
        Posterior means ν and deviations τ in data units.
    prior_scale : array of shape (H,)
        λ, which gives the fields the numbers that they have in :func:`draw_fields`, from 1.
    titles : sequence of str
        One for each patch.
    n_codes : int
        Codes of a patch that are drawn, at most.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each patch.
    """
    means, deviations = np.asarray(means), np.asarray(deviations)
    number = np.argsort(np.argsort(-np.asarray(prior_scale), kind="stable")) + 1
    figure, grid = panels(1, len(means), (10.4, 2.6))
    for axes, mean, deviation, title in zip(grid, means, deviations, titles, strict=True):
        largest = np.argsort(-np.abs(mean), kind="stable")[:n_codes]
        places = range(len(largest))
        axes.axhline(0.0, color=INK, linewidth=0.8)
        axes.errorbar(
            places,
            mean[largest],
            yerr=2 * deviation[largest],
            fmt="o",
            markersize=4,
            capsize=2.5,
            color=ENTROPY_COLOURS["posterior"],
        )
        axes.set_xticks(places, [str(each) for each in number[largest]])
        axes.tick_params(labelsize=8)
        axes.set_xlabel("field", fontsize=9)
        add_title(axes, title)
    grid[0].set_ylabel("code (data units)")
    return figure


def draw_patches(
    originals: ArrayLike, reconstructions: ArrayLike, deviations: ArrayLike, shape: tuple[int, int]
) -> Figure:
    """Draw patches, their reconstructions, and the deviations of the reconstructions.

    Parameters
    ----------
    originals, reconstructions : array of shape (N, D)
        x and W̃ν in data units; a patch and its reconstruction share one grey scale around zero.
    deviations : array of shape (N, D)
        Posterior standard deviation of the reconstruction per pixel, in data units. All share one scale,
        from the smallest to the largest.
    shape : (int, int)
        Height and width of a patch in pixels.

    Returns
    -------
    matplotlib.figure.Figure
        Three rows (original, reconstruction, deviation) of N patches.
    """
    originals, reconstructions = np.asarray(originals), np.asarray(reconstructions)
    deviations = np.asarray(deviations)
    peak = np.abs(originals).max(axis=1, keepdims=True)
    peak = np.where(peak > 0, peak, 1.0)
    n = len(originals)
    figure = Figure(figsize=(10.4, 10.4 * 2.5 / n), facecolor="none")
    grid = figure.subplots(
        3, 1, gridspec_kw={"left": 0.12, "right": 0.9, "top": 1, "bottom": 0, "hspace": 0.04}
    )
    rows = (
        ("original", originals / peak, "gray", -1.0, 1.0),
        ("reconstructed", reconstructions / peak, "gray", -1.0, 1.0),
        ("deviation", deviations, "magma", deviations.min(), deviations.max()),
    )
    for axes, (label, patches, colours, low, high) in zip(grid, rows, strict=True):
        image = axes.imshow(
            _mosaic(patches.reshape(n, *shape), n_columns=n),
            cmap=colours,
            vmin=low,
            vmax=high,
            interpolation="none",
        )
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", color=INK, fontsize=10)
    box = grid[2].get_position()
    bar = figure.colorbar(image, cax=figure.add_axes((0.915, box.y0 + 0.03, 0.012, box.height - 0.06)))
    bar.set_label("data units", color=INK, fontsize=8)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _mosaic(images: np.ndarray, n_columns: int) -> np.ndarray:
    """Lay images (n, h, w) row by row on a grid with gaps of one pixel of NaN."""
    n, height, width = images.shape
    n_rows = -(-n // n_columns)
    cells = np.full((n_rows * n_columns, height + 1, width + 1), np.nan)
    cells[:n, :height, :width] = images
    grid = cells.reshape(n_rows, n_columns, height + 1, width + 1).swapaxes(1, 2)
    return grid.reshape(n_rows * (height + 1), -1)[:-1, :-1]


def _panels(n: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``n`` panels one below the other over one axis of epochs."""
    figure, grid = panels(n, 1, (5.6, height), sharex=True)
    label_epochs(grid[-1])
    return figure, grid


def panels(
    n_rows: int, n_columns: int, size: tuple[float, float], sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure of empty axes in the style of all the others, row by row.

    Parameters
    ----------
    n_rows, n_columns : int
        Grid of the axes.
    size : (float, float)
        Width and height of the figure in inches.
    sharex : bool
        Whether all axes share one range of x.
    """
    figure = Figure(figsize=size, facecolor="none", layout="constrained")
    grid = list(figure.subplots(n_rows, n_columns, sharex=sharex, squeeze=False).flat)
    for axes in grid:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(which="both", colors=INK, labelsize=9)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.title.set_color(INK)
        axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, grid


def add_legend(axes: Axes, **options: Any) -> None:
    """Add a legend in the style of the figures; options go to Matplotlib."""
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, **options)


def add_colorbar(figure: Figure, image: AxesImage, axes: Axes, label: str) -> None:
    """Add the scale of colours of an image in the style of the figures."""
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)


def add_title(axes: Axes, text: str, colour: str = INK) -> None:
    """Add a title in the style of the figures."""
    axes.set_title(text, loc="left", fontsize=10, color=colour)


def label_epochs(axes: Axes) -> None:
    """Make the horizontal axis, and all that share it, one of whole epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
