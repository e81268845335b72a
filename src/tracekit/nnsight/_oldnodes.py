"""Nodes with the older names, and the wrapper of any module."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Self

from torch import nn

from .._interleave.requests import Read
from .._protocol import ask, suspending
from .._runtime.tracer import Backend
from .._runtime.twins import enters_with
from .._torch.tree import Node, Port, _Method
from .._vocabulary.model import Model
from .._vocabulary.session import Session
from .._vocabulary.steps import StepLoop, Steps, _go_on, go_on
from ._oldtracers import EditingTracer, NNsightTracer, OldSession
from ._telling import NNsightDeprecationWarning, gone, options, warn

_OLD_NODE_NAMES: Final = {
    "envoys": "model.modules()",
    "export_edits": "keep the function that makes the edit, and call model.edit().run(fn) again",
    "import_edits": "keep the function that makes the edit, and call model.edit().run(fn) again",
    "interleaver": "nothing: a run belongs to its tracer",
    "pipe": "p = transformers.pipeline(task, model=module, tokenizer=...), and in a `with` "
    "NNsight(module).trace(text, fn=p); with stored edits p's model is model.as_module()",
    "wait_for_input": "read it: model.layer.input",
    "wait_for_output": "read it: model.layer.output",
}


class _Renamed(Port):
    """A port under its older name."""

    __slots__ = ()

    def request(self, node: Any) -> Read:
        """Give the request for the value, with a warning."""
        warn(f"nns_{self.name}", f"`.{self.name}`; the child is `E_{self.name}`")
        return super().request(node)

    def ask_get(self, obj: Any) -> Any:
        """Suspend until the model stands at the site; give the value."""
        return (yield from ask(self.request(obj)))


class _OldMethod(_Method):
    """A method of the model: in a `with` line a tracer, elsewhere a call."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if enters_with(sys._getframe(1)):
            node: Any = self._node
            return node.trace(*args, fn=self.__name__, **kwargs)
        return super().__call__(*args, **kwargs)


class OldNode:
    """The part of a node that knows the older names."""

    older_form = NNsightDeprecationWarning
    _module: nn.Module
    _path: str

    nns_output = _Renamed("output", "output")
    nns_inputs = _Renamed("inputs", "input", Node.inputs.view)
    nns_input = _Renamed("input", "input", Node.input.view)

    if TYPE_CHECKING:

        def children(self) -> list[Any]: ...
        def _child(self, name: str) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("E_") and "_module" in self.__dict__:
            child = self._child(name[2:])
            if child is not None:
                return child
        try:
            value = super().__getattr__(name)  # type: ignore[misc]
        except AttributeError:
            if name in _OLD_NODE_NAMES:
                raise gone(f"model.{name}", _OLD_NODE_NAMES[name]) from None
            raise
        if type(value) is _Method and not hasattr(nn.Module, name):
            return _OldMethod(value._node, value.__wrapped__)
        return value

    @property
    def path(self) -> str:
        """The module's path as older versions wrote it: `model.transformer.h.0`."""
        return f"model.{self._path}" if self._path else "model"

    @property
    def _model(self) -> nn.Module:
        return self._module

    @property
    def _children(self) -> list[Any]:
        return self.children()

    @property
    def iter(self) -> Steps:
        """This module's calls as steps. Older name of `tracer.iter`."""
        warn("model.iter", "tracer.iter")
        return Steps(self)

    def all(self) -> StepLoop:
        """All calls of this module. Older name of `tracer.all()`."""
        warn("model.all()", "tracer.all()")
        return Steps(self)[:]

    def next(self, steps: int = 1) -> Self:
        """Go on to a later call of this module. Older name of `tracer.next()`."""
        warn("model.next()", "tracer.next(), or a loop over tracer.iter")
        go_on(self, steps)
        return self

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer; see `tracekit.Model.trace`.

        Args:
            *args: Given to the call.
            **kwargs: Given to the call, older options of a trace aside.
        """
        return super().trace(*args, **options(kwargs))  # type: ignore[misc]

    def scan(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer that runs on shapes; see `tracekit.Model.scan`.

        Args:
            *args: Given to the call.
            **kwargs: Given to the call, older options of a trace aside.
        """
        return super().scan(*args, **options(kwargs))  # type: ignore[misc]

    def edit(self, *, inplace: bool = False, backend: Backend | None = None) -> EditingTracer:
        """Keep a block that later forwards replay; see `tracekit.Model.edit`.

        Args:
            inplace: Edit this wrapper.
            backend: What is given the captured block.
        """
        assert isinstance(self, Node)
        return EditingTracer(self, inplace=inplace, backend=backend)

    def session(
        self, backend: Backend | None = None, tracer_cls: Any = None, **kwargs: Any
    ) -> Session:
        """Open a block of several traces, after which only saved names are bound.

        Args:
            backend: What runs the block.
            tracer_cls: A subclass of `Session`.
            **kwargs: Older options; `keep=`.
        """
        cls: Any = OldSession if tracer_cls is None else tracer_cls
        opened: Session = cls(backend=backend, keep=kwargs.pop("keep", "saved"), **options(kwargs))
        return opened


@suspending(OldNode.next)
def _next(self: Any, steps: int = 1) -> Any:
    warn("model.next()", "tracer.next(), or a loop over tracer.iter")
    return (yield from _go_on(self, steps))


class Envoy(OldNode, Model):
    """A node of the tree. Subclasses of it may serve values of their own, by `eproperty`."""

    tracer_class = NNsightTracer

    @classmethod
    def _child_class(cls) -> type[Node]:
        return Envoy

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("_batch", "_batch_size", "_batcher_class"):
            if name in vars(cls):
                raise gone(
                    f"{cls.__name__}.{name}",
                    "batch_axis(self, path, port, leaf), which gives the axis of the rows",
                    "inputs of several invokes are joined along one axis, which one method states",
                )


class NNsight(Envoy):
    """A wrapped module, as older scripts make it.

    Args:
        module: Any module.
        path: Ignored: the model is called `model`.
        rename: Further names for modules.
        envoys: Classes of nodes, by module class or by the end of the path; or one for all.
        interleaver: Refused.
    """

    def __init__(
        self,
        module: nn.Module,
        path: str = "model",
        interleaver: Any = None,
        rename: dict[Any, Any] | None = None,
        envoys: Any = None,
    ) -> None:
        if interleaver is not None:
            raise gone("NNsight(interleaver=)", "subclass InterleavingTracer, and give tracer_cls=")
        super().__init__(module, rename=rename, wrappers=envoys)
