"""What the workloads are done on: models with random weights, the same each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

LAYERS = 12
POSITIONS = 10
PATCHED = 6
TOKENS = 20


@dataclass
class Subject:
    """A model, its input, and what else a workload needs to know.

    Attributes:
        module: The model.
        inputs: Positional arguments of its forward.
        other: A second input, of the same shape.
        size: How many requests, or inputs.
        clean: Outputs of the layers for `inputs`, for patching.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    other: tuple[Any, ...] = ()
    size: int = 0
    clean: list[torch.Tensor] = field(default_factory=list)


def mlp() -> Subject:
    """`Linear(16, 16)` and ReLU, three times, batch 1."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.ReLU())]
    return Subject(nn.Sequential(*layers).eval(), (torch.randn(1, 16),))


def _gpt2(**config: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**config, **special, use_cache=False)).eval()


def _ids(first: int, length: int) -> torch.Tensor:
    return torch.arange(first, first + length).reshape(1, length)


def gpt2_small(length: int = 16) -> Subject:
    """GPT-2 of the small shape: 12 blocks, width 768, 50,257 tokens; 16 tokens of input."""
    return Subject(_gpt2(), (_ids(1, length),), (_ids(101, length),))


def gpt2_generating() -> Subject:
    """The same, 8 tokens of input; caches keys and values, as `generate` does."""
    subject = gpt2_small(8)
    subject.module.generation_config.use_cache = True
    return subject


def gpt2_sweep() -> Subject:
    """The same, and what its layers give for the first input."""
    subject = gpt2_small()

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        subject.clean.append((output if isinstance(output, torch.Tensor) else output[0]).clone())

    handles = [layer.register_forward_hook(hook) for layer in subject.module.transformer.h]
    with torch.no_grad():
        subject.module(*subject.inputs)
    for handle in handles:
        handle.remove()
    return subject


def gpt2_tiny(size: int) -> Subject:
    """A GPT-2 of two blocks and width 32; *size* inputs of 8 tokens."""
    module = _gpt2(n_layer=2, n_embd=32, n_head=4, n_positions=64, vocab_size=512)
    inputs = tuple(_ids(1 + number, 8) for number in range(size))
    return Subject(module, inputs, size=size)


def chain(size: int) -> Subject:
    """1,200 `Tanh`, one after the other; *size* of them are asked for."""
    modules = [nn.Tanh() for _ in range(1200)]
    return Subject(nn.Sequential(*modules).eval(), (torch.linspace(-1, 1, 4),), size=size)


def tree(size: int) -> nn.Module:
    """A model of about *size* modules, ten children each."""
    level: list[nn.Module] = [nn.Identity() for _ in range(size * 9 // 10)]
    while len(level) > 10:
        level = [nn.Sequential(*level[at : at + 10]) for at in range(0, len(level), 10)]
    return nn.Sequential(*level)
