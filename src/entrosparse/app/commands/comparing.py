"""The command ``compare``: the bounds of several runs on the same held-out data points."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from entrosparse.app.commands import Command
from entrosparse.app.terminal import add_threads, new_parser, say, use_threads
from entrosparse.errors import InputError

_SUMMARY = "lay the bounds of several runs side by side"


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the command to a parser, and return what runs it."""
    command = new_parser("Lay the bounds of several runs on the same held-out patches or rows side by side.")
    command.add_argument(
        "runs", type=str, nargs="+", help="run folders, two at least; the first is compared to"
    )
    source = "folder or file of images to draw the patches from; by default those of the first run"
    command.add_argument("--images", type=str, help=source)
    command.add_argument("--out", type=str, required=True, help="new folder")
    add_threads(command)
    commands.add_subcommand("compare", command, help=_SUMMARY)
    return {"compare": _compare}


def _compare(options: Namespace) -> int:
    from entrosparse.app.comparisons import compare, compare_rows, write_comparison
    from entrosparse.app.outputs import check_new_folder
    from entrosparse.app.runs import load_run
    from entrosparse.app.sources import read_images

    out = Path(options.out)
    check_new_folder(out)
    use_threads(options.threads)
    runs = [load_run(path) for path in options.runs]
    first = runs[0].info
    if first.config.rows and options.images is not None:
        raise InputError(
            f"the 'images' parameter is for runs of images, and '{options.runs[0]}' is one of rows; "
            f"got '{options.images}'"
        )
    source = first.source if options.images is None else os.path.abspath(options.images)
    rows, n_heldout = compare_rows(runs) if first.config.rows else compare(runs, read_images(source))

    say(f"{'nats per ' + first.config.data_point:>14} {'bits per dim.':>14} {'ahead of the first':>20}  run")
    for row in rows:
        ahead = "" if row is rows[0] else f"{row.ahead:.3f} ± {row.ahead_error:.3f}"
        say(f"{row.bound:>14.3f} {row.bits_per_dimension:>14.4f} {ahead:>20}  {row.run}")
    about = {"source": source, f"n_{first.config.data_points}": n_heldout}
    if first.config.rows:
        about["n_columns"] = runs[0].model.n_features
    else:
        about |= {"patch_size": first.config.patch_size, "whiten": first.config.whiten}
    write_comparison(out, runs, rows, about)
    say(f"wrote {out / 'report.html'}")
    return 0
