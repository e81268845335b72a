"""CodeType, or some ranges of one, to Program.

The `bytecode` library decodes the instructions. It is handed a small code object that holds only
the bytes asked for, because it lifts whole code objects (measured: 414 ms for a module of
10,000 lines). Jumps and the exception table are resolved here, in byte offsets of the original.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from types import CodeType
from typing import NamedTuple

from bytecode import ConcreteBytecode

from .facts import CACHE_UNITS
from .opcodes import BACKWARD_JUMPS, CACHE, FAST_PAIRS, JUMPS
from .program import Handler, Instr, Label, Location, Program


class Entry(NamedTuple):
    """One entry of an exception table, in bytes, half-open."""

    start_offset: int
    stop_offset: int
    target_offset: int
    depth: int
    lasti: bool


def _varints(table: bytes) -> Iterator[int]:
    value = 0
    for byte in table:
        value = (value << 6) | (byte & 63)
        if not byte & 64:
            yield value
            value = 0


def entries_of(code: CodeType) -> list[Entry]:
    """The exception table of *code*, in order of offset.

    Source:
        https://github.com/python/cpython/blob/3.11/Objects/exception_handling_notes.txt
    """
    numbers = _varints(code.co_exceptiontable)
    entries = []
    for start, length, target, depth_and_lasti in zip(
        numbers, numbers, numbers, numbers, strict=True
    ):
        entries.append(
            Entry(
                start * 2,
                (start + length) * 2,
                target * 2,
                depth_and_lasti >> 1,
                bool(depth_and_lasti & 1),
            )
        )
    return entries


class Table:
    """An exception table that answers: which entry covers this offset?"""

    __slots__ = ("_starts", "entries")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._starts = [entry.start_offset for entry in entries]

    def covering(self, offset: int) -> Entry | None:
        """The entry that covers the instruction at *offset*, if any."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return None
        entry = self.entries[index]
        return entry if offset < entry.stop_offset else None


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
    code: CodeType, spans: Sequence[tuple[int, int]] | None = None
) -> tuple[Program, dict[int, Label]]:
    """As `lift`; also the labels by the offset they stand for."""
    raw = code.co_code
    if spans is None:
        spans = [(0, len(raw))]
    table = Table(entries_of(code))
    labels: dict[int, Label] = {}
    handlers: dict[Entry, Handler] = {}
    instrs: list[Instr] = []
    for start, stop in spans:
        _lift_span(code, raw, start, stop, labels, instrs)
    for instr in instrs:
        entry = table.covering(instr.offset)
        if entry is not None:
            key = entry._replace(start_offset=0, stop_offset=0)
            handler = handlers.get(key)
            if handler is None:
                target = labels.setdefault(entry.target_offset, Label())
                handler = handlers[key] = Handler(target, entry.depth, entry.lasti)
            instr.handler = handler
    placed: list[Instr | Label] = []
    last = -1
    for instr in instrs:
        if instr.offset != last:
            last = instr.offset
            label = labels.get(last)
            if label is not None:
                placed.append(label)
        placed.append(instr)
    return Program(code, placed), labels


def _lift_span(
    code: CodeType,
    raw: bytes,
    start: int,
    stop: int,
    labels: dict[int, Label],
    instrs: list[Instr],
) -> None:
    """Append the instructions of one range; jump targets go into *labels*."""
    window = code.replace(
        co_code=raw[start:stop],
        co_linetable=b"",
        co_exceptiontable=b"",
        co_consts=(),
        co_names=(),
    )
    positions: list[Location] = list(islice(code.co_positions(), start // 2, stop // 2))
    offset = start
    for concrete in ConcreteBytecode.from_code(window):
        op = concrete.opcode
        if op == CACHE:
            offset += 2
            continue
        size = concrete.size
        arg = concrete.arg
        if not isinstance(arg, int):
            arg = 0
        # With EXTENDED_ARG in front, the position of the instruction itself is the last unit's.
        location = positions[(offset + size - 2 - start) // 2]
        if location is not None and location[0] is None:
            location = None
        if op in JUMPS:
            after = offset + size + 2 * CACHE_UNITS[op]
            target = after - 2 * arg if op in BACKWARD_JUMPS else after + 2 * arg
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
        offset += size
