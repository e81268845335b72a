"""The loop that serves bodies, with models that are lists of sites and hand-written bodies."""

from __future__ import annotations

import gc
import weakref

import pytest

from tracekit._interleave.flow import Barrier
from tracekit._interleave.host import Host
from tracekit._interleave.interleaver import NOTHING, EndRun, Interleaver, Standing
from tracekit._interleave.position import Loop
from tracekit._interleave.requests import AwaitName, Meet, NextStep, Read, Skip, Stop, View, Write
from tracekit._interleave.site import Site, spell_recent
from tracekit._interleave.worker import Worker
from tracekit._protocol import UNBOUND, ask
from tracekit.errors import InternalError, NeverRanError, OutOfOrderError, StepsWarning, WaitError

OWNER = object()


class Body:
    filename = __file__
    is_apart = False

    def __init__(self, function, names=()):
        self.function = function
        self.name = function.__name__
        self.first_lineno = function.__code__.co_firstlineno
        self.stores = frozenset(names)
        self.left = dict.fromkeys(names, 0)
        self.names = {}

    def start(self, value):
        return self.function(value)

    def may_store(self, generator, name):
        return self.left[name] > 0

    def await_again(self):
        pass

    def place_of_store(self, name):
        return self.filename, self.first_lineno

    def lookup(self, generator, name):
        return self.names.get(name, UNBOUND)


class Fake(Host):
    """A model: calls of modules, each with an input and an output."""

    def __init__(self):
        self.interleaver = Interleaver(self, (OWNER,))
        self.begun = {}
        self.done = {}

    def calls(self, path):
        return self.begun.get(path, 0)

    def calls_by_path(self):
        return dict(self.begun)

    def count(self, key):
        return (self.done if key[1] == "output" else self.begun).get(key[0], 0)

    def explain(self, request):
        return ("", "it is not in the list", "") if request.key[0] == "nowhere" else ("", "", "")

    def call(self, path, value, inner=lambda value: value):
        interleaver = self.interleaver
        visit = self.begun.get(path, 0)
        self.begun[path] = visit + 1
        if path in interleaver.watched:
            interleaver.entered(path)
        value = interleaver.visit((path, "input"), visit, value)
        result = interleaver.visit((path, "skip"), visit, NOTHING)
        if result is NOTHING:
            result = inner(value)
        self.done[path] = visit + 1
        return interleaver.visit((path, "output"), visit, result)


def run(model, *bodies):
    """Run bodies in step with `model(host)`, as a run does; give the result."""
    host = Fake()
    interleaver = host.interleaver
    error = last = None
    workers = [body if isinstance(body, Worker) else Worker(Body(body)) for body in bodies]
    for worker in workers:
        interleaver.add(worker)
    for worker in workers:
        if not interleaver.ended:
            interleaver.start(worker, None)
    if not interleaver.ended:
        try:
            last = Standing(("", "result"), 0, model(host))
        except BaseException as raised:
            error = raised
    problem = interleaver.finish(error, last)
    run.last = interleaver
    if problem is not None:
        try:
            raise problem
        finally:
            del problem, error
    return None if last is None else last.value


def read(path, port="output", view=None):
    return ask(Read(OWNER, path, port, view))


def write(path, value, port="output", view=None):
    return ask(Write(OWNER, path, port, value, view))


def chain(host):
    """Three modules, each adds one."""
    value = 0
    for path in ("a", "b", "c"):
        value = host.call(path, value, lambda value: value + 1)
    return value


def line_of(function, offset):
    return function.__code__.co_firstlineno + offset


