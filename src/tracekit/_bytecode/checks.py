"""The checks put at each instruction that can run Python code.

For every such instruction the same shape is emitted:

    ask the guard about the operands      None: do the instruction as it stands
    drive the generator it returned       with an inlined SEND loop
    put its value where the instruction's result would have been

so a request made anywhere below travels up through `SEND` (C code, no Python per level), and the
values on this frame's stack stay where they are. What is inserted carries the location and the
handler of the instruction it serves; where nothing suspends, the original instruction itself runs,
and its errors, carets and line events are its own.

Things that don't work: a driver that keeps a stack of generators (deep calls get dearer than they
save, and handled exceptions lose their chain); `gen.throw()` for errors (each version closes
differently; errors travel as answers instead); a marker returned by the attribute itself (a C
function that reads the attribute would hand the marker on).
"""

# This file is long because it is a table: one short method for each kind of instruction, which
# nobody reads through but everybody looks something up in.

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any, Final

from .. import _protocol
from ..errors import TracekitError
from .cut import names_read_by
from .facts import (
    CALLS_HAVE_PRECALL,
    COMPARE_BOOL_BIT,
    COMPARE_SHIFT,
    COMPARE_SYMBOLS,
    JUMPS_NEED_A_BOOL,
    LOOPS_END_WITH_END_FOR,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NULL_IS_ABOVE_THE_CALLABLE,
)
from .names import read_first
from .opcodes import (
    BEFORE_WITH,
    BINARY_OP,
    BINARY_SLICE,
    BINARY_SUBSCR,
    BUILD_SLICE,
    CALL,
    CALL_FUNCTION_EX,
    CALL_INTRINSIC_1,
    CALL_KW,
    COMPARE_OP,
    CONTAINS_OP,
    CONVERT_VALUE,
    COPY,
    DELETE_ATTR,
    DELETE_DEREF,
    DELETE_FAST,
    DELETE_GLOBAL,
    DELETE_NAME,
    DELETE_SUBSCR,
    DICT_MERGE,
    DICT_UPDATE,
    FOR_ITER,
    FORMAT_SIMPLE,
    FORMAT_VALUE,
    FORMAT_WITH_SPEC,
    GET_ITER,
    GET_LEN,
    GET_YIELD_FROM_ITER,
    IS_OP,
    JUMP_FORWARD,
    JUMP_IF_FALSE_OR_POP,
    JUMP_IF_TRUE_OR_POP,
    KW_NAMES,
    LIST_APPEND,
    LIST_EXTEND,
    LOAD_ATTR,
    LOAD_CONST,
    LOAD_DEREF,
    LOAD_FAST,
    LOAD_FAST_CHECK,
    LOAD_GLOBAL,
    LOAD_METHOD,
    LOAD_NAME,
    LOAD_SUPER_ATTR,
    MATCH_CLASS,
    MATCH_KEYS,
    POP_JUMP_IF_FALSE,
    POP_JUMP_IF_NONE,
    POP_JUMP_IF_TRUE,
    POP_TOP,
    PRECALL,
    PUSH_EXC_INFO,
    PUSH_NULL,
    RAISE_VARARGS,
    RESUME,
    SEND,
    SET_UPDATE,
    STORE_ATTR,
    STORE_DEREF,
    STORE_FAST,
    STORE_GLOBAL,
    STORE_NAME,
    STORE_SLICE,
    STORE_SUBSCR,
    SWAP,
    TO_BOOL,
    TRUTH_JUMPS,
    UNARY_INVERT,
    UNARY_NEGATIVE,
    UNARY_NOT,
    UNARY_POSITIVE,
    UNPACK_EX,
    UNPACK_SEQUENCE,
    WITH_EXCEPT_START,
    YIELD_VALUE,
)
from .program import Chunk, Element, Handler, Instr, Label, Location, Program
from .sequences import Hole, Sequence, Template, name_oparg
from .shapes import calls_with_self

Guard = Callable[..., Generator[Any, Any, Any] | None]


class Last:
    """The type that a guard met last and said None about.

    Twins compare it with the operand's type in four instructions, and call the guard only where
    it is another. A guard has one in its attribute `last`, if that settles it.
    """

    __slots__ = ("kind",)

    def __init__(self) -> None:
        self.kind: type | None = None


NOTHING_MET: Final = object()
"""What no call calls."""


class CallSite:
    """What one call of a twin called last, for which the answer needs no check.

    Attributes:
        straight: Called as it stands, whatever the arguments.
        function: A Python function whose twin is called.
        code: Its code when it was looked at.
        twin: Called in its place; returns the generator to drive.
    """

    __slots__ = ("code", "function", "straight", "twin")

    def __init__(self) -> None:
        self.straight: object = NOTHING_MET
        self.function: object = NOTHING_MET
        self.code: object = NOTHING_MET
        self.twin: object = NOTHING_MET


