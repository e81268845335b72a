"""An expression as text, rebuilt from instructions.

For messages about code whose text is not there: a prompt, `exec`, a `.pyc` without source. The
instructions before the one asked about are run on a stack of texts instead of values. What cannot
be written as an expression (a jump in between, an instruction with no text) becomes `...`, so the
answer is never wrong, only less.
"""

from __future__ import annotations

import dis
from types import CodeType
from typing import Final

from .cut import slot_names
from .facts import HAVE_ARGUMENT, METHODS_HAVE_THEIR_OWN_LOAD, NULL_IS_ABOVE_THE_CALLABLE
from .opcodes import JUMPS, LEAVES

UNKNOWN: Final = "..."
_NULL: Final = "\0"
_MAX_LENGTH: Final = 120

_UNARY: Final = {
    "UNARY_NEGATIVE": "-",
    "UNARY_INVERT": "~",
    "UNARY_NOT": "not ",
    "UNARY_POSITIVE": "+",
}
_DISPLAYS: Final = {
    "BUILD_LIST": ("[", "]"),
    "BUILD_SET": ("{", "}"),
}
_FREE: Final = frozenset(
    {"CACHE", "EXTENDED_ARG", "NOP", "RESUME", "PRECALL", "TO_BOOL", "NOT_TAKEN"}
)
_LOADS: Final = frozenset(
    {"LOAD_NAME", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_CLOSURE"}
)
_INTRINSIC_POSITIVE: Final = 5


def expression_at(code: CodeType, offset: int) -> str:
    """The expression that the instruction at *offset* computes, as text.

    Equivalent to its source text, except for layout and redundant parentheses, and that parts
    which cannot be told are `...`.

    Args:
        code: The code object.
        offset: Bytes from the start of `co_code`: a call, an attribute, an operator, a load. For
            a store, what is stored.

    Returns:
        One line, cut short after 120 characters.

    Example:
        >>> code = compile("print(a.b[1] + c)", "<text>", "eval")
        >>> calls = [i.offset for i in dis.get_instructions(code) if i.opname == "CALL"]
        >>> expression_at(code, calls[0])
        'print(a.b[1] + c)'
    """
    stack = _Stack(code)
    for instruction in dis.get_instructions(code):
        if instruction.offset > offset:
            break
        if instruction.is_jump_target or instruction.opcode in LEAVES:
            # What is on the stack here depends on how one came here.
            stack.forget()
        last = instruction.offset == offset
        if last and instruction.opname.startswith(("STORE_", "POP_", "RETURN_VALUE")):
            return _short(stack.pop())
        if last and instruction.opcode in JUMPS:
            return _short(stack.pop())
        stack.run(instruction)
    return _short(stack.top())


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."


def _grouped(text: str) -> str:
    """The text as an operand: in parentheses unless it is one already."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == " " and depth == 0 and not text.startswith(("'", '"')):
            return f"({text})"
    return text


class _Stack:
    """The evaluation stack, with texts for values; empty means unknown."""

    def __init__(self, code: CodeType) -> None:
        self._code = code
        self._slots = slot_names(code)
        self._texts: list[str] = []
        self._keywords: tuple[str, ...] = ()

    def forget(self) -> None:
        self._texts.clear()

    def push(self, text: str) -> None:
        self._texts.append(text)

    def pop(self) -> str:
        return self._texts.pop() if self._texts else UNKNOWN

    def pop_many(self, count: int) -> list[str]:
        return [self.pop() for _ in range(count)][::-1]

    def top(self) -> str:
        texts = [text for text in self._texts[-2:] if text != _NULL]
        return texts[-1] if texts else UNKNOWN

    def run(self, instruction: dis.Instruction) -> None:
        """Do with texts what the instruction does with values."""
        name, arg = instruction.opname, instruction.arg or 0
        if name in _FREE:
            return
        if name == "KW_NAMES":
            self._keywords = self._code.co_consts[arg]
        elif name in {"LOAD_CONST", "RETURN_CONST"}:
            self.push(_constant(instruction.argval))
        elif name in _LOADS:
            self.push(str(instruction.argval))
        elif name == "LOAD_FAST_LOAD_FAST":
            self.push(self._slots[arg >> 4])
            self.push(self._slots[arg & 15])
        elif name == "LOAD_GLOBAL":
            self._push_with_null(str(instruction.argval), bool(arg & 1))
        elif name in {"LOAD_ATTR", "LOAD_METHOD"}:
            is_method = METHODS_HAVE_THEIR_OWN_LOAD and name == "LOAD_METHOD"
            is_method |= not METHODS_HAVE_THEIR_OWN_LOAD and bool(arg & 1)
            self._push_with_null(f"{_grouped(self.pop())}.{instruction.argval}", is_method)
        elif name == "LOAD_SUPER_ATTR":
            self.pop_many(3)
            self._push_with_null(f"super().{instruction.argval}", bool(arg & 1))
        elif name == "PUSH_NULL":
            self.push(_NULL)
        elif name == "BINARY_SUBSCR":
            container, key = self.pop_many(2)
            self.push(f"{_grouped(container)}[{_key(key)}]")
        elif name == "BINARY_SLICE":
            container, start, stop = self.pop_many(3)
            self.push(f"{_grouped(container)}[{_bound(start)}:{_bound(stop)}]")
        elif name == "BUILD_SLICE":
            self.push(":".join(map(_bound, self.pop_many(arg))))
        elif name in {"BINARY_OP", "COMPARE_OP"}:
            left, right = self.pop_many(2)
            symbol = instruction.argrepr.removeprefix("bool(").removesuffix(")")
            self.push(f"{_grouped(left)} {symbol} {_grouped(right)}")
        elif name in {"IS_OP", "CONTAINS_OP"}:
            left, right = self.pop_many(2)
            words = ("is", "is not") if name == "IS_OP" else ("in", "not in")
            self.push(f"{_grouped(left)} {words[arg]} {_grouped(right)}")
        elif name in _UNARY:
            self.push(f"{_UNARY[name]}{_grouped(self.pop())}")
        elif name == "CALL_INTRINSIC_1" and arg == _INTRINSIC_POSITIVE:
            self.push(f"+{_grouped(self.pop())}")
        elif name in {"CALL", "CALL_KW"}:
            self._call(arg, has_names=name == "CALL_KW")
        elif name == "CALL_FUNCTION_EX":
            parts = self.pop_many(1 + (arg & 1))
            self._finish_call([f"*{parts[0]}", *(f"**{part}" for part in parts[1:])])
        elif name == "BUILD_TUPLE":
            items = self.pop_many(arg)
            self.push(f"({items[0]},)" if arg == 1 else f"({', '.join(items)})")
        elif name in _DISPLAYS:
            before, after = _DISPLAYS[name]
            self.push(f"{before}{', '.join(self.pop_many(arg))}{after}")
        elif name == "BUILD_MAP":
            items = self.pop_many(2 * arg)
            pairs = zip(items[::2], items[1::2], strict=True)
            self.push(f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}")
        elif name == "COPY":
            self.push(self._texts[-arg] if len(self._texts) >= arg else UNKNOWN)
        elif name == "SWAP":
            self._swap(arg)
        else:
            self._unknown(instruction)

    def _push_with_null(self, text: str, has_null: bool) -> None:
        if has_null and NULL_IS_ABOVE_THE_CALLABLE:
            self.push(text)
            self.push(_NULL)
        elif has_null:
            self.push(_NULL)
            self.push(text)
        else:
            self.push(text)

    def _call(self, count: int, *, has_names: bool) -> None:
        names = self._keywords
        self._keywords = ()
        if has_names:
            listed = self.pop()
            names = tuple(part.strip("'") for part in listed.strip("(),").split(", "))
        arguments = self.pop_many(count)
        plain = len(arguments) - len(names)
        shown = arguments[:plain]
        shown += [f"{name}={text}" for name, text in zip(names, arguments[plain:], strict=False)]
        self._finish_call(shown)

    def _finish_call(self, arguments: list[str]) -> None:
        below, above = self.pop_many(2)
        if _NULL in {below, above}:
            function = above if below == _NULL else below
        else:
            # The first argument stands where a NULL would: a decorator, a comprehension.
            function, arguments = below, [above, *arguments]
        self.push(f"{_grouped(function)}({', '.join(arguments)})")

    def _swap(self, depth: int) -> None:
        if len(self._texts) >= depth:
            texts = self._texts
            texts[-1], texts[-depth] = texts[-depth], texts[-1]
        else:
            self.forget()

    def _unknown(self, instruction: dis.Instruction) -> None:
        if instruction.opcode in JUMPS:
            self.forget()
            return
        argument = instruction.arg if instruction.opcode >= HAVE_ARGUMENT else None
        effect = dis.stack_effect(instruction.opcode, argument, jump=False)
        pushes = not instruction.opname.startswith(("STORE_", "DELETE_", "POP_"))
        if effect <= 0:
            self.pop_many(-effect + pushes)
            if pushes:
                self.push(UNKNOWN)
        else:
            self._texts += [UNKNOWN] * effect


def _constant(value: object) -> str:
    if value is Ellipsis:
        return "..."
    if isinstance(value, CodeType):
        return UNKNOWN
    return repr(value)


def _key(text: str) -> str:
    """A subscript: a tuple in it goes without parentheses, as it may hold slices."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            is_tuple = character == ")" and index == len(text) - 1 and "," in text
            return text[1:-1] if is_tuple else text
    return text


def _bound(text: str) -> str:
    return "" if text == "None" else text
