"""Stored edits: replayed in every forward, equal to inline edits, on the tree, removable."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import warnings
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tracekit import (
    InvokeError,
    Model,
    NeverRanError,
    NotRunningError,
    OutOfOrderError,
    UnsupportedModuleError,
)
from tracekit._torch import hooks
from tracekit._vocabulary.edits import Edit

X = torch.linspace(-1.0, 1.0, 8).reshape(2, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(4, 4)
        self.mlp = nn.Linear(4, 4)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def three(self, x):
        return [self(x) for _ in range(3)]


def net():
    torch.manual_seed(0)
    return Net()


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(4):
            x = self.step(x)
        return x


def inline(module, **changes):
    """The output of a module, some of whose children have their outputs changed by a function."""
    handles = [
        module.get_submodule(path.replace("_", ".")).register_forward_hook(
            lambda m, a, out, change=change: change(out)
        )
        for path, change in changes.items()
    ]
    try:
        return module(X)
    finally:
        for handle in handles:
            handle.remove()


PATHS = [f"layers.{i}.{part}" for i in range(3) for part in ("attn", "mlp")] + ["head"]


class TestEqualsInline:
    @given(
        picks=st.lists(
            st.tuples(st.sampled_from(PATHS), st.sampled_from("*+="), st.floats(-2, 2)),
            max_size=5,
        ),
        split=st.integers(0, 5),
    )
    def test_any_edits(self, picks, split):
        module = net()
        model = Model(module)
        picks.sort(key=lambda pick: PATHS.index(pick[0]))

        def apply(model, picks):
            for path, how, number in picks:
                node = model.get(path)
                if how == "*":
                    node.output = node.output * number
                elif how == "+":
                    node.output += number
                else:
                    node.output = torch.full_like(node.output, number)

        with model.trace(X):
            apply(model, picks)
            expected = model.output
        # Stacked: the first ones in one edit, the others in a second.
        with model.edit() as (tracer, first):
            apply(first, picks[:split])
        with first.edit() as (tracer, edited):
            apply(edited, picks[split:])
        with edited.trace(X):
            traced = edited.output

        assert torch.equal(edited(X), expected)
        assert torch.equal(traced, expected)
        assert torch.equal(edited.as_module()(X), expected)
        assert torch.equal(edited.trace(X, trace=False), expected)
        assert torch.equal(model(X), module(X))

    def test_the_trace_sees_what_the_edit_has_done(self, clean):
        module = clean(net())
        model = Model(module)
        with model.edit() as (tracer, edited):
            edited.layers[0].output[:] = 1
        with edited.trace(X):
            seen = edited.layers[0].output.clone()
            edited.layers[0].output *= 2
            out = edited.output

        assert torch.equal(seen, torch.ones(2, 4))
        assert torch.equal(out, inline(module, layers_0=lambda o: torch.full_like(o, 2)))

    def test_a_skip_and_an_input(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            edited.layers[0].input = X * 2
            edited.layers[1].skip(torch.ones(2, 4))

        assert torch.equal(edited(X), module.head(module.layers[2](torch.ones(2, 4))))

    def test_the_original_in_the_block_means_the_edited_one(self, clean):
        module = clean(net())
        model = Model(module)
        layers = [model.layers[0]]
        with model.edit() as (tracer, edited):
            model.layers[0].output *= 0
            layers[0].output += 1

        assert torch.equal(edited(X), inline(module, layers_0=torch.ones_like))
        assert torch.equal(model(X), module(X))

    def test_with_invokes(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            edited.layers[0].output *= 0
        with edited.trace() as tracer:
            with tracer.invoke(X[:1]):
                first = edited.layers[0].output.clone()
                edited.layers[0].output += 1
            with tracer.invoke(X):
                second = edited.output

        assert torch.equal(first, torch.zeros(1, 4))
        assert torch.allclose(second, inline(module, layers_0=lambda o: o * 0))


class TestWhere:
    def test_on_a_child_seen_from_above(self, clean):
        module = clean(net())
        model = Model(module)
        expected = inline(module, layers_1_mlp=torch.zeros_like)
        with model.layers[1].edit(inplace=True) as tracer:
            model.layers[1].mlp.output[:] = 0

        assert torch.equal(model(X), expected)
        with model.trace(X):
            out = model.output
        assert torch.equal(out, expected)
        h = torch.ones(2, 4)
        assert torch.equal(model.layers[1](h), h + module.layers[1].attn(h))
        assert [edit.path for edit in model.edits] == ["layers.1"]
        assert [] == model.layers[0].edits

    def test_a_copy_made_from_a_child(self, clean):
        module = clean(net())
        model = Model(module)
        with model.layers[1].edit() as (tracer, part):
            part.mlp.output[:] = 0
        h = torch.ones(2, 4)

        assert part.path == "layers.1"
        assert torch.equal(part(h), h + module.layers[1].attn(h))
        assert torch.equal(part.root(X), inline(module, layers_1_mlp=torch.zeros_like))
        assert torch.equal(model(X), module(X))

    def test_not_counted_below_itself(self, clean):
        model = Model(clean(net()))
        with model.edit(inplace=True) as tracer:
            model.layers[0].output[:] = 0
        h = torch.ones(2, 4)
        with model.layers[2].trace(h):
            out = model.layers[2].output

        assert torch.equal(out, model.layers[2]._module(h))

    def test_every_visit_of_the_module_it_is_on(self, clean):
        module = clean(Cell())
        model = Model(module)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with model.step.edit(inplace=True) as tracer:
                model.step.output[:] = model.step.input + 1

            assert torch.allclose(model(X), X + 4)

    def test_the_first_visit_from_above(self, clean):
        module = clean(Cell())
        model = Model(module)
        with model.edit(inplace=True) as tracer:
            model.step.output[:] = 0

        expected = torch.zeros(2, 4)
        for _ in range(3):
            expected = module.step(expected)
        assert torch.equal(model(X), expected)

    def test_all_visits_with_steps(self, clean):
        module = clean(Cell())
        model = Model(module)
        with model.edit(inplace=True) as tracer:
            for step in tracer.iter[:]:
                model.step.output[:] = model.step.input + step

        assert torch.allclose(model(X), X + 6)


class TestSteps:
    def test_in_every_forward(self, clean):
        module = clean(net())
        expected = inline(module, layers_0=torch.zeros_like)
        with Model(module).edit() as (tracer, edited):
            edited.layers[0].output[:] = 0
        with edited.trace(X, fn="three") as tracer:
            seen = []
            for step in tracer.iter[:]:
                seen.append(edited.layers[0].output.sum().item())
            outs = tracer.result

        assert seen == [0, 0, 0]
        assert all(torch.equal(out, expected) for out in outs)
        assert all(torch.equal(out, expected) for out in edited.three(X))

    def test_unless_it_opens_steps_itself(self, clean):
        module = clean(net())
        expected = inline(module, layers_0=torch.zeros_like)
        with Model(module).edit() as (tracer, edited):
            for step in tracer.iter[1:2]:
                edited.layers[0].output[:] = 0
        with edited.trace(X, fn="three") as tracer:
            outs = tracer.result

        assert [torch.equal(out, expected) for out in outs] == [False, True, False]

    def test_all_and_next(self, clean):
        module = clean(net())
        expected = inline(module, layers_0=torch.zeros_like)
        with Model(module).edit() as (tracer, edited):
            for step in tracer.all():
                if step != 1:
                    edited.layers[0].output[:] = 0
        assert [torch.equal(out, expected) for out in edited.three(X)] == [True, False, True]
        with Model(module).edit() as (tracer, edited):
            tracer.next(2)
            edited.layers[0].output[:] = 0
        assert [torch.equal(out, expected) for out in edited.three(X)] == [False, False, True]

    def test_modes_are_the_models(self, clean):
        module = clean(net())
        modes = []

        def generate(x):
            with torch.no_grad():
                out = module(x)
            modes.append(torch.is_grad_enabled())
            return out

        with Model(module).edit() as (tracer, edited):
            edited.layers[0].output *= 1
            modes.append(torch.is_grad_enabled())
        with edited.trace(X, fn=generate) as tracer:
            out = tracer.result

        assert modes == [False, True]
        assert torch.is_grad_enabled()
        assert not out.requires_grad


class TestNames:
    def test_the_block_is_not_run_where_it_stands(self, clean):
        model = Model(clean(net()))
        ran = []
        with model.edit() as (tracer, edited):
            ran.append(1)
        assert ran == []
        edited(X)
        assert ran == [1]

    def test_names_bound_in_it_do_not_get_out(self, clean):
        model = Model(clean(net()))
        hidden = "before"
        with model.edit() as (tracer, edited):
            hidden = edited.layers[0].output
            hidden *= 0
        edited(X)

        assert hidden == "before"

    def test_values_are_those_of_its_place(self, clean):
        module = clean(net())
        model = Model(module)
        made = []
        for factor in (0.0, 2.0):
            with model.edit() as (tracer, edited):
                edited.layers[0].output *= factor
            made.append(edited)
        factor = 100.0

        assert torch.equal(made[0](X), inline(module, layers_0=torch.zeros_like))
        assert torch.equal(made[1](X), inline(module, layers_0=lambda o: o * 2))

    @pytest.mark.parametrize("place", ["module", "class", "function"])
    def test_the_same_in_every_kind_of_namespace(self, clean, place):
        module = clean(net())
        program = [
            "made = []",
            "for factor in (0.0, 2.0):",
            "    with model.edit() as (tracer, edited):",
            "        h = edited.layers[0].output",
            "        edited.layers[0].output = h * factor",
            "    made.append(edited)",
            "factor = tracer = edited = None",
        ]
        if place == "class":
            program = ["class Space:", *("    " + line for line in program), "made = Space.made"]
        if place == "function":
            program = ["def f():", *("    " + line for line in program), "    return made"]
            program.append("made = f()")
        space = {"model": Model(module)}
        exec("\n".join(program), space)

        assert torch.equal(space["made"][0](X), inline(module, layers_0=torch.zeros_like))
        assert torch.equal(space["made"][1](X), inline(module, layers_0=lambda o: o * 2))
        assert "h" not in space

    def test_closures_are_live(self, clean):
        module = clean(net())
        model = Model(module)
        factor = 3.0

        def change(value):
            nonlocal factor
            factor = value

        with model.edit() as (tracer, edited):
            edited.layers[0].output *= factor
        change(0.0)
        assert torch.equal(edited(X), inline(module, layers_0=torch.zeros_like))

        def inner():
            with model.edit() as (tracer, edited):
                edited.layers[0].output *= factor
            return edited

        edited = inner()
        change(2.0)
        assert torch.equal(edited(X), inline(module, layers_0=lambda o: o * 2))

    def test_a_closure_made_in_it(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            two = 2
            double = lambda value: value * two
            edited.layers[0].output = double(edited.layers[0].output)

        assert torch.equal(edited(X), inline(module, layers_0=lambda o: o * 2))

    def test_the_frame_is_not_kept(self, clean):
        class Big:
            pass

        alive = []

        def make(model):
            unused, used = Big(), Big()
            alive.extend([weakref.ref(unused), weakref.ref(used)])
            with model.edit() as (tracer, edited):
                used
                unused = 3
                edited.layers[0].output *= 0
            return edited

        edited = make(Model(clean(net())))
        edited(X)

        assert alive[0]() is None
        assert alive[1]() is not None

    def test_a_wrapper_with_edits_goes_without_the_collector(self, clean):
        module = clean(net())
        gc.collect()
        gc.disable()
        try:
            model = Model(module)
            with model.edit() as (tracer, edited):
                edited.layers[0].output *= 0
            edited(X)
            alive = weakref.ref(edited)
            del edited, tracer
            assert alive() is None
        finally:
            gc.enable()


class TestRemoving:
    def test_one_by_one(self, clean):
        module = clean(net())
        model = Model(module)
        with model.edit(inplace=True) as tracer:
            model.layers[0].output[:] = 0
        with model.layers[2].edit(inplace=True) as tracer:
            model.layers[2].output[:] = 1
        first, second = model.edits
        assert isinstance(first, Edit)
        assert repr(first).startswith("<edit of model, ") and "test_edits.py:" in repr(first)
        assert repr(second).startswith("<edit of model.layers.2, ")

        second.remove()
        assert torch.equal(model(X), inline(module, layers_0=torch.zeros_like))
        second.remove()
        first.remove()
        assert torch.equal(model(X), module(X))
        assert model.edits == []

    def test_clearing_reaches_below(self, clean):
        model = Model(clean(net()))
        for node in (model, model.layers[0], model.layers[0].mlp, model.layers[1]):
            with node.edit(inplace=True) as tracer:
                x = 1
        model.layers[0].clear_edits()
        assert [edit.path for edit in model.edits] == ["", "layers.1"]
        model.clear_edits()
        assert model.edits == []

    def test_copies_are_independent(self, clean):
        module = clean(net())
        model = Model(module)
        with model.edit(inplace=True) as tracer:
            model.layers[0].output[:] = 0
        with model.edit() as (tracer, edited):
            edited.layers[2].output[:] = 0
        assert len(edited.edits) == 2 and len(model.edits) == 1
        edited.edits[0].remove()

        assert torch.equal(edited(X), inline(module, layers_2=torch.zeros_like))
        assert torch.equal(model(X), inline(module, layers_0=torch.zeros_like))


class TestModules:
    def test_an_adapter_is_trained(self, clean):
        module = clean(net())
        before = {name: value.clone() for name, value in module.state_dict().items()}
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        model = Model(module)
        model.layers[1].adapter = nn.Linear(4, 4)
        with model.edit() as (tracer, tuned):
            h = tuned.layers[1].output
            tuned.layers[1].output = h + tuned.layers[1].adapter(h, hook=True)
        optimizer = torch.optim.SGD(model.layers[1].adapter.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            with tuned.trace(X):
                inside = tuned.layers[1].adapter.output
                loss = tuned.output.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

        assert losses[2] < losses[0]
        assert inside.shape == (2, 4)
        after = module.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert "layers.1.adapter.weight" in after

    def test_as_module_is_an_ordinary_module(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            edited.layers[0].output *= 0
        made = edited.as_module()

        assert type(made) is Net
        assert list(made.state_dict()) == list(module.state_dict())
        assert all(a is b for a, b in zip(made.parameters(), module.parameters(), strict=True))
        assert torch.equal(made(X), inline(module, layers_0=torch.zeros_like))
        assert all(torch.equal(out, made(X)) for out in made.three(X))
        fresh = nn.Sequential(made, nn.Linear(3, 2))
        assert torch.equal(fresh(X), fresh[1](made(X)))
        made.eval()
        assert not made.training and not module.layers[0].training
        with Model(made).trace(X) as tracer:
            hidden = tracer.model.head.input
        assert torch.equal(made.head(hidden), made(X))

    def test_its_hooks_run_once(self, clean):
        module = net()
        calls = []
        module.register_forward_hook(lambda m, a, out: calls.append("out"))
        with Model(module).edit() as (tracer, edited):
            edited.output[:] = 0
        made = edited.as_module()
        made.register_forward_pre_hook(lambda m, a: calls.append("in"))

        assert torch.equal(made(X), torch.zeros(2, 3))
        assert calls == ["in", "out"]
        calls.clear()
        module(X)
        assert calls == ["out"]

    def test_as_module_in_a_larger_model(self, clean):
        model = Model(net())
        with model.edit() as (_, edited):
            edited.layers[0].output *= 2
        made = edited.as_module()
        larger = Model(clean(nn.Sequential(nn.Linear(4, 4), made)))
        with larger.trace(X):
            given = larger[1].input
            out = larger[1].output

        assert torch.equal(out, edited(given))
        with pytest.raises(UnsupportedModuleError, match="stored edits of its own"):
            with larger.trace(X):
                inside = larger[1].layers[0].output
        edited.clear_edits()
        with larger.trace(X):
            inside = larger[1].layers[0].output
        assert inside.shape == (2, 4)

    def test_a_part_as_module(self, clean):
        module = clean(net())
        with Model(module).layers[1].edit() as (tracer, part):
            part.mlp.output[:] = 0
        h = torch.ones(2, 4)

        assert torch.equal(part.as_module()(h), h + module.layers[1].attn(h))

    def test_it_is_trained(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            edited.layers[0].output *= 2
        made = edited.as_module()
        made(X).sum().backward()
        grads = [parameter.grad.clone() for parameter in module.parameters()]
        module.zero_grad()
        inline(module, layers_0=lambda o: o * 2).sum().backward()

        for mine, parameter in zip(grads, module.parameters(), strict=True):
            assert torch.allclose(mine, parameter.grad)

    @pytest.mark.parametrize("kind", ["wrapper", "module"])
    def test_deep_copies(self, clean, kind):
        module = clean(net())
        vector = torch.full((4,), 5.0)
        with Model(module).edit() as (tracer, edited):
            edited.layers[0].output[:] = vector
        original = edited if kind == "wrapper" else edited.as_module()
        expected = original(X)
        made = copy.deepcopy(original)
        with torch.no_grad():
            module.head.weight.zero_()

        assert torch.equal(made(X), expected)
        assert not torch.equal(original(X), expected)
        if kind == "wrapper":
            made.clear_edits()
            assert len(edited.edits) == 1

    def test_pickling_says_why_not(self, clean):
        with Model(clean(net())).edit() as (tracer, edited):
            x = 1
        for original in (edited, edited.as_module()):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(original)

    def test_functions(self, clean):
        module = clean(net())
        model = Model(module)
        expected = inline(module, layers_0=torch.zeros_like)

        def both(tracer, edited):
            edited.layers[0].output *= 0
            tracer.stop if False else None

        def nothing():
            model.layers[0].output *= 0

        for function in (both, nothing, lambda tracer: nothing()):
            edited = model.edit().run(function)
            assert torch.equal(edited(X), expected)
        assert model.edit(inplace=True).run(both) is model
        assert torch.equal(model(X), expected)


class TestErrors:
    def test_an_error_comes_from_its_own_line(self, clean):
        model = Model(clean(net()))
        with model.edit() as (tracer, edited):
            edited.layers[0].output
            1 / 0
        with pytest.raises(ZeroDivisionError) as caught:
            edited(X)
        assert caught.traceback[-1].frame.code.path.name == "test_edits.py"
        with pytest.raises(ZeroDivisionError):
            with edited.trace(X):
                pass

    def test_out_of_order(self, clean):
        with Model(clean(net())).edit() as (tracer, edited):
            edited.layers[1].output
            edited.layers[0].output
        with pytest.raises(OutOfOrderError, match="layers.0.output"):
            edited(X)
        with pytest.raises(OutOfOrderError, match="layers.0.output"):
            edited.three(X)

    def test_what_never_runs(self, clean):
        module = clean(net())
        module.unused = nn.Linear(4, 4)
        with Model(module).edit() as (tracer, edited):
            edited.unused.output
        with pytest.raises(NeverRanError, match="unused"):
            edited(X)
        # Here it was asked for when the first forward had begun.
        with pytest.raises(OutOfOrderError, match="does not run at all"):
            edited.three(X)

    def test_stop(self, clean):
        model = Model(clean(net()))
        with model.edit() as (tracer, edited):
            edited.layers[0].output
            tracer.stop()
        with edited.trace(X) as tracer:
            first = edited.layers[0].output
            second = edited.layers[1].output

        assert first.shape == (2, 4)
        assert "second" not in locals()

    def test_result(self, clean):
        with Model(clean(net())).edit() as (tracer, edited):
            tracer.result = tracer.result * 0
        with edited.trace(X) as outer:
            result = outer.result

        assert torch.equal(result, torch.zeros(2, 3))
        assert torch.equal(edited(X), torch.zeros(2, 3))

    def test_the_result_is_that_of_the_run_each_time(self, clean):
        model = Model(clean(net()))
        seen = []
        with model.edit() as (tracer, edited):
            seen.append(tracer.result)
            tracer.result = tracer.result + 1
        outs = [edited(X), edited(X * 2)]
        with edited.trace(X) as outer:
            outs.append(outer.result)

        assert all(torch.equal(one + 1, out) for one, out in zip(seen, outs, strict=True))
        assert torch.equal(seen[0], model(X))
        assert torch.equal(seen[1], model(X * 2))

    def test_refusals(self, clean):
        model = Model(clean(net()))
        with model.edit() as (tracer, edited):
            with tracer.invoke(X):
                pass
        with pytest.raises(InvokeError, match="an edit cannot open invokes"):
            edited(X)
        with pytest.raises(NotRunningError, match="tracer of an edit"):
            tracer.stop()
        with pytest.raises(NotRunningError):
            tracer.result


class TestInRuns:
    def test_a_call_in_a_block_has_no_edits(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            edited.head.output[:] = 0
        with edited.trace(X):
            inside = edited.head(torch.ones(2, 4))

        assert torch.equal(inside, module.head(torch.ones(2, 4)))

    def test_a_call_in_a_block_of_another_model_has(self, clean):
        module = clean(net())
        with Model(module).edit() as (tracer, edited):
            edited.head.output[:] = 0
        other = Model(net())
        with other.trace(X):
            inside = edited(other.layers[0].output)

        assert torch.equal(inside, torch.zeros(2, 3))

    def test_caches_see_edits(self, clean):
        with Model(clean(net())).edit() as (tracer, edited):
            edited.layers[0].output[:] = 0
        with edited.trace(X) as tracer:
            cache = tracer.cache()

        assert torch.equal(cache.layers[0].output, torch.zeros(2, 4))

    def test_an_edit_in_a_block_counts_from_the_next_run(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            with model.edit(inplace=True) as tracer:
                model.head.output[:] = 0
            out = model.output

        assert torch.equal(out, module(X))
        assert torch.equal(model(X), torch.zeros(2, 3))

    def test_runs_leave_nothing(self, clean):
        module = clean(net())
        model = Model(module)
        with model.layers[1].edit() as (tracer, edited):
            edited.output *= 2
        edited = edited.root
        gc.collect()
        gc.disable()
        try:
            for turn in range(500):
                edited(X)
                with edited.trace(X):
                    hidden = edited.layers[1].output
                if turn == 20:
                    before = len(gc.get_objects())
            after = len(gc.get_objects())
        finally:
            gc.enable()

        assert after - before < 50
        assert {} == hooks.HOOKED

    def test_edits_come_and_go(self, clean):
        model = Model(clean(net()))
        for turn in range(500):
            with model.edit(inplace=True) as tracer:
                model.head.output[:] = 0
            model.clear_edits()
            if turn == 20:
                gc.collect()
                before = len(gc.get_objects())
        del tracer
        gc.collect()

        assert len(gc.get_objects()) - before < 50
        assert sys.getrefcount(model) < 10