_EXTRA_STACK: Final = 8
"""Stack slots that the longest of these sequences needs above the program's own.

Those that look at a call's arguments need one more for each argument.
"""

_RESUME_AFTER_YIELD: Final = 1
_RESUME_AFTER_SEND: Final = 2
_UNARY_POSITIVE_INTRINSIC: Final = 5
_STOPITERATION_ERROR: Final = 3
_CONVERSIONS: Final = ("", "s", "r", "a")


@dataclass(frozen=True, slots=True, eq=False)
class Hooks:
    """What the inserted checks call. `docs/inside/map.md` has the table of what each must do."""

    check: Callable[[int, tuple[str, ...]], tuple[Callable[..., Any], CallSite]]
    check_spread: Callable[..., Any]
    attr: Callable[[str], Guard]
    super_attr: Callable[[str], Guard]
    store_attr: Callable[[str], Guard]
    delete_attr: Callable[[str], Guard]
    binary: Callable[[int], Guard]
    compare: Callable[[str], Guard]
    unary: Callable[[str], Guard]
    truth: Guard
    contains: Guard
    subscr: Guard
    store_subscr: Guard
    delete_subscr: Guard
    iter: Guard
    step: Callable[[Any], Generator[Any, Any, Any]]
    unpack: Guard
    mapping: Guard
    enter: Guard
    exit_error: Guard
    format: Callable[[str], Guard]
    match_class: Guard
    match_keys: Guard
    length: Guard
    raised: Guard
    delegate: Callable[[Any], Generator[Any, Any, Any]]
    unwrap: Callable[[BaseException], BaseException]
    carry: Callable[[BaseException], BaseException]
    carry_generator: Callable[[BaseException], BaseException]
    virtual_iterators: frozenset[type]
    shared_name: Callable[[str], Guard]
    shared_store: Callable[[str], Callable[[Any], None]]
    opens_block: Callable[[Any], object]


NOTHING_SHARED: Final[Mapping[str, int]] = {}


def instrument(
    program: Program,
    hooks: Hooks,
    depth: int,
    *,
    is_generator: bool,
    shared: Mapping[str, int] = NOTHING_SHARED,
) -> int:
    """Put the checks into *program*, in place.

    Args:
        program: As lifted or cut.
        hooks: What the checks call.
        depth: Stack slots in use where the program starts.
        is_generator: Whether it is the body of a user's generator function, whose `yield`s hand
            out items.
        shared: Names that several blocks of one run use: name -> slot of its variable, or -1.
            Loads of them may suspend, stores to them are reported.

    Returns:
        How many stack slots the checks need above the program's own.
    """
    instrumenter = _Instrumenter(program, hooks, is_generator=is_generator, shared=shared)
    instrumenter.run(depth)
    return _EXTRA_STACK + instrumenter.most_copied


@cache
def _handlers() -> dict[int, str]:
    """Opcode -> name of the method that emits it."""
    table = {
        CALL: "call",
        CALL_KW: "call",
        CALL_FUNCTION_EX: "call_function_ex",
        LOAD_ATTR: "load_attr",
        LOAD_METHOD: "load_attr",
        LOAD_SUPER_ATTR: "load_super_attr",
        STORE_ATTR: "store_attr",
        DELETE_ATTR: "delete_attr",
        BINARY_OP: "binary_op",
        BINARY_SUBSCR: "binary_subscr",
        BINARY_SLICE: "binary_slice",
        STORE_SUBSCR: "store_subscr",
        STORE_SLICE: "store_slice",
        DELETE_SUBSCR: "delete_subscr",
        COMPARE_OP: "compare_op",
        CONTAINS_OP: "contains_op",
        UNARY_NEGATIVE: "unary",
        UNARY_POSITIVE: "unary",
        UNARY_INVERT: "unary",
        CALL_INTRINSIC_1: "intrinsic",
        TO_BOOL: "to_bool",
        GET_ITER: "get_iter",
        FOR_ITER: "for_iter",
        GET_YIELD_FROM_ITER: "yield_from",
        UNPACK_SEQUENCE: "unpack",
        UNPACK_EX: "unpack",
        LIST_EXTEND: "unpack",
        SET_UPDATE: "unpack",
        DICT_UPDATE: "mapping",
        DICT_MERGE: "mapping",
        BEFORE_WITH: "before_with",
        WITH_EXCEPT_START: "with_except_start",
        PUSH_EXC_INFO: "push_exc_info",
        LIST_APPEND: "list_append",
        FORMAT_VALUE: "format_value",
        FORMAT_SIMPLE: "format_simple",
        FORMAT_WITH_SPEC: "format_with_spec",
        CONVERT_VALUE: "convert_value",
        MATCH_CLASS: "match_class",
        MATCH_KEYS: "match_keys",
        GET_LEN: "get_len",
        RAISE_VARARGS: "raise_varargs",
        YIELD_VALUE: "yield_value",
        PRECALL: "drop",
        KW_NAMES: "keep_keyword_names",
    }
    if not JUMPS_NEED_A_BOOL:
        table[UNARY_NOT] = "test"
        table.update(dict.fromkeys(TRUTH_JUMPS, "test"))
        table[JUMP_IF_FALSE_OR_POP] = "jump_or_pop"
        table[JUMP_IF_TRUE_OR_POP] = "jump_or_pop"
    table.pop(-1, None)
    return table