class TestReadsAndWrites:
    def test_values_come_in_the_order_of_the_model(self):
        def body(_):
            first = yield from read("a")
            second = yield from read("b", "input")
            third = yield from read("b")
            return [first, second, third, (yield from read("", "result"))]

        worker = Worker(Body(body))

        assert run(chain, worker) == 3
        assert worker.value == [1, 1, 2, 3]

    def test_a_write_is_done_when_the_next_line_runs(self):
        def body(_):
            yield from write("b", 10)
            return (yield from read("b")), (yield from read("c", "input"))

        worker = Worker(Body(body))

        assert run(chain, worker) == 11
        assert worker.value == (10, 10)

    def test_the_result_can_be_replaced(self):
        def body(_):
            yield from write("", "new", "result")

        assert run(chain, body) == "new"

    def test_a_standing_value_is_the_same_object(self):
        def model(host):
            return host.call("a", None, lambda _: [])

        def body(_):
            return (yield from read("a")) is (yield from read("a"))

        worker = Worker(Body(body))
        run(model, worker)

        assert worker.value is True

    def test_a_view_is_a_part_with_a_name(self):
        view = View("first", lambda v: v[0], lambda v, new: (new, *v[1:]))

        def model(host):
            return host.call("a", (1, 2), lambda v: v)

        def body(_):
            before = yield from read("a", "input", view)
            yield from write("a", 5, "input", view)
            return before, (yield from read("a", "input"))

        worker = Worker(Body(body))

        assert run(model, worker) == (5, 2)
        assert worker.value == (1, (5, 2))

    def test_an_error_in_a_view_is_raised_where_it_was_asked_for(self):
        view = View("first", lambda v: v[0], lambda v, new: new)

        def body(_):
            try:
                yield from read("a", "input", view)
            except TypeError:
                return "caught"

        worker = Worker(Body(body))
        run(chain, worker)

        assert worker.value == "caught"

    def test_skip_comes_between_input_and_output(self):
        ran = []

        def model(host):
            return host.call("a", 1, lambda value: ran.append(value))

        def body(_):
            seen = yield from read("a", "input")
            yield from ask(Skip(OWNER, "a", seen + 5))
            return (yield from read("a"))

        worker = Worker(Body(body))

        assert run(model, worker) == 6
        assert worker.value == 6
        assert ran == []

    def test_a_plain_request_means_the_next_visit(self):
        def model(host):
            return [host.call("a", i) for i in range(3)]

        def body(_):
            return [(yield from read("a")), (yield from read("a", "input")), (yield from read("a"))]

        worker = Worker(Body(body))
        run(model, worker)

        assert worker.value == [0, 1, 1]

    def test_a_body_without_requests_runs_before_the_model(self):
        log = []

        def body(_):
            log.append("body")
            return
            yield

        run(lambda host: log.append("model"), body)

        assert log == ["body", "model"]

    def test_visited_lists_the_sites(self):
        def body(_):
            yield from read("b", "input")

        run(lambda host: [host.call("b", 0), host.call("b", 0)], body)

        assert [s for s in run.last.visited() if s.port != "skip"] == [
            Site("b", "input", 0),
            Site("b", "output", 0),
            Site("b", "input", 1),
            Site("b", "output", 1),
            Site("", "result", 0),
        ]


