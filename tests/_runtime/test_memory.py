"""Frame memory: reads and writes are those of the frame's own code, references included."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import types
import weakref

import pytest

from tracekit._protocol import UNBOUND
from tracekit._runtime import memory

available = pytest.mark.skipif(not memory.AVAILABLE, reason="no frame memory on this Python")


class Thing:
    pass


def run_child(program):
    """A mistake in here kills the interpreter: do it to another one."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_release_builds_of_the_supported_pythons_have_frame_memory():
    is_debug_or_free_threaded = hasattr(sys, "gettotalrefcount") or object.__basicsize__ != 16

    assert memory.AVAILABLE is not is_debug_or_free_threaded


@available
def test_slots_are_locals_then_cells_then_free_variables():
    free = "free"

    def function(argument, shared_argument):
        local = "local"
        cell = "cell"

        def inner():
            return free, cell, shared_argument

        frame = sys._getframe()
        raw = read_all(frame, 8)
        late = 1
        return raw, inner.__closure__

    def read_all(frame, count):
        return [memory.read_slot(frame, index) for index in range(count)]

    raw, closure = function("argument", "shared")
    by_name = dict(zip(("cell", "free", "shared_argument"), closure, strict=True))

    code = function.__code__
    names = ("argument", "shared_argument", "local", "inner", "frame", "raw", "late")
    assert code.co_varnames == names
    assert raw[0] == "argument"
    assert raw[1] is by_name["shared_argument"]
    assert raw[2] == "local"
    assert raw[5] is UNBOUND
    assert raw[6] is UNBOUND
    assert raw[7] is by_name["cell"]


@available
def test_free_variables_follow_the_cells():
    free = "free"

    def function():
        cell = "cell"
        frame = sys._getframe()
        count = len(frame.f_code.co_varnames)
        got = memory.read_slot(frame, count), memory.read_slot(frame, count + 1)
        return got, (lambda: cell).__closure__[0], (lambda: free).__closure__[0]

    (cell_slot, free_slot), cell, outer = function()

    assert cell_slot is cell
    assert free_slot is outer


@available
def test_a_written_slot_is_what_the_code_reads():
    def function(argument):
        frame = sys._getframe()
        memory.write_slot(frame, 0, "new")
        return argument

    assert function("old") == "new"


@available
def test_an_emptied_slot_is_an_unbound_name():
    def function(argument):
        frame = sys._getframe()
        if frame is None:
            del argument  # the compiler now checks the loads below
        memory.write_slot(frame, 0, UNBOUND)
        return argument

    with pytest.raises(UnboundLocalError):
        function("old")


@available
def test_reference_counts_are_exact():
    thing, other = Thing(), Thing()

    def function(argument):
        frame = sys._getframe()
        before = sys.getrefcount(thing), sys.getrefcount(other)
        for _ in range(100):
            memory.read_slot(frame, 0)
            memory.write_slot(frame, 0, other)
            memory.write_slot(frame, 0, UNBOUND)
            memory.write_slot(frame, 0, UNBOUND)
            memory.write_slot(frame, 0, argument_again)
        return before, (sys.getrefcount(thing), sys.getrefcount(other))

    argument_again = thing
    before, after = function(thing)

    assert before == after


@available
def test_the_old_object_is_dropped_after_the_write():
    seen = []

    def function(argument):
        frame = sys._getframe()
        weakref.finalize(argument, lambda: seen.append(memory.read_slot(frame, 0)))
        memory.write_slot(frame, 0, "new")
        return list(seen)

    result = function(Thing())

    assert result == ["new"]


@available
def test_nothing_is_kept_alive():
    thing = Thing()
    gone = weakref.ref(thing)

    def function(argument):
        frame = sys._getframe()
        memory.write_slot(frame, 0, thing)  # noqa: F821, deleted below
        memory.read_slot(frame, 0)

    function(1)
    del thing
    gc.collect()

    # The test's own cell for `thing` is empty, so only a leak could hold it.
    assert gone() is None


