"""Program to CodeType.

Own code rather than the library's: a first trace waits for it, the library's line table is wrong
past column 127 and its table entries lose their handler behind EXTENDED_ARG (shown in the
tests). Compared with the code objects of the standard library, byte for byte.
"""

from __future__ import annotations

from types import CodeType

from .facts import CACHE_UNITS, LOCATIONS_ARE_SHARED
from .opcodes import BACKWARD_JUMPS, EXTENDED_ARG, JUMPS, reverse
from .program import Handler, Instr, Label, Location, Program

_MAX_UNITS = 8
_MAX_SHORT_COLUMN = 80
_MAX_SHORT_WIDTH = 16
_MAX_ONE_BYTE = 128


def assemble(program: Program, extra_stack: int = 0) -> tuple[CodeType, dict[int, int]]:
    """Make a code object of *program*.

    Args:
        program: Every label a jump or handler points to must be placed in it.
        extra_stack: Stack slots to add to the template's `co_stacksize`.

    Returns:
        The code object, and for each instruction that was lifted: its offset in the new code ->
        its offset in the code it came from (bytes, both).
    """
    instrs = program.instrs
    starts, places, extended = _layout(instrs)
    code = bytearray()
    offsets: dict[int, int] = {}
    for index, instr in enumerate(instrs):
        if type(instr) is Label:
            continue
        assert type(instr) is Instr
        op = instr.op
        arg = instr.arg
        if type(arg) is Label:
            after = starts[index] + extended[index] + 1 + CACHE_UNITS[op]
            arg = places[arg] - after
            if op in BACKWARD_JUMPS:
                arg = -arg
        for shift in range(8 * extended[index], 0, -8):
            code.append(EXTENDED_ARG)
            code.append((arg >> shift) & 255)
        if instr.offset >= 0:
            offsets.setdefault(len(code), instr.offset)
        code.append(op)
        code.append(arg & 255)
        code.extend(b"\0\0" * CACHE_UNITS[op])
    template = program.code
    changes = dict(program.changes)
    changes.setdefault("co_stacksize", template.co_stacksize + extra_stack)
    first_lineno = changes.get("co_firstlineno", template.co_firstlineno)
    if program.extra_consts:
        changes["co_consts"] = (*template.co_consts, *program.extra_consts)
    if program.extra_names:
        changes["co_names"] = (*template.co_names, *program.extra_names)
    made = template.replace(
        co_code=bytes(code),
        co_linetable=_line_table(instrs, starts, len(code) // 2, first_lineno),
        co_exceptiontable=_exception_table(instrs, starts, places, len(code) // 2),
        **changes,
    )
    return made, offsets


def _layout(
    instrs: list[Instr | Label],
) -> tuple[list[int], dict[Label, int], list[int]]:
    """Start of each element, place of each label (in units), EXTENDED_ARG units of each.

    Jumps start without EXTENDED_ARG and grow until nothing changes; growing never reverses, so
    this ends.
    """
    count = len(instrs)
    extended = [0] * count
    jumps: list[int] = []
    position = {instr: index for index, instr in enumerate(instrs) if type(instr) is Label}
    for index, instr in enumerate(instrs):
        if type(instr) is Label:
            continue
        assert type(instr) is Instr
        arg = instr.arg
        if type(arg) is Label:
            if instr.op in JUMPS and (position[arg] < index) != (instr.op in BACKWARD_JUMPS):
                instr.op = reverse(instr.op)
                assert (position[arg] < index) == (instr.op in BACKWARD_JUMPS), instr
            jumps.append(index)
        elif arg > 255:
            extended[index] = (arg.bit_length() - 1) // 8
    while True:
        starts = [0] * (count + 1)
        at = 0
        for index, instr in enumerate(instrs):
            starts[index] = at
            if type(instr) is not Label:
                at += 1 + extended[index] + CACHE_UNITS[instr.op]  # type: ignore[union-attr]
        starts[count] = at
        changed = False
        for index in jumps:
            jump = instrs[index]
            assert type(jump) is Instr
            after = starts[index] + extended[index] + 1 + CACHE_UNITS[jump.op]
            distance = abs(starts[position[jump.arg]] - after)
            need = max(distance.bit_length() - 1, 0) // 8
            if need > extended[index]:
                extended[index] = need
                changed = True
        if not changed:
            break
    places = {label: starts[index] for label, index in position.items()}
    return starts, places, extended


def _varint(value: int, first: int = 0) -> bytes:
    """Six bits a byte, most significant first, bit 6 set on all but the last."""
    parts = [value & 63]
    value >>= 6
    while value:
        parts.append((value & 63) | 64)
        value >>= 6
    parts.reverse()
    parts[0] |= first
    return bytes(parts)


def _exception_table(
    instrs: list[Instr | Label], starts: list[int], places: dict[Label, int], end: int
) -> bytes:
    table = bytearray()
    current: Handler | None = None
    begun = 0

    def close(stop: int) -> None:
        if current is not None and stop > begun:
            table.extend(_varint(begun, 128))
            table.extend(_varint(stop - begun))
            table.extend(_varint(places[current.target]))
            table.extend(_varint((current.depth << 1) | current.lasti))

    for index, instr in enumerate(instrs):
        if type(instr) is Label:
            continue
        handler = instr.handler  # type: ignore[union-attr]
        if handler is not current:
            close(starts[index])
            current = handler
            begun = starts[index]
    close(end)
    return bytes(table)


def _line_table(
    instrs: list[Instr | Label], starts: list[int], end: int, first_lineno: int
) -> bytes:
    """Source: https://github.com/python/cpython/blob/3.11/Objects/locations.md."""
    table = bytearray()
    line = first_lineno
    pending: Location = None
    begun = 0
    for index, instr in enumerate(instrs):
        if type(instr) is Label:
            continue
        location = instr.location  # type: ignore[union-attr]
        if location != pending or not LOCATIONS_ARE_SHARED:
            line = _write_location(table, starts[index] - begun, pending, line)
            pending = location
            begun = starts[index]
    _write_location(table, end - begun, pending, line)
    return bytes(table)


def _signed(value: int) -> int:
    return ((-value) << 1) | 1 if value < 0 else value << 1


def _write_number(table: bytearray, value: int) -> None:
    """Six bits a byte, least significant first, bit 6 set on all but the last."""
    while value > 63:
        table.append((value & 63) | 64)
        value >>= 6
    table.append(value)


def _write_location(table: bytearray, units: int, location: Location, line: int) -> int:
    """Write *units* units at *location*; *line* is where the table stands. Returns the new line."""
    while units > 0:
        size = min(units, _MAX_UNITS)
        units -= size
        head = 128 | (size - 1)
        lineno, end_lineno, column, end_column = location or (None, None, None, None)
        if lineno is None:
            table.append(head | 15 << 3)
            continue
        delta = lineno - line
        line = lineno
        if column is None or end_column is None or end_lineno is None:
            table.append(head | 13 << 3)
            _write_number(table, _signed(delta))
        elif (
            delta == 0
            and end_lineno == lineno
            and column < _MAX_SHORT_COLUMN
            and 0 <= end_column - column < _MAX_SHORT_WIDTH
        ):
            table.append(head | (column >> 3) << 3)
            table.append((column & 7) << 4 | (end_column - column))
        elif (
            0 <= delta <= 2
            and end_lineno == lineno
            and column < _MAX_ONE_BYTE
            and end_column < _MAX_ONE_BYTE
        ):
            table.append(head | (10 + delta) << 3)
            table.append(column)
            table.append(end_column)
        else:
            table.append(head | 14 << 3)
            _write_number(table, _signed(delta))
            _write_number(table, end_lineno - lineno)
            _write_number(table, column + 1)
            _write_number(table, end_column + 1)
    return line
