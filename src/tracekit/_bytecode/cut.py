"""The body of a `with`, cut out of the code object that holds it.

What is inside is found from the exception table: while the body runs, the chain of handlers leads
to the handler that calls `__exit__`. Three things make it more than reading one entry:

* Handlers of `try`s in the body stand far away from it (3.12+), so the body is walked, following
  jumps and handlers, rather than taken as one range.
* Instructions that cannot raise (jumps, NOPs) may have no entry although they are inside. The body
  ends where the uncovered call `__exit__(None, None, None)` begins.
* Every statement that leaves the body (`return`, `break`, ...) has its own copy of that call. The
  normal end is the one that goes on where a suppressed exception would go on.

Things that don't work: taking everything between entry and exit offsets (cold blocks are moved);
comparing offsets after the exit calls (the compiler copies short endings; so instructions are
compared, through jumps); comparing instructions strictly (definite assignment makes LOAD_FAST of
one copy a LOAD_FAST_CHECK in the other).
"""

# This file is long because finding the end of a body and refusing what leaves it are one walk: the
# refusals are known only by what the walk did not reach.

from __future__ import annotations

import dis
import inspect
from dataclasses import dataclass
from types import CodeType
from typing import Final, NamedTuple

from ..errors import AsyncWithError, LeavesBlockError, WithBlockNotFoundError
from .facts import CACHE_UNITS, HAVE_ARGUMENT
from .leaving import mark_of, word_at, word_for
from .lift import Entry, Table, lift_with_labels
from .opcodes import (
    BACKWARD_JUMPS,
    BEFORE_ASYNC_WITH,
    BEFORE_WITH,
    CALL,
    CONSTS,
    DELETE_FAST,
    EXTENDED_ARG,
    FAST_LOADS,
    FAST_PAIRS,
    JUMP_FORWARD,
    JUMPS,
    LEAVES,
    LOAD_CONST,
    LOAD_FAST,
    LOCAL_SLOTS,
    NAME_SHIFTS,
    NOP,
    POP_TOP,
    PRECALL,
    PUSH_EXC_INFO,
    RETURN_VALUE,
    RETURNS,
    STORE_DEREF,
    STORE_FAST,
    STORE_GLOBAL,
    STORE_NAME,
    SWAP,
    TRUTH_JUMPS,
    UNCONDITIONAL_JUMPS,
    WITH_EXCEPT_START,
    YIELD_VALUE,
    numbers,
)
from .positions import Positions
from .program import Element, Instr, Label, Location, Program
from .shapes import comprehension_accesses

