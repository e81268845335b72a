"""Run a module with shapes instead of values: the fake runner.

`FakeRun(module)` puts fake tensors in the place of the module's parameters and buffers, runs
whatever is called inside under the mode of `fakemode.py`, and puts everything back: parameters,
buffers, plain attributes and built-in containers of every submodule, integer tensors written in
place, the random state. No weight is read or copied, so a module on the meta device, whose
weights are not loaded, runs as well as a loaded one.

While it lasts, a parameter or buffer is the fake one in this thread, and the real one in all
others: they may run the same module. Fake runs take turns. Kept apart are parameters and buffers;
other attributes of modules are one for all threads, as in PyTorch.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes as unset_modes
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode

from . import hooks, nocuda
from .fakemode import MAX_KNOWN_ELEMENTS, AsksForValues, FloatsFake, is_float
from .values import map_tensors

_TURN: Final = threading.RLock()
_CONTAINERS: Final = (list, dict, set)
_APART: Final = ("_parameters", "_buffers")
_RECORDS: Final = "_output_capturing_hooks_installed"


class FakeRun:
    """Run *module* on shapes: floats fake, integers and booleans real.

    Equivalent to running the module, except that floating-point tensors have no values (asking
    for one raises), no floating-point kernel runs, and nothing of the run stays in the module.

    Args:
        module: Loaded, or on the meta device with its weights not loaded, or partly so.
        device: Where everything will be. By default each tensor is presented where it is, and
            one on the meta device as on the CPU.

    Example:
        >>> module = torch.nn.Linear(4, 3, device="meta")
        >>> with FakeRun(module) as fake:
        ...     args, kwargs = fake.inputs((torch.zeros(2, 4),), {})
        ...     tuple(module(*args, **kwargs).shape)
        (2, 3)
    """

    def __init__(self, module: nn.Module, device: torch.device | str | None = None) -> None:
        self.module = module
        self.device = None if device is None else torch.device(device)
        # Fallback kernels would be real ones, run on zeros.
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        # QUESTION: may a module that was made in a fake run be moved (`Linear(4, 4).half()`)?
        #   torch 2.13: no, not while there is a weak reference to a parameter, and the mode notes
        #   each result in a weak dictionary, in which nobody looks it up again.
        converter: Any = self.fake_mode.fake_tensor_converter
        converter.set_tensor_memo = _forget
        self.mode = FloatsFake(self.fake_mode, self.device or torch.device("cpu"))
        self._stack: ExitStack | None = None

    @property
    def guesses(self) -> dict[str, int]:
        """Modules of Python code that were given made-up integers -> how often.

        Empty after a run whose shapes follow from shapes and given integers alone.
        """
        return self.mode.guesses

    def __enter__(self) -> Self:
        if self._stack is not None:
            message = "a FakeRun is entered once"
            raise RuntimeError(message)
        stack = self._stack = ExitStack()
        try:
            stack.enter_context(_TURN)
            # torch's modes are entered and left in Python: an interrupt there leaves them set.
            stack.callback(_leave_modes_above, len(_get_current_dispatch_mode_stack()))
            if any(isinstance(mode, FloatsFake) for mode in _get_current_dispatch_mode_stack()):
                # A fake run inside another one: what is fake already is a tensor like any other.
                stack.enter_context(unset_modes())
            stack.enter_context(_random_state())
            stack.enter_context(_quiet())
            stack.enter_context(nocuda.guard())
            stack.enter_context(_module_state(self.module, self._present))
            stack.enter_context(_experts_that_work(self.module, self._on_absent_cuda()))
            if not torch.cuda.is_available():
                # A recurrent layer that claims CUDA would ask cuDNN what it can do, and there is
                # no driver to answer.
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.callback(self.mode.restore_overwritten)
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            # On the stack, not only entered for each operation: with it there, torch does not
            # start a device that is merely named.
            stack.enter_context(self.fake_mode)
            stack.enter_context(AsksForValues(self.mode))
            stack.enter_context(self.mode)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(*exc_info)  # type: ignore[arg-type]

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Turn the inputs of a real run into those of this one.

        Args:
            args: Positional inputs; nested lists, tuples, dicts and registered containers.
            kwargs: Keyword inputs.

        Returns:
            The same structure. Floating-point tensors are fake; integer ones are copies, so that
            a write in the run does not reach the caller's.
        """
        with torch._C.DisableTorchFunction(), unset_modes():
            return (
                map_tensors(args, self._present_input),
                map_tensors(kwargs, self._present_input),
            )

    def _present_input(self, tensor: Tensor) -> Tensor:
        if is_float(tensor) or tensor.is_meta or isinstance(tensor, FakeTensor):
            return self._present(tensor)
        device = self.device or tensor.device
        return self.mode.known(tensor.detach().to("cpu", copy=True), device)

    def _present(self, tensor: Tensor) -> Tensor:
        """Give what stands for a tensor of the module in this run."""
        device = self.device
        if device is None:
            device = self.mode.meta_device if tensor.is_meta else tensor.device
        assert device is not None
        is_parameter = isinstance(tensor, nn.Parameter)
        if not is_float(tensor) and not is_parameter and tensor.numel() <= MAX_KNOWN_ELEMENTS:
            if not tensor.is_meta:
                # Not copied: a write is undone at the end.
                return (
                    tensor
                    if device.type == "cpu" == tensor.device.type
                    else self.mode.known(tensor.detach().to("cpu"), device)
                )
            return self.mode.make_up(tensor, device)
        plain = tensor.layout is torch.strided and tensor.device.type in {"cpu", "cuda", "meta"}
        if plain or isinstance(tensor, FakeTensor):
            fake: Tensor = self.mode.stand_in(tensor, device)
        else:
            fake = self.fake_mode.from_tensor(tensor, static_shapes=True)
        if is_parameter:
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake.requires_grad_() if tensor.requires_grad else fake

    def _on_absent_cuda(self) -> bool:
        if torch.cuda.is_available():
            return False
        first = self.device or next((p.device for p in self.module.parameters()), None)
        return first is not None and first.type == "cuda"


