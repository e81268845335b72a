"""What a body and its driver say to each other.

A body is a generator. What it yields is a *request*; what is sent back is an *answer*: the value
asked for, or `Raised(error)`. Errors travel as answers and are raised by the code that asked, so
the interpreter itself builds the traceback at the user's line. Nothing here knows how a body came
to be a generator, nor what serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import CodeType
from typing import Any, Final


class Raised:
    """An answer that is an error: whoever asked raises it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Raised({self.error!r})"


class Item:
    """What the twin of a user's generator yields for a plain `yield`; all else is a request."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Item({self.value!r})"


class Abort(BaseException):
    """Unwinds a suspended body: its `finally` blocks run. Never reaches a user.

    Not an `Exception`, so that a body's `except Exception` does not swallow it.
    """


class Carrier(BaseException):
    """Carries a user's `StopIteration` through generators.

    A `StopIteration` that leaves a generator means "it returned"; 3.11 turns it into a
    `RuntimeError` in C. So it travels in this, and every handler unwraps it.
    """

    def __init__(self, error: StopIteration) -> None:
        super().__init__()
        self.error = error


class _Sentinel:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


END: Final = _Sentinel("END")
"""What a step of a virtual iterator returns when the iterator is exhausted."""

UNBOUND: Final = _Sentinel("UNBOUND")
"""Stands for the value of a name that has none."""


class AwaitName:
    """The value of a name that an earlier block may bind, once no store to it is left there.

    The answer is the value, or `UNBOUND` if no earlier block has bound the name.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"AwaitName({self.name!r})"


def ask(request: object) -> Generator[Any, Any, Any]:
    """Ask the driver for something.

    Equivalent to `yield request`, except that an answer `Raised(error)` is raised here.

    Args:
        request: Any object that the driver of this body understands.

    Returns:
        The answer.
    """
    answer = yield request
    if type(answer) is Raised:
        error_from_the_run = answer.error
        try:
            if isinstance(error_from_the_run, StopIteration):
                raise Carrier(error_from_the_run)
            raise error_from_the_run
        finally:
            # The frame is in the error's traceback: do not let it hold the error.
            del error_from_the_run, answer
    return answer


class Suspending:
    """Base class of descriptors whose access may suspend the body that makes it.

    Rewritten code drives `ask_get`/`ask_set`; all other code gets what `__get__`/`__set__` do.
    """

    __slots__ = ()

    def ask_get(self, obj: Any) -> Generator[Any, Any, Any]:
        """Generator function; its return value is the attribute's value."""
        raise NotImplementedError

    def ask_set(self, obj: Any, value: Any) -> Generator[Any, Any, Any]:
        """Generator function; done when the write has been made."""
        raise NotImplementedError


HAND_WRITTEN: Final[dict[int, tuple[CodeType, Callable[..., Generator[Any, Any, Any]]]]] = {}
"""id of a function's code -> (that code, kept alive; the generator function driven instead)."""


def suspending(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a hand-written twin of the Python function *plain*.

    Used as `@suspending(plain)` on a generator function with the same parameters. A call of
    *plain* from rewritten code, also as a bound method, drives the generator function instead.

    Args:
        plain: A Python function; what code that was not rewritten executes.

    Returns:
        The decorator, which returns the generator function itself.
    """
    code: CodeType = plain.__code__

    def register(twin: Callable[..., Any]) -> Callable[..., Any]:
        HAND_WRITTEN[id(code)] = (code, twin)
        return twin

    return register
