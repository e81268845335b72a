"""Held values: overwritten by the model, or edited too late."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from tracekit import HeldValueWarning, Model

X = torch.tensor([[-1.0, 2.0]])


def net(*, inplace):
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=inplace), nn.Linear(2, 2))


def test_an_activation_in_place_is_noticed(clean):
    model = Model(clean(net(inplace=True)))
    with pytest.warns(HeldValueWarning, match=r"`model.0.output`, read here, was overw") as caught:
        with model.trace(X):
            hidden = model[0].output

    assert caught[0].filename == __file__
    assert caught[0].lineno == test_an_activation_in_place_is_noticed.__code__.co_firstlineno + 4


def test_an_edit_that_comes_too_late_is_noticed(clean):
    model = Model(clean(net(inplace=False)))
    with pytest.warns(HeldValueWarning, match=r"`model.0.output`, read here, was edited in place"):
        with torch.no_grad(), model.trace(X):
            hidden = model[0].output
            model[1].output
            hidden[:] = 0


def test_an_edit_long_after_is_noticed_without_saying_whose(clean):
    model = Model(clean(nn.Sequential(*[nn.Tanh() for _ in range(40)])))
    with pytest.warns(HeldValueWarning, match=r"by the model or by the block") as caught:
        with torch.no_grad(), model.trace(X):
            values = [model[index].output for index in range(40)]
            values[3][:] = 0

    assert len(caught) == 1
    assert "`model.3.output`" in str(caught[0].message)


def test_as_an_error_it_leaves_nothing(clean):
    model = Model(clean(net(inplace=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HeldValueWarning):
            with model.trace(X):
                hidden = model[0].output


@pytest.mark.parametrize("inplace", [True, False])
def test_what_is_in_order_is_silent(clean, inplace):
    model = Model(clean(net(inplace=inplace)))
    with torch.no_grad(), model.trace(X):
        copy = model[0].output.clone()
        model[1].output[:] = 0
        model[2].output += 1


def test_the_same_memory_under_two_names(clean):
    """Dropout gives back its input when it does nothing; an edit at its output is in time."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)).eval()
    model = Model(clean(module))
    with torch.no_grad(), model.trace(X):
        hidden = model[0].output
        model[1].output[:] = 0


def test_inference_tensors_have_no_counter(clean):
    model = Model(clean(net(inplace=True)))
    with torch.inference_mode(), model.trace(X):
        hidden = model[0].output
