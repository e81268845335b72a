"""Facts about the running interpreter. The only module that may ask which Python this is.

Each fact is named after a behaviour and probed where a probe is possible: behaviour changes in
patch releases too.
"""

from __future__ import annotations

import dis
import opcode
import sys
from collections.abc import Mapping
from types import CodeType
from typing import Final

# Opcodes that a code object can hold. 3.12 and 3.13 also list the compiler's pseudo opcodes,
# numbered from 256, LOAD_METHOD among them.
_LAST_OPCODE: Final = 255
OPMAP: Final[Mapping[str, int]] = {name: op for name, op in dis.opmap.items() if op <= _LAST_OPCODE}
OPNAMES: Final[tuple[str, ...]] = tuple(opcode.opname)
HAVE_ARGUMENT: Final = dis.HAVE_ARGUMENT


def _code(source: str) -> CodeType:
    """The code object of the first function in *source*."""
    module = compile(source, "<probe>", "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


def _names(code: CodeType) -> list[str]:
    return [instruction.opname for instruction in dis.get_instructions(code)]


# Which Python is this, for messages and for the refusal of unknown ones.
VERSION: Final = ".".join(map(str, sys.version_info[:3]))
# The opcode tables of `opcodes.py` were written for, and tested on, these.
#   A new CPython is added when its row in tests/_bytecode/test_facts.py is.
_VERSION: Final = sys.version_info[:2]
IS_SUPPORTED: Final = sys.implementation.name == "cpython" and (3, 11) <= _VERSION <= (3, 13)

# Is a list comprehension a function of its own, or part of the enclosing frame?
#   3.11: own code object.  3.12+: inlined, https://peps.python.org/pep-0709/
#   Goes when 3.11 goes.
COMPREHENSIONS_ARE_INLINED: Final = not any(
    isinstance(const, CodeType) for const in _code("def f(): return [x for x in y]").co_consts
)

# Does the compiler wrap a generator's body in a StopIteration guard of its own?
#   3.11: the interpreter does it in C.  3.12+: in the generator's bytecode.
GENERATOR_GUARDS_STOPITERATION: Final = "CALL_INTRINSIC_1" in _names(_code("def f(): yield"))

# Is a call announced by an instruction of its own (PRECALL) that carries its own caches?
#   3.11 only.
CALLS_HAVE_PRECALL: Final = "PRECALL" in OPMAP

# Do keyword names travel in an instruction before the call (KW_NAMES), or on the stack?
#   3.11, 3.12: KW_NAMES.  3.13: a tuple on the stack, CALL_KW.
KEYWORD_NAMES_ARE_AN_INSTRUCTION: Final = "KW_NAMES" in OPMAP

# Is the NULL of a plain call below the callable, or between it and the arguments?
#   3.11, 3.12: below.  3.13: above.  https://github.com/python/cpython/issues/105481
NULL_IS_ABOVE_THE_CALLABLE: Final = "CALL_KW" in OPMAP

# Are methods loaded by an instruction of their own?
#   3.11: LOAD_METHOD.  3.12+: a bit of LOAD_ATTR.
METHODS_HAVE_THEIR_OWN_LOAD: Final = "LOAD_METHOD" in OPMAP

# Does a SEND loop leave the receiver under the value (popped by END_SEND)?
#   3.11: no.  3.12+: yes.
SEND_LEAVES_THE_RECEIVER: Final = "END_SEND" in OPMAP

# The oparg of YIELD_VALUE inside a SEND loop.
#   3.13: 1, or close() does not reach the inner generator.  Before: not looked at.
YIELD_IN_SEND_LOOP: Final = 1 if NULL_IS_ABOVE_THE_CALLABLE else 0

# Do tests of conditional jumps take any object (and call __bool__), or only a bool?
#   3.11, 3.12: any.  3.13: a bool, made by TO_BOOL.
JUMPS_NEED_A_BOOL: Final = "TO_BOOL" in OPMAP

# Do conditional jumps exist in a forward and a backward form?
#   3.11 only.
CONDITIONAL_JUMPS_HAVE_A_DIRECTION: Final = "POP_JUMP_FORWARD_IF_TRUE" in OPMAP

# How far is COMPARE_OP's operator shifted in its oparg, and which bit asks for a bool?
#   3.11: 0, none.  3.12: 4, none.  3.13: 5, bit 4.
COMPARE_SHIFT: Final = 5 if JUMPS_NEED_A_BOOL else (0 if CALLS_HAVE_PRECALL else 4)
COMPARE_BOOL_BIT: Final = 16 if JUMPS_NEED_A_BOOL else 0
COMPARE_SYMBOLS: Final = tuple(dis.cmp_op)

# Does an exhausted `for` leave its iterator for END_FOR to pop?
#   3.11: no.  3.12: END_FOR pops iterator and value.  3.13: END_FOR pops one, POP_TOP the other.
LOOPS_END_WITH_END_FOR: Final = "END_FOR" in OPMAP

# Is a generator that a generator drives resumed by a C call, or within the same interpreter loop?
#   3.11: a C call, so deep recursion of twins can overflow the C stack.  3.12+: no C call.
#   Goes when 3.11 goes.
NESTED_GENERATORS_USE_THE_C_STACK: Final = not SEND_LEAVES_THE_RECEIVER

# Does `frame.f_locals` of a function write through to the frame?
#   3.11, 3.12: a snapshot.  3.13: https://peps.python.org/pep-0667/


def _writes_through() -> bool:
    name = 1
    sys._getframe().f_locals["name"] = 2
    return name == 2


F_LOCALS_WRITES_THROUGH: Final = _writes_through()

# Is there `sys.monitoring`?  3.12+: https://peps.python.org/pep-0669/
HAS_MONITORING: Final = hasattr(sys, "monitoring")

# Does the interpreter build zero-argument `super().name` into one instruction?  3.12+.
SUPER_ATTRIBUTES_ARE_ONE_INSTRUCTION: Final = "LOAD_SUPER_ATTR" in OPMAP

# Does a `with` start with one instruction that calls `__enter__`?
#   3.11 to 3.13: BEFORE_WITH.
ENTERS_WITH_BEFORE_WITH: Final = "BEFORE_WITH" in OPMAP


# Does each instruction have a line-table entry of its own, or do equal neighbours share one?
#   3.11: its own.  3.12+: shared.
#   Goes when 3.11 goes.
_WITH = _code("def f():\n with a: pass")
LOCATIONS_ARE_SHARED: Final = sum(byte >> 7 for byte in _WITH.co_linetable) < len(_names(_WITH))


def _cache_units() -> tuple[int, ...]:
    """Code units of inline cache that follow each opcode."""
    entries = opcode._inline_cache_entries  # type: ignore[attr-defined]
    if isinstance(entries, Mapping):
        return tuple(int(entries.get(name, 0)) for name in OPNAMES)
    return tuple(int(entries[op]) for op in range(256)) + (0,) * (len(OPNAMES) - 256)


CACHE_UNITS: Final = _cache_units()
RELATIVE_JUMPS: Final = frozenset(dis.hasjrel)
# Instructions whose oparg has to do with `co_consts` and `co_names`. 3.12 and 3.13 list pseudo
# opcodes here, too.
CONST_OPCODES: Final = frozenset(op for op in dis.hasconst if op <= _LAST_OPCODE)
NAME_OPCODES: Final = frozenset(op for op in dis.hasname if op <= _LAST_OPCODE)
