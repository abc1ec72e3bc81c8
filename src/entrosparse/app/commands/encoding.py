"""The command ``encode``: the codes of images or rows under the model of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from entrosparse._files import write_atomically
from entrosparse.app.commands import Command
from entrosparse.app.terminal import add_threads, new_parser, say, use_threads

if TYPE_CHECKING:
    import torch

    from entrosparse.app.runs import Run


def add_commands(commands: Any) -> dict[str, Command]:
    """Add the command to a parser, and return what runs it."""
    encode = new_parser("Infer the codes of data under a learned model.")
    encode.add_argument("run", type=str, help="run folder")
    encode.add_argument("input", type=str, help="images, cut into adjacent patches, or a table")
    rows = "INPUT is a table of prepared patches, one a row; for a run of rows it is a table anyway"
    encode.add_argument("--rows", action="store_true", help=rows)
    kinds = (
        "covariance of posteriors that are optimized: diagonal, low-rank, full or exact-factorial; "
        "by default codes are found as in the run"
    )
    encode.add_argument("--covariance", type=str, help=kinds)
    encode.add_argument("--out", type=str, required=True, help="new file of the codes, .npz")
    encode.add_argument("--overwrite", action="store_true", help="replace a file of codes that is there")
    encode.add_argument("--device", type=str, default="cpu", help="where to compute: cpu or cuda")
    add_threads(encode)
    commands.add_subcommand("encode", encode, help="infer the codes of images or rows")
    return {"encode": _encode}


def _encode(options: Namespace) -> int:
    import numpy as np
    import torch

    from entrosparse.app.outputs import check_codes_file
    from entrosparse.app.row_codes import rows_for
    from entrosparse.app.runs import load_run
    from entrosparse.app.sources import read_images
    from entrosparse.images import prepare_images, tile_patches
    from entrosparse.inference import infer_in_chunks
    from entrosparse.processes import Share, current_processes, device_of_process
    from entrosparse.row_files import open_rows

    out, processes = Path(options.out), current_processes()
    processes.from_first(lambda: check_codes_file(out, options.overwrite))
    use_threads(options.threads)

    def load() -> tuple["Run", Any, dict[str, Any]]:
        run = load_run(options.run).to(device_of_process(options.device))
        if options.covariance is not None:
            run = run.with_covariance(options.covariance)
        if options.rows or run.info.config.rows:
            return run, rows_for(run, open_rows(options.input), "input"), {}
        prepared = prepare_images(read_images(options.input), run.info.config.whiten, run.info.gain)
        tiles = tile_patches(prepared.arrays, run.info.config.patch_size)
        return run, tiles, {"positions": tiles.positions, "image_names": np.array(prepared.names)}

    run, data, found = processes.agreed(
        load, lambda loaded: {"run": str(loaded[0].info.config), "input": f"{len(loaded[1])} rows or patches"}
    )

    def infer() -> list[tuple["torch.Tensor", "torch.Tensor"]]:
        none = torch.zeros((0, run.model.n_components), dtype=run.model.dictionary.dtype)
        chunks = infer_in_chunks(Share(data, processes), run.model, run.inference)
        return [(none, none), *((q.mean.cpu(), q.marginal_scale().cpu()) for _, _, q in chunks)]

    codes = processes.agreed(infer, lambda _: {})
    for name, parts in zip(("mean", "marginal_scale"), zip(*codes, strict=True), strict=True):
        found[name] = run.units.codes(processes.gathered(torch.cat(parts)).numpy())
    if processes.rank > 0:
        return 0
    write_atomically(out, lambda file: np.savez(file, **found))
    say(f"wrote the codes of {len(data)} {'patches' if 'positions' in found else 'rows'} to {out}")
    return 0
