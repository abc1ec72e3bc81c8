"""Several processes that learn one model together, each from its share of the rows.

They are launched by ``torchrun`` or ``srun`` and talk through :mod:`torch.distributed`: by gloo on CPUs and
by NCCL on GPUs. All processes take the same steps: they draw the same order of the rows, infer their share of
each minibatch, sum up what they found, and repeat the M-step. So their models are the same at every moment.

A sum carries three flags beside its numbers: that a process failed, that one was asked to stop, and that it
is time for a checkpoint. So all processes stop or raise at the same step, and none waits for ever.
"""

import atexit
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
from torch import Tensor, distributed

from entrosparse._launch import launched
from entrosparse.errors import EntrosparseError, InputError, ProcessError

_TIMEOUT = timedelta(minutes=10)  # that a process waits for the others; the slowest thing is to read all rows
_SHORT = 300  # characters
_N_FLAGS = 3

Found = TypeVar("Found")


@final
class Processes:
    """A group of processes; alone by default, when all methods return what they are given.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The group. Without one the process is alone.
    """

    def __init__(self, group: Any = None) -> None:
        # PyTorch's own group is not held: its threads end when nothing holds it, and must before Python does.
        self._group = None if group is None or group is distributed.group.WORLD else group
        self.rank: int = 0 if group is None else distributed.get_rank(group)
        self.size: int = 1 if group is None else distributed.get_world_size(group)
        self.stopping = False
        """Whether a process was asked to stop, as of the last sum."""
        self.saving = False
        """Whether it was time for a checkpoint, as of the last sum."""
        self._asked_to_stop = False
        self._is_due: Callable[[], bool] = lambda: False
        self._length, self._device = 0, torch.device("cpu")

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, n_rows: int) -> slice:
        """Return which of some rows are those of this process; the shares differ by one row at most."""
        return slice(self.rank * n_rows // self.size, (self.rank + 1) * n_rows // self.size)

    def ask_to_stop(self) -> None:
        """Make :attr:`stopping` true in all processes with the next sum."""
        self._asked_to_stop = True

    # --- before learning

    def agreed(self, make: Callable[[], Found], describe: Callable[[Found], Mapping[str, str]]) -> Found:
        """Return what ``make`` returns, once all processes have it and describe it alike.

        Parameters
        ----------
        make : callable
            Checks arguments and data, say, and returns what is to be used of them.
        describe : callable
            From that to descriptions of what must be the same in all processes, by name.

        Raises
        ------
        InputError
            If a description differs.
        ProcessError
            If another process has an error; this one's own error is raised as it is.
        """
        if self.alone:
            return make()
        error: Exception | None = None
        settings: dict[str, str] = {}
        try:
            made = make()
            settings |= describe(made)
        except Exception as failure:
            error = failure
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, (settings, _in_words(error)), self._group)
        self._raise([words for _, words in found], error)
        for rank, (others, _) in enumerate(found):
            for name, ours in settings.items():
                if others.get(name) != ours:
                    raise InputError(
                        f"the '{name}' must be the same in all processes; got {ours[:_SHORT]} in process "
                        f"{self.rank} and {str(others.get(name))[:_SHORT]} in process {rank}"
                    )
        return made

    def from_first(self, work: Callable[[], Found]) -> Found:
        """Return what ``work`` returns in process 0, in all processes; what it raises is raised in all."""
        if self.alone:
            return work()
        found: list[Any] = [None, ""]
        error: Exception | None = None
        if self.rank == 0:
            try:
                found[0] = work()
            except Exception as failure:
                error = failure
                found[1] = _in_words(error)
        distributed.broadcast_object_list(found, 0, self._group)
        self._raise([found[1]], error)
        return found[0]

    # --- while learning

    @contextmanager
    def together(
        self, length: int, device: torch.device, is_due: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Sum up to so many numbers at a time inside, and end together: by one error, or in peace.

        Parameters
        ----------
        length : int
            Numbers that are sent together with flags; it takes as long as if there were always as many.
        device : torch.device
            Where the numbers are.
        is_due : callable
            Asked in process 0 at each sum: whether it is time for a checkpoint.

        Raises
        ------
        ProcessError
            If another process raised something else than KeyboardInterrupt in all.
        """
        if self.alone:
            yield
            return
        self._length, self._device, self._is_due = length, device, is_due
        self._asked_to_stop = self.stopping = self.saving = False
        try:
            yield
        except ProcessError:
            raise
        except KeyboardInterrupt:
            if not self.stopping:  # It came here alone, so the others are told.
                with suppress(ProcessError):
                    self._exchange(torch.zeros(0), ProcessError("interrupted"))
            raise
        except Exception as error:
            self._exchange(torch.zeros(0), error)
            raise
        self._exchange(torch.zeros(0))

    def sum(self, numbers: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; what is sent at a time is summed up in float64.

        Raises
        ------
        ProcessError
            If another process failed.
        """
        if self.alone:
            return numbers
        first, rest = numbers.detach().reshape(-1).tensor_split([self._length])
        with _signals_wait():  # Who has the first part of a sum of all counts on the second.
            found = self._exchange(first)
            if rest.numel():  # None has failed, so that what is left can be sent without flags, all at once.
                rest = rest.clone()
                distributed.all_reduce(rest, group=self._group)
                found = torch.cat([found.to(rest), rest])
        return found.reshape(numbers.shape)

    def meet(self) -> None:
        """Wait for all processes.

        Raises
        ------
        ProcessError
            If another process failed.
        """
        if not self.alone:
            self._exchange(torch.zeros(0))

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in order, in the first process, and none in the others."""
        if self.alone:
            return rows
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        distributed.gather_object(rows.cpu(), found, 0, self._group)
        return rows[:0] if found is None else torch.cat(found).to(rows)

    def _exchange(self, numbers: Tensor, error: Exception | None = None) -> Tensor:
        """Sum numbers and flags of all processes."""
        buffer = torch.zeros(self._length + _N_FLAGS, dtype=torch.float64, device=self._device)
        buffer[: numbers.numel()] = numbers.detach()
        due = self.rank == 0 and self._is_due()
        buffer[-_N_FLAGS:] = torch.tensor([error is not None, self._asked_to_stop, due])
        distributed.all_reduce(buffer, group=self._group)
        failed, stopping, saving = (bool(flag > 0) for flag in buffer[-_N_FLAGS:])
        self.stopping, self.saving = stopping, saving
        if failed:
            found: list[Any] = [None] * self.size
            distributed.all_gather_object(found, _in_words(error), self._group)
            self._raise(found, error)
        return buffer[: numbers.numel()]

    def _raise(self, messages: list[str], error: Exception | None) -> None:
        """Raise this process's own error, or one that says which other process has one."""
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message:
                raise ProcessError(f"process {rank} of {self.size} failed: {message}")


@final
class Share:
    """Those of some rows that are the share of this process."""

    def __init__(self, rows: Any, processes: Processes) -> None:
        self._rows, self._all = rows, range(len(rows))[processes.share(len(rows))]

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, part: slice) -> Any:
        inner = self._all[part]
        return self._rows[inner.start : inner.stop]


