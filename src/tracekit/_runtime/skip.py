"""Passing over the inline copy of a block: a frame raises instead of executing an instruction.

The block has run as a twin by the time its tracer's `__enter__` returns. The frame that executes
the `with` must now leave the inline copy: at the first instruction after the one that entered
the `with`, `ExitTracingException` is raised in it, the interpreter calls `__exit__`, and that
swallows it. In the order of events:

    skip = arm(frame, offset)      in `__enter__`, before the block runs: is skipping possible?
    skip.engage()                  the last thing before `__enter__` returns
    (the frame raises)
    skip.exception_is_mine(error)  in `__exit__`
    skip.disarm()

Chosen at each `arm`:

* `sys.monitoring` (3.12+): a local INSTRUCTION event on the one code object, installed at its
  first block and left there. The callback switches itself off at every instruction but the ones
  watched, so the code runs at full speed.
* Opcode tracing of the one frame (3.11, or when other tools hold all tool ids), chained to the
  trace function found; see `tracedskip.py`. In a program with several threads that is not safe on
  3.12+; there the event of another tool's id is used, from `engage` to `disarm`, and the tool gets
  its own. The trace function is ours only between `engage` and `disarm`, so what a debugger does
  while the block runs needs no care.

Things that don't work:

* Switching the local event on and off around each block: it re-instruments the whole code
  object every time.
* Leaving the event to the callback's `code` and `offset`: recursion, generators and threads run
  the same code in several frames. The frame decides.
* Assigning `f_lineno`: jumps to lines only, and a block may share its line with anything.
* `PyThreadState_SetAsyncExc`: raised at some later instruction, inside the inline copy.
* Assuming that events arrive: in a trace function, a profile function, a monitoring callback or
  a debugger's prompt the interpreter delivers none, and the inline copy would run. A canary
  asks first.

Source:
    https://peps.python.org/pep-0669/ and, for what a raising trace function does,
    https://github.com/python/cpython/blob/3.11/Python/sysmodule.c
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable
from threading import RLock, get_ident
from types import CodeType, FrameType
from typing import Any, Final

from tracekit._bytecode.facts import HAS_MONITORING, OPMAP
from tracekit._runtime.tracedskip import (
    CANARY,
    Skip,
    TracedSkip,
    canary,
    entering,
    trace_events_arrive,
)
from tracekit.errors import CannotSkipError, ExitTracingException

TOOL_NAME: Final = "tracekit"

# 0, 1, 2 and 5 are promised to debuggers, coverage, profilers and optimizers.
_TOOL_IDS: Final = (4, 3)
_OTHER_ID: Final = {4: 3, 3: 4}

_get_trace: Final = sys.gettrace
_get_profile: Final = sys.getprofile
_monitoring: Final[Any] = sys.monitoring if HAS_MONITORING else None  # type: ignore[attr-defined,unused-ignore]
_DISABLE: Final[Any] = _monitoring.DISABLE if HAS_MONITORING else None
_get_tool: Final[Any] = _monitoring.get_tool if HAS_MONITORING else None
_set_local_events: Final[Any] = _monitoring.set_local_events if HAS_MONITORING else None
_INSTRUMENTED: Final = OPMAP.get("INSTRUMENTED_INSTRUCTION") if HAS_MONITORING else None
_INSTRUCTION: Final[int] = _monitoring.events.INSTRUCTION if HAS_MONITORING else 0


def arm(frame: FrameType, offset: int, entered: int | None = None) -> Skip:
    """Prepare a frame to raise `ExitTracingException` instead of executing an instruction.

    Equivalent to having `raise ExitTracingException` in that place, once, for that frame alone.

    Args:
        frame: The frame that executes the `with`, somewhere up the stack of the caller; a
            generator's or a twin's too.
        offset: Bytes from the start of `co_code`; where the frame goes on when `__enter__` has
            returned. If that instruction has an EXTENDED_ARG, the offset of the first one.
        entered: Where the frame entered the `with`, if that is known.

    Returns:
        To be engaged when the block has run, or just dropped.

    Raises:
        CannotSkipError: `cannot-skip`. The interpreter delivers no events here.
    """
    if not HAS_MONITORING and _get_trace() is None and _get_profile() is None:
        return TracedSkip(frame, offset, entered)  # nobody's callback could be running
    number = _tool.number
    if number is None:
        number = tool_id()
    if number is None:
        return _arm_by_tracing(frame, offset, entered)
    points = _points.get(id(frame.f_code))
    if points is None or offset not in points:
        _watch(frame, offset)
    if (
        _nobody_watches(number)
        or monitoring_events_arrive()
        or _events_arrive_after_repair(frame, offset)
    ):
        return _MonitoredSkip(frame, offset)
    raise _refusal(_NO_EVENTS)


def is_engaged(frame: FrameType) -> bool:
    """Whether a skip is engaged for *frame* already, at the `with` that it is entering."""
    reference = _armed.get(id(frame))
    skip = None if reference is None else reference()
    if skip is None:
        found = getattr(frame.f_trace, "__self__", None)
        return type(found) is TracedSkip and found.frame is frame
    return skip.frame is frame


def _arm_by_tracing(frame: FrameType, offset: int, entered: int | None) -> Skip:
    if HAS_MONITORING and len(sys._current_frames()) > 1:
        # Where `sys.settrace` is made of monitoring events, switching it on and off re-instruments
        # what other threads are executing: events get lost, and 3.12.1 crashes.
        if _loan.works():
            return _BorrowedSkip(frame, offset)
        raise _refusal(_NO_EVENTS)
    if trace_events_arrive():
        return TracedSkip(frame, offset, entered)
    raise _refusal(_NO_EVENTS)


def tool_id() -> int | None:
    """Give tracekit's `sys.monitoring` tool id, taking one if none is held.

    Returns:
        The id; None where there is no `sys.monitoring` or other tools hold all ids we may take.
    """
    if not HAS_MONITORING:
        return None
    number = _tool.number
    if number is None:
        _tool.acquire()
        number = _tool.number
    return number


def held_tool_id() -> int | None:
    """Give tracekit's `sys.monitoring` tool id if one is held; take none."""
    return _tool.number


