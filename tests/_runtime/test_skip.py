"""A frame leaves the inline copy of its block, and nobody who watches it is disturbed."""

from __future__ import annotations

import bdb
import cProfile
import gc
import io
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from tracekit._bytecode.facts import HAS_MONITORING
from tracekit._runtime import skip
from tracekit.errors import CannotSkipError, ExitTracingException

needs_monitoring = pytest.mark.skipif(not HAS_MONITORING, reason="no sys.monitoring")


class Block:
    """A stand-in for a tracer: `run` is called where the block's twin would run."""

    def __init__(self, run=None):
        self.run = run
        self.seen = []

    def __enter__(self):
        frame = sys._getframe(1)
        self.skip = skip.arm(frame, frame.f_lasti + 2)
        if self.run is not None:
            self.run()
        self.skip.engage()
        return self

    def __exit__(self, kind, error, traceback):
        self.seen.append(kind)
        mine = self.skip.exception_is_mine(error)
        self.skip.disarm()
        self.tidy_up()
        return mine

    def tidy_up(self):
        """A call on the way out: tools that are back must not lose count of calls and returns."""


@pytest.fixture(params=["monitoring", "ids taken"] if HAS_MONITORING else ["tracing"])
def method(request):
    """Each way to skip; afterwards nothing of ours and nothing of the test's is left."""
    taken = []
    if request.param == "ids taken":
        skip.release()
        for number in (3, 4):
            sys.monitoring.use_tool_id(number, "somebody else")
            taken.append(number)
    trace, profile = sys.gettrace(), sys.getprofile()
    yield request.param
    assert (sys.gettrace(), sys.getprofile()) == (trace, profile)
    skip._forget_dropped()
    assert skip._armed == {}
    for number in taken:
        sys.monitoring.free_tool_id(number)
    assert_released()


def assert_released():
    skip.release()
    if HAS_MONITORING:
        assert sys.monitoring.get_tool(3) is None
        assert sys.monitoring.get_tool(4) is None


# --- Skipping ------------------------------------------------------------------------------


def test_the_body_is_skipped(method):
    def function():
        ran, block, lines = [], Block(), io.StringIO()
        with block as ran:  # noqa: F811, skipped with the body
            ran.append("inline")
        with Block():
            ran.append("inline")
        with Block(), Block():
            ran.append("inline")
        with lines as file, Block() as block.attribute:
            ran.append("inline")
        return ran, block.seen, hasattr(block, "attribute"), file.closed

    for _ in range(3):
        assert function() == ([], [ExitTracingException], False, True)
    assert (skip.tool_id() is not None) is (method == "monitoring")


def test_a_store_with_a_wide_argument(method):
    names = "\n".join(f"    v{i} = {i}" for i in range(300))
    source = (
        f"def f():\n{names}\n    with Block() as late:\n        return 'inline'\n    return v299\n"
    )
    namespace = {"Block": Block}
    exec(source, namespace)

    assert namespace["f"]() == 299
    assert namespace["f"]() == 299


@pytest.mark.parametrize("kind", ["module", "class", "names"])
def test_outside_of_functions(method, kind):
    body = "for _ in range(3):\n    with Block():\n        ran = 'inline'\n"
    if kind == "class":
        body = "class C:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    namespace = {"Block": Block}
    exec(body, namespace, *([{}] if kind == "names" else []))

    assert "ran" not in namespace
    assert not hasattr(namespace.get("C"), "ran")


def test_a_block_in_a_loop(method):
    def function():
        ran = done = 0
        for _ in range(50):
            with Block():
                ran += 1
            done += 1
        return ran, done

    assert function() == (0, 50)


def test_recursion_from_the_twin(method):
    """The same code runs, and skips, in other frames while one is armed."""
    order = []

    def function(level):
        with Block(lambda: level and function(level - 1)):
            order.append("inline")
        order.append(level)

    function(5)

    assert order == [0, 1, 2, 3, 4, 5]


def test_the_same_code_without_a_tracer_runs_in_place(method):
    from contextlib import nullcontext

    def function(manager):
        with manager:
            return "inline"
        return "skipped"

    assert function(Block()) == "skipped"
    assert function(nullcontext()) == "inline"
    assert function(Block(lambda: function(nullcontext()))) == "skipped"
    assert function(nullcontext()) == "inline"


