"""CodeType, or some ranges of one, to Program.

The `bytecode` library decodes the instructions, each word of two bytes once in a process: it would
lift whole code objects (414 ms for a module of 10,000 lines), and makes two objects for each unit of
an instruction's cache. Jumps, EXTENDED_ARG and the exception table are resolved here, in byte
offsets of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import CodeType
from typing import NamedTuple

from bytecode import ConcreteInstr

from .facts import CACHE_UNITS, HAVE_ARGUMENT
from .opcodes import BACKWARD_JUMPS, EXTENDED_ARG, FAST_PAIRS, JUMPS
from .positions import Positions
from .program import Element, Handler, Instr, Label, Program


class Entry(NamedTuple):
    """One entry of an exception table, in bytes, half-open."""

    start_offset: int
    stop_offset: int
    target_offset: int
    depth: int
    lasti: bool


def entries_of(code: CodeType) -> list[Entry]:
    """The exception table of *code*, in order of offset.

    Source:
        https://github.com/python/cpython/blob/3.11/Objects/exception_handling_notes.txt
    """
    table, at = code.co_exceptiontable, 0
    entries = []
    while at < len(table):
        start, at = _varint(table, at)
        entry, at = _entry(table, start, at)
        entries.append(entry)
    return entries


class Table:
    """The exception table of *code*, which answers: which entry covers this offset?

    Only the entries that are looked at are read: a file may have thousands.
    """

    __slots__ = ("_table",)

    def __init__(self, code: CodeType) -> None:
        self._table = code.co_exceptiontable

    def covering(self, offset: int) -> Entry | None:
        """The entry that covers the instruction at *offset*, if any."""
        table = self._table
        low, high = 0, len(table)
        found: Entry | None = None
        while low < high:
            # An entry begins with the only byte of it that has bit 7 set.
            at = (low + high) // 2
            while not table[at] & 128:
                at -= 1
            start, after = _varint(table, at)
            if start * 2 <= offset:
                found, low = _entry(table, start, after)
            else:
                high = at
        return found if found is not None and offset < found.stop_offset else None


def _varint(table: bytes, at: int) -> tuple[int, int]:
    """The number that begins at *at*, and where the next one begins."""
    value = table[at] & 63
    while table[at] & 64:
        at += 1
        value = value << 6 | table[at] & 63
    return value, at + 1


def _entry(table: bytes, start: int, at: int) -> tuple[Entry, int]:
    """The entry that begins with *start*, whose other numbers begin at *at*, and where it ends."""
    length, at = _varint(table, at)
    target, at = _varint(table, at)
    last, at = _varint(table, at)
    return Entry(start * 2, (start + length) * 2, target * 2, last >> 1, bool(last & 1)), at


def lift(code: CodeType, spans: Sequence[tuple[int, int]] | None = None) -> Program:
    """Lift *code*, or the given ranges of it, into a program.

    Running `assemble(lift(code))` is equivalent to running *code*. With *spans*, jumps and
    handlers that point outside them have labels that are not placed; the caller places them.

    Args:
        code: Any code object.
        spans: Byte ranges of `co_code`, half-open, ascending, cut at instruction boundaries.

    Returns:
        The program. `FAST_PAIRS` instructions are split; caches and EXTENDED_ARG are gone.
    """
    program, _ = lift_with_labels(code, spans)
    return program


def lift_with_labels(
    code: CodeType,
    spans: Sequence[tuple[int, int]] | None = None,
    positions: Positions | None = None,
) -> tuple[Program, dict[int, Label]]:
    """As `lift`; also the labels by the offset they stand for."""
    raw = code.co_code
    if spans is None:
        spans = [(0, len(raw))]
    table = Table(code)
    labels: dict[int, Label] = {}
    handlers: dict[tuple[int, int, bool], Handler] = {}
    instrs: list[Instr] = []
    _lift_spans(code, spans, positions or Positions(code), labels, instrs)
    start = stop = -1
    handler: Handler | None = None
    for instr in instrs:
        offset = instr.offset
        if not start <= offset < stop:
            entry = table.covering(offset)
            if entry is None:
                handler = None
                start = stop = -1
            else:
                start, stop, target, depth, lasti = entry
                handler = handlers.get((target, depth, lasti))
                if handler is None:
                    label = labels.setdefault(target, Label())
                    handler = handlers[target, depth, lasti] = Handler(label, depth, lasti)
        instr.handler = handler
    placed: list[Element] = []
    last = -1
    for instr in instrs:
        if instr.offset != last:
            last = instr.offset
            label_here = labels.get(last)
            if label_here is not None:
                placed.append(label_here)
        placed.append(instr)
    return Program(code, placed), labels


@cache
def _decoded(word: bytes) -> tuple[int, int]:
    """The opcode and the low byte of the oparg, which is 0 where the opcode has none."""
    concrete = ConcreteInstr.disassemble(None, word, 0)
    arg = concrete.arg
    return concrete.opcode, arg if type(arg) is int else 0


def _lift_spans(
    code: CodeType,
    spans: Sequence[tuple[int, int]],
    positions: Positions,
    labels: dict[int, Label],
    instrs: list[Instr],
) -> None:
    """Append the instructions of some ranges; jump targets go into *labels*."""
    raw = code.co_code
    for start, stop in spans:
        locations = positions.between(start, stop)
        at = start
        while at < stop:
            offset = at
            high = 0
            while raw[at] == EXTENDED_ARG:
                high = (high | raw[at + 1]) << 8
                at += 2
            op, arg = _decoded(raw[at : at + 2])
            # With EXTENDED_ARG in front, the position of the instruction itself is the last unit's.
            location = locations[(at - start) >> 1]
            if location is not None and location[0] is None:
                location = None
            if high and op >= HAVE_ARGUMENT:
                arg |= high
            at += 2 + 2 * CACHE_UNITS[op]
            if op in JUMPS:
                target = at - 2 * arg if op in BACKWARD_JUMPS else at + 2 * arg
                label = labels.get(target)
                if label is None:
                    label = labels[target] = Label()
                instrs.append(Instr(op, label, location, None, offset))
            elif op in FAST_PAIRS:
                first, second = FAST_PAIRS[op]
                instrs.append(Instr(first, arg >> 4, location, None, offset))
                instrs.append(Instr(second, arg & 15, location, None, offset))
            else:
                instrs.append(Instr(op, arg, location, None, offset))
