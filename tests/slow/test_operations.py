"""Every operation of every module class of every family: shapes of a scan, against a run."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers")
from families import FAMILIES  # noqa: E402 (after the skip)
from operation_shapes import differing_operations  # noqa: E402
from torch import nn  # noqa: E402

from tracekit import Model  # noqa: E402

# Every value is read, also those that the model goes on to change.
pytestmark = pytest.mark.filterwarnings("ignore::tracekit.HeldValueWarning")


@pytest.mark.parametrize("name", FAMILIES)
def test_operations(name):
    family = FAMILIES[name]
    module = family.build()
    with Model(module).scan(**family.inputs()) as tracer:
        pass
    called = {record.path for record in tracer.report().records}
    paths = {}
    for path, part in module.named_modules():
        if path in called and not isinstance(part, nn.ModuleList):
            paths.setdefault(type(part).__name__, path)
    compared, differing = differing_operations(family, list(paths.values()))

    assert [] == differing
    assert compared > 200