class TestSeveralBodies:
    def test_each_sees_the_edits_of_those_before(self):
        def first(_):
            yield from write("a", 10)

        def second(_):
            value = yield from read("a")
            yield from write("a", value + 1)

        assert run(chain, first, second) == 13

    def test_they_are_served_again_until_none_can_move(self):
        """The second body's write at a site is seen by a later read of the first at that site."""
        seen = []

        def first(_):
            yield from ask(Meet(barrier))
            seen.append((yield from read("a")))

        def second(_):
            yield from write("a", 7)
            yield from ask(Meet(barrier))

        barrier = Barrier(2)
        run(chain, first, second)

        assert seen == [7]

    def test_an_error_ends_the_run_and_unwinds_the_others(self):
        log = []

        def first(_):
            try:
                yield from read("c")
            finally:
                log.append("unwound")

        def second(_):
            yield from read("a")
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            run(chain, first, second)

        assert log == ["unwound"]
        assert run.last.visited()[-1] == Site("a", "output")

    def test_a_model_that_catches_everything_cannot_go_on(self):
        calls = []

        def model(host):
            for path in "abc":
                try:
                    host.call(path, 0)
                except BaseException as error:
                    calls.append(type(error))

        def body(_):
            yield from read("a")
            raise KeyError

        with pytest.raises(KeyError):
            run(model, body)

        assert calls == [EndRun, EndRun, EndRun]

    def test_an_interrupt_while_the_model_is_left_arrives(self):
        """After `stop()` the model is taken out of its forward: an interrupt there is no part."""

        def model(host):
            try:
                host.call("a", 0)
            finally:
                raise KeyboardInterrupt

        def body(_):
            yield from read("a")
            yield from ask(Stop(OWNER))

        with pytest.raises(KeyboardInterrupt):
            run(model, body)

    def test_an_interrupt_wins_over_the_refusals_that_it_causes(self):
        def model(host):
            host.call("a", 0)
            raise KeyboardInterrupt

        def body(_):
            yield from read("a")
            try:
                yield from read("b")
            except KeyboardInterrupt:
                pass
            yield from read("c")

        with pytest.raises(KeyboardInterrupt):
            run(model, body)

    def test_requests_while_unwound_raise(self):
        log = []

        def first(_):
            try:
                yield from read("c")
            finally:
                try:
                    yield from read("c")
                except BaseException as error:
                    log.append(type(error).__name__)
                    raise

        def second(_):
            yield from read("a")
            raise KeyError

        with pytest.raises(KeyError):
            run(chain, first, second)

        assert log == ["Abort"]

    def test_a_body_that_will_not_end_is_closed(self):
        def first(_):
            while True:
                try:
                    yield from read("c")
                except GeneratorExit:
                    raise
                except BaseException:
                    pass

        def second(_):
            yield from read("a")
            raise KeyError

        with pytest.raises(KeyError):
            run(chain, first, second)

    def test_an_error_while_unwound_is_noted(self):
        def first(_):
            try:
                yield from read("c")
            finally:
                raise ValueError("late")

        def second(_):
            yield from read("a")
            raise KeyError("early")

        with pytest.raises(KeyError, match="early") as caught:
            run(chain, first, second)

        assert "While another block was unwound, it raised ValueError('late')" in (
            caught.value.__notes__
        )


class TestStop:
    def test_it_ends_the_run_at_the_end_of_the_visit(self):
        log = []

        def first(_):
            try:
                yield from read("a")
                yield from ask(Stop(OWNER))
                log.append("never")
            except Exception:
                log.append("never")
            finally:
                log.append("first unwound")

        def second(_):
            yield from read("a")
            log.append("second served")
            yield from read("b")
            log.append("never")

        assert run(chain, first, second) is None
        assert log == ["first unwound", "second served"]

    def test_before_the_model_it_is_never_called(self):
        def body(_):
            yield from ask(Stop(OWNER))

        called = []
        run(called.append, body)

        assert called == []


class TestErrorsOfTheModel:
    def failing(self, host):
        host.call("a", 0)
        raise ValueError("model")

    def test_raised_in_each_suspended_body_at_its_request(self):
        def body(_):
            try:
                yield from read("b")
            except ValueError as error:
                return str(error)

        one, two = Worker(Body(body)), Worker(Body(body))
        run(self.failing, one, two)

        assert (one.value, two.value) == ("model", "model")

    def test_not_handled_unless_all_catch_it(self):
        def catches(_):
            try:
                yield from read("b")
            except ValueError:
                pass

        def passes(_):
            yield from read("b")

        with pytest.raises(ValueError, match="model"):
            run(self.failing, catches, passes)

    def test_none_suspended_raises_it(self):
        def body(_):
            yield from read("a")

        with pytest.raises(ValueError, match="model"):
            run(self.failing, body)

    def test_a_later_request_names_it_as_the_cause(self):
        def body(_):
            try:
                yield from read("b")
            except ValueError:
                pass
            yield from read("c")

        with pytest.raises(OutOfOrderError) as caught:
            run(self.failing, body)

        assert str(caught.value.__cause__) == "model"

    def test_it_says_what_had_been_written(self):
        def body(_):
            yield from write("a", "text")

        with pytest.raises(ValueError) as caught:
            run(self.failing, body)

        (note,) = caught.value.__notes__
        assert note.startswith("tracekit: `model.a.output` had been written by the block, at ")
        assert note.endswith(f":{line_of(body, 1)}")


