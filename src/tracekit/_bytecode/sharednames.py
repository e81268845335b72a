"""Checks of names that several blocks of one run share.

A block may read what another one binds. Then the load of such a name waits, if need be, for the
block that binds it; the name is bound here, too, and loaded as it stands. Stores and deletions are
reported. Where somebody else may read the name without such a load (a function that is made here,
a block that is entered here), the wait comes before that.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Final

from .._protocol import UNBOUND
from ..errors import TracekitError
from .cut import names_read_by
from .inserting import Handle, Inserter
from .names import read_first
from .opcodes import (
    BEFORE_WITH,
    COPY,
    DELETE_DEREF,
    DELETE_FAST,
    DELETE_GLOBAL,
    DELETE_NAME,
    LOAD_CONST,
    LOAD_DEREF,
    LOAD_FAST,
    LOAD_FAST_CHECK,
    LOAD_GLOBAL,
    LOAD_NAME,
    POP_JUMP_IF_NONE,
    POP_TOP,
    STORE_DEREF,
    STORE_FAST,
    STORE_GLOBAL,
    STORE_NAME,
)
from .program import Instr, Label
from .questions import Hooks
from .templates import waited

_STORES_LIKE: Final = {
    LOAD_FAST: STORE_FAST,
    LOAD_FAST_CHECK: STORE_FAST,
    LOAD_DEREF: STORE_DEREF,
    LOAD_NAME: STORE_NAME,
}
_IN_SLOTS: Final = frozenset({STORE_FAST, STORE_DEREF, DELETE_FAST, DELETE_DEREF})


class SharedNames:
    """What is written at loads and stores of shared names.

    Args:
        inserter: Writes it.
        hooks: What is called there.
        shared: Name -> slot of its variable, or -1.
    """

    def __init__(self, inserter: Inserter, hooks: Hooks, shared: Mapping[str, int]) -> None:
        self.inserter = inserter
        self.program = inserter.program
        self.hooks = hooks
        self.shared = shared
        self.slots = {slot: name for name, slot in shared.items() if slot >= 0}
        kinds = ("co_cellvars", "co_freevars")
        self.cells = {name for kind in kinds for name in self.program.changes.get(kind, ())}

    def added_to(self, handlers: Mapping[int, Handle]) -> dict[int, Handle]:
        """What writes the instructions of each opcode, where names are shared.

        Args:
            handlers: What writes them where none are.
        """
        enter = handlers[BEFORE_WITH]

        def before_with(instr: Instr) -> None:
            self._wait_for_block(instr)
            enter(instr)

        added = {op: handle for op, handle in self._handlers() if op != -1}
        return {**handlers, **added, BEFORE_WITH: before_with}

    def _handlers(self) -> Iterator[tuple[int, Handle]]:
        for ops, handle in (
            ((LOAD_FAST, LOAD_FAST_CHECK, LOAD_DEREF), self._load_slot),
            ((LOAD_NAME, LOAD_GLOBAL), self._load_name),
            ((STORE_FAST, STORE_DEREF, STORE_NAME, STORE_GLOBAL), self._store),
            ((DELETE_FAST, DELETE_DEREF, DELETE_NAME, DELETE_GLOBAL), self._delete),
            ((LOAD_CONST,), self._load_code),
        ):
            yield from ((op, handle) for op in ops)

    def _wait(self, name: str, store: int, arg: int) -> None:
        """Wait for *name*, and bind it to what another block left in it, if one did."""
        const = self.inserter.const
        guard = self.hooks.shared_name(name)
        self.inserter.put(waited(store), (const(guard), const(None), arg, const(UNBOUND)))

    def _load_slot(self, instr: Instr) -> None:
        name = self.slots.get(instr.arg)
        if name is not None and instr not in self.program.hidden:
            # A LOAD_FAST of a cell hands the cell itself to a closure (3.13).
            is_a_cell = instr.op != LOAD_DEREF and name in self.cells
            if not is_a_cell:
                self._wait(name, _STORES_LIKE[instr.op], instr.arg)
        self.inserter.out.append(instr)

    def _load_name(self, instr: Instr) -> None:
        index = instr.arg >> 1 if instr.op == LOAD_GLOBAL else instr.arg
        name = self.program.names[index]
        if name in self.shared:
            # What another block stored to a global is there already.
            store = _STORES_LIKE.get(instr.op, POP_TOP)
            self._wait(name, store, index if store != POP_TOP else 0)
        self.inserter.out.append(instr)

    def _load_code(self, instr: Instr) -> None:
        """A function may be called as soon as it is made: wait for what it reads.

        So may a comprehension, where it is a function (3.11).
        """
        consts = self.program.consts
        nested = consts[instr.arg] if instr.arg < len(consts) else None
        if isinstance(nested, CodeType):
            self._wait_for_all(names_read_by(nested))
        self.inserter.out.append(instr)

    def _wait_for_all(self, names: frozenset[str]) -> None:
        in_slots = self.program.code.co_flags & inspect.CO_OPTIMIZED
        for name in sorted(names & self.shared.keys()):
            slot = self.shared[name]
            if not in_slots:
                self._wait(name, STORE_NAME, self.program.name(name))
            elif slot >= 0:
                self._wait(name, STORE_DEREF if name in self.cells else STORE_FAST, slot)
            else:
                self._wait(name, POP_TOP, 0)  # a global: what was stored to it is there already

    def _wait_for_block(self, instr: Instr) -> None:
        """A block in this one takes its names where it is entered: wait for what it reads."""
        try:
            names = read_first(self.program.code, instr.offset) & self.shared.keys()
        except TracekitError:
            return  # no block: entering it would say so
        if not names:
            return
        skip = Label()
        sequence = self.inserter.written()
        sequence.const(self.inserter.const(self.hooks.opens_block))
        sequence.emit(COPY, 2)
        sequence.call_with_self()
        sequence.emit(POP_JUMP_IF_NONE, skip)
        self._wait_for_all(names)
        self.inserter.out.append(skip)

    def _name_of(self, instr: Instr) -> str | None:
        if instr in self.program.hidden:
            return None
        if instr.op in _IN_SLOTS:
            return self.slots.get(instr.arg)
        name = self.program.names[instr.arg]
        return name if name in self.shared else None

    def _store(self, instr: Instr) -> None:
        name = self._name_of(instr)
        if name is not None:
            sequence = self.inserter.written()
            sequence.const(self.inserter.const(self.hooks.shared_store(name)))
            sequence.emit(COPY, 2)
            sequence.call_with_self()
            sequence.emit(POP_TOP)
        self.inserter.out.append(instr)

    def _delete(self, instr: Instr) -> None:
        name = self._name_of(instr)
        if name is not None:
            sequence = self.inserter.written()
            sequence.const(self.inserter.const(self.hooks.shared_store(name)))
            sequence.const(self.inserter.const(UNBOUND))
            sequence.call_with_self()
            sequence.emit(POP_TOP)
        self.inserter.out.append(instr)
