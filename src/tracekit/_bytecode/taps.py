"""A function's code in which chosen operations report.

Around a chosen instruction stand calls of a `Tap`: before it with its operands, which may be
changed or the instruction be skipped; after it with its result. The instruction itself runs where
it stood, in the same frame, under the same handler: its errors, positions and what its callee sees
of the caller are its own. All other instructions stay as they are and cost what they cost.

Things that don't work:

- A wrapper in the callable's place. The callee finds our frame above its own: `locals()`,
  `super()`, `sys._getframe(1)` and `warnings.warn(stacklevel=2)` look there.
- A branch around each call. Calls have four shapes of stacks on three Pythons; instead a skipped
  call calls what gives the value back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from .assemble import assemble
from .facts import (
    CALLS_HAVE_PRECALL,
    COMPARE_BOOL_BIT,
    KEYWORD_NAMES_ARE_AN_INSTRUCTION,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NULL_IS_ABOVE_THE_CALLABLE,
)
from .lift import lift
from .listing import Operation, Reader
from .opcodes import (
    BINARY_SLICE,
    BINARY_SUBSCR,
    BUILD_SLICE,
    CALL,
    CALL_FUNCTION_EX,
    CALL_INTRINSIC_1,
    CALL_KW,
    COMPARE_OP,
    JUMP_FORWARD,
    KW_NAMES,
    LOAD_ATTR,
    LOAD_CONST,
    LOAD_METHOD,
    POP_JUMP_IF_TRUE,
    POP_TOP,
    PRECALL,
    PUSH_NULL,
    STORE_ATTR,
    STORE_SLICE,
    STORE_SUBSCR,
    SWAP,
    TO_BOOL,
    UNARY_INVERT,
    UNARY_NEGATIVE,
    UNARY_POSITIVE,
    UNPACK_SEQUENCE,
    number,
    numbers,
)
from .program import Element, Instr, Label, Program

_BUILD_TUPLE: Final = number("BUILD_TUPLE")
_EXTRA_STACK: Final = 8
_CALLS: Final = frozenset({CALL, CALL_KW, CALL_FUNCTION_EX})
_OPERANDS_BELOW: Final = {STORE_ATTR: 1, STORE_SUBSCR: 2, STORE_SLICE: 3}
_ONE_OPERAND: Final = frozenset({UNARY_NEGATIVE, UNARY_POSITIVE, UNARY_INVERT})
_STORES: Final = numbers("STORE_FAST", "STORE_DEREF", "STORE_NAME", "STORE_GLOBAL")
_SLOTS_OF_A_CALL: Final = 3


class Instead:
    """Says that an operator is not to run: *value* is its result."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Tap:
    """What an operation reports to; this one changes nothing. A subclass overrides what it needs.

    What it raises comes out of the operation.
    """

    __slots__ = ()

    def call(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """A call is about to be made; gives what is called, and with what."""
        return callee, args, kwargs

    def operands(self, values: tuple[Any, ...]) -> tuple[Any, ...] | Instead:
        """An operator is about to run; gives its operands, as many as before, or its result."""
        return values

    def result(self, value: Any) -> Any:
        """A call or an operator has given *value*; gives its result."""
        return value

    def assigned(self, value: Any) -> Any:
        """An assignment is about to be made; gives what is assigned."""
        return value


def make_tapped(code: CodeType, taps: Mapping[Operation, Tap]) -> CodeType:
    """Make a copy of *code* whose operations report.

    A function made of it is equivalent to one made of *code*, except for what the taps change.

    Args:
        code: Of any function.
        taps: For each operation that is to report (as `list_operations(code)` gives them), what
            it reports to.

    Returns:
        A code object with the same names, arguments, cells and positions.
    """
    spots: dict[tuple[int, ...], dict[int, Tap]] = {}
    for operation, tap in taps.items():
        for way, index in operation.spots:
            spots.setdefault(way, {})[index] = tap
    return _tapped(code, (), spots)


def renew_taps(code: CodeType, renew: Callable[[Tap], Tap]) -> CodeType:
    """Make a copy of tapped code that reports to others.

    Costs a small part of what `make_tapped` costs: one function stands in many places of a model.

    Args:
        code: As `make_tapped` gives it.
        renew: Gives the tap in the place of each.
    """
    consts: list[Any] = []
    for const in code.co_consts:
        made = const
        if isinstance(const, CodeType):
            made = renew_taps(const, renew)
        elif isinstance(const, MethodType):
            tap: Any = const.__self__
            made = getattr(renew(tap), const.__name__)
        elif isinstance(const, FunctionType):
            assert const.__closure__ is not None
            made = _MAKERS[id(const.__code__)](renew(const.__closure__[0].cell_contents))
        consts.append(made)
    return code.replace(co_consts=tuple(consts))


def _tapped(
    code: CodeType, way: tuple[int, ...], spots: dict[tuple[int, ...], dict[int, Tap]]
) -> CodeType:
    below = {other[len(way)] for other in spots if other[: len(way)] == way and other != way}
    if below:
        consts = list(code.co_consts)
        for at in below:
            consts[at] = _tapped(consts[at], (*way, at), spots)
        code = code.replace(co_consts=tuple(consts))
    if way not in spots:
        return code
    program = lift(code)
    reader = Reader(program)
    reader.read()
    _Rewriter(program, spots[way], reader.loads).run()
    made, _ = assemble(program, _EXTRA_STACK)
    return made


class _Rewriter:
    def __init__(
        self, program: Program, taps: dict[int, Tap], loads: Mapping[int, Instr | None]
    ) -> None:
        self.program = program
        self.taps = taps
        self.methods = {load for index, load in loads.items() if index in taps and load}
        self.out: list[Element] = []
        self.at = Instr(POP_TOP)

    def run(self) -> None:
        instrs = self.program.instrs
        pending: list[Instr] = []
        for index, instr in enumerate(instrs):
            if type(instr) is Label:
                self.out.append(instr)
                continue
            assert type(instr) is Instr
            self.at = instr
            tap = self.taps.get(index)
            if instr.op in (KW_NAMES, PRECALL):
                # They belong to the call that follows.
                pending.append(instr)
            elif instr in self.methods:
                self.load_method(instr)
            elif tap is None:
                self.out += pending
                self.out.append(instr)
                pending.clear()
            elif instr.op in _CALLS:
                self.call(instr, tap, pending)
                pending.clear()
            elif instr.op in _OPERANDS_BELOW or instr.op in _STORES:
                self.store(instr, tap)
            else:
                self.operator(instr, tap)
        self.program.instrs = self.out

    def emit(self, op: int, arg: Any = 0) -> None:
        self.out.append(Instr(op, arg, self.at.location, self.at.handler))

    def const(self, value: object) -> None:
        self.emit(LOAD_CONST, self.program.const(value))

    def make_call(self, count: int) -> None:
        if CALLS_HAVE_PRECALL:
            self.emit(PRECALL, count)
        self.emit(CALL, count)

    def apply(self, function: object) -> None:
        """Replace the top of the stack by *function* of it."""
        self.const(function)
        self.emit(SWAP, 2)
        self.make_call(0)

    def load_method(self, instr: Instr) -> None:
        """A bound method above a NULL: the one shape that a tapped call has."""
        is_method = instr.op == LOAD_METHOD
        if is_method:
            instr.op = LOAD_ATTR
        elif not METHODS_HAVE_THEIR_OWN_LOAD:
            is_method = bool(instr.arg & 1)
            instr.arg &= ~1
        self.out.append(instr)
        if is_method:
            self.emit(PUSH_NULL)
            if not NULL_IS_ABOVE_THE_CALLABLE:
                self.emit(SWAP, 2)

    def call(self, instr: Instr, tap: Tap, pending: list[Instr]) -> None:
        op, count = instr.op, instr.arg
        before: Callable[[tuple[Any, ...], Any], tuple[Any, Any, Any]]
        names = next((item for item in pending if item.op == KW_NAMES), None)
        if op == CALL_FUNCTION_EX:
            count = 1 + (count & 1)
            before = _spread(tap)
        elif op == CALL_KW or names is not None:
            if KEYWORD_NAMES_ARE_AN_INSTRUCTION:
                assert names is not None
                self.emit(LOAD_CONST, names.arg)
            count += 1
            before = _with_keywords(tap)
        else:
            before = _plain(tap)
        self.emit(_BUILD_TUPLE, count)
        self.const(before)
        self.emit(SWAP, 4 if NULL_IS_ABOVE_THE_CALLABLE else 3)
        self.make_call(2)
        if NULL_IS_ABOVE_THE_CALLABLE:
            self.emit(UNPACK_SEQUENCE, _SLOTS_OF_A_CALL)
            self.emit(PUSH_NULL)
            self.emit(SWAP, 3)
            self.emit(SWAP, 2)
        else:
            self.emit(PUSH_NULL)
            self.emit(SWAP, 2)
            self.emit(UNPACK_SEQUENCE, _SLOTS_OF_A_CALL)
        self.out.append(Instr(CALL_FUNCTION_EX, 1, instr.location, instr.handler, instr.offset))
        self.apply(tap.result)

    def operator(self, instr: Instr, tap: Tap) -> None:
        if instr.op == BINARY_SLICE:
            self.emit(BUILD_SLICE, 2)
            instr.op = BINARY_SUBSCR
        is_test = instr.op == COMPARE_OP and bool(instr.arg & COMPARE_BOOL_BIT)
        if is_test:
            instr.arg &= ~COMPARE_BOOL_BIT
        count = 1 if _has_one_operand(instr) else 2
        skipped, done = Label(), Label()
        self.emit(_BUILD_TUPLE, count)
        self.apply(_operator(tap))
        self.emit(UNPACK_SEQUENCE, 1 + count)
        self.emit(POP_JUMP_IF_TRUE, skipped)
        self.out.append(instr)
        self.emit(JUMP_FORWARD, done)
        self.out.append(skipped)
        for _ in range(count - 1):
            self.emit(POP_TOP)
        self.out.append(done)
        self.apply(tap.result)
        if is_test:
            self.emit(TO_BOOL)

    def store(self, instr: Instr, tap: Tap) -> None:
        below = _OPERANDS_BELOW.get(instr.op, 0)
        if below:
            self.emit(SWAP, below + 1)
        self.apply(tap.assigned)
        if below:
            self.emit(SWAP, below + 1)
        self.out.append(instr)


def _has_one_operand(instr: Instr) -> bool:
    # `+x` is the only operation among the intrinsics.
    return instr.op in _ONE_OPERAND or instr.op == CALL_INTRINSIC_1


# What stands on the stack before a call goes in as one tuple, with the callable; what comes back
# is unpacked from the end: keyword arguments, arguments, callable.


def _plain(tap: Tap) -> Callable[[tuple[Any, ...], Any], tuple[Any, Any, Any]]:
    def report_a_call(values: tuple[Any, ...], callee: Any) -> tuple[Any, Any, Any]:
        callee, args, kwargs = tap.call(callee, values, {})
        return kwargs, args, callee

    return report_a_call


def _with_keywords(tap: Tap) -> Callable[[tuple[Any, ...], Any], tuple[Any, Any, Any]]:
    def report_a_call(values: tuple[Any, ...], callee: Any) -> tuple[Any, Any, Any]:
        *both, names = values
        at = len(both) - len(names)
        callee, args, kwargs = tap.call(
            callee, tuple(both[:at]), dict(zip(names, both[at:], strict=True))
        )
        return kwargs, args, callee

    return report_a_call


def _spread(tap: Tap) -> Callable[[tuple[Any, ...], Any], tuple[Any, Any, Any]]:
    def report_a_call(values: tuple[Any, ...], callee: Any) -> tuple[Any, Any, Any]:
        given = values[0]
        kwargs = values[1] if len(values) > 1 else {}
        if type(given) is not tuple:
            kind = type(given)
            if not hasattr(kind, "__iter__") and not hasattr(kind, "__getitem__"):
                # The call itself says best what is wrong with it.
                return kwargs, given, callee
            given = tuple(given)
        callee, args, kwargs = tap.call(callee, given, kwargs)
        return kwargs, args, callee

    return report_a_call


def _operator(tap: Tap) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    def report_an_operator(values: tuple[Any, ...]) -> tuple[Any, ...]:
        new = tap.operands(values)
        if type(new) is Instead:
            return (True, *[None] * (len(values) - 1), new.value)
        assert type(new) is tuple
        return (False, *new[::-1])

    return report_an_operator


_MAKERS: Final[dict[int, Callable[[Any], Any]]] = {
    id(make(Tap()).__code__): make for make in (_plain, _with_keywords, _spread, _operator)
}
"""By the code of what each makes, of which there is one."""
