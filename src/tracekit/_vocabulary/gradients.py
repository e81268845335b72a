"""Gradients in step with a backward pass: `with loss.backward(): g = hidden.grad`.

In the block `t.grad` is the gradient of the loss with respect to `t`, when the backward pass gets
there: it can be read, edited in place and replaced, in the reverse order of the forward. torch is
not patched: the call `loss.backward(...)` and the attribute `grad` are served where rewritten code
uses them, by hooks on the graph's own nodes that are put there when a gradient is asked for.

A hook on a node and not on the tensor: all outputs of one operation (`q, k, v = qkv.split(...)`)
get their gradients at one moment, so they can be asked for in any order; and nothing is ever
added to a node whose hooks are running.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Generator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from .._bytecode.cut import is_with_item
from .._interleave.host import WAIT, Host
from .._interleave.interleaver import Interleaver
from .._interleave.requests import Read, View, Write
from .._interleave.worker import Worker
from .._protocol import Abort, ask, suspending
from .._runtime.bodies import Body
from .._runtime.guards import watch_attribute
from .._runtime.special import mro_of
from .._runtime.tracer import Backend, Tracer
from .._runtime.twins import ORIGINALS
from .._torch import hooks
from .._torch.modes import Modes
from .._torch.values import describe
from ..errors import NeverRanError, NoGradientError, NotRunningError, OutOfOrderError, TracekitError

if TYPE_CHECKING:
    from .._interleave.site import Site
    from .._torch.run import Run

_NO_ORDER: Final = 2**64 - 1
"""The sequence number of nodes that run as soon as they can."""


class _Active(threading.local):
    def __init__(self) -> None:
        self.hosts: list[_Backward] = []


_active: Final = _Active()


class _Grads:
    """The gradients that stand at one node of the graph: one for each output of an operation.

    What is handed out is a copy, which takes the gradient's place if it was edited: autograd
    gives one tensor to several branches, and an edit is meant for one of them.
    """

    __slots__ = ("_copies", "_values")

    def __init__(self, values: tuple[Tensor | None, ...]) -> None:
        self._values = list(values)
        self._copies: dict[int, tuple[Tensor, int]] = {}

    def read(self, number: int) -> Tensor | None:
        value = self._values[number]
        if value is None:
            return None
        held = self._copies.get(number)
        if held is None:
            copy = value.clone()
            held = self._copies[number] = (copy, -1 if copy.is_inference() else copy._version)
        return held[0]

    def write(self, number: int, value: Any, like: Tensor) -> _Grads:
        held = self._copies.pop(number, None)
        if not isinstance(value, Tensor):
            raise TypeError(f"a gradient is replaced by a tensor, not by {describe(value)}")
        if value.shape != like.shape or value.device != like.device:
            raise ValueError(
                f"the gradient of a {describe(like)} is replaced by a {describe(value)}"
            )
        if held is not None and held[0] is value:
            # `t.grad *= 2` writes back what it has edited: go on handing out the same tensor.
            self._copies[number] = held
        self._values[number] = value.to(like.dtype)
        return self

    def result(self) -> tuple[Tensor | None, ...]:
        for number, (copy, version) in self._copies.items():
            if version < 0 or copy._version != version:
                self._values[number] = copy
        return tuple(self._values)


class _Backward(Host):
    """One backward pass and the block that runs in step with it."""

    def __init__(self, loss: Tensor) -> None:
        self.loss = loss
        self.interleaver = Interleaver(self, (self,))
        self.modes = Modes()
        self.at: Any = None
        self.lowest = _NO_ORDER
        self.nodes: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.passed: list[str] = []
        self._paths: dict[int, str] = {}
        self._hooks: list[_Hook] = []

    # Requests.

    def request(self, tensor: Tensor, value: Any = None, *, writes: bool = False) -> Read:
        """Make the request for, or the write of, a tensor's gradient.

        Raises:
            NoGradientError: `no-gradient`. The tensor is not part of any graph.
        """
        if not tensor.requires_grad:
            raise NoGradientError(
                f"{_name(tensor)} has no gradient: it does not require one",
                where=self._worker().where(),
                why="it was computed without gradients (`no_grad`, `generate`), detached, or "
                "nothing that it was computed from requires them",
                fix="call `requires_grad_()` on it, or on the value it is computed from, before "
                "the loss is computed",
            )
        edge = get_gradient_edge(tensor)
        node, number = edge.node, edge.output_nr
        path = self._paths.get(id(node))
        if path is None:
            path = self._paths[id(node)] = f"gradient {len(self._paths)}"
            self.nodes[path] = node
            self.names[path] = _name(tensor)
        like = tensor.detach()
        view = View(
            "grad",
            lambda grads: grads.read(number),
            lambda grads, new: grads.write(number, new, like),
        )
        if writes:
            return Write(self, path, "grad", value, view)
        return Read(self, path, "grad", view)

    def _worker(self) -> Worker:
        return self.interleaver.workers[0]

    def refusal(self, error: TracekitError, path: str, tensor: Tensor) -> TracekitError:
        """Say in the words of gradients why one cannot come."""
        name = _name(tensor)
        if path in self.passed or _leads_to(self.loss, self.nodes.get(path)):
            seen = ", ".join(self.names[each] for each in self.passed)
            return OutOfOrderError(
                f"the gradient of {name} was asked for, but the backward pass is already past it",
                where=error.where,
                seen=f"gradients served so far, oldest first: {seen}" if seen else "",
                why="a backward pass goes through the graph once, from the loss to the inputs, so "
                "gradients come in the reverse order of the forward",
                fix="ask for it earlier in the block, or in a second "
                "`with loss.backward(retain_graph=True):`",
            )
        return NoGradientError(
            f"{name} has no gradient in this backward pass: the loss does not depend on it",
            where=error.where,
            seen=f"the loss: {describe(self.loss)}",
            why="a gradient flows only along the operations by which the loss was computed",
            fix="ask for the tensor itself that the loss was computed from: `.detach()`, "
            "`.clone()` and slices are tensors of their own",
        )

    # Host.

    def enter(self, worker: Worker) -> Modes:
        modes: Modes | None = worker.modes
        if modes is None:
            worker.modes = self.modes
            return self.modes
        return modes.enter()

    def leave(self, worker: Worker, before: Modes) -> None:
        worker.modes = worker.modes.leave(before)

    def elsewhere(self, request: Read) -> object:
        run: Run | None = hooks.current_run()
        # The run around this pass stands still: it has what stands where it stands.
        return WAIT if run is None else run.interleaver.answer_now(request)

    def reach(self, worker: Worker, request: Read) -> BaseException | None:
        path = request.key[0]
        node = self.nodes[path]
        order = _order(node)
        if path in self.passed or (order != _NO_ORDER and order > self.lowest):
            return NeverRanError("", where=worker.where())
        hook = wrap_grad(self, path, node)
        self._hooks.append(hook)
        hook.handle = node.register_prehook(hook)
        return None

    def serve(self, path: str, order: int, grads: Any) -> Any:
        """The backward pass has come to a node; give the gradients with which it goes on."""
        if _active.hosts[-1:] != [self] or self.interleaver.current is not None:
            # Another backward pass through the same graph, made by the block.
            return None
        self.lowest = min(self.lowest, order)
        if path in self.passed:
            return None
        self.passed.append(path)
        values = _Grads(grads)
        self.interleaver.visit((path, "grad"), 0, values)
        return values.result()

    def close(self) -> None:
        """Take the hooks off, and let go of the graph."""
        for hook in self._hooks:
            hook.empty()
        self._hooks = []
        self.nodes = {}
        self.interleaver.close()
        del self.loss


class _Hook:
    """What is put on a node of the graph.

    The graph lies in C++, where the garbage collector does not follow: a hook that an interrupt
    leaves there must hold neither the node nor the pass.
    """

    __slots__ = ("_host", "_order", "_path", "handle")

    def __init__(self, host: _Backward, path: str, node: Any) -> None:
        self._host: weakref.ref[_Backward] | None = weakref.ref(host)
        self._path = path
        self._order = _order(node)
        self.handle: Any = None

    def __call__(self, grads: Any) -> Any:
        host = None if self._host is None else self._host()
        return None if host is None else host.serve(self._path, self._order, grads)

    def empty(self) -> None:
        """Take it off its node; where an interrupt has kept the handle from us, leave it empty."""
        self._host = None
        if self.handle is not None:
            self.handle.remove()


def wrap_grad(host: _Backward, path: str, node: Any) -> _Hook:
    """Make the hook that serves the gradients at one node of the graph.

    Args:
        host: The backward pass.
        path: What the node is called in it.
        node: The node; its hooks are called with the gradients of its outputs.
    """
    return _Hook(host, path, node)


def _order(node: Any) -> int:
    """When the node was made: later ones run first."""
    number = getattr(node, "_sequence_nr", None)
    return _NO_ORDER if number is None else number() % 2**64


def _leads_to(loss: Tensor, goal: Any) -> bool:
    """Tell whether *goal* is among the nodes by which the loss was computed."""
    if goal is None or not loss.requires_grad:
        return False
    seen: set[Any] = set()
    waiting = [get_gradient_edge(loss).node]
    while waiting:
        node = waiting.pop()
        if node is goal:
            return True
        if node in seen:
            continue
        seen.add(node)
        waiting.extend(each for each, _ in node.next_functions if each is not None)
    return False


def _name(tensor: Tensor) -> str:
    """Name a tensor by where it was read, if that is known."""
    run: Run | None = hooks.current_run()
    while run is not None:
        site: Site | None = None if run.held is None else run.held.site_of(tensor)
        if site is not None:
            return f"`{site}`"
        run = run.outer
    return f"a tensor {describe(tensor)}"


# `.grad` in rewritten code.


def _host() -> _Backward | None:
    hosts = _active.hosts
    if not hosts or hosts[-1].interleaver.current is None:
        return None
    return hosts[-1]


def _read(obj: Any) -> Generator[Any, Any, Any] | None:
    if not _active.hosts or Tensor not in mro_of(type(obj)):
        return None
    host = _host()
    return None if host is None else _get(host, obj)


def _write(value: Any, obj: Any) -> Generator[Any, Any, Any] | None:
    if not _active.hosts or Tensor not in mro_of(type(obj)):
        return None
    host = _host()
    return None if host is None else _set(host, obj, value)


def _get(host: _Backward, tensor: Tensor) -> Generator[Any, Any, Any]:
    return (yield from _served(host, tensor, host.request(tensor)))


def _set(host: _Backward, tensor: Tensor, value: Any) -> Generator[Any, Any, Any]:
    yield from _served(host, tensor, host.request(tensor, value, writes=True))


def _served(host: _Backward, tensor: Tensor, request: Read) -> Generator[Any, Any, Any]:
    try:
        return (yield from ask(request))
    except (OutOfOrderError, NeverRanError) as error:
        refusal = host.refusal(error, request.key[0], tensor)
    raise refusal


watch_attribute("grad", _read, _write)


# `loss.backward(...)` in rewritten code.

_call_backward: Final[Callable[..., None]] = Tensor.backward


@suspending(Tensor.backward)
def _backward(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    if _enters_with(sys._getframe(1)):
        return BackwardsTracer(self, Tensor.backward, *args, **kwargs)
    return _call_backward(self, *args, **kwargs)
    yield


def _enters_with(frame: FrameType) -> bool:
    """Tell whether the call that a rewritten frame makes is an item of a `with`."""
    twin = ORIGINALS.get(id(frame.f_code))
    if twin is None:
        return False
    offset = twin.origin_of(frame.f_lasti)
    code = twin.original
    if offset is None:
        return False
    return is_with_item(code, offset)


class BackwardsTracer(Tracer):
    """Runs a block in step with a backward pass.

    Equivalent to `fn(tensor, *args, **kwargs)`, except that in the block `t.grad` of any tensor
    that the loss was computed from is its gradient in this pass: to be read, edited in place or
    assigned, in the reverse order of the forward. For a parameter that is what this pass adds to
    its accumulated gradient.

    Args:
        tensor: The loss.
        fn: What makes the pass.
        *args: For *fn*.
        backend: What runs the captured body.
        **kwargs: For *fn*.

    Raises:
        NoGradientError: `no-gradient`. The loss does not depend on a tensor that is asked for.
        OutOfOrderError: `out-of-order`. The pass is past it.
    """

    _host: _Backward | None = None

    def __init__(
        self,
        tensor: Tensor,
        fn: Callable[..., Any] = Tensor.backward,
        *args: Any,
        backend: Backend | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, backend=backend, **kwargs)
        self.tensor: Tensor | None = tensor
        self.fn = fn

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown if self.tensor is None else shown.replace(",", f" of {describe(self.tensor)},")

    def stop(self) -> None:
        """End the pass here; does not return. What was accumulated so far stays so."""
        if self._host is None:
            raise NotRunningError(
                "`stop()` ends a backward pass, and this one is not going on",
                fix="call it inside the block",
            )
        self._host.interleaver.stop()
        raise Abort

    def execute(self, body: Body) -> object:
        """Run *body* in step with the backward pass.

        Returns:
            What the body returned.
        """
        tensor = self.tensor
        assert tensor is not None
        outer = hooks.current_run()
        host = self._host = _Backward(tensor)
        interleaver = host.interleaver
        worker = Worker(body)
        error: BaseException | None = None
        outer_hosts = _active.hosts
        try:
            _active.hosts = [*outer_hosts, host]
            interleaver.add(worker)
            interleaver.start(worker, self.value())
            if not interleaver.ended:
                try:
                    # In this thread, also on a GPU: the block belongs to it.
                    with torch.autograd.set_multithreading_enabled(False):
                        self.fn(tensor, *self.args, **self.kwargs)
                except BaseException as raised:  # noqa: BLE001 - the block sees it first
                    error = raised
            interleaver.conclude(error)
            if outer is not None and outer.interleaver.stopped:
                # The block has stopped the run around it.
                raise Abort
            return worker.value
        finally:
            # Before the first call, which an interrupt may fall into.
            _active.hosts = outer_hosts
            self._host = self.tensor = error = None
            self.args, self.kwargs = (), {}
            modes = worker.modes
            try:
                if modes is not None and modes is not host.modes:
                    modes.set(Modes())
            finally:
                host.close()
                del tensor, host, interleaver


BackwardTracer = BackwardsTracer


def backward(
    loss: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> BackwardsTracer:
    """Open a block that runs in step with a backward pass: `with tracekit.backward(loss):`.

    Equivalent to `loss.backward(...)`, except that in the block `t.grad` is the gradient of
    `loss` with respect to `t`, and can be changed. Inside a block of a trace
    `with loss.backward():` is the same.

    Args:
        loss: One element, unless *gradient* is given.
        gradient: With respect to the loss, of its shape.
        retain_graph: Keep the graph for another pass.
        create_graph: Gradients can be differentiated again.
        inputs: Tensors to accumulate into; all leaves by default.

    Example:
        >>> import torch, tracekit
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = x * 3
        >>> with tracekit.backward(y.sum()):
        ...     g = y.grad
        ...     y.grad = g * 2
        >>> g, x.grad
        (tensor([1., 1.]), tensor([6., 6.]))
    """
    return BackwardsTracer(
        loss, Tensor.backward, gradient, retain_graph, create_graph, inputs=inputs
    )
