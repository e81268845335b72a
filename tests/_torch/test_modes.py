"""Whose modes hold where: the block's in the block, the model's in the model."""

from __future__ import annotations

import contextvars

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tracekit import Model

X = torch.ones(1, 4)
VARIABLE = contextvars.ContextVar("variable", default=0)


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def state():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_device().type,
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
        VARIABLE.get(),
    )


PLAIN = (True, False, False, "cpu", 0, 0, 0)


class Net(nn.Module):
    """Notes its modes at each line; the second half has modes of its own."""

    def __init__(self, own=None):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.own = own
        self.log = []

    def forward(self, x):
        self.log.append(state())
        x = self.a(x)
        self.log.append(state())
        if self.own is not None:
            with self.own():
                self.log.append(state())
                x = self.b(x)
                self.log.append(state())
        self.log.append(state())
        return x


MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "device": lambda: torch.device("meta"),
    "functions": Functions,
    "dispatches": Dispatches,
}


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def mode(request):
    return request.param


def test_the_model_does_not_see_the_blocks(clean, mode):
    net = clean(Net())
    model = Model(net)
    with mode():
        inside = state()
    seen = []
    with model.trace(X):
        with mode():
            seen.append(state())
            model.a.output
            seen.append(state())
        seen.append(state())
        model.output
        seen.append(state())

    assert seen == [inside, inside, PLAIN, PLAIN]
    assert set(net.log) == {PLAIN}


def test_the_block_does_not_see_the_models(clean, mode):
    net = clean(Net(mode))
    model = Model(net)
    with mode():
        inside = state()
    seen = []
    with model.trace(X):
        model.a.output
        seen.append(state())
        model.b.output
        seen.append(state())
        model.output
        seen.append(state())

    assert set(seen) == {PLAIN}
    assert net.log == [PLAIN, PLAIN, inside, inside, PLAIN]


def test_both_at_once(clean, mode):
    net = clean(Net(torch.no_grad))
    model = Model(net)
    with mode():
        inside = state()
    seen = []
    with model.trace(X):
        with mode():
            model.a.output
            seen.append(state())
            model.b.output
            seen.append(state())
        seen.append(state())

    assert seen == [inside, inside, PLAIN]
    assert net.log[2:4] == [(False, *PLAIN[1:])] * 2


def test_items_before_and_after_the_tracer(clean):
    net = clean(Net())
    model = Model(net)
    with torch.no_grad(), model.trace(X):
        model.a.output
        before = state()
    with model.trace(X), torch.no_grad():
        model.a.output
        after = state()

    assert before[0] is False
    assert after[0] is False
    assert [entry[0] for entry in net.log] == [False] * 3 + [True] * 3


def test_a_mode_that_a_block_leaves_set_is_set_after_it():
    net = Net()
    model = Model(net)
    try:
        with model.trace(X):
            torch.set_grad_enabled(False)
            model.a.output

        assert not torch.is_grad_enabled()
        assert {entry[0] for entry in net.log} == {True}
    finally:
        torch.set_grad_enabled(True)


def test_context_variables(clean):
    class Sets(Net):
        def forward(self, x):
            self.log.append(VARIABLE.get())
            token = VARIABLE.set(9)
            x = self.a(x)
            self.log.append(VARIABLE.get())
            VARIABLE.reset(token)
            x = self.b(x)
            self.log.append(VARIABLE.get())
            return x

    def program():
        net = Sets()
        model = Model(net)
        VARIABLE.set(1)
        seen = []
        with model.trace(X):
            seen.append(VARIABLE.get())
            VARIABLE.set(2)
            model.a.output
            seen.append(VARIABLE.get())
            VARIABLE.set(3)
            model.b.output
            seen.append(VARIABLE.get())
        return seen, net.log, VARIABLE.get()

    seen, log, after = contextvars.copy_context().run(program)

    assert seen == [1, 2, 3]
    assert log == [1, 9, 1]
    assert after == 3


def test_an_error_of_the_model_leaves_the_modes(clean):
    class Fails(Net):
        def forward(self, x):
            with torch.no_grad():
                self.a(x)
                raise ValueError

    model = Model(clean(Fails()))
    with pytest.raises(ValueError):
        with model.trace(X):
            with torch.inference_mode():
                model.a.output
                model.b.output

    assert state() == PLAIN


def test_gradients_of_what_the_model_made(clean):
    """`no_grad` around two requests does not reach the model between them."""
    net = clean(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    model = Model(net)
    with model.trace(X):
        with torch.no_grad():
            first = model[0].output
            second = model[1].output
    second.sum().backward()

    assert net[0].weight.grad is not None
    net.zero_grad()


class _Generates(torch.nn.Module):
    """Has a `generate` that runs without gradients, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)

    @torch.no_grad()
    def generate(self, x, steps):
        for _ in range(steps):
            x = self(x)
        return x


@pytest.mark.parametrize("enabled", [True, False])
def test_the_block_of_a_generate_starts_without_gradients(enabled: bool) -> None:
    """What it computes is not recorded; after it the mode is what it was."""
    from tracekit import Model

    model = Model(_Generates())
    weight = torch.ones(2, requires_grad=True)
    with torch.set_grad_enabled(enabled):
        with model.trace(torch.ones(1, 2), 2, fn="generate") as tracer:
            seen = [torch.is_grad_enabled()]
            for _ in tracer.iter[:]:
                seen.append((model.layer.output * weight).requires_grad)

        assert [False, False, False] == seen
        assert enabled is torch.is_grad_enabled()


def test_a_variable_that_the_model_sets_to_tensors_is_the_models_own(clean):
    variable = contextvars.ContextVar("variable", default=None)
    seen = []

    class Setting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

        def forward(self, x):
            for layer in self.inner:
                variable.set(x)
                x = layer(x)
                seen.append(variable.get())
            return x

    net = clean(Setting())
    model = Model(net)
    mine = torch.ones(3)
    with torch.no_grad(), model.trace(torch.ones(1, 2)):
        hidden = [model.inner[0].output]
        inside = [variable.get()]
        variable.set(mine)
        hidden.append(model.inner[1].output)
        inside.append(variable.get())
        hidden.append(model.inner[2].output)
        inside.append(variable.get())

    assert inside[0] is None
    assert inside[1] is mine
    assert inside[2] is mine
    assert seen[1] is hidden[0]
    assert seen[2] is hidden[1]