_NAME_HANDLERS: Final = {
    op: method
    for method, ops in {
        "load_shared_slot": (LOAD_FAST, LOAD_FAST_CHECK, LOAD_DEREF),
        "load_shared_name": (LOAD_NAME, LOAD_GLOBAL),
        "store_shared": (STORE_FAST, STORE_DEREF, STORE_NAME, STORE_GLOBAL),
        "delete_shared": (DELETE_FAST, DELETE_DEREF, DELETE_NAME, DELETE_GLOBAL),
        "load_code": (LOAD_CONST,),
    }.items()
    for op in ops
    if op != -1
}
_STORES_LIKE: Final = {
    LOAD_FAST: STORE_FAST,
    LOAD_FAST_CHECK: STORE_FAST,
    LOAD_DEREF: STORE_DEREF,
    LOAD_NAME: STORE_NAME,
}
_IN_SLOTS: Final = frozenset({STORE_FAST, STORE_DEREF, DELETE_FAST, DELETE_DEREF})

_BESIDE_A_NULL: Final = ((PUSH_NULL, 0),) + (() if NULL_IS_ABOVE_THE_CALLABLE else ((SWAP, 2),))
"""A load leaves `NULL` and a bound method where one is about to be called.

Never the function and its `self`, which would save the binding: the checks of a call must know
where there is a NULL.
"""
_KEPT_BY_EXCEPT_STAR: Final = 3
_RAISE_FROM: Final = 2
_PLAIN_CONSTANTS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})
_IS_A_BOOL: Final = frozenset({CONTAINS_OP, IS_OP, UNARY_NOT})


# What the opargs in the holes of the shapes are.
_GUARD, _NONE, _ARG, _LAST, _KIND, _TYPE = (Hole(index) for index in range(6))
# What a guard is told besides the operands; then no type settles it.
_MORE: Final = (_LAST, _KIND)
_ITER, _KEYWORDS = _LAST, _KIND
# Of a call: what it has met, and the names of what to look at in that.
_SITE, _FUNCTION, _CODE, _STRAIGHT, _TWIN, _OWN_CODE = (Hole(index) for index in range(5, 11))
_UNBOUND, _RAISED, _ERROR, _ITEM = _LAST, _LAST, _KIND, _GUARD

_Added = tuple[tuple[int, Any], ...]


@cache
def _checked(
    op: int,
    operands: int,
    more: int,
    has_result: bool,
    settles: bool,
    after: _Added,
    last: _Added,
) -> Template:
    """The general shape: the guarded value takes the operands' and the instruction's place."""
    sequence = Sequence()
    straight, fine, done = Label(), Label(), Label()
    if settles:
        sequence.settled(operands, _LAST, _KIND, _TYPE, fine)
    sequence.ask_guard(_GUARD, operands, _MORE[:more], straight)
    sequence.drive(_NONE)
    if has_result:
        sequence.emit(SWAP, operands + 1)
        sequence.pop(operands)
    else:
        sequence.pop(operands + 1)
    sequence.emit_all(after)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(fine)
    sequence.served(op, _ARG)
    sequence.place(done)
    sequence.emit_all(last)
    return Template(sequence)


@cache
def _replaced(more: int, settles: bool) -> Template:
    """The guarded value takes the top operand's place, before an instruction."""
    sequence = Sequence()
    straight, done = Label(), Label()
    if settles:
        sequence.settled(1, _LAST, _KIND, _TYPE, done)
    sequence.ask_guard(_GUARD, 1, _MORE[:more], straight)
    sequence.drive(_NONE)
    sequence.emit(SWAP, 2)
    sequence.emit(POP_TOP)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(done)
    return Template(sequence)


@cache
def _pushed(op: int, operands: int) -> Template:
    """The guarded value is put on top of the operands, as the instruction's result is."""
    sequence = Sequence()
    straight, done = Label(), Label()
    sequence.ask_guard(_GUARD, operands, (), straight)
    sequence.drive(_NONE)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.served(op, _ARG)
    sequence.place(done)
    return Template(sequence)


