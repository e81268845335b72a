"""Reading a residual stream, and logits, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tracekit.errors import NoStandardNameError, PromptError

from ._names import Anatomy


def lens(module: Any, where: Anatomy, hidden: Tensor) -> Tensor:
    """Read a residual stream as if it were the last: the head of its last norm.

    Args:
        module: A decoder of transformers.
        where: Its parts.
        hidden: Shape (..., d_model).

    Returns:
        Logits, shape (..., d_vocab), scaled and capped as the model does it.

    Raises:
        NoStandardNameError: `no-standard-name`. The model has no head.
    """
    if where.lm_head is None:
        raise NoStandardNameError(f"`{type(module).__name__}` has no head", fix="load it with one")
    if where.norm is not None:
        hidden = module.get_submodule(where.norm)(hidden)
    parent = module.get_submodule(where.layers.rpartition(".")[0])
    project_out = getattr(parent, "project_out", None)
    if project_out is not None:
        hidden = project_out(hidden)
    logits: Tensor = module.get_submodule(where.lm_head)(hidden)
    config = module.config.get_text_config()
    scale = getattr(config, "logit_scale", None)
    if scale is not None:
        logits = logits * scale
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def most_probable(
    logits: Tensor, k: int, decode: Callable[[list[int]], str]
) -> list[list[tuple[str, float]]]:
    """Say which tokens are the most probable ones.

    Args:
        logits: Shape (batch, seq, d_vocab), of which the last position is taken, or
            (batch, d_vocab).
        k: How many.
        decode: Gives the text of token ids.

    Returns:
        For each row, text and probability of the *k* best, best first.

    Raises:
        PromptError: `bad-prompt`. These are no logits.
    """
    if logits.dim() not in (2, 3) or logits.shape[-1] < k:
        raise PromptError(
            f"logits of shape {tuple(logits.shape)}",
            fix="model.next_tokens(model.output.logits)",
        )
    last = logits[:, -1] if logits.dim() == 3 else logits
    best, ids = last.detach().float().softmax(-1).topk(k)
    return [
        [(decode([one]), p) for one, p in zip(row, ps, strict=True)]
        for row, ps in zip(ids.tolist(), best.tolist(), strict=True)
    ]
