"""The architecture, executable: each floor imports only what its one outside world needs.

The table is that of `docs/inside/map.md`; change both, on purpose.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "tracekit"

ROOT = {"errors", "_protocol"}
ENGINE = {*ROOT, "_bytecode", "_runtime"}
RUN = {*ENGINE, "_interleave"}

# floor -> (our floors it may import, other packages it may import)
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "__init__": (set(), set()),
    "errors": (set(), set()),
    "_protocol": (set(), set()),
    "_bytecode": (ROOT, {"bytecode"}),
    "_runtime": ({*ROOT, "_bytecode"}, set()),
    "_interleave": (ROOT, set()),
    "_torch": (RUN, {"torch"}),
    "_vocabulary": ({*RUN, "_torch"}, {"torch", "safetensors", "rich", "tqdm"}),
    "hf": ({*RUN, "_torch", "_vocabulary"}, {"torch", "transformers", "huggingface_hub"}),
    "remote": ({*RUN, "_torch", "_vocabulary", "testing"}, {"torch"}),
    "testing": ({*RUN, "_torch", "_vocabulary", "hf", ""}, {"torch", "transformers"}),
    "demo": (
        {*RUN, "_torch", "_vocabulary", "hf", "testing", ""},
        {"torch", "transformers", "tokenizers"},
    ),
    "nnsight": ({*RUN, "_torch", "_vocabulary", "hf", ""}, {"torch", "transformers"}),
}

FILES = sorted(SRC.rglob("*.py"))


def floor_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """Give (line, dotted name) of each import, except those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("tracekit", *path.relative_to(SRC).parent.parts)
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers and floor_of(path) == "__init__":
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *filter(None, [node.module])])
            if name == "tracekit":
                # `from tracekit import x`: x may be a floor or a public name.
                yield from ((node.lineno, f"tracekit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def complaint(path: Path, line: int, name: str) -> str | None:
    floor = floor_of(path)
    ours, theirs = ALLOWED[floor]
    top, _, rest = name.partition(".")
    if top == "tracekit":
        target = rest.partition(".")[0]
        if target not in ALLOWED:
            target = ""  # a public name, through the front door
        if target == floor or target in ours:
            return None
        shown = target or "the front door"
    else:
        if top in sys.stdlib_module_names or top in theirs:
            return None
        shown = top
    return (
        f"{path.relative_to(SRC.parent)}:{line}: {floor!r} may not import {shown!r} ({name}); "
        f"it may import {sorted(ours)} of ours and {sorted(theirs)} of others"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down_only(path):
    complaints = [complaint(path, line, name) for line, name in imports_of(path)]

    assert [] == [text for text in complaints if text]


def test_every_file_stands_on_a_floor_with_a_rule():
    assert set() == {floor_of(path) for path in FILES} - set(ALLOWED)


def test_file_names_are_unique():
    names = [path.name for path in FILES if path.name != "__init__.py"]

    assert [] == sorted({name for name in names if names.count(name) > 1})


def test_no_file_is_a_bag():
    bags = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}

    assert [] == [path for path in FILES if path.name in bags]


def test_long_files_say_why():
    """Over 700 lines, the first comment says why the file is long."""
    untold = []
    for path in FILES:
        text = path.read_text("utf-8")
        comment = re.search(r"^# .*(?:\n#.*)*", text, re.M)
        if text.count("\n") > 700 and not (comment and "long" in comment[0]):
            untold.append(str(path.relative_to(SRC)))

    assert [] == untold


def test_only_one_file_converts_between_the_bytecode_library_and_us():
    importers = {
        path.name
        for path in FILES
        if any(name.partition(".")[0] == "bytecode" for _, name in imports_of(path))
    }

    assert set() == importers - {"lift.py", "repairs.py", "opcodes.py", "facts.py"}


@pytest.mark.parametrize("floor", ["_bytecode", "_runtime", "_interleave"])
def test_the_engine_loads_no_torch(floor):
    """Also not through some other package: seen in a fresh interpreter."""
    modules = [
        ".".join(["tracekit", *path.relative_to(SRC).with_suffix("").parts])
        for path in FILES
        if floor_of(path) == floor and path.name != "__init__.py"
    ]
    program = "import sys, importlib\n"
    program += "".join(f"importlib.import_module({name!r})\n" for name in modules)
    program += "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert ("[]", "") == (done.stdout.strip(), done.stderr)


class TestTheTestItself:
    """A checker that cannot fail is no checker."""

    def test_torch_below_the_torch_floor(self):
        text = complaint(SRC / "_runtime" / "tracer.py", 3, "torch.nn")

        assert text is not None
        assert "tracer.py:3: '_runtime' may not import 'torch' (torch.nn)" in text

    def test_upwards(self):
        assert complaint(SRC / "_interleave" / "worker.py", 1, "tracekit._bytecode.cut")

    def test_a_public_name_from_within(self):
        assert complaint(SRC / "_torch" / "hooks.py", 1, "tracekit.Model")

    def test_relative_imports_are_resolved(self, tmp_path, monkeypatch):
        folder = tmp_path / "_runtime"
        folder.mkdir()
        (folder / "x.py").write_text("from ..hf import y\nfrom .skip import z\n")
        monkeypatch.setitem(globals(), "SRC", tmp_path)

        assert [(1, "tracekit.hf"), (2, "tracekit._runtime.skip")] == list(
            imports_of(folder / "x.py")
        )
