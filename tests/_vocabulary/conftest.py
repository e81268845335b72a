"""What all tests that trace a model share."""

from __future__ import annotations

import pytest

from tracekit._torch import hooks


@pytest.fixture
def clean(no_residue):
    """Check after the test that the modules handed to it are as they were, and nothing runs."""
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
    assert {} == hooks._hooked
    assert {} == hooks._runs
