"""The caller's names: out of its frame before a block, back into it after.

A name of a function is a number in its frame's array of variables. The numbers are worked out
once per code object; after that the cost depends on the names asked for and not on how many the
function has. Reading, the real cells, and unbinding go through `memory.py` where its probe
succeeded; binding goes through the documented `f_locals` where that writes through.

Where frame memory is not available, documented means do what they can, and what they cannot do
(real cells; on 3.12 and 3.13 unbinding) is refused by name. Nothing is half done: a refusal is
raised before the first name is touched.
"""

from __future__ import annotations

import ctypes
import inspect
import weakref
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from types import CellType, CodeType, FrameType
from typing import Any, Final

from tracekit._bytecode.facts import F_LOCALS_WRITES_THROUGH
from tracekit._protocol import UNBOUND
from tracekit._runtime import memory
from tracekit.errors import NamesNotRestorableError

# Does `PyFrame_LocalsToFast(frame, 1)` unbind a local that is not in the snapshot?
#   3.11: yes.  3.12: it binds None, with a RuntimeWarning.  3.13: it does nothing, and the
#   proxy refuses to remove a key (PEP 667).
UNBINDS_THROUGH_F_LOCALS: Final = memory.snapshot_unbinds()


slots: Final = memory.slots
words: Final = memory.WORDS
_POINTER_AT: Final = memory.POINTER_AT
_ARRAY_AT: Final = memory.ARRAY_AT


class _Layout:
    """Where the names of one code object are."""

    __slots__ = ("array", "code", "indexes", "optimized", "places", "shared")

    def __init__(self, code: CodeType) -> None:
        indexes = {name: index for index, name in enumerate(code.co_varnames)}
        # An argument that is a cell keeps its slot; other cells follow the locals.
        count = len(indexes)
        for name in code.co_cellvars:
            if name not in indexes:
                indexes[name] = count
                count += 1
        # A name may be both: a free variable of the function and, where comprehensions are
        # inlined, the loop variable of one. Outside it the name means the free variable.
        for name in code.co_freevars:
            indexes[name] = count
            count += 1
        self.indexes = indexes
        self.shared = frozenset((*code.co_cellvars, *code.co_freevars))
        self.optimized = bool(code.co_flags & inspect.CO_OPTIMIZED)
        self.array: Any = ctypes.py_object * count
        # The indexes of names that were asked for together; `None`: cells are among them.
        self.places: dict[tuple[str, ...], tuple[int, ...] | None] = {}
        key = id(code)
        self.code = weakref.ref(code, lambda _gone: _layouts.pop(key, None))


# By id, because hashing a code object reads the whole of it, and equal ones differ in file name.
_layouts: Final[dict[int, _Layout]] = {}


def _layout(code: CodeType) -> _Layout:
    layout = _layouts.get(id(code))
    # Asked again, because the entry of a dead code object may still be there for a moment.
    if layout is None or layout.code() is not code:
        layout = _layouts[id(code)] = _Layout(code)
    return layout


def _contents(cell: object) -> object:
    # In the slot of a cell variable there is no cell yet before the function's first line, and
    # none while an inlined comprehension uses the slot for its own variable of that name.
    if type(cell) is not CellType:
        return cell
    try:
        return cell.cell_contents
    except ValueError:
        return UNBOUND


def _look_up(namespace: Mapping[str, Any], name: str) -> object:
    try:
        return namespace[name]
    except KeyError:
        return UNBOUND


def _check(indexes: Mapping[str, int], names: Iterable[str]) -> None:
    for name in names:
        if name not in indexes:
            raise KeyError(name)


