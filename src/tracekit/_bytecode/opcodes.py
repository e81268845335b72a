"""Opcode numbers by name, and the groups the rewriting cares about.

An opcode that this interpreter does not have is -1, which no instruction has.
"""

from __future__ import annotations

from typing import Final

from .facts import (
    CONST_OPCODES,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NAME_OPCODES,
    OPMAP,
    OPNAMES,
    RELATIVE_JUMPS,
)


def number(name: str) -> int:
    """The opcode called *name*, or -1 where this interpreter has none."""
    return OPMAP.get(name, -1)


def numbers(*names: str) -> frozenset[int]:
    """The opcodes of these names that exist here.

    Raises:
        ValueError: None of them exists: a misspelt name must not pass for an old one.
    """
    found = frozenset(OPMAP[name] for name in names if name in OPMAP)
    if not found:
        raise ValueError(f"none of these opcodes exists: {names}")
    return found


CACHE: Final = number("CACHE")
NOP: Final = number("NOP")
EXTENDED_ARG: Final = number("EXTENDED_ARG")
RESUME: Final = number("RESUME")
RETURN_GENERATOR: Final = number("RETURN_GENERATOR")
POP_TOP: Final = number("POP_TOP")
COPY: Final = number("COPY")
SWAP: Final = number("SWAP")
PUSH_NULL: Final = number("PUSH_NULL")
LOAD_CONST: Final = number("LOAD_CONST")
LOAD_GLOBAL: Final = number("LOAD_GLOBAL")
LOAD_NAME: Final = number("LOAD_NAME")
STORE_NAME: Final = number("STORE_NAME")
STORE_GLOBAL: Final = number("STORE_GLOBAL")
DELETE_NAME: Final = number("DELETE_NAME")
DELETE_GLOBAL: Final = number("DELETE_GLOBAL")
LOAD_FAST: Final = number("LOAD_FAST")
LOAD_FAST_CHECK: Final = number("LOAD_FAST_CHECK")
LOAD_FAST_AND_CLEAR: Final = number("LOAD_FAST_AND_CLEAR")
STORE_FAST: Final = number("STORE_FAST")
DELETE_FAST: Final = number("DELETE_FAST")
LOAD_FAST_LOAD_FAST: Final = number("LOAD_FAST_LOAD_FAST")
STORE_FAST_LOAD_FAST: Final = number("STORE_FAST_LOAD_FAST")
STORE_FAST_STORE_FAST: Final = number("STORE_FAST_STORE_FAST")
LOAD_CLOSURE: Final = number("LOAD_CLOSURE")
LOAD_DEREF: Final = number("LOAD_DEREF")
STORE_DEREF: Final = number("STORE_DEREF")
DELETE_DEREF: Final = number("DELETE_DEREF")
LOAD_CLASSDEREF: Final = number("LOAD_CLASSDEREF")
LOAD_FROM_DICT_OR_DEREF: Final = number("LOAD_FROM_DICT_OR_DEREF")
MAKE_CELL: Final = number("MAKE_CELL")
COPY_FREE_VARS: Final = number("COPY_FREE_VARS")
LOAD_ATTR: Final = number("LOAD_ATTR")
LOAD_METHOD: Final = number("LOAD_METHOD")
LOAD_SUPER_ATTR: Final = number("LOAD_SUPER_ATTR")
STORE_ATTR: Final = number("STORE_ATTR")
DELETE_ATTR: Final = number("DELETE_ATTR")
PRECALL: Final = number("PRECALL")
KW_NAMES: Final = number("KW_NAMES")
CALL: Final = number("CALL")
CALL_KW: Final = number("CALL_KW")
CALL_FUNCTION_EX: Final = number("CALL_FUNCTION_EX")
CALL_INTRINSIC_1: Final = number("CALL_INTRINSIC_1")
BINARY_OP: Final = number("BINARY_OP")
BINARY_SUBSCR: Final = number("BINARY_SUBSCR")
BINARY_SLICE: Final = number("BINARY_SLICE")
STORE_SUBSCR: Final = number("STORE_SUBSCR")
STORE_SLICE: Final = number("STORE_SLICE")
DELETE_SUBSCR: Final = number("DELETE_SUBSCR")
BUILD_SLICE: Final = number("BUILD_SLICE")
COMPARE_OP: Final = number("COMPARE_OP")
CONTAINS_OP: Final = number("CONTAINS_OP")
IS_OP: Final = number("IS_OP")
UNARY_NOT: Final = number("UNARY_NOT")
UNARY_NEGATIVE: Final = number("UNARY_NEGATIVE")
UNARY_POSITIVE: Final = number("UNARY_POSITIVE")
UNARY_INVERT: Final = number("UNARY_INVERT")
TO_BOOL: Final = number("TO_BOOL")
GET_ITER: Final = number("GET_ITER")
FOR_ITER: Final = number("FOR_ITER")
END_FOR: Final = number("END_FOR")
GET_YIELD_FROM_ITER: Final = number("GET_YIELD_FROM_ITER")
SEND: Final = number("SEND")
END_SEND: Final = number("END_SEND")
YIELD_VALUE: Final = number("YIELD_VALUE")
UNPACK_SEQUENCE: Final = number("UNPACK_SEQUENCE")
UNPACK_EX: Final = number("UNPACK_EX")
LIST_APPEND: Final = number("LIST_APPEND")
LIST_EXTEND: Final = number("LIST_EXTEND")
SET_UPDATE: Final = number("SET_UPDATE")
DICT_UPDATE: Final = number("DICT_UPDATE")
DICT_MERGE: Final = number("DICT_MERGE")
BEFORE_WITH: Final = number("BEFORE_WITH")
BEFORE_ASYNC_WITH: Final = number("BEFORE_ASYNC_WITH")
WITH_EXCEPT_START: Final = number("WITH_EXCEPT_START")
PUSH_EXC_INFO: Final = number("PUSH_EXC_INFO")
RERAISE: Final = number("RERAISE")
RAISE_VARARGS: Final = number("RAISE_VARARGS")
RETURN_VALUE: Final = number("RETURN_VALUE")
RETURN_CONST: Final = number("RETURN_CONST")
FORMAT_VALUE: Final = number("FORMAT_VALUE")
FORMAT_SIMPLE: Final = number("FORMAT_SIMPLE")
FORMAT_WITH_SPEC: Final = number("FORMAT_WITH_SPEC")
CONVERT_VALUE: Final = number("CONVERT_VALUE")
MATCH_CLASS: Final = number("MATCH_CLASS")
MATCH_KEYS: Final = number("MATCH_KEYS")
GET_LEN: Final = number("GET_LEN")
JUMP_FORWARD: Final = number("JUMP_FORWARD")
JUMP_BACKWARD: Final = number("JUMP_BACKWARD")
JUMP_BACKWARD_NO_INTERRUPT: Final = number("JUMP_BACKWARD_NO_INTERRUPT")
JUMP_IF_FALSE_OR_POP: Final = number("JUMP_IF_FALSE_OR_POP")
JUMP_IF_TRUE_OR_POP: Final = number("JUMP_IF_TRUE_OR_POP")
GET_AWAITABLE: Final = number("GET_AWAITABLE")


