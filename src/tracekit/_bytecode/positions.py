"""Positions of instructions, wherever in a code object they stand.

`co_positions()` can only be read from its start: 4 to 10 ms to the middle of a module of 10,000
lines, as long as all else that is done to a block there. Here, what lies before the instructions
asked for is passed over with a few calls of C functions on the table's bytes (half a millisecond),
and `co_positions()` is read from there.

Source:
    https://github.com/python/cpython/blob/3.11/Objects/locations.md
"""

from __future__ import annotations

import re
from itertools import islice
from types import CodeType
from typing import Final

from .opcodes import NOP
from .program import Location

# An entry begins with the only byte of it that has bit 7 set: 1, four bits of kind, three of length.
_NOT_FIRST: Final = bytes(range(128))
_UNITS: Final = bytes((byte & 7) + 1 for byte in range(256))
_KINDS: Final = bytes((byte >> 3) & 15 for byte in range(256))
# Kinds that are one or two lines further on, and those with a signed number of lines.
_NEXT, _NEXT_BUT_ONE = bytes((11,)), bytes((12,))
_NUMBERED: Final = re.compile(rb"[\xe8-\xf7]([\x40-\x7f]*[\x00-\x3f])")
_NOT_NUMBERED: Final = bytes(byte for byte in range(256) if not 0xE8 <= byte <= 0xF7)

_BLOCK: Final = 4096
_SMALL: Final = 64
_NEAR: Final = 256
"""Units up to which reading from the start is faster."""

EMPTY: Final = compile("", "<window>", "exec")
"""Code without names and constants, to be given the instructions and tables that are looked at."""


class Positions:
    """The positions of the instructions of *code*. Fastest when asked in ascending order."""

    __slots__ = ("_at", "_code", "_line", "_table", "_unit")

    def __init__(self, code: CodeType) -> None:
        self._code = code
        self._table = code.co_linetable
        self._rewind()

    def _rewind(self) -> None:
        self._at = 0
        self._unit = 0
        self._line = self._code.co_firstlineno

    def between(self, start_offset: int, stop_offset: int) -> list[Location]:
        """The position of each code unit in a range of bytes; what lies past the end is left out.

        Equivalent to that part of `list(code.co_positions())`.
        """
        first, last = start_offset // 2, min(stop_offset, len(self._code.co_code)) // 2
        if first <= _NEAR:
            return list(islice(self._code.co_positions(), first, last))
        if first < self._unit:
            self._rewind()
        self._pass_over(first)
        count = last - self._unit
        if count <= 0:
            return []
        window = EMPTY.replace(
            co_code=bytes((NOP, 0)) * count,
            co_linetable=self._table[self._at :],
            co_firstlineno=self._line,
        )
        # It would go on to the end of the table, whatever the size of the code.
        return list(islice(window.co_positions(), first - self._unit, count))

    def at(self, offset: int) -> Location:
        """The position of the instruction at *offset*; None past the end."""
        found = self.between(offset, offset + 2)
        return found[0] if found else None

    def _pass_over(self, first: int) -> None:
        """Pass over entries, as long as what follows still begins at or before unit *first*."""
        table, size = self._table, _BLOCK
        while self._at < len(table):
            stop = self._at + size
            while stop < len(table) and table[stop] < 128:
                stop += 1
            block = table[self._at : stop]
            heads = block.translate(None, _NOT_FIRST)
            units = sum(heads.translate(_UNITS))
            if self._unit + units > first:
                if size <= _SMALL:
                    return
                size //= 4
                continue
            kinds = heads.translate(_KINDS)
            self._line += kinds.count(_NEXT) + 2 * kinds.count(_NEXT_BUT_ONE)
            # Many files have none of these for long stretches, and to search takes the longest.
            if heads.translate(None, _NOT_NUMBERED):
                self._line += sum(map(_LINES.__getitem__, _NUMBERED.findall(block)))
            self._unit += units
            self._at = stop


class _Lines(dict[bytes, int]):
    """Numbers of lines by the bytes that stand for them, each worked out once.

    Six bits a byte, least significant first; the lowest bit is the sign.
    """

    def __missing__(self, number: bytes) -> int:
        value = 0
        for byte in reversed(number):
            value = value << 6 | byte & 63
        lines = -(value >> 1) if value & 1 else value >> 1
        if len(number) <= _SHORT:
            self[number] = lines
        return lines


_SHORT: Final = 2
_LINES: Final = _Lines()
