"""The command ``reconstruct``: an image or rows from codes, how sure the model is, and what was missing."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from entrosparse._files import whole_folder, write_atomically
from entrosparse.app.commands import Command
from entrosparse.app.terminal import add_threads, new_parser, say, use_threads
from entrosparse.errors import InputError

if TYPE_CHECKING:
    from entrosparse.app.image_codes import Reconstruction
    from entrosparse.app.row_codes import RowReconstruction
    from entrosparse.app.runs import Run
    from entrosparse.images import Image

_SUMMARY = "make an image or rows from codes, and fill in what is missing"


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the command to a parser, and return what runs it."""
    command = new_parser(
        "Make an image, or rows, from codes, and fill in what is missing, with posterior deviations."
    )
    command.add_argument("run", type=str, help="run folder")
    what = "file of one image, or for a run of rows a table; NaN are missing pixels or entries"
    command.add_argument("image", type=str, help=what)
    mask = "file of an image or array of the same size; pixels that are not zero there are missing"
    command.add_argument("--mask", type=str, help=mask)
    stride = "pixels from one tile to the next; half of the side of a patch by default"
    command.add_argument("--stride", type=int, help=stride)
    kinds = (
        "covariance of posteriors that are optimized: diagonal, low-rank, full or exact-factorial; "
        "by default codes are found as in the run"
    )
    command.add_argument("--covariance", type=str, help=kinds)
    command.add_argument("--out", type=str, required=True, help="new folder")
    command.add_argument("--device", type=str, default="cpu", help="where to compute: cpu or cuda")
    add_threads(command)
    commands.add_subcommand("reconstruct", command, help=_SUMMARY)
    return {"reconstruct": _reconstruct}


def _reconstruct(options: Namespace) -> int:
    from entrosparse.app.outputs import check_new_folder
    from entrosparse.app.runs import load_run

    out = Path(options.out)
    check_new_folder(out)
    use_threads(options.threads)
    run = load_run(options.run).to(options.device)
    if options.covariance is not None:
        run = run.with_covariance(options.covariance)
    return (_rows if run.info.config.rows else _image)(run, out, options)


def _rows(run: "Run", out: Path, options: Namespace) -> int:
    """Reconstruct a table."""
    import numpy as np

    from entrosparse.app.row_codes import reconstruct_rows
    from entrosparse.row_files import open_rows

    for name in ("mask", "stride"):
        if options[name] is not None:
            raise InputError(
                f"the '{name}' parameter is for images, and '{options.run}' is a run of rows; "
                f"got {options[name]!r}"
            )
    found = reconstruct_rows(run, open_rows(options.image))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as aside:
        names = {} if found.column_names is None else {"column_names": np.array(found.column_names)}
        _write_arrays(aside, found, {"rows": found.rows} | names)
    return _say_what_was_done(out, found, "data units", "entries")


def _image(run: "Run", out: Path, options: Namespace) -> int:
    """Reconstruct an image."""
    from entrosparse.app.image_codes import reconstruct_images

    image = _read_image(options.image, options.mask)
    (found,) = reconstruct_images(run, image, options.stride)
    _write(out, image, found)
    of = "the whitened image, data units" if run.info.config.whiten != "none" else "the image"
    return _say_what_was_done(out, found, f"units of {of}", "pixels")


def _say_what_was_done(out: Path, found: "Reconstruction | RowReconstruction", units: str, what: str) -> int:
    lowest, highest = float(found.deviation.min()), float(found.deviation.max())
    say(f"posterior deviation from {lowest:.4g} to {highest:.4g} ({units})")
    if n_missing := int(found.missing.sum()):
        say(f"filled in {n_missing:,} of {found.missing.size:,} {what}")
    say(f"wrote {out}")
    return 0


def _read_image(source: str, mask: str | None) -> "Image":
    import numpy as np

    from entrosparse.images import Image, load_images, load_mask

    images = load_images(source, allow_missing=True)
    if len(images) != 1:
        raise InputError(f"the 'image' parameter must be a file of one image; '{source}' holds {len(images)}")
    (image,) = images
    if mask is None:
        return image
    marked = load_mask(mask)
    if marked.shape != image.pixels.shape:
        raise InputError(
            f"the 'mask' parameter must have the size of the image, {image.pixels.shape}; got {marked.shape}"
        )
    return Image(image.name, np.where(marked, np.nan, image.pixels), allow_missing=True)


def _write(out: Path, image: "Image", found: "Reconstruction") -> None:
    """Write arrays and pictures; pictures of images share the grey scale of the given one."""
    import numpy as np
    import PIL.Image
    from matplotlib import colormaps

    low, high = float(np.nanmin(image.pixels)), float(np.nanmax(image.pixels))
    if low >= 0.0 and high <= 1.0:  # The units of a picture.
        low, high = 0.0, 1.0

    def grey(pixels: Any) -> Any:
        return (255 * np.clip((pixels - low) / (high - low), 0, 1)).round().astype(np.uint8)

    lowest, highest = found.deviation.min(), found.deviation.max()
    share = (found.deviation - lowest) / (highest - lowest if highest > lowest else 1.0)
    heat = np.ascontiguousarray(colormaps["magma"](share, bytes=True)[..., :3])
    pictures = {"image": grey(found.image), "deviation": heat}
    if found.missing.any():
        pictures["filled"] = grey(found.filled)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as aside:
        _write_arrays(aside, found, {"image": found.image})
        for name, pixels in pictures.items():
            save = partial(PIL.Image.fromarray(pixels).save, format="png")
            write_atomically(aside / f"{name}.png", save)


def _write_arrays(folder: Path, found: "Reconstruction | RowReconstruction", arrays: dict[str, Any]) -> None:
    """Write arrays, how sure the model is of them, and what was filled in, if anything."""
    import numpy as np

    arrays = arrays | {"deviation": found.deviation}
    if found.missing.any():
        arrays |= {"filled": found.filled, "missing": found.missing}
    write_atomically(folder / "arrays.npz", lambda file: np.savez(file, **arrays))
