"""The operations of a function: its calls, operators and assignments, with names and numbers.

Read from the bytecode, and yet the same on every Python. Each Python compiles the same text to
other instructions, in another order, some of them twice; what does not change is where in the text
an operation ends. So operations are numbered by that position, and instructions that share one are
copies of one operation (the test of a `while` stands before and after its body, a `finally` once
for each way out).

Names come from running the program on a stack of *origins*: not values, but by which dotted name
each slot was loaded.

Things that don't work:

- Numbering in order of bytecode. Loop tests move, handlers go to the end, comprehensions are code
  objects of their own on 3.11 and part of the function from 3.12 on.
- The position of a call as it stands. That of a method call whose name stands on another line than
  its object is a mixture of the call and the name (https://github.com/python/cpython/issues/94694).
- The position of each store. From 3.13 on two stores may be one instruction, with one position.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from itertools import pairwise
from types import CodeType
from typing import Final

from .facts import (
    COMPARE_SHIFT,
    COMPARE_SYMBOLS,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NULL_IS_ABOVE_THE_CALLABLE,
)
from .lift import lift
from .opcodes import (
    BEFORE_WITH,
    BINARY_OP,
    BINARY_SLICE,
    BINARY_SUBSCR,
    CALL,
    CALL_FUNCTION_EX,
    CALL_INTRINSIC_1,
    CALL_KW,
    COMPARE_OP,
    CONTAINS_OP,
    COPY,
    FAST_LOADS,
    JUMPS,
    KW_NAMES,
    LEAVES,
    LOAD_ATTR,
    LOAD_CONST,
    LOAD_FAST_AND_CLEAR,
    LOAD_GLOBAL,
    LOAD_METHOD,
    LOAD_NAME,
    LOAD_SUPER_ATTR,
    PRECALL,
    PUSH_EXC_INFO,
    PUSH_NULL,
    STORE_ATTR,
    STORE_FAST,
    STORE_GLOBAL,
    STORE_NAME,
    STORE_SLICE,
    STORE_SUBSCR,
    SWAP,
    UNARY_INVERT,
    UNARY_NEGATIVE,
    UNARY_POSITIVE,
    UNCONDITIONAL_JUMPS,
    WITHOUT_RESULT,
    number,
    numbers,
)
from .program import Instr, Label, Location, Program

KINDS: Final = ("call", "operator", "assign")
"""In the order in which a bare name is looked up."""

_NAMELESS: Final = {"call": "call", "operator": "", "assign": "item"}

Spot = tuple[tuple[int, ...], int]
"""Where an instruction is: the way to its code object through `co_consts`, and its index in
`lift(code).instrs`."""

_End = tuple[int, int]

METHOD_LOADS: Final = frozenset({LOAD_ATTR, LOAD_METHOD, LOAD_SUPER_ATTR})
_MAKE_FUNCTION: Final = number("MAKE_FUNCTION")
_SET_FUNCTION_ATTRIBUTE: Final = number("SET_FUNCTION_ATTRIBUTE")
_LOAD_BUILD_CLASS: Final = number("LOAD_BUILD_CLASS")
_SLOT_LOADS: Final = FAST_LOADS | numbers("LOAD_DEREF", "LOAD_CLASSDEREF")
_SLOT_STORES: Final = numbers("STORE_FAST", "STORE_DEREF")
_NAME_STORES: Final = frozenset({STORE_NAME, STORE_GLOBAL})
_DELETES: Final = numbers("DELETE_FAST", "DELETE_DEREF", "DELETE_NAME", "DELETE_GLOBAL")
_IMPORTS: Final = numbers("IMPORT_NAME", "IMPORT_FROM")
_UNPACKS: Final = numbers("UNPACK_SEQUENCE", "UNPACK_EX")
_SUBSCRIPTS: Final = frozenset({BINARY_SUBSCR, BINARY_SLICE})
_STORES_OF_ITEMS: Final = {STORE_ATTR: 1, STORE_SUBSCR: 2, STORE_SLICE: 3}
"""The stores below whose value there are operands, and how many."""
_UNARY: Final = {UNARY_NEGATIVE: "neg", UNARY_POSITIVE: "pos", UNARY_INVERT: "invert"}
_POSITIVE_INTRINSIC: Final = 5
_COMPARES: Final = {"<": "lt", "<=": "le", "==": "eq", "!=": "ne", ">": "gt", ">=": "ge"}
_BINARY: Final = (
    "add",
    "and",
    "floordiv",
    "lshift",
    "matmul",
    "mul",
    "mod",
    "or",
    "pow",
    "rshift",
    "sub",
    "truediv",
    "xor",
)
"""By BINARY_OP's oparg; the in-place operators follow in the same order."""
IN_PLACE_CODES: Final = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
"""Names of code objects that are part of the function they stand in."""
_SECOND: Final = 2
_METHOD_BIT: Final = 0 if METHODS_HAVE_THEIR_OWN_LOAD else 1

