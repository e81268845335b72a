"""An error of a block shows what it would have shown inline."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
import types
from types import SimpleNamespace

import pytest

from tracekit._bytecode.facts import HAS_MONITORING
from tracekit._runtime import skip, tracebacks
from tracekit._runtime.twins import ORIGINALS
from tracekit.errors import InternalError, OutOfOrderError

needs_monitoring = pytest.mark.skipif(not HAS_MONITORING, reason="no sys.monitoring")

# The same text twice: with the block, and with an `if` in its place, whose body stands at the
# same lines and columns. The second is what a twin is: other code, same positions.
TEXT = """\
def caller(block, run):
    value = [1, 2, 3]
    {with_} block:
        other = value; result = (value
                  + run(value))
    return result


def helper(value):
    return value[0] / (value[1]
                       - 2)
"""
FILE = "/nowhere/program.py"


def build():
    original, copy = {}, {}
    exec(compile(TEXT.replace("{with_}", "with"), FILE, "exec"), original)
    exec(compile(TEXT.replace("{with_}", "if  "), FILE, "exec"), copy)
    return original["caller"], copy["caller"], original["helper"]


# Code of tracekit's between the block and its caller. Its file name is what makes it ours.
OURS = """\
import sys
from tracekit._runtime import tracebacks

class Enters:
    def __init__(self, twin, *arguments):
        self.work = lambda: twin(*arguments)
    def __enter__(self):
        try:
            drive(self.work)
        except BaseException as error:
            tracebacks.finish_raising(error)
            raise
        return self
    def __exit__(self, kind, error, traceback):
        return None

class Leaves(Enters):
    def __enter__(self):
        return self
    def __exit__(self, kind, error, traceback):
        try:
            drive(self.work)
        except BaseException as error:
            tracebacks.finish_raising(error)
            raise

def drive(work):
    return work()

def fail(error):
    raise error
"""


@pytest.fixture
def ours():
    namespace = {}
    exec(compile(OURS, tracebacks._PACKAGE + "stand_in.py", "exec"), namespace)
    return SimpleNamespace(**namespace)


@pytest.fixture
def program():
    caller, copy, helper = build()
    twin = SimpleNamespace(code=copy.__code__, original=caller.__code__)
    ORIGINALS[id(copy.__code__)] = twin
    yield SimpleNamespace(caller=caller, twin=copy, helper=helper)
    del ORIGINALS[id(copy.__code__)]


@pytest.fixture(params=["monitoring", "ids taken"] if HAS_MONITORING else ["tracing"])
def method(request):
    """Each way to hear of the error's arrival; nothing of it is left."""
    taken = []
    skip.release()
    if request.param == "ids taken":
        for number in (3, 4):
            sys.monitoring.use_tool_id(number, "somebody else")
            taken.append(number)
    before = sys.gettrace()
    yield request.param
    assert sys.gettrace() is before
    assert tracebacks.PENDING == {}
    if HAS_MONITORING:
        assert not any(sys.monitoring.get_events(n) for n in (3, 4) if sys.monitoring.get_tool(n))
    for number in taken:
        sys.monitoring.free_tool_id(number)
    skip.release()


def entries(error):
    """Function, line, end line and columns of each entry below this file's own frames."""
    shown = []
    for entry in traceback.StackSummary._extract_from_extended_frame_gen(
        (
            (entry.tb_frame, positions(entry))
            for entry in walk(error.__traceback__)
            if entry.tb_frame.f_code.co_filename != __file__
        ),
        lookup_lines=False,
    ):
        shown.append((entry.name, entry.lineno, entry.end_lineno, entry.colno, entry.end_colno))
    return shown


def walk(entry):
    while entry is not None:
        yield entry
        entry = entry.tb_next


