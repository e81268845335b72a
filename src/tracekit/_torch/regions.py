"""Parts of a model whose forward is not simply executed: compiled and checkpointed ones.

A compiled module runs eagerly while it is traced: what a block does at a value cannot be a part of
a compiled graph. A checkpointed region is run twice, the second time in the backward, when the run
is over: a read is right, a write would be missing in the gradients, so it is refused.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Final

import torch
from torch import nn
from torch.utils import checkpoint

from ..errors import CheckpointedWriteError

_CHECKPOINT_FILE: Final = checkpoint.__file__
_told: set[int] = set()


def uncompiled(module: nn.Module) -> nn.Module:
    """Give the module that `torch.compile` wraps, or *module* itself."""
    while type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        module = module._modules["_orig_mod"]  # type: ignore[assignment]
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether a call of *module* goes through `torch.compile`."""
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"


def eagerly(module: nn.Module, name: str) -> AbstractContextManager[Any]:
    """While this lasts, compiled modules run eagerly; said once for each that is asked about.

    Args:
        module: A compiled module.
        name: What the message calls it.
    """
    if id(module) not in _told:
        _told.add(id(module))
        warnings.warn(
            f"`{name or 'model'}` is compiled; it runs eagerly while it is traced",
            UserWarning,
            stacklevel=2,
        )
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def refuse_write(site: str, where: str, last: FrameType | None) -> CheckpointedWriteError | None:
    """Say why what stands at *site* may not be changed, if it is inside a checkpointed region.

    Args:
        site: As the user spells it.
        where: The line that writes.
        last: The frame of the run; what is below it on the stack is not looked at.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not last:
        if frame.f_code.co_filename == _CHECKPOINT_FILE:
            return CheckpointedWriteError(
                f"`{site}` is changed inside a checkpointed region",
                where=where,
                why="the region is run again in the backward, when the block is over: the change "
                "would be missing in the gradients",
                fix="turn checkpointing off (`model.gradient_checkpointing_disable()`), or trace "
                "under `torch.no_grad()`",
            )
        frame = frame.f_back
    return None
