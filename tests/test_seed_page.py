"""`docs/seed.md`: each name of the seed has a row, and each home on the page exists."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")  # the door for older scripts is one of the homes

PAGE = Path(__file__).parents[1] / "docs" / "seed.md"

# What the seed document names: class or function -> members, and arguments.
SEED = {
    "ExitTracingException": ([], []),
    "WithBlockNotFoundError": ([], []),
    "Tracer": (
        "args kwargs backend info Info capture compile execute parse pull push".split(),
        ["args", "backend", "_info", "kwargs"],
    ),
    "Info": (
        "source frame start_line node filename cache_key".split(),
        "source frame start_line node filename cache_key".split(),
    ),
    "Cache": (
        ["CacheDict", "Entry"],
        "modules device dtype detach include_output include_inputs rename alias".split(),
    ),
    "CacheDict": ("input inputs output".split(), "data path alias rename alias_paths".split()),
    "InterleavingTracer": (
        "barrier cache compile execute invoke result".split(),
        "fn model args backend kwargs".split(),
    ),
    "ScanningTracer": (["execute"], []),
    "Invoker": ([], "tracer args kwargs".split()),
    "ExceptionWrapper": (["set_info"], "info original args kwargs".split()),
    "BackwardsMediator": ([], "intervention info name batch_group stop".split()),
    "BackwardsTracer": ([], "tensor fn args kwargs".split()),
    "EditingTracer": ([], "args backend inplace kwargs".split()),
    "IteratorTracer": (["compile", "execute"], "iteration interleaver".split()),
    "wrap_grad": ([], ["interleaver"]),
    "get_dependencies": ([], ["fn"]),
    "indent": ([], ["source", "indent"]),
    "try_catch": ([], "source exception_source else_source finally_source".split()),
    "wrap_exception": ([], ["exception", "info"]),
    "execute": ([], ["fn"]),
    "parse": ([], ["source_lines", "start_line"]),
    "push": ([], ["state"]),
    "set_info": ([], ["info"]),
    "barrier": ([], ["n_participants"]),
    "cache": ([], "modules device dtype detach include_output include_inputs".split()),
    "invoke": ([], ["args", "kwargs"]),
}


def tables():
    """The cells of each row: of the table of names, and of that of arguments."""
    _, names, arguments = PAGE.read_text(encoding="utf-8").split("\n## ")
    for part in (names, arguments):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
            if line.startswith("| `")
        ]
        yield rows


NAMES, ARGUMENTS = tables()


def home(cell):
    """What a cell names; `None` where something else has taken the place."""
    if cell == "replaced":
        return None
    parts = cell.strip("`").split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise AssertionError(cell)


def words(cell):
    return re.findall(r"`(\w+)`", cell)


def test_each_name_of_the_seed_has_a_row():
    rows = [cells[0].strip("`") for cells in NAMES]
    for name, (members, _) in SEED.items():
        assert any(row.rpartition(".")[2] == name for row in rows), name
        for member in members:
            assert f"{name}.{member}" in rows


@pytest.mark.parametrize("cells", NAMES, ids=lambda cells: cells[0])
def test_each_home_exists(cells):
    found = home(cells[1])

    assert cells[2]
    if found is not None and inspect.isroutine(found):
        assert found.__doc__


@pytest.mark.parametrize("cells", ARGUMENTS, ids=lambda cells: cells[0].partition("(")[0])
def test_each_argument_is_kept_or_explained(cells):
    callable_, _, rest = cells[0].strip("`").partition("(")
    _, wanted = SEED[callable_]
    kept, gone = words(cells[2]), words(cells[3])
    found = home(cells[1])

    assert wanted == re.findall(r"\w+", rest)
    assert set(wanted) <= {*kept, *gone}
    if kept:
        assert found is not None
        assert set(kept) <= set(inspect.signature(found).parameters)


def test_every_argument_table_row_is_there():
    rows = {cells[0].strip("`").partition("(")[0] for cells in ARGUMENTS}

    assert {name for name, (_, arguments) in SEED.items() if arguments} == rows
