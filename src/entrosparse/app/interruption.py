"""Ctrl-C and the signal to end, heeded between two minibatches so that a checkpoint can be kept."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self, final

from entrosparse.learning import Callback

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class Interruption(Callback):
    """Ends learning after the minibatch in which SIGINT or SIGTERM came; a second signal ends it at once.

    The signals are watched from ``with`` on, in the main thread only, and left as they were afterwards.

    Attributes
    ----------
    exit_code : int
        What the process shall return once it was interrupted: 128 and the number of the signal.
    """

    exit_code = 128 + signal.SIGINT

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def on_batch(self, samples_seen: int) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self._requested:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested, self.exit_code = True, 128 + number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
