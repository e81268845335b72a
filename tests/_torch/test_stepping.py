"""A debugger that steps over a line which asks does not step into the model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import tracekit

SOURCE = str(Path(tracekit.__file__).resolve().parents[1])

PROGRAM = """\
import os, torch, tracekit
from torch import nn
model = tracekit.Model(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

def function():
    with model.trace(torch.ones(2, 4)) as tracer:
        breakpoint()
        hidden = model[0].output
        size = hidden.shape
    return size

print(function(), flush=True)
os._exit(0)
"""


def test_step_goes_to_the_next_line_of_the_block(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        input="s\n" * 6 + "c\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
        timeout=120,
        check=False,
    )
    stops = re.findall(r"> \S+?([^/\s]+)\((\d+)\)(\w+)", done.stdout)
    lines = [int(line) for _, line, _ in stops]

    assert done.returncode == 0, done.stderr
    assert {(file, function) for file, _, function in stops} <= {
        ("program.py", "function"),
        ("program.py", "<module>"),
    }
    # From 3.13 on it stops at the `breakpoint()` itself first.
    assert [line for line in lines if line != 7][:4] == [8, 9, 6, 10]
    assert "--Call--" not in done.stdout
    assert "torch.Size([2, 4])" in done.stdout
