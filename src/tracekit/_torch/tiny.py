"""Tiny modules, one per shape of module that exists in the wild. For `tracekit.testing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 16


@dataclass
class Pair:
    """What a module returns that returns a dataclass. Shapes (batch, width)."""

    first: Tensor
    second: Tensor


class Repeated(nn.Module):
    """Calls one child three times."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width) in and out."""
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return x


class Shared(nn.Module):
    """Has one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width) in and out."""
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class Split(nn.Module):
    """Returns two tensors, in the container that it was made with."""

    def __init__(self, container: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.left = nn.Linear(WIDTH, WIDTH)
        self.right = nn.Linear(WIDTH, WIDTH)
        self.container = container

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Any:
        """Shape (batch, width) in; two of these out."""
        return self.container(self.left(x) * scale, self.right(x) * scale)


class Nested(nn.Module):
    """Hands containers from child to child, by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Split(lambda a, b: (a, b))
        self.mapping = Split(lambda a, b: {"a": a, "b": b})
        self.record = Split(Pair)
        self.nothing = Nothing()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width) in and out."""
        a, b = self.pair(x)
        mapping = self.mapping(a, scale=0.5)
        record = self.record(x=b, scale=2.0)
        self.nothing(mapping)
        out: Tensor = mapping["a"] + mapping["b"] + record.first - record.second
        return out


class Nothing(nn.Module):
    """Returns nothing."""

    def forward(self, mapping: dict[str, Tensor]) -> None:
        """Shapes (batch, width)."""


class Branching(nn.Module):
    """Calls one of its two children, by the sign of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(WIDTH, WIDTH)
        self.negative = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width) in and out."""
        out: Tensor = self.positive(x) if x.sum() > 0 else self.negative(x)
        return out


class InPlace(nn.Module):
    """Overwrites what its first child returned."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, width) in and out."""
        out: Tensor = self.act(self.linear(x))
        return out


def mlp() -> nn.Module:
    """Three times `Linear`, `ReLU`."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers)


def vector() -> tuple[Any, ...]:
    """Make the input of all modules here but the transformer: shape (1, width)."""
    return (torch.linspace(-1.0, 1.0, WIDTH).unsqueeze(0),)


def sequence() -> tuple[Any, ...]:
    """Make an input of shape (batch=2, seq=5, width)."""
    return (torch.linspace(-1.0, 1.0, 2 * 5 * WIDTH).reshape(2, 5, WIDTH),)


def transformer() -> nn.Module:
    """Two of torch's own encoder layers."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


Entry = tuple[str, Callable[[], nn.Module], Callable[[], tuple[Any, ...]], str]

MODELS: tuple[Entry, ...] = (
    ("mlp", mlp, vector, "nothing"),
    ("repeated", Repeated, vector, "a child that is called three times"),
    ("shared", Shared, vector, "one module under two names"),
    ("nested", Nested, vector, "tuples, dicts, dataclasses, None, keyword arguments"),
    ("branching", Branching, vector, "a child that does not run"),
    ("in-place", InPlace, vector, "an in-place activation"),
    ("transformer", transformer, sequence, "torch's own encoder layers"),
)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module with the same weights each time, in evaluation mode.

    Equivalent to `make().eval()`, except that the random state is put back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()