class TestWhatDoesNotCome:
    def test_out_of_order(self):
        def body(_):
            yield from read("c")
            yield from read("a")

        with pytest.raises(OutOfOrderError) as caught:
            run(chain, body)

        assert str(caught.value).startswith(
            "`model.a.output` was asked for, but the model is already past it\n"
            f"  At:   {__file__}:{line_of(body, 2)}, in the block that starts at line "
        )
        assert "model.c.output" in caught.value.seen
        frames = [f.name for f in caught.traceback if str(f.path) == __file__]
        assert frames[-1] == "body"

    def test_caught_the_body_goes_on(self):
        """A handler may ask again; each request is answered, and the rest of the body runs."""

        def body(_):
            found = []
            for path in ("c", "a", "b"):
                try:
                    found.append((yield from read(path)))
                except OutOfOrderError:
                    found.append("late")
            found.append((yield from read("", "result")))
            return found

        worker = Worker(Body(body))
        run(chain, worker)

        assert worker.value == [3, "late", "late", 3]

    def test_never_ran(self):
        def body(_):
            yield from read("nowhere")

        with pytest.raises(NeverRanError, match="`model.nowhere` did not run") as caught:
            run(chain, body)

        assert caught.value.why == "it is not in the list"

    def test_another_model_is_refused(self):
        def body(_):
            yield from ask(Read(object(), "a", "output"))

        with pytest.raises(NeverRanError, match="belongs to another run"):
            run(chain, body)

    def test_what_is_no_request_is_our_mistake(self):
        def body(_):
            yield from ask("something")

        with pytest.raises(InternalError, match="'something', which is no request"):
            run(chain, body)


def steps(numbers, clock=None, bounded=False):
    """A loop as `for` makes it, as a generator function to delegate to."""
    loop = Loop(iter(numbers), clock=clock, bounded=bounded)

    def following():
        return (yield from ask(NextStep(loop)))

    return loop, following


def calls_of(path, count, inner=chain):
    def model(host):
        return [host.call(path, i, lambda _: inner(host)) for i in range(count)]

    return model


