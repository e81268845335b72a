"""A few hundred traces of all kinds, some of which fail: nothing is left behind.

Thousands of them are in `slow/test_soak.py`, which also interrupts them by signals: where one
falls is a matter of time, and an interrupted gradient may leave a tensor on a node of autograd.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import soaking


def test_a_few_hundred_mixed_traces_leave_nothing():
    done = soaking.soak(300, seed=11, signals=False)

    assert {action.__name__ for action in soaking.ACTIONS} <= set(done)


def test_without_the_collector_memory_is_as_flat():
    done = soaking.soak(200, seed=12, signals=False, threads=0, collector=False)

    assert 200 == sum(done.values())
