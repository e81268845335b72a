"""The block form and the function form: from a `with`, or a function, to a body that runs.

    capture   find the `with` that the calling frame executes
    parse     cut its body out of the frame's code object
    compile   make a generator of it, once per place in the program
    execute   run it: here, to its end at once; subclasses run it in step with something
    pull      the names that the body uses, out of the frame
    push      the names that it bound, back into the frame

The body runs inside `__enter__`, where the handled exception is that of the place of the `with`.
Only behind a wrapper that delegates to us, whose `as` value is not known before it returns, does
it run in `__exit__`.
"""

# This file is long because a block and a function are two forms of one thing, and the steps above
# read as one story only side by side.

from __future__ import annotations

import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, Final

from .._bytecode.cut import Cut, cut, is_with_entry, line_at
from .._bytecode.facts import IS_SUPPORTED, VERSION
from .._bytecode.generator import make_body_twin
from .._bytecode.names import StoreMap
from .._bytecode.render import expression_at
from .._protocol import UNBOUND
from ..errors import (
    AlreadyEnteredError,
    AsyncWithError,
    InternalError,
    UnsupportedPythonError,
    WithBlockNotFoundError,
)
from . import debuggers, driver, frames, memory
from .explain import explain
from .guards import HOOKS
from .namespaces import OwnNames
from .saving import Saved, noting
from .shared import STATES, SharedNames, report_bound
from .skip import Skip, arm, is_engaged
from .tracebacks import finish_raising, sweep
from .twins import ORIGINALS, twin_function

_FUNCTION_FORM: Final = (
    "put the body in a Python function `fn` and write `model.trace(...).run(fn)`"
)


_NOTHING: Final[frozenset[str]] = frozenset()


class Compiled:
    """What is kept of one block: its twin, and what its frame needs to know.

    Attributes:
        twin: The rewritten body.
        arguments: The caller's plain locals it uses, in order of its arguments.
        cells: The caller's cell variables it uses.
        frees: The caller's free variables it uses.
        loads: Names it may read.
        stores: Names it may bind or unbind.
        nested: Globals that functions made in it may read, where names are a namespace.
        pushed: The plain locals that it may bind.
        pushed_at: Where in `arguments` they are.
        first_offset: Bytes; where the frame must not go on.
        shared: Names that other blocks of the same run read or bind.
        all_names: Whether it has all names of the function, also those it does not use.
    """

    __slots__ = (
        "all_names",
        "arguments",
        "cells",
        "first_offset",
        "frees",
        "is_optimized",
        "lineno",
        "loads",
        "nested",
        "pushed",
        "pushed_at",
        "shared",
        "stores",
        "takes_value",
        "twin",
    )

    def __init__(self, part: Cut, shared: frozenset[str], all_names: bool) -> None:
        self.shared = shared
        self.all_names = all_names
        self.arguments = part.arguments
        self.cells = part.cells
        self.frees = part.frees
        self.loads = part.loads
        self.stores = part.stores
        self.first_offset = part.first_offset
        self.is_optimized = part.is_optimized
        self.takes_value = part.takes_value
        self.nested = _NOTHING if part.is_optimized else part.nested
        self.lineno = part.lineno
        own = set(part.arguments) - set(part.cells)
        self.pushed = tuple(sorted(part.stores & own)) if part.is_optimized else ()
        self.pushed_at = tuple(part.arguments.index(name) for name in self.pushed)
        self.twin = make_body_twin(part, HOOKS, shared)


class _Site:
    """The blocks of one code object, and the code object itself, weakly.

    Attributes:
        entries: Offsets that are known to enter a `with`.
        may_debug: The code itself may start a debugger.
        blocks: The compiled ones.
        stores: What `store_map` gives.
    """

    __slots__ = ("blocks", "code", "entries", "may_debug", "stores")

    def __init__(self, code: CodeType) -> None:
        self.entries: set[int] = set()
        self.may_debug = debuggers.may_start(code)
        self.blocks: dict[tuple[int, bool, frozenset[str], bool], Compiled] = {}
        self.stores: dict[int, StoreMap] = {}
        key = id(code)
        self.code = weakref.ref(code, lambda _: _forget(key))


