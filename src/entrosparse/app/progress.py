"""What a learning run shows on the terminal while it goes on."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from entrosparse.learning import Callback, EpochRecord
from entrosparse.model import SparseCodingModel

_COLUMNS = ("ELBO", "H[q(z)]", "H[p(z)]", "H[p(x|z)]", "seconds", "figures")
_HEADER = " ".join(["epoch", *(f"{name:>10}" for name in _COLUMNS)])


@final
class FitProgress(Callback):
    """Prints a line for each epoch; on a terminal, also shows a bar with the rate and the time left.

    Parameters
    ----------
    epochs : int
        Epochs of the run.
    n_samples : int
        Data points of an epoch.
    data_points : str
        What these are called: patches or rows.
    """

    def __init__(self, epochs: int, n_samples: int, data_points: str) -> None:
        console = _Console(highlight=False, markup=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]} of {task.fields[epochs]}"),
            BarColumn(),
            _Rate(data_points),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._epochs = epochs
        self._n_samples, self._data_points = epochs * n_samples, data_points
        self._task = self._bar.add_task("", total=self._n_samples, epoch=1, epochs=epochs)

    def __enter__(self) -> Self:
        self._bar.console.print(_HEADER)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bar.disable:  # Older versions of rich end a bar that was not shown with an empty line.
            self._bar.stop()

    def on_resume(self, history: Sequence[EpochRecord], samples_seen: int) -> None:
        """Say where learning goes on, and set the bar to it."""
        self._bar.console.print(f"going on after {samples_seen:,} {self._data_points}")
        epoch = min(1 + samples_seen * self._epochs // self._n_samples, self._epochs)
        self._bar.reset(self._task, completed=samples_seen, epoch=epoch, epochs=self._epochs)

    def on_batch(self, samples_seen: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=samples_seen)

    def on_epoch(self, model: SparseCodingModel, record: EpochRecord) -> None:
        """Print the line of the epoch."""
        self._bar.console.print(
            f"{record.epoch:5d} {record.elbo:10.3f} {record.posterior_entropy:10.3f} "
            f"{record.prior_entropy:10.3f} {record.likelihood_entropy:10.3f} {record.seconds:10.1f} "
            f"{record.evaluation_seconds:10.1f}"
        )
        self._bar.update(self._task, epoch=min(record.epoch + 1, self._epochs))


class _Console(Console):
    """A console that leaves it to the command what happens when nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Rate(ProgressColumn):
    """Data points per second, which are called so."""

    def __init__(self, data_points: str) -> None:
        super().__init__()
        self._data_points = data_points

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0.0:,.0f} {self._data_points}/s")
