"""Blocks that nobody thought of: invokes, names between them, steps, and how they end."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from tracekit import Model, OutOfOrderError, StepsWarning, WaitError
from tracekit.testing import Residue

LAYERS = 4
few = settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])


@dataclasses.dataclass
class Both:
    first: torch.Tensor
    second: dict[str, torch.Tensor]


class Layer(nn.Module):
    """One of several forms of output, so that rows lie in containers."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.tanh(self.linear(x)) * 1.5  # what may be edited in place, backward or not
        if self.form == "tuple":
            return x, (x.sum(-1), None)
        if self.form == "dataclass":
            return Both(x, {"second": x * 2, "n": x.shape[1]})
        return x.transpose(0, 1) if self.form == "batch second" else x


class Net(nn.Module):
    def __init__(self, forms):
        super().__init__()
        self.layers = nn.ModuleList(Layer(form) for form in forms)

    def forward(self, x):
        for layer in self.layers:
            out = layer(x)
            if isinstance(out, tuple):
                out = out[0] + out[1][0].unsqueeze(-1)
            elif isinstance(out, Both):
                out = out.first + out.second["second"]
            x = x + (out.transpose(0, 1) if layer.form == "batch second" else out)
        return {"x": x}


def main_part(out):
    if isinstance(out, tuple):
        return out[0]
    return out.first if isinstance(out, Both) else out


def act(model, plan):
    """Do what *plan* says, layer by layer; give what was read."""
    found = []
    for layer, what in zip(model.layers, plan, strict=True):
        if what == "read":
            found.append(main_part(layer.output).clone())
        elif what == "in place":
            main_part(layer.output)[..., 0] += 1
        elif what == "input":
            layer.input = layer.input * 2
        elif what == "replace":
            out = layer.output
            if isinstance(out, tuple):
                layer.output = (out[0] * 2, out[1])
            elif isinstance(out, Both):
                layer.output = Both(out.first * 2, out.second)
            else:
                layer.output = out * 2
    found.append(model.output["x"])
    return found


actions = st.lists(
    st.sampled_from(["nothing", "read", "in place", "input", "replace"]),
    min_size=LAYERS,
    max_size=LAYERS,
)
forms = st.lists(
    st.sampled_from(["plain", "tuple", "dataclass", "batch second"]),
    min_size=LAYERS,
    max_size=LAYERS,
)


@few
@given(
    form=forms,
    plans=st.lists(st.tuples(st.integers(1, 3), actions), min_size=2, max_size=4),
    grad=st.booleans(),
    most=st.sampled_from([None, 1, 4]),
)
def test_batched_invokes_equal_separate_runs(form, plans, grad, most):
    torch.manual_seed(0)
    net = Net(form)
    model = Model(net)
    inputs = [torch.randn(rows, 2, 3) for rows, _ in plans]
    batched, separate = [], []
    with torch.set_grad_enabled(grad):
        with model.trace(max_rows=most) as tracer:
            for x, (_, plan) in zip(inputs, plans, strict=True):
                with tracer.invoke(x):
                    found = act(model, plan)
                    batched.append(found)
        for x, (_, plan) in zip(inputs, plans, strict=True):
            with model.trace(x):
                found = act(model, plan)
            separate.append(found)
        torch.testing.assert_close(batched, separate)
        if grad:
            ours = torch.autograd.grad(sum(f[-1].sum() for f in batched), net.parameters())
            theirs = torch.autograd.grad(sum(f[-1].sum() for f in separate), net.parameters())
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@st.composite
def blocks(draw):
    """The lines of a block: sites in the order of the model, and names shared with others."""
    lines = []
    name = st.sampled_from("abc")
    for layer in range(3):
        for kind in draw(
            st.lists(st.sampled_from(["bind", "add", "use", "if", "loop"]), max_size=1)
        ):
            one, other = draw(name), draw(name)
            lines += {
                "bind": [f"{one} = m[{layer}].output"],
                "add": [f"{one} = {other} + 1"],
                "use": [f"m[{layer}].output = m[{layer}].output + {one}"],
                "if": [f"if m[{layer}].output.sum() > 0:", f"    {one} = {other} * 2"],
                "loop": [f"for _ in range({layer + 1}):", f"    {one} = {other} + _"],
            }[kind]
    return [*lines, "out.append(m.output)"]


