"""What a user's type checker sees. Checked, never run."""

from __future__ import annotations

from typing import assert_type

import torch

import tracekit
from tracekit.testing import Outcome, same_as_inline

model = tracekit.Model(torch.nn.Linear(2, 2))

# A name bound in a block is not "possibly unbound" after it.
with tracekit.Tracer() as tracer:
    bound = 1
assert_type(bound, int)

with model.trace(torch.ones(1, 2)):
    shape = 3
assert_type(shape, int)

assert_type(same_as_inline("x = 1"), Outcome)

error = tracekit.OutOfOrderError("what", where="a.py:1", fix="do()")
assert_type(error.where, str)
assert_type(error.slug, str | None)

try:
    pass
except tracekit.UnsupportedError as refused:
    text: str = refused.fix
