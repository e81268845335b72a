"""The caller's names: pulled, pushed and unbound as the frame's own code would do it."""

from __future__ import annotations

import gc
import sys
import threading
import types
import weakref

import pytest

from tracekit._protocol import UNBOUND
from tracekit._runtime import frames, memory
from tracekit.errors import NamesNotRestorableError

available = pytest.mark.skipif(not memory.AVAILABLE, reason="no frame memory on this Python")


@pytest.fixture(params=["memory", "documented"])
def means(request, monkeypatch):
    """Both ways to a frame."""
    if request.param == "memory" and not memory.AVAILABLE:
        pytest.skip("no frame memory on this Python")
    if request.param == "documented":
        monkeypatch.setattr(memory, "AVAILABLE", False)
    return request.param


def caller():
    return sys._getframe(2)


def pull(*names):
    return frames.pull(caller(), names)


def push(**bindings):
    frames.push(caller(), bindings)


def unbind(*names):
    frames.push(caller(), dict.fromkeys(names, UNBOUND))


# --- Pull ----------------------------------------------------------------------------------


def test_pull_reads_every_kind_of_variable(means):
    free = ["free"]

    def function(argument, shared_argument, *rest, key=5, **others):
        local = ["local"]
        cell = ["cell"]

        def inner():
            return free, cell, shared_argument, late_cell

        got = pull(
            "local", "late", "argument", "shared_argument", "rest", "key", "others",
            "cell", "free", "late_cell",
        )  # fmt: skip
        late = 1
        late_cell = 1
        return got, local, cell

    got, local, cell = function("a", "s", 1, 2, x=3)

    assert got == [local, UNBOUND, "a", "s", (1, 2), 5, {"x": 3}, cell, free, UNBOUND]
    assert got[0] is local
    assert got[7] is cell
    assert got[8] is free


def test_pull_after_del(means):
    def function():
        name = shared = 1
        inner = lambda: shared  # noqa: F821, the subject
        del name, shared
        return pull("name", "shared")

    assert function() == [UNBOUND, UNBOUND]


def test_pull_of_an_unknown_name_is_a_key_error(means):
    with pytest.raises(KeyError):
        pull("no_such_variable")


def test_recursion_reads_the_frame_that_is_asked(means):
    def function(level):
        below = function(level - 1) if level else []
        return [*below, *pull("level")]

    assert function(3) == [0, 1, 2, 3]


def test_a_comprehensions_variable_does_not_hide_the_free_one(means):
    x = "free"

    def function():
        squares = [x * x for x in range(3)]
        return pull("x"), x, squares

    assert function() == (["free"], "free", [0, 1, 4])


def test_a_local_that_holds_a_cell_object_is_not_opened(means):
    def function():
        cell = types.CellType(1)
        return pull("cell"), cell

    (got,), cell = function()

    assert got is cell


def test_ten_thousand_locals_cost_what_ten_do():
    def timed(count):
        names = "\n".join(f"    v{i} = {i}" for i in range(count))
        namespace = {"hook": lambda: measure(sys._getframe(1))}
        exec(f"def f():\n{names}\n    return hook()", namespace)
        return namespace["f"]()

    def measure(frame):
        from time import perf_counter

        frames.pull(frame, ("v3", "v7"))
        best = 1.0
        for _ in range(200):
            start = perf_counter()
            got = frames.pull(frame, ("v3", "v7"))
            best = min(best, perf_counter() - start)
        assert got == [3, 7]
        return best

    if memory.AVAILABLE:
        # Reading all of 10,000 takes a hundred times as long as reading two of ten.
        assert timed(10_000) < 8 * timed(10)


def test_code_objects_are_not_kept_alive():
    namespace = {"pull": pull}
    exec("def f():\n    x = 1\n    return pull('x')", namespace)
    function = namespace.pop("f")
    assert function() == [1]
    key = id(function.__code__)
    gone = weakref.ref(function.__code__)
    assert key in frames._layouts
    del function
    gc.collect()

    assert gone() is None
    assert key not in frames._layouts


# --- Push ----------------------------------------------------------------------------------


def test_push_binds_every_kind_of_variable(means):
    free = "old"

    def function(argument, shared_argument):
        local = cell = "old"

        def inner():
            return cell, shared_argument, free

        push(argument="A", shared_argument="S", local="L", cell="C", free="F", late="late")
        if not inner:
            late = 1
        return argument, local, late, inner()

    assert function("a", "s") == ("A", "L", "late", ("C", "S", "F"))
    assert free == "F"


def test_push_unbinds_cells(means):
    def function():
        cell = "old"
        inner = lambda: cell
        unbind("cell")
        unbind("cell")
        return inner

    if means == "memory" or frames.UNBINDS_THROUGH_F_LOCALS:
        with pytest.raises(NameError):
            function()()
    else:
        with pytest.raises(NamesNotRestorableError, match="`cell`"):
            function()


def test_push_unbinds_locals_or_refuses(means):
    def function():
        name = other = 1
        if not name:
            del name
        try:
            frames.push(sys._getframe(), {"other": 2, "name": UNBOUND})
        except NamesNotRestorableError as error:
            return error, other, name
        try:
            return name
        except UnboundLocalError:
            return "unbound", other

    result = function()
    if means == "memory" or frames.UNBINDS_THROUGH_F_LOCALS:
        assert frames.unbinds(function.__code__)
        assert result == ("unbound", 2)
    else:
        assert not frames.unbinds(function.__code__)
        error, other, name = result
        assert (other, name) == (1, 1)  # nothing was changed
        assert "`name`" in str(error)


def test_unbinding_what_is_not_bound_is_always_possible(means):
    def function():
        unbind("name")
        bound = pull("name")
        name = 1
        return bound

    assert function() == [UNBOUND]


