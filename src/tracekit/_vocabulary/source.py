"""The operations inside a forward: `model.layers[0].attn.source.softmax_0.output`.

What the reader sees of them: by name, in three views, printed. What stands on the module stays
what it was; a module of which no operation is asked for costs nothing. What a run does with them
is in `forwards.py`.
"""

from __future__ import annotations

import difflib
import linecache
from collections.abc import Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import torch

from .._bytecode.listing import KINDS
from .._bytecode.listing import Operation as Listed
from .._interleave.requests import Read, Skip, View
from .._interleave.site import spell
from .._protocol import Suspending, ask, suspending
from .._torch import hooks
from .._torch.tree import Node, Port, answer_now
from .._torch.values import checked_inputs
from ..errors import SourceNotAvailableError, UnknownNameError
from .callees import take_apart
from .forwards import SEGMENT, VIEWS, Forward, forward_at

if TYPE_CHECKING:
    from .._torch.tree import Tree

_SHOWN_AROUND: Final = 4


def _first_of_operands(inputs: Any) -> Any:
    args, kwargs = inputs
    if args:
        return args[0]
    for value in kwargs.values():
        return value
    raise ValueError("the operation has no inputs: it is a call without arguments")


def _with_first_of_operands(inputs: Any, new: Any) -> Any:
    args, kwargs = inputs
    if args:
        return (new, *args[1:]), kwargs
    for key in kwargs:
        return args, {**kwargs, key: new}
    raise ValueError("the operation has no inputs: it is a call without arguments")


def _checked_operands(old: Any, new: Any) -> Any:
    args, kwargs = checked_inputs(old, new)
    count = len(old[0])
    if len(args) != count or kwargs:
        raise TypeError(
            f"this operation has {count} operand{'s' * (count != 1)}, `((...), {{}})`; "
            f"got {len(args)} and {len(kwargs)} keyword arguments"
        )
    return args, kwargs


class _Inside(Suspending):
    """`operation.source`: the operations of what it calls, when it calls it."""

    __slots__ = ()

    def ask_get(self, obj: Any) -> Any:
        obj._refuse_unless_call()
        target = yield from ask(Read(obj._tree, obj._path, "callee"))
        return obj._open(target)

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        obj._refuse_unless_call()
        return obj._open(answer_now(Read(obj._tree, obj._path, "callee")))


class Operation:
    """One operation of a forward: a call, an operator, or an assignment.

    Its values are asked for in a block as a module's are. In a loop it has visits.

    Attributes:
        kind: `"call"`, `"operator"` or `"assign"`.
        label: Its name and number, for example `softmax_0`.
        lineno: The line where it starts, from 1; `None` if the code has no lines.
    """

    output = Port("output", "output", doc="What the operation gives; what an assignment assigns.")
    inputs = Port(
        "inputs",
        "input",
        View("inputs", lambda value: value, checked_inputs),
        doc="What the operation gets: `(args, kwargs)`; of an operator, its operands.",
    )
    input = Port(
        "input",
        "input",
        View("input", _first_of_operands, _with_first_of_operands),
        doc="The first argument or operand.",
    )
    source = _Inside()

    def __init__(self, source: Source, listed: Listed) -> None:
        self._source = source
        self._listed = listed
        self._tree = source._tree
        self._path = source._forward.paths[listed]
        self._requests: dict[str, Read] = {}
        self.kind = listed.kind
        self.label = listed.label
        self.lineno = listed.lineno

    @property
    def path(self) -> str:
        """As in messages: the module's path, `source`, and the operation's name."""
        return self._path

    def _site_owner(self) -> tuple[object, str]:
        return self._tree, self._path

    def skip(self, value: Any) -> None:
        """Let the operation not run in this visit; *value* is its result.

        Args:
            value: What the operation gives; of an assignment, what is assigned.
        """
        answer_now(Skip(self._tree, self._path, value))

    def _refuse_unless_call(self) -> None:
        if self.kind != "call":
            article = "an" if self.kind[0] in "ao" else "a"
            raise SourceNotAvailableError(
                f"`{spell(self._path, '')}` is {article} "
                f"{'assignment' if self.kind == 'assign' else self.kind}: it calls nothing",
                why="only what a call calls has operations",
                fix="",
            )

    def _open(self, target: Any) -> Source:
        name = spell(self._path, "")
        callee = take_apart(target, name)
        forward = forward_at(self._tree, self._path, callee, self._source._forward)
        return Source(self._tree, forward, callee.function)

    def __repr__(self) -> str:
        return self._source._window(self._listed)


class _Fixed(Operation):
    """An operation that has a fixed number of operands."""

    inputs = Port(
        "inputs",
        "input",
        View("inputs", lambda value: value, _checked_operands),
        doc="Its operands: `(operands, {})`.",
    )


@suspending(Operation.skip)
def _skip(self: Operation, value: Any) -> Any:
    yield from ask(Skip(self._tree, self._path, value))


class OperationView:
    """The operations of one kind, by attribute, by name, and in order."""

    def __init__(self, source: Source, kind: str) -> None:
        self._source = source
        self._kind = kind

    @property
    def names(self) -> list[str]:
        """Their names, in the order in which they are shown."""
        return [op.label for op in self._source._shown() if op.kind == self._kind]

    def __getitem__(self, name: str) -> Operation:
        listed = self._source._forward.listing.of_kind(self._kind).get(name)
        if listed is None:
            raise self._source._unknown(name, self.names, VIEWS[self._kind])
        return self._source._operation(listed)

    def __getattr__(self, name: str) -> Operation:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[Operation]:
        return (self[name] for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self.names]

    def __repr__(self) -> str:
        return self._source._render({self._kind})


