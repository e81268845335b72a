"""Iterators that hand out items and suspend.

A user's generator function called from rewritten code gives a `VirtualGenerator`. To the user it
is a generator (`__class__` says so). Rewritten code steps it: `step()` is a generator that is
driven like any other, and returns the next item or `END`. C code and code that was not rewritten
use `__next__`, `send`, `throw` and `close`; then there is nobody above to hand a request to, so
the request is answered with an error, which is raised at the request's own line in the user's
generator. Without this wrapper, `list(gen)` in C would be full of request objects.

`send`, `throw`, `close` and `__next__` called from rewritten code have hand-written twins, so
generators that are driven by hand suspend, too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import CodeType, FrameType, FunctionType, GeneratorType
from typing import Any, Final

from .._protocol import END, Carrier, Item, Raised, suspending
from ..errors import CannotSuspendError
from .refusals import stepped
from .twins import ORIGINALS

Driven = Generator[Any, Any, Any]


def done(value: object) -> Driven:
    """A generator that returns *value* without suspending."""
    return value
    yield


def carry(error: BaseException) -> BaseException:
    """Give what an error leaves a generator as: a `StopIteration` leaves it in a carrier."""
    if isinstance(error, StopIteration):
        return Carrier(error).with_traceback(error.__traceback__)
    return error


def carry_generator(error: BaseException) -> BaseException:
    """The same for a user's generator function, which must not let a `StopIteration` out."""
    if type(error) is Carrier:
        error = unwrap(error)
    if not isinstance(error, StopIteration):
        return error
    made = RuntimeError("generator raised StopIteration")
    made.__cause__ = error
    made.__context__ = error
    return made


def unwrap(error: BaseException) -> BaseException:
    """Give a handler of the user the error it would see inline.

    Equivalent to *error*, except that a carried `StopIteration` is taken out, and that frames of
    this package are cut out of the traceback.
    """
    traceback = error.__traceback__
    if type(error) is Carrier:
        error = error.error
        error.__traceback__ = traceback
    while traceback is not None and _is_ours(traceback.tb_frame):
        traceback = traceback.tb_next
        error.__traceback__ = traceback
    while traceback is not None:
        further = traceback.tb_next
        while further is not None and _is_ours(further.tb_frame):
            further = further.tb_next
            traceback.tb_next = further
        traceback = further
    return error


_PRIVATE: Final = __name__.partition(".")[0] + "._"


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return type(name) is str and name.startswith(_PRIVATE)


def raised_in_c(driven: Driven) -> Any:
    """Drive *driven* where nobody can serve its requests: each is refused at its own line.

    Returns:
        What it returns.

    Raises:
        CannotSuspendError: `cannot-suspend`. It asked, and did not handle the refusal.
    """
    answer: object = None
    try:
        while True:
            try:
                driven.send(answer)
            except StopIteration as stop:
                return stop.value
            except Carrier as carrier:
                error = unwrap(carrier)
                break
            answer = Raised(refusal(driven))
    finally:
        del answer
    try:
        raise error
    finally:
        del error


def refusal(driven: Driven) -> CannotSuspendError:
    """The error for a request that C code, or code that was not rewritten, stands above of.

    Args:
        driven: The suspended generator, from which the asking code is found.
    """
    first, code, lineno = _asking(driven)
    seen, fix = stepped(first.co_qualname)
    return CannotSuspendError(
        f"a model value is asked for in `{code.co_qualname}`, which cannot wait for the model",
        where=f"{code.co_filename}:{lineno}",
        seen=seen,
        why="a block waits as a generator, through the Python frames of the block and of the "
        "functions that it calls",
        fix=fix,
    )


def _asking(driven: Any) -> tuple[CodeType, CodeType, int]:
    """The outermost and innermost code of a user in a suspended generator, and its line there."""
    first: CodeType | None = None
    code, lineno = driven.gi_code, driven.gi_frame.f_lineno if driven.gi_frame else 0
    while isinstance(driven, GeneratorType) and driven.gi_frame is not None:
        twin = ORIGINALS.get(id(driven.gi_code))
        frame = driven.gi_frame
        if twin is not None:
            code, lineno = twin.original, frame.f_lineno
            first = first or code
        below = driven.gi_yieldfrom
        if below is None and driven.gi_code is _ADVANCE:
            below = frame.f_locals["inner"]
        if below is None:
            break
        driven = below
    return first or code, code, lineno