@cache
def _resolved(
    op: int,
    place: int,
    count: int,
    on_top: int,
    spreads: bool,
    has_null: bool,
    has_keywords: bool,
) -> Template:
    """A call whose callable is *place* slots from the top, with *count* values to look at.

    Above the values stand *on_top* others.
    """
    sequence = Sequence()
    straight, known, drive, done = Label(), Label(), Label(), Label()
    call: _Added = ((KW_NAMES, _KEYWORDS),) if has_keywords else ()
    if CALLS_HAVE_PRECALL and op == CALL:
        call = (*call, (PRECALL, _ARG))
    if not spreads:
        _met(sequence, place, (*call, (op, _ARG)), known, drive)
    sequence.const(_GUARD)
    sequence.emit(COPY, place + 1)
    for _ in range(count):
        sequence.emit(COPY, count + on_top + 2)
    sequence.call_with_self(count)
    sequence.emit(COPY, 1)
    sequence.emit(POP_JUMP_IF_NONE, straight)
    sequence.emit(SWAP, place + 1)
    if spreads:
        sequence.emit(POP_TOP)
        sequence.emit(op, _ARG)
    else:
        # Nothing of the call stays on the stack: its arguments are the callee's alone. Only a
        # call can take a NULL away; `iter` of a generator is that generator.
        above = NULL_IS_ABOVE_THE_CALLABLE and has_null
        sequence.pop(place - above)
        if has_null:
            sequence.const(_ITER)
            sequence.emit(SWAP, 3 if above else 2)
            if CALLS_HAVE_PRECALL:
                sequence.emit(PRECALL, 1)
            sequence.emit(CALL, 1)
    sequence.place(drive)
    sequence.drive(_NONE)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(known)
    sequence.emit_all(call)
    sequence.served(op, _ARG)
    sequence.place(done)
    return Template(sequence)


def _met(sequence: Sequence, place: int, call: _Added, known: Label, drive: Label) -> None:
    """Do without a check what this call has called before.

    Goes to *known* for what is called as it stands, to *drive* with the generator for a
    function of the user's, and on for everything else.
    """
    other, check = Label(), Label()
    sequence.emit(COPY, place)
    sequence.field(_SITE, _FUNCTION)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_FALSE, other)
    sequence.emit(COPY, place)
    sequence.attribute(_OWN_CODE)
    sequence.field(_SITE, _CODE)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_FALSE, check)
    sequence.field(_SITE, _TWIN)
    sequence.emit(SWAP, place + 1)
    sequence.emit(POP_TOP)
    sequence.emit_all(call)
    sequence.emit(JUMP_FORWARD, drive)
    sequence.place(other)
    sequence.emit(COPY, place)
    sequence.field(_SITE, _STRAIGHT)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_TRUE, known)
    sequence.place(check)


@cache
def _left_with_error() -> Template:
    """WITH_EXCEPT_START, which keeps what it looks at."""
    sequence = Sequence()
    straight, done = Label(), Label()
    sequence.const(_GUARD)
    sequence.emit(COPY, 5)
    sequence.emit(COPY, 3)
    sequence.call_with_self(1)
    sequence.emit(COPY, 1)
    sequence.emit(POP_JUMP_IF_NONE, straight)
    sequence.drive(_NONE)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.served(WITH_EXCEPT_START, _ARG)
    sequence.place(done)
    return Template(sequence)


@cache
def _handed_out() -> Template:
    """The `yield` of a user's generator: the value in an `Item`; an answer may be an error."""
    sequence = Sequence()
    fine = Label()
    sequence.apply(_ITEM)
    sequence.served(YIELD_VALUE, 0)
    sequence.emit(RESUME, _RESUME_AFTER_YIELD)
    sequence.type_of(1, _TYPE)
    sequence.const(_RAISED)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_FALSE, fine)
    sequence.attribute(_ERROR)
    sequence.emit(RAISE_VARARGS, 1)
    sequence.place(fine)
    return Template(sequence)


@cache
def _waited(store: int) -> Template:
    """Wait for a name, and bind it to what another block left in it, if one did."""
    sequence = Sequence()
    straight, done = Label(), Label()
    sequence.function(_GUARD)
    sequence.call_with_self()
    sequence.emit(COPY, 1)
    sequence.emit(POP_JUMP_IF_NONE, straight)
    sequence.drive(_NONE)
    sequence.emit(COPY, 1)
    sequence.const(_UNBOUND)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_TRUE, straight)
    sequence.emit(store, _ARG)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(done)
    return Template(sequence)


