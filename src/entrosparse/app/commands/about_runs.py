"""The commands ``info`` and ``report``: what a run is, and its page."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from entrosparse.app.commands import Command
from entrosparse.app.terminal import new_parser, say

_DESCRIPTIONS = {"info": "print what a run is", "report": "make the page of a run again"}


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the commands to a parser, and return what runs them."""
    for name, description in _DESCRIPTIONS.items():
        command = new_parser(description)
        command.add_argument("run", type=str, help="run folder")
        commands.add_subcommand(name, command, help=description)
    return {"info": _info, "report": lambda options: write_report_of(Path(options.run))}


def write_report_of(path: Path) -> int:
    """Write the page of a run, and say where it is."""
    from entrosparse.app.reports import write_report
    from entrosparse.app.runs import load_run

    write_report(load_run(path))
    say(f"wrote {path / 'report.html'}")
    return 0


def _info(options: Namespace) -> int:
    from entrosparse.app.runs import load_run
    from entrosparse.app.summaries import listed, summarise

    run = load_run(options.run)
    lines = summarise(run) | {"learned from": run.info.source, "version": run.info.version}
    if run.info.start_from is not None:
        lines["began from"] = run.info.start_from
    if run.info.column_names is not None:
        lines["columns"] = listed(run.info.column_names)
    for name, value in lines.items():
        say(f"{name:<30}{value}")
    return 0
