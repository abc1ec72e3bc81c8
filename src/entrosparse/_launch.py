"""What torchrun and srun say in the environment of the processes that they start."""

import os

_PORTS, _FIRST_PORT = 20_000, 15_000  # for jobs of SLURM, which have no port of their own


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
            "MASTER_ADDR": given.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
            "MASTER_PORT": str(_FIRST_PORT + int(given.get("SLURM_JOB_ID", "0")) % _PORTS),
        } | found
    return found if found.get("WORLD_SIZE", "1") not in ("", "0", "1") else {}


def is_first() -> bool:
    """Return whether this process is the one that speaks for all: the first, or one that is alone."""
    return launched().get("RANK", "0") == "0"


def was_restarted() -> bool:
    """Return whether ``torchrun`` started this process again because one of them had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
