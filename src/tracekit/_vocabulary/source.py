"""The operations inside a forward: `model.layers[0].attn.source.softmax_0.output`.

Asked for one of its operations, a module's forward is replaced for the run, and for this run
alone, by a copy whose operations report (`_bytecode/taps.py`). All of them do: when a block asks
for the second operation, the forward is running already. What stands on the module stays what it
was; a module of which no operation was asked for costs nothing.

An operation's sites are named as a module's: `layers.0.attn.source.softmax_0` has `input`,
`output` and `skip`, and `callee` (what it calls, which is known when it calls).
"""

from __future__ import annotations

import difflib
import linecache
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from .._bytecode.listing import KINDS, Listing, list_operations
from .._bytecode.listing import Operation as Listed
from .._bytecode.taps import Instead, Tap, make_tapped, renew_taps
from .._interleave.interleaver import NOTHING, EndRun
from .._interleave.requests import Read, Skip, View
from .._interleave.site import spell
from .._protocol import Suspending, ask, suspending
from .._torch import hooks
from .._torch.run import Spot
from .._torch.tree import Node, Port, answer_now
from .._torch.values import checked_inputs
from ..errors import NeverRanError, SourceNotAvailableError, UnknownNameError
from .callees import Callee, remake, take_apart

if TYPE_CHECKING:
    from .._torch.run import Run
    from .._torch.tree import Tree

_VIEWS: Final = {"call": "calls", "operator": "operators", "assign": "assigns"}
_SEGMENT: Final = "source"
_SHOWN_AROUND: Final = 4


class _Blank(Tap):
    """Marks an operation in code from which that of each place is made."""

    __slots__ = ("operation",)

    def __init__(self, operation: Listed) -> None:
        self.operation = operation


class _Template:
    """What is the same at all places where one function stands."""

    __slots__ = ("_tapped", "code", "listing")

    def __init__(self, code: CodeType) -> None:
        # Weak: models that are gone take their code with them.
        self.code = weakref.ref(code, lambda _: _templates.pop(key, None))
        self.listing = list_operations(code)
        self._tapped: CodeType | None = None
        key = id(code)

    def tapped(self, code: CodeType) -> CodeType:
        if self._tapped is None:
            self._tapped = make_tapped(code, {op: _Blank(op) for op in self.listing.operations})
        return self._tapped


# By id: the hash of a code object reads all of it, and equal ones may be of different files.
_templates: dict[int, _Template] = {}


def _template_of(code: CodeType) -> _Template:
    template = _templates.get(id(code))
    if template is None or template.code() is not code:
        template = _templates[id(code)] = _Template(code)
    return template


