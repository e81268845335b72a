"""Gradients in blocks: equal to autograd's, in order, replaced, by rows; torch as it was."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from tracekit import Model, NeverRanError, NoGradientError, NotRunningError, OutOfOrderError
from tracekit import backward as tracekit_backward
from tracekit._torch import hooks
from tracekit._vocabulary import gradients
from tracekit._vocabulary.gradients import BackwardsTracer, BackwardTracer

X = torch.linspace(-1.0, 1.0, 8).reshape(2, 4)
BACKWARD = torch.Tensor.backward
GRAD = torch.Tensor.grad


@pytest.fixture(autouse=True)
def as_found():
    yield
    assert torch.Tensor.backward is BACKWARD
    assert torch.Tensor.grad is GRAD
    assert torch._C._is_multithreading_enabled()
    assert gradients._active.hosts == []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 2)

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


def net():
    torch.manual_seed(0)
    return Net()


def by_autograd(module, x=X, change=None):
    """The gradients of the outputs of the three layers."""
    seen = []

    def keep(m, a, out):
        seen.append(out)

    handles = [child.register_forward_hook(keep) for child in module.children()]
    loss = module(x).square().sum()
    for handle in handles:
        handle.remove()
    return torch.autograd.grad(loss, seen)


class TestEqualsAutograd:
    def test_in_a_block(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            a = model.first.output
            b = model.second.output
            c = model.third.output
            with model.output.square().sum().backward():
                gradients = [t.grad for t in (c, b, a)]

        assert all(map(torch.equal, gradients[::-1], by_autograd(module)))
        assert a.grad_fn is not None

    def test_outside(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            a, b = model.first.output, model.second.output
            loss = model.output.square().sum()
        with tracekit_backward(loss):
            second = b.grad
            first = a.grad

        expected = by_autograd(module)
        assert torch.equal(first, expected[0])
        assert torch.equal(second, expected[1])

    @given(
        ops=st.lists(
            st.tuples(st.integers(0, 5), st.integers(0, 99), st.integers(0, 99)),
            min_size=1,
            max_size=12,
        ),
        picks=st.sets(st.integers(0, 99), max_size=6),
    )
    def test_any_graph(self, ops, picks):
        torch.manual_seed(1)
        values = [torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)]
        for kind, i, j in ops:
            a, b = values[i % len(values)], values[j % len(values)]
            if kind == 0:
                values.append(a + b)
            elif kind == 1:
                values.append(a * b)
            elif kind == 2:
                values.append(torch.tanh(a))
            elif kind == 3:
                values.extend(torch.cat([a, b]).split(3))
            elif kind == 4:
                values.append(a - b.mean(0))
            else:
                values.append(a.clone())
        loss = sum(value.square().mean() for value in values[-2:])
        chosen = sorted({pick % len(values) for pick in picks}, reverse=True)
        # Leaves get theirs at the end, in no order of their own.
        inner = [values[i] for i in chosen if i > 1]
        expected = (
            torch.autograd.grad(loss, inner, retain_graph=True, allow_unused=True) if inner else []
        )
        inner = [t for t, g in zip(inner, expected) if g is not None]
        expected = [g for g in expected if g is not None]
        leaves = torch.autograd.grad(loss, values[:2], retain_graph=True, allow_unused=True)
        found = []
        with tracekit_backward(loss):
            for value in inner:
                found.append(value.grad)

        assert all(map(torch.allclose, found, expected))
        for leaf, gradient in zip(values[:2], leaves):
            assert (leaf.grad is None and gradient is None) or torch.allclose(leaf.grad, gradient)

    @given(factors=st.lists(st.floats(-3, 3), min_size=3, max_size=3), rows=st.integers(1, 3))
    def test_replaced_gradients_flow_on(self, factors, rows):
        module = net()
        model = Model(module)
        x = torch.randn(rows, 4)
        with model.trace(x):
            a, b, c = (layer.output for layer in (model.first, model.second, model.third))
            with model.output.sum().backward():
                c.grad = c.grad * factors[2]
                b.grad *= factors[1]
                a.grad.mul_(factors[0])
        mine = [parameter.grad.clone() for parameter in module.parameters()]
        module.zero_grad()
        handles = []
        for layer, factor in zip(module.children(), factors, strict=True):

            def scale(m, a, out, factor=factor):
                out.register_hook(lambda g: g * factor)

            handles.append(layer.register_forward_hook(scale))
        module(x).sum().backward()

        for gradient, parameter in zip(mine, module.parameters(), strict=True):
            assert torch.allclose(gradient, parameter.grad)

    def test_parameters_accumulate_as_ever(self, clean):
        module = clean(net())
        model = Model(module)
        for _ in range(2):
            with model.trace(X):
                a = model.first.output
                with model.output.square().sum().backward():
                    a.grad
        twice = [parameter.grad.clone() for parameter in module.parameters()]
        module.zero_grad()
        module(X).square().sum().backward()

        for gradient, parameter in zip(twice, module.parameters(), strict=True):
            assert torch.allclose(gradient, parameter.grad * 2)

    def test_outputs_of_one_operation_in_any_order(self):
        x = torch.randn(2, 6, requires_grad=True)
        q, k, v = (x * 2).split(2, -1)
        loss = (q * 1 + k * 2 + v * 3).sum()
        with tracekit_backward(loss):
            found = [q.grad, v.grad, k.grad]

        assert [gradient[0, 0].item() for gradient in found] == [1, 3, 2]

    def test_a_leaf(self):
        w = torch.ones(3, requires_grad=True)
        w.grad = torch.full((3,), 10.0)
        with tracekit_backward((w * 2).sum()):
            gradient = w.grad
            w.grad = gradient * 3

        assert torch.equal(gradient, torch.full((3,), 2.0))
        assert torch.equal(w.grad, torch.full((3,), 16.0))

    def test_the_loss_itself(self):
        w = torch.ones(3, requires_grad=True)
        loss = (w * 2).sum()
        with tracekit_backward(loss, torch.tensor(5.0)):
            gradient = loss.grad
        assert gradient == 5
        assert torch.equal(w.grad, torch.full((3,), 10.0))

    @pytest.mark.filterwarnings("ignore:Using backward")
    def test_with_a_graph_of_its_own(self):
        x = torch.tensor([2.0], requires_grad=True)
        y = x * 1
        with tracekit_backward((y**3).sum(), create_graph=True):
            gradient = y.grad
        second = torch.autograd.grad(gradient.sum(), x)[0]

        assert torch.equal(second, torch.tensor([12.0]))

    def test_inputs(self):
        a = torch.ones(2, requires_grad=True)
        b = torch.ones(2, requires_grad=True)
        y = a * b
        with tracekit_backward(y.sum(), inputs=[a]):
            gradient = y.grad
        assert torch.equal(gradient, torch.ones(2))
        assert b.grad is None and a.grad is not None


class TestEdits:
    def test_one_branch_only(self):
        # Addition gives one and the same tensor to both of its operands.
        x = torch.ones(3, requires_grad=True)
        a, b = x * 1, x * 1
        with tracekit_backward((a + b).sum()):
            a.grad.zero_()

        assert torch.equal(x.grad, torch.ones(3))

    def test_what_was_read_stays_as_it_was(self):
        w = torch.ones(2, requires_grad=True)
        y = w * 1
        with tracekit_backward(y.sum(), retain_graph=True):
            first = w.grad
        (y.sum() * 3).backward()
        assert torch.equal(first, torch.ones(2))
        assert torch.equal(w.grad, torch.full((2,), 4.0))

    def test_written_then_read(self):
        w = torch.ones(2, requires_grad=True)
        y = w * 1
        with tracekit_backward(y.sum()):
            y.grad = torch.zeros(2)
            again = y.grad
            y.grad += 4

        assert again.sum() == 8  # the gradient itself: edited in place afterwards
        assert torch.equal(w.grad, torch.full((2,), 4.0))

    @pytest.mark.parametrize(
        ("value", "error"), [(torch.ones(3), ValueError), (2.0, TypeError), (None, TypeError)]
    )
    def test_what_does_not_fit(self, value, error):
        w = torch.ones(2, requires_grad=True)
        y = w * 1
        with pytest.raises(error, match="replaced by"):
            with tracekit_backward(y.sum()):
                y.grad = value


class TestErrors:
    def test_out_of_order_names_the_site(self, clean):
        model = Model(clean(net()))
        with pytest.raises(OutOfOrderError) as caught:
            with model.trace(X):
                a = model.first.output
                b = model.second.output
                with model.output.sum().backward():
                    a.grad
                    b.grad
        assert "the gradient of `model.second.output` was asked for" in str(caught.value)
        assert "served so far, oldest first: `model.first.output`" in str(caught.value)
        assert "test_gradients.py:" in caught.value.where
        assert caught.traceback[-1].frame.code.path.name == "test_gradients.py"

    def test_out_of_order_outside(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        b = a * 2
        with pytest.raises(OutOfOrderError, match=r"a tensor float32\[2\]"):
            with tracekit_backward(b.sum()):
                a.grad
                b.grad

    def test_it_can_be_caught(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        b = a * 2
        with tracekit_backward(b.sum()):
            first = a.grad
            try:
                b.grad
            except OutOfOrderError:
                caught = True
            last = x.grad
        assert caught
        assert torch.equal(last, torch.full((2,), 4.0))

    def test_an_unrelated_tensor(self):
        x = torch.ones(2, requires_grad=True)
        other = x * 5
        with pytest.raises(NoGradientError, match="does not depend on it"):
            with tracekit_backward((x * 2).sum()):
                other.grad

    def test_no_gradient_at_all(self, clean):
        model = Model(clean(net()))
        with pytest.raises(NoGradientError, match=r"`model.first.input` has no gradient"):
            with model.trace(X):
                x = model.first.input
                with model.output.sum().backward():
                    x.grad

    def test_an_error_in_the_block(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        with pytest.raises(ZeroDivisionError) as caught:
            with tracekit_backward(a.sum()):
                gradient = a.grad
                1 / 0
        assert caught.traceback[-1].frame.code.path.name == "test_gradients.py"
        assert torch.equal(gradient, torch.ones(2))
        assert x.grad is None

    def test_an_error_in_the_pass(self):
        class Fails(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                raise KeyError("in backward")

        x = torch.ones(2, requires_grad=True)
        a = x * 2
        ended = []
        with pytest.raises(KeyError, match="in backward"):
            with tracekit_backward(Fails.apply(a).sum()):
                try:
                    a.grad
                finally:
                    ended.append(1)
        assert ended == [1]

    def test_a_graph_that_is_gone(self):
        x = torch.ones(2, requires_grad=True)
        y = (x * x).sum()
        y.backward()
        with pytest.raises(RuntimeError, match="second time"):
            with tracekit_backward(y):
                x.grad

    def test_values_of_the_model_are_read_before(self, clean):
        model = Model(clean(net()))
        with pytest.raises(NeverRanError, match="read the value before this block begins"):
            with model.trace(X):
                h = model.first.output
                with h.sum().backward():
                    model.third.output


class TestPasses:
    def test_a_plain_statement_runs_at_once(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            h = model.first.output
            returned = h.sum().backward(retain_graph=True)
            so_far = module.first.weight.grad.clone()
            backward = h.sum().backward
            backward()

        assert returned is None
        assert torch.equal(module.first.weight.grad, so_far * 2)

    def test_several(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            a = model.first.output
            out = model.output
            found = []
            for k in range(2):
                with out[:, k].sum().backward(retain_graph=True):
                    found.append(a.grad)
        expected = [torch.autograd.grad(out[:, k].sum(), a, retain_graph=True)[0] for k in range(2)]
        assert all(map(torch.equal, found, expected))

    def test_nested(self, clean):
        model = Model(clean(net()))
        with model.trace(X):
            a = model.first.output
            b = model.second.output
            out = model.output
            with out.sum().backward(retain_graph=True):
                outer_b = b.grad
                with (out * 3).sum().backward(retain_graph=True):
                    inner_b = b.grad
                    inner_a = a.grad
                outer_a = a.grad

        assert torch.allclose(inner_b, outer_b * 3, atol=1e-6)
        assert torch.allclose(inner_a, outer_a * 3, atol=1e-6)

    def test_a_plain_pass_in_the_block_is_not_served(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        b = a * 2
        with tracekit_backward(b.sum(), retain_graph=True):
            b.grad
            (b.sum() * 7).backward(retain_graph=True)
            gradient = a.grad
        assert torch.equal(gradient, torch.full((2,), 2.0))

    def test_the_names_after_it(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        with tracekit_backward(a.sum()) as tracer:
            g = a.grad
        assert isinstance(tracer, BackwardsTracer)
        assert BackwardTracer is BackwardsTracer
        assert tracer.tensor is None
        assert torch.equal(g, torch.ones(2))
        assert a.grad_fn is not None

    def test_the_function_form(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        assert torch.equal(tracekit_backward(a.sum()).run(lambda: a.grad), torch.ones(2))

    def test_helpers_and_comprehensions_in_the_block(self):
        x = torch.ones(2, requires_grad=True)
        layers = [x * 2]
        for _ in range(3):
            layers.append(layers[-1] * 2)

        def grad_of(t):
            return t.grad

        with tracekit_backward(layers[-1].sum()):
            found = [grad_of(t) for t in reversed(layers)]
        assert [g[0].item() for g in found] == [1, 2, 4, 8]

    def test_stop(self, clean):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        with tracekit_backward(a.sum()) as tracer:
            gradient = a.grad
            tracer.stop()
            never = 1
        assert x.grad is None
        assert "never" not in locals()
        with pytest.raises(NotRunningError):
            tracer.stop()

    def test_stopping_the_run_around_it(self, clean):
        model = Model(clean(net()))
        after = []
        with model.trace(X) as tracer:
            h = model.first.output
            with h.sum().backward():
                tracer.stop()
            after.append(1)
        assert after == []

    def test_zero_grad_in_a_block(self, clean):
        module = clean(net())
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        with Model(module).trace(X) as tracer:
            loss = tracer.result.sum()
            with loss.backward():
                optimizer.zero_grad()
            optimizer.step()
        assert module.first.weight.grad is not None


class TestBeside:
    """Values of the model in the block of a backward pass."""

    def test_what_stands_where_the_model_stands(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            hidden = model.first.output
            with hidden.sum().backward(retain_graph=True):
                grad = hidden.grad
                again = model.first.output
                model.first.output = torch.zeros_like(hidden)
            out = model.output

        assert again is hidden
        assert torch.equal(grad, torch.ones_like(hidden))
        with model.trace(X):
            model.first.output = torch.zeros(2, 6)
            expected = model.output
        assert torch.equal(out, expected)

    def test_a_later_one_belongs_to_the_run_around_it(self, clean):
        model = Model(clean(net()))
        with pytest.raises(NeverRanError, match="belongs to another run"):
            with model.trace(X):
                hidden = model.first.output
                with hidden.sum().backward():
                    later = model.second.output


class TestRows:
    def test_of_invokes(self, clean):
        module = clean(net())
        model = Model(module)
        one, two = torch.randn(1, 4), torch.randn(2, 4)
        with model.trace() as tracer:
            with tracer.invoke(one):
                a = model.first.output
                with model.output.square().sum().backward(retain_graph=True):
                    ga = a.grad
            with tracer.invoke(two):
                b = model.first.output
                with model.output.square().sum().backward(retain_graph=True):
                    gb = b.grad

        assert ga.shape == (1, 6)
        assert torch.allclose(ga, by_autograd(module, one)[0])
        assert torch.allclose(gb, by_autograd(module, two)[0])

    def test_one_loss_of_two_invokes(self, clean):
        module = clean(net())
        model = Model(module)
        one, two = torch.randn(1, 4), torch.randn(2, 4)
        a = first = "stale"
        with model.trace() as tracer:
            with tracer.invoke(one):
                a = model.first.output
                first = model.output.square().sum()
            with tracer.invoke(two):
                b = model.first.output
                with (model.output.square().sum() + first).backward():
                    gb = b.grad
                    ga = a.grad

        assert torch.allclose(ga, by_autograd(module, one)[0])
        assert torch.allclose(gb, by_autograd(module, two)[0])

    def test_attribution_patching(self, clean):
        module = clean(net())
        model = Model(module)
        clean_x, corrupt = torch.randn(1, 4), torch.randn(1, 4)
        with model.trace() as t:
            with t.invoke(clean_x):
                a = [each.output for each in (model.first, model.second)]
            with t.invoke(corrupt):
                b = []
                for layer in (model.first, model.second):
                    b.append(layer.output)
                with model.output.sum().backward():
                    g = [x.grad for x in reversed(b)][::-1]
        node = [((x - y) * d).sum(-1) for x, y, d in zip(a, b, g, strict=True)]

        assert all(score.shape == (1,) for score in node)
        h = module.first(corrupt).detach().requires_grad_()
        out = module.third(torch.tanh(module.second(torch.tanh(h)))).sum()
        assert torch.allclose(g[0], torch.autograd.grad(out, h)[0])

    def test_integrated_gradients(self, clean):
        module = clean(net())
        model = Model(module)
        g = 0
        steps = 16
        for alpha in (torch.arange(steps) + 0.5) / steps:
            with model.trace(X[:1]):
                e0 = model.first.output
                e = (alpha * e0).detach().requires_grad_()
                model.first.output = e
                with model.output[0, 0].backward():
                    g = g + e.grad
        attribution = (e0 * g / steps).sum()
        base = module.third(torch.tanh(module.second(torch.zeros(1, 6))))[0, 0]

        assert torch.allclose(attribution, module(X[:1])[0, 0] - base, atol=1e-2)


class TestSurroundings:
    def test_checkpointed_layers(self, clean):
        class Checkpointed(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = net()

            def forward(self, x):
                return checkpoint(self.inner, x, use_reentrant=False)

        module = clean(Checkpointed())
        model = Model(module)
        x = X.clone().requires_grad_()
        with model.trace(x) as tracer:
            h = model.inner.first.output
            out = model.inner.output
            with model.output.square().sum().backward():
                gradient = out.grad
            visited = [str(site) for site in tracer.visited if site.port == "output"]

        assert torch.equal(gradient, by_autograd(module.inner)[2])
        assert visited.count("model.inner.first.output") == 1

    def test_modes_are_the_blocks(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        with tracekit_backward(a.sum()):
            gradient = a.grad
            enabled = torch.is_grad_enabled()
            made = x * 3
        assert enabled and made.requires_grad

    def test_a_users_tensor_hook_comes_first(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        a.register_hook(lambda g: g * 10)
        with tracekit_backward(a.sum()):
            gradient = a.grad
        assert torch.equal(gradient, torch.full((2,), 10.0))

    def test_another_thread_has_its_own_grad(self):
        import threading

        x = torch.ones(2, requires_grad=True)
        y = torch.ones(2, requires_grad=True)
        y.grad = torch.zeros(2)
        a = x * 2
        seen = []

        def other():
            seen.append(y.grad)

        with tracekit_backward(a.sum()):
            a.grad
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert seen[0] is y.grad

    def test_hooks_are_gone(self):
        x = torch.ones(2, requires_grad=True)
        a = x * 2
        loss = a.sum()
        served = []
        with tracekit_backward(loss, retain_graph=True):
            served.append(a.grad)
        loss.backward(retain_graph=True)
        assert len(served) == 1
        assert torch.equal(x.grad, torch.full((2,), 4.0))

    def test_passes_leave_nothing(self, clean):
        module = clean(net())
        model = Model(module)
        gc.collect()
        gc.disable()
        try:
            for turn in range(500):
                with model.trace(X):
                    a = model.first.output
                    with model.output.sum().backward():
                        gradient = a.grad
                        a.grad = gradient * 2
                alive = weakref.ref(a)
                if turn == 20:
                    before = len(gc.get_objects())
            after = len(gc.get_objects())
            del a, gradient
            assert alive() is None
        finally:
            gc.enable()

        assert after - before < 50
        assert {} == hooks.HOOKED


def test_a_backward_that_is_an_argument_in_a_with_line_is_a_plain_one() -> None:
    """Only the call that the `with` enters opens a block."""
    from contextlib import nullcontext

    net = torch.nn.Linear(2, 2)
    model = Model(net)
    with model.trace(torch.ones(1, 2)):
        loss = model.output.sum()
        with nullcontext(loss.backward()) as got:
            pass

    assert got is None
    assert net.weight.grad is not None
