"""The commands ``fit`` and ``resume``: learning from images, in a run folder that a kill leaves usable."""

import argparse
import os
import shlex
from contextlib import ExitStack
from dataclasses import fields
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
    INTERRUPTED,
    add_threads,
    fail,
    new_parser,
    say,
    use_threads,
    what_failed,
)
from entrosparse.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from entrosparse.app.runs import Run
    from entrosparse.images import Image, Patches
    from entrosparse.learning import Callback, Checkpoints

SOURCE = "folder or file of images; photographs by default"
_PHOTOGRAPHS = "photographs that come with scikit-image"


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the commands to a parser, and return what runs them."""
    fit = new_parser("Learn a dictionary from images.")
    fit.add_argument("--config", action="config", help="settings in a YAML file; flags win over it")
    # A default here would win over the file, so a missing input has none.
    fit.add_argument("input", nargs="?", type=str, default=argparse.SUPPRESS, help=SOURCE)
    for parameter in fields(FitConfig):
        flag, description = f"--{parameter.name.replace('_', '-')}", parameter.metadata["help"]
        fit.add_argument(flag, type=parameter.type, default=parameter.default, help=description)
    start = "run folder: begin with its dictionary; n-components, patch-size and whiten must be as there"
    fit.add_argument("--start-from", type=str, help=start)
    fit.add_argument("--out", type=str, help="new folder for the run; runs/<date and time> by default")
    add_threads(fit)
    commands.add_subcommand("fit", fit, help="learn a dictionary from images")

    description = "go on with a run that was cut off, as if it had not been"
    resume = new_parser(description)
    resume.add_argument("run", type=str, help="run folder")
    add_threads(resume)
    commands.add_subcommand("resume", resume, help=description)
    return {"fit": _fit, "resume": _resume}


def read_source(source: str) -> "list[Image]":
    """Return the images of a source, as it is named in a run folder."""
    from entrosparse.images import default_images, load_images

    return default_images() if source == _PHOTOGRAPHS else load_images(source)


def _how_to_go_on(out: Path) -> str:
    return f"to go on: entrosparse resume {shlex.quote(str(out))}"


def _fit(options: Namespace) -> int:
    config = FitConfig(**{parameter.name: options[parameter.name] for parameter in fields(FitConfig)})
    config.validate()
    given = options.get("input")
    source = _PHOTOGRAPHS if given is None else os.path.abspath(given)

    from entrosparse.app.outputs import check_new_folder
    from entrosparse.processes import current_processes

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
        if begun is not None and begun != (run.info.config, run.info.source, run.info.start_from):
            raise InputError(
                "the 'out' parameter must be a new folder, or that of the run that is started again; "
                f"'{out}' holds a run of other settings or images"
            )
        return run

    run = current_processes().agreed(
        load, lambda run: {"run": f"{run.info.config}, epoch {run.history[-1].epoch}"}
    )
    if run.history[-1].epoch >= run.info.config.epochs:
        return _finish(run.path) if is_first() else 0
    return _learn(run.path, run.info.config, run.info.source, run.info.start_from, run)


def _learn(
    out: Path, config: FitConfig, source: str, start_from: str | None, run: "Run | None" = None
) -> int:
    """Learn from the images of a source into a new run folder, or go on with the run that is there."""
    import numpy as np
    import torch

    from entrosparse.annealing import get_schedule, stretched
    from entrosparse.app.interruption import Interruption
    from entrosparse.app.progress import FitProgress
    from entrosparse.app.reports import write_report
    from entrosparse.app.runs import RunInfo, RunWriter, load_run, pick_examples
    from entrosparse.images import prepare_images, split_patches
    from entrosparse.learning import train
    from entrosparse.model import check_device
    from entrosparse.processes import current_processes, device_of_process

    processes = current_processes()
    check_device(device_of_process(config.device))
    init = "ica" if start_from is None else _dictionary_of(start_from, config)
    schedule = get_schedule(config.annealing)
    if config.stretch_annealing:
        schedule = stretched(schedule, config.epochs)

    def load() -> tuple["Patches", "np.ndarray", RunInfo, "np.ndarray"]:
        prepared = prepare_images(read_source(source), config.whiten)
        patches, others = split_patches(
            prepared.arrays, config.patch_size, config.n_patches, config.n_heldout, config.seed
        )
        names = tuple(prepared.names)
        info = RunInfo(config, source=source, image_names=names, gain=prepared.gain, start_from=start_from)
        examples = pick_examples(heldout := others[:])
        if run and (info.gain != run.info.gain or not np.array_equal(examples, run.examples)):
            raise InputError(
                f"the images of the run '{out}' must be those it began with; got others in '{source}'"
            )
        return patches, heldout, info, examples

    patches, heldout, info, examples = processes.agreed(
        load, lambda loaded: {"images": ", ".join(loaded[2].image_names)}
    )
    interruption = Interruption()
    try:
        with ExitStack() as watched:
            callbacks: list[Callback] = [interruption]
            if processes.rank == 0:
                if not processes.alone:
                    say(f"{processes.size} processes of {torch.get_num_threads()} thread(s)")
                progress = watched.enter_context(FitProgress(config.epochs, config.epochs * config.n_patches))
                # An epoch is saved before it is printed.
                callbacks[:0] = [RunWriter(out, info, examples, run.history if run else ()), progress]
            watched.enter_context(interruption)
            train(
                config.recipe.learner(config.n_components),
                patches,
                heldout,
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
    except KeyboardInterrupt:
        if processes.rank > 0:
            return interruption.exit_code
        if not out.is_dir():
            return fail("interrupted before learning began; nothing was written", INTERRUPTED)
        run = load_run(out)
        write_report(run)
        usable = f"'{out}' can be used as of epoch {run.history[-1].epoch}"
        return fail(f"interrupted; {usable}; {_how_to_go_on(out)}", interruption.exit_code)
    return _finish(out) if processes.rank == 0 else 0


def _dictionary_of(start_from: str, config: FitConfig) -> "Tensor":
    """Return the dictionary of another run, if it is one that a run with these settings can begin with."""
    from entrosparse.app.runs import load_run

    origin = load_run(start_from)
    for name in ("n_components", "patch_size", "whiten"):
        expected, got = getattr(origin.info.config, name), getattr(config, name)
        if got != expected:
            raise InputError(
                f"the '{name}' parameter must be {expected!r}, as in the run '{start_from}' that learning "
                f"starts from; got {got!r}"
            )
    return origin.model.dictionary


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
