"""Program to CodeType.

Own code rather than the library's: a first trace waits for it, the library's line table is wrong
past column 127 and its table entries lose their handler behind EXTENDED_ARG (shown in the
tests). Compared with the code objects of the standard library, byte for byte.
"""

from __future__ import annotations

from itertools import accumulate
from types import CodeType
from typing import Final

from .facts import CACHE_UNITS, LOCATIONS_ARE_SHARED
from .opcodes import BACKWARD_JUMPS, EXTENDED_ARG, JUMPS, reverse
from .program import Chunk, Element, Handler, Instr, Label, Location, Program

_MAX_UNITS = 8
_MAX_SHORT_COLUMN = 80
_MAX_SHORT_WIDTH = 16
_MAX_ONE_BYTE = 128
_CACHES: Final = tuple(b"\0\0" * units for units in CACHE_UNITS)
_ABSENT: Final = (None, None, None, None)


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
    code, starts, places, offsets = encode(instrs)
    template = program.code
    changes = dict(program.changes)
    changes.setdefault("co_stacksize", template.co_stacksize + extra_stack)
    first_lineno = changes.get("co_firstlineno", template.co_firstlineno)
    if program.extra_consts or program.consts is not template.co_consts:
        changes["co_consts"] = (*program.consts, *program.extra_consts)
    if program.extra_names or program.names is not template.co_names:
        changes["co_names"] = (*program.names, *program.extra_names)
    made = template.replace(
        co_code=bytes(code),
        co_linetable=_line_table(instrs, starts, first_lineno),
        co_exceptiontable=_exception_table(instrs, starts, places),
        **changes,
    )
    return made, offsets


def encode(
    instrs: list[Element],
) -> tuple[bytearray, list[int], dict[Label, int], dict[int, int]]:
    """Write the bytes of *instrs*.

    Returns:
        The bytes; the start of each element, and of what follows the last; the place of each
        label (all in units); and the offset of each instruction that was lifted -> the offset it
        was lifted from (bytes, both).
    """
    starts, places, extended = _layout(instrs)
    code = bytearray()
    offsets: dict[int, int] = {}
    for index, instr in enumerate(instrs):
        kind = type(instr)
        if kind is Chunk:
            if instr.offset >= 0:  # type: ignore[union-attr]
                offsets[len(code) + instr.mark] = instr.offset  # type: ignore[union-attr]
            code += instr.code  # type: ignore[union-attr]
            continue
        if kind is Label:
            continue
        assert type(instr) is Instr
        op = instr.op
        arg = instr.arg
        if type(arg) is Label:
            arg = places[arg] - starts[index + 1]
            if op in BACKWARD_JUMPS:
                arg = -arg
            many = extended[index]
        else:
            many = more_units(arg) if arg > 255 else 0
        for shift in range(8 * many, 0, -8):
            code.append(EXTENDED_ARG)
            code.append((arg >> shift) & 255)
        if instr.offset >= 0:
            offsets.setdefault(len(code), instr.offset)
        code.append(op)
        code.append(arg & 255)
        code += _CACHES[op]
    return code, starts, places, offsets


def more_units(arg: int) -> int:
    """How many EXTENDED_ARG an oparg needs."""
    return max(arg.bit_length() - 1, 0) // 8