# Why a slot's store is no assignment, or its call no call.
_NULL: Final = "null"
_SAVED: Final = "saved by a comprehension"
_DEFINITION: Final = "definition"
_IMPORT: Final = "import"
_EXCEPTION: Final = "exception"
_NONE: Final = "none"


class Operation:
    """One operation of a function.

    Attributes:
        kind: `call`, `operator` or `assign`.
        name: Without the number, for example `torch_softmax`.
        number: How many of this kind and name stand before it.
        location: (line, end line, column, end column); columns in bytes of UTF-8, from 0, or
            None where the code has none.
        spots: The instructions; several where the compiler has copied it.
    """

    __slots__ = ("kind", "location", "name", "number", "spots")

    def __init__(self, kind: str, name: str, location: Location, spots: list[Spot]) -> None:
        self.kind = kind
        self.name = name
        self.number = 0
        self.location = location
        self.spots = spots

    @property
    def label(self) -> str:
        """Name and number, for example `torch_softmax_0`."""
        return f"{self.name}_{self.number}"

    @property
    def lineno(self) -> int | None:
        """The line where it starts, from 1."""
        return None if self.location is None else self.location[0]

    def __repr__(self) -> str:
        return f"<{self.kind} {self.label}, line {self.lineno}>"


class Listing:
    """The operations of a function.

    Attributes:
        operations: All of them, in the order in which they are shown.
        by_position: Whether the code knows columns. If not, operations are numbered in order of
            bytecode, and a copied one is listed more than once.
    """

    __slots__ = ("by_position", "operations")

    def __init__(self, operations: list[Operation], *, by_position: bool) -> None:
        self.operations = operations
        self.by_position = by_position

    def of_kind(self, kind: str) -> dict[str, Operation]:
        """The operations of one kind by their names with numbers."""
        return {op.label: op for op in self.operations if op.kind == kind}


def list_operations(code: CodeType) -> Listing:
    """List the operations of a function's code.

    These are calls, operators (arithmetic, comparisons, `in`, and loads by subscript, called
    `getitem`) and assignments (to names, attributes and items: in all their forms, also `:=`,
    loop and `with` targets). Comprehensions and generator expressions belong to the function that
    they stand in; functions, lambdas and classes defined in it do not. `super()` is left out, and
    so are `is`, `not`, `and` and `or`, which are control flow as often as values, and what binds
    a name without assigning to it (`import`, `def`, `class`, `except ... as`). What the pattern of
    a `case` binds is listed by some Pythons only.

    Args:
        code: Of any function.

    Returns:
        The operations, numbered by the position where they end, for each kind and name apart.
    """
    found = list(_found_in(code, ()))
    by_position = all(item.location is not None and item.location[3] is not None for item in found)
    # The copies of a call may have got different callables: `(f if x else g)(y)`.
    merged: dict[object, _Found] = {}
    for at, item in enumerate(sorted(found, key=lambda item: item.end) if by_position else found):
        named = item.parts if item.kind == "operator" else None
        known = merged.setdefault((item.kind, named, item.location) if by_position else at, item)
        if known is not item:
            known.parts = _common(known.parts, item.parts)
            known.spots += item.spots
    operations = [
        Operation(
            item.kind, "_".join(item.parts) or _NAMELESS[item.kind], item.location, item.spots
        )
        for item in merged.values()
    ]
    counts: dict[tuple[str, str], int] = {}
    for operation in operations:
        kind_and_name = (operation.kind, operation.name)
        operation.number = counts.get(kind_and_name, 0)
        counts[kind_and_name] = operation.number + 1
    if by_position:
        operations.sort(key=_shown_order)
    return Listing(operations, by_position=by_position)


