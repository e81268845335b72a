"""Debuggers of the `bdb` family (pdb and what is built on it), stepping through a block.

A block runs as a frame of its own, so a debugger needs four things to show it as inline:

* All names of the function, not only those that the block uses: while something traces, blocks
  are cut with all of them.
* No stops in our files: the debugger's own `skip` patterns keep it out while the block runs.
* A stop on the block's first line after `next` on the `with`, which would step over the call.
* A stop after `next` at the block's end: that command ends with the frame, and the debugger would
  run on. So it is given as a command for the frame that executes the `with`.

Nothing of this is called unless a trace function is set.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any, Final

from tracekit._bytecode.facts import HAS_MONITORING
from tracekit._runtime.twins import ORIGINALS

_OURS: Final = "tracekit.*"
_monitoring: Final[Any] = sys.monitoring if HAS_MONITORING else None  # type: ignore[attr-defined,unused-ignore]
_DEBUGGER_ID: Final = 0


def is_one_there() -> bool:
    """Whether somebody may look at the names of a block while it runs."""
    return sys.gettrace() is not None or (
        HAS_MONITORING and _monitoring.get_tool(_DEBUGGER_ID) is not None
    )


def may_start(code: CodeType) -> bool:
    """Whether a piece of code may start a debugger itself."""
    return "breakpoint" in code.co_names or "set_trace" in code.co_names


class Visit:
    """A debugger that is there while a block runs, kept out of our files until `end`."""

    __slots__ = ("_debugger", "_skip")

    def __init__(self) -> None:
        self._debugger = _active()
        self._skip: Any = None
        if self._debugger is not None:
            self._skip = self._debugger.skip
            self._debugger.skip = {*(self._skip or ()), _OURS}

    def end(self) -> None:
        """Give the debugger its patterns back."""
        if self._debugger is not None:
            self._debugger.skip = self._skip


def stop_after(frame: FrameType) -> None:
    """Let a debugger that has stepped to the end of a block stop at its `with`.

    Args:
        frame: The frame that executes the `with`.
    """
    debugger = _active()
    if debugger is None or frame.f_trace is None:
        return
    stepped = debugger.stopframe
    if stepped is not None and id(stepped.f_code) in ORIGINALS:
        debugger.set_next(frame)


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


def _look_away(frame: FrameType, event: str, argument: object) -> Any:
    return _look_away


def _active() -> Any:
    trace = sys.gettrace()
    if trace is None:
        return None
    module = sys.modules.get("bdb")
    debugger = getattr(trace, "__self__", None)
    return debugger if module is not None and isinstance(debugger, module.Bdb) else None
