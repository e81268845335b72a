"""An interrupt at any point of a trace leaves nothing, once one more trace has run.

`interrupted_child.py` has what a point is. The actions are run once for each of some thousands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import tracekit
from tracekit._bytecode.facts import HAS_MONITORING

SOURCE = str(Path(tracekit.__file__).resolve().parents[1])
CHILD = Path(__file__).parent / "interrupted_child.py"


def interrupt(*actions):
    """Interrupt actions at their points, in a process of its own; give what it found of each."""
    done = subprocess.run(
        [sys.executable, str(CHILD), *actions],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not HAS_MONITORING, reason="nothing tells where it looks for signals")
def test_an_interrupt_at_any_point_leaves_nothing():
    results = interrupt(
        "read", "gradients:3", "raise_in_block:3", "steps:5", "invokes:7", "sessions:7"
    )

    assert {name: [] for name in results} == {name: one["found"] for name, one in results.items()}
    for one in results.values():
        assert one["points"] > 100
        # Those that fall into a finalizer are printed and dropped, as any error there.
        assert one["points"] * 0.98 < one["arrived"] <= one["points"]
