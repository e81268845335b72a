"""What happens once in a process, or once for a place in a program: imports, wrapping, captures.

A capture is timed in a process of its own: generated modules of some length, whose block of 30
lines is entered for the first time. Times are those of the whole traced call, in ms of processor
time; the same block's later calls are beside it. Imports are timed by the wall clock.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import subjects
from .clock import quartiles

NAMES = ("once", "import", "wrap", "capture")
_ROOT = Path(__file__).resolve().parents[2]

# Per adapter: how the model is wrapped, how a name is kept, what is imported.
DIALECTS = {
    "tracekit": ("from tracekit import Model as wrap", ""),
    "nnsight": ("from nnsight import NNsight as wrap", ".save()"),
}
IMPORTS = {"tracekit": "tracekit", "nnsight": "nnsight", "pyvene": "pyvene"}


def _block(indent: str, save: str) -> list[str]:
    """A block of 30 lines: a read, and arithmetic on it."""
    lines = [
        "start = process_time()",
        "with model.trace(x):",
        f"    hidden = model[2].output{save}",
        "    total = hidden.sum()",
    ]
    lines += [f"    step{at} = total * {at} + hidden.mean()" for at in range(27)]
    lines += [f"    answer = (step3 + step26){save}", "took = process_time() - start"]
    return [indent + line for line in lines]


def source(lines: int, *, inside: str, save: str, local_names: int = 0) -> str:
    """Write a module with one block.

    Args:
        lines: How long it is.
        inside: `"function"` or `"module"`: where the block stands.
        save: What a kept value's expression ends with.
        local_names: How many other names the function binds.
    """
    head = ["from time import process_time", ""]
    filler = [f"def other{at}(a, b=({at}, {at + 1})): return [a + {at}, b, 'text {at}']"
              for at in range(max(0, (lines - 40)))]  # fmt: skip
    half = len(filler) // 2
    if inside == "function":
        middle = ["def run(model, x):"]
        middle += [f"    name{at} = {at}" for at in range(local_names)]
        middle += [*_block("    ", save), "    return took"]
    else:
        middle = _block("", save)
    return "\n".join([*head, *filler[:half], *middle, *filler[half:], ""])


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "capture_process": ("30-line block, 200-line module, the process's first",
                        {"lines": 200, "inside": "function"}),
    "capture_200": ("30-line block, first run, 200-line module",
                    {"lines": 200, "inside": "function"}),
    "capture_10000": ("30-line block, first run, 10,000-line module",
                      {"lines": 10_000, "inside": "function"}),
    "capture_50000": ("30-line block, first run, 50,000-line module",
                      {"lines": 50_000, "inside": "function"}),
    "capture_top_200": ("the same at module level, 200 lines", {"lines": 200, "inside": "module"}),
    "capture_top_10000": ("the same at module level, 10,000 lines",
                          {"lines": 10_000, "inside": "module"}),
    "capture_locals_10": ("first run, 10 other local names",
                          {"lines": 200, "inside": "function", "local_names": 10}),
    "capture_locals_10000": ("first run, 10,000 other local names",
                             {"lines": 200, "inside": "function", "local_names": 10_000}),
}  # fmt: skip

_CHILD = """
import json, sys, gc
import torch
torch.set_num_threads(1); torch.set_grad_enabled(False)
{wrap}
layers = [l for _ in range(3) for l in (torch.nn.Linear(16, 16), torch.nn.ReLU())]
model, x = wrap(torch.nn.Sequential(*layers)), torch.randn(1, 16)
sys.path.insert(0, {folder!r})
found = {{}}
for name in {names!r}:
    if 'top' in name:
        import builtins
        builtins.model, builtins.x = model, x
        module = __import__(name)
        found[name] = [module.took * 1e3]
    else:
        module = __import__(name)
        module.run
        found[name] = [module.run(model, x) * 1e3 for _ in range(5)]
print(json.dumps(found))
"""


def _run(python: str, code: str, path: str) -> str:
    import os

    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=600
    ).stdout.strip().splitlines()[-1]  # fmt: skip


def captures(name: str, python: str, path: str, repeats: int) -> dict[str, Any]:
    """Time first runs of blocks.

    Args:
        name: Of the adapter; one of `DIALECTS`.
        python: Its interpreter.
        path: Its PYTHONPATH.
        repeats: How many processes.
    """
    wrap, save = DIALECTS[name]
    with tempfile.TemporaryDirectory() as folder:
        for case, (_, options) in CASES.items():
            Path(folder, f"{case}.py").write_text(source(save=save, **options))
        code = _CHILD.format(wrap=wrap, folder=folder, names=list(CASES))
        runs = [json.loads(_run(python, code, path)) for _ in range(repeats)]
    results = {}
    for case in CASES:
        low, middle, high = quartiles([run[case][0] for run in runs])
        again = [statistics.median(run[case][1:]) for run in runs if run[case][1:]]
        results[case] = {"ms": middle, "low_ms": low, "high_ms": high}
        if again:
            results[case]["again_ms"] = statistics.median(again)
    return results


def imports(name: str, python: str, path: str, repeats: int) -> dict[str, Any]:
    """Time the import of a library, in processes that have and have not loaded torch."""
    results = {}
    for key, before in (("import_alone", ""), ("import_after_torch", "import torch; ")):
        code = (
            f"import time, sys; {before}t = time.perf_counter(); import {IMPORTS[name]}; "
            "print(time.perf_counter() - t, 'torch' in sys.modules)"
        )
        runs = [_run(python, code, path).split() for _ in range(repeats)]
        low, middle, high = quartiles([float(run[0]) * 1e3 for run in runs])
        results[key] = {
            "ms": middle, "low_ms": low, "high_ms": high, "loads_torch": runs[0][1] == "True"
        }  # fmt: skip
    return results


def wrapping(adapter: Any) -> dict[str, Any]:
    """Time the wrapping of models of many modules."""
    results: dict[str, Any] = {}
    if getattr(adapter, "wrap", None) is None:
        return results
    for size in (1_000, 10_000):
        times = []
        for _ in range(5):
            module = subjects.tree(size)
            start = time.perf_counter()
            model = adapter.wrap(module)
            times.append((time.perf_counter() - start) * 1e3)
            del model
        low, middle, high = quartiles(times)
        count = sum(1 for _ in module.modules())
        results[f"wrap_{size}"] = {"ms": middle, "low_ms": low, "high_ms": high, "modules": count}
    return results


TITLES = {
    "import_alone": "import of the library",
    "import_after_torch": "import of the library, torch loaded before",
    "wrap_1000": "wrapping of 1,000 modules",
    "wrap_10000": "wrapping of 10,000 modules",
    **{case: title for case, (title, _) in CASES.items()},
}
PROMISES_MS = {
    "import_alone": 60.0,
    "wrap_10000": 300.0,
    "capture_process": 10.0,
    "capture_200": 5.0,
}


if __name__ == "__main__":
    print(json.dumps(captures("tracekit", sys.executable, str(_ROOT / "src"), 1), indent=1))
