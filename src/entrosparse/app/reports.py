"""The report of a run: one HTML page that needs no other file."""

import io

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from entrosparse._files import write_atomically
from entrosparse.app import plots, row_plots
from entrosparse.app.html import inline_svg, png_address, render, svg_address
from entrosparse.app.runs import Run
from entrosparse.app.summaries import listed, summarise
from entrosparse.posteriors import Posterior

_N_CODED = 4  # Examples whose codes are drawn.


def write_report(run: Run) -> None:
    """Write ``fields.png`` and ``report.html`` into the folder of a run, each whole or not at all."""
    fields = fields_png(run)
    page = _render(run)
    write_atomically(run.path / "fields.png", lambda file: file.write(fields))
    write_atomically(run.path / "report.html", lambda file: file.write(page))


def fields_address(run: Run) -> str:
    """Return the text of an address that holds a picture of the generative fields of a run."""
    if run.info.config.rows:  # Their axes take the colours of the page.
        return svg_address(_svg(_draw_fields(run)))
    return png_address(fields_png(run))


def fields_png(run: Run) -> bytes:
    """Return a PNG picture of the generative fields of a run."""
    image = io.BytesIO()
    if run.info.config.rows:
        _draw_fields(run).savefig(image, format="png", facecolor="white")
    else:
        _draw_fields(run).savefig(image, format="png", transparent=True)
    return image.getvalue()


def _draw_fields(run: Run) -> Figure:
    side, fields, scales = (
        run.info.config.patch_size,
        run.model.dictionary.numpy(),
        run.model.prior_scale.numpy(),
    )
    return (
        row_plots.draw_atoms(fields, scales, run.info.column_names)
        if run.info.config.rows
        else plots.draw_fields(fields, scales, (side, side))
    )


def _render(run: Run) -> bytes:
    """Return the page as HTML, with its figures inside."""
    history, dictionary = run.history, run.model.dictionary
    posterior = run.inference(torch.from_numpy(run.examples).to(dictionary), run.model)
    epochs = [record.epoch for record in history]
    entropies = {
        name: [getattr(record, f"{name}_entropy") for record in history]
        for name in ("posterior", "prior", "likelihood")
    }
    annealed = [(record.gamma, record.delta) != (1.0, 1.0) for record in history]
    return render(
        "report.html.j2",
        info=run.info,
        headlines=summarise(run),
        settings=run.info.config.settings,
        column_names=listed(run.info.column_names or ()),
        n_examples=len(run.examples),
        fields=fields_address(run),
        elbo=inline_figure(plots.draw_elbo(epochs, [record.elbo for record in history], annealed)),
        entropies=inline_figure(plots.draw_entropies(epochs, entropies)),
        usage=inline_figure(
            plots.draw_usage(
                run.units.codes(run.model.prior_scale.numpy()),
                run.units.scale * float(run.model.mean_noise_variance) ** 0.5,
            )
        ),
        patches=inline_figure(_draw_examples(run, posterior)),
        codes=inline_figure(_draw_codes(run, posterior)),
    )


def _draw_examples(run: Run, posterior: Posterior) -> Figure:
    """Draw the examples, with the mean and the deviation of their reconstructions W̃z under q."""
    dictionary = run.model.dictionary
    reconstructions = (posterior.mean @ dictionary.T).numpy()
    deviations = posterior.reconstruction_variance(dictionary).sqrt().numpy()
    if run.info.config.rows:
        chosen = _coded(run)
        titles = [f"row {index + 1}" for index in chosen]
        rows = run.examples[chosen], reconstructions[chosen], deviations[chosen]
        return row_plots.draw_rows(*rows, titles, run.info.column_names)
    side = run.info.config.patch_size
    return plots.draw_patches(run.examples, reconstructions, deviations, (side, side))


def _draw_codes(run: Run, posterior: Posterior) -> Figure:
    """Draw the largest codes of a few of the examples."""
    chosen = _coded(run)
    means, deviations = posterior.mean[chosen].numpy(), posterior.marginal_scale()[chosen].numpy()
    titles = [f"{run.info.config.data_point} {index + 1}" for index in chosen]
    scales = run.model.prior_scale.numpy()
    return plots.draw_codes(run.units.codes(means), run.units.codes(deviations), scales, titles)


def _coded(run: Run) -> NDArray[np.intp]:
    """Return which of the examples have their codes drawn: a few, evenly spaced among them."""
    return np.unique(np.linspace(0, len(run.examples) - 1, _N_CODED + 1).round().astype(int)[1:])


def inline_figure(figure: Figure) -> Markup:
    """Return a figure as an SVG element whose text and axes take the colour of the page."""
    return inline_svg(_svg(figure))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()
