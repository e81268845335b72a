"""The examples of the page about language models, run from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from decoders import saved

PAGE = Path(__file__).parents[2] / "docs" / "language-models.md"


@pytest.fixture(autouse=True)
def _clean(no_residue):
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def test_every_example_runs(tmp_path, capsys):
    torch.manual_seed(0)
    space = {
        "__name__": "page",
        "folder": saved(tmp_path, "llama"),
        "mixture_folder": saved(tmp_path, "gptoss"),
    }
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), space)
    shown = capsys.readouterr().out

    assert len(examples) == 8
    assert shown.startswith("2 32 4 2 8 97\ncpu False\n")
    assert 'model.set_attn_implementation("eager")' in shown
    assert "<8 tokens, each to 2 experts>" in shown
    assert "[(1, 5, 32), (1, 1, 32), (1, 1, 32), (1, 1, 32)] torch.Size([8, 32])" in shown
