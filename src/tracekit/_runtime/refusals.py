"""Why a request is refused: who asks, and who stands between it and the block.

A request can be handed up through twins only. When it is refused, the frames tell who was not one:
code that calls the asking function although it cannot stand still itself.
"""

from __future__ import annotations

import sys
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE
from types import CodeType, FrameType
from typing import Final

from ..errors import CannotSuspendError
from .twins import ORIGINALS, is_marked, is_rewritten_file, package_of

_OURS: Final = __name__.partition(".")[0]
_COROUTINES: Final = CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE
_READ_FIRST: Final = "read the value in the block first, and hand it over"
_IN_C: Final = frozenset({"torch", "numpy"})
"""Libraries whose Python stands on their own C code, which rewriting does not reach."""


def cannot_wait(what: str, fix: str = "") -> CannotSuspendError:
    """The error for a request made by code that cannot stand still.

    Args:
        what: What is asked for, as the user writes it.
        fix: What to do; by default what helps against the reason found.
    """
    asking = _users(sys._getframe(1))
    if asking is None:
        return CannotSuspendError(f"{what} is asked for in code that cannot wait for the model")
    seen, advice = _reason(asking)
    return CannotSuspendError(
        f"{what} is asked for in {_name(asking.f_code)}, which cannot wait for the model",
        where=place(asking),
        seen=seen,
        why="a block waits as a generator, through the Python frames of the block and of the "
        "functions that it calls",
        fix=fix or advice,
    )


def stepped(name: str) -> tuple[str, str]:
    """Say who steps the generator *name*, to whom its requests cannot be handed, and what helps."""
    return _caller(_users(sys._getframe(1)), f"`{name}`", "stepped")


def place(frame: FrameType) -> str:
    """The file and line of a frame."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _users(frame: FrameType | None) -> FrameType | None:
    """The first frame, from *frame* on, that is not ours."""
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if type(name) is not str or name.partition(".")[0] != _OURS:
            return frame
        frame = frame.f_back
    return None


def _name(code: CodeType) -> str:
    return "text that is executed" if code.co_name == "<module>" else f"`{code.co_qualname}`"


def _is_twin(frame: FrameType) -> bool:
    return id(frame.f_code) in ORIGINALS


def _reason(asking: FrameType) -> tuple[str, str]:
    """What was seen, and what helps."""
    frame: FrameType | None = asking
    while frame is not None and not _is_twin(frame):
        code = frame.f_code
        name = _name(code)
        if is_marked(code):
            return (
                f"{name} is marked with `@tracekit.never_asks`",
                f"take the mark away, or {_READ_FIRST}",
            )
        if code.co_flags & _COROUTINES:
            return f"{name} is a coroutine", _READ_FIRST
        if code.co_name == "<module>":
            return "text given to `eval` or `exec`, or to a debugger, is not rewritten", _READ_FIRST
        if not is_rewritten_file(code.co_filename):
            return _library(frame, name)
        caller = _users(frame.f_back)
        if caller is None or _is_twin(caller) or not is_rewritten_file(caller.f_code.co_filename):
            return _caller(caller, name, "called")
        frame = caller
    return "", _READ_FIRST


def _library(frame: FrameType, name: str) -> tuple[str, str]:
    seen = f"{name} belongs to an installed library, and is not rewritten"
    return seen, _advice(frame.f_code)


def _caller(caller: FrameType | None, name: str, verb: str) -> tuple[str, str]:
    if caller is None:
        return f"{name} is {verb} by no Python code", _READ_FIRST
    code = caller.f_code
    if _is_twin(caller) or is_rewritten_file(code.co_filename):
        seen = f"{name} is {verb} by C code, from `{code.co_qualname}` ({place(caller)})"
        return seen, _READ_FIRST
    seen = f"{name} is {verb} by `{code.co_qualname}` ({place(caller)}), which is not rewritten"
    return seen, _advice(code)


def _advice(code: CodeType) -> str:
    package = package_of(code.co_filename)
    if not package or package in _IN_C:
        return _READ_FIRST
    return f'{_READ_FIRST}; or say `tracekit.touches_models("{package}")`'