def _advance(owner: _Resumable, inner: Any, answer: object) -> Driven:
    """Send *answer* to the user's generator and drive it to its next item, or its end."""
    if owner.is_asking or inner.gi_running:
        raise ValueError("generator already executing")
    owner.is_asking = True
    try:
        answer = inner.send(answer)
        while type(answer) is not Item:
            answer = inner.send((yield answer))
        return answer.value
    except StopIteration as stop:
        owner.returned = stop.value
        return END
    finally:
        owner.is_asking = False
        # This frame is in the traceback of an error that was sent: do not let it hold the error.
        del answer


_ADVANCE: Final = _advance.__code__


def _end(owner: _Resumable) -> Carrier:
    value, owner.returned = owner.returned, None
    return Carrier(StopIteration() if value is None else StopIteration(value))


class VirtualIterator:
    """Base of all iterators that suspend.

    Subclasses say in `step()` how rewritten code gets the next item, and stand in
    `VIRTUAL_ITERATORS`.
    """

    __slots__ = ()

    def step(self) -> Driven:
        """Generator: the next item, or `END`."""
        raise NotImplementedError

    def __iter__(self) -> VirtualIterator:
        return self

    def __next__(self) -> Any:
        item = raised_in_c(self.step())
        if item is END:
            raise StopIteration
        return item


class ObjectIterator(VirtualIterator):
    """What a `for` of rewritten code loops over when an object's `__next__` may suspend.

    Args:
        target: The user's iterator.
        following: Calls its `__next__`: no arguments, returns a generator to drive.
    """

    __slots__ = ("following", "target")

    def __init__(self, target: object, following: Callable[[], Driven]) -> None:
        self.target = target
        self.following = following

    def step(self) -> Driven:
        try:
            return (yield from self.following())
        except Carrier:
            return END


class _Resumable(VirtualIterator):
    """An iterator over the items of a generator that also yields requests."""

    __slots__ = ("__weakref__", "inner", "is_asking", "kind", "returned")

    def __init__(self, inner: Driven, kind: type) -> None:
        self.inner: Any = inner
        self.kind = kind
        self.is_asking = False
        self.returned: object = None

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self.kind

    def step(self) -> Driven:
        return _advance(self, self.inner, None)

    def __next__(self) -> Any:
        return raised_in_c(_next(self))


class VirtualGenerator(_Resumable):
    """A generator of the user's, called from rewritten code.

    Equivalent to the generator that the function would have returned, except that
    `type(g)` is this class (`isinstance` is as inline), and that a request made while C code
    steps it is refused.

    Args:
        inner: The generator made by the twin; yields `Item`s and requests.
        name: `__name__` of the function.
        qualname: `__qualname__` of the function.
    """

    __slots__ = ("__name__", "__qualname__")

    def __init__(self, inner: Driven, name: str, qualname: str) -> None:
        super().__init__(inner, GeneratorType)
        self.__name__ = name
        self.__qualname__ = qualname

    def __repr__(self) -> str:
        return f"<generator object {self.__qualname__} at {id(self):#x}>"

    def send(self, value: object, /) -> Any:
        """As a generator's."""
        return raised_in_c(_send(self, value))

    def throw(self, kind: Any, value: object = None, traceback: object = None, /) -> Any:
        """As a generator's."""
        return raised_in_c(_throw(self, kind, value, traceback))

    def close(self) -> Any:
        """As a generator's."""
        return raised_in_c(_close(self))

    def __del__(self) -> None:
        # As the interpreter does it for a generator: `finally` blocks run. Here a request in
        # one of them would be handed to nobody, so the closing is ours to do.
        inner = getattr(self, "inner", None)  # None: interrupted while it was made
        if inner is not None and inner.gi_suspended:
            self.close()

    @property
    def gi_code(self) -> CodeType:
        """The code the user wrote."""
        twin = ORIGINALS.get(id(self.inner.gi_code))
        code: CodeType = self.inner.gi_code if twin is None else twin.original
        return code

    @property
    def gi_frame(self) -> FrameType | None:
        """The frame the generator runs in, with the names and lines of the user's code."""
        frame: FrameType | None = self.inner.gi_frame
        return frame

    @property
    def gi_running(self) -> bool:
        """Whether it runs, or waits for a model value."""
        return bool(self.is_asking or self.inner.gi_running)

    @property
    def gi_suspended(self) -> bool:
        """Whether it stands at a `yield`."""
        return bool(self.inner.gi_suspended) and not self.is_asking

    @property
    def gi_yieldfrom(self) -> object:
        """What it delegates to."""
        return self.inner.gi_yieldfrom


# C's messages name the class of an object that they refuse.
VirtualGenerator.__name__ = VirtualGenerator.__qualname__ = GeneratorType.__name__

