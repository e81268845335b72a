"""Several inputs in one run, barriers, `keep`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tracekit import InvokeError, Model, OutOfOrderError, Tracer, WaitError

X, Y, Z = torch.ones(1, 4), torch.randn(2, 4), torch.full((1, 4), -1.0)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def same(one, other):
    torch.testing.assert_close(one, other)


class TestInvokes:
    def test_each_sees_its_rows(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                first = model[0].output
            with tracer.invoke(Y):
                given = model.input
                second = model[0].output
            with tracer.invoke():
                whole = model[0].output

        same(first, net[0](X))
        same(second, net[0](Y))
        same(given, Y)
        assert whole.shape == (3, 4)

    def test_an_edit_reaches_its_rows_only(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                model[1].output[:] = 0
                first = model.output
            with tracer.invoke(Y):
                second = model.output

        same(first, net[2].bias.expand(1, 4))
        same(second, net(Y))

    def test_a_replacement_reaches_its_rows_only(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                first = model.output
            with tracer.invoke(Y):
                model[1].output = torch.zeros(2, 4)
                second = model.output
                tracer.result = second + 1
            with tracer.invoke():
                result = tracer.result

        same(first, net(X))
        same(second, net[2].bias.expand(2, 4))
        same(result, torch.cat([first, second + 1]))

    def test_in_a_loop(self, clean):
        net = clean(mlp())
        model = Model(net)
        outs = []
        with model.trace() as tracer:
            for i in range(20):
                with tracer.invoke(X * i):
                    outs.append((i, model.output))

        assert [i for i, _ in outs] == list(range(20))
        for i, out in outs:
            same(out, net(X * i))

    def test_in_a_helper(self, clean):
        net = clean(mlp())
        model = Model(net)
        found = {}

        def add(tracer, name, x):
            with tracer.invoke(x):
                found[name] = model.output

        with model.trace() as tracer:
            add(tracer, "x", X)
            add(tracer, "y", Y)

        same(found["x"], net(X))
        same(found["y"], net(Y))

    def test_skip_by_all(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                model[1].skip(X * 2)
                first = model.output
            with tracer.invoke(Y):
                model[1].skip(Y * 2)
                second = model.output

        same(first, net[2](X * 2))
        same(second, net[2](Y * 2))

    def test_one_invoke_sees_everything(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(Y):
                out = model.output

        same(out, net(Y))

    def test_gradients_of_rows(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                first = model[0].output
                first.retain_grad()
                one = model.output.sum()
            with tracer.invoke(Y):
                model[1].output[:] = 0
                two = model.output.sum()
        one.backward()

        hidden = net[0](X)
        (expected,) = torch.autograd.grad(net[2](net[1](hidden)).sum(), hidden)
        same(first.grad, expected)

    def test_max_rows(self, clean):
        calls = []

        class Counts(nn.Linear):
            def forward(self, x):
                if type(x) is torch.Tensor:
                    calls.append(len(x))
                return super().forward(x)

        net = clean(nn.Sequential(Counts(4, 4)))
        model = Model(net)
        outs = []
        inputs = (X, Y, Z, Y, torch.cat([Y, Y]))
        with model.trace(max_rows=3) as tracer:
            for x in inputs:
                with tracer.invoke(x):
                    outs.append(model.output)

        assert calls == [3, 3, 4]
        for out, x in zip(outs, inputs, strict=True):
            same(out, net(x))

    def test_names_of_two_are_the_later_ones(self, clean):
        model = Model(clean(mlp()))
        with model.trace() as tracer:
            with tracer.invoke(X):
                name = "first"
                model[0].output
            with tracer.invoke(Y):
                name = "second"
                model[2].output

        assert name == "second"

    def test_each_has_the_bindings_of_its_line(self, clean):
        model = Model(clean(mlp()))
        seen = []
        with model.trace() as tracer:
            for word in ("one", "two"):
                with tracer.invoke(X):
                    model.output
                    seen.append(word)

        assert seen == ["one", "two"]


class TestNames:
    """A block that reads what an earlier one binds gets what that block leaves in it."""

    def test_patching_without_a_barrier(self, clean):
        net = clean(mlp())
        model = Model(net)
        hidden = "stale"
        with model.trace() as tracer:
            with tracer.invoke(X):
                hidden = model[1].output
            with tracer.invoke(Z):
                model[1].output = hidden
                out = model.output

        same(out, net(X))

    def test_in_blocks_and_functions_inside_of_it(self, clean):
        net = clean(mlp())
        model, other = Model(net), Model(mlp())
        plain = net[1](net[0](X))
        a = b = c = d = "stale"
        with model.trace() as tracer:
            with tracer.invoke(X):
                first = model[0].output
                a = b = c = model[1].output
                with other.trace(X):
                    d = other[1].output
            with tracer.invoke(X):
                first = model[0].output
                with other.trace(X):
                    other[1].output = a
                    inside = other[1].output
                with Tracer():
                    again = b
            with tracer.invoke(X):
                model[0].output
                found = max([c], key=lambda value: value is c)
                of_a_block = d

        same(inside, plain)
        same(again, plain)
        same(found, plain)
        same(of_a_block, other._module[1](other._module[0](X)))

    def test_in_the_blocks_inside_of_it_in_a_namespace(self, clean):
        names = {"model": Model(clean(mlp())), "other": Model(mlp()), "X": X, "a": "stale"}
        names["b"] = "stale"
        exec(
            "with model.trace() as t:\n"
            "    with t.invoke(X):\n"
            "        model[0].output\n"
            "        a = model[1].output\n"
            "        with other.trace(X): b = other[1].output\n"
            "    with t.invoke(X):\n"
            "        model[0].output\n"
            "        with other.trace(X): found = a\n"
            "        by_function = (lambda: b)()\n",
            names,
        )

        same(names["found"], names["a"])
        same(names["by_function"], names["b"])

    def test_a_name_that_a_block_inside_of_it_binds_first_is_not_waited_for(self, clean):
        model, other = Model(clean(mlp())), Model(mlp())
        with model.trace() as tracer:
            with tracer.invoke(X):
                h = model[2].output
            with tracer.invoke(Z):
                with other.trace(X):
                    h = other[0].output
                    shape = h.shape
                early = model[0].output

        assert early.shape == shape

    def test_the_last_value_of_a_loop(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                for i in range(3):
                    value = model[i].output
            with tracer.invoke(Z):
                model.output = value * 1
                out = model.output

        same(out, net(X))

    def test_over_several_runs(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace(max_rows=1) as tracer:
            with tracer.invoke(X):
                hidden = model[1].output
            with tracer.invoke(Z):
                model[1].output = hidden
                out = model.output

        same(out, net(X))

    def test_its_own_binding_comes_first(self, clean):
        net = clean(mlp())
        model = Model(net)
        with model.trace() as tracer:
            with tracer.invoke(X):
                first = model[0].output
                name = model[2].output
            with tracer.invoke(Z):
                name = model[0].output
                mine = name

        same(mine, net[0](Z))
        same(first, net[0](X))

    def test_a_later_one_is_not_waited_for(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(UnboundLocalError):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    model.output = later
                with tracer.invoke(Z):
                    later = model[0].output

    def test_a_name_that_comes_too_late_is_named_with_both_lines(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(OutOfOrderError, match="waited for the name `hidden`") as caught:
            with model.trace() as tracer:
                with tracer.invoke(X):
                    hidden = model[2].output
                with tracer.invoke(Z):
                    model[0].output = hidden

        binds = caught.traceback[0].frame.code.firstlineno + 6
        assert f"test_tracers.py:{binds + 2} waited" in str(caught.value)
        assert f"binds at {__file__}:{binds};" in str(caught.value)

    def test_a_name_that_is_never_bound_is_named_with_both_lines(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(NameError) as caught, model.trace() as tracer:
            with tracer.invoke(X):
                if model[0].output is None:
                    never = 1
            with tracer.invoke(Z):
                print(never)

        binds = caught.traceback[0].frame.code.firstlineno + 6
        assert caught.traceback[0].lineno + 1 == binds + 2
        assert (
            f"the block at {__file__}:{binds} could have bound `never`"
            in (caught.value.__notes__[-1])
        )

    def test_an_item_that_is_not_there_yet_is_explained(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(IndexError) as caught, model.trace() as tracer:
            with tracer.invoke(X):
                found = []
                for layer in model:
                    found.append(layer.output)
            with tracer.invoke(Z):
                model[1].output = found[1]

        assert "an earlier block, which may yet add" in caught.value.__notes__[-1]

        with model.trace() as tracer:
            with tracer.invoke(X):
                found = []
                for layer in model:
                    found.append(layer.output)
            with tracer.invoke(Z):
                for number, layer in enumerate(model):
                    layer.output
                    layer.output = found[number]
                out = model.output
        same(out, found[-1])


class TestRefusals:
    def test_in_a_trace_with_an_input(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(InvokeError, match="in the block of a `trace` that has an input"):
            with model.trace(X) as tracer:
                with tracer.invoke(X):
                    pass

    def test_inside_an_invoke(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(InvokeError, match="inside another invoke"):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    with tracer.invoke(X):
                        pass

    def test_a_request_between_invokes(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(InvokeError, match="`model.0.output` is asked for between invokes"):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    pass
                model[0].output

    def test_after_the_block(self):
        model = Model(mlp())
        with model.trace(X) as tracer:
            pass
        with pytest.raises(InvokeError, match="outside of its tracer's block"):
            with tracer.invoke(X):
                pass


class TestEnds:
    def test_an_error_in_one_ends_the_run(self, clean):
        model = Model(clean(mlp()))
        log = []
        with pytest.raises(ZeroDivisionError):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    kept = model[0].output
                    try:
                        model.output
                    finally:
                        log.append("unwound")
                with tracer.invoke(Y):
                    model[1].output
                    1 / 0

        assert log == ["unwound"]
        assert kept.shape == (1, 4)

    def test_stop_ends_all(self, clean):
        model = Model(clean(mlp()))
        log = []
        with model.trace() as tracer:
            with tracer.invoke(X):
                model[0].output
                log.append("first")
                tracer.stop()
            with tracer.invoke(Y):
                model[0].output
                log.append("second")
                model[2].output
                log.append("never")

        assert log == ["first", "second"]

    def test_an_error_between_invokes(self, clean):
        model = Model(clean(mlp()))
        ran = []
        with pytest.raises(ZeroDivisionError):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    ran.append(1)
                1 / 0

        assert ran == []


class TestBarrier:
    def test_values_cross_it(self, clean):
        net = clean(mlp())
        model = Model(net)
        box = []
        with model.trace() as tracer:
            barrier = tracer.barrier(2)
            with tracer.invoke(X):
                box.append(model[1].output)
                barrier()
            with tracer.invoke(Z):
                barrier()
                model[1].output = box[0]
                out = model.output

        same(out, net(X))

    def test_a_name_is_read_as_it_stands(self, clean):
        """Each round gives what is bound then, not what is bound last."""
        net = clean(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))))
        model = Model(net)
        found = []
        own = "own"
        with model.trace() as tracer:
            together = tracer.barrier(2)
            with tracer.invoke(X):
                for layer in model:
                    value = layer.output
                    own = 7
                    together()
            with tracer.invoke(Z):
                own = "mine"
                for _ in range(4):
                    together()
                    found.append(value)
                    kept = own

        expected = [net[: n + 1](X) for n in range(4)]
        same(torch.stack(found), torch.stack(expected))
        assert kept == "mine"

    def test_too_many_participants(self, clean):
        model = Model(clean(mlp()))
        with pytest.raises(WaitError, match=r"barrier\(3\) was reached by 2 blocks"):
            with model.trace() as tracer:
                barrier = tracer.barrier(3)
                with tracer.invoke(X):
                    barrier()
                with tracer.invoke(Z):
                    barrier()


class TestKeep:
    def test_saved_only(self, clean):
        model = Model(clean(mlp()))
        lost = kept = "before"
        with model.trace(X, keep="saved"):
            lost = model[0].output
            kept = model[1].output.save()

        assert lost == "before"
        assert kept.shape == (1, 4)

    def test_saved_in_invokes(self, clean):
        model = Model(clean(mlp()))
        lost = kept = "before"
        with model.trace(keep="saved") as tracer:
            with tracer.invoke(X):
                lost = model[0].output
            with tracer.invoke(Y):
                kept = model[1].output.save()

        assert lost == "before"
        assert kept.shape == (2, 4)

    def test_other_words_are_refused(self):
        with pytest.raises(ValueError, match="keep is"):
            Model(mlp()).trace(X, keep="some")
