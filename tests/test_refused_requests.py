"""A refused request names who asks, where, who stood between it and the block, and the way out."""

from __future__ import annotations

import array
import copy
import ctypes
import importlib.util
import json
import re
import traceback
import weakref

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import tracekit  # noqa: E402
from tracekit import CannotSuspendError, Model  # noqa: E402

X = torch.ones(1, 4)
MODEL = Model(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


def value():
    return MODEL[1].output


LINE = value.__code__.co_firstlineno + 1


def items():
    yield float(value().sum())


@tracekit.never_asks
def hot():
    return value()


async def coroutine():
    return value()


class Asks:
    """Asks in every method that C code and libraries call by themselves."""

    def __deepcopy__(self, memo):
        return value()

    def __reduce__(self):
        return str, (str(value()),)

    def __hash__(self):
        return hash(value())

    def __index__(self):
        return int(value().sum())

    def __length_hint__(self):
        return 1

    def __dir__(self):
        return [str(value())]

    def __fspath__(self):
        return str(value())

    def __repr__(self):
        return str(value())


class Parent:
    def __init_subclass__(cls):
        cls.seen = value()


class Named:
    def __set_name__(self, owner, name):
        self.seen = value()


class Checks(type):
    def __instancecheck__(cls, obj):
        return bool(value().sum())


def subclass():
    class Child(Parent):
        pass


def named():
    class Holder:
        part = Named()


def backward():
    leaf = X.clone().requires_grad_()
    leaf.register_hook(lambda grad: grad * value())
    leaf.sum().backward()


def function_of_autograd():
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + value()

    return Function.apply(X)


def functional_call():
    class Probe(nn.Module):
        def forward(self, x):
            return x + value()

    return torch.func.functional_call(Probe(), {}, (X,))


def loader():
    return list(torch.utils.data.DataLoader([1], collate_fn=lambda batch: value()))


REFUSED = {
    "a replacement of re.sub": (lambda: re.sub("a", lambda m: str(value()), "a"), "is called by"),
    "default of json": (lambda: json.dumps({1: Asks}, default=lambda o: value()), "`JSONEncoder."),
    "deepcopy": (lambda: copy.deepcopy([Asks()]), "called by `deepcopy`"),
    "a hash": (lambda: {Asks(): 1}, "`Asks.__hash__` is called by C code, from `<lambda>`"),
    "an index": (lambda: [1, 2][Asks()], "`Asks.__index__` is called by C code"),
    "an index of a slice": (lambda: [1, 2][Asks() :], "`Asks.__index__` is called by C code"),
    "a range": (lambda: range(Asks()), "`Asks.__index__` is called by C code"),
    "dir": (lambda: dir(Asks()), "`Asks.__dir__` is called by C code"),
    "a path": (lambda: open(Asks()), "`Asks.__fspath__` is called by C code"),
    "an item's repr": (lambda: repr([Asks()]), "`Asks.__repr__` is called by C code"),
    "reduce": (lambda: copy.copy(Asks()), "`Asks.__reduce__` is called"),
    "a class being made": (subclass, "`Parent.__init_subclass__` is called by C code"),
    "a name being set": (named, "`Named.__set_name__` is called by C code"),
    "instance checks": (lambda: isinstance(1, Checks("C", (), {})), "`Checks.__instancecheck__`"),
    "never_asks": (lambda: hot(), "`hot` is marked with `@tracekit.never_asks`"),
    "a coroutine": (lambda: coroutine().send(None), "`coroutine` is a coroutine"),
    "eval": (lambda: eval("value()"), "text given to `eval` or `exec`"),
    "exec": (lambda: exec("value()"), "text given to `eval` or `exec`"),
    "an iterable of C": (lambda: array.array("d", items()), "`items` is stepped by C code, from"),
    "a backward hook": (backward, "is called by `_engine_run_backward`"),
    "a function of autograd": (function_of_autograd, "`function_of_autograd.<locals>.Function.for"),
    "functional_call": (functional_call, "`functional_call.<locals>.Probe.forward` is called by"),
    "a data loader": (loader, "is called by `_MapDatasetFetcher.fetch`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_refusal_says_who_asks_and_who_calls(name, no_residue):
    asks, seen = REFUSED[name]
    no_residue(MODEL._module)
    with pytest.raises((CannotSuspendError, RuntimeError)) as caught:
        with MODEL.trace(X):
            asks()

    # 3.11 raises the error of a `__set_name__` as the cause of another.
    error = caught.value.__cause__ if type(caught.value) is RuntimeError else caught.value
    text = str(error)
    assert "asked for in `value`, which cannot wait" in text
    assert f"At:   {__file__}:{LINE}\n" in text
    assert seen in text
    assert "Why:  a block waits as a generator" in text
    assert "read the value in the block first" in text
    assert "value" in [entry.name for entry in traceback.extract_tb(error.__traceback__)]


def test_what_python_calls_on_its_own_is_refused_too(no_residue):
    """Finalizers, callbacks of weak references and of ctypes."""
    said = {}

    class Dies:
        def __del__(self):
            tell("finalizer")

    def tell(name):
        try:
            value()
        except CannotSuspendError as error:
            said[name] = str(error)

    with MODEL.trace(X):
        dies = Dies()
        weak = weakref.ref(dies, lambda _: tell("weak reference"))
        del dies
        ctypes.CFUNCTYPE(None)(lambda: tell("ctypes"))()
        after = MODEL[1].output

    assert {"finalizer", "weak reference", "ctypes"} == said.keys()
    assert all("which cannot wait" in text for text in said.values())
    assert weak() is None
    assert after is not None


def test_a_library_can_be_marked_as_the_message_says(tmp_path):
    file = tmp_path / "site-packages" / "steppinglib" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "class Keeps:\n    def __init__(self, f): self.f = f\n    def run(self): return self.f()\n"
    )
    spec = importlib.util.spec_from_file_location("steppinglib", file)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)

    with pytest.raises(CannotSuspendError, match=r"or say `tracekit.touches_models\(\"steppinglib"):
        with MODEL.trace(X):
            library.Keeps(value).run()

    tracekit.touches_models("steppinglib")
    with MODEL.trace(X):
        got = library.Keeps(value).run()
    assert (1, 4) == got.shape
