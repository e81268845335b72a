"""What other tools were seen to get wrong, where no other test asks for it; see `docs/parity.md`."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import tracekit


@pytest.fixture
def net(clean):
    torch.manual_seed(0)
    return clean(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))


@pytest.fixture
def model(net):
    return tracekit.Model(net)


X = torch.ones(2, 3)


def test_importing_patches_nothing():
    program = """
import torch, builtins
before = torch.Tensor.backward, torch.Tensor.__dict__.get("grad"), torch.nn.Module.__call__
def public():
    # C++ libraries that are loaded late leave a name of their own.
    return {name for name in dir(builtins) if "pybind11" not in name}, set(dir(object))
names = public()
import tracekit, tracekit.nnsight
assert before == (torch.Tensor.backward, torch.Tensor.__dict__.get("grad"), torch.nn.Module.__call__)
assert names == public()
assert not hasattr(1, "save")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (0, "") == (done.returncode, done.stderr)


MODULE = """
def read(model, x):
    with model.trace(x):
        value = {value}
        model[0].output
    return value
"""


def test_a_reloaded_module_runs_its_new_block(model, tmp_path, monkeypatch):
    file = tmp_path / "reloaded_blocks.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file.write_text(MODULE.format(value=1))
    module = importlib.import_module("reloaded_blocks")
    assert 1 == module.read(model, X)
    file.write_text(MODULE.format(value=2))
    os.utime(file, (1, 1))

    assert 2 == importlib.reload(module).read(model, X)
    del sys.modules["reloaded_blocks"]


def test_code_that_claims_another_file(model):
    """The other file has a `with` in the same line."""
    source = "\n" * 30 + "with model.trace(x):\n    mine = model[0].output\n"
    names = {"model": model, "x": X}
    exec(compile(source, __file__, "exec"), names)

    assert torch.equal(model[0]._module(X), names["mine"])


def test_two_sources_of_one_name(model):
    found = []
    for value in (1, 2):
        names = {"model": model, "x": X}
        source = f"with model.trace(x):\n    model[0].output\n    value = {value}\n"
        exec(compile(source, "<generated>", "exec"), names)
        found.append(names["value"])

    assert [1, 2] == found


def test_a_try_first_and_a_body_on_the_line(model):
    with model.trace(X):
        try:
            first = model[0].output
            raise KeyError
        except KeyError:
            out = model.output
    with model.trace(X): line = model[0].output  # fmt: skip

    assert torch.equal(first, line)
    assert torch.equal(out, model._module(X))


def test_a_decorator_in_the_first_statement_runs_once(model):
    made = []

    def factory(name):
        made.append(name)
        return lambda function: function

    with model.trace(X):

        @factory("it")
        def helper():
            return model[0].output

        out = helper()

    assert ["it"] == made
    assert torch.equal(out, model._module[0](X))


def test_two_tracers_in_one_header(model, clean):
    other = tracekit.Model(clean(nn.Sequential(nn.Linear(3, 3))))
    times = []
    with model.trace(X), other.trace(X):
        times.append(1)
        out = other[0].output

    assert [1] == times
    assert torch.equal(out, other._module(X))


def test_a_later_item_that_raises(model):
    class Refuses:
        def __enter__(self):
            raise KeyError("at the door")

        def __exit__(self, *_):
            raise AssertionError

    ran = []
    with pytest.raises(KeyError, match="at the door"):
        with model.trace(X), Refuses():
            ran.append(1)
    after = [1, 2]  # the lines that follow are not skipped
    with model.trace(X):
        out = model[0].output

    assert ([], [1, 2]) == (ran, after)
    assert torch.equal(out, model._module[0](X))


def test_a_saved_number_saves_its_name_only(model):
    other = flag = "before"
    with model.trace(X, keep="saved"):
        model[0].output
        kept = (7).save()
        other = 7
        yes = tracekit.save(True)
        flag = True

    assert (7, True) == (kept, yes)
    assert ("before", "before") == (other, flag)


def test_a_list_of_values_is_bound(model):
    with model.trace(X):
        found = [layer.output for layer in model]

    assert 3 == len(found)


def test_super_and_private_names(model):
    class Above:
        def width(self):
            return 4

    class Below(Above):
        def __init__(self):
            self.__hidden = 1

        def width(self):
            with model.trace(X):
                seen = model[0].output.shape[-1], super().width(), self.__hidden
            return seen

    assert (4, 4, 1) == Below().width()


def test_annotations_are_the_callers():
    source = """
with model.trace(x):
    def f(a: int) -> float: ...
    model[0].output
"""
    names = {"model": tracekit.Model(nn.Sequential(nn.Linear(3, 3))), "x": X}
    exec(compile(source, "<plain>", "exec", dont_inherit=True), names)

    assert {"a": int, "return": float} == names["f"].__annotations__


def test_what_was_bound_before_an_error(model):
    first = second = None
    with pytest.raises(ZeroDivisionError):
        with model.trace(X):
            first = model[0].output
            1 / 0
            second = 2

    assert torch.equal(first, model._module[0](X))
    assert second is None


def test_a_lambda_keeps_no_model():
    def make():
        model = tracekit.Model(nn.Sequential(nn.Linear(3, 3)))
        big = torch.ones(1000)
        with model.trace(X):
            model[0].output
            function = lambda: 1  # noqa: E731
        return function, weakref.ref(model._module), weakref.ref(big)

    gc.disable()
    try:
        function, module, big = make()
        assert module() is None
        assert big() is None
    finally:
        gc.enable()
    assert 1 == function()


def test_wrapping_changes_nothing(net):
    before = [dict(vars(module)) for module in net.modules()]
    model = tracekit.Model(net)
    with model.trace(X):
        model[0].output
    del model

    assert before == [vars(module) for module in net.modules()]


def test_a_loss_beside_rows(clean):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            out = self.layer(x)
            return {"loss": out.mean(), "out": out}

    model = tracekit.Model(clean(Net()))
    with model.trace() as tracer:
        with tracer.invoke(X):
            one = model.output
        with tracer.invoke(X * 2):
            two = model.output

    plain = model._module(torch.cat([X, X * 2]))
    assert torch.equal(plain["loss"], one["loss"])
    assert torch.equal(plain["out"][2:], two["out"])
