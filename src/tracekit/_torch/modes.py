"""The modes of a block and those of the model, exchanged at each switch between the two.

A block starts under the modes of its `with` line. When it suspends, the modes it has are kept and
the model's are set; when it resumes, the other way round. They are *set*, not nested: blocks
interleave, so the order in which modes are entered and left is not that of a stack.

What counts as a mode: grad mode, inference mode, autocast, the default device, torch function and
dispatch modes, context variables. All else that is process-wide stays as the block left it.

A block that changes no mode pays for one comparison of a handful of numbers a switch.

Things that don't work:

- Leaving inference mode by hand: it has no setter, only a guard that puts back, when it ends, what
  was there when it began. Both are absolute, so the guard that takes the model out of a block's
  inference mode is ended at the moment the block resumes, whatever happened in between.
- Unsetting a context variable that a block has set: only the token of that `set` can. The model
  then sees the variable's default where it has one, and the block's value where it has none.
"""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

import torch
from torch.utils import _device as torch_device
from torch.utils import _python_dispatch as dispatch

_c: Final[Any] = torch._C
is_grad_enabled = torch.is_grad_enabled
is_inference = torch.is_inference_mode_enabled
any_autocast = _c._is_any_autocast_enabled
len_function = _c._len_torch_function_stack
len_dispatch = _c._len_torch_dispatch_stack
_AUTOCAST_DEVICES: Final = ("cpu", "cuda", "mps", "xpu")


_NONE: Final[list[Any]] = []


class Modes:
    """The modes at one moment.

    Attributes:
        grad: Gradients are recorded.
        inference: Inference mode is on.
        autocast: Per device whether autocast is on, and its dtype; `None` if it is on nowhere.
        functions: Torch function modes, outermost first; a default device is one of them.
        dispatches: Torch dispatch modes, outermost first.
        device: The default device.
        context: The context variables.
        guard: Ends an inference mode that was begun in the place of the one kept here.
        twin: Modes of a block that differ from these in the context variables alone.
        other: Of a block: the model's modes, where they differ from these in that way; those of
            the last switch.
        inward: Then, of the model's: the variables to be set when the block resumes.
        outward: When it suspends.
        seen: The context that the block then has, if it changes nothing.
    """

    __slots__ = (
        "autocast",
        "context",
        "device",
        "dispatches",
        "functions",
        "grad",
        "guard",
        "inference",
        "inward",
        "other",
        "outward",
        "seen",
        "twin",
    )

    def __init__(self) -> None:
        self.grad = is_grad_enabled()
        self.inference = is_inference()
        self.autocast = _autocast() if any_autocast() else None
        self.functions = _functions() if len_function() else _NONE
        self.dispatches = _dispatches() if len_dispatch() else _NONE
        self.device = torch_device.CURRENT_DEVICE
        self.context: Context = copy_context()
        self.guard: Any = None
        self.twin: Modes | None = None
        self.other: Modes | None = None
        self.inward: list[tuple[ContextVar[Any], Any]]
        self.outward: list[tuple[ContextVar[Any], Any]]
        self.seen: Context

    def _hold_but_for_context(self) -> bool:
        functions, dispatches = self.functions, self.dispatches
        return (
            self.guard is None
            and is_grad_enabled() is self.grad
            and is_inference() is self.inference
            and (_autocast() if any_autocast() else None) == self.autocast
            and len_function() == len(functions)
            and (not functions or _same(_functions(), functions))
            and len_dispatch() == len(dispatches)
            and (not dispatches or _same(_dispatches(), dispatches))
        )

    def enter(self) -> Modes:
        """Set these modes, those of a block that resumes.

        Returns:
            The model's modes, for `leave`; these themselves if they are the same.
        """
        if self._hold_but_for_context():
            return self.enter_context()
        now = Modes()
        self.set(now)
        return now

    def enter_context(self) -> Modes:
        """As `enter`, where it is known that no more than context variables can differ."""
        context = copy_context()
        if _are_same(context, self.context):
            return self
        # The model has set a variable; transformers does so in each forward.
        model = self.other
        if model is not None and _are_same(context, model.context):
            for variable, value in model.inward:
                variable.set(value)
            return model
        model = self.other = Modes.__new__(Modes)
        model.grad, model.inference, model.autocast = self.grad, self.inference, self.autocast
        model.functions, model.dispatches = self.functions, self.dispatches
        model.device, model.context, model.guard = self.device, context, None
        model.twin, model.other = self, None
        model.inward = _differences(self.context, context)
        for variable, value in model.inward:
            variable.set(value)
        model.seen = copy_context()
        model.outward = _differences(context, model.seen)
        return model

    def leave(self, model: Modes) -> Modes:
        """Set the model's modes: the block with these modes has suspended or ended.

        Args:
            model: What `enter` gave.

        Returns:
            The block's modes, to be kept until it resumes.
        """
        if (model is self or model.twin is self) and self._hold_but_for_context():
            return self.leave_context(model)
        now = Modes()
        model.set(now)
        return now

    def leave_context(self, model: Modes) -> Modes:
        """As `leave`, where it is known that no more than context variables can differ."""
        context = copy_context()
        if model is self:
            if _are_same(context, self.context):
                return self
            now = Modes()
            model.set(now)
            return now
        if _are_same(context, model.seen):
            changes = model.outward
        else:
            changes = _differences(model.context, context)
            self.context, self.other = context, None
        for variable, value in changes:
            variable.set(value)
        return self

    def set(self, now: Modes) -> None:
        """Set these modes.

        Args:
            now: Those that are set at this moment; keeps what is needed to come back to them.
        """
        if self.guard is not None:
            # Puts back grad and inference mode as they were when these modes were left.
            guard, self.guard = self.guard, None
            guard.__exit__(None, None, None)
        if is_inference() is not self.inference:
            now.guard = _c._InferenceMode(self.inference)
            now.guard.__enter__()
        if is_grad_enabled() is not self.grad:
            _c._set_grad_enabled(self.grad)
        if now.autocast != self.autocast:
            _set_autocast(self.autocast or _AUTOCAST_OFF)
        if not _same(now.functions, self.functions):
            for _ in now.functions:
                _c._pop_torch_function_stack()
            for mode in self.functions:
                _c._push_on_torch_function_stack(mode)
        torch_device.CURRENT_DEVICE = self.device
        if not _same(now.dispatches, self.dispatches):
            for _ in now.dispatches:
                dispatch._pop_mode()
            for mode in self.dispatches:
                dispatch._push_mode(mode)
        if now.context != self.context:
            for variable, value in _differences(self.context, now.context):
                variable.set(value)
            self.context = copy_context()


