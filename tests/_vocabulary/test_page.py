"""The examples of the page about the vocabulary, run from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "vocabulary.md"


def test_every_example_runs(capsys):
    space = {"__name__": "page"}
    text = PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), space)

    assert len(examples) == 13
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("a block at line")
    assert shown[1] in text
