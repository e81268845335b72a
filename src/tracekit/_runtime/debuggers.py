"""Debuggers of the `bdb` family (pdb and what is built on it), stepping through a block.

A block runs as a frame of its own, so a debugger needs four things to show it as inline:

* All names of the function, not only those that the block uses: while something traces, blocks
  are cut with all of them.
* No stops in our files, nor in what they call: the debugger's own `skip` patterns keep it out while
  the block runs. They are looked at for each stop, so ours look at where it would be.
* A stop on the block's first line after `next` on the `with`, which would step over the call.
* At the block's end, the command that was given in it: it ends with the block's frame, and the
  debugger would run on. So it is given again for the frame that executes the `with`.

A debugger that is started in the block (`breakpoint()`) traces from its next event on, and our
frames are on the stack already. What keeps it out of them has to be done before that event, and
any Python function of ours that did it would be one. So it is put together before the start, of
calls that the interpreter makes in C.

Nothing of this runs unless a trace function is set, or a debugger started.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, compress, repeat, starmap, tee
from operator import call
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, Final

from tracekit._bytecode.facts import HAS_MONITORING, OPMAP
from tracekit._runtime.twins import ORIGINALS

_OURS: Final = "tracekit."
_monitoring: Final[Any] = sys.monitoring if HAS_MONITORING else None  # type: ignore[attr-defined,unused-ignore]
_DEBUGGER_ID: Final = 0
_YIELD: Final = OPMAP["YIELD_VALUE"]
_RESUME: Final = OPMAP["RESUME"]


def is_one_there() -> bool:
    """Whether somebody may look at the names of a block while it runs."""
    return sys.gettrace() is not None or (
        HAS_MONITORING and _monitoring.get_tool(_DEBUGGER_ID) is not None
    )


def may_start(code: CodeType) -> bool:
    """Whether a piece of code may start a debugger itself."""
    return "breakpoint" in code.co_names or "set_trace" in code.co_names


class _Patterns:
    """What a debugger's `skip` is while a block runs.

    Args:
        before: What it was: nothing yet, `[None]`, or `[patterns]`.
    """

    def __init__(self, before: list[Any]) -> None:
        self._before = before

    def __iter__(self) -> Iterator[str]:
        # Asked by `is_skipped_module`, for `stop_here(frame)`, for the handler of an event.
        asking = sys._getframe(1).f_back
        if asking is not None and asking.f_back is not None:
            frame = asking.f_locals.get("frame")
            if frame is not None and _is_no_place(frame, asking.f_back.f_code.co_name):
                yield "*"
        for patterns in self._before:
            yield from patterns or ()


def _is_no_place(frame: FrameType, handler: str) -> bool:
    """Whether a program that runs inline would not come by here."""
    twin = ORIGINALS.get(id(frame.f_code))
    if twin is not None:
        code, at = frame.f_code.co_code, frame.f_lasti
        if handler == "dispatch_call":
            return code[at] == _RESUME and code[at + 1] != 0  # it had stood still
        # A body that ends, and what stands still to wait for the model, does not return.
        is_body = 0 not in twin.offsets.values()
        return handler == "dispatch_return" and (is_body or code[at] == _YIELD)
    above: FrameType | None = frame
    while above is not None and id(above.f_code) not in ORIGINALS:
        if _is_ours(above):
            return True
        above = above.f_back
    return False


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_OURS)


class Visit:
    """A debugger that is there while a block runs, kept out of our files until `end`."""

    __slots__ = ("_debugger", "_skip")

    def __init__(self) -> None:
        self._debugger = _active()
        self._skip: Any = None
        if self._debugger is not None:
            self._skip = self._debugger.skip
            self._debugger.skip = _Patterns([self._skip])

    def give_back(self) -> None:
        """Give the debugger its patterns back."""
        if self._debugger is not None:
            self._debugger.skip = self._skip


def end(visit: Visit | None, frame: FrameType) -> None:
    """Let a debugger that has stepped to the end of a block go on in the frame of its `with`.

    Args:
        visit: From the block's beginning, if something traced then.
        frame: The frame that executes the `with`.
    """
    debugger, trace = _active(), sys.gettrace()
    # What is called here is not to be stepped into.
    sys.settrace(None)
    if debugger is not None and frame.f_trace is not None:
        _take_over(debugger, frame)
    if visit is not None:
        visit.give_back()
    if STARTED and not _ours_above(frame):
        _give_back_to_started()
    sys.settrace(trace)


def _take_over(debugger: Any, frame: FrameType) -> None:
    """Give the command that ended with the block's frame again, for *frame*."""
    stepped, lineno = debugger.stopframe, debugger.stoplineno
    if stepped is not None and id(stepped.f_code) not in ORIGINALS:
        return
    if stepped is None or not lineno:
        debugger.set_next(frame)
    elif lineno < 0:
        debugger.set_return(frame)
    else:
        debugger.set_until(frame, lineno)