@available
def test_suspended_and_fresh_generators():
    def generate(argument):
        yield argument
        yield argument

    generator = generate("old")
    memory.write_slot(generator.gi_frame, 0, "before the first send")
    first = next(generator)
    memory.write_slot(generator.gi_frame, 0, "while suspended")

    assert (first, next(generator)) == ("before the first send", "while suspended")


@available
def test_a_foreign_cell_becomes_the_cell_of_a_fresh_generator():
    def generate():
        shared = "own"
        yield lambda: shared

    cell = types.CellType()
    generator = generate()
    frame = generator.gi_frame
    index = len(frame.f_code.co_varnames)
    memory.write_slot(frame, index, cell)
    inner = next(generator)

    assert inner.__closure__ == (cell,)
    assert cell.cell_contents == "own"


@available
def test_slots_view_several_variables():
    def function(one, two):
        frame = sys._getframe()
        view = (ctypes.py_object * 3).from_address(memory.address(frame))
        return view[0], view[1]

    assert function(1, "two") == (1, "two")


def test_handled_exception_is_set_and_taken_away():
    first, second = ValueError("first"), KeyError("second")

    def function():
        seen = [sys.exc_info()[1]]
        try:
            raise first
        except ValueError:
            memory.set_handled_exception(second)
            seen.append(sys.exc_info()[1])
            memory.set_handled_exception(None)
            seen.append(sys.exc_info()[1])
            try:
                raise IndexError
            except IndexError as error:
                seen.append(error.__context__)
        seen.append(sys.exc_info()[1])
        return seen

    assert function() == [None, second, None, None, None]


def test_a_class_body_with_free_variables_runs_on_a_namespace():
    outer = ["outer"]

    def build():
        class Body:
            seen = outer

        return Body

    (body,) = [c for c in build.__code__.co_consts if isinstance(c, types.CodeType)]
    namespace = {}
    cells = (types.CellType("given"),)
    memory.eval_code_with_closure(body, globals(), namespace, cells)

    assert namespace["seen"] == "given"


def test_code_that_does_not_fit_is_refused_before_it_runs():
    code = compile("x = 1", "<test>", "exec")
    with pytest.raises(TypeError, match="0 cells"):
        memory.eval_code_with_closure(code, {}, {}, (types.CellType(),))
    with pytest.raises(TypeError, match="must be a dict"):
        memory.eval_code_with_closure(code, types.MappingProxyType({}), {}, ())


def test_errors_of_evaluated_code_come_out():
    code = compile("1 / 0", "<test>", "exec")
    with pytest.raises(ZeroDivisionError):
        memory.eval_code_with_closure(code, {}, {}, ())


def test_a_debug_build_is_refused():
    out = run_child(
        "import sys\n"
        "sys.gettotalrefcount = lambda: 0\n"
        "from tracekit._runtime import memory, frames\n"
        "print(memory.AVAILABLE)\n"
    )
    assert out == "False\n"


@available
def test_many_writes_leave_a_sound_interpreter():
    out = run_child(
        "import gc, sys\n"
        "from tracekit._runtime import memory\n"
        "from tracekit._protocol import UNBOUND\n"
        "def deep(level, value):\n"
        "    frame = sys._getframe()\n"
        "    for each in (object(), UNBOUND, [level], None, 1, 'text', {}):\n"
        "        memory.write_slot(frame, 1, each)\n"
        "        assert memory.read_slot(frame, 1) is each\n"
        "    memory.write_slot(frame, 1, level)\n"
        "    assert value == level\n"
        "    return deep(level - 1, value) if level else None\n"
        "for _ in range(20):\n"
        "    deep(200, None)\n"
        "    gc.collect()\n"
        "print('sound')\n"
    )
    assert out == "sound\n"


def test_a_traceback_entry_is_moved_in_place():
    def function():
        first = 1
        second = 1
        return sys._getframe()

    frame = function()
    entry = types.TracebackType(None, frame, 4, frame.f_lineno)
    after = types.TracebackType(entry, frame, 6, frame.f_lineno)

    assert memory.move_entry(entry, 2, 12345)
    assert (entry.tb_lasti, entry.tb_lineno) == (2, 12345)
    assert (entry.tb_next, entry.tb_frame) == (None, frame)
    assert (after.tb_lasti, after.tb_next) == (6, entry)