def positions(entry):
    line, *rest = list(entry.tb_frame.f_code.co_positions())[entry.tb_lasti // 2]
    assert line == entry.tb_lineno
    return (line, *rest)


def catch(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError("no error")


def inline(program):
    from contextlib import nullcontext

    return catch(program.caller, nullcontext(), program.helper)


def test_an_error_from_enter_is_inlines(method, program, ours):
    expected = inline(program)
    block = ours.Enters(program.twin, True, program.helper)
    actual = catch(program.caller, block, program.helper)

    assert entries(actual) == entries(expected)
    assert [name for name, *_ in entries(actual)] == ["caller", "helper"]
    assert next(iter(walk(actual.__traceback__.tb_next))).tb_frame.f_code is program.caller.__code__


def test_an_error_from_exit_is_inlines(method, program, ours):
    expected = inline(program)
    block = ours.Leaves(program.twin, True, program.helper)

    def raising(value):
        raise skip.ExitTracingException

    actual = catch(program.caller, block, raising)

    assert entries(actual) == entries(expected)


def test_again_and_again_and_in_recursion(method, program, ours):
    expected = entries(inline(program))

    def below(value):
        block = ours.Enters(program.twin, True, program.helper)
        error = catch(program.caller, block, program.helper)
        assert entries(error) == expected
        raise error from None

    for _ in range(3):
        block = ours.Enters(program.twin, True, below)
        error = catch(program.caller, block, program.helper)
        names = [name for name, *_ in entries(error)]
        assert names == ["caller", "caller", "helper"]


def test_generators(method, ours):
    text = TEXT.replace("return result", "yield result")
    original, copy = {}, {}
    exec(compile(text.replace("{with_}", "with"), FILE, "exec"), original)
    exec(compile(text.replace("{with_}", "if  "), FILE, "exec"), copy)
    code = copy["caller"].__code__
    twin = SimpleNamespace(code=code, original=original["caller"].__code__)
    ORIGINALS[id(code)] = twin
    block = ours.Enters(lambda: next(copy["caller"](True, original["helper"])))
    error = catch(next, original["caller"](block, None))
    del ORIGINALS[id(code)]

    assert [(name, line) for name, line, *_ in entries(error)] == [("caller", 5), ("helper", 10)]


def test_the_errors_context_and_cause_stay(method, program, ours):
    cause = KeyError("cause")

    def run(value):
        try:
            raise IndexError("context")
        except IndexError:
            raise ValueError("error") from cause

    block = ours.Enters(program.twin, True, run)
    try:
        raise RuntimeError("handled at the with")
    except RuntimeError as outer:
        error = catch(program.caller, block, None)
        assert error.__context__.__context__ is outer
        assert sys.exc_info()[1] is outer

    assert error.__cause__ is cause
    assert type(error.__context__) is IndexError


def test_a_wrapper_in_between_is_not_shown(method, program, ours):
    class Wrapper:
        def __init__(self, block):
            self.block = block

        def __enter__(self):
            return self.block.__enter__()

        def __exit__(self, *exception):
            return self.block.__exit__(*exception)

    expected = inline(program)
    block = Wrapper(ours.Enters(program.twin, True, program.helper))
    actual = catch(program.caller, block, program.helper)

    assert entries(actual) == entries(expected)


def test_a_wrapper_that_swallows_the_error_leaves_nothing(method, program, ours):
    class Wrapper:
        def __enter__(self):
            try:
                ours.Enters(program.twin, True, program.helper).__enter__()
            except ZeroDivisionError:
                pass

        def __exit__(self, *exception):
            return None

    assert program.caller(Wrapper(), lambda value: value) == [1, 2, 3, 1, 2, 3]
    tracebacks.sweep()
    assert tracebacks.PENDING == {}


def test_an_error_without_a_body_keeps_the_with_line(method, program, ours):
    block = ours.Enters(ours.fail, OutOfOrderError("before the block"))
    error = catch(program.caller, block, None)

    assert [(name, line) for name, line, *_ in entries(error)] == [("caller", 3)]


def test_an_error_of_a_model_keeps_its_frames(method, program, ours):
    def model():
        raise ValueError

    block = ours.Enters(lambda: ours.drive(model))
    error = catch(program.caller, block, None)
    names = [entry.tb_frame.f_code.co_name for entry in walk(error.__traceback__)]

    assert names == ["catch", "caller", "<lambda>", "model"]


def test_a_bug_of_ours_is_shown_whole(method, program, ours):
    error = catch(program.caller, ours.Enters(ours.fail, InternalError("bug")), None)
    names = [name for name, *_ in entries(error)]
    assert names == ["caller", "__enter__", "drive", "<lambda>", "fail"]

    error = catch(program.caller, ours.Enters(ours.fail, ValueError("bug")), None)
    names = [name for name, *_ in entries(error)]
    assert names == ["caller", "__enter__", "drive", "<lambda>", "fail"]


def test_debugging_shows_everything(method, program, ours, monkeypatch):
    monkeypatch.setenv("TRACEKIT_DEBUG", "1")
    block = ours.Enters(program.twin, True, program.helper)
    error = catch(program.caller, block, None)

    names = [name for name, *_ in entries(error)]
    assert names == ["caller", "__enter__", "drive", "<lambda>", "caller", "helper"]


def test_the_function_form_is_trimmed_only(method, program, ours):
    """The body's own code is up the stack too, but at a call and not at a `with`."""

    def form(function, *arguments):
        try:
            return ours.drive(lambda: function(*arguments))
        except BaseException as error:
            tracebacks.finish_raising(error)
            raise

    def again(value):
        return form(program.twin, True, program.helper)

    error = catch(program.twin, True, again)

    assert [name for name, *_ in entries(error)] == ["caller", "caller", "helper"]


# --- Who else is watching ------------------------------------------------------------------


def test_a_trace_function_sees_the_right_traceback_and_stays(method, program, ours):
    expected = entries(inline(program))
    seen, events = [], []

    def tracer(frame, event, argument):
        if frame.f_code is program.caller.__code__:
            events.append(event)
            if event == "exception":
                kind, value, trace = argument
                seen.append(entries(SimpleNamespace(__traceback__=trace)))
        return tracer

    block = ours.Enters(program.twin, True, program.helper)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        error = catch(program.caller, block, None)
        during = sys.gettrace()
    finally:
        sys.settrace(before)

    assert during is tracer
    assert entries(error) == expected
    assert seen == [expected]
    assert events == ["call", "line", "line", "exception", "return"]


@needs_monitoring
def test_other_tools_keep_their_events(program, ours):
    monitoring = sys.monitoring
    events = monitoring.events
    seen = []
    monitoring.use_tool_id(2, "other")
    wanted = events.RAISE | events.PY_UNWIND
    try:
        monitoring.register_callback(2, events.RAISE, lambda c, o, e: seen.append(("raise", c)))
        monitoring.register_callback(2, events.PY_UNWIND, lambda c, o, e: seen.append(("end", c)))
        monitoring.set_events(2, wanted)
        block = ours.Enters(program.twin, True, program.helper)
        error = catch(program.caller, block, None)
        left = monitoring.get_events(2)
    finally:
        monitoring.set_events(2, 0)
        for event in (events.RAISE, events.PY_UNWIND):
            monitoring.register_callback(2, event, None)
        monitoring.free_tool_id(2)

    assert left == wanted
    assert [name for name, *_ in entries(error)] == ["caller", "helper"]
    code = program.caller.__code__
    assert [event for event in seen if event[1] is code] == [("raise", code), ("end", code)]
    skip.release()


def test_where_no_events_arrive_it_is_trimmed_only(method, program, ours):
    caught = []

    def traced():
        pass

    def tracer(frame, event, argument):
        if frame.f_code is traced.__code__ and event == "call":
            block = ours.Enters(program.twin, True, program.helper)
            caught.append(catch(program.caller, block, None))

    before = sys.gettrace()
    sys.settrace(tracer)
    traced()
    sys.settrace(before)

    assert len(caught) == 1
    names = [(name, line) for name, line, *_ in entries(caught[0])]
    assert names == [("caller", 3), ("caller", 5), ("helper", 10)]


@pytest.mark.usefixtures("quick_switches")
def test_threads(program, ours):
    expected = entries(inline(program))
    wrong = []
    start = threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(10):
            block = ours.Enters(program.twin, True, program.helper)
            got = entries(catch(program.caller, block, None))
            if got != expected:
                wrong.append(got)

    for _ in range(10):
        # None holds an id yet, so they take one at once.
        skip.release()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert wrong == []
    assert tracebacks.PENDING == {}
    skip.release()


def test_no_cycles_are_left(method, program, ours):
    gc.collect()
    gc.disable()
    try:
        block = ours.Enters(program.twin, True, program.helper)
        error = catch(program.caller, block, None)
        references = gc.get_referrers(error)
        assert [r for r in references if not isinstance(r, types.FrameType)] == []
    finally:
        gc.enable()


# --- Notes ---------------------------------------------------------------------------------


def test_a_note_is_added_once():
    error = ValueError()
    tracebacks.add_note_once(error, "one")
    tracebacks.add_note_once(error, "one")
    tracebacks.add_note_once(error, "two")

    assert error.__notes__ == ["one", "two"]


def test_registered_code_is_ours(program, ours):
    def stands_between():
        return program.helper([1, 2])

    error = catch(stands_between)
    assert "stands_between" in [e.tb_frame.f_code.co_name for e in walk(error.__traceback__)]
    tracebacks.OWN_CODES.add(id(stands_between.__code__))
    try:
        tracebacks.trim(error)
    finally:
        tracebacks.OWN_CODES.discard(id(stands_between.__code__))

    assert [e.tb_frame.f_code.co_name for e in walk(error.__traceback__)] == ["catch", "helper"]