# By id: hashing a code object reads the whole of it, and equal ones differ in file name.
_SITES: Final[dict[int, _Site]] = {}


def _forget(key: int) -> None:
    site = _SITES.pop(key, None)
    if site is not None:
        for block in site.blocks.values():
            ORIGINALS.pop(id(block.twin.code), None)


def _site(code: CodeType) -> _Site:
    site = _SITES.get(id(code))
    if site is None or site.code() is not code:
        site = _SITES[id(code)] = _Site(code)
    return site


def compiled_block(
    code: CodeType,
    enter_offset: int,
    *,
    after_target: bool = False,
    shared: frozenset[str] = _NOTHING,
    all_names: bool = False,
) -> Compiled:
    """Cut and compile the block that *enter_offset* of *code* enters, or give the one kept.

    Args:
        code: The original code object.
        enter_offset: Bytes; the instruction that enters the `with`.
        after_target: See `cut`.
        shared: Names that other blocks of the same run read or bind.
        all_names: See `cut`.
    """
    blocks = _site(code).blocks
    key = (enter_offset, after_target, shared, all_names)
    block = blocks.get(key)
    if block is None:
        part = cut(code, enter_offset, after_target=after_target, all_names=all_names)
        block = Compiled(part, shared, all_names)
        ORIGINALS[id(block.twin.code)] = block.twin
        blocks[key] = block
    return block


def store_map(code: CodeType, enter_offset: int) -> StoreMap:
    """Which names the block can still store to, from each of its instructions; kept."""
    stores = _site(code).stores
    found = stores.get(enter_offset)
    if found is None:
        found = stores[enter_offset] = StoreMap(code, enter_offset)
    return found


class Body:
    """Something to run in step with something else: a block, or a function given to `run`.

    Attributes:
        name: What tracebacks call it.
        filename: Its file.
        first_lineno: The line of the `with`, or of the function.
        loads: Names of the caller that it may read.
        stores: Names of the caller that it may bind or unbind.
        is_apart: It has a namespace of its own, and `resume` and `suspend` are to be called.
    """

    name = ""
    filename = ""
    first_lineno = 0
    loads: frozenset[str] = frozenset()
    stores: frozenset[str] = frozenset()
    is_apart = False

    def resume(self) -> None:
        """The body is about to go on; called where `is_apart`."""

    def suspend(self) -> None:
        """The body has suspended or ended; called where `is_apart`."""

    def start(self, value: object) -> Generator[Any, Any, Any]:
        """Give a fresh generator of the body, with the names as they are now.

        Args:
            value: What the `as` target gets, or the function's argument.
        """
        raise NotImplementedError

    def finish(self, keeps: Callable[[str, object], bool] | None = None) -> None:
        """Put the names that the body bound back where they came from.

        Args:
            keeps: Which of them; the others get the value back that they had.
        """


