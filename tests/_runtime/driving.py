"""A hand-made driver for twins, and a model that answers inline and through requests alike.

`want(x)` is the one function that asks. Called from code that is not rewritten, inline, it gives
`x` and notes it; called from rewritten code it yields a request, which `traced` answers with the
same. So one program run both ways must give the same values, log and errors.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from tracekit._protocol import Carrier, Raised, Suspending, ask, suspending
from tracekit._runtime import guards
from tracekit._runtime.items import unwrap
from tracekit._runtime.resolve import call


class Refused(Exception):
    """What `want` raises in a traced run when code that was not rewritten calls it."""


@dataclass
class Request:
    value: object


@dataclass
class State:
    inline: bool = True
    log: list = field(default_factory=list)


STATE = State()


class Wrong(Exception):
    """What the model raises when it is asked for `Wrong`."""


def want(value):
    if not STATE.inline:
        raise Refused(value)
    STATE.log.append(("want", value))
    if value == "wrong":
        raise Wrong(value)
    return value


@suspending(want)
def _want(value):
    return (yield from ask(Request(value)))


def note(value):
    STATE.log.append(("note", value))
    return value


class Port(Suspending):
    """A descriptor that asks, as `module.output` does."""

    def __init__(self, value):
        self.value = value

    def __get__(self, obj, owner=None):
        return self if obj is None else want(self.value)

    def __set__(self, obj, value):
        want(("set", value))

    def ask_get(self, obj):
        return ask(Request(self.value))

    def ask_set(self, obj, value):
        return ask(Request(("set", value)))


@dataclass
class Outcome:
    value: object
    error: str
    lines: list
    log: list
    requests: int = 0

    def same(self, other: Outcome) -> tuple:
        return (self.value, self.error, self.lines, self.log), (
            other.value,
            other.error,
            other.lines,
            other.log,
        )


def _lines(error, filename):
    return [
        (frame.name, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == filename
    ]


def _chain(error):
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " <- ".join(parts)


def inline(function, *args):
    """Run *function* as it stands."""
    STATE.inline, STATE.log = True, []
    value = error = None
    try:
        value = function(*args)
    except Exception as caught:
        error = caught
    return _outcome(function, value, error)


def _outcome(function, value, error, requests=0):
    filename = function.__code__.co_filename
    text = "" if error is None else _chain(error)
    lines = [] if error is None else _lines(error, filename)
    return Outcome(value, text, lines, STATE.log, requests)


def traced(function, *args):
    """Run the twin of *function*; every request is answered by the model."""
    STATE.inline, STATE.log = False, []
    value, error, requests, answer = None, None, 0, None
    driven = call(function, *args)
    try:
        while True:
            request = driven.send(answer)
            assert type(request) is Request, f"leaked: {request!r}"
            requests += 1
            assert requests < 10_000, "the twin asks for ever"
            STATE.log.append(("want", request.value))
            answer = Raised(Wrong("wrong")) if request.value == "wrong" else request.value
    except StopIteration as stop:
        value = stop.value
    except Carrier as carrier:
        error = unwrap(carrier)
    except Exception as caught:
        error = unwrap(caught)
    finally:
        STATE.inline = True
    guards.forget()
    return _outcome(function, value, error, requests)


ITEMS = """
import bisect, collections, fractions, functools, math, operator

def items(*xs):
    for x in xs or range(6):
        log("take", x)
        yield ask(x)

def endless():
    n = 0
    while True:
        yield ask(n)
        n += 1

def failing():
    yield ask(5)
    yield ask(0)
    raise KeyError(ask("failed"))

def attempt(f):
    try:
        log(f())
    except Exception as error:
        log(type(error).__name__, str(error))
"""
"""What programs of stand-ins begin with; each is run traced and inline."""
