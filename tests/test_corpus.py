"""Programs that were wrong once, or are likely to be: traced is inline, on every Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracekit.testing import same_as_inline

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.py"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_traced_is_inline(path, no_residue):
    outcome = same_as_inline(path.read_text("utf-8"), filename=str(path))

    # A program that compares nothing shows nothing.
    assert outcome.logged or outcome.names


def test_the_corpus_is_there():
    assert len(CORPUS) > 20
