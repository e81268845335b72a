"""Traced is inline, for programs that nobody thought of. They run in child processes.

Some hundreds here; thousands with `TRACEKIT_FUZZ_PROFILE=nightly`. The seeds are fixed, so a
failure is found again; `TRACEKIT_FUZZ_START` moves them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NIGHTLY = os.environ.get("TRACEKIT_FUZZ_PROFILE") == "nightly"
START = int(os.environ.get("TRACEKIT_FUZZ_START", "0"))
BATCH = 250 if NIGHTLY else 100

# kind, percentage of expressions that are requests, number of programs here and nightly
FAMILIES = (
    ("block", 0, 300, 2500),
    ("block", 12, 200, 2000),
    ("program", 12, 200, 2000),
    ("model", 12, 100, 2000),
)


HAS_TORCH = importlib.util.find_spec("torch") is not None


def batches():
    for kind, asks, few, many in FAMILIES:
        if kind == "model" and not HAS_TORCH:
            continue  # the engine is tested without torch, too
        for start in range(0, many if NIGHTLY else few, BATCH):
            yield pytest.param(
                kind, asks, START + start, BATCH, id=f"{kind}-asks{asks}-{START + start}"
            )


@pytest.mark.parametrize(("kind", "asks", "start", "count"), list(batches()))
def test_traced_is_inline(kind, asks, start, count):
    child = Path(__file__).with_name("fuzz_child.py")
    done = subprocess.run(
        [sys.executable, child, kind, str(start), str(count), str(asks)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode != 0:
        pytest.fail(f"the interpreter died ({done.returncode}): {done.stderr[-3000:]}")
    report = json.loads(done.stdout)
    texts = [f"seed {f['seed']}\n{f['found']}\n{f['program']}" for f in report["failures"]]

    assert [] == texts
    assert report["left_out"] < count / 4
    assert len(report["refused"]) < count / 2
