"""What torch calls back: modules of the user's own classes, and lists of tensors made on the way.

A module's `__call__` is torch's own Python: hooks, then `forward`, then hooks. Where a user's
`forward` or hook may ask for values, that code is itself rewritten, so the order of hooks, what
they may replace and what happens on errors are torch's, whatever its version. All other modules
are called as they stand.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from .._runtime.items import Driven
from .._runtime.iteration import drain, iterates
from .._runtime.registry import register, takes_no_callbacks
from .._runtime.special import asks, inherits, instance_dict, special, special_asks
from .._runtime.twins import passes_calls_on, twin_function

_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks")
_GLOBAL_HOOKS: Final = ("_global_forward_pre_hooks", "_global_forward_hooks")
_CALL: Final[Any] = nn.Module._wrapped_call_impl
_FORWARD_OF_A_CHAIN: Final[Any] = nn.Sequential.forward


def _module_asks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args or not inherits(nn.Module, type(args[0])):
        return False
    return _forward_asks(args[0]) or any(
        asks(hook) for name in _GLOBAL_HOOKS for hook in getattr(torch_module, name).values()
    )


def _forward_asks(module: nn.Module) -> bool:
    """Say whether calling *module* may run a user's `forward` or hook."""
    kind = type(module)
    own: dict[str, Any] = instance_dict(module, kind) or {}
    if special_asks(kind, "forward") or ("forward" in own and asks(own["forward"])):
        return True
    if any(asks(hook) for name in _HOOKS for hook in own.get(name, {}).values()):
        return True
    # A chain only hands on from one to the next.
    return special(kind, "forward") is _FORWARD_OF_A_CHAIN and any(
        _forward_asks(each) for each in own["_modules"].values() if each is not None
    )


def _call_module(module: nn.Module, /, *args: Any, **kwargs: Any) -> Driven:
    twin = twin_function(_CALL)
    assert twin is not None, "only coroutines have no twin"
    driven: Driven = twin(module, *args, **kwargs)
    return driven


def _joins(target: Any) -> None:
    """Let *target* take a suspending iterator of tensors, which it reads to its end.

    Equivalent to handing it the list of them. Torch takes lists and tuples only, and says so of
    an iterator that does not suspend.
    """

    def joined(tensors: Any, /, *args: Any, **kwargs: Any) -> Driven:
        listed = yield from drain(tensors)
        return target(listed, *args, **kwargs)

    register(target, joined, when=lambda args, _: bool(args) and iterates(args[0]))


_target: Any
register(_CALL, _call_module, when=_module_asks)
for _target in (nn.Module._call_impl, _FORWARD_OF_A_CHAIN):
    passes_calls_on(_target)

for _target in (
    torch.stack, torch.cat, torch.concat, torch.concatenate, torch.hstack, torch.vstack,
    torch.dstack, torch.row_stack, torch.column_stack,
):  # fmt: skip
    _joins(_target)

for _name in (
    "torch.functional", "torch.nn.functional", "torch.nn.init", "torch.linalg", "torch.special",
    "torch.fft", "torch._tensor", "torch._jit_internal", "torch._VF",
):  # fmt: skip
    takes_no_callbacks(_name)
