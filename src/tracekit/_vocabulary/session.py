"""Several traces as one piece of work: `with model.session(): ...`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from .._runtime.bodies import Body
from .._runtime.saving import Saved
from .._runtime.tracer import Backend, Tracer
from .._torch import straight


class _Open(threading.local):
    def __init__(self) -> None:
        self.sessions: list[Session] = []


_open: Final = _Open()
# Of all threads: to look at a thread's own list takes much longer than to see that there is none.
_all_open: Final[list[Session]] = []


class Session(Tracer):
    """Runs a block with several traces in it; what `model.session()` gives.

    Equivalent to its block. All names of its traces are bound for the traces after them, also
    those made with `keep="saved"`: what is kept is decided when the session ends. A backend gets
    the whole block at once, so what it does with one (send it away, say) it does once.

    Args:
        backend: What runs the captured body.
        keep: `"all"`: what the block binds is bound after it. `"saved"`: only what was saved.
    """

    def __init__(self, *, backend: Backend | None = None, keep: str = "all") -> None:
        super().__init__(backend=backend)
        if keep == "saved":
            self.keep_only_saved()
        elif keep != "all":
            self._state = "ended"
            raise ValueError(f'keep is "all" or "saved", not {keep!r}')

    def execute(self, body: Body) -> object:
        """Run *body* to its end; its traces run in it, one after the other."""
        outer = _open.sessions
        try:
            _all_open.append(self)
            _open.sessions = [*outer, self]
            return super().execute(body)
        finally:
            # In this order no interrupt falls in before both are done: the first is no call.
            _open.sessions = outer
            _all_open.remove(self)


class InSession:
    """The part of a tracer that hands all names on inside a session."""

    _saved: Saved | None

    def keeps(self) -> Callable[[str, object], bool] | None:
        """Which names are bound after the block: `None` for all of them."""
        saved = self._saved
        if saved is None or (_all_open and _open.sessions):
            return None
        return saved.keeps


straight.PLAIN.add(InSession.keeps)


def session(*, backend: Backend | None = None, keep: str = "all") -> Session:
    """Open a block of several traces, of any models: `with tracekit.session(): ...`.

    Args:
        backend: What runs the block.
        keep: `"saved"`: only what was saved in the block is bound after it.
    """
    return Session(backend=backend, keep=keep)