class BlockBody(Body):
    """The body of a `with`, and the frame it belongs to.

    Args:
        info: What was captured.
        block: Its compiled form.

    Attributes:
        bound: What the block has bound in its caller's frame, once it has finished.
    """

    def __init__(self, info: Tracer.Info, block: Compiled) -> None:
        code = info.code
        self.name = code.co_name
        self.filename = code.co_filename
        self.first_lineno = block.lineno
        self.loads = block.loads
        self.stores = block.stores
        self.info = info
        self.frame = info.frame
        self.block = block
        self._given: dict[str, object] | None = None
        self._before: list[object] | None = None
        self._namespace_before: dict[str, object] | None = None
        self._own_frame: FrameType | None = None
        self._shared: SharedNames | None = None
        self._pending = _NOTHING
        self._names: OwnNames | None = None
        self._swapped: dict[str, object] | None = None
        self.bound: Iterable[object] = ()

    def bind_now(self) -> None:
        """Take the caller's names as they are now, for a body that is started later."""
        assert self.frame is not None
        block = self.block
        names = block.arguments if block.is_optimized else tuple(block.loads | block.nested)
        self._given = dict(zip(names, frames.pull(self.frame, names), strict=True))

    def resume(self) -> None:
        """The body is about to go on."""
        if self._names is not None and self.block.nested:
            self._swapped = self._names.swap_in(self.block.nested)

    def suspend(self) -> None:
        """The body has suspended or ended."""
        if self._names is not None and self._swapped:
            self._names.swap_out(self._swapped)
            self._swapped = None

    def share(self, pending: frozenset[str], told: frozenset[str]) -> None:
        """Say, before the start, which names this body shares with others of its run.

        Args:
            pending: Names that earlier bodies may bind: this body's loads of them wait.
            told: Names that other bodies may read: this body's stores to them are noted.
        """
        self._pending = pending & self.loads
        shared = self._pending | (told & self.stores) | (pending & self.stores)
        if shared != self.block.shared:
            self.block = compiled_block(
                self.info.code,
                self.info.enter_offset,
                after_target=not self.info.is_direct,
                shared=shared,
                all_names=self.block.all_names,
            )

    def await_names(self, names: frozenset[str]) -> None:
        """From here on, loads of these names wait, until the body binds them itself.

        Args:
            names: Of those that were given to `share` as told.
        """
        if self._shared is not None:
            self._shared.pending |= names & self.block.shared

    def await_again(self) -> None:
        """Let loads of the names of earlier bodies wait again, but of those that it has bound."""
        if self._shared is not None:
            self._shared.pending |= self._pending - self._shared.own.keys()

    def may_store(self, generator: Any, name: str) -> bool:
        """Whether a store to *name* can be reached from where the body stands.

        Args:
            generator: The body's, suspended; None once it has ended.
            name: One of `stores`.
        """
        if generator is None or generator.gi_frame is None:
            return False
        origin = self.block.twin.origin_of(generator.gi_frame.f_lasti)
        if origin is None:
            return False
        stores = store_map(self.info.code, self.info.enter_offset)
        return name in stores.reachable(origin)

    def place_of_store(self, name: str) -> tuple[str, int]:
        """File and line of the last store to *name* in the body."""
        stores = store_map(self.info.code, self.info.enter_offset)
        offset = stores.last.get(name)
        line = self.first_lineno if offset is None else line_at(self.info.code, offset)
        return self.filename, line

    def lookup(self, generator: Any, name: str) -> object:
        """What the body has bound *name* to; `UNBOUND` if nothing."""
        shared = self._shared
        return UNBOUND if shared is None else shared.own.get(name, UNBOUND)

    def start(self, value: object) -> Generator[Any, Any, Any]:
        frame, block = self.frame, self.block
        assert frame is not None
        code = block.twin.code
        closure = frames.cells(frame, block.frees) if block.frees else None
        if block.is_optimized:
            values = self._values(frame)
            function = FunctionType(code, frame.f_globals, code.co_name, None, closure)
            generator = function(*values)
        else:
            namespace: Any = frame.f_locals
            if self._given is None:
                self._namespace_before = {
                    name: namespace.get(name, UNBOUND) for name in self.stores
                }
            else:
                namespace = self._names = OwnNames(namespace, self._given)
                self.is_apart = True
            if closure is None:
                generator = eval(code, frame.f_globals, namespace)  # noqa: S307 - caller's own code
            else:
                generator = memory.eval_code_with_closure(code, frame.f_globals, namespace, closure)
        own = generator.gi_frame
        if block.cells:
            frames.share_cells(frame, own, block.cells)
        if block.pushed:
            self._own_frame = own
        if block.shared:
            self._shared = SharedNames(own, self._pending)
        generator.send(None)
        generator.send(value)
        if sys.gettrace() is not None:
            debuggers.follow(frame, own)
        result: Generator[Any, Any, Any] = generator
        return result

    def _values(self, frame: FrameType) -> list[object]:
        names = self.block.arguments
        given = self._given
        values = frames.pull(frame, names) if given is None else [given[name] for name in names]
        self._before = values
        return values

    def finish(self, keeps: Callable[[str, object], bool] | None = None) -> None:
        frame, block, before = self.frame, self.block, self._before
        if frame is None:
            return
        bindings: dict[str, object] = {}
        own_names = self._names
        if own_names is not None:
            for name in own_names.bound:
                value = own_names.get(name, UNBOUND)
                kept = keeps is None or keeps(name, value)
                bindings[name] = value if kept else own_names.before[name]
        elif block.is_optimized:
            own = self._own_frame
            if own is not None and before is not None:
                after = own.f_locals
                for name, at in zip(block.pushed, block.pushed_at, strict=True):
                    value = after.get(name, UNBOUND)
                    if value is not before[at] and (keeps is None or keeps(name, value)):
                        bindings[name] = value
                del after
        elif (there := self._namespace_before) is not None:
            namespace = frame.f_locals
            self.bound = [namespace.get(name) for name in self.stores]
            if STATES:
                now = {name: namespace.get(name, UNBOUND) for name in self.stores}
                report_bound(frame, {k: v for k, v in now.items() if v is not there[k]})
            if keeps is None:
                return
            for name in self.stores:
                value = namespace.get(name, UNBOUND)
                if value is not there[name] and not keeps(name, value):
                    bindings[name] = there[name]
        if bindings:
            frames.push(frame, bindings)
            self.bound = bindings.values()
            if STATES and self._given is None:
                report_bound(frame, bindings)

    def forget(self) -> None:
        """Drop the frames and the values."""
        if self._shared is not None:
            self._shared.forget()
            self._shared = None
        self.info.frame = self.frame = None
        self._given = self._namespace_before = None
        self._before = None
        self._own_frame = None
        self._names = None
        self.bound = ()