@few
@given(bodies=st.lists(blocks(), min_size=2, max_size=3), in_function=st.booleans())
def test_values_by_name_equal_one_block_after_the_other(bodies, in_function):
    """Each reader gets what the blocks before it leave in a name, or is told that it is late."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    inputs = [torch.randn(1, 2) for _ in bodies]

    def run(batched):
        lines = ["a = b = c = 0.5", "out = []"]
        if batched:
            lines.append("with m.trace() as t:")
        for number, body in enumerate(bodies):
            indent = "    " if batched else ""
            entered = f"t.invoke(x[{number}])" if batched else f"m.trace(x[{number}])"
            lines += [f"{indent}with {entered}:", *(f"{indent}    {line}" for line in body)]
        if in_function:
            lines = ["def f():", *(f"    {line}" for line in lines), "    return a, b, c, out"]
            lines.append("a, b, c, out = f()")
        names = {"m": Model(net), "x": inputs}
        exec(compile("\n".join(lines), "<blocks>", "exec"), names)
        return [torch.as_tensor(names[n]).expand(1, 2) for n in "abc"], names["out"]

    with torch.no_grad():
        try:
            found = run(batched=True)
        except (OutOfOrderError, WaitError) as late:
            assert "waited for the name" in str(late) or isinstance(late, WaitError)
            return
        torch.testing.assert_close(found, run(batched=False))


class Generates(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(self.layer(x)) + 1

    def generate(self, x, steps):
        for _ in range(steps):
            x = self(x)
        return x


bound = st.none() | st.integers(0, 6)
keys = (
    st.integers(0, 6)
    | st.builds(slice, bound, bound, st.none() | st.integers(1, 3))
    | st.sets(st.integers(0, 6)).map(sorted)
)


@few
@given(key=keys, count=st.integers(1, 5), inner=st.booleans())
def test_steps_equal_a_counter(key, count, inner):
    net = Generates()
    x = torch.ones(1, 2)
    wanted = {key} if isinstance(key, int) else key
    if isinstance(key, slice):
        wanted = set(range(count * (2 if inner else 1))[key])
    expected = []
    calls = 0

    def counts(_module, _args, output):
        nonlocal calls
        if calls in wanted:
            expected.append((calls, output))
        calls += 1

    handle = (net.layer if inner else net).register_forward_hook(counts)
    with torch.no_grad():
        net.generate(x, count)
    handle.remove()
    model = Model(net)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StepsWarning)
        with model.generate(x, steps=count) as tracer:
            for step in model.layer.iter[key] if inner else tracer.iter[key]:
                found.append((step, model.layer.output if inner else model.output))
            after = "the code after the loop"

    assert after
    assert [step for step, _ in expected] == [step for step, _ in found]
    torch.testing.assert_close([out for _, out in found], [out for _, out in expected])


class ErrorOfTheBlock(Exception):
    pass


@few
@given(
    ends=st.lists(
        st.tuples(
            st.integers(0, LAYERS - 1), st.sampled_from(["error", "stop", "interrupt", "finish"])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_however_blocks_end_nothing_is_left(ends):
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(LAYERS)))
    residue = Residue()
    residue.watch(net)
    model = Model(net)
    left = []
    raised = None

    def end(tracer, how):
        if how == "stop":
            tracer.stop()
        if how == "error":
            raise ErrorOfTheBlock
        if how == "interrupt":
            raise KeyboardInterrupt

    def go(tracer, number, at, how):
        try:
            for layer in range(LAYERS):
                model[layer].output
                if layer == at:
                    end(tracer, how)
        finally:
            left.append(number)

    try:
        with model.trace() as tracer:
            for number, (at, how) in enumerate(ends):
                with tracer.invoke(torch.ones(1, 2)):
                    go(tracer, number, at, how)
    except (ErrorOfTheBlock, KeyboardInterrupt) as error:
        raised = type(error)

    # Who comes first to its end decides how the run ends; all others are unwound. A stop lets
    # those go on that stand at the same site.
    early = [(at, how == "stop", n, how) for n, (at, how) in enumerate(ends) if how != "finish"]
    how = min(early)[3] if early else "finish"
    kinds = {"error": ErrorOfTheBlock, "interrupt": KeyboardInterrupt, "stop": None, "finish": None}
    assert raised is kinds[how]
    assert sorted(left) == list(range(len(ends)))
    raised = None
    residue.check()