_AWAITS: Final = numbers("GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "BEFORE_ASYNC_WITH")
_SIMPLE_STORES: Final = frozenset({STORE_FAST, STORE_NAME, STORE_GLOBAL, STORE_DEREF, POP_TOP})
_NAME_LOADS: Final = numbers("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
_NAME_STORES: Final = numbers("STORE_NAME", "DELETE_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")
_SLOT_STORES: Final = numbers("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF")

_MAY_LEAVE: Final = _AWAITS | RETURNS | {YIELD_VALUE}
_FROM_IMPORT: Final = numbers("IMPORT_FROM")
_EXIT_ARGUMENTS: Final = 3
_FUNCTION_FORM: Final = "put the body in a function and call `.run(that_function)`"


class Unit(NamedTuple):
    """One decoded instruction: where it begins (with its EXTENDED_ARG) and where the next does."""

    op: int
    arg: int
    start_offset: int
    stop_offset: int


@dataclass(slots=True)
class Cut:
    """The body of a `with` as a program of its own.

    Attributes:
        code: The code object it was cut from.
        enter_offset: Bytes; the instruction that entered the `with`.
        first_offset: Bytes; the body's first instruction that does something, which the frame
            must not execute; -1 if there is none (behind a delegating wrapper, a body of `pass`).
        program: Starts with the value of the `as` target on the stack when `takes_value`, returns
            None where the body ends. Not yet a generator.
        takes_value: False where the cut begins after the store of the `as` target.
        is_optimized: Whether the code has fast locals (a function), not a namespace.
        arguments: Names of the caller's plain locals that the body uses, in order of its arguments.
        cells: Names used that are the caller's own cell variables.
        frees: Names used that are free variables of the caller.
        loads: Names the body itself may read.
        stores: Names the body itself may bind or unbind.
        nested: Names that functions made in the body read from their globals.
        lineno: Line of the `with`.
    """

    code: CodeType
    enter_offset: int
    first_offset: int
    program: Program
    takes_value: bool
    is_optimized: bool
    arguments: tuple[str, ...]
    cells: tuple[str, ...]
    frees: tuple[str, ...]
    loads: frozenset[str]
    stores: frozenset[str]
    nested: frozenset[str]
    lineno: int

    def only_bound(self) -> frozenset[str]:
        """Plain locals that the body binds, and neither reads nor unbinds."""
        names = self.arguments
        found = self.stores.intersection(names) - self.loads
        for instr in self.program.instrs:
            # The end of an `except ... as` unbinds, too.
            if type(instr) is Instr and instr.op == DELETE_FAST and instr.arg < len(names):
                found -= {names[instr.arg]}
        if "super" in self.code.co_names:
            found -= set(names[:1])  # `super()` looks at the first argument
        return found


def decode(raw: bytes, offset: int) -> Unit:
    """Decode the instruction that begins at *offset* (bytes)."""
    start = offset
    arg = 0
    while raw[offset] == EXTENDED_ARG:
        arg = (arg | raw[offset + 1]) << 8
        offset += 2
    op = raw[offset]
    return Unit(op, arg | raw[offset + 1], start, offset + 2 + 2 * CACHE_UNITS[op])


def target_of(unit: Unit) -> int:
    """Where a jump goes, in bytes."""
    distance = -2 * unit.arg if unit.op in BACKWARD_JUMPS else 2 * unit.arg
    return unit.stop_offset + distance


def slot_names(code: CodeType) -> tuple[str, ...]:
    """The name of each slot of a frame of *code*: locals, then cells, then free variables."""
    names, cells = code.co_varnames, code.co_cellvars
    if cells:
        own = set(names)
        cells = tuple(name for name in cells if name not in own)
    return names + cells + code.co_freevars


def line_at(code: CodeType, offset: int) -> int:
    """The line of the instruction at *offset*, or the code's first line."""
    return (Positions(code).at(offset) or (None,))[0] or code.co_firstlineno


def is_with_entry(code: CodeType, offset: int) -> bool:
    """Whether the instruction at *offset* enters a `with`."""
    return 0 <= offset < len(code.co_code) and code.co_code[offset] == BEFORE_WITH


def is_from_import(code: CodeType, offset: int) -> bool:
    """Whether the instruction at *offset* takes a name out of a module: `from module import name`."""
    return 0 <= offset < len(code.co_code) and code.co_code[offset] in _FROM_IMPORT


def is_with_item(code: CodeType, call_offset: int) -> bool:
    """Whether a `with` enters what the call at *call_offset* (bytes) returns, and nothing else."""
    call = decode(code.co_code, call_offset)
    if call.op == PRECALL:  # on 3.11 a call is two instructions
        call = decode(code.co_code, call.stop_offset)
    return is_with_entry(code, call.stop_offset)


def cut(
    code: CodeType, enter_offset: int, *, after_target: bool = False, all_names: bool = False
) -> Cut:
    """Cut the `with` body that follows *enter_offset* out of *code*.

    Running the result with the same names is equivalent to running the body in place, except
    that it has a frame of its own (`sys._getframe()` differs).

    Args:
        code: The code object that holds the `with`.
        enter_offset: Bytes from the start of `co_code`; the instruction that entered the `with`.
        after_target: Begin after the store of the `as` target instead of before it.
        all_names: Take all names of a function along, also those that the body does not use, so
            that a debugger can show them.

    Returns:
        The body. The store of the `as` target is inside, the call of `__exit__` is not.

    Raises:
        WithBlockNotFoundError: `not-a-with`. `__enter__` was called by hand.
        LeavesBlockError: `leaves-block`. `return`, `yield`, `await`, or a `break` or `continue`
            that leaves the body.

    Source:
        Exception-table format:
        https://github.com/python/cpython/blob/3.11/Objects/exception_handling_notes.txt
    """
    walk = Walk(code, enter_offset)
    first = walk.first_offset
    loaded = -1
    if after_target:
        first, loaded = walk.after_target()
    walk.run(first)
    return _build(walk, first, loaded, takes_value=not after_target, all_names=all_names)


def names_read_by(code: CodeType) -> frozenset[str]:
    """Names outside itself that a comprehension or function, or one nested in it, may read."""
    found = set(code.co_freevars)
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.add(instruction.argval)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found |= names_read_by(const) - set(code.co_cellvars)
    return frozenset(found)


def global_names(code: CodeType) -> frozenset[str]:
    """Names that *code*, and the code nested in it, reads from its globals."""
    found = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.add(instruction.argval)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found |= global_names(const)
    return frozenset(found)


def walk_body(code: CodeType, enter_offset: int) -> Walk:
    """Find the instructions of the body that follows *enter_offset*, without lifting them."""
    walk = Walk(code, enter_offset)
    walk.run(walk.first_offset)
    return walk


def successors(walk: Walk, unit: Unit) -> list[int]:
    """Offsets that can follow *unit*: the next, the jump's, the handler's."""
    found = []
    if unit.op in JUMPS:
        found.append(target_of(unit))
    if unit.op not in LEAVES and unit.op not in UNCONDITIONAL_JUMPS:
        found.append(unit.stop_offset)
    entry = walk.table.covering(unit.start_offset)
    if entry is not None:
        found.append(entry.target_offset)
    return found


class Walk:
    """Finds the instructions of one body."""

    def __init__(self, code: CodeType, enter_offset: int) -> None:
        self.code = code
        self.raw = code.co_code
        self.enter_offset = enter_offset
        if self.raw[enter_offset] == BEFORE_ASYNC_WITH:
            raise AsyncWithError(
                "the block was entered with `async with`",
                where=self._place(enter_offset),
                fix="write `with` instead: nothing here awaits",
            )
        if self.raw[enter_offset] != BEFORE_WITH:
            raise WithBlockNotFoundError(
                "`__enter__` was not called by a `with` statement",
                where=self._place(enter_offset),
                fix=_FUNCTION_FORM,
            )
        self.table = Table(code)
        self.positions = Positions(code)
        self.first_offset = decode(self.raw, enter_offset).stop_offset
        entry = self.table.covering(self.first_offset)
        if entry is None or not self._is_with_handler(entry.target_offset):
            raise WithBlockNotFoundError(
                "the `with` statement here has no body that can be found",
                where=self._place(enter_offset),
                fix=_FUNCTION_FORM,
            )
        self.handler: Entry = entry
        self.units: dict[int, Unit] = {}
        self.exits: dict[int, int] = {}
        self._inside: dict[int, bool] = {}

    def _place(self, offset: int) -> str:
        return f"{self.code.co_filename}:{line_at(self.code, offset)}, in {self.code.co_qualname}"

    def _is_with_handler(self, offset: int) -> bool:
        unit = decode(self.raw, offset)
        return (
            unit.op == PUSH_EXC_INFO and decode(self.raw, unit.stop_offset).op == WITH_EXCEPT_START
        )

    def is_covered(self, offset: int) -> bool:
        """Whether the chain of handlers of this instruction leads to the `with`'s own."""
        known = self._inside.get(offset)
        if known is not None:
            return known
        goal = self.handler.target_offset
        seen: list[int] = []
        at = offset
        while True:
            entry = self.table.covering(at)
            if entry is None:
                answer = False
                break
            at = entry.target_offset
            if at == goal or self._inside.get(at):
                answer = True
                break
            if at in seen:
                answer = False
                break
            seen.append(at)
        self._inside[offset] = answer
        return answer

    def run(self, first: int) -> None:
        """Collect the reachable instructions of the body and its exits."""
        work: list[tuple[int, int]] = [(first, first)]
        raw, units, goal = self.raw, self.units, self.handler.target_offset
        # The entry that covers what was looked at last: straight code stays in it.
        entry: Entry | None = None
        start = stop = -1
        while work:
            offset, origin = work.pop()
            if offset in units:
                continue
            if not start <= offset < stop:
                entry = self.table.covering(offset)
                start, stop = (-1, -1) if entry is None else entry[:2]
            target = -1 if entry is None else entry.target_offset
            is_covered = target == goal or (target >= 0 and self.is_covered(offset))
            if not is_covered and self._exit_call(offset) is not None:
                self.exits.setdefault(offset, origin)
                continue
            unit = decode(raw, offset)
            op = unit.op
            if op in _MAY_LEAVE:
                self._refuse_leaving_instruction(unit)
            units[offset] = unit
            if is_covered and target != goal:
                work.append((target, offset))
            if op in JUMPS:
                work.append((target_of(unit), offset))
            if op not in LEAVES and op not in UNCONDITIONAL_JUMPS:
                work.append((unit.stop_offset, offset))
        self._refuse_leaving_exits()

    def _refuse_leaving_instruction(self, unit: Unit) -> None:
        kind = ""
        if unit.op == YIELD_VALUE:
            kind = "await" if self.code.co_flags & inspect.CO_COROUTINE else "yield"
            if self.code.co_flags & inspect.CO_ASYNC_GENERATOR:
                kind = "yield or await"
        elif unit.op in _AWAITS:
            kind = "await"
        elif unit.op in RETURNS:
            kind = "return"
        if kind:
            raise self._leaves(kind, unit.start_offset)

    def _leaves(self, kind: str, offset: int) -> LeavesBlockError:
        lineno = line_at(self.code, offset)
        words = kind.split(" or ")
        shown = " or ".join(f"`{word}`" for word in words)
        fixes = {
            "return": "bind the value to a name in the block, and return it after the block",
            "break": "set a flag in the block, and test it after the block",
            "continue": "put the rest of the block under an `if` or `else`",
            "yield": "bind the value to a name in the block, and yield it after the block",
            "await": "await before the block, and use the result in it",
        }
        return LeavesBlockError(
            f"{shown} on line {lineno} leaves the traced block",
            where=f"{self.code.co_filename}:{lineno}, in the body of the `with` on line "
            f"{line_at(self.code, self.enter_offset)}",
            why="the body of the block runs as a function of its own, in step with the model",
            fix=f"{fixes[words[0]]}; or {_FUNCTION_FORM}",
        )

    def _exit_call(self, offset: int) -> Unit | None:
        """The unit after `[SWAP 2] None None None CALL 2`, if that is what stands here."""
        unit = decode(self.raw, offset)
        if unit.op == SWAP and unit.arg == 2:
            unit = decode(self.raw, unit.stop_offset)
        for _ in range(_EXIT_ARGUMENTS):
            if unit.op != LOAD_CONST or self.code.co_consts[unit.arg] is not None:
                return None
            unit = decode(self.raw, unit.stop_offset)
        if unit.op == PRECALL:
            unit = decode(self.raw, unit.stop_offset)
        if unit.op != CALL or unit.arg != _EXIT_ARGUMENTS - 1:
            return None
        return decode(self.raw, unit.stop_offset)

    def _after_suppression(self) -> int:
        """Where a suppressed exception goes on."""
        unit = decode(self.raw, self.handler.target_offset)
        while unit.op not in TRUTH_JUMPS:
            unit = decode(self.raw, unit.stop_offset)
        offset = target_of(unit)
        for _ in range(4):  # POP_TOP, POP_EXCEPT, POP_TOP, POP_TOP
            offset = decode(self.raw, offset).stop_offset
        return offset

    def _refuse_leaving_exits(self) -> None:
        """Every exit must go on where the statement after the `with` begins.

        The compiler makes one normal exit, and one more for each statement that leaves; it never
        copies the normal one. So with several exits, all but the last leave, also those (a
        `continue` in a body that ends its loop) that come to the same.
        """
        goal = self._after_suppression()
        ordered = sorted(self.exits)
        suspects: list[tuple[int, int]] = []
        for offset in ordered:
            after = self._exit_call(offset)
            assert after is not None
            if decode(self.raw, offset).op == SWAP or not self._same(
                after.stop_offset, goal, set()
            ):
                word = word_for(self, offset, after.stop_offset)
                raise self._leaves(word, mark_of(self, offset))
            suspects.append((offset, after.stop_offset))
        if len(suspects) > 1:
            named = [suspect for suspect in suspects if word_at(self, suspect[0])]
            offset, after_offset = (named or suspects)[0]
            raise self._leaves(word_for(self, offset, after_offset), mark_of(self, offset))

    def unit(self, offset: int) -> Unit:
        """The instruction that begins at *offset*."""
        return decode(self.raw, offset)

    def line(self, offset: int) -> int | None:
        """Its line, if it has one."""
        return (self.positions.at(offset) or (None,))[0]

    def _same(self, left: int, right: int, assumed: set[tuple[int, int]]) -> bool:
        """Whether two places go on alike, comparing instructions through jumps."""
        # Parts of a pair of loads or stores on one side that the other has as single ones.
        left_parts: list[tuple[int, int]] = []
        right_parts: list[tuple[int, int]] = []
        while True:
            left = self._through_jumps(left)
            right = self._through_jumps(right)
            if not left_parts and not right_parts:
                if left == right or (left, right) in assumed:
                    return True
                assumed.add((left, right))
            if not left_parts:
                one = decode(self.raw, left)
            if not right_parts:
                two = decode(self.raw, right)
            if one.op in JUMPS or two.op in JUMPS:
                if one.op not in JUMPS or two.op not in JUMPS:
                    return False
                if _kind_of_jump(one.op) != _kind_of_jump(two.op):
                    return False
                if not self._same(target_of(one), target_of(two), assumed):
                    return False
                left, right = one.stop_offset, two.stop_offset
                continue
            if not left_parts:
                left_parts, left = _plain(one), one.stop_offset
            if not right_parts:
                right_parts, right = _plain(two), two.stop_offset
            if left_parts.pop(0) != right_parts.pop(0):
                return False
            if one.op in LEAVES:
                return True

    def _through_jumps(self, offset: int) -> int:
        for _ in range(len(self.raw)):
            unit = decode(self.raw, offset)
            if unit.op == NOP:
                offset = unit.stop_offset
            elif unit.op in UNCONDITIONAL_JUMPS:
                offset = target_of(unit)
            else:
                break
        return offset

    def first_covered(self, offset: int) -> int:
        """The first instruction from *offset* on at which an error would reach the `with`; or -1.

        What stands before it can do nothing: `pass` leaves a NOP that no handler covers.
        """
        while offset in self.units and not self.is_covered(offset):
            unit = self.units[offset]
            if unit.op != NOP:
                break
            offset = unit.stop_offset
        return offset if offset in self.units and self.is_covered(offset) else -1

    def after_target(self) -> tuple[int, int]:
        """The offset after the store of the `as` target.

        And, where that store is one instruction with the load of the next expression (3.13), the
        slot that it loads; else -1.
        """
        depth = 1
        offset = self.first_offset
        while True:
            unit = decode(self.raw, offset)
            if unit.op in JUMPS or unit.op in LEAVES:
                raise WithBlockNotFoundError(
                    "the `as` target of a `with` behind a delegating wrapper has a condition in it",
                    where=self._place(self.enter_offset),
                    fix="bind the value to a plain name",
                )
            offset = unit.stop_offset
            pair = FAST_PAIRS.get(unit.op)
            if depth == 1 and pair is not None and pair[0] == STORE_FAST:
                return offset, unit.arg & 15
            argument = unit.arg if unit.op >= HAVE_ARGUMENT else None
            depth += dis.stack_effect(unit.op, argument, jump=False)
            if depth == 0:
                return offset, -1


def _kind_of_jump(op: int) -> str:
    name = dis.opname[op]
    return name.replace("_FORWARD", "").replace("_BACKWARD", "")


def _plain(unit: Unit) -> list[tuple[int, int]]:
    """The instruction as comparable pairs: loads of locals alike, 3.13's pairs split."""
    pair = FAST_PAIRS.get(unit.op)
    if pair is None:
        parts = [(unit.op, unit.arg)]
    else:
        parts = [(pair[0], unit.arg >> 4), (pair[1], unit.arg & 15)]
    return [(LOAD_FAST if op in FAST_LOADS else op, arg) for op, arg in parts]


def _spans(units: dict[int, Unit]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for offset in sorted(units):
        stop = units[offset].stop_offset
        if spans and spans[-1][1] == offset:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((offset, stop))
    return spans


def _build(walk: Walk, first: int, loaded: int, *, takes_value: bool, all_names: bool) -> Cut:
    code = walk.code
    spans = _spans(walk.units)
    lineno = (walk.positions.at(walk.enter_offset) or (None,))[0] or code.co_firstlineno
    program, labels = lift_with_labels(code, spans, walk.positions)
    exit_label = Label()
    exit_labels = {labels[offset] for offset in walk.exits if offset in labels}
    base = walk.handler.depth
    goal = labels.get(walk.handler.target_offset)
    handlers = set()
    instrs: list[Element] = []
    if loaded >= 0:
        instrs.append(Instr(LOAD_FAST, loaded))
    if spans and spans[0][0] != first:
        # A handler of a loop around the block may have been laid out before its body.
        start = labels.get(first)
        if start is None:
            start = Label()
            index = next(
                index
                for index, instr in enumerate(program.instrs)
                if type(instr) is Instr and instr.offset == first
            )
            program.instrs.insert(index, start)
        instrs.append(Instr(JUMP_FORWARD, start))
    stops = {stop for _, stop in spans if stop in walk.exits}
    first_halves = {
        one
        for one, two in zip(program.instrs, program.instrs[1:], strict=False)
        if type(one) is Instr and type(two) is Instr and one.offset == two.offset
    }
    for instr in program.instrs:
        if type(instr) is Instr:
            handler = instr.handler
            if handler is not None:
                if handler.target is goal or not walk.is_covered(instr.offset):
                    instr.handler = None
                elif handler not in handlers:
                    handlers.add(handler)
                    handler.depth -= base
            if instr.op in JUMPS and instr.arg in exit_labels:
                instr.arg = exit_label
        instrs.append(instr)
        if (
            type(instr) is Instr
            and walk.units[instr.offset].stop_offset in stops
            and instr.op not in LEAVES
            and instr.op not in UNCONDITIONAL_JUMPS
            and instr not in first_halves
        ):
            instrs.append(Instr(JUMP_FORWARD, exit_label, instr.location, instr.handler))
    # Inline, the call of `__exit__` comes here: a debugger stops at the `with` once more.
    last_line: Location = None
    for offset in walk.exits:
        last_line = walk.positions.at(offset)
    nothing = Instr(LOAD_CONST, 0, last_line)
    instrs += [exit_label, nothing, Instr(RETURN_VALUE, 0, last_line)]
    if takes_value:
        _hide_simple_store(instrs)
    program.instrs = instrs
    result = Cut(
        code=code,
        enter_offset=walk.enter_offset,
        first_offset=walk.first_covered(first),
        program=program,
        takes_value=takes_value,
        is_optimized=bool(code.co_flags & inspect.CO_OPTIMIZED),
        arguments=(),
        cells=(),
        frees=(),
        loads=frozenset(),
        stores=frozenset(),
        nested=frozenset(),
        lineno=lineno,
    )
    _renumber(result, all_names=all_names)
    nothing.arg = program.const(None)
    return result


def _hide_simple_store(instrs: list[Element]) -> None:
    """Take the line off the store of a plain `as` target.

    It stands on the line of the `with`, which the caller's frame has just run: a debugger would
    stop there a second time. It cannot raise, so nobody misses its line.
    """
    for instr in instrs:
        if type(instr) is Instr:
            if instr.op in _SIMPLE_STORES:
                instr.location = None
            return


def _renumber(cut: Cut, *, all_names: bool) -> None:
    """Give the body a frame layout and tables of its own: only what it uses.

    The tables of a big module are longer than a block, and every index in them past 255 would
    cost an instruction.
    """
    code, program = cut.code, cut.program
    names = slot_names(code)
    own_cells, outer = set(code.co_cellvars), set(code.co_freevars)
    # Asked last: a module may have thousands of names.
    uses_super = (cut.is_optimized or "__class__" in outer) and "super" in code.co_names
    arguments: dict[str, None] = {}
    cells: dict[str, None] = {}
    frees: dict[str, None] = {}
    loads: set[str] = set()
    stores: set[str] = set()
    inner: set[str] = set()
    if cut.is_optimized and uses_super and code.co_argcount:
        # `super()` looks at the first argument of its frame.
        arguments[code.co_varnames[0]] = None
    if uses_super and "__class__" in outer:
        frees["__class__"] = None
    if all_names and cut.is_optimized and not own_cells & outer:
        arguments.update(dict.fromkeys(name for name in code.co_varnames if name not in own_cells))
        cells.update(dict.fromkeys(code.co_cellvars))
        frees.update(dict.fromkeys(code.co_freevars))
    slots: list[Instr] = []
    all_texts, all_consts = code.co_names, code.co_consts
    name_at: dict[int, int] = {}
    const_at: dict[int, int] = {}
    program.hidden = comprehension_accesses(program.instrs, 1 if cut.takes_value else 0)
    for instr in program.instrs:
        if type(instr) is Label:
            continue
        assert type(instr) is Instr
        op = instr.op
        if op in LOCAL_SLOTS:
            name = names[instr.arg]
            slots.append(instr)
            if instr in program.hidden:
                # A comprehension's own variable, which happens to have the slot of a name.
                (cells if name in own_cells else frees if name in outer else arguments)[name] = None
                continue
            if name in own_cells:
                cells[name] = None
            elif name in outer:
                frees[name] = None
            else:
                arguments[name] = None
            (stores if op in _SLOT_STORES else loads).add(name)
        elif op in NAME_SHIFTS:
            shift = NAME_SHIFTS[op]
            index = instr.arg >> shift
            instr.arg += (name_at.setdefault(index, len(name_at)) - index) << shift
            if op in _NAME_LOADS:
                loads.add(all_texts[index])
            elif op in _NAME_STORES:
                stores.add(all_texts[index])
        elif op in CONSTS and instr.offset >= 0:
            index = instr.arg
            instr.arg = const_at.setdefault(index, len(const_at))
            nested = all_consts[index]
            if op == LOAD_CONST and isinstance(nested, CodeType):
                loads |= names_read_by(nested)
                inner |= global_names(nested)
    for name in arguments:
        if name in own_cells:
            cells[name] = None
    layout = {name: index for index, name in enumerate(arguments)}
    for name in (*cells, *frees):
        layout.setdefault(name, len(layout))
    for instr in slots:
        instr.arg = layout[names[instr.arg]]
    cut.arguments = tuple(arguments)
    cut.cells, cut.frees = tuple(cells), tuple(frees)
    cut.loads, cut.stores = frozenset(loads), frozenset(stores)
    cut.nested = frozenset(inner)
    program.names = tuple([all_texts[index] for index in name_at])
    program.consts = tuple([all_consts[index] for index in const_at])
    hidden = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR
    hidden |= inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    visible = cut.arguments if cut.is_optimized else tuple(f".{name}" for name in cut.arguments)
    program.changes.update(
        co_argcount=len(cut.arguments) if cut.is_optimized else 0,
        co_posonlyargcount=0,
        co_kwonlyargcount=0,
        co_nlocals=len(cut.arguments),
        # In a namespace, these are the variables of inlined comprehensions. The dot keeps them
        # from being written into the namespace by whoever asks for the frame's locals.
        co_varnames=visible,
        co_cellvars=cut.cells,
        co_freevars=cut.frees,
        co_flags=code.co_flags & ~hidden,
    )
