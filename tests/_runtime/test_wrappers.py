"""Tracers that are not entered by the `with` itself: wrappers, stacks, subclasses, by hand."""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
import warnings

import pytest

from tracekit._runtime.tracer import Backend, Tracer
from tracekit.errors import (
    AlreadyEnteredError,
    AsyncWithError,
    ExitTracingException,
    LeavesBlockError,
    WithBlockNotFoundError,
)

pytestmark = pytest.mark.usefixtures("no_residue")


class Wrapper:
    """Delegates, as a user would write it."""

    def __init__(self, tracer=None):
        self.tracer = Tracer() if tracer is None else tracer
        self.seen = None

    def __enter__(self):
        self.tracer.__enter__()
        return "wrapped"

    def __exit__(self, *error):
        self.seen = error
        return self.tracer.__exit__(*error)


def test_a_delegating_wrapper_gives_its_own_value():
    def f():
        before = 1
        with Wrapper() as value:
            x = value + "!"
            before += 1
        return value, x, before

    assert ("wrapped", "wrapped!", 2) == f()


def test_a_delegating_wrapper_sees_the_skip_signal():
    wrapper = Wrapper()
    with wrapper:
        x = 1

    assert x == 1
    assert wrapper.seen[0] is ExitTracingException


def test_a_wrapper_of_a_wrapper():
    def f():
        with Wrapper(Wrapper(Tracer())) as value:
            x = [value for _ in range(2)]
        return x

    assert ["wrapped", "wrapped"] == f()


def test_behind_a_wrapper_the_handled_exception_is_that_of_the_place():
    def f():
        with Wrapper():
            nothing = sys.exception()
        try:
            raise KeyError(1)
        except KeyError as error:
            with Wrapper():
                same = sys.exception() is error
                try:
                    raise ValueError(2)
                except ValueError as inner:
                    context = inner.__context__ is error
            after = sys.exception() is error
        return nothing, same, context, after

    assert (None, True, True, True) == f()


def test_behind_a_wrapper_a_bare_raise_raises_what_is_handled():
    def f():
        try:
            raise KeyError("outer")
        except KeyError:
            with Wrapper():
                x = 1
                raise

    with pytest.raises(KeyError, match="outer") as caught:
        f()

    assert caught.value.__context__ is None


def test_behind_a_wrapper_an_error_comes_from_its_line():
    def f():
        with Wrapper():
            x = 1
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") as caught:
        f()

    line = f.__code__.co_firstlineno + 3
    entries = []
    entry = caught.value.__traceback__
    while entry is not None:
        entries.append((entry.tb_frame.f_code.co_name, entry.tb_lineno))
        entry = entry.tb_next
    assert ("f", line) in entries
    assert caught.value.__context__ is None


def test_a_wrapper_with_targets_of_all_kinds():
    class Box:
        pass

    box, items = Box(), {}
    with Wrapper() as box.value:
        x = box.value
    with Wrapper() as items["k"]:
        y = items["k"]
    with Wrapper() as (a, *b):
        z = a, b

    assert ("wrapped", "wrapped", ("w", list("rapped"))) == (x, y, z)


def test_a_subclass_that_calls_super():
    events = []

    class Mine(Tracer):
        def __enter__(self):
            events.append("enter")
            value = super().__enter__()
            events.append("entered")
            return value

        def __exit__(self, *error):
            events.append("exit")
            return super().__exit__(*error)

    def f():
        with Mine() as tracer:
            events.append("body")
            x = type(tracer).__name__
        return x

    assert f() == "Mine"
    assert ["enter", "entered", "exit", "body"] == events


def test_a_subclass_with_a_value():
    class Mine(Tracer):
        def value(self):
            return self, 5

    with Mine() as (tracer, five):
        x = five

    assert (Mine, 5) == (type(tracer), x)


def test_a_backend_runs_the_body():
    class Twice(Backend):
        def __call__(self, tracer, body):
            seen.append((body.name, sorted(body.stores)))
            return super().__call__(tracer, body)

    seen = []

    def f():
        with Tracer(backend=Twice()) as tracer:
            x = 1
        return x

    assert f() == 1
    assert [("f", ["tracer", "x"])] == seen


def test_a_backend_that_does_not_run_it():
    class Never(Backend):
        def __call__(self, tracer, body):
            return None

    def f():
        x = 0
        with Tracer(backend=Never()):
            x = 1
        return x

    assert f() == 0


def test_an_exit_stack_is_refused_with_the_function_form():
    ran = []
    with pytest.raises(WithBlockNotFoundError) as caught, contextlib.ExitStack() as stack:
        stack.enter_context(Tracer())
        ran.append(1)

    assert [] == ran
    assert "ExitStack" in str(caught.value)
    assert ".run(fn)" in str(caught.value)
    assert f"{__file__}:" in str(caught.value), "the line that is the user's own"


