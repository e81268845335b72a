"""Some uses of each word leave nothing behind; two thousand of each are in `slow/test_soak.py`."""

from __future__ import annotations

import features


def test_nothing_is_left_behind():
    features.repeat(features.FEATURES, 20)
