"""CodeType, or some ranges of one, to Program.

The `bytecode` library decodes the instructions. It is handed a small code object that holds only
the bytes asked for, and no names or constants, because it lifts whole code objects
(measured: 414 ms for a module of 10,000 lines). Jumps and the exception table are resolved here, in byte offsets of the original.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import NamedTuple

from bytecode import ConcreteBytecode

from .facts import CACHE_UNITS
from .opcodes import BACKWARD_JUMPS, CACHE, FAST_PAIRS, JUMPS, LOAD_FAST_AND_CLEAR
from .positions import EMPTY, Positions
from .program import Element, Handler, Instr, Label, Location, Program


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
    code: CodeType,
    spans: Sequence[tuple[int, int]] | None = None,
    positions: Positions | None = None,
) -> tuple[Program, dict[int, Label]]:
    """As `lift`; also the labels by the offset they stand for."""
    raw = code.co_code
    if spans is None:
        spans = [(0, len(raw))]
    table = Table(entries_of(code))
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


def _lift_spans(
    code: CodeType,
    spans: Sequence[tuple[int, int]],
    positions: Positions,
    labels: dict[int, Label],
    instrs: list[Instr],
) -> None:
    """Append the instructions of some ranges; jump targets go into *labels*."""
    offsets: list[int] = []
    locations: list[Location] = []
    for start, stop in spans:
        offsets += range(start, stop, 2)
        locations += positions.between(start, stop)
    window = _window(code, b"".join([code.co_code[start:stop] for start, stop in spans]))
    at = 0
    for concrete in ConcreteBytecode.from_code(window):
        op = concrete.opcode
        if op == CACHE:
            at += 1
            continue
        arg = concrete.arg
        if type(arg) is not int:
            arg = 0
        offset = offsets[at]
        # With EXTENDED_ARG in front, the position of the instruction itself is the last unit's.
        at += concrete.size // 2
        location = locations[at - 1]
        if location is not None and location[0] is None:
            location = None
        if op in JUMPS:
            after = offsets[at - 1] + 2 + 2 * CACHE_UNITS[op]
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


def _window(code: CodeType, raw: bytes) -> CodeType:
    """A code object that holds some instructions of *code*, and nothing else where that can be.

    The names and constants of a big function cost as much as lifting a small one. The caches must
    stay: reading `co_code` clears what it takes for them.
    """
    # Of this instruction alone, the number is compared with how many variables there are.
    is_checked = LOAD_FAST_AND_CLEAR >= 0 and LOAD_FAST_AND_CLEAR in raw
    template = code if is_checked else EMPTY
    return template.replace(
        co_code=raw, co_linetable=b"", co_exceptiontable=b"", co_consts=(), co_names=()
    )