def release() -> None:
    """Give back the `sys.monitoring` tool id and the events on code that holds a block.

    Equivalent to never having traced, as far as `sys.monitoring` goes. The next block takes an
    id again. Called inside a block, it is in effect after the block.
    """
    if _tool.number is None:
        return
    _forget_dropped()
    if _armed:
        _tool.release_later = True
        return
    _tool.give_back()


_NO_EVENTS: Final = (
    "Python delivers no events to code that runs inside a trace function, a profile function, "
    "a monitoring callback or a debugger's prompt"
)
_NO_ID: Final = "other tools have taken the ids 3 and 4 of `sys.monitoring` while the block ran"


def _refusal(why: str) -> CannotSkipError:
    return CannotSkipError(
        "the inline copy of the block cannot be skipped here",
        why=why,
        fix="use the function form: `model.trace(...).run(fn)`",
    )


# --- sys.monitoring ------------------------------------------------------------------------

# id(code) -> offsets where the callback stays on. By id: hashing a code object reads all of it.
_points: Final[dict[int, set[int]]] = {}
_codes: Final[dict[int, weakref.ref[CodeType]]] = {}
# id(frame) -> the skip engaged for it, which holds the frame, so that the id stays its own. Weak:
# a tracer that is dropped while engaged takes its skip along.
_armed: Final[dict[int, weakref.ref[_MonitoredSkip]]] = {}
_MANY: Final = 64
# Threads that the canary has sung in.
_heard: Final[set[int]] = set()


class _MonitoredSkip(Skip):
    __slots__ = ("_generation", "_trace")

    def __init__(self, frame: FrameType, offset: int) -> None:
        # Not through super(): this is on the path of every block.
        self.frame = frame
        self.offset = offset
        self._error = None
        self._generation = _tool.generation
        self._trace: Callable[..., Any] | None = None

    def engage(self) -> None:
        if self._generation != _tool.generation:
            self._install_again()
        frame = self.frame
        # A debugger may have been there while the block ran, and have switched opcode tracing
        # off again: on 3.13.0 that takes our event off the code, too, while `get_local_events`
        # still names it (`breakpoint()`, then `continue`). So look at the code itself.
        if frame is not None and _INSTRUMENTED is not None:
            code: Any = frame.f_code
            # On 3.12, once anybody in the process has traced opcodes, a new trace function puts its
            # own event there and takes ours off alone: the code shows nothing of it.
            if code._co_code_adaptive[self.offset] != _INSTRUMENTED or _get_trace() is not None:
                _instrument(code)
        if len(_armed) > _MANY:
            _forget_dropped()
        _armed[id(self.frame)] = weakref.ref(self)

    def _install_again(self) -> None:
        # `release()` was called, or our id taken away, while the block ran.
        frame = self.frame
        if frame is None:
            return
        if _tool.number is None and not _tool.acquire():
            raise _refusal(_NO_ID)
        _watch(frame, self.offset)
        self._generation = _tool.generation
        _tool.release_later = True

    def fire(self, frame: FrameType) -> ExitTracingException:
        del _armed[id(frame)]
        # A debugger that steps through the frame would stop and show our exception. It gets the
        # frame back in `disarm`, before any code of the user's runs in it.
        trace = frame.f_trace
        if trace is not None:
            self._trace = trace
            frame.f_trace = None
        self._error = error = ExitTracingException()
        return error

    def disarm(self) -> None:
        frame = self.frame
        if frame is None:
            return
        self.frame = self._error = None
        reference = _armed.get(id(frame))
        if reference is not None and reference() is self:
            del _armed[id(frame)]
        trace, self._trace = self._trace, None
        if trace is not None and frame.f_trace is None:
            frame.f_trace = trace
        if _tool.release_later and not _armed:
            _tool.give_back()