def test_entered_by_hand_is_refused():
    with pytest.raises(WithBlockNotFoundError) as caught:
        Tracer().__enter__()

    assert "it was called by hand: `Tracer().__enter__()`" in str(caught.value)


@pytest.mark.parametrize(
    "enter",
    [
        lambda tracer: list(map(Tracer.__enter__, [tracer])),
        lambda tracer: sorted([tracer], key=Tracer.__enter__),
        lambda tracer: functools.reduce(lambda _, one: one.__enter__(), [tracer], None),
    ],
    ids=["map", "key", "reduce"],
)
def test_entered_by_c_code_is_refused(enter):
    """As by a compiled module: there is no `with` whose frame could be read."""
    with pytest.raises(WithBlockNotFoundError) as caught:
        enter(Tracer())

    assert ".run(fn)" in str(caught.value)


def test_code_that_is_compiled_is_named_by_the_call_of_it():
    """A function without a frame of its own stands for one made by Cython."""
    opens = operator.methodcaller("__enter__")
    with pytest.raises(WithBlockNotFoundError) as caught:
        opens(Tracer())

    assert "compiled code (C, Cython, ...), from `opens(Tracer())`" in str(caught.value)


class Delegating:
    def __init__(self, *tracers):
        self.tracers = tracers

    def __enter__(self):
        for tracer in self.tracers:
            value = tracer.__enter__()
        return value

    def __exit__(self, *error):
        handled = False
        for tracer in reversed(self.tracers):
            handled = tracer.__exit__(*error) or handled
        return handled


def test_two_tracers_for_one_body_are_refused():
    ran = []
    with pytest.raises(WithBlockNotFoundError, match="belongs to another tracer"):
        with Delegating(Tracer(), Tracer()):
            ran.append(1)

    assert [] == ran
    with Delegating(Tracer()):
        ran.append(2)
    assert [2] == ran


def test_a_wrapper_that_leaves_while_it_enters_is_refused():
    class Closes(Delegating):
        def __enter__(self):
            value = super().__enter__()
            super().__exit__(None, None, None)
            return value

    ran = []
    with pytest.raises(WithBlockNotFoundError, match="still being entered"):
        with Closes(Tracer()):
            ran.append(1)

    assert [] == ran


def test_a_wrapper_that_only_leaves_is_refused():
    class Leaves(Delegating):
        def __enter__(self):
            return self

    with pytest.raises(WithBlockNotFoundError, match="has not been entered"):
        with Leaves(Tracer()):
            pass


def test_a_wrapper_that_only_enters_says_so():
    class Enters(Delegating):
        def __exit__(self, *error):
            return None

    ran = []
    with pytest.raises(ExitTracingException, match="has not called the tracer's `__exit__`"):
        with Enters(Tracer()):
            ran.append(1)

    assert [] == ran


def test_held_open_by_a_generator_function_is_refused():
    @contextlib.contextmanager
    def tracing():
        with Tracer() as tracer:
            yield tracer

    with pytest.raises(LeavesBlockError, match="yield") as caught, tracing():
        raise AssertionError("ran")

    assert ".run(" in str(caught.value)


def test_async_with_is_refused():
    async def f():
        async with Tracer():
            raise AssertionError("ran")

    with pytest.raises(AsyncWithError):
        f().send(None)


def test_a_tracer_is_entered_once():
    tracer = Tracer()
    with tracer:
        x = 1
    with pytest.raises(AlreadyEnteredError), tracer:
        x = 2

    assert x == 1


def test_a_tracer_that_is_never_entered_says_so():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Tracer()

    assert [ResourceWarning] == [warning.category for warning in caught]


def test_a_refused_block_has_run_nothing_and_can_be_left():
    ran = []

    def f():
        for i in range(2):
            with Tracer():
                ran.append(i)
                if i:
                    break
                ran.append(-1)

    with pytest.raises(LeavesBlockError):
        f()

    assert [] == ran


def test_a_body_with_nothing_in_it_behind_a_wrapper() -> None:
    """After the `as` target no instruction is left that could raise: nothing is passed over."""
    ran = []

    class Noting(Tracer):
        def execute(self, body):
            ran.append(body.first_lineno)
            return super().execute(body)

    class Wrapper:
        def __enter__(self):
            self.tracer = Noting()
            self.tracer.__enter__()
            return 1

        def __exit__(self, *error):
            return self.tracer.__exit__(*error)

    with Wrapper() as one:
        pass
    with Wrapper():
        pass
    with Wrapper() as two:
        pass
        three = two + 2

    assert (1, 3) == (one, three)
    assert 3 == len(ran)
