"""One input as a model's forward takes it, and what several of them have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tracekit.errors import PromptError

_CACHES: Final = ("cache", "past_key_values", "cache_params")
"""What a forward calls its cache: the first from transformers 5.24 on."""


@dataclasses.dataclass(slots=True)
class Prompt:
    """One input, as a model's forward takes it.

    Args:
        fields: Tensors with one row per prompt: ids, masks, labels. Shape (rows, seq), embeddings
            (rows, seq, d_model).
        features: What a processor made of images and audio. Shapes are the model's own affair.
        options: All other keyword arguments of the call.
        rows: How many rows of the batch these are.
    """

    fields: dict[str, Tensor]
    features: dict[str, Any]
    options: dict[str, Any]
    rows: int

    def arguments(self) -> dict[str, Any]:
        """All of it, as keyword arguments."""
        return {**self.fields, **self.features, **self.options}


def given_cache(options: Mapping[str, Any]) -> Any:
    """Give the KV cache among the options of a call, if there is one; its name has changed.

    Args:
        options: Keyword arguments of a forward or of `generate`.
    """
    return next((options[key] for key in _CACHES if options.get(key) is not None), None)


def cached_columns(cache: Any) -> int:
    """Say how many columns a cache holds.

    Args:
        cache: Of transformers; a recurrent state has no columns.
    """
    length = getattr(cache, "get_seq_length", None)
    return 0 if length is None else int(length())


def lengthen_mask(fields: dict[str, Tensor], past: int) -> None:
    """Let a mask that covers the new tokens cover those of the cache, too."""
    mask = fields.get("attention_mask")
    lead = fields.get("input_ids", fields.get("inputs_embeds"))
    if mask is None or lead is None or past == 0 or mask.shape[1] != lead.shape[1]:
        return
    if bool(mask.all()):
        # As transformers assumes without one.
        del fields["attention_mask"]
    else:
        before = mask.new_ones(mask.shape[0], past)
        fields["attention_mask"] = torch.cat([before, mask], 1)


def positions_of(mask: Tensor) -> Tensor:
    """Count each row's tokens, pads left out.

    Args:
        mask: Shape (rows, seq), 1 at tokens and 0 at pads.

    Returns:
        Shape (rows, seq), int64: 0 at a row's first token. At pads some number that is not
        negative; it is masked.
    """
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def merge_options(prompts: Sequence[Prompt]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for index, prompt in enumerate(prompts):
        for key, value in prompt.options.items():
            if key in merged and not _same(merged[key], value):
                raise PromptError(
                    f"two invokes give {key} different values",
                    seen=f"{short(merged[key])}, and in invoke {index} {short(value)}",
                    why="all invokes of a trace go through one call of the model",
                    fix=f"give {key} once, to trace() or generate(), or use two traces",
                )
            merged[key] = value
    return merged


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def rows_of(prompts: Sequence[Prompt]) -> Iterator[slice]:
    """Give each prompt's rows of the batch, half-open.

    Args:
        prompts: In the order in which they were joined.

    Yields:
        Slices that follow one another from 0.
    """
    start = 0
    for prompt in prompts:
        yield slice(start, start + prompt.rows)
        start += prompt.rows


def short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."
