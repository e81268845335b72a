"""Frame memory: the few things about a live frame that no documented call can do.

A running function keeps its variables in an array inside the interpreter's own frame structure:
first the locals, then the cells, then the free variables. Reading it gives the *cells* (so that a
closure made in a block shares variables with the caller), and storing NULL in it unbinds a name,
for which 3.12 and 3.13 have no documented means. Everything that depends on where this array
lies is in this file, and `AVAILABLE` is true only if a probe at import has found it.

Things that don't work:

* `frame.f_locals`: gives contents, never cells; on 3.12 "unbinding" through it binds `None`.
* A shared ctypes object that is pointed at one frame after another: another thread, or a signal
  handler, comes between the pointing and the reading. Each access makes its own.
* Storing through `ctypes.py_object`: the reference then belongs to the ctypes object and not to
  the frame. So a slot is written as an integer, with the references counted by hand.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import CellType, CodeType, FrameType, TracebackType
from typing import Any, Final

from tracekit._protocol import UNBOUND

_WORD: Final = ctypes.sizeof(ctypes.c_void_p)
_object_at: Final = ctypes.py_object.from_address
_word_at: Final = ctypes.c_size_t.from_address


def _declare(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Give a function of CPython's C interface its types; a function of ours, not shared."""
    prototype = ctypes.PYFUNCTYPE(result, *arguments)
    return prototype((name, ctypes.pythonapi))


_incref: Final = _declare("Py_IncRef", None, ctypes.py_object)
_decref_address: Final = _declare("Py_DecRef", None, ctypes.c_size_t)
_set_handled: Final = _declare("PyErr_SetHandledException", None, ctypes.py_object)
_locals_to_fast: Final = _declare("PyFrame_LocalsToFast", None, ctypes.py_object, ctypes.c_int)
_eval_code_ex: Final = _declare(
    "PyEval_EvalCodeEx",
    ctypes.py_object,
    *(ctypes.py_object,) * 3,  # code, globals, locals
    *(ctypes.c_void_p, ctypes.c_int) * 3,  # arguments, keyword arguments, defaults
    ctypes.c_void_p,  # keyword defaults
    ctypes.py_object,  # closure
)


# --- Where the array lies ------------------------------------------------------------------


def _probe(argument: object, nothing: None, shared: object) -> Iterator[object]:
    """Suspends with variables whose order in the array is known: see `_matches`."""
    local = object()
    yield (argument, nothing, local, lambda: shared)
    # Bound only here, so that its slot is NULL while the probe is suspended.
    late = local
    yield late


def _matches(words: list[int], seen: tuple[Any, ...]) -> bool:
    # `nothing` is in there because an interpreter that tags pointers tags those to immortal
    # objects first (3.14 does): then no offset matches, and nothing is touched.
    argument, nothing, local, closure = seen
    (cell,) = closure.__closure__
    return words == [id(argument), id(nothing), id(cell), id(local), 0]


def _find_layout() -> tuple[int, int] | None:
    """Find the two offsets, reading only memory that is known to be ours.

    A suspended generator holds its interpreter frame inside itself. So the pointer looked for
    is the one word of the frame object that points into the generator, and the array is looked
    for between there and the generator's end.

    Returns:
        Bytes from a frame object to the pointer, bytes from where it points to the array; or
        None if nothing fits exactly.
    """
    if (
        sys.implementation.name != "cpython"
        or _WORD != 8
        or hasattr(sys, "gettotalrefcount")  # debug build: reference counts are checked there
        or object.__basicsize__ != 2 * _WORD  # free-threaded or traced references
    ):
        return None
    suspended: Any = _probe(object(), None, object())
    seen: Any = next(suspended)
    frame = suspended.gi_frame
    first, last = id(suspended), id(suspended) + suspended.__sizeof__()
    found = []
    for pointer in range(2 * _WORD, type(frame).__basicsize__ - _WORD + 1, _WORD):
        inner = _word_at(id(frame) + pointer).value
        if not (first < inner < last) or inner % _WORD:
            continue
        for array in range(0, last - inner - 5 * _WORD + 1, _WORD):
            words = [_word_at(inner + array + _WORD * i).value for i in range(5)]
            if _matches(words, seen):
                found.append((pointer, array))
    suspended.close()
    return found[0] if len(found) == 1 else None


