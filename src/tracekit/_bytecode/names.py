"""Which names a body stores, where no further store can be reached, and what a function needs.

Blocks that share one run hand values to each other by name. A reader waits until its writer
stands where no store to the name can still be reached; that is a question about the writer's
instructions, answered here once per block.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Final

from .cut import (
    Unit,
    decode,
    global_names,
    names_read_by,
    slot_names,
    successors,
    walk_body,
)
from .opcodes import (
    FAST_PAIRS,
    LOAD_CONST,
    LOAD_FAST_AND_CLEAR,
    LOAD_GLOBAL,
    LOAD_NAME,
    STORE_FAST,
    numbers,
)

_SLOT_STORES: Final = numbers("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF")
_NAME_STORES: Final = numbers("STORE_NAME", "DELETE_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")
_SLOT_LOADS: Final = numbers("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF")
_ATTRIBUTE_LOADS: Final = numbers("LOAD_ATTR", "LOAD_METHOD")
_CALL_PREPARATIONS: Final = numbers("PUSH_NULL", "PRECALL", "KW_NAMES", "NOP")
_OUTWARD_STORES: Final = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"})


class StoreMap:
    """The stores of one body: which names can still be stored to from each instruction.

    Args:
        code: The code object that holds the block.
        enter_offset: Bytes; the instruction that enters the `with`.

    Attributes:
        always: Names that a function made in the body may store to, at any time.
        last: For each name the last instruction of the body that stores to it (bytes).
    """

    __slots__ = ("_after", "always", "last")

    def __init__(self, code: CodeType, enter_offset: int) -> None:
        walk = walk_body(code, enter_offset)
        names = slot_names(code)
        always: set[str] = set()
        own: dict[int, frozenset[str]] = {}
        for offset, unit in walk.units.items():
            own[offset] = frozenset(_stored(unit, code, names))
            if unit.op == LOAD_CONST and isinstance(code.co_consts[unit.arg], CodeType):
                # A function made here may be called at any time.
                always.update(_outward(code.co_consts[unit.arg]))
        self.always = frozenset(always)
        self.last = {name: offset for offset in sorted(own) for name in own[offset]}
        after = dict(own)
        changed = True
        while changed:
            changed = False
            for offset in sorted(walk.units, reverse=True):
                reached = after[offset]
                for following in successors(walk, walk.units[offset]):
                    reached = reached | after.get(following, frozenset())
                if reached != after[offset]:
                    after[offset] = reached
                    changed = True
        self._after = after

    def reachable(self, offset: int) -> frozenset[str]:
        """Names that can be stored to at *offset* (bytes, an instruction of the body) or after it.

        An offset that is not in the body stands for its end.
        """
        return self._after.get(offset, frozenset()) | self.always


def _stored(unit: Unit, code: CodeType, names: tuple[str, ...]) -> Iterator[str]:
    if unit.op in _SLOT_STORES:
        yield names[unit.arg]
    elif unit.op in _NAME_STORES:
        yield code.co_names[unit.arg]
    elif unit.op in FAST_PAIRS:
        first, second = FAST_PAIRS[unit.op]
        if first == STORE_FAST:
            yield names[unit.arg >> 4]
        if second == STORE_FAST:
            yield names[unit.arg & 15]


def read_first(code: CodeType, enter_offset: int) -> frozenset[str]:
    """Names that a body may load before it has stored to them.

    Args:
        code: The code object that holds the block.
        enter_offset: Bytes; the instruction that enters the `with`.
    """
    walk = walk_body(code, enter_offset)
    names = slot_names(code)
    # Where a comprehension is inlined, its own variable has the slot of a name for a while.
    borrowed = {names[unit.arg] for unit in walk.units.values() if unit.op == LOAD_FAST_AND_CLEAR}
    loads = {at: frozenset(_loaded(unit, code, names)) for at, unit in walk.units.items()}
    stores = {
        at: frozenset(_stored(unit, code, names)) - borrowed for at, unit in walk.units.items()
    }
    live = dict(loads)
    changed = True
    while changed:
        changed = False
        for at in sorted(walk.units, reverse=True):
            unit = walk.units[at]
            reached = loads[at]
            for following in successors(walk, unit):
                after = live.get(following, frozenset())
                # What is raised by a store has not stored.
                stays = following not in (unit.stop_offset, unit.start_offset)
                reached = reached | (after if stays else after - stores[at])
            if reached != live[at]:
                live[at] = reached
                changed = True
    return live.get(walk.first_offset, frozenset())


def _loaded(unit: Unit, code: CodeType, names: tuple[str, ...]) -> Iterator[str]:
    if unit.op in _SLOT_LOADS:
        yield names[unit.arg]
    elif unit.op in FAST_PAIRS:
        first, second = FAST_PAIRS[unit.op]
        if first != STORE_FAST:
            yield names[unit.arg >> 4]
        if second != STORE_FAST and (unit.arg >> 4 != unit.arg & 15 or first != STORE_FAST):
            yield names[unit.arg & 15]
    elif unit.op == LOAD_NAME:
        yield code.co_names[unit.arg]
    elif unit.op == LOAD_GLOBAL:
        yield code.co_names[unit.arg >> 1]
    elif unit.op == LOAD_CONST:
        nested = code.co_consts[unit.arg]
        if isinstance(nested, CodeType):
            yield from names_read_by(nested)


def _outward(code: CodeType) -> Iterator[str]:
    """Names outside itself that a nested function stores to."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in _OUTWARD_STORES and instruction.argval not in code.co_cellvars:
            yield instruction.argval
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _outward(const)


def names_beside(code: CodeType, call_offset: int) -> frozenset[str]:
    """Names whose value a call of `save` surely has: the one it is called on, the one it is bound to.

    `n.save()`, `save(n)` and `n = (...).save()` all give `n`.

    Args:
        code: The code object with the call.
        call_offset: Bytes; the call.
    """
    raw, slots = code.co_code, slot_names(code)
    units: list[Unit] = []
    offset = 0
    while offset <= call_offset and offset < len(raw):
        unit = decode(raw, offset)
        if unit.op not in _CALL_PREPARATIONS:
            units.append(unit)
        offset = unit.stop_offset
    found = set(_stored(decode(raw, offset), code, slots)) if offset < len(raw) else set()
    before = units[-2:-1]
    if before and before[0].op in _ATTRIBUTE_LOADS:
        before = units[-3:-2]
    for unit in before:
        if unit.op in _SLOT_LOADS:
            found.add(slots[unit.arg])
        elif unit.op in FAST_PAIRS:
            found.add(slots[unit.arg & 15])
        elif unit.op == LOAD_NAME:
            found.add(code.co_names[unit.arg])
    return frozenset(found)


def get_dependencies(function: Callable[..., Any]) -> dict[str, object]:
    """Give the globals and closed-over variables that *function* needs to run elsewhere.

    Equivalent to looking up every free name of its code, and of the code nested in it, in its
    closure and its module; builtins and names without a value are left out.

    Args:
        function: A Python function.

    Returns:
        Name to value. The live objects.

    Example:
        >>> scale = 3
        >>> def triple(x):
        ...     return abs(x) * scale
        >>> get_dependencies(triple)
        {'scale': 3}
    """
    code: CodeType = function.__code__
    namespace: dict[str, object] = function.__globals__
    found: dict[str, object] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not bound yet
    for name in global_names(code):
        if name in namespace and not (
            hasattr(builtins, name) and namespace[name] is getattr(builtins, name)
        ):
            found.setdefault(name, namespace[name])
    return found
