"""What is shown of models and tracers: in a notebook, in a terminal, by `repr`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from torch import Tensor, nn

from .._interleave.site import spell
from .._torch.printed import served_lines, shown_shape
from .._torch.tree import Tree
from .recorded import amount

if TYPE_CHECKING:
    from .._torch.run import Run

_STYLE = "font-family:monospace;margin-left:1.2em;line-height:1.35"
_DIM = "opacity:.6"


class DisplayedModel:
    """The part of a wrapper that is shown in notebooks and by rich."""

    _module: nn.Module
    _tree: Tree
    _path: str

    def _repr_html_(self) -> str:
        """The tree, to be opened and closed; with shapes after a scan or a run."""
        return f'<div style="{_STYLE}">{_html(_Line(self._tree, self._path, self._module))}</div>'

    def __rich__(self) -> Any:
        """The tree for rich, in colours."""
        from rich.markup import escape
        from rich.tree import Tree as RichTree

        def fill(branch: Any, line: _Line) -> None:
            for below in line.children():
                shape = f"  [green]{escape(below.shape)}[/green]" if below.shape else ""
                text = f"[bold]{escape(below.label)}[/bold] {escape(below.kind)}{shape}"
                fill(branch.add(text), below)

        top = _Line(self._tree, self._path, self._module)
        tree = RichTree(f"[bold]{escape(spell(self._path, ''))}[/bold] {escape(top.kind)}")
        fill(tree, top)
        return tree


class _Line:
    """One module as it is shown; equal neighbours in a list are folded into one line."""

    def __init__(self, tree: Tree, path: str, module: nn.Module, label: str = "") -> None:
        self._tree = tree
        self._path = path
        self._module = module
        self.label = label
        self.kind = type(module).__name__
        self.extra = module.extra_repr()
        shape = tree.shapes.get(path)
        self.shape = "" if shape is None else shown_shape(shape)
        self.served = served_lines(tree.class_of(path, module))

    def children(self) -> Iterator[_Line]:
        cls = self._tree.class_of(self._path, self._module)
        names = {real: alias for alias, real in self._tree.aliases.get(self._path, {}).items()}
        last: _Line | None = None
        for name, child in self._module._modules.items():
            if child is None:
                continue
            label = f"{names[name]}/{name}" if name in names else name
            if hasattr(cls, name):
                label = f'["{name}"]'
            below = f"{self._path}.{name}" if self._path else name
            line = _Line(self._tree, below, child, label)
            if (
                last is not None
                and name.isdecimal()
                and last.label.rpartition("-")[2].isdecimal()
                and last._same(line)
            ):
                last.label = f"{last.label.partition('-')[0]}-{name}"
                continue
            if last is not None:
                yield last
            last = line
        if last is not None:
            yield last

    def _same(self, other: _Line) -> bool:
        if (self.kind, self.extra, self.shape) != (other.kind, other.extra, other.shape):
            return False
        mine, others = self._module._modules, other._module._modules
        return list(mine) == list(others) and all(
            a._same(b) for a, b in zip(self._each(), other._each(), strict=True)
        )

    def _each(self) -> list[_Line]:
        return [
            _Line(self._tree, f"{self._path}.{name}" if self._path else name, child, name)
            for name, child in self._module._modules.items()
            if child is not None
        ]


def _html(line: _Line) -> str:
    label = f"<b>{html.escape(line.label)}</b> " if line.label else ""
    extra = f' <span style="{_DIM}">{html.escape(line.extra)}</span>' if line.extra else ""
    shape = f" &rarr; {html.escape(line.shape)}" if line.shape else ""
    head = f"{label}{html.escape(line.kind)}{extra}{shape}"
    inside = [f'<div style="{_DIM}">{html.escape(text)}</div>' for text in line.served]
    inside += [_html(below) for below in line.children()]
    if not inside:
        return f"<div>{head}</div>"
    opened = "" if line.label else " open"
    return (
        f"<details{opened}><summary>{head}</summary>"
        f'<div style="margin-left:1.2em">{"".join(inside)}</div></details>'
    )


class DisplayedTracer:
    """The part of a tracer that says where it is, and what its block has left in memory."""

    _retained: list[ref[Tensor]] | None = None
    _state: str
    _current: Run | None
    model: Any

    def _note_bound(self, values: Iterable[object]) -> None:
        retained: list[ref[Tensor]] = []
        for value in values:
            kind = type(value)
            if kind is Tensor:
                retained.append(ref(value))  # type: ignore[arg-type]
            elif kind is list or kind is tuple or kind is dict:
                retained += map(ref, _tensors_in(value))
        self._retained = retained

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._state == "new":
            return f"<{name}, not entered yet>"
        if self._state != "ended":
            run = self._current
            visited = [] if run is None else run.interleaver.visited()
            where = f"last at {visited[-1]}" if visited else "before the model's first site"
            return f"<{name}, running, {where}>"
        if self._retained is None:
            return f"<{name}, ended>"
        alive = [tensor for tensor in (each() for each in self._retained) if tensor is not None]
        count = f"{len(alive)} tensor{'' if len(alive) == 1 else 's'}"
        return (
            f"<{name}, ended; the names that its block bound keep {amount(memory_of(alive))} "
            f"in {count}>"
        )


def _tensors_in(container: Any) -> list[Tensor]:
    """Find the tensors in what a user has put together of lists, tuples and dictionaries.

    No code of the user's runs for it. A container may be inside itself, and behind the first
    `_MOST_ITEMS` items nothing is looked at.
    """
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting = [container]
    left = _MOST_ITEMS
    while waiting and left > 0:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        items = list(islice(each.values() if type(each) is dict else each, left))
        left -= len(items)
        for item in items:
            kind = type(item)
            if kind is Tensor:
                found.append(item)
            elif kind is list or kind is tuple or kind is dict:
                waiting.append(item)
    return found


_MOST_ITEMS: Final = 10_000


def memory_of(found: Iterable[Tensor]) -> int:
    """Count the bytes that tensors keep alive: of each storage once, and the whole of it.

    A view of one row keeps the whole batch; a `.clone()` of it keeps the row.

    Args:
        found: The tensors.
    """
    storages: dict[int, int] = {}
    for tensor in found:
        try:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        except (RuntimeError, NotImplementedError):
            # Sparse, or without data.
            parts = [tensor._indices(), tensor._values()] if tensor.is_sparse else []
            storages[id(tensor)] = sum(part.nbytes for part in parts)
    return sum(storages.values())