def _forget_dropped() -> None:
    # A callback of the weak reference would do it at once, at twice the price of each block.
    for key in [key for key, reference in _armed.items() if reference() is None]:
        del _armed[key]


def _on_instruction(code: CodeType, offset: int) -> object:
    points = _points.get(id(code))
    if points is None or offset not in points:
        return _DISABLE
    frame = sys._getframe(1)
    reference = _armed.get(id(frame))
    if reference is not None:
        skip = reference()
        if skip is not None and skip.frame is frame:
            if skip.offset == offset:
                raise skip.fire(frame)
            # The frame enters another `with`: what was engaged never came back to it.
            skip.disarm()
    elif code is CANARY:
        _heard.add(get_ident())
    return None


def monitoring_events_arrive() -> bool:
    """Ask whether our callbacks are called; needs a tool id."""
    canary()
    try:
        _heard.remove(get_ident())
    except KeyError:
        return False
    return True


def _nobody_watches(number: int) -> bool:
    """Whether no callback but ours could be running, so that events arrive for certain.

    Asked before the canary, because it takes less than half the time.
    """
    return (
        _get_trace() is None
        and _get_profile() is None
        and _get_tool(number) == TOOL_NAME
        and _get_tool(_OTHER_ID[number]) is None
        and _get_tool(0) is None
        and _get_tool(1) is None
        and _get_tool(2) is None
        and _get_tool(5) is None
    )


def _events_arrive_after_repair(frame: FrameType, offset: int) -> bool:
    """Look whether somebody else has freed our id or taken it over; if so, take another."""
    if _tool.number is not None and _monitoring.get_tool(_tool.number) == TOOL_NAME:
        # It is ours still. Our callback may have been replaced all the same, or (see `engage`) the
        # event on the canary be gone.
        _monitoring.register_callback(_tool.number, _INSTRUCTION, _on_instruction)
        _instrument(CANARY)
    else:
        _tool.forget()
        if not _tool.acquire():
            return False
        _watch(frame, offset)
    return monitoring_events_arrive()


def _watch(frame: FrameType, offset: int) -> None:
    code = frame.f_code
    key = id(code)
    points = _points.get(key)
    if points is not None and offset in points:
        return
    if points is None:
        points = _points[key] = set()
        _codes[key] = weakref.ref(code, lambda _gone: _forget_code(key))
    points.add(offset)
    points.add(entering(frame))
    _instrument(code)


def _forget_code(key: int) -> None:
    _points.pop(key, None)
    _codes.pop(key, None)


def _instrument(code: CodeType, number: int | None = None) -> None:
    # Off first: instructions where the callback has answered DISABLE come back only so.
    # `restart_events()` would bring them back for all tools. Both calls from within C, so that
    # no other thread gets a turn in between, whose frame would miss its event.
    held = _tool.number if number is None else number
    deque(map(_set_local_events, (held, held), (code, code), (0, _INSTRUCTION)), maxlen=0)


class _Tool:
    """The tool id and what hangs on it."""

    def __init__(self) -> None:
        self.number: int | None = None
        # Counts how often we lost it, with all events.
        self.generation = 0
        self.release_later = False
        # Two threads that trace for the first time at once must not take an id each. Reentrant,
        # for what signal handlers and finalizers do.
        self._changing = RLock()
        self._taking: int | None = None

    def acquire(self) -> bool:
        with self._changing:
            if self.number is not None:
                return True
            for number in _TOOL_IDS:
                # Asked, not tried: a tool that takes an id between the two gets the error.
                owner = _get_tool(number)
                if owner is None:
                    self._taking = number
                    _monitoring.use_tool_id(number, TOOL_NAME)
                elif owner != TOOL_NAME or self._taking != number:
                    continue  # else an interrupt came when we were here before
                break
            else:
                return False
            _monitoring.register_callback(number, _INSTRUCTION, _on_instruction)
            _points[id(CANARY)] = {len(CANARY.co_code) - 2}
            _instrument(CANARY, number)
            self.number = number  # from here on other threads use it
            self._taking = None
            return True

    def forget(self) -> None:
        with self._changing:
            self.number = None
            self.generation += 1
            self.release_later = False
            _points.clear()
            _codes.clear()

    def give_back(self) -> None:
        with self._changing:
            number = self.number
            if number is None:
                return
            # `free_tool_id` alone stops neither events nor callbacks (3.12, 3.13).
            for code in [CANARY, *(reference() for reference in _codes.values())]:
                if code is not None:
                    _monitoring.set_local_events(number, code, 0)
            _monitoring.set_events(number, 0)
            for event in (_INSTRUCTION, _monitoring.events.RAISE):
                _monitoring.register_callback(number, event, None)
            _monitoring.free_tool_id(number)
            self.forget()


