"""tracekit beside hooks written by hand, and beside the other libraries of its kind.

    python -m benchmarks.field                              tracekit and hooks
    python -m benchmarks.field --peer nnsight=PYTHON ...     and others, each in its own environment

`workloads.py` says what is done, `subjects.py` on what, `by_NAME.py` how in the words of one
library: a function per workload, with the workload's name; where there is none the cell stays
empty. `by_hooks.py` is the base: each other adapter first has to give the same numbers, then the
two are timed in turns in one process (`pair.py`, `clock.py`). What can be measured only once in a
process is in `once.py`. `report.py` and `picture.py` show it.
"""
