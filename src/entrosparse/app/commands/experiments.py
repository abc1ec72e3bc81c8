"""The commands ``reproduce`` and ``explore``: results of the paper, and results beyond it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from entrosparse._files import check_name
from entrosparse.app.commands import Command
from entrosparse.app.terminal import INTERRUPTED, fail, new_parser, say

if TYPE_CHECKING:
    from entrosparse.reproduce.framework.results import SavedResult


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the commands to a parser, and return what runs them."""
    reproduce = new_parser("Run results of the paper, and lay them beside what it reports.")
    dictionary = ".npy file of a dictionary (D, H) for external-dictionary"
    reproduce.add_argument("--dictionary", type=str, help=dictionary)
    _add_options(reproduce, "reproduce", "paper")
    commands.add_subcommand("reproduce", reproduce, help="run the paper's figures and tables")

    explore = new_parser("Run results beyond the paper, and lay them beside what is expected.")
    _add_options(explore, "explore", "large")
    commands.add_subcommand("explore", explore, help="run what goes beyond the paper")
    return {"reproduce": _reproduce, "explore": _explore}


def _add_options(command: ArgumentParser, name: str, largest: str) -> None:
    command.add_argument("name", type=str, help="result to run; all, or list to see them")
    scales = f"smoke, small (minutes) or {largest} (hours)"
    command.add_argument("--scale", type=str, default="small", help=scales)
    command.add_argument("--images", type=str, help="folder or file of images; photographs by default")
    command.add_argument("--out", type=str, help=f"new folder; runs/{name}-<scale> by default")
    rest = "keep the results in the folder, run the rest"
    command.add_argument("--resume", action="store_true", help=rest)


def _reproduce(options: Namespace) -> int:
    from entrosparse.reproduce import EXPERIMENTS

    return _run_experiments("reproduce", EXPERIMENTS, options)


def _explore(options: Namespace) -> int:
    from entrosparse.reproduce import EXPLORATIONS

    return _run_experiments("explore", EXPLORATIONS, options)


def _run_experiments(command: str, table: Mapping[str, str], options: Namespace) -> int:
    from entrosparse.reproduce import get_experiment

    if options.name == "list":
        for name in table:
            experiment = get_experiment(name)
            source = f" ({experiment.source})" if experiment.source else ""
            say(f"{name:<22}{experiment.title}{source}")
        return 0
    names = tuple(table) if options.name == "all" else (options.name,)
    get_experiment(names[0], table)  # The other command's names are not known here.
    import torch

    from entrosparse.reproduce.framework.running import reproduce

    torch.set_num_threads(1)  # So that the seconds of all results compare.
    out = Path(options.out or f"runs/{command}-{options.scale}")
    check_name("out", out)
    given = {"images": options.images, "dictionary": options.get("dictionary")}
    settings = {name: os.path.abspath(value) for name, value in given.items() if value is not None}
    try:
        reproduce(names, out, options.scale, settings, options.resume, _print_result)
    except KeyboardInterrupt:
        return fail(f"interrupted; what is finished is in '{out}', and --resume goes on", INTERRUPTED)
    say(f"wrote {out / 'report.html'}")
    return 0


def _print_result(result: "SavedResult") -> None:
    claims = f"{sum(claim.holds for claim in result.claims)} of {len(result.claims)} claims hold"
    say(f"{result.name:<22}{result.seconds:>7.0f} s   {claims}")
