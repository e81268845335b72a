"""A module that the running model cannot call again is known to be past; "perhaps" is never "no"."""

from __future__ import annotations

import pytest
import torch
from families import BEFORE_5
from torch import nn

from tracekit._torch.foresight import cannot_come, is_past
from tracekit.testing import gpt2

X = torch.zeros(1, 4)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x))


class Plain(nn.Module):
    """Attributes, a loop in order, a sequence, a call whose callee waits on the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Linear(4, 4)
        self.h = nn.ModuleList(Pair() for _ in range(3))
        self.seq = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.pre(x)
        for _, block in enumerate(self.h):
            x = block(x)
        return self.head(self.seq(x))


class Twice(Plain):
    def forward(self, x):
        for _ in range(2):
            x = self.pre(x)
            for block in self.h:
                x = block(x)
        return self.head(x)


class Backwards(Plain):
    def forward(self, x):
        for block in reversed(self.h):
            x = block(x)
        return self.pre(x)


class Kept(Plain):
    """Modules put away in variables."""

    def forward(self, x):
        early, blocks = self.pre, list(self.h)
        for block in self.h:
            x = block(x)
        return early(blocks[0](x))


class ByMethod(Plain):
    """A method of its own calls what was called before."""

    def again(self, x):
        return self.pre(x)

    def forward(self, x):
        x = self.pre(x)
        x = self.head(x)
        return self.again(self.seq(x))


class HandsOn(Plain):
    """`self` is given to a function."""

    def forward(self, x):
        x = self.head(self.pre(x))
        return use(self, x)


class InMethod(Plain):
    """The model stands below a method of its own, which has more to do."""

    def ends(self, x):
        return self.pre(self.head(x))

    def forward(self, x):
        return self.ends(self.seq(x))


class InFunction(Plain):
    """The same, below a function that was given `self`."""

    def forward(self, x):
        return ends(self, self.seq(x))


class Renamed(Plain):
    """`self` under another name."""

    def forward(self, x):
        me, y = self, x
        return me.pre(self.head(self.pre(y)))


class Closure(Plain):
    """`self` in a function that was made before."""

    def forward(self, x):
        def again(x):
            return self.pre(x)

        return again(self.head(self.pre(x)))


class Asked(Plain):
    """`self` was given to a function that is over."""

    def forward(self, x):
        x = use(self, x) if isinstance(self, Plain) else x
        return self.seq(self.head(x))


class Through(Plain):
    """Children of children are called, and their parents never."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Plain()

    def forward(self, x):
        for block in self.part.h:
            x = block.b(x)
        return self.part.pre(self.pre(self.part.h[1].a(x)))


class ByIndex(Plain):
    def forward(self, x):
        for i in range(3):
            x = self.h[i](x)
        return x


class Shared(Plain):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.pre

    def forward(self, x):
        return self.again(self.head(self.pre(x)))


def use(module, x):
    return module.pre(x)


def ends(module, x):
    return module.pre(module.head(x))


def seen_at(module: nn.Module, place: str, paths: list[str]) -> dict[str, bool]:
    """What is known when the model stands at the output of *place*."""
    found: dict[str, bool] = {}

    def look(*_: object) -> None:
        found.update({path: cannot_come(module, path, place, entering=False) for path in paths})

    handle = module.get_submodule(place).register_forward_hook(look)
    module(X)
    handle.remove()
    return found


ROWS = [
    (Plain, "h.1.b", {"pre": True, "h.0": True, "h.0.a": True, "h.1.a": True}),
    (Plain, "h.1.b", {"h.2": False, "h.2.a": False, "seq.0": False, "head": False}),
    (Plain, "seq.1", {"pre": True, "h.2.b": True, "head": False}),
    (Plain, "head", {"pre": True, "seq": True, "seq.0": True}),
    (Twice, "h.1", {"pre": False, "h.0": False}),
    (Backwards, "h.1", {"h.0": False, "pre": False}),
    (Kept, "h.1", {"pre": False, "h.0": False}),
    (ByMethod, "head", {"pre": False}),
    (HandsOn, "head", {"pre": False}),
    (ByIndex, "h.1", {"h.0": False}),
    (InMethod, "head", {"pre": False, "seq": True}),
    (InFunction, "head", {"pre": False, "seq": True}),
    (InFunction, "seq.1", {"pre": False, "head": False}),
    (Renamed, "head", {"pre": False}),
    (Closure, "head", {"pre": False}),
    (Asked, "head", {"pre": True}),
    (Through, "part.h.0.b", {"part.pre": False, "part.h.0.a": False, "part.h.1.a": False}),
    (Through, "part.h.1.b", {"part.h.1.a": False, "part.h.2.b": False}),
    (Shared, "head", {"pre": False, "again": False}),
]


@pytest.mark.parametrize(("kind", "place", "expected"), ROWS)
def test_what_is_known(kind, place, expected) -> None:
    """True only where the forward cannot get hold of the module any more."""
    assert expected == seen_at(kind(), place, list(expected))


def test_a_language_model() -> None:
    """Real forwards: decorated, with a loop over blocks, with options that are not taken."""
    model = gpt2()
    found: dict[str, bool] = {}
    paths = ["transformer.wte", "transformer.h.0.attn", "transformer.h.2", "lm_head"]

    def look(*_: object) -> None:
        found.update(
            {
                path: cannot_come(model, path, "transformer.h.1.mlp", entering=False)
                for path in paths
            }
        )

    model.transformer.h[1].mlp.register_forward_hook(look)
    model(torch.tensor([[1, 2, 3]]))

    # Of those that are passed, the more the forward does with `self`, the fewer are known to be.
    passed = not BEFORE_5
    assert dict(zip(paths, [passed, passed, False, False], strict=True)) == found


@pytest.mark.parametrize("entering", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        *(Plain, Twice, Backwards, Kept, ByMethod, HandsOn, ByIndex, Shared),
        *(InMethod, InFunction, Renamed, Closure, Asked, Through),
    ],
)
def test_every_no_is_true(kind, entering) -> None:
    """Whatever is said not to come does not come: at each call, for each module."""
    module = kind()
    paths = {name: each for name, each in module.named_modules() if name}
    said_no: set[nn.Module] = set()
    wrong: list[str] = []

    def look(place: str) -> None:
        for path, each in paths.items():
            if each is not paths[place] and cannot_come(module, path, place, entering=entering):
                said_no.add(each)

    for name, each in paths.items():

        def before(each, _, name=name) -> None:
            if each in said_no:
                wrong.append(name)
            if entering:
                look(name)

        def after(each, *_, name=name) -> None:
            if not entering:
                look(name)

        each.register_forward_pre_hook(before)
        each.register_forward_hook(after)
    module(X)

    assert [] == wrong
    assert said_no or kind in (Twice, Backwards, HandsOn, ByIndex, Through, Renamed, Closure)


def test_later_registered_modules_are_not_looked_at() -> None:
    """The common case costs nothing: outside a run the answer is no, at once."""
    module = Plain()

    assert not is_past(module, "head", "pre", entering=False)
    assert not is_past(module, "h.2", "h.1.a", entering=False)
    assert not is_past(module, "pre", "pre", entering=False)