class _Instrumenter:
    def __init__(
        self,
        program: Program,
        hooks: Hooks,
        *,
        is_generator: bool,
        shared: Mapping[str, int] = NOTHING_SHARED,
    ) -> None:
        self.shared = shared
        self.slots = {slot: name for name, slot in shared.items() if slot >= 0}
        kinds = ("co_cellvars", "co_freevars")
        self.cells = {name for kind in kinds for name in program.changes.get(kind, ())}
        self.program = program
        self.hooks = hooks
        self.is_generator = is_generator
        self.out: list[Element] = []
        self.location: Location = None
        self.handler: Handler | None = None
        self.keyword_names = -1
        self.previous = -1
        self.following: Element | None = None
        self.with_self: set[Instr] = set()
        self.most_copied = 0
        self.call_fields: tuple[int, ...] = ()

    def run(self, depth: int) -> None:
        program = self.program
        self.with_self = calls_with_self(program.instrs, depth)
        handlers = _handlers()
        if self.shared:
            handlers = handlers | _NAME_HANDLERS
        out = self.out
        instrs = program.instrs
        for index, instr in enumerate(instrs):
            if type(instr) is not Instr:
                out.append(instr)
                continue
            name = handlers.get(instr.op)
            if name is None:
                out.append(instr)
            else:
                self.location = instr.location
                self.handler = instr.handler
                self.following = instrs[index + 1] if index + 1 < len(instrs) else None
                getattr(self, name)(instr)
            self.previous = instr.op
        program.instrs = out

    # -- emitting ---------------------------------------------------------------------------

    def emit(self, op: int, arg: Any = 0) -> None:
        self.out.append(Instr(op, arg, self.location, self.handler))

    def written(self) -> Sequence:
        """A sequence that is written out here, because it jumps elsewhere."""
        return Sequence(self.location, self.handler, self.out)

    def put(self, template: Template, args: tuple[int, ...], offset: int = -1) -> None:
        """Put the instructions of a shape here."""
        code, mark = template.fill(args)
        self.out.append(Chunk(code, mark, self.location, self.handler, offset))

    def const(self, value: object) -> int:
        return self.program.const(value)

    def type_settles(self, guard: object, operands: int) -> Last | None:
        """What *guard* met last, if the type of the first of the operands can settle it.

        For two operands, only where the second is a constant.
        """
        last: Last | None = getattr(guard, "last", None)
        return last if operands == 1 or self.constant_on_top() else None

    def constant_on_top(self) -> bool:
        last = self.out[-1]
        return (
            type(last) is Instr
            and last.op == LOAD_CONST
            and type(self.program.consts[last.arg]) in _PLAIN_CONSTANTS
        )

    def args_of(
        self, guard: object, arg: int, last: Last | None, more: tuple[object, ...]
    ) -> tuple[int, ...]:
        const = self.program.const
        args = (const(guard), const(None), arg)
        if last is not None:
            return (*args, const(last), name_oparg(self.program.name("kind")), const(type))
        return (*args, *map(const, more)) if more else args

    def checked(
        self,
        instr: Instr,
        guard: object,
        operands: int,
        *more: object,
        has_result: bool = True,
        after: _Added = (),
        last: _Added = (),
    ) -> None:
        """The general shape: the guarded value takes the operands' and the instruction's place."""
        kind = self.type_settles(guard, operands) if has_result and not more else None
        template = _checked(
            instr.op, operands, len(more), has_result, kind is not None, after, last
        )
        self.put(template, self.args_of(guard, instr.arg, kind, more), instr.offset)

    def replaced(self, guard: object, *more: object) -> None:
        """The guarded value takes the top operand's place, before the instruction."""
        kind = None if more else self.type_settles(guard, 1)
        self.put(_replaced(len(more), kind is not None), self.args_of(guard, 0, kind, more))

    def apply(self, function: object) -> None:
        """Replace the top of the stack by *function* of it."""
        self.written().apply(self.const(function))

    # -- calls ------------------------------------------------------------------------------

    def drop(self, instr: Instr) -> None:
        """PRECALL: written anew with the CALL it belongs to."""

    def keep_keyword_names(self, instr: Instr) -> None:
        self.keyword_names = instr.arg

    def call(self, instr: Instr) -> None:
        with_self = instr in self.with_self
        count = instr.arg + with_self
        on_top = 1 if instr.op == CALL_KW else 0
        names: tuple[str, ...] = ()
        if on_top:
            names = self.keyword_names_on_top()
        elif self.keyword_names >= 0:
            names = self.program.consts[self.keyword_names]
        above = NULL_IS_ABOVE_THE_CALLABLE and not with_self
        place = on_top + count + (2 if above else 1)
        self.resolved(instr, place, count, on_top, names)
        self.keyword_names = -1

    def keyword_names_on_top(self) -> tuple[str, ...]:
        """The names that a `LOAD_CONST` has just pushed for `CALL_KW`."""
        last = self.out[-1]
        assert type(last) is Instr
        assert last.op == LOAD_CONST
        names: tuple[str, ...] = self.program.consts[last.arg]
        return names

    def call_function_ex(self, instr: Instr) -> None:
        has_keywords = instr.arg & 1
        if has_keywords:
            self.emit(SWAP, 2)
        self.replaced(self.hooks.unpack)
        if has_keywords:
            self.emit(SWAP, 2)
        place = has_keywords + (3 if NULL_IS_ABOVE_THE_CALLABLE else 2)
        self.resolved(instr, place, 1 + has_keywords, 0, None)

    def resolved(
        self, instr: Instr, place: int, count: int, on_top: int, names: tuple[str, ...] | None
    ) -> None:
        """A call. *names* are None for `f(*args, **kwargs)`."""
        hooks, const = self.hooks, self.program.const
        spreads = names is None
        has_null = instr not in self.with_self
        keywords = self.keyword_names if instr.op == CALL else -1
        args = [0, const(None), instr.arg, const(iter) if has_null and not spreads else 0]
        args.append(max(keywords, 0))
        if names is None:
            args[0] = const(hooks.check_spread)
        else:
            check, site = hooks.check(count, names)
            args[0] = const(check)
            args.append(const(site))
            args += self.fields_of_a_call()
        self.most_copied = max(self.most_copied, count)
        template = _resolved(instr.op, place, count, on_top, spreads, has_null, keywords >= 0)
        self.put(template, tuple(args), instr.offset)

    def fields_of_a_call(self) -> tuple[int, ...]:
        """The opargs that load what a call has met."""
        if not self.call_fields:
            names = ("function", "code", "straight", "twin", "__code__")
            self.call_fields = tuple([name_oparg(self.program.name(name)) for name in names])
        return self.call_fields

    # -- attributes -------------------------------------------------------------------------

    def load_attr(self, instr: Instr) -> None:
        names = self.program.names
        if METHODS_HAVE_THEIR_OWN_LOAD:
            is_method, name = instr.op == LOAD_METHOD, names[instr.arg]
            instr.op = LOAD_ATTR
        else:
            is_method, name = bool(instr.arg & 1), names[instr.arg >> 1]
            instr.arg &= ~1
        self.checked(instr, self.hooks.attr(name), 1, last=_BESIDE_A_NULL if is_method else ())

    def load_super_attr(self, instr: Instr) -> None:
        is_method, name = bool(instr.arg & 1), self.program.names[instr.arg >> 2]
        instr.arg &= ~1
        guard = self.hooks.super_attr(name)
        self.checked(instr, guard, 3, last=_BESIDE_A_NULL if is_method else ())

    def store_attr(self, instr: Instr) -> None:
        name = self.program.names[instr.arg]
        self.checked(instr, self.hooks.store_attr(name), 2, has_result=False)

    def delete_attr(self, instr: Instr) -> None:
        name = self.program.names[instr.arg]
        self.checked(instr, self.hooks.delete_attr(name), 1, has_result=False)

    # -- operators --------------------------------------------------------------------------

    def binary_op(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.binary(instr.arg), 2)

    def binary_subscr(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.subscr, 2)

    def binary_slice(self, instr: Instr) -> None:
        self.emit(BUILD_SLICE, 2)
        instr.op = BINARY_SUBSCR
        self.binary_subscr(instr)

    def store_subscr(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.store_subscr, 3, has_result=False)

    def store_slice(self, instr: Instr) -> None:
        self.emit(BUILD_SLICE, 2)
        instr.op = STORE_SUBSCR
        self.store_subscr(instr)

    def delete_subscr(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.delete_subscr, 2, has_result=False)

    def compare_op(self, instr: Instr) -> None:
        symbol = COMPARE_SYMBOLS[instr.arg >> COMPARE_SHIFT]
        after = ((TO_BOOL, 0),) if instr.arg & COMPARE_BOOL_BIT else ()
        self.checked(instr, self.hooks.compare(symbol), 2, after=after)

    def contains_op(self, instr: Instr) -> None:
        after = ((UNARY_NOT, 0),) if instr.arg else ()
        self.checked(instr, self.hooks.contains, 2, after=after)

    def unary(self, instr: Instr) -> None:
        symbols = {UNARY_NEGATIVE: "-", UNARY_POSITIVE: "+", UNARY_INVERT: "~"}
        self.checked(instr, self.hooks.unary(symbols[instr.op]), 1)

    def intrinsic(self, instr: Instr) -> None:
        if instr.arg == _UNARY_POSITIVE_INTRINSIC:
            self.checked(instr, self.hooks.unary("+"), 1)
        elif instr.arg == _STOPITERATION_ERROR and self.is_generator:
            self.apply(self.hooks.carry_generator)
        else:
            self.out.append(instr)

    # -- truth ------------------------------------------------------------------------------

    def to_bool(self, instr: Instr) -> None:
        if self.previous in _IS_A_BOOL:
            self.out.append(instr)
        else:
            self.checked(instr, self.hooks.truth, 1)

    def test(self, instr: Instr) -> None:
        if self.previous not in _IS_A_BOOL:
            self.replaced(self.hooks.truth)
        self.out.append(instr)

    def jump_or_pop(self, instr: Instr) -> None:
        straight, done = Label(), Label()
        sequence = self.written()
        sequence.ask_guard(self.const(self.hooks.truth), 1, (), straight)
        sequence.drive(self.const(None))
        jumps_if_true = instr.op == JUMP_IF_TRUE_OR_POP
        sequence.emit(POP_JUMP_IF_TRUE if jumps_if_true else POP_JUMP_IF_FALSE, instr.arg)
        sequence.emit(POP_TOP)
        sequence.emit(JUMP_FORWARD, done)
        sequence.place(straight)
        sequence.emit(POP_TOP)
        sequence.out += [instr, done]

    # -- iteration --------------------------------------------------------------------------

    def get_iter(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.iter, 1)

    def for_iter(self, instr: Instr) -> None:
        straight, body = Label(), Label()
        target = instr.arg
        sequence, const = self.written(), self.const
        sequence.type_of(1, const(type))
        sequence.const(const(self.hooks.virtual_iterators))
        sequence.emit(CONTAINS_OP, 0)
        sequence.emit(POP_JUMP_IF_FALSE, straight)
        sequence.const(const(self.hooks.step))
        sequence.emit(COPY, 2)
        sequence.call_with_self()
        sequence.drive(const(None))
        sequence.emit(COPY, 1)
        sequence.const(const(_protocol.END))
        sequence.emit(IS_OP, 0)
        sequence.emit(POP_JUMP_IF_FALSE, body)
        if not LOOPS_END_WITH_END_FOR:
            sequence.pop(2)
        sequence.emit(JUMP_FORWARD, target)
        sequence.out += [straight, instr, body]

    def unpack(self, instr: Instr) -> None:
        if instr.op == UNPACK_SEQUENCE:
            # No more is taken than the instruction would look at: the source may be endless.
            self.replaced(self.hooks.unpack, instr.arg)
        elif instr.op == UNPACK_EX:
            self.replaced(self.hooks.unpack, instr.arg & 0xFF, True)  # noqa: FBT003
        elif instr.op == SET_UPDATE:
            # Does not ask for the length first, unlike the making of a list or tuple.
            self.replaced(self.hooks.unpack, sys.maxsize)
        else:
            self.replaced(self.hooks.unpack)
        self.out.append(instr)

    def mapping(self, instr: Instr) -> None:
        self.replaced(self.hooks.mapping)
        self.out.append(instr)

    # -- with, handlers ---------------------------------------------------------------------

    def before_with(self, instr: Instr) -> None:
        if self.shared:
            self.wait_for_block(instr)
        self.checked(instr, self.hooks.enter, 1, after=((UNPACK_SEQUENCE, 2),))

    def with_except_start(self, instr: Instr) -> None:
        args = (self.const(self.hooks.exit_error), self.const(None), instr.arg)
        self.put(_left_with_error(), args, instr.offset)

    def push_exc_info(self, instr: Instr) -> None:
        self.apply(self.hooks.unwrap)
        self.out.append(instr)

    def raise_varargs(self, instr: Instr) -> None:
        """Classes are made errors of before they are raised: first the error, then its cause."""
        if instr.arg == _RAISE_FROM:
            self.emit(SWAP, 2)
            self.replaced(self.hooks.raised)
            self.emit(SWAP, 2)
        if instr.arg:
            self.replaced(self.hooks.raised)
        self.out.append(instr)

    def list_append(self, instr: Instr) -> None:
        """What an `except*` raised is kept in a list, below it the list, a group and an offset."""
        following = self.following
        if (
            instr.arg == _KEPT_BY_EXCEPT_STAR
            and type(following) is Instr
            and following.op == POP_TOP
        ):
            self.apply(self.hooks.unwrap)
        self.out.append(instr)

    # -- formatting, matching ---------------------------------------------------------------

    def format_value(self, instr: Instr) -> None:
        conversion = _CONVERSIONS[instr.arg & 3]
        operands = 2 if instr.arg & 4 else 1
        self.checked(instr, self.hooks.format(conversion), operands)

    def format_simple(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.format(""), 1)

    def format_with_spec(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.format(""), 2)

    def convert_value(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.format(_CONVERSIONS[instr.arg]), 1)

    def match_class(self, instr: Instr) -> None:
        self.checked(instr, self.hooks.match_class, 3, instr.arg)

    def match_keys(self, instr: Instr) -> None:
        self.pushed(instr, self.hooks.match_keys, 2)

    def get_len(self, instr: Instr) -> None:
        self.pushed(instr, self.hooks.length, 1)

    def pushed(self, instr: Instr, guard: object, operands: int) -> None:
        """The guarded value is put on top of the operands, as the instruction's result is."""
        args = (self.const(guard), self.const(None), instr.arg)
        self.put(_pushed(instr.op, operands), args, instr.offset)

    # -- the user's generators --------------------------------------------------------------

    def yield_from(self, instr: Instr) -> None:
        self.apply(self.hooks.delegate)

    def yield_value(self, instr: Instr) -> None:
        if self.previous == SEND or not self.is_generator:
            self.out.append(instr)
            return
        const = self.const
        args = (
            const(_protocol.Item),
            0,
            0,
            const(_protocol.Raised),
            name_oparg(self.program.name("error")),
            const(type),
        )
        self.put(_handed_out(), args, instr.offset)

    # -- names that several blocks share ----------------------------------------------------

    def wait(self, name: str, store: int, arg: int) -> None:
        """Wait for *name*, and bind it to what another block left in it, if one did."""
        const = self.const
        guard = self.hooks.shared_name(name)
        self.put(_waited(store), (const(guard), const(None), arg, const(_protocol.UNBOUND)))

    def load_shared_slot(self, instr: Instr) -> None:
        name = self.slots.get(instr.arg)
        if name is not None and instr not in self.program.hidden:
            # A LOAD_FAST of a cell hands the cell itself to a closure (3.13).
            is_a_cell = instr.op != LOAD_DEREF and name in self.cells
            if not is_a_cell:
                self.wait(name, _STORES_LIKE[instr.op], instr.arg)
        self.out.append(instr)

    def load_shared_name(self, instr: Instr) -> None:
        index = instr.arg >> 1 if instr.op == LOAD_GLOBAL else instr.arg
        name = self.program.names[index]
        if name in self.shared:
            # What another block stored to a global is there already.
            store = _STORES_LIKE.get(instr.op, POP_TOP)
            self.wait(name, store, index if store != POP_TOP else 0)
        self.out.append(instr)

    def load_code(self, instr: Instr) -> None:
        """A function may be called as soon as it is made: wait for what it reads.

        So may a comprehension, where it is a function (3.11).
        """
        consts = self.program.consts
        nested = consts[instr.arg] if instr.arg < len(consts) else None
        if isinstance(nested, CodeType):
            self.wait_for_all(names_read_by(nested))
        self.out.append(instr)

    def wait_for_all(self, names: frozenset[str]) -> None:
        in_slots = self.program.code.co_flags & inspect.CO_OPTIMIZED
        for name in sorted(names & self.shared.keys()):
            slot = self.shared[name]
            if not in_slots:
                self.wait(name, STORE_NAME, self.program.name(name))
            elif slot >= 0:
                self.wait(name, STORE_DEREF if name in self.cells else STORE_FAST, slot)
            else:
                self.wait(name, POP_TOP, 0)  # a global: what was stored to it is there already

    def wait_for_block(self, instr: Instr) -> None:
        """A block in this one takes its names where it is entered: wait for what it reads."""
        try:
            names = read_first(self.program.code, instr.offset) & self.shared.keys()
        except TracekitError:
            return  # no block: entering it would say so
        if not names:
            return
        skip = Label()
        sequence = self.written()
        sequence.const(self.const(self.hooks.opens_block))
        sequence.emit(COPY, 2)
        sequence.call_with_self()
        sequence.emit(POP_JUMP_IF_NONE, skip)
        self.wait_for_all(names)
        self.out.append(skip)

    def shared_name_of(self, instr: Instr) -> str | None:
        if instr in self.program.hidden:
            return None
        if instr.op in _IN_SLOTS:
            return self.slots.get(instr.arg)
        name = self.program.names[instr.arg]
        return name if name in self.shared else None

    def store_shared(self, instr: Instr) -> None:
        name = self.shared_name_of(instr)
        if name is not None:
            sequence = self.written()
            sequence.const(self.const(self.hooks.shared_store(name)))
            sequence.emit(COPY, 2)
            sequence.call_with_self()
            sequence.emit(POP_TOP)
        self.out.append(instr)

    def delete_shared(self, instr: Instr) -> None:
        name = self.shared_name_of(instr)
        if name is not None:
            sequence = self.written()
            sequence.const(self.const(self.hooks.shared_store(name)))
            sequence.const(self.const(_protocol.UNBOUND))
            sequence.call_with_self()
            sequence.emit(POP_TOP)
        self.out.append(instr)
