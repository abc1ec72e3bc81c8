"""The commands ``fit`` and ``resume``: learning in a run folder that a kill leaves usable."""

import argparse
import os
import shlex
from contextlib import ExitStack
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from entrosparse._files import remove_leavings
from entrosparse._launch import is_first, was_restarted
from entrosparse.app.commands import Command
from entrosparse.app.commands.about_runs import write_report_of
from entrosparse.app.config import FitConfig
from entrosparse.app.terminal import (
    FAILED,
    add_threads,
    fail,
    new_parser,
    say,
    use_threads,
    what_failed,
)
from entrosparse.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from entrosparse.app.runs import Run
    from entrosparse.app.sources import Data
    from entrosparse.learning import Callback, Checkpoints


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the commands to a parser, and return what runs them."""
    fit = new_parser("Learn a dictionary from images or rows.")
    fit.add_argument("--config", action="config", help="settings in a YAML file; flags win over it")
    # A default here would win over the file, so a missing input has none.
    source = "folder or file of images, or with --rows a table; photographs by default"
    fit.add_argument("input", nargs="?", type=str, default=argparse.SUPPRESS, help=source)
    for parameter in fields(FitConfig):
        flag, description = f"--{parameter.name.replace('_', '-')}", parameter.metadata["help"]
        if parameter.name == "rows":
            fit.add_argument(flag, action="store_true", help=description)
        else:
            fit.add_argument(flag, type=parameter.type, default=parameter.default, help=description)
    start = (
        "run folder: begin with its dictionary; rows, patch-size and whiten must be as there, and "
        "n-components if it is given"
    )
    fit.add_argument("--start-from", type=str, help=start)
    fit.add_argument("--out", type=str, help="new folder for the run; runs/<date and time> by default")
    add_threads(fit)
    commands.add_subcommand("fit", fit, help="learn a dictionary from images or rows")

    description = "go on with a run that was cut off, as if it had not been"
    resume = new_parser(description)
    resume.add_argument("run", type=str, help="run folder")
    add_threads(resume)
    commands.add_subcommand("resume", resume, help=description)
    return {"fit": _fit, "resume": _resume}


def _how_to_go_on(out: Path) -> str:
    return f"to go on: entrosparse resume {shlex.quote(str(out))}"


def _fit(options: Namespace) -> int:
    config = FitConfig(**{parameter.name: options[parameter.name] for parameter in fields(FitConfig)})
    config.validate()
    given = options.get("input")
    if given is None and config.rows:
        raise InputError("the 'input' parameter must name a table where 'rows' is given; got none")

    from entrosparse.app.outputs import check_new_folder
    from entrosparse.app.sources import PHOTOGRAPHS
    from entrosparse.processes import current_processes

    source = PHOTOGRAPHS if given is None else os.path.abspath(given)

    def new_folder() -> Path | None:
        out = Path(options.out or f"runs/{datetime.now():%Y-%m-%d-%H%M%S}")
        if was_restarted() and options.out and out.is_dir():
            return None
        check_new_folder(out)
        return out

    out = current_processes().from_first(new_folder)
    use_threads(options.threads)
    start = None if options.start_from is None else os.path.abspath(options.start_from)
    if out is None:
        return _go_on(Path(options.out), (config, source, start))
    return _learn(out, config, source, start)


def _resume(options: Namespace) -> int:
    use_threads(options.threads)
    return _go_on(Path(options.run))


def _go_on(out: Path, begun: tuple[FitConfig, str, str | None] | None = None) -> int:
    """Go on with a run; where ``begun`` says how it was begun, with no other."""
    from entrosparse.app.runs import load_run
    from entrosparse.processes import current_processes

    def load() -> "Run":
        run = load_run(out)
        if begun is not None and not _is_begun_so(run, *begun):
            raise InputError(
                "the 'out' parameter must be a new folder, or that of the run that is started again; "
                f"'{out}' holds a run of other settings or images"
            )
        return run

    run = current_processes().agreed(
        load, lambda run: {"run": f"{run.info.config}, epoch {run.history[-1].epoch}"}
    )
    if run.info.converged or run.history[-1].epoch >= run.info.config.epochs:
        return _finish(run.path) if is_first() else 0
    return _learn(run.path, run.info.config, run.info.source, run.info.start_from, run)


def _is_begun_so(run: "Run", config: FitConfig, source: str, start_from: str | None) -> bool:
    found = run.info
    config = replace(config, n_components=config.n_components or found.config.n_components)
    config = config.for_data(found.n_samples, run.model.n_features)
    return (config, source, start_from) == (found.config, found.source, found.start_from)


def _learn(
    out: Path, config: FitConfig, source: str, start_from: str | None, run: "Run | None" = None
) -> int:
    """Learn from a source into a new run folder, or go on with the run that is there."""
    import numpy as np
    import torch

    from entrosparse.annealing import get_schedule, stretched
    from entrosparse.app.interruption import Interruption
    from entrosparse.app.progress import FitProgress
    from entrosparse.app.runs import RunWriter, pick_examples
    from entrosparse.app.sources import InDataUnits, read_data
    from entrosparse.learning import train
    from entrosparse.model import check_device
    from entrosparse.processes import current_processes, device_of_process

    processes = current_processes()
    check_device(device_of_process(config.device))
    origin = None if start_from is None else _origin(start_from, config)
    if origin is not None and config.n_components is None:
        config = replace(config, n_components=origin.model.n_components)

    def load() -> tuple["Data", "np.ndarray", "str | NDArray[Any]"]:
        data = read_data(config, source, start_from)
        examples = pick_examples(data.heldout)
        if run and not (
            (data.info.gain, data.info.n_rows) == (run.info.gain, run.info.n_rows)
            and np.array_equal(examples, run.examples, equal_nan=True)
        ):
            raise InputError(
                f"the {'rows' if config.rows else 'images'} of the run '{out}' must be those it began with; "
                f"got others in '{source}'"
            )
        return data, examples, "ica" if origin is None else _dictionary_of(origin, data)

    data, examples, init = processes.agreed(
        load,
        lambda loaded: {
            "images": ", ".join(loaded[0].info.image_names),
            "number of rows": str(loaded[0].info.n_rows),
        },
    )
    config = data.info.config
    schedule = get_schedule(config.annealing)
    if config.stretch_annealing:
        schedule = stretched(schedule, config.epochs)
    interruption = Interruption()
    try:
        with ExitStack() as watched:
            callbacks: list[Callback] = [interruption]
            if processes.rank == 0:
                if not processes.alone:
                    say(f"{processes.size} processes of {torch.get_num_threads()} thread(s)")
                progress = watched.enter_context(
                    FitProgress(config.epochs, data.info.n_samples, config.data_points)
                )
                history, units = run.history if run else (), data.units if config.rows else None
                writer = RunWriter(out, data.info, examples, history, units)
                callbacks.insert(0, InDataUnits([writer, progress], data))  # Saved before it is printed.
            watched.enter_context(interruption)
            result = train(
                config.learner,
                data.train,
                data.heldout,
                n_components=config.n_components,
                init=init,
                prior=config.recipe.prior_part,
                likelihood=config.recipe.likelihood,
                epochs=config.epochs,
                batch_size=config.batch_size,
                annealing=schedule,
                seed=config.seed,
                device=config.device,
                callbacks=callbacks,
                checkpoints=_checkpoints(out),
                processes=processes,
            )
            if processes.rank == 0 and result.history[-1].epoch < config.epochs:
                writer.converged()
    except KeyboardInterrupt:
        if processes.stopping:  # All wait for the first, since launchers end the others when one has left.
            how_it_stands = processes.from_first(lambda: _left_usable(out))
        else:
            how_it_stands = _left_usable(out) if processes.rank == 0 else ""
        return fail(f"interrupted{how_it_stands}", interruption.exit_code)
    return _finish(out) if processes.rank == 0 else 0


def _left_usable(out: Path) -> str:
    """Write the report of a run that was cut off; return how far it came and how to go on, in words."""
    from entrosparse.app.reports import write_report
    from entrosparse.app.runs import load_run

    if not out.is_dir():
        return " before learning began; nothing was written"
    run = load_run(out)
    write_report(run)
    return f"; '{out}' can be used as of epoch {run.history[-1].epoch}; {_how_to_go_on(out)}"


def _origin(start_from: str, config: FitConfig) -> "Run":
    """Return another run, if it is one that a run with these settings can begin with."""
    from entrosparse.app.runs import load_run

    origin = load_run(start_from)
    for name in ("rows", "n_components", "patch_size", "whiten"):
        expected, got = getattr(origin.info.config, name), getattr(config, name)
        if got not in (expected, None):
            raise InputError(
                f"the '{name}' parameter must be {expected!r}, as in the run '{start_from}' that learning "
                f"starts from; got {got!r}"
            )
    return origin


def _dictionary_of(origin: "Run", data: "Data") -> "NDArray[Any]":
    """Return the dictionary of another run in the units of these data."""
    from entrosparse.app.row_codes import check_columns

    check_columns(origin, len(data.units.mean), data.info.column_names, "input")
    return data.units.atoms(origin.units.model(origin.model).dictionary.numpy())


def _finish(out: Path) -> int:
    """Write the report of a complete run, and remove its checkpoints, which are not needed any more."""
    try:
        code = write_report_of(out)
    except BrokenPipeError:
        raise
    except OSError as error:
        return fail(f"{what_failed(error)}; {_how_to_go_on(out)}", FAILED)
    _checkpoints(out).remove()
    remove_leavings(out)
    return code


def _checkpoints(out: Path) -> "Checkpoints":
    from entrosparse.learning import Checkpoints

    return Checkpoints(out / "checkpoints")