def _conditional(suffix: str) -> int:
    """The forward conditional jump with this ending, whatever this interpreter calls it."""
    name = f"POP_JUMP_FORWARD_IF_{suffix}"
    return OPMAP[name] if name in OPMAP else OPMAP[f"POP_JUMP_IF_{suffix}"]


POP_JUMP_IF_NONE: Final = _conditional("NONE")
POP_JUMP_IF_FALSE: Final = _conditional("FALSE")
POP_JUMP_IF_TRUE: Final = _conditional("TRUE")

JUMPS: Final = RELATIVE_JUMPS
BACKWARD_JUMPS: Final = frozenset(op for op in JUMPS if "JUMP_BACKWARD" in OPNAMES[op])
UNCONDITIONAL_JUMPS: Final = frozenset({JUMP_FORWARD, JUMP_BACKWARD, JUMP_BACKWARD_NO_INTERRUPT})
TRUTH_JUMPS: Final = numbers(
    "POP_JUMP_IF_TRUE",
    "POP_JUMP_IF_FALSE",
    "POP_JUMP_FORWARD_IF_TRUE",
    "POP_JUMP_FORWARD_IF_FALSE",
    "POP_JUMP_BACKWARD_IF_TRUE",
    "POP_JUMP_BACKWARD_IF_FALSE",
)
CONDITIONAL_JUMPS: Final = JUMPS - UNCONDITIONAL_JUMPS - {FOR_ITER, SEND}
RETURNS: Final = numbers("RETURN_VALUE", "RETURN_CONST")
LEAVES: Final = RETURNS | numbers("RERAISE", "RAISE_VARARGS")
"""Instructions after which the next one is not reached."""

