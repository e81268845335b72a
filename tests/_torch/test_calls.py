"""Torch's own Python between a block and code that asks: modules, hooks, trees, lists of tensors."""

from __future__ import annotations

import pytest

import tracekit._torch.calls  # noqa: F401 - what a tracer of a model imports
from tracekit import CannotSuspendError, testing

PRELUDE = """
import torch
from torch import nn

class Asks(nn.Module):
    def __init__(self, name, scale=1):
        super().__init__()
        self.name = name
        self.scale = nn.Parameter(torch.full((2,), float(scale)))

    def forward(self, x, *, more=0):
        log(self.name, x.tolist(), more)
        return x * self.scale + float(ask(self.name))

class Plain(nn.Module):
    def forward(self, x):
        return x - 1

def seen(value):
    return value.detach().tolist()

X = torch.tensor([1.0, 2.0])
"""


def answer(key):
    """A number for each place."""
    return len(str(key)) / 2


ROWS = {
    "a module of one's own": "out = seen(Asks('a')(X))",
    "keyword arguments": "out = seen(Asks('a')(X, more=3))",
    "a wrong call": """
try:
    Asks('a')()
except TypeError as error:
    out = str(error)
""",
    "modules inside modules": """
class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Asks('a'), Plain(), Asks('b', 2)])
    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x
out = seen(Outer()(X))
""",
    "a chain of modules": "out = seen(nn.Sequential(Plain(), nn.Sequential(Asks('a')), Asks('b'))(X))",
    "hooks that see and replace": """
module = Asks('a')
def before(module, args):
    log('before', seen(args[0]))
    return (args[0] + float(ask('pre')),)
def after(module, args, result):
    log('after', seen(args[0]), seen(result))
    return result * 2
def with_keywords(module, args, kwargs):
    log('keywords', kwargs)
    return args, {'more': ask('more')}
module.register_forward_pre_hook(before)
module.register_forward_pre_hook(with_keywords, with_kwargs=True)
module.register_forward_hook(after)
module.register_forward_hook(lambda m, a, r: log('always'), always_call=True)
out = seen(module(X, more=1))
""",
    "a hook that asks on a module that does not": """
module = nn.Linear(2, 2)
nn.init.ones_(module.weight), nn.init.zeros_(module.bias)
module.register_forward_hook(lambda m, a, r: r + float(ask('hook')))
out = seen(module(X))
""",
    "hooks that always run, on an error": """
class Breaks(nn.Module):
    def forward(self, x):
        ask('here')
        raise KeyError('no')
module = Breaks()
module.register_forward_hook(lambda m, a, r: log('always', ask('hook')), always_call=True)
try:
    module(X)
except KeyError as error:
    out = repr(error)
""",
    "a forward set on the object": """
module = Plain()
module.forward = lambda x: x + float(ask('own'))
out = seen(module(X))
""",
    "no_grad as a decorator": """
@torch.no_grad()
def helper(x):
    log(torch.is_grad_enabled())
    x = x + float(ask('a'))
    log(torch.is_grad_enabled())
    return x
out = seen(helper(X))
log(torch.is_grad_enabled())
""",
    "enable_grad inside no_grad": """
@torch.enable_grad()
def inner(x):
    return (x.requires_grad_() * float(ask('a'))).requires_grad
@torch.no_grad()
def outer(x):
    return inner(x.clone()), torch.is_grad_enabled()
out = outer(X)
""",
    "no_grad on a method": """
class Box:
    @torch.no_grad()
    def read(self, key):
        return ask(key), torch.is_grad_enabled()
out = Box().read('k')
""",
    "tree_map": """
from torch.utils import _pytree
out = _pytree.tree_map(lambda v: (v, ask(v)), {'a': [1, 2], 'b': (3,)})
""",
    "tree_map on tensors only": """
from torch.utils import _pytree
out = _pytree.tree_map_only(torch.Tensor, lambda t: float(ask('t')) + t.sum().item(), [X, 2])
""",
    "a loop in torch's functional": "out = seen(torch.nn.functional.relu(X * float(ask(-1))))",
    "backward in a helper": """
def grads(x):
    leaf = x.clone().requires_grad_()
    (leaf * float(ask('g'))).sum().backward()
    return leaf.grad.tolist()
out = grads(X)
""",
}


@pytest.mark.parametrize("row", ROWS)
def test_traced_equals_inline(row):
    body = "\n".join("    " + line for line in ROWS[row].strip().splitlines())
    # Torch numbers the hooks of all modules, of the one run as of the other.
    program = f"{PRELUDE}\nwith trace():\n{body}\n    module = None\n"

    outcome = testing.same_as_inline(program, answer=answer)

    assert outcome.refused is None
    assert "out" in outcome.names
    assert outcome.asked or row == "a wrong call"


@pytest.mark.parametrize("join", ["stack", "cat", "hstack", "vstack", "concat"])
def test_tensors_from_an_iterator_that_asks(join):
    """Equivalent to a list of them: torch itself takes no iterators."""
    body = f"torch.{join}({{}}(X * float(ask(i)) for i in range(3)){{}}).tolist()"
    lazily, at_once = (
        PRELUDE + f"with trace():\n    out = {body.format(*around)}\n"
        for around in (("", ""), ("list(", ")"))
    )
    listed = testing.run_inline(at_once, answer=answer)
    lazy = testing.run_traced(lazily, answer=answer)[0]

    assert lazy.error == ()
    assert listed.names["out"] == lazy.names["out"]
    assert listed.asked == lazy.asked


def test_what_joins_an_iterator_that_does_not_ask_is_torchs_affair():
    body = "try:\n        torch.stack(iter([X]))\n    except TypeError as error:\n        out = str(error)"

    testing.same_as_inline(PRELUDE + f"with trace():\n    {body}\n")


def test_a_backward_hook_that_asks_is_refused():
    """The autograd engine is C++: it cannot wait."""
    program = (
        PRELUDE
        + """
leaf = X.clone().requires_grad_()
with trace():
    leaf.register_hook(lambda grad: grad * float(ask('hook')))
    leaf.sum().backward()
"""
    )
    outcome = testing.same_as_inline(program, answer=answer, may_refuse=True)

    assert isinstance(outcome.refused, CannotSuspendError)
    assert "ask('hook')" in str(outcome.refused)