def _layout(instrs: list[Element]) -> tuple[list[int], dict[Label, int], dict[int, int]]:
    """Start of each element, place of each label (in units), EXTENDED_ARG units of each jump.

    Jumps start without EXTENDED_ARG and grow until nothing changes; growing never reverses, so
    this ends.
    """
    sizes: list[int] = []
    jumps: list[int] = []
    position: dict[Label, int] = {}
    for index, instr in enumerate(instrs):
        kind = type(instr)
        if kind is Chunk:
            sizes.append(len(instr.code) // 2)  # type: ignore[union-attr]
        elif kind is Label:
            position[instr] = index  # type: ignore[index]
            sizes.append(0)
        else:
            assert type(instr) is Instr
            arg = instr.arg
            size = 1 + CACHE_UNITS[instr.op]
            if type(arg) is Label:
                jumps.append(index)
            elif arg > 255:
                size += more_units(arg)
            sizes.append(size)
    extended = dict.fromkeys(jumps, 0)
    for index in jumps:
        jump = instrs[index]
        assert type(jump) is Instr
        is_backward = position[jump.arg] < index
        if jump.op in JUMPS and is_backward != (jump.op in BACKWARD_JUMPS):
            jump.op = reverse(jump.op)
            sizes[index] = 1 + CACHE_UNITS[jump.op]
            assert is_backward == (jump.op in BACKWARD_JUMPS), jump
    while True:
        starts = list(accumulate(sizes, initial=0))
        changed = False
        for index in jumps:
            jump = instrs[index]
            assert type(jump) is Instr
            need = more_units(abs(starts[position[jump.arg]] - starts[index + 1]))
            if need > extended[index]:
                sizes[index] += need - extended[index]
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


def _exception_table(instrs: list[Element], starts: list[int], places: dict[Label, int]) -> bytes:
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
    close(starts[-1])
    return bytes(table)


def _line_table(instrs: list[Element], starts: list[int], first_lineno: int) -> bytes:
    """Source: https://github.com/python/cpython/blob/3.11/Objects/locations.md."""
    table = bytearray()
    line = first_lineno
    pending: Location = None
    begun = 0
    # What stands on the line where the table stands already, by its position.
    known: dict[Location, tuple[int, bytes]] = {}
    for index, instr in enumerate(instrs):
        if type(instr) is Label:
            continue
        location = instr.location  # type: ignore[union-attr]
        if not LOCATIONS_ARE_SHARED or (location is not pending and location != pending):
            begins = starts[index]
            if begins > begun:
                line = _write_location(table, begins - begun, pending, line, known)
                begun = begins
            pending = location
    if starts[-1] > begun:
        _write_location(table, starts[-1] - begun, pending, line, known)
    return bytes(table)


def _signed(value: int) -> int:
    return ((-value) << 1) | 1 if value < 0 else value << 1


def _write_number(table: bytearray, value: int) -> None:
    """Six bits a byte, least significant first, bit 6 set on all but the last."""
    while value > 63:
        table.append((value & 63) | 64)
        value >>= 6
    table.append(value)


def _write_location(
    table: bytearray,
    units: int,
    location: Location,
    line: int,
    known: dict[Location, tuple[int, bytes]],
) -> int:
    """Write *units* units at *location*; *line* is where the table stands. Returns the new line.

    In *known* is what `_encoded` gave for positions on the line where the table stands.
    """
    lineno = (location or _ABSENT)[0]
    if lineno is not None and lineno != line:
        size = min(units, _MAX_UNITS)
        kind, rest = _encoded(location, lineno - line)
        table.append(128 | kind << 3 | (size - 1))
        table += rest
        units -= size
        line = lineno
        if not units:
            return line
    found = known.get(location)
    if found is None:
        found = known[location] = _encoded(location, 0)
    kind, rest = found
    whole, size = divmod(units, _MAX_UNITS)
    if whole:
        table += (bytes((128 | kind << 3 | _MAX_UNITS - 1,)) + rest) * whole
    if size:
        table.append(128 | kind << 3 | (size - 1))
        table += rest
    return line


def _encoded(location: Location, delta: int) -> tuple[int, bytes]:
    """The kind of an entry, and its bytes after the first."""
    lineno, end_lineno, column, end_column = location or _ABSENT
    if lineno is None:
        return 15, b""
    if end_lineno == lineno and column is not None and end_column is not None:
        width = end_column - column
        if delta == 0 and column < _MAX_SHORT_COLUMN and 0 <= width < _MAX_SHORT_WIDTH:
            return column >> 3, bytes(((column & 7) << 4 | width,))
        if 0 <= delta <= 2 and column < _MAX_ONE_BYTE and end_column < _MAX_ONE_BYTE:
            return 10 + delta, bytes((column, end_column))
    rest = bytearray()
    _write_number(rest, _signed(delta))
    if column is None or end_column is None or end_lineno is None:
        return 13, bytes(rest)
    _write_number(rest, end_lineno - lineno)
    _write_number(rest, column + 1)
    _write_number(rest, end_column + 1)
    return 14, bytes(rest)
