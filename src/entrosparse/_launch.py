"""What torchrun and srun say in the environment of the processes that they start."""

import os
import re

# SLURM gives steps no port of their own. Those from 32,768 on may be anyone's.
_FIRST_PORT, _PORTS, _PORTS_A_STEP = 15_000, 17_000, 1_009


def launched() -> dict[str, str]:
    """Return what ``torchrun`` says of this process and the others, or the same of a step of SLURM.

    It is empty for a process that was started alone.
    """
    given = os.environ
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = {name: given[name] for name in names if name in given}
    if "RANK" not in found and given.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in given:
        found = {
            "RANK": given["SLURM_PROCID"],
            "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
            "WORLD_SIZE": given.get("SLURM_NTASKS", given["SLURM_STEP_NUM_TASKS"]),
            "MASTER_ADDR": _first_node(given.get("SLURM_STEP_NODELIST", "")),
            "MASTER_PORT": str(_port(*(int(given.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP")))),
        } | found
    return found if found.get("WORLD_SIZE", "1") not in ("", "0", "1") else {}


def _first_node(nodes: str) -> str:
    """Return the machine of process 0, the first of a list such as ``"gpu[03-05,9],login"``.

    That is not where ``srun`` was called, unless the script of a job did.
    """
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).partition(",")[0]
    return first or "127.0.0.1"


def _port(job: int, step: int) -> int:
    """Return a port that steps which run at a time hardly have in common."""
    return _FIRST_PORT + (job + _PORTS_A_STEP * step) % _PORTS


def is_first() -> bool:
    """Return whether this process is the one that speaks for all: the first, or one that is alone."""
    return launched().get("RANK", "0") == "0"


def was_restarted() -> bool:
    """Return whether ``torchrun`` started this process again because one of them had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
