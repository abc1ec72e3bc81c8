"""The report of a run: one HTML page that needs no other file."""

import io
from dataclasses import asdict

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from entrosparse._files import write_atomically
from entrosparse.app import plots
from entrosparse.app.html import inline_svg, png_address, render
from entrosparse.app.runs import Run
from entrosparse.app.summaries import summarise
from entrosparse.posteriors import Posterior

_N_CODED = 4  # Example patches whose codes are drawn.


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
        settings=asdict(run.info.config),
        n_examples=len(run.examples),
        fields=png_address(fields),
        elbo=inline_figure(plots.draw_elbo(epochs, [record.elbo for record in history], annealed)),
        entropies=inline_figure(plots.draw_entropies(epochs, entropies)),
        usage=inline_figure(
            plots.draw_usage(run.model.prior_scale.numpy(), history[-1].noise_variance ** 0.5)
        ),
        patches=inline_figure(_draw_examples(run, posterior)),
        codes=inline_figure(_draw_codes(run, posterior)),
    )


def _draw_examples(run: Run, posterior: Posterior) -> Figure:
    """Draw the example patches, with the mean and the deviation of their reconstructions W̃z under q."""
    dictionary = run.model.dictionary
    reconstructions = posterior.mean @ dictionary.T
    deviations = posterior.reconstruction_variance(dictionary).sqrt()
    side = run.info.config.patch_size
    return plots.draw_patches(run.examples, reconstructions.numpy(), deviations.numpy(), (side, side))


def _draw_codes(run: Run, posterior: Posterior) -> Figure:
    """Draw the largest codes of a few of the example patches, evenly spaced among them."""
    n_examples = len(run.examples)
    chosen = np.unique(np.linspace(0, n_examples - 1, _N_CODED + 1).round().astype(int)[1:])
    means, deviations = posterior.mean[chosen].numpy(), posterior.marginal_scale()[chosen].numpy()
    titles = [f"patch {index + 1}" for index in chosen]
    return plots.draw_codes(means, deviations, run.model.prior_scale.numpy(), titles)


def inline_figure(figure: Figure) -> Markup:
    """Return a figure as an SVG element whose text and axes take the colour of the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return inline_svg(text.getvalue())
