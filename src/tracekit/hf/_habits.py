"""A habit of older scripts: `[0]` on what a block returns.

Blocks used to return tuples, and `block.output[0]` was the hidden state. Under a standard name the
output is the tensor itself, of which `[0]` is the first row: right in some programs, and in others
a silent mistake. So it is said, once for each place of the model. The value stays the model's own
tensor; what is looked at is the instruction that follows in the program.
"""

from __future__ import annotations

import dis
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final

from tracekit._interleave.site import spell
from tracekit._runtime.twins import ORIGINALS
from tracekit.errors import FirstRowWarning

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from tracekit._bytecode.generator import Twin

_SUBSCRIPTS: Final = frozenset({"BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR"})
_BETWEEN: Final = frozenset({"LOAD_ATTR", "CACHE", "NOP", "EXTENDED_ARG"})

_KNOWN: weakref.WeakKeyDictionary[Twin, dict[int, bool]] = weakref.WeakKeyDictionary()


def warn_of_first_row(node: Any, frame: FrameType | None) -> None:
    """Warn if the program takes item 0 of the output that it is asking for.

    Args:
        node: The part whose output is asked for.
        frame: Of the code that asks.
    """
    warned: set[str] = node._whole._first_rows
    if frame is None or node._path in warned:
        return
    twin = ORIGINALS.get(id(frame.f_code))
    if twin is None:
        return
    known = _KNOWN.setdefault(twin, {})
    found = known.get(frame.f_lasti)
    if found is None:
        offset = twin.origin_of(frame.f_lasti)
        found = known[frame.f_lasti] = offset is not None and _takes_item_0(twin.original, offset)
    if found:
        warned.add(node._path)
        name = spell(node._path, "output")
        text = (
            f"`{name}[0]` is the first row of a tensor: under a standard name an output is the "
            "tensor itself, also where the module returns a tuple. Leave `[0]` out; for the first "
            f"row, write `{name}[:1]`"
        )
        warnings.warn_explicit(text, FirstRowWarning, frame.f_code.co_filename, frame.f_lineno)


def _takes_item_0(code: CodeType, offset: int) -> bool:
    """Tell whether `[0]` is what comes after the attribute that is loaded at *offset*."""
    after = iter(
        one
        for one in dis.get_instructions(code)
        if one.offset >= offset and one.opname not in _BETWEEN
    )
    index, subscript = next(after, None), next(after, None)
    return (
        index is not None
        and subscript is not None
        and index.opname == "LOAD_CONST"
        and type(index.argval) is int
        and index.argval == 0
        and subscript.opname in _SUBSCRIPTS
    )
