"""A skip, and the one that traces the opcodes of its frame.

Used on 3.11, and later where other tools hold all ids of `sys.monitoring`; see `skip.py`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from tracekit._bytecode.facts import OPMAP
from tracekit.errors import ExitTracingException


class Skip(ABC):
    """One frame that is about to leave the inline copy of its block.

    Until `disarm` it holds the frame. Dropping an engaged one disarms it.
    """

    __slots__ = ("__weakref__", "_error", "frame", "offset")

    def __init__(self, frame: FrameType, offset: int) -> None:
        self.frame: FrameType | None = frame
        self.offset = offset
        # Made when it is raised; known, so that another block's is not taken for it.
        self._error: ExitTracingException | None = None

    def exception_is_mine(self, error: object) -> bool:
        """Whether *error* is what this skip raised. Asked before `disarm`."""
        return error is not None and error is self._error

    @abstractmethod
    def engage(self) -> None:
        """Let the frame raise at the offset.

        The last thing that `__enter__` does. If the frame then executes anything else (because
        something raised on the way back to it), the skip is off by itself.
        """

    @abstractmethod
    def disarm(self) -> None:
        """Put everything back; let go of the frame. Does nothing the second time.

        Where a trace function had to step aside for us, it is back with the frame's next
        instruction.
        """


class TracedSkip(Skip):
    """Traces the opcodes and errors of one frame, from `engage` to `disarm`."""

    __slots__ = ("_engaged", "_entered", "_found", "_previous")

    def __init__(self, frame: FrameType, offset: int, entered: int | None = None) -> None:
        # Not through super(): this is on the path of every block.
        self.frame = frame
        self.offset = offset
        self._error = None
        self._entered = entering(frame) if entered is None else entered
        self._engaged = False
        self._previous: Callable[..., Any] | None = None
        self._found: tuple[Any, bool, bool] = (None, True, False)

    def engage(self) -> None:
        frame = self.frame
        if frame is None:
            return
        self._engaged = True
        self._found = (frame.f_trace, frame.f_trace_lines, frame.f_trace_opcodes)
        self._previous = sys.gettrace()
        self._trace(frame, self.in_frame)

    def _trace(self, frame: FrameType, function: Callable[..., Any]) -> None:
        frame.f_trace = function
        # The line event of the inline copy's first line is not for anybody.
        frame.f_trace_lines = False
        # 3.12 heeds the wish for opcodes if some frame had it before `settrace`; 3.13, while
        # cProfile is active, only if the frame gets it after. So: ours before, the frame after.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._elsewhere)
        frame.f_trace_opcodes = True

    def in_frame(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and frame.f_lasti == self.offset:
            self._error = ExitTracingException()
            # The interpreter now takes the trace functions away; `disarm` brings them back.
            raise self._error
        # On the way back to the frame (in a twin that is some instructions long) only this can
        # happen: something raised, and now it is not our block any more.
        is_end_of_loop = event == "exception" and self._entered < 0 and argument[0] is StopIteration
        if is_end_of_loop or (event in {"line", "opcode"} and frame.f_lasti != self._entered):
            return self.in_frame
        return self._come_back(frame, event, argument)

    def _come_back(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Give the frame back to whoever traced it, with the event that we are told of."""
        found, _, wants_opcodes = self._found
        self._put_back(frame)
        if found is None or (event == "opcode" and not wants_opcodes):
            return found
        return found(frame, event, argument)

    def _put_back(self, frame: FrameType) -> None:
        previous, self._previous = self._previous, None
        found, frame.f_trace_lines, frame.f_trace_opcodes = self._found
        frame.f_trace = found
        self.frame = self._error = None
        self._engaged = False
        self._found = (None, True, False)
        if sys.gettrace() is not previous:
            sys.settrace(previous)

    def _elsewhere(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not self._engaged:
            # Called on the way out of the block: see `disarm`.
            return None
        previous = self._previous
        try:
            local = None if previous is None else previous(frame, event, argument)
        except BaseException:
            # The tool ends tracing so, and the error goes on to the frame we were in.
            self.disarm()
            raise
        current = sys.gettrace()
        if current != self._elsewhere and self._engaged:
            # The tool has installed itself anew (coverage does), another, or none.
            self._previous = current
            sys.settrace(self._elsewhere)
        return local

    def disarm(self) -> None:
        frame = self.frame
        if frame is None:
            return
        fired, engaged = self._error is not None, self._engaged
        self.frame = self._error = None
        self._engaged = False
        if not engaged:
            return
        if fired and self._previous is not None:
            # The frames on the way out were called while nobody traced. A tool that is back now
            # would see them return (coverage's C tracer then loses the caller's lines), so it
            # is back when the caller's frame goes on.
            self._trace(frame, self._come_back)
        else:
            self._put_back(frame)


def trace_events_arrive() -> bool:
    """Ask whether a trace function would be called."""
    previous = sys.gettrace()
    heard = []

    def listen(_frame: FrameType, event: str, _argument: object) -> None:
        heard.append(event)

    sys.settrace(listen)
    try:
        canary()
    finally:
        sys.settrace(previous)
    return bool(heard)


def entering(frame: FrameType) -> int:
    """Where coming again to tells that a skip has gone stale: the entering of a `with`.

    A twin may be in the loop that drives a generator instead, which is come to again rightly.
    """
    entered = frame.f_lasti
    return entered if frame.f_code.co_code[entered] == OPMAP["BEFORE_WITH"] else -1


def canary() -> None:
    return None


CANARY: Final = canary.__code__
