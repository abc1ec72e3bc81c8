"""Running experiments into a folder, one subfolder each, such that what is finished stays."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from entrosparse._files import whole_folder
from entrosparse.errors import InputError
from entrosparse.reproduce import get_experiment
from entrosparse.reproduce.framework.experiment import Config
from entrosparse.reproduce.framework.pages import write_page
from entrosparse.reproduce.framework.results import SavedResult, load_result, load_results, write_result


def reproduce(
    names: Sequence[str],
    out: str | os.PathLike[str],
    scale: str,
    settings: Mapping[str, Any],
    resume: bool = False,
    report: Callable[[SavedResult], None] = lambda result: None,
) -> None:
    """Run experiments one after the other; each leaves a subfolder, and the page of all is made again.

    NumPy, SciPy and scikit-learn use one thread, so that the seconds of all results compare; the caller says
    how many PyTorch uses.

    Parameters
    ----------
    names : sequence of str
        Some of ``EXPERIMENTS`` and ``EXPLORATIONS``.
    out : path-like
        New folder, or one to go on with.
    scale : str
        One that all these experiments have settings for.
    settings : mapping
        Settings that replace those of the scale, such as ``images``; an experiment takes those it has.
    resume : bool
        Keep the results that are in the folder, and run the others.
    report : callable
        Told each result that is new.

    Raises
    ------
    InputError
        If a name or the scale is unknown, or the folder holds results of other settings.
    OSError
        If the disk refuses; finished results are still there.
    """
    out = Path(out)
    experiments = {name: get_experiment(name) for name in names}
    for experiment in experiments.values():
        if scale not in experiment.configs:
            known = ", ".join(experiment.configs)
            raise InputError(f"the 'scale' parameter must be one of {known}; got '{scale}'")
    configs = {name: _configured(found.configs[scale], settings) for name, found in experiments.items()}
    if out.exists() and not resume:
        raise InputError(
            f"the 'out' parameter must be a folder that does not exist yet, or --resume given; got '{out}'"
        )
    finished = {result.name: result for result in load_results(out)}
    for name in configs.keys() & finished.keys():
        settings_in_file = json.loads(json.dumps(asdict(configs[name])))
        if (finished[name].scale, finished[name].config) != (scale, settings_in_file):
            raise InputError(
                f"the 'out' parameter must be a folder whose results have the same settings; "
                f"'{finished[name].path}' has others"
            )
    for config in configs.values():
        config.validate()
    out.mkdir(parents=True, exist_ok=True)
    for name, experiment in experiments.items():
        if name in finished:
            continue
        started = time.perf_counter()
        with threadpool_limits(1):
            result = experiment.run(configs[name])
        header = {
            "name": name,
            "title": experiment.title,
            "source": experiment.source,
            "scale": scale,
            "config": asdict(configs[name]),
            "seconds": round(time.perf_counter() - started + result.shared_seconds, 2),
            "versions": {package: version(package) for package in ("entrosparse", "torch", "numpy")},
            "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores, "
            f"{torch.get_num_threads()} used",
        }
        with whole_folder(out / name) as folder:
            write_result(folder, header, result)
            write_page(folder, [load_result(folder)])
        report(load_result(out / name))
        write_page(out, load_results(out))
    write_page(out, load_results(out))


def _configured(config: Config, settings: Mapping[str, Any]) -> Config:
    return replace(config, **{name: value for name, value in settings.items() if hasattr(config, name)})
