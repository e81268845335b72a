"""Which attributes of `self` a function can still get hold of from where it stands.

A model whose forward is suspended can call a child again only if it can still get hold of it. This
answers from the instructions alone, without running anything: from a given offset, which names are
loaded from `self` on some path to the end, or have been loaded and wait on the stack. Where the
function does anything with `self` that cannot be followed (hands it on, asks for an attribute by a
computed name), or puts the attribute away in a variable, the answer is "cannot tell".
"""

from __future__ import annotations

import dis
from bisect import bisect_right
from types import CodeType
from typing import Final

from .cut import Unit, decode, slot_names, target_of
from .facts import (
    HAVE_ARGUMENT,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NULL_IS_ABOVE_THE_CALLABLE,
    OPNAMES,
)
from .lift import Table
from .opcodes import (
    FAST_LOADS,
    FAST_PAIRS,
    GET_ITER,
    JUMPS,
    LEAVES,
    LOAD_CONST,
    LOAD_DEREF,
    LOAD_GLOBAL,
    LOAD_METHOD,
    PRECALL,
    PUSH_NULL,
    STORE_FAST,
    UNCONDITIONAL_JUMPS,
    numbers,
)

_LOADS: Final = numbers("LOAD_ATTR", "LOAD_METHOD")
_CALLS: Final = numbers("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_TAKES: Final = _CALLS | {PRECALL}
_STORES: Final = numbers("STORE_ATTR", "DELETE_ATTR")
_BY_CONSTANT: Final = frozenset({"getattr", "hasattr"})
_BY_NAME: Final = _BY_CONSTANT | {"vars", "locals", "eval", "exec", "super"}
_KEEPS_NOTHING: Final = frozenset({"hasattr", "super"})
_CONSUMED_AT_ONCE: Final = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>"})
_ITERATES: Final = frozenset({"enumerate", "zip"})


class Method:
    """The instructions of a method, read for what they do with `self`.

    Args:
        code: Of a function whose first argument is `self`.
    """

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.raw = code.co_code
        self._slots = slot_names(code)
        self._own = self._slots[0] if code.co_argcount else ""
        self._table = Table(code)
        self.units: list[Unit] = []
        offset = 0
        while offset < len(self.raw):
            unit = decode(self.raw, offset)
            self.units.append(unit)
            offset = unit.stop_offset
        self._starts = [unit.start_offset for unit in self.units]

    def index_of(self, offset: int) -> int:
        """The index of the instruction that *offset* lies in, its caches included."""
        return bisect_right(self._starts, offset) - 1

    def ahead(self, offset: int | None) -> frozenset[str] | None:
        """Names that can be loaded from `self` after *offset*, or have been and are still held.

        Args:
            offset: Bytes; None for the whole method.

        Returns:
            The names; None where something is done with `self` that cannot be followed.
        """
        if not self._own:
            return None
        found: set[str] = set()
        seen: set[int] = set()
        work: list[int] = []
        if offset is None:
            work.append(0)
        else:
            here = self.index_of(offset)
            if any(self._hands_on(index, here) for index in range(here)):
                return None
            found.update(self._held(here))
            unit = self.units[here]
            work.append(unit.stop_offset)
            entry = self._table.covering(unit.start_offset)
            if entry is not None:
                work.append(entry.target_offset)
        while work:
            at = work.pop()
            if at in seen or at >= len(self.raw):
                continue
            seen.add(at)
            index = self.index_of(at)
            names = self._loaded(index)
            if names is None:
                return None
            found.update(names)
            unit = self.units[index]
            entry = self._table.covering(at)
            if entry is not None:
                work.append(entry.target_offset)
            if unit.op in JUMPS:
                work.append(target_of(unit))
            if unit.op not in LEAVES and unit.op not in UNCONDITIONAL_JUMPS:
                work.append(unit.stop_offset)
        return frozenset(found)

    def _held(self, here: int) -> set[str]:
        """Names that may be held elsewhere than in `self` while the instruction *here* executes.

        In a variable, or on the stack for a call whose arguments are being worked out. An
        iteration over an attribute is no holding.
        """
        found = set()
        for index, unit in enumerate(self.units):
            if unit.op in _LOADS and self._on_own(index):
                call = self._call_of(index, unit)
                if (index < here < call) if call is not None else not self._is_iterated(index):
                    found.add(self._name(unit))
        return found

    def _hands_on(self, index: int, here: int) -> bool:
        """Whether what is done with `self` at *index* may still be under way at *here*.

        A call that took it as an argument and is over is trusted to have kept nothing.
        """
        if self._loaded(index) is not None:
            return False
        unit = self.units[index]
        if unit.op == LOAD_CONST:
            return self.code.co_consts[unit.arg].co_name not in _CONSUMED_AT_ONCE
        if unit.op == LOAD_GLOBAL:
            return self.code.co_names[unit.arg >> 1] not in _KEEPS_NOTHING
        if OPNAMES[unit.op] == "LOAD_SUPER_ATTR":
            return False
        is_below = unit.op in FAST_PAIRS and self._slots[unit.arg & 15] != self._own
        depth = 2 if is_below else 1
        for at in range(index + 1, len(self.units)):
            unit = self.units[at]
            argument = unit.arg if unit.op >= HAVE_ARGUMENT else None
            depth += dis.stack_effect(unit.op, argument, jump=False)
            if depth < 1:
                return unit.op not in _TAKES or here < at
        return True

    def _name(self, unit: Unit) -> str:
        shift = 0 if METHODS_HAVE_THEIR_OWN_LOAD else 1
        return self.code.co_names[unit.arg >> shift]

    def _on_own(self, index: int) -> bool:
        """Whether the attribute at *index* is loaded from `self`."""
        if not index:
            return False
        before = self.units[index - 1]
        if before.op in FAST_PAIRS:
            return self._slots[before.arg & 15] == self._own
        return (before.op in FAST_LOADS or before.op == LOAD_DEREF) and (
            self._slots[before.arg] == self._own
        )

    def _call_of(self, index: int, load: Unit) -> int | None:
        """The index of the call that calls what *index* loads; None if it is not called at once."""
        is_method = load.op == LOAD_METHOD or (not METHODS_HAVE_THEIR_OWN_LOAD and load.arg & 1)
        if not is_method and not self._stands_beside_null(index):
            return None
        # A method load pushes two.
        depth = floor = 2 if is_method else 1
        for at in range(index + 1, len(self.units)):
            unit = self.units[at]
            if unit.op == PUSH_NULL and at == index + 1:
                continue
            argument = unit.arg if unit.op >= HAVE_ARGUMENT else None
            depth += dis.stack_effect(unit.op, argument, jump=False)
            if depth < floor:
                return at if unit.op in _CALLS else None
        return None

    def _stands_beside_null(self, index: int) -> bool:
        """Whether a plain load is followed or, with `self`, preceded by the NULL of a call."""
        if NULL_IS_ABOVE_THE_CALLABLE:
            return self.units[index + 1].op == PUSH_NULL
        return index > 1 and self.units[index - 2].op == PUSH_NULL

    def _is_iterated(self, index: int) -> bool:
        """Whether the value goes into a `for` at once, as it is, sliced or enumerated."""
        for unit in self.units[index + 1 : index + 12]:
            if unit.op == GET_ITER:
                return True
            name = OPNAMES[unit.op]
            if name.startswith(("STORE_", "BUILD_", "LIST_", "POP_", "RETURN")) and (
                name not in ("BUILD_SLICE", "STORE_FAST_LOAD_FAST")
            ):
                return False
            if unit.op == STORE_FAST:
                return False
            if unit.op == LOAD_GLOBAL and self.code.co_names[unit.arg >> 1] not in _ITERATES:
                return False
        return False

    def _loaded(self, index: int) -> tuple[str, ...] | None:
        """The attribute that is loaded from `self` here, if one is; None where that is unclear."""
        unit = self.units[index]
        if unit.op in FAST_PAIRS:
            first, second = FAST_PAIRS[unit.op]
            if first in FAST_LOADS and self._slots[unit.arg >> 4] == self._own:
                return None
            if second not in FAST_LOADS or self._slots[unit.arg & 15] != self._own:
                return ()
        elif unit.op in FAST_LOADS or unit.op == LOAD_DEREF:
            if self._slots[unit.arg] != self._own:
                return ()
        elif unit.op == LOAD_CONST:
            nested = self.code.co_consts[unit.arg]
            # A nested function may use `self` at any time.
            return None if isinstance(nested, CodeType) and self._own in nested.co_freevars else ()
        elif OPNAMES[unit.op] == "LOAD_SUPER_ATTR":
            return None
        elif unit.op == LOAD_GLOBAL:
            name = self.code.co_names[unit.arg >> 1]
            if name in _BY_CONSTANT and self._asked_by_constant(index + 1) is not None:
                return ()
            return None if name in _BY_NAME else ()
        else:
            return ()
        following = self.units[index + 1] if index + 1 < len(self.units) else unit
        if following.op in _LOADS:
            return (self._name(following),)
        if following.op in _STORES:
            return ()
        constant = self._asked_by_constant(index)
        return None if constant is None else (constant,)

    def _asked_by_constant(self, index: int) -> str | None:
        """The name in `getattr(self, "name")`, if `self` is loaded for that at *index*."""
        units = self.units[index - 1 : index + 2]
        if index < 1 or len(units) < 3:
            return None
        function, own, constant = units
        if function.op != LOAD_GLOBAL or constant.op != LOAD_CONST or own.op not in FAST_LOADS:
            return None
        if self.code.co_names[function.arg >> 1] not in _BY_CONSTANT:
            return None
        value = self.code.co_consts[constant.arg]
        return value if isinstance(value, str) and self._slots[own.arg] == self._own else None