def _functions() -> list[Any]:
    return [_c._get_function_stack_at(i) for i in range(len_function())]


def _dispatches() -> list[Any]:
    return dispatch._get_current_dispatch_mode_stack()


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


Autocast = tuple[bool, tuple[tuple[str, bool, torch.dtype], ...]]


def _autocast() -> Autocast:
    states = []
    for device in _AUTOCAST_DEVICES:
        try:
            states.append(
                (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            )
        except RuntimeError:
            # This build of torch does not know the device.
            continue
    return torch.is_autocast_cache_enabled(), tuple(states)


_AUTOCAST_OFF: Final[Autocast] = (
    torch.is_autocast_cache_enabled(),
    tuple((device, False, dtype) for device, _, dtype in _autocast()[1]),
)


def _set_autocast(state: Autocast) -> None:
    cache, devices = state
    for device, enabled, dtype in devices:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(cache)
    # Casts that were made in the other mode must not be used in this one.
    torch.clear_autocast_cache()


NO_CONTEXT: Final = Context()


def _are_same(one: Context, other: Context) -> bool:
    """Whether two contexts hold the same values; at once if neither has changed since a copy."""
    try:
        return one == other
    except Exception:  # noqa: BLE001 - values are compared, and tensors refuse to be
        return False


def _differences(wanted: Context, now: Context) -> list[tuple[ContextVar[Any], Any]]:
    """List what is to be set to make the variables of context *now* those of *wanted*.

    In the one current context: what is set there stays set, so what *wanted* does not have gets
    its default, and its value stays where it has none.
    """
    changes = [
        (variable, value)
        for variable, value in wanted.items()
        if variable not in now or now[variable] is not value
    ]
    for variable in now:
        if variable not in wanted:
            try:
                changes.append((variable, NO_CONTEXT.copy().run(variable.get)))
            except LookupError:
                continue
    return changes
