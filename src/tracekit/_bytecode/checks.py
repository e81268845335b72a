"""The checks put at each instruction that can run Python code.

For every such instruction the same shape is emitted:

    ask the guard about the operands      None: do the instruction as it stands
    drive the generator it returned       with an inlined SEND loop
    put its value where the instruction's result would have been

so a request made anywhere below travels up through `SEND` (C code, no Python per level), and the
values on this frame's stack stay where they are. What is inserted carries the location and the
handler of the instruction it serves; where nothing suspends, the original instruction itself runs,
and its errors, carets and line events are its own.

This is the table: one short method for each kind of instruction, which says which template of
`templates.py` it gets, and which guard of `questions.py` is asked there. Names that several blocks
share are in `sharednames.py`, because only blocks that share some are written that way.

Things that don't work: a driver that keeps a stack of generators (deep calls get dearer than they
save, and handled exceptions lose their chain); `gen.throw()` for errors (each version closes
differently; errors travel as answers instead); a marker returned by the attribute itself (a C
function that reads the attribute would hand the marker on).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Final

from .. import _protocol
from .facts import (
    COMPARE_BOOL_BIT,
    COMPARE_SHIFT,
    COMPARE_SYMBOLS,
    JUMPS_NEED_A_BOOL,
    LOOPS_END_WITH_END_FOR,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NULL_IS_ABOVE_THE_CALLABLE,
)
from .inserting import Inserter
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
    LOAD_METHOD,
    LOAD_SUPER_ATTR,
    MATCH_CLASS,
    MATCH_KEYS,
    POP_JUMP_IF_FALSE,
    POP_JUMP_IF_TRUE,
    POP_TOP,
    PRECALL,
    PUSH_EXC_INFO,
    PUSH_NULL,
    RAISE_VARARGS,
    SEND,
    SET_UPDATE,
    STORE_ATTR,
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
from .program import Handler, Instr, Label, Program
from .questions import Hooks
from .sequences import Sequence, name_oparg
from .shapes import calls_with_self
from .sharednames import SharedNames
from .templates import handed_out, left_with_error, resolved

_EXTRA_STACK: Final = 8
"""Stack slots that the longest of these sequences needs above the program's own.

Those that look at a call's arguments need one more for each argument.
"""

_UNARY_POSITIVE_INTRINSIC: Final = 5
_STOPITERATION_ERROR: Final = 3
_CONVERSIONS: Final = ("", "s", "r", "a")
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
    checks = _Checks(program, hooks, depth, is_generator=is_generator)
    handlers = {op: getattr(checks, name) for op, name in _handlers().items()}
    if shared:
        handlers = SharedNames(checks, hooks, shared).added_to(handlers)
    checks.walk(handlers)
    return _EXTRA_STACK + checks.most_copied


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


_BESIDE_A_NULL: Final = ((PUSH_NULL, 0),) + (() if NULL_IS_ABOVE_THE_CALLABLE else ((SWAP, 2),))
"""A load leaves `NULL` and a bound method where one is about to be called.

Never the function and its `self`, which would save the binding: the checks of a call must know
where there is a NULL.
"""
_KEPT_BY_EXCEPT_STAR: Final = 3
_RAISE_FROM: Final = 2
_IS_A_BOOL: Final = frozenset({CONTAINS_OP, IS_OP, UNARY_NOT})


class _Checks(Inserter):
    """Writes a program with checks; see `instrument`."""

    def __init__(self, program: Program, hooks: Hooks, depth: int, *, is_generator: bool) -> None:
        super().__init__(program)
        self.hooks = hooks
        self.is_generator = is_generator
        self.with_self = calls_with_self(program.instrs, depth)
        self.keyword_names = -1
        self.most_copied = 0
        self.call_fields: tuple[int, ...] = ()
        self._handlers_at: dict[Label, Handler | None] = {}

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
        template = resolved(instr.op, place, count, on_top, spreads, has_null, keywords >= 0)
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
        self.checked(instr, self.hooks.enter, 1, after=((UNPACK_SEQUENCE, 2),))

    def with_except_start(self, instr: Instr) -> None:
        args = (self.const(self.hooks.exit_error), self.const(None), instr.arg)
        self.put(left_with_error(), args, instr.offset)

    def push_exc_info(self, instr: Instr) -> None:
        # What covers it takes off the stack what it puts there. An error in our call, such as an
        # interrupt, comes before that, when the call has taken the error itself off: it goes on to
        # what covers the taking off.
        handler = None if instr.handler is None else self.handler_at(instr.handler.target)
        Sequence(instr.location, handler, self.out).apply(self.const(self.hooks.unwrap))
        self.out.append(instr)

    def handler_at(self, label: Label) -> Handler | None:
        """What covers the instruction at a label."""
        if not self._handlers_at:
            last: Handler | None = None
            for each in reversed(self.program.instrs):
                if type(each) is Label:
                    self._handlers_at[each] = last
                elif type(each) is Instr:
                    last = each.handler
        return self._handlers_at[label]

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
        self.put(handed_out(), args, instr.offset)
