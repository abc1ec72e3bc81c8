"""The report of a run: one HTML page that needs no other file."""

import io
from dataclasses import asdict

import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from entrosparse._files import write_atomically
from entrosparse.app import plots
from entrosparse.app.html import inline_svg, png_address, render
from entrosparse.app.runs import Run, summarise


def write_report(run: Run) -> None:
    """Write ``fields.png`` and ``report.html`` into the folder of a run, each whole or not at all."""
    fields = fields_png(run)
    page = _render(run, fields)
    write_atomically(run.path / "fields.png", lambda file: file.write(fields))
    write_atomically(run.path / "report.html", lambda file: file.write(page))


def fields_png(run: Run) -> bytes:
    """Return a picture of the generative fields of a run, as a PNG."""
    side = run.info.config.patch_size
    figure = plots.draw_fields(run.model.dictionary.numpy(), run.model.prior_scale.numpy(), (side, side))
    image = io.BytesIO()
    figure.savefig(image, format="png", transparent=True)
    return image.getvalue()


def _render(run: Run, fields: bytes) -> bytes:
    """Return the page as HTML, with its figures inside."""
    history = run.history
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
        settings=asdict(run.info.config),
        n_examples=len(run.examples),
        fields=png_address(fields),
        elbo=inline_figure(plots.draw_elbo(epochs, [record.elbo for record in history], annealed)),
        entropies=inline_figure(plots.draw_entropies(epochs, entropies)),
        prior_scales=inline_figure(plots.draw_prior_scales(run.model.prior_scale.numpy())),
        patches=inline_figure(_draw_examples(run)),
    )


def _draw_examples(run: Run) -> Figure:
    """Draw the example patches, with the mean and the deviation of their reconstructions W̃z under q."""
    dictionary = run.model.dictionary
    solver = run.info.config.recipe.final_inference(run.model.n_components, dictionary.dtype)
    posterior = solver(torch.from_numpy(run.examples).to(dictionary), run.model)
    reconstructions = posterior.mean @ dictionary.T
    deviations = posterior.reconstruction_variance(dictionary).sqrt()
    side = run.info.config.patch_size
    return plots.draw_patches(run.examples, reconstructions.numpy(), deviations.numpy(), (side, side))


def inline_figure(figure: Figure) -> Markup:
    """Return a figure as an SVG element whose text and axes take the colour of the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return inline_svg(text.getvalue())
