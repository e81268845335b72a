"""Blocks in step with small modules: values, order, ends."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from tracekit import (
    AlreadyEnteredError,
    CannotSuspendError,
    Model,
    NeverRanError,
    NotRunningError,
    OutOfOrderError,
    UnsupportedModuleError,
)
from tracekit._interleave.site import Site

X = torch.arange(4.0).reshape(1, 4)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


class Returns(nn.Module):
    """A module with one child, which gives what it is told."""

    def __init__(self, value):
        super().__init__()
        self.child = Gives(value)

    def forward(self, x):
        return self.child(x)


class Gives(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x) if callable(self.value) else self.value


Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Data:
    first: torch.Tensor
    second: object = None


class Cell(nn.Module):
    """Calls its child several times."""

    def __init__(self, times=3):
        super().__init__()
        self.step = nn.Linear(4, 4)
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = self.step(x)
        return x


class TestTransparent:
    def test_a_block_that_only_reads_changes_nothing(self, clean):
        net = clean(mlp())
        expected = net(X)
        model = Model(net)
        with model.trace(X) as tracer:
            inputs = model[0].input
            hidden = [model[i].output for i in range(3)]
            result = tracer.result

        assert torch.equal(result, expected)
        assert inputs is X
        assert torch.equal(hidden[0], net[0](X))

    def test_gradients_flow_through_what_was_read(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace(X):
            hidden = model[0].output
            out = model.output
        hidden.retain_grad()
        out.sum().backward()

        assert hidden.grad is not None

    def test_an_empty_block_runs_the_model_once(self, clean):
        calls = []
        net = clean(Returns(calls.append))
        with Model(net).trace(X):
            pass

        assert len(calls) == 1

    def test_a_forward_without_inputs(self, clean):
        class Alone(nn.Module):
            def __init__(self):
                super().__init__()
                self.child = nn.Linear(2, 2)

            def forward(self):
                return self.child(torch.ones(1, 2))

        net = clean(Alone())
        model = Model(net)
        with model.trace():
            inputs = model.inputs
            out = model.output

        assert torch.equal(out, net())
        assert inputs == ((), {})

    def test_no_first_input(self, clean):
        class Alone(nn.Module):
            def forward(self):
                return 1

        model = Model(clean(Alone()))
        with pytest.raises(ValueError, match="called without arguments: it has no `.input`"):
            with model.trace():
                model.input

    def test_the_models_own_error_for_a_missing_input(self, clean):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            with Model(clean(mlp())).trace():
                pass


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            (X, None),
            {"a": X},
            OrderedDict(a=X),
            [X],
            Pair(X, 1),
            Data(X),
            "text",
        ],
        ids=lambda v: type(v).__name__,
    )
    def test_the_live_object(self, clean, value):
        model = Model(clean(Returns(value)))
        with model.trace(X) as tracer:
            read = model.child.output
            again = model.child.output
            result = tracer.result

        assert read is value
        assert again is value
        assert result is value

    @pytest.mark.parametrize("value", [None, (X, X), {"b": X}, 3], ids=str)
    def test_any_value_can_be_assigned(self, clean, value):
        model = Model(clean(Returns(X)))
        with model.trace(X) as tracer:
            model.child.output = value
            result = tracer.result

        assert result is value

    def test_edits_in_place_reach_the_model(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace(X) as tracer:
            model[0].output[:] = 0
            result = tracer.result

        assert torch.equal(result, net[2].bias.expand(1, 4))

    def test_inputs_can_be_swapped(self, clean):
        class Minus(nn.Module):
            def forward(self, a, b):
                return a - b

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.minus = Minus()

            def forward(self, a, b):
                return self.minus(a, b=b)

        model = Model(clean(Outer()))
        with model.trace(5, 3):
            args, kwargs = model.minus.inputs
            model.minus.inputs = (kwargs["b"], args[0]), {}
            swapped = model.output

        assert (args, kwargs) == ((5,), {"b": 3})
        assert swapped == -2

    def test_the_first_keyword_is_the_input(self, clean):
        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.child = Gives(lambda x: x)

            def forward(self, v):
                return self.child(x=v)

        model = Model(clean(Outer()))
        with model.trace(1):
            before = model.child.input
            model.child.input = 2
            after = model.output

        assert (before, after) == (1, 2)

    def test_inputs_must_be_a_pair(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(TypeError, match="pair of arguments and keyword arguments"):
            with model.trace(X):
                model[0].inputs = X

    def test_a_parents_output_wins(self, clean):
        model = Model(clean(Returns(1)))
        with model.trace(X) as tracer:
            model.child.output = 2
            model.output = 3
            result = tracer.result

        assert result == 3

    def test_the_result_can_be_assigned(self, clean):
        model = Model(clean(Returns(1)))
        with model.trace(X) as tracer:
            tracer.result = 5
            result = tracer.result

        assert result == 5

    def test_augmented_assignment(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace(X) as tracer:
            model[0].output *= 0
            result = tracer.result

        assert torch.equal(result, net[2].bias.expand(1, 4))


class TestSkip:
    def test_the_module_does_not_run(self, clean):
        calls = []
        model = Model(clean(Returns(calls.append)))
        with model.trace(X) as tracer:
            before = model.child.input
            model.child.skip(7)
            after = model.child.output
            result = tracer.result

        assert calls == []
        assert before is X
        assert (after, result) == (7, 7)

    def test_the_root_can_be_skipped(self, clean):
        model = Model(clean(mlp()))
        with model.trace(X) as tracer:
            model.skip(1)
            result = tracer.result

        assert result == 1

    def test_what_is_inside_says_so(self, clean):
        model = Model(clean(nn.Sequential(mlp(), nn.ReLU())))
        with pytest.raises(NeverRanError, match="did not run") as caught:
            with model.trace(X):
                model[0].skip(X)
                model[0][1].output

        assert caught.value.seen.endswith("`model.0` was skipped")


class TestVisits:
    def test_three_calls_three_reads(self, clean):
        net = clean(Cell())
        model = Model(net)
        with model.trace(X):
            inputs = [model.step.input for _ in range(1)]
            first = model.step.output
            inputs.append(model.step.input)
            second = model.step.output
            inputs.append(model.step.input)
            third = model.step.output

        assert torch.equal(inputs[1], first)
        assert torch.equal(inputs[2], second)
        assert torch.equal(third, net(X))

    def test_a_shared_module_is_one_node(self, clean):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 4)
                self.b = self.a

            def forward(self, x):
                return self.b(self.a(x))

        net = clean(Shared())
        model = Model(net)

        assert model.b is model.a
        assert model.b.path == "a"

        with model.trace(X):
            first = model.a.output
            between = model.b.input
            second = model.b.output

        assert torch.equal(second, net(X))
        assert between is first

    def test_visited(self, clean):
        model = Model(clean(mlp()))
        with model.trace(X) as tracer:
            model[1].output
            during = tracer.visited

        assert during == [Site("1", "input"), Site("1", "output")]
        assert tracer.visited[-1] == Site("", "result")


class TestAdHocCalls:
    def test_a_call_in_a_block_is_no_visit(self, clean):
        """Logit lens: the head is called by hand, and its first visit is still to come."""
        net = clean(mlp())
        model = Model(net)
        with model.trace(X):
            hidden = model[0].output
            lens = model[2](model[1](hidden))
            normal = model[2].output

        assert torch.equal(lens, net(X))
        assert torch.equal(normal, net(X))

    def test_with_hook_other_blocks_see_it(self, clean):
        net = clean(nn.Sequential(mlp(), mlp()))
        model = Model(net)
        with model.trace(X):
            hidden = model[0].output
            model[1](hidden, hook=True)
            after = model[1].output

        assert torch.equal(after, net(X))

    def test_outside_it_is_the_modules(self, clean):
        net = clean(mlp())

        assert torch.equal(Model(net)(X), net(X))


class TestDirectForward:
    def test_served(self, clean):
        class Direct(nn.Module):
            def __init__(self):
                super().__init__()
                self.child = nn.Linear(4, 4)

            def forward(self, x):
                return self.child.forward(x)

        net = clean(Direct())
        model = Model(net)
        with model.trace(X):
            out = model.child.output
            model.child.output = out * 0
            result = model.output

        assert torch.equal(out, net(X))
        assert not result.any()

    def test_a_forward_of_the_instance_is_kept(self, clean):
        net = mlp()
        own = lambda x: x * 2
        net[1].forward = own
        clean(net)
        model = Model(net)
        with model.trace(X):
            doubled = model[1].output

        assert torch.equal(doubled, net[0](X) * 2)
        assert net[1].__dict__["forward"] is own


class TestStop:
    def test_later_modules_do_not_run(self, clean):
        calls = []
        net = nn.Sequential(nn.Linear(4, 4), Gives(calls.append))
        model = Model(clean(net))
        with model.trace(X) as tracer:
            hidden = model[0].output
            tracer.stop()
            hidden = "never"

        assert calls == []
        assert torch.equal(hidden, net[0](X))

    def test_no_handler_of_exceptions_stops_it(self, clean):
        class Swallows(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 4)
                self.b = nn.Linear(4, 4)

            def forward(self, x):
                try:
                    x = self.a(x)
                except Exception:
                    pass
                return self.b(x)

        model = Model(clean(Swallows()))
        seen = []
        with model.trace(X) as tracer:
            model.a.output
            try:
                tracer.stop()
            except Exception:
                seen.append("swallowed")
            seen.append("later")

        assert seen == []

    def test_the_function_form_gives_none(self, clean):
        model = Model(clean(mlp()))

        def block(tracer):
            model[0].output
            tracer.stop()

        assert model.trace(X).run(block) is None

    def test_finally_runs(self, clean):
        model = Model(clean(mlp()))
        log = []
        with model.trace(X) as tracer:
            try:
                tracer.stop()
            finally:
                log.append("finally")

        assert log == ["finally"]

    def test_outside_of_a_run(self):
        tracer = Model(mlp()).trace(X)
        with pytest.raises(NotRunningError):
            tracer.stop()
        tracer.run(lambda: None)


class TestErrors:
    def test_out_of_order_at_the_line(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(OutOfOrderError) as caught:
            with model.trace(X):
                model[2].output
                model[0].output

        line = caught.traceback[-1].lineno + 1
        assert f"test_run.py:{line}, in the block that starts at line {line - 2}" in str(
            caught.value
        )

    def test_a_request_after_the_root_fails_when_made(self, clean):
        model = Model(clean(mlp()))
        with model.trace(X) as tracer:
            model.output
            try:
                model[0].output
            except OutOfOrderError:
                standing = tracer.visited[-1]

        assert standing == Site("", "output")

    def test_a_container_never_runs(self, clean):
        net = nn.Module()
        net.layers = nn.ModuleList([nn.Linear(4, 4)])
        net.forward = lambda x: net.layers[0](x)
        model = Model(clean(net))
        with pytest.raises(NeverRanError, match="ModuleList is a container"):
            with model.trace(X):
                model.layers.output

    def test_a_branch_not_taken(self, clean):
        class Branch(nn.Module):
            def __init__(self):
                super().__init__()
                self.used = nn.Linear(4, 4)
                self.unused = nn.Linear(4, 4)

            def forward(self, x):
                return self.used(x)

        model = Model(clean(Branch()))
        with pytest.raises(NeverRanError, match="`model.unused` did not run") as caught:
            with model.trace(X):
                model.unused.output

        assert "its weights may be used directly" in caught.value.why

    def test_an_error_of_the_model_names_the_edit(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
            with model.trace(X):
                model[1].output = torch.ones(1, 5)

        assert "`model.1.output` had been written by the block" in caught.value.__notes__[0]

    def test_an_error_of_the_block_leaves_nothing(self, clean):
        net = clean(mlp())
        model = Model(net)
        with pytest.raises(ZeroDivisionError):
            with model.trace(X):
                before = model[0].output
                1 / 0

        assert torch.equal(before, net[0](X))

    def test_an_error_says_where_the_model_stood(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(ZeroDivisionError) as caught:
            with model.trace(X):
                model[1].output
                1 / 0

        assert caught.value.__notes__ == ["tracekit: the model stood at `model.1.output`"]

    def test_what_was_visited_when_it_was_asked_for(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(OutOfOrderError) as caught:
            with model.trace(X):
                model[1].output
                model[0].output

        assert caught.value.seen == (
            "sites visited before it was asked for, oldest first: model.1.input, model.1.output"
        )

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    @pytest.mark.parametrize("kind", ["script", "parallel"])
    def test_inside_a_module_that_calls_no_python(self, kind):
        inner = torch.jit.trace(mlp(), X) if kind == "script" else nn.DataParallel(mlp())
        net = nn.Sequential(inner)
        model = Model(net)
        child = model.find("*0.*")[0] if kind == "script" else model[0]["module"][0]
        with pytest.raises(UnsupportedModuleError, match="cannot be served"):
            with model.trace(X):
                child.output

    def test_another_model_is_refused(self, clean):
        model, other = Model(clean(mlp())), Model(clean(mlp()))
        with pytest.raises(NeverRanError, match="belongs to another run"):
            with model.trace(X):
                other[0].output

    def test_a_port_outside_of_a_run(self):
        model = Model(mlp())

        assert not hasattr(model, "output")
        assert getattr(model[0], "output", None) is None
        with pytest.raises(NotRunningError, match="`model.0.output` has a value only while"):
            model[0].output
        with pytest.raises(NotRunningError):
            model[0].output = 1
        with pytest.raises(NotRunningError):
            model[0].skip(1)

    def test_code_that_cannot_wait(self, clean):
        model = Model(clean(mlp()))
        with model.trace(X):
            model[0].output
            here = eval("model[0].output")
            with pytest.raises(CannotSuspendError):
                eval("model[1].output")

        assert here is not None

    def test_entered_once(self, clean):
        tracer = Model(clean(mlp())).trace(X)
        with tracer:
            pass
        with pytest.raises(AlreadyEnteredError):
            with tracer:
                pass

    def test_never_entered(self):
        with pytest.warns(ResourceWarning, match="never entered"):
            Model(mlp()).trace(X)
            gc.collect()

    def test_unhooked_and_running(self, clean):
        """A module that runs inside another one that it does not stand in."""

        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(4, 4)

            def forward(self, x):
                return self.linear(x)

        class Outer(nn.Module):
            def __init__(self, target):
                super().__init__()
                self.target = [target]

            def forward(self, x):
                return self.target[0](x)

        class Root(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Inner()
                self.outer = Outer(self.inner)

            def forward(self, x):
                return self.outer(x)

        model = Model(clean(Root()))
        with pytest.raises(NeverRanError, match="`model.outer` is running already"):
            with model.trace(X):
                model.inner.output
                model.outer.output


class TestOtherRuns:
    def test_a_trace_in_a_block(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace(X):
            outer = model[0].output
            with model.trace(X * 2):
                inner = model[0].output
            last = model[2].output

        assert torch.equal(outer, net[0](X))
        assert torch.equal(inner, net[0](X * 2))
        assert torch.equal(last, net(X))

    def test_a_trace_in_a_hook(self, clean):
        net = mlp()
        model = Model(net)
        found = []

        def hook(module, args, output):
            handle.remove()
            with model.trace(X * 3):
                found.append(model[0].output)

        handle = net[1].register_forward_hook(hook)
        with model.trace(X):
            first = model[0].output
            last = model[2].output

        assert torch.equal(first, net[0](X))
        assert torch.equal(found[0], net[0](X * 3))
        assert torch.equal(last, net(X))

    def test_two_wrappers_of_one_module(self, clean):
        net = clean(mlp())
        one, two = Model(net), Model(net)
        with one.trace(X):
            first = one[0].output
            with two.trace(X * 2):
                second = two[0].output
            third = one[2].output

        assert torch.equal(first, net[0](X))
        assert torch.equal(second, net[0](X * 2))
        assert torch.equal(third, net(X))

    def test_threads(self, clean):
        net = clean(mlp())
        model = Model(net)
        found = {}

        def work(i):
            for _ in range(20):
                x = X * i
                with model.trace(x):
                    hidden = model[0].output
                    out = model.output
                if not (torch.equal(hidden, net[0](x)) and torch.equal(out, net(x))):
                    found[i] = "wrong"
            found.setdefault(i, "right")

        threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert found == dict.fromkeys(range(1, 5), "right")

    def test_a_plain_forward_in_another_thread(self, clean):
        net = clean(mlp())
        model = Model(net)
        found = []
        with model.trace(X):
            model[0].output
            thread = threading.Thread(target=lambda: found.append(net(X * 5)))
            thread.start()
            thread.join()
            mine = model[2].output

        assert torch.equal(found[0], net(X * 5))
        assert torch.equal(mine, net(X))


class TestFn:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x)

        def encode(self, x, scale=1):
            return self.a(x) * scale

        def generate(self, x, steps=3):
            for _ in range(steps):
                x = self(x)
            return x

    @pytest.mark.parametrize("form", ["name", "wrapped", "bound"])
    def test_any_method(self, clean, form):
        net = clean(self.Two())
        model = Model(net)
        fn = {"name": "encode", "wrapped": model.encode, "bound": net.encode}[form]
        with model.trace(X, fn=fn, scale=2) as tracer:
            inner = model.a.output
            result = tracer.result

        assert torch.equal(inner, net.a(X))
        assert torch.equal(result, net.encode(X, scale=2))

    def test_without_a_block(self, clean):
        net = clean(self.Two())

        assert torch.equal(Model(net).trace(X, trace=False), net(X))

    def test_a_childs_trace(self, clean):
        net = clean(nn.Sequential(mlp(), mlp()))
        model = Model(net)
        with model[1].trace(X):
            hidden = model[1][0].output

        assert torch.equal(hidden, net[1][0](X))


class TestUserHooks:
    def test_the_output_is_what_the_caller_gets(self, clean):
        net = mlp()
        net[0].register_forward_hook(lambda module, args, out: out * 2)
        net[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        clean(net)
        model = Model(net)
        with model.trace(X):
            given = model[0].input
            out = model[0].output
            model[0].output = out * 0
            last = model.output

        assert torch.equal(given, X + 1)
        assert torch.equal(out, net[0](X))
        assert torch.equal(last, net[2].bias.expand(1, 4))

    def test_a_global_hook(self, clean):
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, args, out: out + 1 if isinstance(module, nn.ReLU) else None
        )
        try:
            net = clean(mlp())
            model = Model(net)
            with model.trace(X):
                out = model[1].output

            assert torch.equal(out, net[1](net[0](X)))
        finally:
            handle.remove()

    def test_order_is_restored(self, clean):
        net = mlp()
        first = net[0].register_forward_hook(lambda *_: None)
        capture = lambda *_: None
        capture.__module__ = "transformers.utils.output_capturing"
        net[0].register_forward_hook(capture)
        net[0].register_forward_hook(lambda *_: None)
        clean(net)
        before = list(net[0]._forward_hooks)
        model = Model(net)
        with model.trace(X):
            model[0].output

        assert list(net[0]._forward_hooks) == before


class TestNothingHeld:
    def test_a_finished_tracer_holds_nothing(self, clean):
        net = mlp()
        model = Model(net)
        x = X.clone()
        gc.disable()
        try:
            with model.trace(x) as tracer:
                hidden = model[0].output
            refs = [weakref.ref(hidden), weakref.ref(net), weakref.ref(x)]
            del hidden, net, model, x

            assert [ref() for ref in refs] == [None, None, None]
            assert tracer.visited
        finally:
            gc.enable()

    def test_nor_after_an_error(self, clean):
        net = mlp()
        model = Model(net)
        gc.collect()
        gc.disable()
        try:
            try:
                with model.trace(X):
                    hidden = model[0].output
                    1 / 0
            except ZeroDivisionError:
                pass
            refs = [weakref.ref(hidden), weakref.ref(net)]
            del hidden, net, model

            assert [ref() for ref in refs] == [None, None]
        finally:
            gc.enable()
