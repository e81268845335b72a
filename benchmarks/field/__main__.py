"""Runs everything, prints the tables, writes JSON and the picture.

    python -m benchmarks.field [--peer NAME=PYTHON ...] [--only WORKLOAD ...] [--scale 0.3]
                               [--json FILE] [--svg FILE] [--check]

A peer is a library with an adapter here (`nnsight`, `pyvene`), and the
interpreter of an environment in which it is installed beside torch and transformers. `--merge
FILE` starts from the JSON of an earlier run and replaces what is measured again. With `--check`
the exit status is 1 if a promise of tracekit's is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import once, picture, report
from .workloads import WORKLOADS

_ROOT = Path(__file__).resolve().parents[2]


def _machine() -> dict[str, Any]:
    model = ""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def _library(name: str, python: str, options: argparse.Namespace) -> dict[str, Any]:
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "src")] if name == "tracekit" else [str(_ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        command = [python, "-m", "benchmarks.field.pair", name, str(out),
                   "--scale", str(options.scale)]  # fmt: skip
        if options.only:
            command += ["--only", *options.only]
        print(f"{name}:", flush=True)
        subprocess.run(command, env=env, cwd=_ROOT, check=True)
        found: dict[str, Any] = json.loads(out.read_text())
    only = set(options.only)
    if not only or only & {"once", "import"}:
        found["results"] |= once.imports(name, python, path, options.repeats)
    if name in once.DIALECTS and (not only or only & {"once", "capture"}):
        found["results"] |= once.captures(name, python, path, options.repeats)
    found["load_after"] = os.getloadavg()[0]
    return found


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="benchmarks.field", description=__doc__.split("\n")[0])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--without-tracekit", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="of the time for each workload")
    parser.add_argument("--repeats", type=int, default=5, help="processes for what happens once")
    parser.add_argument("--merge", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": _machine(), "libraries": {}}
    if options.merge is not None and options.merge.exists():
        found["libraries"] = json.loads(options.merge.read_text())["libraries"]
    peers = dict(peer.split("=", 1) for peer in options.peer)
    wanted = ({} if options.without_tracekit else {"tracekit": sys.executable}) | peers
    for name, python in wanted.items():
        new = _library(name, python, options)
        old = found["libraries"].get(name, {"results": {}})
        found["libraries"][name] = {**new, "results": old["results"] | new["results"]}
    found["machine"]["load_after"] = os.getloadavg()[0]

    machine = found["machine"]
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['system']}, load "
          f"{machine['load_before']:.1f} to {machine['load_after']:.1f}")  # fmt: skip
    for name, library in found["libraries"].items():
        print(f"{name} {library['version']}: Python {library['python']}, torch {library['torch']}")
    print("\nTimes of hooks (medians), and per library: ratio to hooks in the same process, timed "
          "in turns [quartiles], and the difference.\n")  # fmt: skip
    print(report.table(found), end="\n\n")
    print(report.once_table(found), end="\n\n")
    print("\n".join(report.notes(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(picture.draw(found))
    mine = found["libraries"].get("tracekit", {"results": {}})["results"]
    broken = [w.title for w in WORKLOADS if report.kept(w, mine.get(w.id)) is False]
    broken += [
        once.TITLES[case]
        for case, limit in once.PROMISES_MS.items()
        if case in mine and mine[case]["ms"] > limit
    ]
    for title in broken:
        print("broken promise:", title)
    return 1 if broken and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