class FunctionBody(Body):
    """A function given to `run`: its body is the block, and nothing is captured."""

    def __init__(self, function: Callable[..., Any]) -> None:
        plain: Any = function
        arguments: tuple[object, ...] = ()
        if inspect.ismethod(plain):
            arguments = (plain.__self__,)
            plain = plain.__func__
        if not isinstance(plain, FunctionType):
            message = (
                f"run() takes a function made by `def` or `lambda`, whose bytecode it runs; "
                f"this is a {type(function).__name__!r}"
            )
            raise TypeError(message)
        code = plain.__code__
        if code.co_flags & (
            inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
        ):
            message = f"run() takes a plain function, and {plain.__qualname__} is not one"
            raise TypeError(message)
        self.name = code.co_name
        self.filename = code.co_filename
        self.first_lineno = code.co_firstlineno
        self._function = plain
        self._arguments = arguments

    def start(self, value: object) -> Generator[Any, Any, Any]:
        function = twin_function(self._function)
        assert function is not None  # only coroutines have no twin
        taken = self._function.__code__.co_argcount
        given = (*self._arguments, value)
        varargs = self._function.__code__.co_flags & inspect.CO_VARARGS
        generator: Generator[Any, Any, Any] = function(*(given if varargs else given[:taken]))
        return generator


class Backend:
    """Runs a captured body. Subclass it to do something else with one.

    Example:
        >>> class Printing(Backend):
        ...     def __call__(self, tracer, body):
        ...         print(body.name, body.first_lineno)
        ...         return super().__call__(tracer, body)
    """

    def __call__(self, tracer: Tracer, body: Body) -> object:
        """Run *body*; what it returns is what `run` returns."""
        return tracer.execute(body)


_BACKEND: Final = Backend()


