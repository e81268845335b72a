"""Where the stack holds a NULL: which calls have a first argument in its place.

`CALL n` finds either a callable and a NULL (the NULL below it on 3.11 and 3.12, above it from 3.13
on) and n arguments, or `callable, first argument, n arguments`: decorators, the exit of a `with`,
the message of an `assert`. The rewriting copies what stands there, and copying a NULL crashes the
interpreter, so the two shapes are told apart beforehand, by running the program on a stack that
only knows "NULL or not". Method loads are taken as already turned into a bound method and a NULL.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from typing import Final

from .facts import METHODS_HAVE_THEIR_OWN_LOAD, NULL_IS_ABOVE_THE_CALLABLE
from .opcodes import (
    CALL,
    CALL_KW,
    COPY,
    JUMPS,
    LEAVES,
    LOAD_ATTR,
    LOAD_FAST_AND_CLEAR,
    LOAD_GLOBAL,
    LOAD_METHOD,
    LOAD_SUPER_ATTR,
    LOCAL_SLOTS,
    PRECALL,
    PUSH_NULL,
    STORE_FAST,
    SWAP,
    UNCONDITIONAL_JUMPS,
    WITHOUT_RESULT,
)
from .program import Element, Instr, Label

_PAIR: Final = (False, True) if NULL_IS_ABOVE_THE_CALLABLE else (True, False)
"""A callable and a NULL, in the order in which they lie on the stack."""

_CALLS: Final = frozenset({CALL, CALL_KW})
_METHOD_BIT: Final = 0 if METHODS_HAVE_THEIR_OWN_LOAD else 1


def calls_with_self(instrs: list[Element], depth: int) -> set[Instr]:
    """The calls whose callable lies below a first argument, and beside no NULL.

    Args:
        instrs: The program, before anything is inserted.
        depth: Stack slots in use where it starts; none of them is NULL.
    """
    found: set[Instr] = set()
    for instr, stack in _simulated(instrs, depth):
        if instr.op in _CALLS:
            count = instr.arg + (instr.op == CALL_KW)
            if not stack[-(count + (1 if NULL_IS_ABOVE_THE_CALLABLE else 2))]:
                found.add(instr)
    return found


def comprehension_accesses(instrs: list[Element], depth: int) -> set[Instr]:
    """Loads of and stores to the variables of inlined comprehensions.

    They use the slot of a name of the function, whose value, or NULL, waits on the stack until
    the comprehension has ended and is then stored back.

    Args:
        instrs: The program, before anything is inserted.
        depth: Stack slots in use where it starts.
    """
    if not any(type(each) is Instr and each.op == LOAD_FAST_AND_CLEAR for each in instrs):
        return set()
    found: set[Instr] = set()
    inside: dict[int, int] = {}
    for instr, stack in _simulated(instrs, depth):
        slot = instr.arg
        if instr.op == LOAD_FAST_AND_CLEAR:
            inside[slot] = inside.get(slot, 0) + 1
            found.add(instr)
        elif instr.op == STORE_FAST and stack[-1]:
            # The value from before, or NULL; also where an error leaves the comprehension.
            inside[slot] = max(inside.get(slot, 0) - 1, 0)
            found.add(instr)
        elif instr.op in LOCAL_SLOTS and inside.get(slot):
            found.add(instr)
    return found


def _simulated(instrs: list[Element], depth: int) -> Iterator[tuple[Instr, list[bool]]]:
    """Each instruction that is reached, with the stack before it: True where it may be NULL."""
    known: dict[Label, list[bool]] = {}
    stack: list[bool] | None = [False] * depth
    for instr in instrs:
        if type(instr) is Label:
            if stack is None:
                stack = known.get(instr)
                stack = None if stack is None else list(stack)
            else:
                known.setdefault(instr, list(stack))
            continue
        assert type(instr) is Instr
        if stack is None:
            continue
        handler = instr.handler
        if handler is not None and handler.target not in known:
            kept = stack[: handler.depth]
            known[handler.target] = kept + [False] * (1 + handler.lasti)
        yield instr, stack
        op = instr.op
        if op in JUMPS:
            jumped = list(stack)
            _apply(jumped, op, 0, jump=True)
            known.setdefault(instr.arg, jumped)
            if op in UNCONDITIONAL_JUMPS:
                stack = None
                continue
            _apply(stack, op, 0, jump=False)
        elif op in LEAVES:
            stack = None
        elif op in _CALLS:
            del stack[-(instr.arg + (op == CALL_KW) + 1) :]
            stack[-1] = False
        else:
            _apply(stack, op, instr.arg, jump=False)


def _apply(stack: list[bool], op: int, arg: int, *, jump: bool) -> None:
    if op == PRECALL:
        return
    if op in (PUSH_NULL, LOAD_FAST_AND_CLEAR):
        stack.append(True)
    elif op == LOAD_GLOBAL:
        stack.extend(_PAIR if arg & 1 else (False,))
    elif op == LOAD_METHOD or (op == LOAD_ATTR and arg & _METHOD_BIT):
        stack[-1:] = _PAIR
    elif op == LOAD_SUPER_ATTR:
        stack[-3:] = _PAIR if arg & 1 else (False,)
    elif op == SWAP:
        stack[-1], stack[-arg] = stack[-arg], stack[-1]
    elif op == COPY:
        stack.append(stack[-arg])
    else:
        has_argument = op >= dis.HAVE_ARGUMENT
        effect = dis.stack_effect(op, arg if has_argument else None, jump=jump)
        if effect > 0:
            stack.extend([False] * effect)
        elif effect < 0:
            del stack[effect:]
        if op not in WITHOUT_RESULT and stack and op not in JUMPS:
            stack[-1] = False