class Source:
    """The operations of a forward: by attribute, by name, and in order.

    A bare name means the first of `calls`, `operators` and `assigns` that has it. Printed, it
    lists them with their lines, and with the text where there is some.
    """

    def __init__(self, tree: Tree, forward: Forward, function: FunctionType) -> None:
        self._tree = tree
        self._forward = forward
        self._function = function

    @property
    def calls(self) -> OperationView:
        """Calls."""
        return OperationView(self, "call")

    @property
    def operators(self) -> OperationView:
        """Operators, comparisons, and loads by subscript (`getitem_0`)."""
        return OperationView(self, "operator")

    @property
    def assigns(self) -> OperationView:
        """Assignments, by what is assigned to."""
        return OperationView(self, "assign")

    @property
    def names(self) -> list[str]:
        """Their names as this object takes them, in the order in which they are shown."""
        return [self._name(op) for op in self._shown()]

    def _shown(self) -> list[Listed]:
        return self._forward.listing.operations

    def _name(self, listed: Listed) -> str:
        prefix = f"{self._forward.path}.{SEGMENT}." if self._forward.path else f"{SEGMENT}."
        return self._forward.paths[listed].removeprefix(prefix)

    def _operation(self, listed: Listed) -> Operation:
        return (Operation if listed.kind == "call" else _Fixed)(self, listed)

    def _unknown(self, name: str, names: list[str], view: str = "") -> UnknownNameError:
        place = spell(self._forward.path, SEGMENT) + (f".{view}" if view else "")
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
        return UnknownNameError(
            f"`{place}` has no `{name}`",
            seen=f"the nearest: {', '.join(near)}" if near else f"it has: {', '.join(names)}",
            fix=f"did you mean `{place}.{near[0]}`? Print `{place}` to see all" if near else "",
        )

    def __getitem__(self, name: str) -> Operation:
        prefix = f"{self._forward.path}.{SEGMENT}." if self._forward.path else f"{SEGMENT}."
        listed = self._forward.places.get(prefix + name)
        if listed is None:
            raise self._unknown(name, self.names)
        return self._operation(listed)

    def __getattr__(self, name: str) -> Operation:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[Operation]:
        return (self._operation(listed) for listed in self._shown())

    def __len__(self) -> int:
        return len(self._shown())

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self.names]

    def __repr__(self) -> str:
        return self._render(set(KINDS))

    # Printing.

    def _title(self) -> str:
        code = self._forward.code
        place = spell(self._forward.path, SEGMENT)
        how = "" if self._forward.listing.by_position else "; in order of bytecode: no columns"
        return f"{place}: {code.co_qualname}, {code.co_filename}:{code.co_firstlineno}{how}"

    def _render(self, kinds: set[str]) -> str:
        by_line: dict[int, list[str]] = {}
        for op in self._shown():
            if op.kind in kinds:
                by_line.setdefault(op.lineno or 0, []).append(self._name(op))
        text = _text_of(self._forward)
        width = max((len(name) for names in by_line.values() for name in names), default=0)
        lines = [self._title()]
        for lineno in sorted(text or by_line):
            first, *more = by_line.get(lineno, [""])
            shown = text[lineno] if text else ""
            arrow = "->" if first else "  "
            lines.append(f" {first:<{width}} {arrow} {lineno:4} {shown}".rstrip())
            lines += [f" {name:<{width}} ->    +" for name in more]
        return "\n".join(lines)

    def _window(self, listed: Listed) -> str:
        lineno = listed.lineno or 0
        text = _text_of(self._forward)
        lines = [f"{spell(self._forward.paths[listed], '')}: {listed.kind}, line {lineno}"]
        for near in range(lineno - _SHOWN_AROUND, lineno + _SHOWN_AROUND + 1) if text else ():
            if near in text:
                arrow = "-->" if near == lineno else "   "
                lines.append(f" {arrow} {near:4} {text[near]}".rstrip())
        return "\n".join(lines)


def _text_of(forward: Forward) -> dict[int, str]:
    """The lines of a function's text by number; empty where there is none, or another one."""
    code = forward.code
    lines = linecache.getlines(code.co_filename)
    last = max((end or 0 for _, _, end in code.co_lines()), default=0)
    numbers = range(code.co_firstlineno, max(last, code.co_firstlineno) + 1)
    text = {n: lines[n - 1].rstrip("\n") for n in numbers if n <= len(lines)}
    # The file may have been edited since: names must stand where the code has them.
    for op in forward.listing.operations:
        if op.kind == "assign" and op.location is not None:
            line, end_line, start, stop = op.location
            if line is None or line not in text:
                return {}
            if line == end_line and start != stop and stop is not None:
                target = text[line].encode()[start:stop].decode(errors="replace")
                if not all(part in target for part in op.name.split("_")):
                    return {}
    return text


class SourceAttribute:
    """`model.layers[0].source`."""

    def __get__(self, obj: Node | None, owner: type | None = None) -> Any:
        if obj is None:
            return self
        name = spell(obj._path, "")
        module: Any = obj._module
        if isinstance(module, torch.jit.ScriptModule):
            raise SourceNotAvailableError(
                f"`{name}` is a scripted module: it does not run its forward's bytecode",
                why="operations are read from the bytecode that runs, and report from there",
                fix="wrap the model before it is scripted",
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
            raise SourceNotAvailableError(
                f"`{name}` is a compiled module: it does not run its forward's bytecode",
                why="operations are read from the bytecode that runs, and report from there",
                fix="wrap the model before it is compiled",
            )
        callee = take_apart(hooks.forward_of(module), name)
        return Source(obj._tree, forward_at(obj._tree, obj._path, callee, None), callee.function)