class TestSteps:
    """Steps that a clock counts: the calls of `root`."""

    def run(self, count, body, **options):
        host_of = {}

        def start(value):
            host = host_of["interleaver"]
            return body(lambda numbers, **more: steps(numbers, clock=host.clock("root"), **more))

        worker = Worker(Body(body))
        worker.body.start = start
        original = Interleaver.add

        def add(self, given):
            host_of["interleaver"] = self
            original(self, given)

        Interleaver.add = add
        try:
            run(options.get("model", calls_of("root", count)), worker)
        finally:
            Interleaver.add = original
        return worker.value

    def test_code_after_an_open_loop_runs(self):
        def body(loop):
            found = []
            _, following = loop(range(100))
            while (step := (yield from following())) is not None:
                found.append((step, (yield from read("b"))))
            return found, (yield from read("", "result"))

        assert self.run(3, body) == ([(0, 2), (1, 2), (2, 2)], [3, 3, 3])

    def test_slices_honour_their_step(self):
        def body(loop):
            found = []
            _, following = loop(range(0, 5, 2), bounded=True)
            while (step := (yield from following())) is not None:
                found.append((step, (yield from read("root", "input"))))
            return found

        assert self.run(5, body) == [(0, 0), (2, 2), (4, 4)]

    def test_a_step_that_asks_for_nothing_waits_for_its_step(self):
        def body(loop):
            found = []
            _, following = loop(range(100))
            while (step := (yield from following())) is not None:
                found.append(step)
            return found

        assert self.run(4, body) == [0, 1, 2, 3]

    def test_a_bounded_loop_that_outruns_warns(self):
        def body(loop):
            _, following = loop(range(5), bounded=True)
            while (yield from following()) is not None:
                pass
            return "after"

        with pytest.warns(StepsWarning, match="asked for step 2, but the run had 2 of its steps"):
            assert self.run(2, body) == "after"

    def test_an_earlier_site_of_the_same_step_is_past(self):
        """In step 1 a later site, then an earlier one: never the value of step 2."""

        def body(loop):
            _, following = loop(range(100))
            yield from following()
            yield from following()
            yield from read("c")
            yield from read("a")

        with pytest.raises(OutOfOrderError, match="`model.a.output`"):
            self.run(3, body)

    def test_a_module_called_twice_in_a_step(self):
        def twice(host):
            return [host.call("a", "one"), host.call("a", "two")]

        def body(loop):
            found = []
            _, following = loop(range(100))
            while (yield from following()) is not None:
                first = yield from read("a")
                yield from read("a", "input")
                found.append((first, (yield from read("a"))))
            return found

        model = calls_of("root", 2, twice)

        assert self.run(2, body, model=model) == [("one", "two"), ("one", "two")]

    def test_a_step_that_is_past_is_refused(self):
        def body(loop):
            yield from read("c")
            yield from read("a")
            _, following = loop([0])
            yield from following()

        with pytest.raises(OutOfOrderError, match="step 0 is already past"):
            self.run(3, body)


class TestVisitsAsSteps:
    """Steps without a clock: step n is visit n of whatever is asked for."""

    def cell(self, count):
        return lambda host: [host.call("cell", i) for i in range(count)]

    def test_open_loop(self):
        def body(_):
            found = []
            _, following = steps(range(100))
            while (step := (yield from following())) is not None:
                found.append((step, (yield from read("cell"))))
            return found

        worker = Worker(Body(body))
        run(self.cell(3), worker)

        assert worker.value == [(0, 0), (1, 1), (2, 2)]

    def test_list_of_steps(self):
        def body(_):
            found = []
            _, following = steps([0, 2], bounded=True)
            while (step := (yield from following())) is not None:
                found.append((step, (yield from read("cell"))))
            return found

        worker = Worker(Body(body))
        run(self.cell(4), worker)

        assert worker.value == [(0, 0), (2, 2)]

    def test_outrun(self):
        def body(_):
            _, following = steps(range(5), bounded=True)
            count = 0
            while (yield from following()) is not None:
                yield from read("cell")
                count += 1
            return count

        worker = Worker(Body(body))
        with pytest.warns(StepsWarning):
            run(self.cell(2), worker)

        assert worker.value == 2

    def test_nothing_asked_for_ends_with_the_run(self):
        def body(_):
            count = 0
            _, following = steps(range(100))
            while (yield from following()) is not None:
                count += 1
            return count

        worker = Worker(Body(body))
        run(self.cell(2), worker)

        assert worker.value == 1

    def test_a_visit_that_is_past_is_refused_at_once(self):
        def body(_):
            yield from read("cell")
            yield from read("cell", "input")
            _, following = steps([0])
            yield from following()
            try:
                yield from read("cell")
            except OutOfOrderError:
                return run_in_progress.visited()[-1]

        def model(host):
            global run_in_progress
            run_in_progress = host.interleaver
            return self.cell(4)(host)

        worker = Worker(Body(body))
        run(model, worker)

        assert worker.value == Site("cell", "input", 1)

    def test_left_by_break_a_request_means_the_next_visit(self):
        def body(_):
            loop, following = steps(range(100))
            yield from following()
            first = yield from read("cell")
            run_in_progress.leave_loop(loop)
            return first, (yield from read("cell", "input")), (yield from read("cell"))

        def model(host):
            global run_in_progress
            run_in_progress = host.interleaver
            return self.cell(4)(host)

        worker = Worker(Body(body))
        run(model, worker)

        assert worker.value == (0, 1, 1)


