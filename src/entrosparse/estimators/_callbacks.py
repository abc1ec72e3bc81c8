"""The bridge to scikit-learn's callbacks, which exist from version 1.9 on."""

from collections.abc import Callable
from typing import Any, final

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # an older scikit-learn

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for the mixin where scikit-learn has none."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Epochs", "with_callbacks"]


@final
class Epochs:
    """Tells scikit-learn's callbacks of every epoch of a fit.

    Parameters
    ----------
    estimator : estimator
        The estimator that is fitted.
    X : array-like
        Its data.
    max_epochs : int
        Epochs at most.
    """

    def __init__(self, estimator: Any, X: Any, max_epochs: int) -> None:
        self._estimator, self._X = estimator, X
        self._context = None
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=max_epochs)
            self._context.call_on_fit_task_begin(estimator=estimator, X=X)

    def end_epoch(self, attributes: Callable[[], dict[str, Any]]) -> bool:
        """Report one epoch, with what a fitted estimator would hold; return whether to stop."""
        if self._context is None or not hasattr(self._estimator, "_skl_callbacks"):
            return False
        context = self._context.subcontext(task_name="epoch")
        context.call_on_fit_task_begin(estimator=self._estimator, X=self._X)
        stop = context.call_on_fit_task_end(
            estimator=self._estimator, X=self._X, reconstruction_attributes=attributes()
        )
        return bool(stop)

    def end(self) -> None:
        """Report that the fit has ended."""
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._estimator, X=self._X)
