"""Drawing of what is learned from rows, which are no pictures (see `entrosparse.app.plots`)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from entrosparse._files import printable
from entrosparse.app.plots import ENTROPY_COLOURS, INK, add_colorbar, add_legend, add_title, panels

_FEW = 100  # Columns whose values can be told apart as dots.
_NAMED = 40  # Columns whose names have room.
_LONGEST = 20  # Characters of a name that have room.
_MANY = 5_000  # Columns of which a picture takes less room than lines and dots.


def draw_atoms(
    dictionary: ArrayLike, prior_scale: ArrayLike, column_names: Sequence[str] | None = None
) -> Figure:
    """Draw the generative fields as rows of colours, from the largest prior scale to the smallest.

    Parameters
    ----------
    dictionary : array of shape (D, H)
        One field per column.
    prior_scale : array of shape (H,)
        λ, which gives the order.
    column_names : sequence of str, optional
        A name for each of the D columns; they are shown where there is room.

    Returns
    -------
    matplotlib.figure.Figure
        Each field on its own scale from −max|w| (blue) to max|w| (red), zero in the middle.
    """
    order = np.argsort(-np.asarray(prior_scale), kind="stable")
    atoms = np.asarray(dictionary).T[order]
    peak = np.abs(atoms).max(axis=1, keepdims=True)
    n_atoms, n_columns = atoms.shape
    figure, (axes,) = panels(1, 1, (5.6, min(10.0, max(3.0, 1.2 + 0.2 * n_atoms))))
    image = axes.imshow(
        atoms / np.where(peak > 0, peak, 1.0),
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        aspect="auto",
        extent=(-0.5, n_columns - 0.5, n_atoms + 0.5, 0.5),
    )
    axes.grid(visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    _label_columns(axes, n_columns, column_names)
    axes.set_ylabel("number of the field")
    add_colorbar(figure, image, axes, "weight (largest = 1)")
    return figure


def draw_rows(
    originals: ArrayLike,
    reconstructions: ArrayLike,
    deviations: ArrayLike,
    titles: Sequence[str],
    column_names: Sequence[str] | None = None,
) -> Figure:
    """Draw rows, and their reconstructions with two posterior deviations to each side.

    Parameters
    ----------
    originals, reconstructions, deviations : array of shape (N, D)
        x, of which NaN are not drawn, W̃ν, and the posterior deviations of the latter.
    titles : sequence of str
        One for each row.
    column_names : sequence of str, optional
        A name for each of the D columns; they are shown where there is room.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each row, of values over columns.
    """
    rows = [np.asarray(each) for each in (originals, reconstructions, deviations)]
    places, dots = np.arange(rows[0].shape[1]), 4.0 if rows[0].shape[1] <= _FEW else 1.5
    figure, grid = panels(-(-len(titles) // 2), min(2, len(titles)), (10.4, 2.4 * -(-len(titles) // 2)))
    for axes in grid[len(titles) :]:
        axes.remove()
    colour = ENTROPY_COLOURS["posterior"]
    for axes, original, mean, deviation, title in zip(grid, *rows, titles, strict=False):
        axes.fill_between(
            places, mean - 2 * deviation, mean + 2 * deviation, color=colour, alpha=0.3, linewidth=0
        )
        axes.plot(places, mean, color=colour, linewidth=1.2, label="reconstruction")
        axes.plot(places, original, ".", color=INK, markersize=dots, label="value")
        for artist in (*axes.lines, *axes.collections):
            artist.set_rasterized(len(places) >= _MANY)
        _label_columns(axes, len(places), column_names)
        add_title(axes, title)
    for axes in grid[::2]:
        axes.set_ylabel("value (units of learning)", fontsize=9)
    add_legend(grid[0])
    return figure


def _label_columns(axes: Axes, n_columns: int, names: Sequence[str] | None) -> None:
    """Write the names of columns below an axis of columns if there is room, and else their numbers."""
    if names is None or n_columns > _NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set_xlabel("column of the table, counted from 0", fontsize=9)
        return
    axes.set_xticks(range(n_columns), [_shortened(name) for name in names], rotation=90, fontsize=8)
    for label in axes.get_xticklabels():
        label.set_parse_math(False)


def _shortened(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
