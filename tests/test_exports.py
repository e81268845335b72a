"""The front door: lazy, complete, and the same for type checkers as at run time."""

from __future__ import annotations

import ast
import importlib.util
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit import errors

DOOR = Path(tracekit.__file__)
HOMES = tracekit._HOMES
TORCH = importlib.util.find_spec("torch") is not None


def available(name: str) -> bool:
    return TORCH or HOMES[name].startswith((".errors", "._bytecode", "._runtime", "._interleave"))


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "" == done.stderr
    return done.stdout.strip()


def test_importing_loads_neither_torch_nor_transformers_nor_the_engine():
    heavy = "{'torch', 'transformers', 'numpy', 'bytecode'}"

    assert "[]" == run(f"import tracekit, sys; print(sorted({heavy} & set(sys.modules)))")


def test_importing_is_quick():
    """Under 60 ms of work, the interpreter's start not counted; what else runs does not count."""
    program = "import time; t = time.process_time(); import tracekit; "
    program += "print(time.process_time() - t)"

    assert min(float(run(program)) for _ in range(5)) < 0.060


def test_type_checkers_see_the_same_names():
    tree = ast.parse(DOOR.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: "." * node.level + (node.module or "")
        for node in block.body
        for alias in node.names
    }

    assert HOMES == seen


@pytest.mark.parametrize("name", sorted(HOMES))
def test_each_name_is_there_under_its_public_address(name):
    if not available(name):
        pytest.skip("needs torch")
    value = getattr(tracekit, name)

    assert "tracekit" == value.__module__
    assert name in dir(tracekit)


def test_every_error_class_goes_through_the_door():
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and value.__module__ == "tracekit"
    }

    assert set() == public - set(HOMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tracekit' has no attribute 'modle'"):
        tracekit.modle  # noqa: B018

    assert not hasattr(tracekit, "modle")


def test_a_class_is_pickled_by_its_public_address():
    assert b"tracekit" in (data := pickle.dumps(tracekit.OutOfOrderError))
    assert b"errors" not in data
    assert tracekit.OutOfOrderError is pickle.loads(data)


def test_the_version_is_that_of_the_changelog():
    changelog = DOOR.parents[2].joinpath("CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)

    assert newest is not None
    assert tracekit.__version__ == newest[1]
