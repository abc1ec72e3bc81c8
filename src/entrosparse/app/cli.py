"""The command line. A command imports what it needs when it runs, so that help and errors come at once."""

import argparse
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from jsonargparse import ArgumentParser, Namespace

from entrosparse._files import check_name, printable, remove_leavings, write_atomically
from entrosparse._launch import is_first, was_restarted
from entrosparse.app.config import FitConfig
from entrosparse.errors import EntrosparseError, InputError

if TYPE_CHECKING:
    from entrosparse.app.runs import Run
    from entrosparse.learning import Callback, Checkpoints
    from entrosparse.reproduce.framework.results import SavedResult

FAILED, INTERRUPTED, UNREAD = 2, 130, 141
_WRONG_KIND = re.compile(r"Parser key \"(\w+)\":\s+Expected an? <class '(\w+)'>\.\s+Got value: ")
_SOURCE = "folder or file of images; photographs by default"
_PHOTOGRAPHS = "photographs that come with scikit-image"
_OF_A_RUN = {
    "resume": "go on with a run that was cut off, as if it had not been",
    "info": "print what a run is",
    "report": "make the page of a run again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    It is 0, 2 after an error, 130 after Ctrl-C, 143 after a signal to end, 141 when nobody reads the output.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        return _run(sys.argv[1:] if argv is None else argv)


def _run(arguments: Sequence[str]) -> int:
    try:
        options = _parser().parse_args(_config_first(arguments))
        code = _COMMANDS[options.command](options[options.command])
        print(end="", flush=True)  # A reader that has gone away is met here and not at the end of Python.
        return code
    except (EntrosparseError, argparse.ArgumentError) as error:
        return _fail(_WRONG_KIND.sub(r"the '\1' parameter must be of type \2; got ", str(error)), FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends.
        return UNREAD
    except OSError as error:
        return _fail(_what_failed(error), FAILED)
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no error of its own for a lack of memory.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        return _fail(f"the memory does not suffice for so much data or so large a model: {error}", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _show_warning(message: Warning | str, *_: object) -> None:
    _print(f"entrosparse: warning: {' '.join(str(message).split())}", sys.stderr)


def _fail(message: str, code: int) -> int:
    if is_first():  # What fails in another process is told by the first.
        _print(f"entrosparse: error: {' '.join(message.split())}", sys.stderr)
    return code


def _print(line: str, stream: TextIO | None = None) -> None:
    """Print a line that cannot steer the terminal, with "?" for what the terminal cannot show."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"  # A process may have no stream at all.
    print(printable(line).encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def _what_failed(error: OSError) -> str:
    about = f"'{os.fsdecode(error.filename)}': " if error.filename else ""
    return f"{about}{error.strerror or error}"


def _how_to_go_on(out: Path) -> str:
    return f"to go on: entrosparse resume {shlex.quote(str(out))}"


def _config_first(arguments: Sequence[str]) -> list[str]:
    """Put ``--config`` right behind the command, so that a flag wins over it wherever it stands."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config")
    found, rest = finder.parse_known_args(arguments)
    return rest if found.config is None else [*rest[:1], "--config", found.config, *rest[1:]]


def _new_parser(description: str, **options: Any) -> ArgumentParser:
    return ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, **options)


def _parser() -> ArgumentParser:
    description = "Learn sparse codes with honest uncertainty, by the entropy ELBO."
    parser = _new_parser(description, prog="entrosparse")
    commands = parser.add_subcommands(required=True, dest="command")

    fit = _new_parser("Learn a dictionary from images.")
    fit.add_argument("--config", action="config", help="settings in a YAML file; flags win over it")
    # A default here would win over the file, so a missing input has none.
    fit.add_argument("input", nargs="?", type=str, default=argparse.SUPPRESS, help=_SOURCE)
    for parameter in fields(FitConfig):
        flag, description = f"--{parameter.name.replace('_', '-')}", parameter.metadata["help"]
        fit.add_argument(flag, type=parameter.type, default=parameter.default, help=description)
    fit.add_argument("--out", type=str, help="new folder for the run; runs/<date and time> by default")
    commands.add_subcommand("fit", fit, help="learn a dictionary from images")

    encode = _new_parser("Infer the codes of data under a learned model.")
    encode.add_argument("run", type=str, help="run folder")
    encode.add_argument("input", type=str, help="folder or file of images, cut into adjacent patches")
    rows = "INPUT is a .npy or .npz array, one prepared data point per row"
    encode.add_argument("--rows", action="store_true", help=rows)
    kinds = "of the posteriors that are written, as in fit; that of the run by default"
    encode.add_argument("--covariance", type=str, help=kinds)
    encode.add_argument("--out", type=str, required=True, help="new file of the codes, .npz")
    encode.add_argument("--overwrite", action="store_true", help="replace a file of codes that is there")
    commands.add_subcommand("encode", encode, help="infer the codes of images or rows")

    reproduce = _new_parser("Run results of the paper, and lay them beside what it reports.")
    dictionary = ".npy file of a dictionary (D, H) for external-dictionary"
    reproduce.add_argument("--dictionary", type=str, help=dictionary)
    _add_options_of_experiments(reproduce, "reproduce", "paper")
    commands.add_subcommand("reproduce", reproduce, help="run the paper's figures and tables")

    explore = _new_parser("Run results beyond the paper, and lay them beside what is expected.")
    _add_options_of_experiments(explore, "explore", "large")
    commands.add_subcommand("explore", explore, help="run what goes beyond the paper")

    for name, description in _OF_A_RUN.items():
        command = _new_parser(description)
        command.add_argument("run", type=str, help="run folder")
        commands.add_subcommand(name, command, help=description)
    return parser


def _add_options_of_experiments(command: ArgumentParser, name: str, largest: str) -> None:
    command.add_argument("name", type=str, help="result to run; all, or list to see them")
    scales = f"smoke, small (minutes) or {largest} (hours)"
    command.add_argument("--scale", type=str, default="small", help=scales)
    command.add_argument("--images", type=str, help=_SOURCE)
    command.add_argument("--out", type=str, help=f"new folder; runs/{name}-<scale> by default")
    rest = "keep the results in the folder, run the rest"
    command.add_argument("--resume", action="store_true", help=rest)


def _fit(options: Namespace) -> int:
    config = FitConfig(**{parameter.name: options[parameter.name] for parameter in fields(FitConfig)})
    config.validate()
    source = options.get("input")

    from entrosparse.app.runs import check_new_folder
    from entrosparse.processes import current_processes

    def new_folder() -> Path | None:
        out = Path(options.out or f"runs/{datetime.now():%Y-%m-%d-%H%M%S}")
        if was_restarted() and out.is_dir():
            return None
        check_new_folder(out)
        return out

    out = current_processes().from_first(new_folder)
    if out is None:
        return _go_on(Path(options.out))
    return _learn(out, config, _PHOTOGRAPHS if source is None else os.path.abspath(source))


def _go_on(out: Path) -> int:
    from entrosparse.app.runs import load_run

    run = load_run(out)
    if run.history[-1].epoch >= run.info.config.epochs:
        return _finish(run.path) if is_first() else 0
    return _learn(run.path, run.info.config, run.info.source, run)


def _learn(out: Path, config: FitConfig, source: str, run: "Run | None" = None) -> int:
    """Learn from the images of a source into a new run folder, or go on with the run that is there."""
    import numpy as np
    import torch

    from entrosparse.annealing import get_schedule, stretched
    from entrosparse.app.interruption import Interruption
    from entrosparse.app.progress import FitProgress
    from entrosparse.app.reports import write_report
    from entrosparse.app.runs import RunInfo, RunWriter, load_run, pick_examples
    from entrosparse.images import default_images, load_images, prepare_images, split_patches
    from entrosparse.learning import train
    from entrosparse.processes import current_processes

    processes = current_processes()
    schedule = get_schedule(config.annealing)
    if config.stretch_annealing:
        schedule = stretched(schedule, config.epochs)
    images = default_images() if source == _PHOTOGRAPHS else load_images(source)
    prepared = prepare_images(images, config.whiten)
    patches, others = split_patches(
        prepared.arrays, config.patch_size, config.n_patches, config.n_heldout, config.seed
    )
    heldout = others[:]

    info = RunInfo(config=config, source=source, image_names=tuple(prepared.names), gain=prepared.gain)
    examples = pick_examples(heldout)
    if run and (info.gain != run.info.gain or not np.array_equal(examples, run.examples)):
        raise InputError(
            f"the images of the run '{out}' must be those it began with; got others in '{source}'"
        )
    interruption = Interruption()
    try:
        with ExitStack() as watched:
            callbacks: list[Callback] = [interruption]
            if processes.rank == 0:
                if not processes.alone:
                    _print(f"{processes.size} processes of {torch.get_num_threads()} thread(s)")
                progress = watched.enter_context(FitProgress(config.epochs, config.epochs * config.n_patches))
                # An epoch is saved before it is printed.
                callbacks[:0] = [RunWriter(out, info, examples, run.history if run else ()), progress]
            watched.enter_context(interruption)
            train(
                config.recipe.learner(config.n_components),
                patches,
                heldout,
                n_components=config.n_components,
                prior=config.recipe.prior_part,
                likelihood=config.recipe.likelihood,
                epochs=config.epochs,
                batch_size=config.batch_size,
                annealing=schedule,
                seed=config.seed,
                callbacks=callbacks,
                checkpoints=_checkpoints(out),
                processes=processes,
            )
    except KeyboardInterrupt:
        if processes.rank > 0:
            return interruption.exit_code
        if not out.is_dir():
            return _fail("interrupted before learning began; nothing was written", INTERRUPTED)
        run = load_run(out)
        write_report(run)
        usable = f"'{out}' can be used as of epoch {run.history[-1].epoch}"
        return _fail(f"interrupted; {usable}; {_how_to_go_on(out)}", interruption.exit_code)
    return _finish(out) if processes.rank == 0 else 0


def _finish(out: Path) -> int:
    """Write the report of a complete run, and remove its checkpoints, which are not needed any more."""
    try:
        code = _write_report(out)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(f"{_what_failed(error)}; {_how_to_go_on(out)}", FAILED)
    _checkpoints(out).remove()
    remove_leavings(out)
    return code


def _write_report(out: Path) -> int:
    from entrosparse.app.reports import write_report
    from entrosparse.app.runs import load_run

    write_report(load_run(out))
    _print(f"wrote {out / 'report.html'}")
    return 0


def _checkpoints(out: Path) -> "Checkpoints":
    from entrosparse.learning import Checkpoints

    return Checkpoints(out / "checkpoints")


def _encode(options: Namespace) -> int:
    import numpy as np
    import torch

    from entrosparse._tables import read_rows
    from entrosparse.app.runs import check_codes_file, load_run
    from entrosparse.images import Patches, load_images, prepare_images, tile_patches
    from entrosparse.inference import infer_in_chunks
    from entrosparse.processes import Share, current_processes

    out, processes = Path(options.out), current_processes()
    processes.from_first(lambda: check_codes_file(out, options.overwrite))
    run = load_run(options.run)
    found: dict[str, Any] = {}
    if options.rows:
        data: Patches | np.ndarray = read_rows(Path(options.input), run.model.n_features, run.examples.dtype)
    else:
        prepared = prepare_images(load_images(options.input), run.info.config.whiten, run.info.gain)
        data = tiles = tile_patches(prepared.arrays, run.info.config.patch_size)
        found = {"positions": tiles.positions, "image_names": np.array(prepared.names)}

    recipe = run.info.config.recipe
    if options.covariance is not None:
        recipe = replace(recipe, covariance=options.covariance)
        recipe.validate()
    solver = recipe.final_inference(run.model.n_components, run.model.dictionary.dtype)
    chunks = infer_in_chunks(Share(data, processes), run.model, solver)
    none = run.model.dictionary.new_zeros((0, run.model.n_components))
    codes = [(none, none), *((q.mean, q.marginal_scale()) for _, _, q in chunks)]
    for name, parts in zip(("mean", "marginal_scale"), zip(*codes, strict=True), strict=True):
        found[name] = processes.gathered(torch.cat(parts)).numpy()
    if processes.rank > 0:
        return 0
    write_atomically(out, lambda file: np.savez(file, **found))
    _print(f"wrote the codes of {len(data)} {'rows' if options.rows else 'patches'} to {out}")
    return 0


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
            _print(f"{name:<22}{experiment.title}{source}")
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
        return _fail(f"interrupted; what is finished is in '{out}', and --resume goes on", INTERRUPTED)
    _print(f"wrote {out / 'report.html'}")
    return 0


def _print_result(result: "SavedResult") -> None:
    claims = f"{sum(claim.holds for claim in result.claims)} of {len(result.claims)} claims hold"
    _print(f"{result.name:<22}{result.seconds:>7.0f} s   {claims}")


def _info(options: Namespace) -> int:
    from entrosparse.app.runs import load_run, summarise

    run = load_run(options.run)
    lines = summarise(run) | {"learned from": run.info.source, "version": run.info.version}
    for name, value in lines.items():
        _print(f"{name:<30}{value}")
    return 0


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "fit": _fit,
    "resume": lambda options: _go_on(Path(options.run)),
    "encode": _encode,
    "info": _info,
    "report": lambda options: _write_report(Path(options.run)),
    "reproduce": _reproduce,
    "explore": _explore,
}

if __name__ == "__main__":
    sys.exit(main())
