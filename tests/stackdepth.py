"""How many stack slots a code object needs, found by following every path through it.

A code object that claims fewer than it needs writes past its frame, and the interpreter dies much
later, somewhere else. So this is compared with `co_stacksize` for everything that is rewritten.
"""

from __future__ import annotations

import dis
from types import CodeType

from tracekit._bytecode.lift import entries_of

_ENDS = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT"}
_JUMPS_ALWAYS = {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}


def needed_depth(code: CodeType) -> int:
    """Give the deepest stack on any path, in slots.

    Source:
        `stackdepth` in CPython's compiler, which computes `co_stacksize` in the same way.
    """
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    index_of = {i.offset: n for n, i in enumerate(instructions)}
    handler_of = {}
    for entry in entries_of(code):
        for offset in range(entry.start_offset, entry.stop_offset, 2):
            handler_of[offset] = entry
    jumps = {*dis.hasjrel, *dis.hasjabs}
    seen: dict[int, int] = {}
    waiting = [(0, 0)]
    deepest = 0
    while waiting:
        index, depth = waiting.pop()
        while index < len(instructions):
            if seen.get(index, -1) >= depth:
                break
            seen[index] = depth
            instruction = instructions[index]
            name, arg = instruction.opname, instruction.arg
            handler = handler_of.get(instruction.offset)
            if handler is not None:
                pushed = 2 if handler.lasti else 1
                waiting.append((index_of[handler.target_offset], handler.depth + pushed))
                deepest = max(deepest, handler.depth + pushed)
            takes_arg = arg if instruction.opcode >= dis.HAVE_ARGUMENT else None
            if instruction.opcode in jumps:
                after = depth + dis.stack_effect(instruction.opcode, takes_arg, jump=True)
                deepest = max(deepest, after)
                waiting.append((index_of[instruction.argval], after))
            if name in _ENDS or name in _JUMPS_ALWAYS:
                break
            depth += dis.stack_effect(instruction.opcode, takes_arg, jump=False)
            if name == "RETURN_GENERATOR":
                depth = 1  # what was sent first; 3.11 does not count it
            deepest = max(deepest, depth)
            index += 1
    return deepest
