"""Run some of CPython's own tests with every operation of some modules tapped, in this process.

`python tapped_child.py MODULES TESTS`, both with commas. Prints how many operations reported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import unittest
from types import CodeType
from typing import Any

from tracekit._bytecode.listing import IN_PLACE_CODES, list_operations
from tracekit._bytecode.taps import Tap, make_tapped


class Counting(Tap):
    """Changes nothing."""

    reports = 0

    def result(self, value: Any) -> Any:
        Counting.reports += 1
        return value

    def assigned(self, value: Any) -> Any:
        Counting.reports += 1
        return value


def tap_all(code: CodeType) -> CodeType:
    """Tap every operation of a code object, and of all code in it."""
    code = _tap_below(code)
    return make_tapped(code, {op: Counting() for op in list_operations(code).operations})


def _tap_below(code: CodeType) -> CodeType:
    consts: list[Any] = []
    for const in code.co_consts:
        if not isinstance(const, CodeType):
            consts.append(const)
        elif const.co_name in IN_PLACE_CODES:
            # Its own operations are tapped with those of the code around it.
            consts.append(_tap_below(const))
        else:
            consts.append(tap_all(const))
    return code.replace(co_consts=tuple(consts))


class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        return tap_all(compile(source, self.path, "exec", dont_inherit=True))


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Loader(name, spec.origin)
        return spec


def main(names: str, tests: str) -> int:
    chosen = set(names.split(","))
    for name in chosen:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Finder(chosen))
    suite = unittest.defaultTestLoader.loadTestsFromNames(tests.split(","))
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    print(f"{result.testsRun} tests, {Counting.reports} reports")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