def _leave_modes_above(count: int) -> None:
    """Take dispatch modes off until there are *count* of them."""
    for _ in range(len(_get_current_dispatch_mode_stack()) - count):
        _pop_mode()


def _forget(_meta: Tensor, _fake: Tensor) -> None:
    """Keep no note of a result."""


@contextmanager
def _random_state() -> Iterator[None]:
    """Put the random state of torch (CPU), Python and a loaded numpy back."""
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging each shape error before it raises it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _experts_that_work(module: nn.Module, needed: bool) -> Iterator[None]:
    """Have mixtures of experts computed without asking the GPU for its capability.

    QUESTION: may `grouped_mm` be chosen without a GPU?
      transformers 5 asks the device for its capability, which raises where there is none.
      `batched_mm` gives the same shapes.
    """
    get = getattr(module, "get_experts_implementation", None)
    put = getattr(module, "set_experts_implementation", None)
    if not needed or get is None or put is None:
        yield
        return
    before = get()
    if "grouped_mm" not in before.values():
        yield
        return
    put("batched_mm")
    try:
        yield
    finally:
        put(before)


class _ByThread(dict[str, Any]):
    """A module's parameters or buffers: fake ones for this thread, the real ones for all others.

    A dict whose methods look into one of two others. It stands in a module's `__dict__` in the
    place of the real one, to which it hands everything on once the fake run is over.
    """

    def __init__(self, real: dict[str, Any], fakes: dict[str, Any]) -> None:
        super().__init__(real)
        self._real = real
        self._fakes = fakes
        self._thread = threading.get_ident()

    def end(self) -> None:
        """From here on there are the real ones only."""
        self._fakes = self._real

    def _seen(self) -> dict[str, Any]:
        return self._fakes if threading.get_ident() == self._thread else self._real

    def __getitem__(self, key: str) -> Any:
        return self._seen()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._seen()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._seen()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._seen()

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen())

    def __len__(self) -> int:
        return len(self._seen())

    def __reduce__(self) -> Any:
        return dict, (dict(self._seen()),)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        return self._seen().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        """As of a dict."""
        return self._seen().pop(key, *default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """As of a dict."""
        return self._seen().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """As of a dict."""
        return self._seen().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """As of a dict."""
        return self._seen().items()

    def update(self, *others: Any, **items: Any) -> None:
        """As of a dict."""
        self._seen().update(*others, **items)

    def copy(self) -> dict[str, Any]:
        """As of a dict."""
        return self._seen().copy()

    def clear(self) -> None:
        """As of a dict."""
        self._seen().clear()


@contextmanager
def _module_state(module: nn.Module, present: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Swap the tensors of all submodules for what *present* gives, and put everything back.

    A tensor that stands in several places (tied weights, the flat weights of a recurrent module)
    gets one stand-in. Hooks are left alone: whoever puts one on takes it off.
    """
    saved: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    apart: list[_ByThread] = []
    stand_ins: dict[int, tuple[Tensor, Tensor]] = {}

    def stand_in(tensor: Tensor) -> Tensor:
        if id(tensor) not in stand_ins:
            stand_ins[id(tensor)] = (tensor, present(tensor))
        return stand_ins[id(tensor)][1]

    def visit(container: Any) -> None:
        if id(container) in seen:
            return
        seen.add(id(container))
        saved.append((container, container.copy()))
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(items):
            if isinstance(value, Tensor):
                if not isinstance(container, set):
                    container[key] = stand_in(value)
            elif isinstance(value, dict) and key in _APART:
                fakes = {
                    name: stand_in(item) if isinstance(item, Tensor) else item
                    for name, item in value.items()
                }
                container[key] = _ByThread(value, fakes)
                apart.append(container[key])
            elif type(value) in _CONTAINERS and not (
                isinstance(key, str) and key.endswith("_hooks")
            ):
                visit(value)

    def restore() -> None:
        for container, before in reversed(saved):
            if _RECORDS in container and isinstance(container, dict):
                # transformers has put its recording hooks on, for good; the mark stays with them.
                before[_RECORDS] = container[_RECORDS]
            forwards = [container, before] if isinstance(container, dict) else []
            if any(hooks.is_installed(each.get("forward")) for each in forwards):
                # A run's, perhaps one of another thread: it comes and goes with that run.
                put_back(container, before, leave="forward")
            else:
                put_back(container, before)
        for each in apart:
            each.end()

    try:
        for part in module.modules():
            visit(part.__dict__)
        yield
    finally:
        try:
            restore()
        except BaseException:
            restore()  # what an interrupt has left undone
            raise


def put_back(container: Any, before: Any, *, leave: str = "") -> None:
    """Give a built-in container its items back, touching only what differs.

    Args:
        container: A list, set or dict.
        before: A copy of it from before.
        leave: A key of a dict that stays as it is.
    """
    if isinstance(container, list):
        if len(container) != len(before) or any(
            a is not b for a, b in zip(container, before, strict=True)
        ):
            container[:] = before
        return
    if isinstance(container, set):
        if container != before:
            container.clear()
            container.update(before)
        return
    for key in [key for key in container if key not in before and key != leave]:
        del container[key]
    for key, value in before.items():
        if key != leave and (key not in container or container[key] is not value):
            container[key] = value