class Forward:
    """The operations of one function at one place of a model; what a run is asked to reach.

    Holds no model, module or function: the tree holds it.

    Attributes:
        path: Of the module, or of the operation that calls the function.
        code: The function's.
        listing: Its operations.
        paths: Their paths, by operation.
        outer: Where the operation stands that calls it; `None` for a module's forward.
    """

    __slots__ = ("_tapped", "_template", "code", "listing", "outer", "path", "paths", "places")

    def __init__(self, path: str, code: CodeType, outer: Forward | None) -> None:
        self.path = path
        self.code = code
        self.outer = outer
        self._template = _template_of(code)
        self.listing: Listing = self._template.listing
        self.paths: dict[Listed, str] = {}
        self.places: dict[str, Listed] = {}
        self._tapped: CodeType | None = None
        prefix = f"{path}.{_SEGMENT}" if path else _SEGMENT
        taken: set[str] = set()
        for kind in KINDS:
            found = self.listing.of_kind(kind)
            for label, operation in found.items():
                name = f"{_VIEWS[kind]}.{label}" if label in taken else label
                self.paths[operation] = f"{prefix}.{name}"
                self.places[f"{prefix}.{name}"] = operation
            taken.update(found)

    def tapped(self, callee: Callee) -> Callable[..., Any]:
        """Make what is called in the function's place."""
        if self._tapped is None:
            paths = self.paths
            self._tapped = renew_taps(
                self._template.tapped(self.code),
                lambda tap: _Report(paths[cast("_Blank", tap).operation]),
            )
        return callee.rebuild(remake(callee.function, self._tapped))

    def _reach(self, run: Run) -> BaseException | None:
        spot = run.paths.get(self.path)
        if self.outer is None:
            if spot is None:
                refusal = run.watch(self.path)
                if refusal is not None:
                    return refusal
                spot = run.paths.get(self.path)
            forward: Callable[..., Any] | None = None
            if spot is not None and spot.forward is None:
                module = run.tree.find_module(self.path)
                assert module is not None
                callee = take_apart(hooks.forward_of(module), spell(self.path, ""))
                if callee.function.__code__ is not self.code:
                    return _replaced(self.path)
                forward = self.tapped(callee)
        else:
            refusal = self.outer._reach(run)
            if refusal is not None:
                return refusal
            spot = run.paths[self.path]
            forward = _Opened(run.tree, self)
        if spot is None or (spot.forward is None and _is_inside(run, spot)):
            return NeverRanError(
                f"`{spell(self.path, '')}` is running already, and none of its operations was "
                "asked for before it started",
                why="a forward whose operations report is put in place before it is called",
                fix="ask for one of its operations, or for its input, before the values inside it",
            )
        if spot.forward is None:
            spot.forward = forward
            for path in self.paths.values():
                run.paths.setdefault(path, Spot(path, late=False))
        return None

    def _explain(self, run: Run) -> tuple[str, str, str]:
        spot = run.paths.get(self.path)
        if spot is None or not spot.visits:
            return (
                f"`{spell(self.path, '')}`, which contains it, was not called",
                "an operation runs when the forward that it stands in does",
                "",
            )
        return (
            f"`{spell(self.path, '')}` ran without it",
            "the branch that it stands in was not taken, or the loop had no round",
            "print the `.source` to see what stands where",
        )


class _Opened:
    """Stands in `Spot.forward` of an operation: opens what it calls, whatever that is each time."""

    __slots__ = ("forward", "tree")

    def __init__(self, tree: Tree, forward: Forward) -> None:
        self.tree = tree
        self.forward = forward

    def __call__(self, target: Any) -> Any:
        try:
            callee = take_apart(target, "")
        except SourceNotAvailableError:
            # Another visit, another callee: a leaf this time.
            return target
        outer = self.forward.outer
        assert outer is not None
        return _forward_at(self.tree, self.forward.path, callee, outer).tapped(callee)


def _is_inside(run: Run, spot: Spot) -> bool:
    """Whether the module's or operation's call is under way, and past where it is replaced."""
    if spot is run.returning:
        return True
    if spot.begun <= spot.done or spot.owed is not None:
        return False
    standing = run.interleaver.standing
    return standing is None or standing.key not in (spot.skip_key, (spot.path, "callee"))


def _replaced(path: str) -> UnknownNameError:
    return UnknownNameError(
        f"the forward of `{spell(path, '')}` is another one than that whose operation is asked for",
        why="operations belong to the forward that runs",
        fix=f"ask `{spell(path, '')}.source` again",
    )


def _forward_at(tree: Tree, path: str, callee: Callee, outer: Forward | None) -> Forward:
    """Give the operations of *callee* at *path*, the same object for the same code."""
    code = callee.function.__code__
    prefix = f"{path}.{_SEGMENT}" if path else _SEGMENT
    known = tree.places.get(prefix)
    if isinstance(known, Forward) and known.code is code:
        return known
    made = Forward(path, code, outer)
    tree.places[prefix] = made
    for place in made.paths.values():
        tree.places[place] = made
    return made


def _give(value: Any) -> Any:
    """Stand in for the callee of a skipped call."""
    return value


