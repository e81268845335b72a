"""A progress bar where a user waits: for the steps of a generation, for inputs in several runs.

By default there is one where somebody looks, in a terminal or a notebook, and only after some
seconds. The loading of weights is shown by transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .._torch.tracers import InterleavingTracer, Invoker

if TYPE_CHECKING:
    from .._interleave.worker import Worker
    from .._runtime.bodies import Body
    from .._torch.base import Traceable

PATIENCE_S: Final = 5.0
"""How long a run takes before a bar is shown that nobody has asked for."""


def wanted(progress: bool | None) -> bool:
    """Say whether there is to be a bar.

    Args:
        progress: As the user said; `None`: where somebody looks.
    """
    if progress is not None:
        return progress
    stream = sys.stderr
    if stream is not None and stream.isatty():
        return True
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Watched(InterleavingTracer):
    """The part of a tracer that shows how far its runs are.

    Attributes:
        progress: Whether the user asked for it; else it shows after `PATIENCE_S`.
    """

    progress: bool | None = None
    _bar: Any = None

    def _open(self, total: int | None, unit: str) -> Any:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        delay = 0 if self.progress else PATIENCE_S
        self._bar = bar = tqdm(total=total, unit=unit, leave=False, delay=delay)
        return bar

    def execute(self, body: Body) -> object:
        """Run *body* in step with the model.

        Returns:
            What the body returned; `None` after `stop()`.
        """
        try:
            return super().execute(body)
        finally:
            bar, self._bar = self._bar, None
            if bar is not None:
                bar.close()

    def _run(self, worker: Worker | None) -> None:
        super()._run(worker)
        if self._bar is not None and self._bar.unit == "input":
            self._bar.update(len(self._ended) - self._bar.n)

    def _next_group(self, model: Traceable) -> Sequence[Invoker]:
        total = len(self._invokes)
        started = super()._next_group(model)
        if self._invokes and self._bar is None:
            self._open(total, "input")
        return started

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        call = super()._call()
        run, model = self._current, self.model
        if run is None or model is None or run.once is not None or self._bar is not None:
            return call
        if run.watch(model._path) is None:
            bar = self._open(_most_steps(call[2]), "step")
            path = run.paths[model._path].path
            run.interleaver.watched.add(path)
            run.interleaver.openers.setdefault(path, []).append(bar.update)
        return call


def _most_steps(kwargs: dict[str, Any]) -> int | None:
    """How many steps a generation has at most, as far as its call says so."""
    config = kwargs.get("generation_config")
    found = kwargs.get("max_new_tokens", getattr(config, "max_new_tokens", None))
    return found if isinstance(found, int) else None


_FORMS: Final[dict[type[InterleavingTracer], type[Watched]]] = {}


def watched_class(cls: type[InterleavingTracer]) -> type[Watched]:
    """Give the form of a tracer class that shows a bar.

    Args:
        cls: What `trace` of the same model uses.
    """
    form = _FORMS.get(cls)
    if form is None:
        about = {"__doc__": cls.__doc__, "__module__": cls.__module__}
        form = _FORMS[cls] = type(cls.__name__, (Watched, cls), about)
    return form