def test_an_unknown_name_changes_nothing(means):
    def function():
        name = "old"
        with pytest.raises(KeyError):
            frames.push(sys._getframe(), {"name": "new", "no_such_variable": 1})
        return name

    assert function() == "old"


def test_recursion_writes_the_frame_that_is_asked(means):
    def function(level):
        value = "old"
        below = function(level - 1) if level else []
        push(value=level)
        return [*below, value]

    assert function(3) == [0, 1, 2, 3]


def test_generators_suspended_and_running(means):
    def generate():
        value = "old"
        yield value
        yield value
        push(value="pushed by itself")
        yield value

    generator = generate()
    first = next(generator)
    frames.push(generator.gi_frame, {"value": "pushed while suspended"})

    assert [first, *generator] == ["old", "pushed while suspended", "pushed by itself"]


def test_a_replaced_object_is_dropped(means):
    def function():
        value = set()
        gone = weakref.ref(value)
        push(value=None)
        sys._getframe().f_locals  # refreshes the snapshot of 3.11 and 3.12
        return gone

    assert function()() is None


@pytest.mark.parametrize("kind", ["module", "class", "exec", "mapping"])
def test_frames_with_a_namespace_of_their_own(means, kind):
    class Odd(dict):
        def __missing__(self, key):
            if key == "made_up":
                return "made up"
            raise KeyError(key)

    source = (
        "kept = 1\ngoes = 2\n"
        "got = pull('kept', 'goes', 'missing', 'made_up')\n"
        "push(kept='new', fresh='fresh')\nunbind('goes', 'missing')\n"
        "state = (kept, fresh, 'goes' in vars_())\n"
    )
    outside = {"pull": pull, "push": push, "unbind": unbind}
    outside["vars_"] = lambda: sys._getframe(1).f_locals
    if kind == "class":
        indented = source.replace("\n", "\n    ")
        exec(f"class C:\n    {indented}\n", outside)
        namespace = vars(outside["C"])
    else:
        namespace = Odd() if kind == "mapping" else {}
        if kind == "module":
            namespace = outside
            exec(compile(source, "<module>", "exec"), outside)
        else:
            exec(source, outside, namespace)

    made_up = "made up" if kind == "mapping" else UNBOUND
    assert namespace["got"] == [1, 2, UNBOUND, made_up]
    assert namespace["state"] == ("new", "fresh", False)


@available
def test_a_class_bodys_free_variables_are_read():
    outer = "outer"

    class Body:
        got = pull("outer")
        used = outer

    assert Body.got == ["outer"]


# --- Cells ---------------------------------------------------------------------------------


@available
def test_cells_are_those_that_closures_get():
    free = 1

    def function(shared_argument):
        cell = 2

        def inner():
            return cell, free, shared_argument

        names = inner.__code__.co_freevars
        return frames.cells(sys._getframe(), names), inner.__closure__

    got, closure = function(3)

    assert len(got) == 3
    assert all(a is b for a, b in zip(got, closure, strict=True))


@available
def test_a_local_has_no_cell():
    name = 1
    with pytest.raises(KeyError):
        frames.cells(sys._getframe(), ["name"])


def test_cells_are_refused_without_frame_memory(monkeypatch):
    monkeypatch.setattr(memory, "AVAILABLE", False)
    name = 1
    inner = lambda: name
    with pytest.raises(NamesNotRestorableError, match=r"`name`"):
        frames.cells(sys._getframe(), ["name"])


# --- Others who look at the frame ----------------------------------------------------------


def blocks():
    """A function that is looked at while its names are pushed; says what it has at its end."""
    shared = bound = goes = "old"
    inner = lambda: shared
    if not inner:
        del goes
    frames.push(sys._getframe(), {"shared": "new", "bound": "new", "late": "new"})
    if memory.AVAILABLE:
        frames.push(sys._getframe(), {"goes": UNBOUND})
    line = "another event"
    if not inner:
        late = 0
    try:
        goes
    except UnboundLocalError:
        goes = UNBOUND
    return shared, inner(), bound, late, goes


EXPECTED = ("new", "new", "new", "new", UNBOUND if memory.AVAILABLE else "old")


def test_a_debugger_that_reads_names_at_each_line_does_not_undo_the_writes():
    seen = []

    def tracer(frame, event, argument):
        if frame.f_code is blocks.__code__:
            frame.f_trace_opcodes = True
            seen.append(dict(frame.f_locals))
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        result = blocks()
    finally:
        sys.settrace(before)

    assert result == EXPECTED
    assert seen[-1]["bound"] == "new"
    assert {"bound": "old"}.items() <= next(s for s in seen if "bound" in s).items()


def test_a_snapshot_held_from_before_does_not_undo_the_writes():
    def function():
        value = goes = "old"
        if not value:
            del goes
        held = sys._getframe().f_locals
        before = dict(held)
        frames.push(sys._getframe(), {"value": "new"})
        if memory.AVAILABLE:
            frames.push(sys._getframe(), {"goes": UNBOUND})
        fresh = dict(sys._getframe().f_locals)
        return before["value"], fresh["value"], "goes" in fresh, value

    assert function() == ("old", "new", not memory.AVAILABLE, "new")


def test_coverage_and_profile_functions_do_not_undo_the_writes():
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: frame.f_locals and None)
    try:
        result = blocks()
    finally:
        sys.setprofile(before)

    assert result == EXPECTED


@pytest.mark.usefixtures("quick_switches")
def test_threads_do_not_disturb_each_other():
    failures = []

    def function(number):
        value = number
        for turn in range(300):
            push(value=(number, turn))
            if pull("value", "number") != [(number, turn), number] or value != (number, turn):
                failures.append(number)

    threads = [threading.Thread(target=function, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
