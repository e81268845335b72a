"""Values of one's own on the nodes of a model: a view of a port, and the way back.

    class Attention(tracekit.Model):
        @tracekit.served("output")
        def heads(self, value):
            return value.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)

        @heads.writer
        def heads(self, value, heads):
            return heads.transpose(-3, -2).flatten(-2)

    model = tracekit.Model(net, wrappers={SelfAttention: Attention})

A read gives what the view gives. An assignment, and an edit in place of a view that is a copy,
go through the writer; an edit in place of a view that shares the value's memory is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from .._interleave.requests import Read, View, Write
from .._protocol import ask
from .._torch.tree import Node, Port, answer_now
from .._torch.values import checked_inputs, first_input, tensors, with_first_input

Reader = Callable[[Any, Any], Any]
"""Node and value of the port -> the view."""

Writer = Callable[[Any, Any, Any], Any]
"""Node, value of the port, and a new view -> the new value of the port."""

_PORTS: Final[dict[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], Any]]]] = {
    "output": ("output", lambda value: value, lambda _old, new: new),
    "inputs": ("input", lambda value: value, checked_inputs),
    "input": ("input", first_input, with_first_input),
}


class Served(Port):
    """A value that a class of nodes serves; made by `served`.

    Args:
        port: `"output"`, `"input"` or `"inputs"`.
        reader: Makes the view.
    """

    __slots__ = ("_reader", "_writer", "base")

    def __init__(self, port: str, reader: Reader) -> None:
        if port not in _PORTS:
            message = f"a view is one of {', '.join(_PORTS)}, not of {port!r}"
            raise ValueError(message)
        super().__init__(reader.__name__, _PORTS[port][0], doc=reader.__doc__ or "")
        self.base = port
        self._reader = reader
        self._writer: Writer | None = None

    def writer(self, function: Writer) -> Self:
        """Say how a view goes back into the value; used as a decorator.

        Args:
            function: Takes the node, the port's value and the view; gives the new value, or
                `None` if it has edited the value in place.
        """
        self._writer = function
        return self

    def request(self, node: Any) -> Read:
        """Give the request for the view of *node*, always the same object."""
        requests: dict[str, Read] = node._requests
        request = requests.get(self.name)
        if request is None:
            owner, path = node._site_owner()
            request = requests[self.name] = Read(owner, path, self.port, self._view(node))
        return request

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Suspend until the model stands at the site; write the view back."""
        owner, path = obj._site_owner()
        yield from ask(Write(owner, path, self.port, value, self._view(obj)))

    def __set__(self, obj: Any, value: Any) -> None:
        owner, path = obj._site_owner()
        answer_now(Write(owner, path, self.port, value, self._view(obj)))

    def _view(self, node: Any) -> View:
        return View(self.name, partial(self._get, node), partial(self._put, node), watch_copies)

    def _get(self, node: Any, whole: Any) -> Any:
        return self._reader(node, _PORTS[self.base][1](whole))

    def _put(self, node: Any, whole: Any, view: Any) -> Any:
        if self._writer is None:
            message = (
                f"`{self.name}` of {type(node).__name__} can be read only: it has no writer. "
                f"Add one with `@{self.name}.writer`"
            )
            raise TypeError(message)
        _, get, put = _PORTS[self.base]
        value = get(whole)
        new = self._writer(node, value, view)
        return whole if new is None or new is value else put(whole, new)


def watch_copies(view: Any, whole: Any) -> Callable[[], bool]:
    """Make what tells whether a view was edited in a way that did not reach the value.

    Args:
        view: What was taken out of the value: views of its tensors, or copies.
        whole: The value.

    Returns:
        A function without arguments; true once a copy was edited in place.
    """
    own = {_storage(tensor) for tensor in tensors(whole)}
    copies = [tensor for tensor in tensors(view) if _storage(tensor) not in own]
    # Inference tensors count no versions, so what they were is kept.
    before = [one.clone() if one.is_inference() else one._version for one in copies]
    return lambda: any(map(_edited, copies, before))


def _edited(tensor: Tensor, before: Tensor | int) -> bool:
    if isinstance(before, Tensor):
        return not torch.equal(tensor, before)
    return tensor._version != before


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def served(port: str) -> Callable[[Reader], Served]:
    """Serve a view of a port under a name of its own: `@served("output")` on a method.

    The method is called with the node and the port's value, each time the view is read; it cannot
    ask for other values of the model.

    Args:
        port: `"output"`, `"input"` (the first argument) or `"inputs"` (the pair).

    Example:
        >>> import tracekit, torch
        >>> class Halves(tracekit.Model):
        ...     @tracekit.served("output")
        ...     def left(self, value):
        ...         return value[..., : value.shape[-1] // 2]
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU())
        >>> model = tracekit.Model(net, wrappers={torch.nn.Linear: Halves})
        >>> with model.trace(torch.ones(1, 2)):
        ...     model[0].left[:] = 0
        ...     out = model.output
        >>> out.count_nonzero(-1) <= 2
        tensor([True])
    """
    return lambda reader: Served(port, reader)


Wrappers = dict[type[nn.Module] | str, type[Node]] | type[Node]
"""Of modules, by type or by pattern of the path, the class of their nodes; or one for all."""


def checked(wrappers: Wrappers) -> dict[Any, type[Node]]:
    """Check what was given as `wrappers=`.

    Raises:
        TypeError: A key is neither a module class nor a pattern, or a value is no class of nodes.
    """
    found: dict[Any, type[Node]] = (
        dict(wrappers) if isinstance(wrappers, dict) else {nn.Module: wrappers}
    )
    for key, cls in found.items():
        is_module = isinstance(key, type) and issubclass(key, nn.Module)
        if not is_module and not isinstance(key, str):
            message = f"wrappers are given by module class or by pattern of the path, not {key!r}"
            raise TypeError(message)
        if not (isinstance(cls, type) and issubclass(cls, Node)):
            message = f"a wrapper is a subclass of `tracekit.Model`, not {cls!r}"
            raise TypeError(message)
    return found