ALONE = Processes()
"""A process without others."""


def current_processes() -> Processes:
    """Return the processes that this one was started with, and open their group unless that was done.

    The group is PyTorch's default one where a program has opened it, else what ``torchrun`` or ``srun`` say
    in the environment. A process that was started alone is :data:`ALONE`.

    Raises
    ------
    InputError
        If the processes do not find each other.
    """
    if distributed.is_available() and distributed.is_initialized():
        return Processes(distributed.group.WORLD)
    if not launched():
        return ALONE
    os.environ.update(launched())
    # Imported once there is a group, as Adam does, its functions would hold the group as their default.
    import torch.distributed.nn.functional  # noqa: F401
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
        # Processes that torchrun starts again find the addresses of those before in the store.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        distributed.init_process_group(store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            "the processes must find each other by MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE, as "
            f"torchrun and srun set them; got {' '.join(str(error).split())[:_SHORT]}"
        ) from error
    atexit.register(distributed.destroy_process_group)
    return Processes(distributed.group.WORLD)


def device_of_process(device: str) -> str:
    """Return the device of this process: with ``"cuda"``, each on a machine has one of its own."""
    place = launched().get("LOCAL_RANK")
    return device if device != "cuda" or place is None else f"cuda:{place}"


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let the Python handlers of what Ctrl-C and schedulers send wait, as they do while a sum is taken."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    handled = [each for each in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(each))]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_words(error: Exception | None) -> str:
    if error is None:
        return ""
    kind = "" if isinstance(error, EntrosparseError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"[:_SHORT] or type(error).__name__
