"""The tracers that run a body in step with a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .._interleave.site import Site
from .._interleave.worker import Worker
from .._protocol import Abort
from .._runtime.tracer import Backend, Body, Tracer
from ..errors import NotRunningError
from .run import Run
from .tree import Port

if TYPE_CHECKING:
    from .base import Traceable

_CALLS: Final = frozenset({"__call__", "forward"})


class InterleavingTracer(Tracer):
    """Runs a block in step with one call of a model.

    Equivalent to the call with the block's lines executed where the model has what they ask for.

    Args:
        fn: What is called: `None` for the module itself, the name of one of its methods, or a
            function.
        model: The wrapper whose values the block may ask for.
        *args: Given to the call.
        backend: What runs the captured body.
        keep: `"all"`: what the block binds is bound after it. `"saved"`: only what was saved.
        **kwargs: Given to the call.
    """

    keep = "all"
    _requests: dict[str, Any] | None = None
    _current: Run | None = None
    _visited: Sequence[tuple[tuple[str, str], int]] = ()

    result = Port("result", "result", doc="What the traced call returned; can be assigned.")

    def __init__(
        self,
        fn: str | Callable[..., Any] | None,
        model: Traceable,
        *args: Any,
        backend: Backend | None = None,
        keep: str = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, backend=backend, **kwargs)
        self.fn = fn
        self.model: Traceable | None = model
        if keep != "all":
            if keep != "saved":
                self._state = "ended"
                raise ValueError(f'keep is "all" or "saved", not {keep!r}')
            self.keep = keep

    def _site_owner(self) -> tuple[object, str]:
        return self, ""

    @property
    def visited(self) -> list[Site]:
        """The sites that the run has come to, of the modules that were asked for, oldest first."""
        run = self._current
        passed = self._visited if run is None else run.interleaver.passed
        return [Site(path, port, visit) for (path, port), visit in passed]

    def stop(self) -> None:
        """End the run here; does not return.

        The model stops at the end of the visit where it stands. Other blocks that are suspended
        are unwound: their `finally` blocks run. What was bound stays bound.
        """
        run = self._current
        if run is None:
            raise NotRunningError(
                "`tracer.stop()` ends a run, and this tracer has none",
                why="the run of a block begins and ends with its `with`",
                fix="call it inside the block",
            )
        run.interleaver.stop()
        raise Abort

    def execute(self, body: Body) -> object:
        """Run *body* in step with the model.

        Returns:
            What the body returned; `None` after `stop()`.
        """
        model = self.model
        assert model is not None
        worker = Worker(body)
        run = Run(model._tree, self, self._once())
        self._current = run
        try:
            run.execute(worker, self.value(), self._call)
        finally:
            self._visited = run.interleaver.passed
            self._current = self._requests = None
            # A finished tracer holds no model and no activation.
            self.model = None
            self.fn = None
            self.args = ()
            self.kwargs = {}
            del model, run
        return worker.value

    def call(self) -> Any:
        """Make the call without a block, with the stored edits only; give what it returns."""
        model = self.model
        assert model is not None
        self._begin()
        try:
            function, args, kwargs = self._call()
            return function(*args, **kwargs)
        finally:
            self._end()

    def _once(self) -> str | None:
        """The path of the one module that the traced call calls once; `None` if not known."""
        model = self.model
        assert model is not None
        if self.fn is None or self.fn in _CALLS:
            return model._path
        return None

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        model = self.model
        assert model is not None
        fn = self.fn
        function: Any
        if fn is None or fn == "__call__":
            function = model._module
        elif isinstance(fn, str):
            function = getattr(model._module, fn)
        else:
            function = getattr(fn, "__wrapped__", fn) if type(fn).__name__ == "_Method" else fn
        args, kwargs = model._prepare(function, self.args, self.kwargs)
        return function, args, kwargs
