"""`docs/parity.md`: each feature and each limit has a row, and each named test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "parity.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [A-Z]\d+ \|", line)
]
COUNTS = {"W": 10, "T": 10, "V": 7, "S": 2, "I": 5, "B": 6, "K": 5, "G": 3, "E": 4, "O": 5}
COUNTS |= {"M": 2, "L": 11, "X": 6, "C": 70}


def test_every_feature_and_every_limit_has_its_row():
    wanted = [f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)]

    assert wanted == [row[0] for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_behind_a_row_exist(row):
    _, theirs, ours, tests = row
    assert theirs
    assert ours
    if tests == "missing":
        assert "missing" in ours
        return
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert named
    for file, name in named:
        text = (TESTS / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), f"{file}::{name}"
