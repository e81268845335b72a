"""The workloads in pyvene's words (0.1): what to do is stated before, and not in a block."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import pyvene
import torch

from .subjects import LAYERS, Subject

LEAVES_NOTHING = False
"""Not checked: the base runs on a copy."""


def version() -> str:
    return metadata.version("pyvene")


def edits(subject: Subject) -> Callable[[], Any]:
    def edit(base: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.zeros_like(base)

    model = pyvene.IntervenableModel(
        [
            {"component": f"transformer.h[{at}].output", "intervention": edit}
            for at in range(LAYERS)
        ],
        model=subject.module,
    )
    positions = {"base": subject.inputs[0].shape[1] - 1}

    def run() -> Any:
        _, out = model(base={"input_ids": subject.inputs[0]}, unit_locations=positions)
        return out.logits

    return run
