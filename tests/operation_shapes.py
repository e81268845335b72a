"""The shapes of all operations of a forward, in a real run and in scans; for tests of families."""

from __future__ import annotations

from typing import Any

import torch
from families import Family

from tracekit import Model, TraceError
from tracekit._torch.values import tensors

Spec = list[tuple[tuple[int, ...], torch.dtype, torch.device]]


def spec(value: Any) -> Spec:
    """Shape, dtype and device of each tensor in a value."""
    return [(tuple(t.shape), t.dtype, t.device) for t in tensors(value)]


def operations_run(model: Model, path: str, inputs: dict[str, Any]) -> list[str]:
    """Names of the operations of a forward in the order in which they end, each visit once."""
    node = model.get(path) if path else model
    source = node.source
    prefix = f"{path}.source." if path else "source."
    if not source.names:
        return []
    with model.trace(**inputs) as tracer:
        node.inputs
        # What runs first is not known yet; asking for one operation makes all of them report.
        try:
            source[source.names[0]].output
        except TraceError:
            pass
    return [
        site.path.removeprefix(prefix)
        for site in tracer.visited
        if site.path.startswith(prefix) and site.port == "output"
    ]


def differing_operations(family: Family, paths: list[str]) -> tuple[int, list[Any]]:
    """Compare the operations of some modules in scans with those of a real run.

    Args:
        family: Which model; scanned loaded, and on the meta device.
        paths: Of its modules.

    Returns:
        How many values were compared, and (path, operation, real, scanned) of those that differ.
    """
    inputs = family.inputs()
    loaded, meta = Model(family.build()), Model(family.build_on_meta())
    compared, differing = 0, []
    with torch.no_grad():
        # On its first call, transformers puts recording hooks of its own on some models.
        loaded._module(**inputs)
        for path in paths:
            ran = operations_run(loaded, path, inputs)

            real = _read(loaded.trace(**inputs), loaded, path, ran)
            for model in (loaded, meta):
                scanned = _read(model.scan(**inputs), model, path, ran)
                for name, one, other in zip(ran, real, scanned, strict=True):
                    compared += 1
                    if one != other:
                        differing.append((path, name, one, other))
    return compared, differing


def _read(tracer: Any, model: Model, path: str, ran: list[str]) -> list[Spec]:
    with tracer:
        source = model.get(path).source if path else model.source
        found = [spec(source[name].output) for name in ran]
    return found