def test_generators(method):
    def generate(number):
        yield number
        with Block():
            yield "inline"
        yield -number

    first, second = generate(1), generate(2)
    got = [next(first), next(second), next(first), next(second), list(first), list(second)]

    assert got == [1, 2, -1, -2, [], []]


def test_a_generator_suspended_while_armed(method):
    """A twin may be suspended below the `__enter__` that armed it."""

    class Suspending(Block):
        def enter(self, frame, offset):
            self.skip = skip.arm(frame, offset)
            yield "request"
            self.skip.engage()

    def twin(block):
        # What a twin does: it drives the entering, then does some work of its own.
        try:
            yield from block.enter(sys._getframe(), OFFSETS["after"])
            marker = "inline"
        except ExitTracingException as error:
            mine = block.skip.exception_is_mine(error)
            block.skip.disarm()
            yield mine
        yield "end"

    import dis

    instructions = list(dis.get_instructions(twin))
    position = next(i for i, item in enumerate(instructions) if item.argval == "inline")
    OFFSETS = {"after": instructions[position].offset}
    first, second = twin(Suspending()), twin(Suspending())
    got = [next(first), next(second), next(first), next(second), next(first), next(second)]

    assert got == ["request", "request", True, True, "end", "end"]


def test_coroutines(method):
    async def function():
        with Block():
            return "inline"
        return "skipped"

    with pytest.raises(StopIteration, match="skipped"):
        function().send(None)


def test_an_error_of_the_twin_leaves_nothing_armed(method):
    def function(run):
        try:
            with Block(run):
                return "inline"
        except ZeroDivisionError:
            return "error"
        return "skipped"

    def fail():
        return 1 / 0

    assert function(fail) == "error"
    assert skip._armed == {}
    assert function(None) == "skipped"


class Wrapper:
    """Delegates to a block, or does not; may raise after it."""

    def __init__(self, block, *, raises=False):
        self.block = block
        self.raises = raises

    def __enter__(self):
        if self.block is None:
            return self
        frame = sys._getframe(1)
        self.block.skip = skip.arm(frame, frame.f_lasti + 2)
        self.block.skip.engage()
        if self.raises:
            raise ZeroDivisionError
        return self

    def __exit__(self, *exception):
        return self.block is not None and self.block.__exit__(*exception)


def test_an_error_on_the_way_back_makes_the_skip_stale(method):
    """The wrapper's error must not meet an armed skip, nor must the next `with` there."""
    kept = []

    def function():
        got = []
        for wrapper in (Wrapper(Block(), raises=True), Wrapper(None), Wrapper(Block())):
            kept.append(wrapper)
            try:
                with wrapper:
                    got.append("inline")
            except ZeroDivisionError:
                got.append("error")
        return got

    assert function() == ["error", "inline"]


def test_an_interrupt_after_engaging_leaves_the_next_turns_alone(method):
    from contextlib import nullcontext

    class Interrupted(Block):
        def __enter__(self):
            frame = sys._getframe(1)
            self.skip = skip.arm(frame, frame.f_lasti + 2)
            self.skip.engage()
            raise KeyboardInterrupt

    def function():
        got = []
        for manager in (Interrupted(), nullcontext(), Block(), Interrupted(), Block()):
            try:
                with manager:
                    got.append("inline")
            except KeyboardInterrupt:
                got.append("interrupted")
            else:
                got.append("done")
        return got

    assert function() == ["interrupted", "inline", "done", "done", "interrupted", "done"]


def test_a_dropped_tracer_takes_its_skip_along(method):
    def function():
        try:
            with Wrapper(Block(), raises=True):
                return "inline"
        except ZeroDivisionError:
            return "error"

    assert function() == "error"
    gc.collect()


def test_disarm_twice_and_before_engage(method):
    def function():
        armed = skip.arm(sys._getframe(), 0)
        armed.disarm()
        armed.disarm()
        armed = skip.arm(sys._getframe(), 0)
        armed.engage()
        armed.disarm()
        armed.disarm()
        return armed.exception_is_mine(None), armed.exception_is_mine(ExitTracingException())

    assert function() == (False, False)


def test_the_exception_of_another_block_is_not_mine(method):
    def function():
        outer = Block()
        with outer:
            raise AssertionError
        return outer

    block = function()

    assert not block.skip.exception_is_mine(ExitTracingException())


