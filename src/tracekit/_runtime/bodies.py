"""What a tracer runs: the body of a `with`, or a function.

A body starts with the names of its place as they are at that moment, and puts back what it has
bound.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

from .._bytecode.cut import line_at
from .._protocol import UNBOUND
from . import debuggers, frames, memory
from .namespaces import OwnNames
from .shared import STATES, SharedNames, report_bound
from .sites import NOTHING, Compiled, compiled_block, store_map
from .twins import twin_function


@dataclass(slots=True)
class Captured:
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

    def __init__(self, info: Captured, block: Compiled) -> None:
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
        self._pending = NOTHING
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
                for name, at in block.pushes:
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
        if self.info is not None:
            self.info.frame = None
        self.frame = None
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
