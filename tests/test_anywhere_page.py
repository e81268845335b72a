"""`docs/anywhere.md`: what it shows works, and what it says is refused is refused."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tracekit import CannotSuspendError, Model, NotRunningError  # noqa: E402

PAGE = Path(__file__).parent.parent / "docs" / "anywhere.md"
EXAMPLES = re.findall(r"^```python ?(.*?)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
WORKING = [text for kind, text in EXAMPLES if not kind]
ERRORS = {"refused": CannotSuspendError, "not-running": NotRunningError}
REFUSED = [(ERRORS[kind], text) for kind, text in EXAMPLES if kind]


def run(text, clean):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    clean(net)
    names = {"__name__": "example", "model": Model(net), "x": torch.ones(1, 4)}
    exec(compile(text, "<anywhere.md>", "exec"), names)


def test_the_page_has_examples_of_both_kinds():
    assert len(WORKING) >= 6
    assert len(REFUSED) >= 10


@pytest.mark.parametrize("text", WORKING, ids=range(len(WORKING)))
def test_what_is_shown_works(text, no_residue):
    run(text, no_residue)


@pytest.mark.parametrize(("error", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_said_to_be_refused_is(error, text, no_residue):
    """At the line that asks, with the file, the reason and the way out."""
    try:
        with pytest.raises(error) as caught:
            run(text, no_residue)
    finally:
        logging.getLogger("docs.anywhere").filters.clear()

    asking = [entry for entry in caught.traceback if str(entry.path) == "<anywhere.md>"]
    assert asking or "eval" in text
    message = str(caught.value)
    assert "Why:" in message
    assert "Fix:" in message
    assert error.slug in message
