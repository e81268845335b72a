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

import sys
import warnings
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, TracebackType
from typing import Any, ClassVar, Final, TypeAlias

from .._bytecode.cut import Cut, cut, is_with_entry
from .._bytecode.facts import IS_SUPPORTED, VERSION
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
from .bodies import BlockBody, Body, Captured, FunctionBody
from .explain import explain
from .saving import Saved, noting
from .sites import NOTHING, SITES, Compiled, compiled_block, site_of
from .skip import arm, is_engaged
from .tracebacks import finish_raising, sweep
from .tracedskip import Skip
from .twins import ORIGINALS

_FUNCTION_FORM: Final = (
    "put the body in a Python function `fn` and write `model.trace(...).run(fn)`"
)


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


BACKEND: Final = Backend()


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

    Info: TypeAlias = Captured

    takes_names = True
    _place: tuple[CodeType, int] | None = None
    """Where the straight way has found the block: what `info` is made of when it is asked for."""
    straight: ClassVar[Any] = None
    """A function of tracer, frame and block that does what `__enter__` does for plain blocks, but
    for the engaging of the skip, if nothing stands against it; gives whether it has."""

    def __init__(self, *args: Any, backend: Backend | None = None, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs
        self.backend = BACKEND if backend is None else backend
        self._info: Tracer.Info | None = None
        self._body: BlockBody | None = None
        self._skip: Skip | None = None
        self._saved: Saved | None = None
        self._state = "new"

    @property
    def info(self) -> Info | None:
        """What was captured; None before that."""
        if self._info is None and self._place is not None:
            code, offset = self._place
            frame = None if self._skip is None else self._skip.frame
            self._info = self.Info(frame, code, offset, offset, is_direct=True)
        return self._info

    def __repr__(self) -> str:
        words = {"new": "not entered yet", "ended": "ended"}
        return f"<{type(self).__name__}, {words.get(self._state, 'running')}>"

    # -- the block form ---------------------------------------------------------------------

    def __enter__(self) -> Any:
        caller = sys._getframe(1)
        value: Any = self
        try:
            straight = self.straight
            site = None if straight is None else SITES.get(id(caller.f_code))
            block = None if site is None else site.plain.get(caller.f_lasti)
            if block is None or site is None or site.code() is not caller.f_code:
                value = self._enter(caller)
            elif not straight(self, caller, block):
                value = self._enter(caller, straight_too=False)
            skip = self._skip
            if skip is not None:
                # At last: on 3.11 all that runs while the frame is traced takes longer.
                skip.engage()
        except BaseException as error:
            # Here, in the outermost of our frames: see `finish_raising`.
            info = self._info
            owner = None if info is None else info.frame
            if self._place is not None:
                owner = caller
            if self._state == "entered":
                self._end()
            finish_raising(error, owner)
            del caller, owner
            raise
        return value

    def _enter(self, caller: FrameType, *, straight_too: bool = True) -> Any:
        self._begin()
        info = self.capture(caller)
        block = self.compile()
        frame = info.frame
        assert frame is not None
        if straight_too and self.straight is not None and info.is_direct:
            # The block has just been compiled.
            is_plain = site_of(info.code).plain.get(info.frame_offset) is block
            if is_plain and self.straight(self, caller, block):
                return self
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
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        skip = self._skip
        if self._body is None and skip is not None and skip.exception_is_mine(error):
            # Nothing is left to do after the straight way.
            self._state = "ended"
            self._skip = None
            skip.disarm()
            if self._info is not None:
                self._info.frame = None
            return True  # type: ignore[return-value]  # None for checkers, as below
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
        info = self.info
        if info is None:
            info = self._info = _find_with(sys._getframe(1) if frame is None else frame)
        return info

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
        site = site_of(info.code)
        key = (
            info.enter_offset,
            not info.is_direct,
            NOTHING,
            memory.AVAILABLE and (site.may_debug or debuggers.is_one_there()),
        )
        block = site.blocks.get(key)
        if block is None:
            block = compiled_block(
                info.code, info.enter_offset, after_target=key[1], all_names=key[3]
            )
            frame = info.frame
            if (
                info.is_direct
                and frame is not None
                and frame.f_code is info.code
                and block.first_offset >= 0
                and memory.AVAILABLE
                and not site.may_debug
                and not block.all_names
            ):
                site.plain[info.enter_offset] = block
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

    def _note_bound(self, values: Iterable[object]) -> None:
        """The block has bound its names to *values*; a subclass may keep count."""

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
            self._note_bound(body.bound)
            body.forget()
        if self._info is not None:
            self._info.frame = None

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
    site = SITES.get(id(code))
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
                    site_of(code).entries.add(offset)
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