def _shown_order(operation: Operation) -> tuple[int, int, str, int]:
    """By line; in a line what is assigned first, by name, then the rest by where it ends.

    Where exactly each of several names is assigned is not known on all Pythons.
    """
    _, line, _, column = operation.location or (0, 0, 0, 0)
    if operation.kind == "assign":
        return (line or 0, -1, operation.name, operation.number)
    return (line or 0, column or 0, "", 0)


class _Found:
    """Instructions that are one operation; `parts` is the name as it stood between dots."""

    __slots__ = ("end", "kind", "location", "parts", "spots")

    def __init__(
        self, kind: str, parts: tuple[str, ...], location: Location, end: _End, spot: Spot
    ) -> None:
        self.kind = kind
        self.parts = parts
        self.location = location
        self.end = end
        self.spots = [spot]


def _found_in(code: CodeType, way: tuple[int, ...]) -> Iterator[_Found]:
    reader = Reader(lift(code))
    for item in reader.read():
        if isinstance(item, int):
            inner = code.co_consts[item]
            yield from _found_in(inner, (*way, item))
        else:
            kind, parts, location, end, index = item
            yield _Found(kind, parts, location, end, (way, index))


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """What two names end in alike."""
    count = 0
    while count < min(len(one), len(other)) and one[~count] == other[~count]:
        count += 1
    return one[len(one) - count :]


class Origin:
    """What is known of a stack slot.

    Attributes:
        name: The dotted name it was loaded by, in parts; empty if by none.
        mark: What it is, where that matters; else empty.
        end: Where the text of its expression ends, at least.
        maker: The instruction that made it.
    """

    __slots__ = ("end", "maker", "mark", "name")

    def __init__(
        self,
        end: _End,
        name: tuple[str, ...] = (),
        mark: str = "",
        maker: Instr | None = None,
    ) -> None:
        self.end = end
        self.name = name
        self.mark = mark
        self.maker = maker


_START: Final[_End] = (0, 0)
_ANYTHING: Final = Origin(_START)
_Item = tuple[str, tuple[str, ...], Location, _End, int]


