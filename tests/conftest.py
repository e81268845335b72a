"""What all tests share: profiles, what is skipped where, and the check that nothing is left.

Warnings are errors (see `pyproject.toml`), and a crash of the interpreter prints every thread's
stack: pytest's own faulthandler plugin is on.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).parent
TORCH = importlib.util.find_spec("torch") is not None
TRANSFORMERS = importlib.util.find_spec("transformers") is not None

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=5000, deadline=None)
hypothesis.settings.register_profile(
    "debug", max_examples=50, deadline=None, verbosity=hypothesis.Verbosity.verbose
)
# "ci" is Hypothesis' own: no deadline, the same examples each time.
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev")
)

collect_ignore = ["typing", "corpus"]
collect_ignore_glob: list[str] = []
# The lower floors and their tests run where torch is not installed. These need it.
if not TORCH:
    collect_ignore += ["_torch", "_vocabulary", "hf"]
    collect_ignore_glob += ["test_torch_*.py"]
elif not TRANSFORMERS:
    collect_ignore += ["hf"]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip `*_py3NN.py` on older Pythons: such a file uses that version's syntax."""
    match = re.search(r"_py3(\d+)\.py$", collection_path.name)
    if match and sys.version_info < (3, int(match[1])):
        return True
    return None


@pytest.fixture
def no_residue():
    """Check after the test that it left nothing behind.

    The fixture is a function: hand it the modules that were traced, at any time, and their hooks
    are compared, too. Use it on every test that traces.
    """
    from tracekit.testing import Residue

    residue = Residue()
    yield residue.watch
    residue.check()


@pytest.fixture
def quick_switches():
    """Let threads take turns a hundred thousand times a second."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def clean(no_residue):
    """Check after the test that the modules handed to it are as they were, and nothing runs."""
    from tracekit._torch import hooks

    watched = []

    def watch(*modules):
        no_residue(*modules)
        for module in modules:
            watched.extend((child, dict(vars(child))) for child in module.modules())
        return modules[0]

    yield watch
    left = [
        f"{type(child).__name__}.{name}"
        for child, before in watched
        for name in {*before, *vars(child)}
        if name == "forward" and vars(child).get(name) is not before.get(name)
    ]

    assert [] == left
    assert {} == hooks.HOOKED
    assert {} == hooks.RUNS