# The twins of the methods above: what rewritten code drives instead.


@suspending(_Resumable.__next__)
def _next(self: _Resumable) -> Driven:
    item = yield from _advance(self, self.inner, None)
    if item is END:
        raise _end(self)
    return item


@suspending(VirtualGenerator.send)
def _send(self: VirtualGenerator, value: object, /) -> Driven:
    if value is not None and not self.inner.gi_suspended and self.inner.gi_frame is not None:
        raise TypeError("can't send non-None value to a just-started generator")
    item = yield from _advance(self, self.inner, value)
    if item is END:
        raise _end(self)
    return item


def _as_error(kind: Any, value: Any, traceback: Any) -> BaseException:
    """The error that `throw(kind, value, traceback)` raises."""
    if isinstance(kind, BaseException):
        if value is not None:
            raise TypeError("instance exception may not have a separate value")
        error = kind
    elif isinstance(kind, type) and issubclass(kind, BaseException):
        if isinstance(value, kind):
            error = value
        elif value is None:
            error = kind()
        elif isinstance(value, tuple):
            error = kind(*value)
        else:
            error = kind(value)
    else:
        message = (
            "exceptions must be classes or instances deriving from BaseException, "
            f"not {type(kind).__name__}"
        )
        raise TypeError(message)
    return error if traceback is None else error.with_traceback(traceback)


@suspending(VirtualGenerator.throw)
def _throw(
    self: VirtualGenerator, kind: Any, value: object = None, traceback: object = None, /
) -> Driven:
    error = _as_error(kind, value, traceback)
    if not self.inner.gi_suspended:
        if self.inner.gi_running:
            raise ValueError("generator already executing")
        # Not started, or exhausted: the interpreter's own way, nothing can be asked for.
        try:
            self.inner.throw(error)
        except StopIteration as stop:
            carrier = carry(stop)
        raise carrier
    item = yield from _advance(self, self.inner, Raised(error))
    if item is END:
        raise _end(self)
    return item


@suspending(VirtualGenerator.close)
def _close(self: VirtualGenerator) -> Driven:
    if not self.inner.gi_suspended:
        self.inner.close()
        return None
    try:
        item = yield from _advance(self, self.inner, Raised(GeneratorExit()))
    except GeneratorExit:
        return None
    if item is not END:
        raise RuntimeError("generator ignored GeneratorExit")
    value, self.returned = self.returned, None
    return value if CLOSE_RETURNS_THE_VALUE else None


def _probe_close() -> bool:
    def returns() -> Generator[None, None, int]:
        try:
            yield
        except GeneratorExit:
            pass
        return 1

    generator = returns()
    next(generator)
    close: Callable[[], object] = generator.close
    return close() == 1


CLOSE_RETURNS_THE_VALUE: Final = _probe_close()
"""Whether `generator.close()` returns what the generator returned (3.13) or None."""


class LazyIterator(_Resumable):
    """A `map`, `zip`, `filter` ... over something that suspends; `__class__` says what it is.

    Args:
        inner: Yields `Item`s and requests.
        kind: What `__class__` says.
        sized: The object whose length tells how many items are left at most, as far as C asks.
    """

    __slots__ = ("sized",)

    def __init__(self, inner: Driven, kind: type, sized: object = None) -> None:
        super().__init__(inner, kind)
        self.sized = sized

    def __repr__(self) -> str:
        name = self.kind.__qualname__
        if self.kind.__module__ != "builtins":
            name = f"{self.kind.__module__}.{name}"
        return f"<{name} object at {id(self):#x}>"

    def step(self) -> Driven:
        # A StopIteration of a callback ends a `map`, unlike a generator.
        try:
            return (yield from _advance(self, self.inner, None))
        except Carrier:
            return END


VIRTUAL_ITERATORS: Final = frozenset({ObjectIterator, VirtualGenerator, LazyIterator})
"""The exact types that a `for` of rewritten code steps instead of calling `__next__`."""


def is_virtual(kind: type) -> bool:
    """Equivalent to `kind in VIRTUAL_ITERATORS`, for classes that cannot be hashed, too."""
    return kind is VirtualGenerator or kind is ObjectIterator or kind is LazyIterator


def wrapper_of(function: FunctionType, twin: Callable[..., Driven]) -> Callable[..., Driven]:
    """What `resolve` answers for a generator function: a call that returns the wrapper."""

    def generator_call(*args: Any, **kwargs: Any) -> Driven:
        inner = twin(*args, **kwargs)
        return done(VirtualGenerator(inner, function.__name__, function.__qualname__))

    return generator_call
