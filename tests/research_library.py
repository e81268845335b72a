"""A helper library as researchers write them: it touches the model from everywhere.

Not a test. Used from blocks by `_vocabulary/test_research_library.py`; it knows nothing of blocks,
and nothing in it is written with them in mind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class Sites:
    """One kind of value at each layer: `sites[i]`, `sites[i] = v`, `for v in sites`, slices.

    Args:
        count: How many layers there are.
        read: Gives the value at a layer.
        write: Takes a layer and its new value.
    """

    def __init__(self, count, read, write):
        self._count = count
        self._read = read
        self._write = write

    def __len__(self):
        return self._count

    def __getitem__(self, layer):
        if isinstance(layer, slice):
            return [self._read(i) for i in range(*layer.indices(self._count))]
        if not -self._count <= layer < self._count:
            message = f"no layer {layer}"
            raise IndexError(message)
        return self._read(layer % self._count)

    def __setitem__(self, layer, value):
        self._write(layer, value)

    def __iter__(self):
        for i in range(self._count):
            yield self[i]


class StandardizedModel:
    """Names that are the same for all architectures, here over a GPT-2."""

    def __init__(self, model):
        self.model = model

    @functools.cached_property
    def layers(self):
        return list(self.model.transformer.h)

    @property
    def attn_out(self):
        return Sites(
            len(self.layers),
            lambda i: self.layers[i].attn.output[0],
            lambda i, v: setattr(
                self.layers[i].attn, "output", (v, *self.layers[i].attn.output[1:])
            ),
        )

    @property
    def mlp_out(self):
        return Sites(len(self.layers), lambda i: self.layers[i].mlp.output, self._set_mlp)

    def _set_mlp(self, layer, value):
        self.layers[layer].mlp.output = value

    @property
    def resid(self):
        return Sites(len(self.layers), self._resid, self._set_resid)

    def _resid(self, layer):
        out = self.layers[layer].output
        return out[0] if isinstance(out, tuple) else out

    def _set_resid(self, layer, value):
        self._resid(layer)[:] = value

    @property
    def logits(self):
        return self.model.output.logits

    def lens(self, layers: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Yield what the model would say after each layer, as it is reached."""
        model = self.model
        for i in range(len(self.layers)) if layers is None else layers:
            yield model.lm_head(model.transformer.ln_f(self.resid[i]))


class Probe(nn.Module):
    """A linear probe that reads the residual stream itself."""

    def __init__(self, width: int, layer: int):
        super().__init__()
        torch.manual_seed(layer)
        self.layer = layer
        self.line = nn.Linear(width, 1)

    def forward(self, model: StandardizedModel, *, token: int = -1) -> Tensor:
        return self.line(model.resid[self.layer][:, token]).squeeze(-1)


@dataclass
class Record:
    """What has been seen, by name."""

    model: StandardizedModel
    wanted: tuple[str, ...] = ("attn_out", "resid")
    values: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int) -> Record:
        self.values.update(
            (f"{name}.{layer}", getattr(self.model, name)[layer].detach().clone())
            for name in self.wanted
        )
        return self

    def norms(self) -> dict[str, float]:
        return {name: value.norm().item() for name, value in sorted(self.values.items())}


def patched(
    model: StandardizedModel,
    layers: Iterable[int],
    change: Callable[[Tensor, int], Tensor],
    *,
    where: str = "mlp_out",
) -> list[float]:
    """Replace the values of *layers* by what *change* makes of them; how much each changed."""
    moved = []
    for layer in sorted(layers, key=lambda i: i):
        sites = getattr(model, where)
        before = sites[layer]
        after = change(before, layer)
        sites[layer] = after
        moved.append((after - before).norm().item())
    return moved


@contextmanager
def ablated(model: StandardizedModel, layer: int) -> Iterator[Tensor]:
    """The attention of *layer* adds nothing; gives what it would have added."""
    original = model.attn_out[layer].clone()
    model.attn_out[layer] = torch.zeros_like(original)
    yield original


def every(layers: range) -> Callable[[Callable[..., Tensor]], Callable[..., list[Tensor]]]:
    """Decorator: call the function once for each layer."""

    def decorate(function):
        @functools.wraps(function)
        def repeated(*args, **kwargs):
            return [function(*args, layer=layer, **kwargs) for layer in layers]

        return repeated

    return decorate


@every(range(2))
def mean_of(model: StandardizedModel, *, layer: int) -> Tensor:
    """Mean residual at each layer."""
    return model.resid[layer].mean()


def first_that(model: StandardizedModel, accepts: Callable[[Tensor], bool]) -> int | None:
    """The first layer whose residual *accepts* says yes to; later ones are not looked at."""
    return next((i for i, value in enumerate(model.resid) if accepts(value)), None)


def path_of(model: StandardizedModel, layer: int = 0) -> list[float]:
    """Norms down the layers, one call inside the other."""
    if layer == len(model.layers):
        return []
    here = model.resid[layer].norm().item()
    return [here, *path_of(model, layer + 1)]