_tool: Final = _Tool()


# --- Another tool's id ---------------------------------------------------------------------


class _BorrowedSkip(Skip):
    """Raises through the id of a tool that holds the last free one, and then gives it back."""

    __slots__ = ("_engaged", "_entered", "_trace")

    def __init__(self, frame: FrameType, offset: int) -> None:
        super().__init__(frame, offset)
        self._entered = entering(frame)
        self._engaged = False
        self._trace: Callable[..., Any] | None = None

    def engage(self) -> None:
        if self.frame is not None:
            self._engaged = True
            _loan.take(self.frame.f_code)
            _loan.waiting[id(self.frame)] = weakref.ref(self)

    def hear(self, frame: FrameType, offset: int) -> None:
        if offset == self.offset:
            self._trace, frame.f_trace = frame.f_trace, None
            self._error = ExitTracingException()
            raise self._error
        if offset == self._entered:
            self.disarm()  # the frame enters another `with`

    def disarm(self) -> None:
        frame = self.frame
        if frame is None:
            return
        self.frame = self._error = None
        if self._engaged:
            self._engaged = False
            _loan.waiting.pop(id(frame), None)
            _loan.give(frame.f_code)
        trace, self._trace = self._trace, None
        if trace is not None and frame.f_trace is None:
            frame.f_trace = trace

    def __del__(self) -> None:
        self.disarm()


class _Loan:
    """What we have of another tool's id, for as long as some skip is engaged."""

    def __init__(self) -> None:
        self.waiting: dict[int, weakref.ref[_BorrowedSkip]] = {}
        self._number = 0
        # id(code) -> how many skips are engaged in it, and whether the tool listens there itself.
        self._codes: dict[int, tuple[int, int]] = {}
        self._before: Callable[[CodeType, int], object] | None = None
        self._changing = RLock()

    def works(self) -> bool:
        """Whether events arrive that way."""
        self.take(CANARY)
        try:
            return monitoring_events_arrive()
        finally:
            self.give(CANARY)

    def take(self, code: CodeType) -> None:
        with self._changing:
            if not self._codes:
                held = [number for number in _TOOL_IDS if _get_tool(number) is not None]
                self._number = held[0] if held else _TOOL_IDS[0]
                before = self._register(self._hear)
                if before != self._hear:  # else an interrupt came when we were here before
                    self._before = before
            count, listens = self._codes.get(id(code), (0, 0))
            if not count:
                events = _monitoring.get_local_events(self._number, code)
                listens = events & _INSTRUCTION
                _set_local_events(self._number, code, events | _INSTRUCTION)
            self._codes[id(code)] = count + 1, listens

    def give(self, code: CodeType) -> None:
        with self._changing:
            count, listens = self._codes.get(id(code), (0, 0))
            if not count:
                return  # interrupted while it was taken
            if count > 1:
                self._codes[id(code)] = count - 1, listens
                return
            del self._codes[id(code)]
            if not listens and _get_tool(self._number) is not None:
                events = _monitoring.get_local_events(self._number, code)
                _set_local_events(self._number, code, events & ~_INSTRUCTION)
            if not self._codes:
                before, self._before = self._before, None
                current = self._register(before)
                if current != self._hear:
                    self._register(current)  # the tool has another one by now

    def _register(self, function: Any) -> Any:
        return _monitoring.register_callback(self._number, _INSTRUCTION, function)

    def _hear(self, code: CodeType, offset: int) -> object:
        frame = sys._getframe(1)
        reference = self.waiting.get(id(frame))
        skip = None if reference is None else reference()
        if skip is not None and skip.frame is frame:
            skip.hear(frame, offset)
        elif code is CANARY:
            _heard.add(get_ident())
        count, listens = self._codes.get(id(code), (0, 1))
        if self._before is None or not listens:
            return None
        answer = self._before(code, offset)
        # Its wish to hear no more from here has to wait: it would be ours, too.
        return None if count else answer


_loan: Final = _Loan()
