"""Forwards whose operations report, made for the run that asks and for no other.

Asked for one operation, a run gets a copy of the forward in which all of them report: when a block
asks for the second one, the forward is running already. One function stands at many places of a
model; it is rewritten once, and each place gets copies of that.

An operation's sites are named as a module's: `layers.0.attn.source.softmax_0` has `input`,
`output` and `skip`, and `callee`: what it calls, known when it calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, cast

from .._bytecode.listing import KINDS, Listing, list_operations
from .._bytecode.listing import Operation as Listed
from .._bytecode.taps import Instead, Tap, make_tapped, renew_taps
from .._interleave.interleaver import NOTHING, EndRun
from .._interleave.site import spell
from .._torch import hooks
from .._torch.run import Spot
from ..errors import NeverRanError, SourceNotAvailableError, UnknownNameError
from .callees import Callee, remake, take_apart

if TYPE_CHECKING:
    from .._torch.axes import Note
    from .._torch.run import Run
    from .._torch.tree import Tree

VIEWS: Final = {"call": "calls", "operator": "operators", "assign": "assigns"}
SEGMENT: Final = "source"


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
        prefix = f"{path}.{SEGMENT}" if path else SEGMENT
        taken: set[str] = set()
        for kind in KINDS:
            found = self.listing.of_kind(kind)
            for label, operation in found.items():
                name = f"{VIEWS[kind]}.{label}" if label in taken else label
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
            self._learn_rows(run)
            for path in self.paths.values():
                run.paths.setdefault(path, Spot(path, late=False))
        return None

    def _learn_rows(self, run: Run) -> None:
        """See from fake runs which rows of each operation's values belong to which invoke."""
        if run.rules is None or run.inputs is None:
            return
        opened: dict[str, Forward] = {}
        top = self
        while top.outer is not None:
            opened[top.path] = top
            top = top.outer
        module = run.tree.find_module(top.path)
        assert module is not None

        @contextmanager
        def watch(note: Note) -> Iterator[None]:
            callee = take_apart(hooks.forward_of(module), "")
            with hooks.replaced_forward(module, top.noting(callee, note, opened)):
                yield

        forwarding, run.forwarding = run.forwarding, False
        try:
            run.rules.learn_inside((self.path, id(self._template)), run.inputs, run.total, watch)
        finally:
            run.forwarding = forwarding

    def noting(self, callee: Callee, note: Note, opened: dict[str, Forward]) -> Callable[..., Any]:
        """Make the function whose operations are noted, for a fake run."""
        paths = self.paths
        code = renew_taps(
            self._template.tapped(self.code),
            lambda tap: _Noting(paths[cast("_Blank", tap).operation], note, opened),
        )
        return callee.rebuild(remake(callee.function, code))

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
        return forward_at(self.tree, self.forward.path, callee, outer).tapped(callee)


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


def forward_at(tree: Tree, path: str, callee: Callee, outer: Forward | None) -> Forward:
    """Give the operations of *callee* at *path*, the same object for the same code."""
    code = callee.function.__code__
    prefix = f"{path}.{SEGMENT}" if path else SEGMENT
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


class _Noting(Tap):
    """Tells a fake run the values of an operation."""

    __slots__ = ("note", "opened", "path")

    def __init__(self, path: str, note: Note, opened: dict[str, Forward]) -> None:
        self.path = path
        self.note = note
        self.opened = opened

    def call(
        self, callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        self.note(self.path, "input", (args, kwargs))
        inner = self.opened.get(self.path)
        if inner is not None:
            apart = take_apart(callee, "")
            if apart.function.__code__ is inner.code:
                callee = inner.noting(apart, self.note, self.opened)
        return callee, args, kwargs

    def operands(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        self.note(self.path, "input", (values, {}))
        return values

    def result(self, value: Any) -> Any:
        self.note(self.path, "output", value)
        return value

    def assigned(self, value: Any) -> Any:
        self.note(self.path, "input", ((value,), {}))
        self.note(self.path, "output", value)
        return value
