"""One block that uses what blocks use. Prints `traced 3 [2, 3] True` when all is well.

Run as a file, as text, compiled, zipped, typed in: see `test_places.py`.
"""

from __future__ import annotations

import sys

from tracekit._runtime.tracer import Tracer

if True:
    with Tracer() as tracer:
        x = 1
        numbers = [x + i for i in (1, 2)]
        is_twin = bool(sys._getframe().f_code.co_flags & 0x20)

    def function():
        y = 1
        with Tracer() as tracer:
            z = y + 1
            see = lambda: z + y
        return see()

    print("traced", function(), numbers, is_twin)
