"""Compiled modules run eagerly while traced; checkpointed regions are read, not changed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tracekit import CheckpointedWriteError, Model

X = torch.ones(2, 4)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.reentrant = reentrant

    def region(self, x):
        return self.second(torch.tanh(self.first(x)))

    def forward(self, x):
        return self.last(checkpoint(self.region, x, use_reentrant=self.reentrant)).sum()


@pytest.fixture(params=[False, True], ids=["plain", "reentrant"])
def module(request) -> Checkpointed:
    return Checkpointed(request.param)


def test_reading_is_right_and_one_visit(module, no_residue) -> None:
    """The recomputation in the backward is no visit, and the gradients are the model's own."""
    no_residue(module)
    model = Model(module)
    x = X.clone().requires_grad_()
    with model.trace(x) as tracer:
        h = model.first.output
        out = model.output
    out.backward()
    traced = module.first.weight.grad.clone()
    module.zero_grad()
    module(x).backward()

    assert torch.equal(module.first.weight.grad, traced)
    assert torch.allclose(module.first(X), h)
    assert 1 == sum(str(site).startswith("model.first.output") for site in tracer.visited)


@pytest.mark.parametrize("way", ["replace", "in place"])
def test_a_change_is_refused(module, way, no_residue) -> None:
    """It would be missing when the region is run again."""
    no_residue(module)
    model = Model(module)
    with pytest.raises(CheckpointedWriteError) as caught:
        with model.trace(X.clone().requires_grad_()):
            if way == "replace":
                model.first.output = model.first.output * 2
            else:
                h = model.first.output
                with torch.no_grad():
                    h.mul_(2)
                model.second.output

    assert __file__ in caught.value.where


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_change_outside_the_region_or_without_gradients_is_made(module) -> None:
    """Only what is run again is refused."""
    model = Model(module)
    with model.trace(X.clone().requires_grad_()):
        model.last.output = torch.zeros(2, 4)
        out = model.output
    with torch.no_grad(), model.trace(X):
        model.first.output = torch.zeros(2, 4)
        second = model.second.output

    assert 0 == out.item()
    assert torch.equal(module.second(torch.zeros(2, 4)), second)


def test_compiled_children_run_eagerly_and_it_is_said_once(no_residue) -> None:
    """Values inside are served; the compiled module is compiled afterwards."""
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    inner.compile(backend="eager")
    module = nn.Sequential(nn.Linear(4, 4), inner)
    expected = module(X)
    no_residue(module)
    model = Model(module)
    with pytest.warns(UserWarning, match="is compiled; it runs eagerly"):
        with model.trace(X):
            h = model[1][0].output
            out = model.output
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with model.trace(X):
            again = model[1][0].output

    assert torch.equal(expected, out)
    assert torch.equal(inner[0](module[0](X)), h)
    assert torch.equal(h, again)
    assert inner._compiled_call_impl is not None


def test_a_compiled_root_is_unwrapped() -> None:
    """Paths are those of the module that was compiled."""
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = Model(torch.compile(module, backend="eager"))
    with model.trace(X):
        h = model[0].output

    assert torch.equal(module[0](X), h)
    assert ["", "0", "1"] == [name for name, _ in model.named_modules()]