class TestNamesAndBarriers:
    def test_a_reader_waits_until_no_store_is_left(self):
        def writer(_):
            for i, path in enumerate(("a", "b")):
                earlier.left["x"] = 2 - i
                earlier.names["x"] = yield from read(path)
            earlier.left["x"] = 0
            yield from read("c")

        def reader(_):
            return (yield from ask(AwaitName("x")))

        earlier = Body(writer, ["x"])
        earlier.left["x"] = 2
        later = Worker(Body(reader))
        run(chain, Worker(earlier), later)

        assert later.value == 2

    def test_a_name_that_nobody_bound(self):
        def writer(_):
            return
            yield

        def reader(_):
            return (yield from ask(AwaitName("x")))

        later = Worker(Body(reader))
        run(chain, Worker(Body(writer, ["x"])), later)

        assert later.value is UNBOUND

    def test_only_earlier_blocks_are_waited_for(self):
        def reader(_):
            return (yield from ask(AwaitName("x")))

        def writer(_):
            own.names["x"] = 1
            return
            yield

        own = Body(writer, ["x"])
        first = Worker(Body(reader))
        run(chain, first, Worker(own))

        assert first.value is UNBOUND

    def test_a_wait_that_cannot_end_names_both_lines(self):
        def writer(_):
            yield from ask(Meet(barrier))

        def reader(_):
            yield from ask(AwaitName("x"))
            yield from ask(Meet(barrier))

        barrier = Barrier(2)
        earlier = Body(writer, ["x"])
        earlier.left["x"] = 1

        with pytest.raises(WaitError) as caught:
            run(chain, Worker(earlier), Worker(Body(reader)))

        text = str(caught.value)
        assert f":{line_of(writer, 1)}" in text
        assert f":{line_of(reader, 1)}" in text

    def test_a_barrier_is_used_again(self):
        log = []

        def first(_):
            for path in "abc":
                value = yield from read(path)
                yield from ask(Meet(barrier))
                log.append(("first", value))

        def second(_):
            for path in "abc":
                yield from read(path)
                yield from ask(Meet(barrier))
                log.append(("second", path))

        barrier = Barrier(2)
        run(chain, first, second)

        assert sorted(log, key=str) == [
            ("first", 1),
            ("first", 2),
            ("first", 3),
            ("second", "a"),
            ("second", "b"),
            ("second", "c"),
        ]

    def test_too_few_participants(self):
        def body(_):
            yield from ask(Meet(Barrier(3)))

        with pytest.raises(WaitError, match=r"barrier\(3\) was reached by 1 blocks only"):
            run(chain, body)


class TestCleanliness:
    def test_no_cycles_on_raising_blocks(self):
        class Marker:
            pass

        def body(_):
            held = Marker()
            refs.append(weakref.ref(held))
            yield from read("a")
            raise KeyError

        refs = []
        gc.disable()
        try:
            try:
                run(chain, body)
            except KeyError:
                pass
            run.last.close()
            run.last = None
            assert refs[0]() is None
        finally:
            gc.enable()

    def test_spelling(self):
        sites = [Site("a.0", "output", 2), Site("", "input")]

        assert spell_recent(sites) == "model.a.0.output (visit 2), model.input"
        assert spell_recent([]) == "nothing yet"
        assert spell_recent([Site("a", "input")] * 9).startswith("... model.a.input, ")
