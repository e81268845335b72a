"""What the parts of a model return, so that one tensor can stand for it.

A block, an attention or an MLP returns a tensor or a tuple that begins with it, by architecture
and by version of transformers. One that is skipped does not show which. So the model is run once
on shapes, and what each part returns is looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tracekit._torch.fake import FakeRun
from tracekit.errors import UnsupportedModuleError

from ._names import Anatomy


def items_returned(model: nn.Module, where: Anatomy, asked: str) -> dict[str, int | None]:
    """Count the items of what the standard parts of a model return.

    Args:
        model: A decoder; its weights need not be loaded.
        where: Its parts.
        asked: Path of the part that is asked for.

    Returns:
        By path, how many items a part's tuple or list has; `None` for one that returns a tensor.
        Parts that did not run are left out.

    Raises:
        UnsupportedModuleError: `unsupported-module`. The model cannot be run on shapes.
    """
    paths = [f"{where.layers}.{index}" for index in range(len(where.attn))]
    for names in (where.attn, where.mlp):
        paths += [f"{where.layers}.{i}.{name}" for i, name in enumerate(names) if name]
    paths += [one for one in (where.embed, where.norm, where.lm_head) if one is not None]
    found: dict[str, int | None] = {}

    def keep(path: str, output: Any) -> None:
        found.setdefault(path, len(output) if isinstance(output, (tuple, list)) else None)

    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _module, _arguments, output, path=path: keep(path, output)
        )
        for path in paths
    ]
    try:
        with FakeRun(model) as fake, torch.no_grad():
            args, kwargs = fake.inputs((), {"input_ids": torch.zeros(1, 2, dtype=torch.long)})
            model(*args, **kwargs)
    except Exception as error:
        raise UnsupportedModuleError(
            f"what `{asked}` returns is not known, so one tensor cannot stand for it",
            seen=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            why="the model is run on shapes to see it, and that failed",
            fix=f"model.{asked}.skip(...) with all that the module returns",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found