class _Report(Tap):
    """Tells the run of this thread that an operation is reached."""

    __slots__ = ("callee_key", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.callee_key = (path, "callee")

    def begin(self, run: Run, spot: Spot) -> int:
        interleaver = run.interleaver
        if interleaver.ended:
            raise EndRun
        visit = spot.visits
        spot.visits = visit + 1
        if self.path in interleaver.watched:
            interleaver.entered(self.path)
        return visit

    def inputs(self, run: Run, spot: Spot, visit: int, args: Any, kwargs: Any) -> Any:
        """Serve the input; gives it, and the value instead of the result, if it is skipped."""
        interleaver = run.interleaver
        wanted = interleaver.wanted
        if spot.input_key in wanted:
            args, kwargs = interleaver.visit(spot.input_key, visit, (args, kwargs))
        else:
            interleaver.passed.append((spot.input_key, visit))
        spot.begun = visit + 1
        instead: Any = NOTHING
        if spot.skip_key in wanted:
            instead = interleaver.visit(spot.skip_key, visit, NOTHING)
            if instead is not NOTHING:
                spot.skipped += 1
        return args, kwargs, instead

    def spot(self) -> tuple[Run, Spot] | None:
        run = hooks.current_run()
        if run is None or not run.forwarding:
            return None
        spot = run.paths.get(self.path)
        return None if spot is None else (run, spot)

    def call(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        found = self.spot()
        if found is None:
            return callee, args, kwargs
        run, spot = found
        visit = self.begin(run, spot)
        interleaver = run.interleaver
        # Asked for before the input as well as after it.
        if self.callee_key in interleaver.wanted:
            interleaver.visit(self.callee_key, visit, callee)
        args, kwargs, instead = self.inputs(run, spot, visit, args, kwargs)
        if instead is not NOTHING:
            return _give, (instead,), {}
        if self.callee_key in interleaver.wanted:
            interleaver.visit(self.callee_key, visit, callee)
        if spot.forward is not None:
            callee = spot.forward(callee)
        return callee, args, kwargs

    def operands(self, values: tuple[Any, ...]) -> tuple[Any, ...] | Instead:
        found = self.spot()
        if found is None:
            return values
        run, spot = found
        visit = self.begin(run, spot)
        args: tuple[Any, ...]
        args, _, instead = self.inputs(run, spot, visit, values, {})
        return args if instead is NOTHING else Instead(instead)

    def result(self, value: Any) -> Any:
        found = self.spot()
        if found is None or not found[1].visits:
            return value
        run, spot = found
        return run.output(spot, spot.visits - 1, value)

    def assigned(self, value: Any) -> Any:
        found = self.spot()
        if found is None:
            return value
        run, spot = found
        visit = self.begin(run, spot)
        (value,), _, instead = self.inputs(run, spot, visit, (value,), {})
        return run.output(spot, visit, value if instead is NOTHING else instead)


# What the reader sees.


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
        forward = _forward_at(self._tree, self._path, callee, self._source._forward)
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
            raise self._source._unknown(name, self.names, _VIEWS[self._kind])
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
        prefix = f"{self._forward.path}.{_SEGMENT}." if self._forward.path else f"{_SEGMENT}."
        return self._forward.paths[listed].removeprefix(prefix)

    def _operation(self, listed: Listed) -> Operation:
        return (Operation if listed.kind == "call" else _Fixed)(self, listed)

    def _unknown(self, name: str, names: list[str], view: str = "") -> UnknownNameError:
        place = spell(self._forward.path, _SEGMENT) + (f".{view}" if view else "")
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
        return UnknownNameError(
            f"`{place}` has no `{name}`",
            seen=f"the nearest: {', '.join(near)}" if near else f"it has: {', '.join(names)}",
            fix=f"did you mean `{place}.{near[0]}`? Print `{place}` to see all" if near else "",
        )

    def __getitem__(self, name: str) -> Operation:
        prefix = f"{self._forward.path}.{_SEGMENT}." if self._forward.path else f"{_SEGMENT}."
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
        place = spell(self._forward.path, _SEGMENT)
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
        return Source(obj._tree, _forward_at(obj._tree, obj._path, callee, None), callee.function)