def pull(frame: FrameType, names: tuple[str, ...]) -> list[object]:
    """Read variables of a frame.

    Equivalent to naming each in the frame, except that a name without a value gives `UNBOUND`
    and that no global or builtin is looked for.

    Args:
        frame: A frame that is executing, or a suspended generator's.
        names: Variables of the frame's code. In a frame with a namespace of its own (a module,
            a class body, `exec`) any names.

    Returns:
        The values, in the order of *names*; for cells their contents. The live objects.

    Raises:
        KeyError: A function has no such variable.
    """
    code = frame.f_code
    layout = _layouts.get(id(code))
    if layout is None or layout.code() is not code:
        layout = _layout(code)
    if not layout.optimized:
        return _pull_from_namespace(frame, layout, names)
    if not memory.AVAILABLE:
        _check(layout.indexes, names)
        snapshot = frame.f_locals
        return [_look_up(snapshot, name) for name in names]
    try:
        places = layout.places[names]
    except KeyError:
        places = _note_places(layout, names)
    if places is not None:
        start = slots(frame)
        array = layout.array.from_address((start + 1) << 3)
        # Asked for as a word first: to ask an empty slot for its object costs an exception.
        return [array[index] if words[start + index] else UNBOUND for index in places]
    indexes, shared = layout.indexes, layout.shared
    array = layout.array.from_address(memory.address(frame))
    values: list[object] = []
    for name in names:
        try:
            value = array[indexes[name]]
        except ValueError:  # ctypes: "PyObject is NULL"
            value = UNBOUND
        values.append(_contents(value) if name in shared else value)
    return values


def _note_places(layout: _Layout, names: tuple[str, ...]) -> tuple[int, ...] | None:
    indexes = layout.indexes
    places = None
    if layout.shared.isdisjoint(names):
        places = tuple(indexes[name] for name in names)
    layout.places[names] = places
    return places


def _pull_from_namespace(frame: FrameType, layout: _Layout, names: Sequence[str]) -> list[object]:
    namespace = frame.f_locals
    values = [_look_up(namespace, name) for name in names]
    for position, name in enumerate(names):
        if values[position] is UNBOUND and name in layout.shared and memory.AVAILABLE:
            values[position] = _contents(memory.read_slot(frame, layout.indexes[name]))
    return values


def cells(frame: FrameType, names: Sequence[str]) -> tuple[CellType, ...]:
    """Give the real cells of a frame: what closures made in it share with it.

    Equivalent to the `__closure__` of a function that is made in the frame and uses *names*.

    Args:
        frame: As for `pull`, past the first instruction of its code.
        names: Cell and free variables of the frame's code.

    Returns:
        The frame's own cells, in the order of *names*.

    Raises:
        NamesNotRestorableError: `names-not-restorable`. Frame memory is not available.
        KeyError: The code has no such cell or free variable.
    """
    if not memory.AVAILABLE:
        raise NamesNotRestorableError(
            f"the block shares {_listed(names)} with a closure",
            why="the cells of a running function cannot be reached on this Python",
            fix="use the function form: `model.trace(...).run(fn)`",
        )
    layout = _layout(frame.f_code)
    found = []
    for name in names:
        cell = memory.read_slot(frame, layout.indexes[name])
        if type(cell) is not CellType:
            raise KeyError(name)
        found.append(cell)
    return tuple(found)


def share_cells(source: FrameType, target: FrameType, names: Sequence[str]) -> None:
    """Let two frames share variables, as a function and its closure do.

    Whatever is in the slots of *source* goes into those of *target*: the cells themselves, or
    nothing where an inlined comprehension has not made its cell yet.

    Args:
        source: A frame that is executing.
        target: The frame of a generator that has not started.
        names: Cell variables of both frames' code.

    Raises:
        NamesNotRestorableError: `names-not-restorable`. Frame memory is not available.
    """
    if not memory.AVAILABLE:
        cells(source, names)
    here, there = _layout(source.f_code).indexes, _layout(target.f_code).indexes
    for name in names:
        memory.write_slot(target, there[name], memory.read_slot(source, here[name]))


def fill_cells(target: FrameType, names: Sequence[str], given: Sequence[CellType]) -> None:
    """Put cells into a frame, which then shares their variables.

    Args:
        target: The frame of a generator that has not started.
        names: Cell variables of its code.
        given: A cell for each.
    """
    indexes = _layout(target.f_code).indexes
    for name, cell in zip(names, given, strict=True):
        memory.write_slot(target, indexes[name], cell)