def follow(frame: FrameType, own: FrameType) -> None:
    """Let a debugger that is about to step over the `with` line stop on the block's first line.

    Args:
        frame: The frame that executes the `with`.
        own: The frame of the block, not running yet.
    """
    debugger = _active()
    if debugger is not None and debugger.stopframe is frame:
        debugger.set_next(own)


def hide(frame: FrameType) -> None:
    """Keep a debugger from stopping in a frame of ours when the block that it drives ends.

    A debugger sets its trace function in the caller of a generator that it has stepped out of,
    unless there is one.

    Args:
        frame: The frame that resumes the block.
    """
    if _active() is not None:
        frame.f_trace = _look_away


STARTED: Final[list[tuple[int, list[Any], list[Any]]]] = []
"""For each debugger that was started in a block: its thread, itself, the patterns that it had."""


def starts_one() -> bool:
    """Whether `breakpoint()` would start a debugger of this family now, as far as can be told."""
    hook = sys.breakpointhook
    if hook is not sys.__breakpointhook__:
        return getattr(hook, "__name__", "") == "set_trace"
    wanted = os.environ.get("PYTHONBREAKPOINT", "")
    return not wanted or wanted.endswith("set_trace")


def start(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Call what starts a debugger, and keep that out of our frames before it hears of them.

    Equivalent to `function(*args, **kwargs)`.

    Args:
        function: `breakpoint`, `pdb.set_trace` and the like.
        *args: Its arguments.
        **kwargs: Its arguments.

    Returns:
        To be driven by the frame that calls. It yields nothing, and makes the calls in C, so
        that *function* finds that frame as its caller.
    """
    import bdb

    ours = _ours_above(sys._getframe(1))
    found: list[Any] = []
    patterns: list[Any] = []
    owners, same = tee(map(getattr, starmap(sys.gettrace, ((),)), ("__self__",), (None,)))
    hidden = chain.from_iterable(map(getattr, found, repeat("no name of its"), repeat(ours)))
    if ours:
        STARTED.append((get_ident(), found, patterns))
    steps: tuple[Callable[[], Any], ...] = (
        partial(function, *args, **kwargs),
        partial(found.extend, compress(owners, map(isinstance, same, repeat(bdb.Bdb)))),
        partial(patterns.extend, map(getattr, found, repeat("skip"))),
        partial(deque, map(setattr, found, repeat("skip"), repeat(_Patterns(patterns))), 0),
        partial(deque, map(setattr, hidden, repeat("f_trace"), repeat(_look_away)), 0),
    )
    return compress(map(call, steps), repeat(0))


def _ours_above(frame: FrameType) -> list[FrameType]:
    """Frames of ours up the stack from one of the user's."""
    found = []
    above = frame.f_back
    while above is not None:
        if _is_ours(above):
            found.append(above)
        above = above.f_back
    return found


def _give_back_to_started() -> None:
    """Give this thread's debuggers that were started in a block their patterns back."""
    thread = get_ident()
    for entry in [entry for entry in STARTED if entry[0] == thread]:
        STARTED.remove(entry)
        for debugger, skip in zip(*entry[1:], strict=True):
            debugger.skip = skip


def _look_away(frame: FrameType, event: str, argument: object) -> Any:
    return _look_away


def _active() -> Any:
    trace = sys.gettrace()
    if trace is None:
        return None
    module = sys.modules.get("bdb")
    debugger = getattr(trace, "__self__", None)
    return debugger if module is not None and isinstance(debugger, module.Bdb) else None