WITHOUT_RESULT: Final = frozenset(
    op for name, op in OPMAP.items() if name.startswith(("STORE_", "DELETE_", "POP_", "JUMP_"))
) | numbers(
    "LIST_APPEND",
    "SET_ADD",
    "MAP_ADD",
    "LIST_EXTEND",
    "SET_UPDATE",
    "DICT_UPDATE",
    "DICT_MERGE",
    "RAISE_VARARGS",
    "RERAISE",
    "KW_NAMES",
    "NOP",
    "RESUME",
    "END_FOR",
    "MAKE_CELL",
)
"""Instructions that push nothing: the slot below what they pop keeps what it was."""

FAST_LOADS: Final = numbers("LOAD_FAST", "LOAD_FAST_CHECK")
LOCAL_SLOTS: Final = numbers(
    "LOAD_FAST",
    "LOAD_FAST_CHECK",
    "LOAD_FAST_AND_CLEAR",
    "STORE_FAST",
    "DELETE_FAST",
    "LOAD_CLOSURE",
    "LOAD_DEREF",
    "STORE_DEREF",
    "DELETE_DEREF",
    "LOAD_CLASSDEREF",
    "LOAD_FROM_DICT_OR_DEREF",
    "MAKE_CELL",
)
"""Instructions whose oparg is the number of one slot of a local, cell or free variable."""

CONSTS: Final = CONST_OPCODES
"""Instructions whose oparg is an index of `co_consts`."""

NAME_SHIFTS: Final = {
    **dict.fromkeys(NAME_OPCODES, 0),
    LOAD_GLOBAL: 1,
    LOAD_ATTR: 0 if METHODS_HAVE_THEIR_OWN_LOAD else 1,
    LOAD_SUPER_ATTR: 2,
}
"""Instructions whose oparg holds an index of `co_names`, and above how many other bits."""
NAME_SHIFTS.pop(-1, None)

FAST_PAIRS: Final = {
    LOAD_FAST_LOAD_FAST: (LOAD_FAST, LOAD_FAST),
    STORE_FAST_LOAD_FAST: (STORE_FAST, LOAD_FAST),
    STORE_FAST_STORE_FAST: (STORE_FAST, STORE_FAST),
}
"""3.13's instructions with two slots in one oparg, and what they stand for."""
FAST_PAIRS.pop(-1, None)


def reverse(op: int) -> int:
    """The jump of the same kind in the other direction, or *op* where there is only one."""
    name = OPNAMES[op]
    if name in ("JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"):
        return JUMP_FORWARD
    if name == "JUMP_FORWARD":
        return JUMP_BACKWARD
    if "_FORWARD_" in name:
        return OPMAP[name.replace("_FORWARD_", "_BACKWARD_")]
    if "_BACKWARD_" in name:
        return OPMAP[name.replace("_BACKWARD_", "_FORWARD_")]
    return op