class Tracer:
    """Captures a block of code, or takes a function, and runs it through a backend.

    Equivalent to running the block in place: with no model there is nothing to be in step with.
    Subclasses run it in step with a model.

    Args:
        *args: Kept for the backend, as `args`.
        backend: What runs the body; `Backend()` by default.
        **kwargs: Kept for the backend, as `kwargs`.

    Example:
        >>> with Tracer() as tracer:
        ...     x = 1
        >>> x
        1
    """

    @dataclass(slots=True)
    class Info:
        """What was captured.

        Attributes:
            frame: The frame that executes the `with`; None once the tracer has ended.
            code: The code object that the program was compiled to, not a rewritten copy of it.
            enter_offset: Bytes from the start of `code.co_code`; what entered the `with`.
            frame_offset: The same instruction in the code that the frame really executes.
            is_direct: Whether the frame called our `__enter__` itself, not through a wrapper.
        """

        frame: FrameType | None
        code: CodeType
        enter_offset: int
        frame_offset: int
        is_direct: bool

        @property
        def filename(self) -> str:
            """The file that the block stands in, as its code object says."""
            return self.code.co_filename

        @property
        def lineno(self) -> int:
            """The line of the `with`."""
            return line_at(self.code, self.enter_offset)

    takes_names = True

    def __init__(self, *args: Any, backend: Backend | None = None, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs
        self.backend = _BACKEND if backend is None else backend
        self.info: Tracer.Info | None = None
        self._body: BlockBody | None = None
        self._skip: Skip | None = None
        self._saved: Saved | None = None
        self._state = "new"

    def __repr__(self) -> str:
        words = {"new": "not entered yet", "ended": "ended"}
        return f"<{type(self).__name__}, {words.get(self._state, 'running')}>"

    # -- the block form ---------------------------------------------------------------------

    def __enter__(self) -> Any:
        caller = sys._getframe(1)
        try:
            self._begin()
            info = self.capture(caller)
            block = self.compile()
            frame = info.frame
            assert frame is not None
            if block.first_offset >= 0:
                if not info.is_direct and is_engaged(frame):
                    raise _second_tracer(info)
                if frame.f_code is info.code:
                    self._skip = arm(frame, block.first_offset, info.frame_offset)
                else:
                    self._skip = arm(frame, self._skip_offset(info, block))
            self._body = BlockBody(info, block)
            value = self.value()
            if self._saved is not None:
                # The `as` target belongs to the header.
                self._saved.keep(value)
            if info.is_direct:
                self._run_block(self._body)
            if self._skip is not None:
                self._skip.engage()
        except BaseException as error:
            owner = None if self.info is None else self.info.frame
            if self._state == "entered":
                self._end()
            finish_raising(error, owner)
            del caller, owner
            raise
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        skip = self._skip
        try:
            if skip is None and error is None and self._body is not None:
                # Behind a wrapper, a body with nothing in it: there was nothing to pass over.
                self._run_block(self._body)
                self._end()
                return None
            if skip is None or not skip.exception_is_mine(error):
                if self._is_interrupted(skip, traceback):
                    self._end()
                    return None
                raise self._not_skipped(error)
            info = self.info
            assert info is not None
            if not info.is_direct:
                assert self._body is not None
                assert error is not None
                memory.set_handled_exception(error.__context__)
                self._run_block(self._body)
        except BaseException as failure:
            owner = None if self.info is None else self.info.frame
            self._end()
            finish_raising(failure, owner)
            del owner
            raise
        self._end()
        return True  # type: ignore[return-value]  # None for checkers: see `semantics` of names

    def value(self) -> Any:
        """What the `as` target gets."""
        return self

    def capture(self, frame: FrameType | None = None) -> Info:
        """Find the `with` whose body is to be run. Idempotent.

        Args:
            frame: The frame that called `__enter__`.

        Raises:
            WithBlockNotFoundError: `not-a-with`.
        """
        if self.info is not None:
            return self.info
        caller = sys._getframe(1) if frame is None else frame
        self.info = _find_with(caller)
        return self.info

    def parse(self) -> Cut:
        """Cut the body out of the captured code object.

        Raises:
            LeavesBlockError: `leaves-block`.
        """
        info = self.capture()
        return cut(info.code, info.enter_offset, after_target=not info.is_direct)

    def compile(self) -> Compiled:
        """Give the compiled body: made once per place in the program, and kept with its code."""
        info = self.info or self.capture()
        site = _site(info.code)
        key = (
            info.enter_offset,
            not info.is_direct,
            _NOTHING,
            memory.AVAILABLE and (site.may_debug or debuggers.is_one_there()),
        )
        block = site.blocks.get(key)
        if block is None:
            block = compiled_block(
                info.code, info.enter_offset, after_target=key[1], all_names=key[3]
            )
        return block

    def execute(self, body: Body) -> object:
        """Run *body* to its end. There is no model here, so it can ask for nothing."""
        return driver.run_alone(body, self.value())

    def pull(self) -> dict[str, object]:
        """The caller's local names that the block uses, with their values now."""
        assert self._body is not None
        frame = self._body.frame
        assert frame is not None
        names = self._body.block.arguments
        values = zip(names, frames.pull(frame, names), strict=True)
        return {name: value for name, value in values if value is not UNBOUND}

    def push(self, state: dict[str, object] | None = None) -> None:
        """Bind names in the caller's frame.

        Args:
            state: The names and values; by default what the block has bound.
        """
        assert self._body is not None
        if state is None:
            self._body.finish(self.keeps())
        else:
            frame = self._body.frame
            assert frame is not None
            frames.push(frame, state)

    def keeps(self) -> Callable[[str, object], bool] | None:
        """Which names are bound after the block: None for all of them."""
        return None if self._saved is None else self._saved.keeps

    def keep_only_saved(self) -> None:
        """Bind only those names afterwards whose value was saved in the block."""
        self._saved = Saved()

    def explain(self) -> str:
        """Tell, as text, what was cut, what is rewritten in it, and what is refused.

        Works in the block, after it, and after a refusal. A subclass may add what it knows.

        Returns:
            Several lines.
        """
        info = self.info
        if info is None:
            return f"{type(self).__name__}: no block has been captured"
        return explain(info.code, info.enter_offset, after_target=not info.is_direct)

    # -- the function form ------------------------------------------------------------------

    def run(self, function: Callable[..., Any]) -> Any:
        """Run *function* as the body.

        Equivalent to the block form with the function's body in the block, except that its names
        are its own. No frame is read and nothing is skipped, so it works wherever capturing a
        block is refused.

        Args:
            function: Takes the tracer, or nothing.

        Returns:
            What the function returns.
        """
        visit = None if sys.gettrace() is None else debuggers.Visit()
        try:
            self._begin()
            try:
                return self.backend(self, FunctionBody(function))
            finally:
                self._end()
                if visit is not None or debuggers.STARTED or sys.gettrace() is not None:
                    debuggers.end(visit, sys._getframe(1))
        except BaseException as error:
            finish_raising(error)
            raise

    # -- common -----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not IS_SUPPORTED:
            self._state = "ended"
            raise UnsupportedPythonError(
                f"tracekit does not know the bytecode of Python {VERSION}",
                fix="use CPython 3.11, 3.12 or 3.13",
            )
        if self._state != "new":
            raise AlreadyEnteredError(
                f"this {type(self).__name__} has been entered before",
                why="a tracer is one run of one block",
                fix="make a new one in the `with` line",
            )
        self._state = "entered"
        sweep()

    def _end(self) -> None:
        """Give everything back, whatever happened."""
        self._state = "ended"
        skip = self._skip
        if skip is not None:
            self._skip = None
            skip.disarm()
        body = self._body
        if body is not None:
            self._body = None
            body.forget()
        if self.info is not None:
            self.info.frame = None

    def _skip_offset(self, info: Info, block: Compiled) -> int:
        """Where the frame must stop, in the code that it really executes."""
        frame = info.frame
        assert frame is not None
        twin = ORIGINALS[id(frame.f_code)]
        return twin.offset_of(block.first_offset)

    def _run_block(self, body: BlockBody) -> None:
        visit = None if sys.gettrace() is None else debuggers.Visit()
        try:
            if self._saved is None:
                self.backend(self, body)
            else:
                with noting(self._saved):
                    self.backend(self, body)
        finally:
            body.finish(self.keeps())
            if visit is not None or debuggers.STARTED or sys.gettrace() is not None:
                assert body.frame is not None
                debuggers.end(visit, body.frame)

    def _is_interrupted(self, skip: Skip | None, traceback: TracebackType | None) -> bool:
        """Whether an interrupt came between our `__enter__` and the leaving of the inline copy.

        None of the copy has run then, and the interrupt goes on as if it came after the block.
        """
        info = self.info
        return (
            skip is not None
            and info is not None
            and traceback is not None
            and traceback.tb_frame is info.frame
            and info.frame_offset <= traceback.tb_lasti <= skip.offset
        )

    def _not_skipped(self, error: BaseException | None) -> BaseException:
        info = self.info
        if info is None:
            return WithBlockNotFoundError(
                f"`__exit__` of a {type(self).__name__} was called that has not been entered",
                fix="let a wrapper's `__enter__` call the tracer's, and its `__exit__` the tracer's",
            )
        if info.frame is not None and info.frame.f_lasti == info.frame_offset:
            return WithBlockNotFoundError(
                "`__exit__` was called while the `with` was still being entered",
                where=f"{info.filename}:{info.lineno}, in {info.code.co_qualname}",
                seen="a wrapper's `__enter__`, or compiled code, entered the tracer and left it",
                fix=_FUNCTION_FORM,
            )
        return InternalError(
            "the inline copy of a traced block was executed",
            seen=f"`__exit__` was called with {error!r}",
            why="something took the events away by which the copy is passed over",
        )

    async def __aenter__(self) -> Any:
        self._state = "ended"
        raise AsyncWithError(
            "a tracer was entered with `async with`",
            fix="write `with` instead: nothing here awaits",
        )

    async def __aexit__(self, *_: object) -> None:
        return None

    def __del__(self) -> None:
        if getattr(self, "_state", "ended") == "new":
            warnings.warn(
                f"{type(self).__name__} was made and never entered: nothing ran",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _find_with(caller: FrameType) -> Tracer.Info:
    """The frame that executes the `with`: the caller, or behind delegating `__enter__`s."""
    is_direct = True
    code, offset = caller.f_code, caller.f_lasti
    site = _SITES.get(id(code))
    if site is not None and offset in site.entries and site.code() is code:
        return Tracer.Info(caller, code, offset, offset, is_direct)
    frame: FrameType | None = caller
    while frame is not None:
        code, offset = frame.f_code, frame.f_lasti
        if is_with_entry(code, offset):
            twin = ORIGINALS.get(id(code))
            if twin is None:
                if is_direct:
                    # To look at the bytes of a code object copies all of them.
                    _site(code).entries.add(offset)
                return Tracer.Info(frame, code, offset, offset, is_direct)
            return Tracer.Info(frame, twin.original, twin.offsets[offset], offset, is_direct)
        if code.co_name != "__enter__":
            break
        is_direct = False
        frame = frame.f_back
    seen, why = _who_called(caller)
    while caller.f_globals.get("__name__") in _ENTERING and caller.f_back is not None:
        caller = caller.f_back
    raise WithBlockNotFoundError(
        "`__enter__` was not called by a `with` statement",
        where=f"{caller.f_code.co_filename}:{caller.f_lineno}, in {caller.f_code.co_qualname}",
        seen=seen,
        why=why,
        fix=_FUNCTION_FORM,
    )


# Modules of the standard library that call `__enter__` for others.
_ENTERING: Final = frozenset({"contextlib", "unittest.case", "unittest.async_case"})


def _who_called(caller: FrameType) -> tuple[str, str]:
    """What is to be said of a frame that called `__enter__`, or compiled code that did."""
    code, offset = caller.f_code, caller.f_lasti
    if caller.f_globals.get("__name__") == "contextlib":
        return "it was called by an ExitStack", ""
    twin = ORIGINALS.get(id(code))
    if twin is not None:
        code, offset = twin.original, twin.origin_of(offset) or 0
    expression = expression_at(code, offset)
    if "__enter__(" in expression or "enter" in expression.partition("(")[0]:
        return f"it was called by hand: `{expression}`", ""
    # Compiled functions have no frame: the one that we see called them.
    return (
        f"it was called by compiled code (C, Cython, ...), from `{expression}`",
        "the body of a block is taken out of bytecode, and compiled code has none",
    )


def _second_tracer(info: Tracer.Info) -> WithBlockNotFoundError:
    return WithBlockNotFoundError(
        "the body of this `with` belongs to another tracer already",
        where=f"{info.filename}:{info.lineno}, in {info.code.co_qualname}",
        seen="a wrapper's `__enter__` entered two tracers",
        why="a body runs once",
        fix="write both into the `with` line, `with first, second:`",
    )