def test_the_handled_exception_is_as_before(method):
    def function():
        seen = [sys.exc_info()[1]]
        with Block():
            seen.append("inline")
        seen.append(sys.exc_info()[1])
        try:
            raise ValueError
        except ValueError as error:
            with Block():
                seen.append("inline")
            seen.append(sys.exc_info()[1] is error)
            try:
                raise
            except ValueError as again:
                seen.append(again is error and again.__context__ is None)
        seen.append(sys.exc_info()[1])
        return seen

    assert function() == [None, None, True, True, None]


def test_nothing_is_kept_alive(method):
    class Thing:
        pass

    gc.collect()
    gc.disable()
    try:
        namespace = {"Block": Block}
        exec("def f(thing):\n with Block() as b:\n  pass\n return 1", namespace)
        thing = Thing()
        gone = [weakref.ref(thing), weakref.ref(namespace["f"].__code__)]
        function = namespace.pop("f")
        function(thing)
        del thing, function

        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()
    assert len(skip._points) == len(skip._codes) + bool(skip._points)


@pytest.mark.usefixtures("quick_switches")
def test_threads(method):
    counts = {}

    def function(number):
        ran = done = 0
        for _ in range(100):
            with Block(lambda: sum(range(50))):
                ran += 1
            done += 1
        counts[number] = (ran, done)

    threads = [threading.Thread(target=function, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == dict.fromkeys(range(4), (0, 100))


# --- Who else is watching ------------------------------------------------------------------


def watched(run=None):
    before = 1
    with Block(run) as block:
        before = "inline"
        raise AssertionError
    after = 2
    return before, after


def relative_lines(events):
    first = watched.__code__.co_firstlineno
    return [(event, line - first) for event, line in events]


def test_a_trace_function_goes_on_and_does_not_see_us(method):
    events = []

    def tracer(frame, event, argument):
        if frame.f_code is watched.__code__:
            events.append((event, frame.f_lineno))
            assert not isinstance(argument, ExitTracingException)
            return tracer
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        result = watched()
        during = sys.gettrace()
    finally:
        sys.settrace(before)

    assert result == (1, 2)
    assert during is tracer
    # The header's line comes once more when the `with` is left, as it does inline.
    lines = [("line", 1), ("line", 2), ("line", 2), ("line", 5), ("line", 6)]
    got = relative_lines(events)
    assert got[0] == ("call", 0)
    assert got[-1] == ("return", 6)
    assert [event for event in got if event[1] in (3, 4)] == []
    assert [event for event in got[1:-1] if event != ("line", 2)] == [
        event for event in lines if event != ("line", 2)
    ]
    assert {event for event, _ in got} == {"call", "line", "return"}


def test_the_frames_own_trace_settings_come_back(method):
    seen = []

    def local(frame, event, argument):
        seen.append(event)
        return local

    def function():
        frame = sys._getframe()
        frame.f_trace = local
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        with Block():
            raise AssertionError
        state = frame.f_trace, frame.f_trace_lines, frame.f_trace_opcodes
        frame.f_trace_lines, frame.f_trace_opcodes = True, False
        del frame.f_trace
        return state

    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        state = function()
    finally:
        sys.settrace(before)

    assert state == (local, False, True)
    assert "exception" not in seen


def test_a_debugger_stepping_over_and_its_breakpoints(method):
    stops = []

    class Debugger(bdb.Bdb):
        def user_line(self, frame):
            stops.append((frame.f_code.co_name, frame.f_lineno - first))
            self.set_next(frame) if frame.f_code is watched.__code__ else self.set_continue()

        def user_exception(self, frame, information):
            stops.append(("exception", information[0]))

        def user_return(self, frame, value):
            if frame.f_code is watched.__code__:
                self.set_continue()

    first = watched.__code__.co_firstlineno
    debugger = Debugger()
    debugger.set_break(__file__, first + 1)
    debugger.set_break(__file__, first + 3)  # in the inline copy
    before = sys.gettrace()
    result = debugger.runcall(watched)
    sys.settrace(before)

    assert result == (1, 2)
    assert [line for name, line in stops if line in (3, 4) and name == "watched"] == []
    assert not [stop for stop in stops if stop[0] == "exception"]
    assert [stop for stop in stops if stop == ("watched", 5)] == [("watched", 5)]


def test_a_debugger_that_starts_inside_the_twin(method):
    """What `breakpoint()` does: it traces the frames up the stack, too."""
    events = []

    def tracer(frame, event, argument):
        if frame.f_code is watched.__code__ and event == "line":
            events.append((event, frame.f_lineno))
        return tracer

    def breakpoint_like():
        frame = sys._getframe()
        while frame is not None and frame.f_code is not watched.__code__:
            frame = frame.f_back
        frame.f_trace = tracer
        sys.settrace(tracer)

    before = sys.gettrace()
    try:
        watched(breakpoint_like)
        during = sys.gettrace()
    finally:
        sys.settrace(before)

    assert during is tracer
    got = relative_lines(events)
    assert [event for event in got if event[1] > 2] == [("line", 5), ("line", 6)]


def test_a_profiler_counts_on(method):
    profile = cProfile.Profile()
    result = profile.runcall(watched)
    names = {entry.code.co_name for entry in profile.getstats() if not isinstance(entry.code, str)}

    assert result == (1, 2)
    assert "watched" in names


def test_a_profile_function_sees_calls_and_returns_in_pairs(method):
    depth = {"now": 0, "least": 0}

    def profiler(frame, event, argument):
        if event in ("call", "return"):
            depth["now"] += 1 if event == "call" else -1
            depth["least"] = min(depth["least"], depth["now"])

    before = sys.getprofile()
    sys.setprofile(profiler)
    result = watched()
    sys.setprofile(before)

    assert result == (1, 2)
    assert depth == {"now": 0, "least": 0}


@needs_monitoring
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_another_tools_events_go_on(method, number):
    monitoring = sys.monitoring
    events = monitoring.events
    lines, instructions = [], []
    monitoring.use_tool_id(number, "other")
    try:
        monitoring.register_callback(number, events.LINE, lambda c, line: lines.append(line))
        monitoring.register_callback(
            number, events.INSTRUCTION, lambda c, offset: instructions.append(offset)
        )
        wanted = events.LINE | events.INSTRUCTION
        monitoring.set_local_events(number, watched.__code__, wanted)
        results = []
        for _ in range(3):
            results.append(watched())
            monitoring.restart_events()
        left = monitoring.get_local_events(number, watched.__code__)
        per_run = len(instructions) / 3
    finally:
        monitoring.set_local_events(number, watched.__code__, 0)
        for event in (events.LINE, events.INSTRUCTION):
            monitoring.register_callback(number, event, None)
        monitoring.free_tool_id(number)

    assert results == [(1, 2)] * 3
    assert left == wanted
    assert per_run == int(per_run) > 10
    first = watched.__code__.co_firstlineno
    assert {line - first for line in lines} == {1, 2, 5, 6}


@needs_monitoring
def test_two_ids_at_most_and_no_global_events():
    assert_released()
    watched()
    mine = skip.tool_id()
    assert mine == 4
    assert sys.monitoring.get_tool(4) == "tracekit"
    assert sys.monitoring.get_events(4) == 0
    assert_released()
    assert sys.monitoring.get_local_events(4, watched.__code__) == 0
    sys.monitoring.use_tool_id(4, "other")
    try:
        assert watched() == (1, 2)
        assert skip.tool_id() == 3
    finally:
        sys.monitoring.free_tool_id(4)
    assert_released()


@needs_monitoring
def test_threads_that_trace_for_the_first_time_at_once_share_one_id():
    """And each of them hears its events from the moment it knows the id."""
    found = []
    start = threading.Barrier(4)

    def work():
        start.wait()
        found.append((skip.tool_id(), skip.monitoring_events_arrive()))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            skip.release()
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert set(found) == {(4, True)}
    assert sys.monitoring.get_tool(3) is None
    skip.release()


@needs_monitoring
def test_an_interrupt_while_the_id_is_taken_loses_no_id(monkeypatch):
    def interrupted(code, number):
        raise KeyboardInterrupt

    skip.release()
    with monkeypatch.context() as patch:
        patch.setattr(skip, "_instrument", interrupted)
        with pytest.raises(KeyboardInterrupt):
            skip.tool_id()

    assert skip.tool_id() == 4
    assert skip.monitoring_events_arrive()
    skip.release()
    assert_released()


@needs_monitoring
def test_an_id_that_was_taken_away_is_replaced():
    assert_released()
    watched()
    sys.monitoring.free_tool_id(4)
    sys.monitoring.use_tool_id(4, "thief")
    sys.monitoring.register_callback(4, sys.monitoring.events.INSTRUCTION, None)
    try:
        assert watched() == (1, 2)
        assert skip.tool_id() == 3
        assert watched() == (1, 2)
    finally:
        sys.monitoring.free_tool_id(4)
    assert_released()


@needs_monitoring
def test_a_replaced_callback_is_put_back():
    """Seen wherever another tool is there that could have done it."""
    assert_released()
    watched()
    sys.monitoring.use_tool_id(5, "other")
    sys.monitoring.register_callback(4, sys.monitoring.events.INSTRUCTION, lambda *_: None)
    try:
        assert watched() == (1, 2)
    finally:
        sys.monitoring.free_tool_id(5)
    assert_released()


@needs_monitoring
@pytest.mark.parametrize("late", [False, True])
def test_release_inside_a_block_waits_for_its_end(late):
    assert_released()

    class Releasing(Block):
        def __exit__(self, *exception):
            if late:
                skip.release()
            return super().__exit__(*exception)

    def function():
        with Releasing(None if late else skip.release):
            return "inline", None
        return "skipped", sys.monitoring.get_tool(4)

    assert function() == ("skipped", None)
    assert_released()


def test_code_that_gets_no_events_is_refused(method):
    """In a trace function nothing could be skipped: the block must not start."""
    caught = []

    def tracer(frame, event, argument):
        try:
            watched(lambda: caught.append("the block ran"))
        except CannotSkipError as error:
            caught.append(str(error))

    def traced():
        pass

    before = sys.gettrace()
    sys.settrace(tracer)
    traced()
    sys.settrace(before)

    assert len(caught) >= 1
    assert all("the function form" in text for text in caught)


@needs_monitoring
def test_a_monitoring_callback_is_refused(method):
    caught = []
    monitoring = sys.monitoring
    monitoring.use_tool_id(5, "other")

    def callback(code, offset):
        if code is traced.__code__:
            try:
                watched(lambda: caught.append("the block ran"))
            except CannotSkipError as error:
                caught.append(error.slug)

    def traced():
        pass

    try:
        monitoring.register_callback(5, monitoring.events.PY_START, callback)
        monitoring.set_local_events(5, traced.__code__, monitoring.events.PY_START)
        traced()
    finally:
        monitoring.set_local_events(5, traced.__code__, 0)
        monitoring.register_callback(5, monitoring.events.PY_START, None)
        monitoring.free_tool_id(5)

    assert caught == ["cannot-skip"]


COVERED = """
import sys
sys.path.insert(0, {folder!r})
from test_skip import Block

def helper():
    return 1

def function():
    one = helper()
    with Block(helper):
        two = 2
        three = 3
    four = helper()
    five = 5
    return one

def other():
    for _ in range(3):
        function()
        with Block():
            skipped = 1
        kept = helper()
    return 2

other()
"""


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
@pytest.mark.parametrize("branch", [False, True])
def test_coverage_counts_the_same_lines(tmp_path, core, branch):
    coverage = pytest.importorskip("coverage")
    if core == "sysmon" and not HAS_MONITORING:
        pytest.skip("no sys.monitoring")
    program = tmp_path / "program.py"
    program.write_text(COVERED.format(folder=str(Path(__file__).parent)))
    runner = (
        "import coverage, runpy, sys\n"
        f"c = coverage.Coverage(data_file=None, config_file=False, branch={branch}, include=['*program.py'])\n"
        f"c.start()\nrunpy.run_path({str(program)!r})\nc.stop()\n"
        "print(sorted(c.get_data().lines(c.get_data().measured_files().pop())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", runner],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COVERAGE_CORE": core},
    )
    text = program.read_text().splitlines()
    skipped = {
        number
        for number, line in enumerate(text, 1)
        if line.strip() in ("two = 2", "three = 3", "skipped = 1") or not line.strip()
    }

    assert done.returncode == 0, done.stderr
    assert eval(done.stdout) == sorted(set(range(1, len(text) + 1)) - skipped)
