"""Tracebacks as if the block had run in place: the user's frames, at the user's lines.

An error of a block leaves our `__enter__` or `__exit__`, and the interpreter notes what it comes
through: the caller's frame at the line of the `with`, our frames, the frame of the block's twin,
and the frames below. Inline there would be one entry for the caller's frame, at the failing
instruction, and the frames below. Ours are cut out while the error is still in our hands
(`trim`). The entry of the caller's frame does not exist yet then: the interpreter makes it when
the error arrives there, just before it tells tools about it. So `finish_raising` listens to that
one event, puts the entry right, and stops listening: the callback of a `sys.monitoring` RAISE
event (3.12+), or an `exception` trace event of that one frame (3.11; no tool id).

If a traceback does not have the shape described, it is left whole. `TRACEKIT_DEBUG=1` in the
environment leaves all of them whole.

Things that don't work:

* A local RAISE event: there is none; RAISE is global or nothing.
* Making the entry beforehand: the interpreter adds its own on top.
* Assigning `__traceback__` in an `exception` trace event of 3.11: the interpreter puts the one it
  had fetched back. There the entry itself is changed.
"""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path
from threading import RLock, get_ident
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from tracekit._bytecode.facts import HAS_MONITORING, OPMAP
from tracekit._runtime import memory, skip
from tracekit._runtime.tracedskip import TracedSkip, trace_events_arrive
from tracekit._runtime.twins import ORIGINALS
from tracekit.errors import InternalError, TracekitError

OWN_CODES: Final[set[int]] = set()
"""ids of code objects that are ours without lying in the package; who adds one keeps it alive."""

_PACKAGE: Final = str(Path(__file__).resolve().parents[1]) + os.sep

_monitoring: Final[Any] = sys.monitoring if HAS_MONITORING else None  # type: ignore[attr-defined,unused-ignore]
_RAISE: Final[int] = _monitoring.events.RAISE if HAS_MONITORING else 0

# A frame that stands at one of these is inside a `with` statement's enter or exit.
_ENTERING_OR_LEAVING: Final = {OPMAP.get("BEFORE_WITH"), OPMAP.get("WITH_EXCEPT_START")}


def add_note_once(error: BaseException, text: str) -> None:
    """Add a note to an error, unless it has that very note.

    Equivalent to `error.add_note(text)`, except that saying it twice says it once.

    Args:
        error: Any exception.
        text: The note.
    """
    if text not in getattr(error, "__notes__", ()):
        error.add_note(text)


def is_ours(code: CodeType) -> bool:
    """Whether a code object is a part of tracekit and no user's."""
    return code.co_filename.startswith(_PACKAGE) or id(code) in OWN_CODES


def _keeps_all() -> bool:
    return os.environ.get("TRACEKIT_DEBUG", "") not in {"", "0"}


def trim(error: BaseException) -> None:
    """Cut our own frames out of an error's traceback.

    Equivalent to the same error raised without us in between. The entries that stay are the
    same objects, linked anew. Left whole: an error of ours that tells of a bug, and a traceback
    of our frames only (other errors of ours are about the code that called us, and lose it).

    Args:
        error: Its `__traceback__` is changed.
    """
    if _keeps_all() or isinstance(error, InternalError):
        return
    kept = []
    ours = False
    entry = error.__traceback__
    while entry is not None:
        if is_ours(entry.tb_frame.f_code):
            ours = True
        else:
            kept.append(entry)
        entry = entry.tb_next
    if not ours or not (kept or isinstance(error, TracekitError | BaseExceptionGroup)):
        return
    following = None
    for entry in reversed(kept):
        if entry.tb_next is not following:
            entry.tb_next = following
        following = entry
    error.__traceback__ = following


def finish_raising(error: BaseException, frame: FrameType | None = None) -> None:
    """Make the traceback of an error that is about to leave `__enter__` or `__exit__` right.

    Equivalent, for whoever catches the error outside, to the block having run in place. To be
    called in the `except` block that caught the error, right before its bare `raise`; a
    `raise error` would add an entry and replace the error's context.

    Args:
        error: What is being raised.
        frame: The frame that executes the `with`; found up the stack if not given. In the
            function form there is none, and our frames are cut out, no more.
    """
    sweep()
    if _keeps_all():
        return
    trim(error)
    body = _body_entry(error)
    if body is None:
        # The group that an `except*` makes anew is raised without an entry for its frame.
        if frame is not None and isinstance(error, BaseExceptionGroup) and not error.__traceback__:
            _place_when_raised(_Placing(error, frame, None, 0))
        return
    original = ORIGINALS[id(body.tb_frame.f_code)].original
    owner = _find_owner(original) if frame is None else frame
    if owner is None or not _is_of(owner.f_code, original):
        return
    offset = _same_place(owner.f_code, body)
    if offset is not None:
        _place_when_raised(_Placing(error, owner, body, offset))


def _body_entry(error: BaseException) -> TracebackType | None:
    """The entry of the twin that left us: the first, but for frames of delegating wrappers."""
    entry = error.__traceback__
    while entry is not None and id(entry.tb_frame.f_code) not in ORIGINALS:
        entry = entry.tb_next
    return entry