class Reader:
    """Runs a program on a stack of origins.

    Args:
        program: As lifted.

    Attributes:
        loads: For each call that is an operation, by index: the load of its method, or None.
    """

    def __init__(self, program: Program) -> None:
        self.code = program.code
        self.instrs = program.instrs
        self.slots = _slot_names(program.code)
        self.class_name = _class_name(program.code)
        self.loads: dict[int, Instr | None] = {}
        self.known: dict[Label, list[Origin]] = {}
        self.found: list[_Item | int] = []

    def read(self) -> list[_Item | int]:
        """Give the operations in order of bytecode, and for each inner code its const index."""
        # A label may be reached first from below, where a handler stands behind what follows it.
        while any(label in self.known for label in self.once()):
            pass
        return self.found

    def once(self) -> list[Label]:
        """One pass; gives the labels behind which the stack was not known."""
        self.found = []
        self.loads = {}
        missed: list[Label] = []
        stack: list[Origin] | None = []
        previous: Instr | None = None
        for index, instr in enumerate(self.instrs):
            if type(instr) is Label:
                if stack is not None:
                    self.arrive(instr, stack)
                known = self.known.get(instr)
                if known is None:
                    missed.append(instr)
                stack = None if known is None else list(known)
                previous = None
                continue
            assert type(instr) is Instr
            if stack is not None:
                stack = self.do(stack, instr, index, previous)
            previous = instr
        return missed

    def do(
        self, stack: list[Origin], instr: Instr, index: int, previous: Instr | None
    ) -> list[Origin] | None:
        """Do one instruction; gives the stack after it, None where control does not go on."""
        handler = instr.handler
        if handler is not None and handler.target not in self.known:
            extra = [Origin(_START, mark=_EXCEPTION)] * (1 + handler.lasti)
            self.known[handler.target] = stack[: handler.depth] + extra
        op = instr.op
        if op in LEAVES:
            return None
        if op not in JUMPS:
            self.step(stack, instr, index, previous)
            return stack
        jumped = list(stack)
        self.generic(jumped, instr, jump=True)
        self.arrive(instr.arg, jumped)
        if op in UNCONDITIONAL_JUMPS:
            return None
        self.generic(stack, instr)
        return stack

    def arrive(self, label: Label, stack: list[Origin]) -> None:
        """Note that control reaches *label* with *stack*: what is alike remains."""
        known = self.known.get(label)
        if known is None:
            self.known[label] = list(stack)
            return
        for at, (one, other) in enumerate(zip(known, stack, strict=False)):
            if one is not other:
                name = _common(one.name, other.name)
                mark = one.mark if one.mark == other.mark else ""
                maker = one.maker if one.maker is other.maker else None
                known[at] = Origin(max(one.end, other.end), name, mark, maker)

    def step(self, stack: list[Origin], instr: Instr, index: int, previous: Instr | None) -> None:
        """Do one instruction that goes on to the next."""
        op, arg = instr.op, instr.arg
        end = _end_of(instr.location)
        if op in (CALL, CALL_KW, CALL_FUNCTION_EX):
            self.call(stack, instr, index)
        elif op in _SLOT_LOADS:
            stack.append(Origin(end, (self.slots[arg],)))
        elif op in (LOAD_GLOBAL, LOAD_NAME):
            self.load_global(stack, instr)
        elif op == LOAD_FAST_AND_CLEAR:
            stack.append(Origin(end, mark=_SAVED))
        elif op == LOAD_CONST:
            value = self.code.co_consts[arg]
            stack.append(Origin(end, mark=_NONE if value is None else "", maker=instr))
        elif op == PUSH_NULL:
            stack.append(Origin(end, mark=_NULL))
        elif op in (LOAD_ATTR, LOAD_METHOD, LOAD_SUPER_ATTR):
            self.load_attr(stack, instr)
        elif op == SWAP:
            stack[-1], stack[-arg] = stack[-arg], stack[-1]
        elif op == COPY:
            stack.append(stack[-arg])
        elif op in (PRECALL, KW_NAMES):
            return
        elif op in (_MAKE_FUNCTION, _SET_FUNCTION_ATTRIBUTE, _LOAD_BUILD_CLASS):
            self.define(stack, instr)
        elif op in _IMPORTS:
            self.generic(stack, instr)
            stack[-1] = Origin(end, mark=_IMPORT)
        elif op == PUSH_EXC_INFO:
            stack.append(Origin(end, mark=_EXCEPTION))
        elif op == BEFORE_WITH:
            stack[-1:] = [Origin(end), Origin(end)]
        elif op in _SLOT_STORES or op in _NAME_STORES:
            self.store(stack, instr, index, previous)
        elif op in _STORES_OF_ITEMS:
            self.store_item(stack, instr, index)
        else:
            self.operate(stack, instr, index, previous)

    def generic(self, stack: list[Origin], instr: Instr, *, jump: bool = False) -> None:
        """Do an instruction of which only the number of slots matters."""
        op = instr.op
        has_argument = op >= dis.HAVE_ARGUMENT
        arg = 0 if type(instr.arg) is Label else instr.arg
        if op in _UNPACKS:
            stack.pop()
        effect = dis.stack_effect(op, arg if has_argument else None, jump=jump)
        effect += op in _UNPACKS
        end = _end_of(instr.location)
        if effect > 0:
            stack.extend([Origin(end)] * effect)
        elif effect < 0:
            del stack[effect:]
        if stack and op not in WITHOUT_RESULT and op not in JUMPS:
            stack[-1] = Origin(max(end, stack[-1].end))

    # Loads.

    def load_global(self, stack: list[Origin], instr: Instr) -> None:
        end = _end_of(instr.location)
        has_null = instr.op == LOAD_GLOBAL and bool(instr.arg & 1)
        at = instr.arg >> 1 if instr.op == LOAD_GLOBAL else instr.arg
        value = Origin(end, (self.plain(self.code.co_names[at]),), maker=instr)
        null = Origin(end, mark=_NULL)
        if not has_null:
            stack.append(value)
        elif NULL_IS_ABOVE_THE_CALLABLE:
            stack += [value, null]
        else:
            stack += [null, value]

    def load_attr(self, stack: list[Origin], instr: Instr) -> None:
        op, arg = instr.op, instr.arg
        end = _end_of(instr.location)
        if op == LOAD_SUPER_ATTR:
            is_method, at = bool(arg & 1), arg >> 2
            del stack[-2:]
            # `super().x` has the name that `f().x` has.
            stack[-1] = _ANYTHING
        else:
            is_method = op == LOAD_METHOD or bool(arg & _METHOD_BIT)
            at = arg >> _METHOD_BIT
        name = (*stack[-1].name, self.plain(self.code.co_names[at]))
        value = Origin(max(end, stack[-1].end), name, maker=instr)
        if not is_method:
            stack[-1] = value
            return
        null = Origin(end, mark=_NULL)
        stack[-1:] = [value, null] if NULL_IS_ABOVE_THE_CALLABLE else [null, value]

    def define(self, stack: list[Origin], instr: Instr) -> None:
        end = _end_of(instr.location)
        if instr.op == _SET_FUNCTION_ATTRIBUTE:
            del stack[-2]
            return
        if instr.op == _LOAD_BUILD_CLASS:
            stack.append(Origin(end, mark=_DEFINITION))
            return
        load = stack[-1].maker
        self.generic(stack, instr)
        assert load is not None
        name = self.code.co_consts[load.arg].co_name
        if name in IN_PLACE_CODES and load.arg not in self.found:
            self.found.append(load.arg)
        is_definition = name != "<lambda>" and name not in IN_PLACE_CODES
        stack[-1] = Origin(end, mark=_DEFINITION if is_definition else "")

    # Operations.

    def call(self, stack: list[Origin], instr: Instr, index: int) -> None:
        op, arg = instr.op, instr.arg
        end = _end_of(instr.location)
        # How many slots lie above the callable, besides the NULL.
        above = arg + (op == CALL_KW) if op != CALL_FUNCTION_EX else 1 + (arg & 1)
        if NULL_IS_ABOVE_THE_CALLABLE:
            callee, null = stack[-above - 2], stack[-above - 1]
        else:
            null, callee = stack[-above - 2], stack[-above - 1]
        is_plain = null.mark == _NULL
        used = stack[-above - 2 :]
        del stack[-above - 1 :]
        # Without a NULL it is a decorator, a comprehension, an `assert` or the end of a `with`.
        if not is_plain or callee.mark == _DEFINITION:
            defines = any(slot.mark == _DEFINITION for slot in used)
            stack[-1] = Origin(end, mark=_DEFINITION if defines else "")
            return
        end = max(slot.end for slot in used)
        end = max(end, _end_of(instr.location))
        stack[-1] = Origin(end)
        load = callee.maker
        if load is not None and load.op == LOAD_GLOBAL and callee.name == ("super",):
            return
        self.loads[index] = load if load is not None and load.op in METHOD_LOADS else None
        self.found.append(("call", callee.name, instr.location, end, index))

    def operate(
        self, stack: list[Origin], instr: Instr, index: int, previous: Instr | None
    ) -> None:
        op, arg = instr.op, instr.arg
        location = instr.location
        end = _end_of(location)
        name = ""
        dotted: tuple[str, ...] = ()
        if op == BINARY_OP:
            name = _BINARY[arg % len(_BINARY)]
        elif op in _SUBSCRIPTS:
            name = "getitem"
            dotted = stack[-2 if op == BINARY_SUBSCR else -3].name
        elif op == COMPARE_OP:
            name = _COMPARES[COMPARE_SYMBOLS[arg >> COMPARE_SHIFT]]
            # The parts of `a < b < c` share one position: tell them apart by what they compare.
            if previous is not None and previous.op == COPY and previous.arg == _SECOND:
                end = stack[-1].end
                if location is not None:
                    location = (location[0], end[0], location[2], end[1])
        elif op == CONTAINS_OP:
            name = "contains"
        elif op in _UNARY:
            name = _UNARY[op]
        elif op == CALL_INTRINSIC_1 and arg == _POSITIVE_INTRINSIC:
            name = "pos"
        self.generic(stack, instr)
        if name:
            stack[-1] = Origin(max(end, _end_of(instr.location)), dotted)
            self.found.append(("operator", (name,), location, end, index))

    def store(self, stack: list[Origin], instr: Instr, index: int, previous: Instr | None) -> None:
        value = stack.pop()
        if value.mark in (_SAVED, _DEFINITION, _IMPORT, _EXCEPTION):
            return
        in_slot = instr.op in _SLOT_STORES
        name = self.plain(self.slots[instr.arg] if in_slot else self.code.co_names[instr.arg])
        location = instr.location
        if previous is not None and previous.offset == instr.offset:
            location = previous.location
            if not _is_just(self.plain(self.slots[previous.arg]), location):
                return
            location = _after(location)
        elif not _is_just(name, location):
            return
        if self.overwritten_next(instr, index) or (
            value.mark == _NONE and self.unbound_next(instr, index)
        ):
            return
        self.found.append(("assign", (name,), location, _end_of(location), index))

    def unbound_next(self, instr: Instr, index: int) -> bool:
        """Whether the next instruction deletes the name: the end of an `except ... as`."""
        following = self.instrs[index + 1]
        return type(following) is Instr and following.op in _DELETES and following.arg == instr.arg

    def overwritten_next(self, instr: Instr, index: int) -> bool:
        """Whether the next instruction stores the name again: `_, _ = x`.

        From 3.13 on the compiler leaves the first store out.
        """
        following = self.instrs[index + 1]
        return (
            type(following) is Instr
            and following.op == instr.op == STORE_FAST
            and following.arg == instr.arg
        )

    def store_item(self, stack: list[Origin], instr: Instr, index: int) -> None:
        operands = _STORES_OF_ITEMS[instr.op]
        target = stack[-operands].name
        del stack[-operands - 1 :]
        if instr.op == STORE_ATTR:
            target = (*target, self.plain(self.code.co_names[instr.arg]))
        self.found.append(("assign", target, instr.location, _end_of(instr.location), index))

    def plain(self, name: str) -> str:
        """The name as it was written: `__x` for the `_C__x` that it means in a class `C`."""
        prefix = f"_{self.class_name}"
        if self.class_name and name.startswith(f"{prefix}__") and not name.endswith("__"):
            return name.removeprefix(prefix)
        return name


def _end_of(location: Location) -> _End:
    if location is None:
        return _START
    _, end_line, _, end_column = location
    return (end_line or 0, end_column or 0)


def _is_just(name: str, location: Location) -> bool:
    """Whether a position covers a name and nothing else, as that of a target does."""
    if location is None or location[3] is None:
        return True
    line, end_line, column, end_column = location
    return line == end_line and (end_column or 0) - (column or 0) == len(name.encode())


def _after(location: Location) -> Location:
    """Where the second of two stores stands of which only the first one's place is known."""
    if location is None or location[3] is None:
        return location
    return (location[1], location[1], location[3], location[3])


def _slot_names(code: CodeType) -> tuple[str, ...]:
    """The names of a frame's slots, by the oparg of LOAD_FAST and LOAD_DEREF."""
    cells = tuple(name for name in code.co_cellvars if name not in code.co_varnames)
    return (*code.co_varnames, *cells, *code.co_freevars)


def _class_name(code: CodeType) -> str:
    """The class that *code* stands in, as it appears in mangled names; empty if in none."""
    parts = code.co_qualname.split(".")
    classes = [part for part, below in pairwise(parts) if below != "<locals>"]
    return classes[-1].lstrip("_") if classes and classes[-1] != "<locals>" else ""