def _holds_for_running_functions(pointer: int, array: int) -> bool:
    """Check the offsets on a function that is running, whose frame lies elsewhere."""

    def running(one: object, two: object) -> list[object]:
        frame = sys._getframe()
        base = _word_at(id(frame) + pointer).value + array
        words = [_word_at(base + _WORD * i).value for i in range(3)]
        return [words == [id(one), id(two), id(frame)], one, two]

    return running(object(), 1)[0] is True


_LAYOUT: Final = _find_layout()
_POINTER, _ARRAY = _LAYOUT if _LAYOUT is not None else (0, 0)

AVAILABLE: bool = _LAYOUT is not None and _holds_for_running_functions(*_LAYOUT)
"""Whether slots can be read and written on this interpreter."""


# --- Reading and writing -------------------------------------------------------------------


def _all_memory() -> Any:
    """One view of the whole address space: an object for each access takes several times as long.

    It points nowhere in particular, so threads and signal handlers can share it.
    """
    if not AVAILABLE:
        return []
    view = _declare(
        "PyMemoryView_FromMemory", ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
    )
    readable_and_writable = 0x200
    # From the second word on: nothing may begin at address 0.
    whole: memoryview = view(_WORD, sys.maxsize // _WORD * _WORD - _WORD, readable_and_writable)
    return whole.cast("P")


POINTER_AT: Final = _POINTER // _WORD - 1
ARRAY_AT: Final = _ARRAY // _WORD - 1
"""How `slots` finds the array, for functions that must not make a call for it."""

WORDS: Final[Any] = _all_memory()
"""The word at address a is at a // 8 - 1; see `slots`."""


def slots(frame: FrameType) -> int:
    """Where in `WORDS` a frame's array of variables begins.

    Args:
        frame: As for `read_slot`; must be running, suspended or held for as long as this is used.

    Returns:
        The index of its first slot. A slot holds the address of an object, or 0.
    """
    start: int = (WORDS[(id(frame) >> 3) + POINTER_AT] >> 3) + ARRAY_AT
    return start


def read_slot(frame: FrameType, index: int) -> object:
    """Read one slot of a frame's array of variables.

    Equivalent to naming the variable in the frame, except that a cell comes out as the cell.
    Call it only where `AVAILABLE`.

    Args:
        frame: A frame of a function, generator or coroutine, running, suspended or finished.
        index: Counted from the first local; cells that are no arguments follow the locals, free
            variables follow them. Not checked: it must be inside the array of the frame's code.

    Returns:
        The object in the slot, or `UNBOUND` where there is none.

    Source:
        https://github.com/python/cpython/blob/3.12/Include/internal/pycore_frame.h
    """
    try:
        return _object_at((slots(frame) + index + 1) * _WORD).value
    except ValueError:  # ctypes: "PyObject is NULL"
        return UNBOUND


def address(frame: FrameType) -> int:
    """Where a frame's array of variables is, for reading or writing several of them.

    Args:
        frame: As for `read_slot`; must be running or suspended for as long as the address is used.

    Returns:
        For `from_address` of a ctypes array of `py_object`, which gives the object in a slot, or
        raises ValueError where there is none. Such an array owns nothing.
    """
    return (slots(frame) + 1) * _WORD


def write_slot(frame: FrameType, index: int, value: object) -> None:
    """Store an object in one slot of a frame's array of variables, or empty it.

    Equivalent to an assignment (for `UNBOUND`: a `del`) in the frame, except that a cell in the
    slot is replaced and not filled. The old object is dropped after the write, so its finalizer
    sees the new state.

    Args:
        frame: As for `read_slot`.
        index: As for `read_slot`.
        value: Any object; `UNBOUND` empties the slot.
    """
    store(slots(frame) + index, value)


def store(index: int, value: object) -> None:
    """Store an object in one slot, or empty it; see `write_slot`.

    Args:
        index: In `WORDS`.
        value: Any object; `UNBOUND` empties the slot.
    """
    new = 0 if value is UNBOUND else id(value)
    old = WORDS[index]
    # The interpreter handles signals when a call has returned: nothing comes between the write
    # and the end of the call that counts it, and what that raises does not skip the other.
    WORDS[index] = new
    try:
        if new:
            _incref(value)
    finally:
        if old:
            _decref_address(old)


# --- The snapshot of 3.11 and 3.12 ---------------------------------------------------------


def snapshot_to_frame(frame: FrameType, *, unbind: bool = False) -> None:
    """Write what was changed in `frame.f_locals` back into the frame.

    Needed where `f_locals` is a snapshot; does nothing where it writes through. Between the
    fetching of `frame.f_locals` and this call it must not be fetched again.

    Args:
        frame: The frame.
        unbind: Whether a name that is missing in the snapshot is to be unbound (see
            `snapshot_unbinds`), or left alone.

    Source:
        What debuggers do: https://github.com/python/cpython/blob/3.11/Objects/frameobject.c
    """
    _locals_to_fast(frame, int(unbind))


def snapshot_unbinds() -> bool:
    """Probe whether deleting from `f_locals` and writing back unbinds a local."""

    def probe(name: int) -> bool:
        frame = sys._getframe()
        snapshot: Any = frame.f_locals
        try:
            del snapshot["name"]
        except (TypeError, ValueError):
            return False
        snapshot_to_frame(frame, unbind=True)
        # Looked up in a new snapshot: naming it here would read an empty slot unchecked.
        return "name" not in frame.f_locals

    with warnings.catch_warnings():
        # 3.12: "assigning None to unbound local".
        warnings.simplefilter("ignore", RuntimeWarning)
        return probe(1)


# --- Where a traceback entry points --------------------------------------------------------


def _find_entry_position() -> int | None:
    """Bytes from a traceback entry to its pair of C ints `tb_lasti`, `tb_lineno`."""
    entry = TracebackType(None, sys._getframe(), 0x1234, 0x5678)
    pair = (ctypes.c_int * 2).from_address
    places = range(2 * _WORD, TracebackType.__basicsize__ - _WORD + 1, 4)
    found = [place for place in places if list(pair(id(entry) + place)) == [0x1234, 0x5678]]
    if sys.implementation.name != "cpython" or len(found) != 1:
        return None
    pair(id(entry) + found[0])[:] = [2, 1]
    return found[0] if (entry.tb_lasti, entry.tb_lineno) == (2, 1) else None


_POSITION: Final = _find_entry_position()


def move_entry(entry: TracebackType, offset: int, lineno: int) -> bool:
    """Let a traceback entry point at another instruction of its frame.

    Needed where an entry cannot be replaced by a new one, because the interpreter holds it.

    Args:
        entry: Changed in place.
        offset: Bytes from the start of the frame's `co_code`.
        lineno: The line that is shown.

    Returns:
        Whether it was done.
    """
    if _POSITION is None:
        return False
    (ctypes.c_int * 2).from_address(id(entry) + _POSITION)[:] = [offset, lineno]
    return True


# --- The interpreter's state ---------------------------------------------------------------


def set_handled_exception(error: BaseException | None) -> None:
    """Say which exception is being handled by the code that called us.

    Equivalent to being inside, or for None outside, an `except` block for *error*: what
    `sys.exception()`, a bare `raise` and a new error's `__context__` then see.

    Args:
        error: The exception, or None for none.

    Source:
        https://docs.python.org/3/c-api/exceptions.html#c.PyErr_SetHandledException
    """
    _set_handled(error)


def eval_code_with_closure(
    code: CodeType,
    globals: dict[str, Any],  # noqa: A002, the names of `eval`
    locals: Mapping[str, Any],  # noqa: A002
    closure: tuple[CellType, ...],
) -> object:
    """Run a code object that has both a namespace of its own and free variables.

    Equivalent to `eval(code, globals, locals)`, except that *code* may have free variables,
    which `eval` refuses: the body of a class inside a function.

    Args:
        code: Takes no arguments. If it is a generator's, the generator is returned.
        globals: A real dict.
        locals: Any mapping; where `LOAD_NAME` and `STORE_NAME` look.
        closure: One cell for each name in `code.co_freevars`, in that order.

    Returns:
        What the code returned.

    Raises:
        TypeError: The arguments do not fit *code*; nothing was run.

    Source:
        CPython's own `exec` of code with a closure, `Python/bltinmodule.c`, which demands a
        plain function's code: https://docs.python.org/3/library/functions.html#exec
    """
    if type(globals) is not dict:
        message = f"globals must be a dict, not {type(globals).__name__}"
        raise TypeError(message)
    expected = len(code.co_freevars)
    if type(closure) is not tuple or [type(cell) for cell in closure] != [CellType] * expected:
        message = f"closure must be a tuple of {expected} cells, for {code.co_freevars}"
        raise TypeError(message)
    return _eval_code_ex(code, globals, locals, None, 0, None, 0, None, 0, None, closure)