def exchange(
    frame: FrameType, ended: FrameType, places: tuple[tuple[int, int, bool], ...]
) -> list[object]:
    """Move what a frame that has ended has bound into another frame.

    Equivalent to `push` of what differs, without counting references: the two slots of a name
    change their contents, and what was in the other frame goes away with the one that has ended.

    Args:
        frame: As for `push`; must be a function's.
        ended: Not used for anything else after this.
        places: As `places_of` gives them.

    Returns:
        What is bound in *frame* now and was not before.
    """
    # As `slots`, twice.
    start = (words[(id(frame) >> 3) + _POINTER_AT] >> 3) + _ARRAY_AT
    other = (words[(id(ended) >> 3) + _POINTER_AT] >> 3) + _ARRAY_AT
    objects: Any = None
    bound: list[object] = []
    for index, at, is_read in places:
        new = words[other + at]
        old = words[start + index]
        if new == old or not (new or is_read):
            continue
        # No signal is handled and no other thread runs between the two.
        words[start + index], words[other + at] = new, old
        if new:
            if objects is None:
                objects = _layouts[id(frame.f_code)].array.from_address((start + 1) << 3)
            bound.append(objects[index])
    return bound


def places_of(
    code: CodeType, other: CodeType, names: Iterable[str], read: Iterable[str]
) -> tuple[tuple[int, int, bool], ...]:
    """Say where names are in the frames of two code objects, for `exchange`.

    Args:
        code: A function's.
        other: Has the same names as plain locals.
        names: Plain locals of both.
        read: Those of them that *other* starts with; what it leaves unbound of the rest was never
            bound in it, and keeps its value.
    """
    here, there = _layout(code).indexes, _layout(other).indexes
    given = set(read)
    return tuple((here[name], there[name], name in given) for name in names)


def unbinds(code: CodeType) -> bool:
    """Whether `push` can unbind variables: to refuse a block before it runs.

    Args:
        code: The code of the frame that would be pushed to.

    Returns:
        False only for a function on a Python that has neither frame memory nor other means.
    """
    return memory.AVAILABLE or UNBINDS_THROUGH_F_LOCALS or not _layout(code).optimized


def push(frame: FrameType, bindings: Mapping[str, object]) -> None:
    """Bind and unbind variables of a frame.

    Equivalent to assignments (for `UNBOUND`: `del`, without an error if there is no value) in
    the frame. Cell variables are written through their cells, so closures see them.

    Args:
        frame: A frame that is executing, or a suspended generator's. Not one whose trace
            function is being called on 3.11 or 3.12: that call ends with the restoring of a
            snapshot.
        bindings: Name to value; `UNBOUND` unbinds. Names as for `pull`.

    Raises:
        NamesNotRestorableError: `names-not-restorable`. A local cannot be unbound on this Python.
            Nothing was changed.
        KeyError: A function has no such variable. Nothing was changed.
    """
    code = frame.f_code
    layout = _layouts.get(id(code))
    if layout is None or layout.code() is not code:
        layout = _layout(code)
    if not layout.optimized:
        namespace: Any = frame.f_locals
        for name, value in bindings.items():
            if value is not UNBOUND:
                namespace[name] = value
            elif name in namespace:
                del namespace[name]
        return
    indexes = layout.indexes
    if not bindings.keys() <= indexes.keys():
        _check(indexes, bindings)
    if not memory.AVAILABLE:
        _push_by_documented_means(frame, bindings)
        return
    shared = layout.shared
    start = -1
    for name, value in bindings.items():
        index = indexes[name]
        if name in shared:
            cell = memory.read_slot(frame, index)
            if type(cell) is CellType:
                _fill(cell, value)
                continue
        if F_LOCALS_WRITES_THROUGH and value is not UNBOUND:
            _proxy(frame)[name] = value
            continue
        if start < 0:
            start = slots(frame)
        memory.store(start + index, value)


def _proxy(frame: FrameType) -> MutableMapping[str, Any]:
    return frame.f_locals


def _fill(cell: CellType, value: object) -> None:
    if value is not UNBOUND:
        cell.cell_contents = value
        return
    try:
        del cell.cell_contents
    except ValueError:
        return  # empty already


def _push_by_documented_means(frame: FrameType, bindings: Mapping[str, object]) -> None:
    snapshot = _proxy(frame)
    unbound = [name for name, value in bindings.items() if value is UNBOUND and name in snapshot]
    if unbound and not UNBINDS_THROUGH_F_LOCALS:
        raise NamesNotRestorableError(
            f"the block leaves {_listed(unbound)} without a value",
            why="this Python has no means to unbind a local of a running function",
            fix=f"assign instead of deleting, for instance `{unbound[0]} = None`",
        )
    for name, value in bindings.items():
        if value is not UNBOUND:
            snapshot[name] = value
    for name in unbound:
        del snapshot[name]
    memory.snapshot_to_frame(frame, unbind=bool(unbound))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