def _is_of(code: CodeType, original: CodeType) -> bool:
    twin = ORIGINALS.get(id(code))
    return code is original or (twin is not None and twin.original is original)


def _find_owner(original: CodeType) -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if _is_of(frame.f_code, original):
            # `run` of a function that calls itself has the same code above it, at a call.
            is_with = frame.f_code.co_code[frame.f_lasti] in _ENTERING_OR_LEAVING
            return frame if is_with else None
        frame = frame.f_back
    return None


def _same_place(code: CodeType, entry: TracebackType) -> int | None:
    """Where in *code* the instruction stands that the entry's frame failed at.

    Found by its position in the source text, which twins keep: it is what will be shown.
    """
    positions = entry.tb_frame.f_code.co_positions()
    wanted = next(islice(positions, entry.tb_lasti // 2, None), None)
    if wanted is None:
        return None
    for index, position in enumerate(code.co_positions()):
        if position == wanted:
            return 2 * index
    return None


# --- The entry of the caller's frame -------------------------------------------------------

# id(error) -> what its traceback shall be when it arrives in which frame. Global events are on
# as long as there is one.
PENDING: Final[dict[int, _Placing]] = {}
# One thread must not switch the events off between another's entry and its switching them on.
# Reentrant, for what signal handlers and finalizers do.
_switching: Final = RLock()


class _Placing:
    """What is to be put right when an error arrives in a frame."""

    __slots__ = ("body", "error", "found", "frame", "lineno", "offset", "thread")

    def __init__(
        self, error: BaseException, frame: FrameType, body: TracebackType | None, offset: int
    ) -> None:
        self.error = error
        self.frame = frame
        self.body = body
        self.offset = offset
        # An interrupt may come where the block has no line yet: before its first one.
        self.lineno = 0 if body is None else (body.tb_lineno or frame.f_lineno)
        self.thread = get_ident()
        self.found: Any = None

    def replace(self) -> None:
        self.error.__traceback__ = (
            None
            if self.body is None
            else TracebackType(self.body.tb_next, self.frame, self.offset, self.lineno)
        )

    def listen(self, number: int) -> None:
        with _switching:
            PENDING[id(self.error)] = self
            _monitoring.register_callback(number, _RAISE, _on_raise)
            _monitoring.set_events(number, _RAISE)
        # Trace functions are told before us. One that watches the frame hears through us.
        if sys.gettrace() is not None and self.frame.f_trace is not None:
            self.found = self.frame.f_trace
            self.frame.f_trace = self.tell

    def tell(self, frame: FrameType, event: str, argument: Any) -> Any:
        found = self.found
        if event == "exception" and argument[1] is self.error:
            self.replace()
            argument = (argument[0], argument[1], self.error.__traceback__)
        self.forget()
        return found(frame, event, argument)

    def forget(self) -> None:
        if self.found is not None:
            if self.frame.f_trace == self.tell:
                self.frame.f_trace = self.found
            self.found = None
        with _switching:
            PENDING.pop(id(self.error), None)
            if not PENDING:
                _stop_listening()


def _place_when_raised(placing: _Placing) -> None:
    number = skip.tool_id()
    if number is None:
        if HAS_MONITORING and len(sys._current_frames()) > 1:
            return  # tracing is not safe then: the line of the `with` stays, the block's follows it
        if trace_events_arrive():
            _TracedPlacing(placing).engage()
    elif skip.monitoring_events_arrive():
        placing.listen(number)


def _on_raise(_code: CodeType, _offset: int, error: BaseException) -> None:
    placing = PENDING.get(id(error))
    if placing is not None and placing.frame is sys._getframe(1):
        placing.replace()
        placing.forget()


def _stop_listening() -> None:
    number = skip.held_tool_id()
    if number is not None:
        _monitoring.set_events(number, 0)
        _monitoring.register_callback(number, _RAISE, None)


def sweep() -> None:
    """Forget errors of this thread that never arrived where they were awaited.

    A wrapper between us and the caller's frame has swallowed them, or what it did about them has
    led to another block. Nothing is changed but that we no longer listen.
    """
    if PENDING:
        thread = get_ident()
        for placing in list(PENDING.values()):
            if placing.thread == thread:
                placing.forget()


class _TracedPlacing(TracedSkip):
    """The same by tracing the one frame."""

    __slots__ = ("_placing",)

    def __init__(self, placing: _Placing) -> None:
        super().__init__(placing.frame, -1)
        self._placing: _Placing | None = placing

    def in_frame(self, frame: FrameType, event: str, argument: Any) -> Any:
        placing = self._placing
        self._placing = None
        if placing is not None and event == "exception" and argument[1] is placing.error:
            if HAS_MONITORING:
                placing.replace()
                argument = (argument[0], argument[1], argument[1].__traceback__)
            elif placing.body is not None:
                entry: TracebackType = argument[2]
                moved = memory.move_entry(entry, placing.offset, placing.lineno)
                # Else the line of the `with` stays, and the block's own entry follows it.
                entry.tb_next = placing.body.tb_next if moved else placing.body
        # Whatever else happens in the frame first, the error has not come to it.
        self._entered = frame.f_lasti
        return super().in_frame(frame, event, argument)
