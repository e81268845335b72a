"""The wrapper that can trace, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from .._runtime.tracer import Backend
from .axes import BatchRules
from .joining import Joined, count_rows, join, spelled_alike
from .regions import uncompiled
from .rename import bind_aliases
from .tracers import InterleavingTracer
from .tree import Node, Tree
from .values import LEAVES, map_tensors


class Traceable(Node):
    """A module that can be traced.

    Args:
        module: Any module.
        rename: Further names for modules: `{path, pattern or class: name or names}`.
    """

    _rules: BatchRules | None = None
    _first_parameter: tuple[nn.Module, str] | None = None
    tracer_class: ClassVar[type[InterleavingTracer]] = InterleavingTracer
    prepares_plainly: ClassVar[bool] = True
    """Whether `_prepare` is the one below: it moves tensors, and does nothing else."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.prepares_plainly = (
            cls._prepare is Traceable._prepare and cls._first_device is Traceable._first_device
        )

    def __init__(
        self, module: nn.Module, *, rename: dict[Any, str | list[str]] | None = None
    ) -> None:
        if isinstance(module, Node):
            module = module._module
        if not isinstance(module, nn.Module):
            message = f"a torch.nn.Module is wrapped, not {type(module).__name__!r}"
            raise TypeError(message)
        module = uncompiled(module)
        tree = Tree(module, self._child_class())
        self._attach(tree, "", module)
        tree.nodes[""] = self
        if rename:
            bind_aliases(tree, rename)

    @classmethod
    def _child_class(cls) -> type[Node]:
        """What the nodes below the root are made of."""
        return Traceable

    def trace(
        self,
        *args: Any,
        fn: str | Callable[..., Any] | None = None,
        backend: Backend | None = None,
        tracer_cls: type[InterleavingTracer] | None = None,
        trace: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Give a tracer: `with model.trace(x) as tracer:` runs the block in step with a call.

        The call is `module(*args, **kwargs)`; tensors in the arguments move to the module's
        device.

        Args:
            *args: Given to the call.
            fn: Called instead: a method's name, a bound method, or any function that runs the
                model.
            backend: What runs the captured block.
            tracer_cls: A subclass of `InterleavingTracer`.
            trace: `False` makes the call at once, with the stored edits, and gives what it
                returns.
            **kwargs: Given to the call; `keep=` goes to the tracer.

        Returns:
            The tracer, or what the call returned.
        """
        cls = self.tracer_class if tracer_cls is None else tracer_cls
        tracer = cls(fn, self, *args, backend=backend, **kwargs)
        return tracer if trace else tracer.call()

    def _prepare(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make the arguments of the traced call; a subclass may take other kinds of input.

        Args:
            function: What is going to be called.
            args: As given to `trace`.
            kwargs: As given to `trace`.

        Returns:
            What the function is called with.
        """
        device: torch.device | None = None
        for value in (*args, *kwargs.values()) if kwargs else args:
            if type(value) in LEAVES:
                continue
            if device is None and (device := self._first_device()) is None:
                break
            if not isinstance(value, torch.Tensor) or value.device != device:
                moved: tuple[tuple[Any, ...], dict[str, Any]]
                moved = map_tensors((args, kwargs), lambda tensor: _moved(tensor, device))
                return moved
        return args, kwargs

    # Several inputs.

    def batch_axis(self, path: str, port: str, leaf: tuple[Any, ...]) -> Any:
        """State where the batch is in a value; a subclass overrides this where it knows better.

        Args:
            path: The module's name; empty for the model itself.
            port: `"input"`, `"output"`, `"result"`.
            leaf: Where the tensor stands in a nested value: keys and indices, outermost first.

        Returns:
            The axis and the rows for each input; `None` if the value has no batch axis;
            `NotImplemented` to have it learned from two fake runs.
        """
        return NotImplemented

    def _batch_rules(self) -> BatchRules:
        """What is known about the batch axes of this model's sites."""
        rules = self._rules
        if rules is None:
            stated = weakref.WeakMethod(self.batch_axis)

            def state(path: str, port: str, leaf: tuple[Any, ...]) -> Any:
                method = stated()
                return NotImplemented if method is None else method(path, port, leaf)

            rules = BatchRules(state)
            object.__setattr__(self, "_rules", rules)
        return rules

    def _join(
        self,
        function: Callable[..., Any],
        inputs: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    ) -> Joined:
        """Make one input of those of several invokes; as `_prepare`, of one or more."""
        prepared = [self._prepare(function, args, kwargs) for args, kwargs in inputs]
        return join(spelled_alike(function, prepared), self._batch_rules().input_axis)

    def _count_rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Count the rows of one invoke's input, for `max_rows`."""
        return count_rows((args, kwargs), self._batch_rules().input_axis)

    def _first_device(self) -> torch.device | None:
        """Where the first parameter is.

        Equivalent to `device`, except that buffers do not count, and that a parameter once found
        is looked for in the same place again: a traced call asks each time.
        """
        known = self._first_parameter
        if known is not None and (parameter := known[0]._parameters.get(known[1])) is not None:
            device: torch.device = parameter.device
            return device
        # As `modules()`, which takes several times as long: of a model without any parameter all
        # are looked at each time.
        waiting: list[nn.Module | None] = [self._module]
        seen: set[nn.Module] = set()
        while waiting:
            module = waiting.pop()
            if module is None or module in seen:
                continue
            seen.add(module)
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    object.__setattr__(self, "_first_parameter", (module, name))
                    return parameter.device
            waiting += reversed(list(module._modules.values()))
        return None


def _moved(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    # Weights not loaded yet have no device to move to; a fake run brings its own tensors.
    if device is None or device.type == "meta" or tensor.device == device:
        return tensor
    return tensor.to(device)
