"""Runs a batch of grown programs, in a process of its own, and prints what differs as JSON.

Usage: python fuzz_child.py KIND START COUNT [ASKS]

KIND is what `strategies.from_seed` grows; "model": blocks, run in step with a model of torch.

A mistake in bytecode does not raise, it kills the interpreter: so the number of each program is
written to standard error before it runs, and the parent can tell which one it was. A program that
takes too long inline is left out; one that takes too long traced ends the process.
"""

from __future__ import annotations

import ast
import faulthandler
import json
import signal
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import strategies
from stackdepth import needed_depth

from tracekit import testing
from tracekit._bytecode import generator

SLOW_S = 0.5
HANGS_S = 20
SHRINK_TRIES = 300


class TooLong(BaseException):
    """A program took too long inline."""


def _too_long(signal_number, frame):
    raise TooLong


_assemble = generator.assemble


def _assemble_and_measure(program, extra_stack=0):
    """Check that a twin claims the stack that it needs: a crash would come much later."""
    code, offsets = _assemble(program, extra_stack)
    needed = needed_depth(code)
    if needed > code.co_stacksize:
        TOO_SMALL.append(f"{code.co_qualname} needs {needed} slots, claims {code.co_stacksize}")
    return code, offsets


generator.assemble = _assemble_and_measure
TOO_SMALL: list[str] = []


def runs_inline(text: str) -> bool:
    """Whether a program ends in time and memory."""
    signal.setitimer(signal.ITIMER_REAL, SLOW_S)
    try:
        outcome = testing.run_inline(text)
    except TooLong:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return not outcome.error or outcome.error[0] not in {"TooLong", "MemoryError"}


def difference(text: str) -> str | None:
    """What differs between inline and traced, or None."""
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    residue = testing.Residue()
    TOO_SMALL.clear()
    try:
        outcome = testing.same_as_inline(text, may_refuse=True)
        residue.check()
    except AssertionError as error:
        return str(error).partition("\nin\n")[0]
    except Exception as error:
        return f"{type(error).__qualname__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    if TOO_SMALL:
        return f"stack {TOO_SMALL}"
    if outcome.refused is not None:
        REFUSED.append(outcome.refused.slug)
    return None


REFUSED: list[str] = []


def _without(tree: ast.Module, number: int) -> str | None:
    """Give the text without its n-th statement, or None if there are fewer."""
    count = 0
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody", "handlers"):
            suite = getattr(node, field, None)
            if not isinstance(suite, list):
                continue
            for index in range(len(suite)):
                if count == number:
                    del suite[index]
                    if not suite and field == "body":
                        suite.append(ast.Pass())
                    return ast.unparse(ast.fix_missing_locations(tree))
                count += 1
    return None


def kind_of(found: str) -> str:
    """The first word of what differs: shrinking must not wander to another mistake."""
    lines = found.splitlines()
    return lines[1].split()[0] if len(lines) > 1 else lines[0].split()[0]


def shrink(text: str, found: str) -> str:
    """Leave out statements, one at a time, as long as the same thing differs.

    Returns:
        The program, without the prelude that all grown programs have.
    """
    rest = ast.unparse(ast.parse(text.removeprefix(strategies.PRELUDE)))
    if (now := difference(strategies.PRELUDE + rest)) is None or kind_of(now) != kind_of(found):
        return text.removeprefix(strategies.PRELUDE)
    tries = 0
    number = 0
    while tries < SHRINK_TRIES and (smaller := _without(ast.parse(rest), number)) is not None:
        tries += 1
        program = strategies.PRELUDE + smaller
        if (
            "trace()" in smaller
            and strategies.compiles(program)
            and runs_inline(program)
            and (now := difference(program)) is not None
            and kind_of(now) == kind_of(found)
        ):
            rest = smaller
        else:
            number += 1
    return rest


def main(kind: str, start: str, count: str, asks: str = "0") -> None:
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", SyntaxWarning)
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _too_long)
    if kind == "model":
        import through_a_model

        through_a_model.use()
        kind = "block"
    failures = []
    left_out = 0
    for seed in range(int(start), int(start) + int(count)):
        text = strategies.from_seed(seed, kind, asks=int(asks))
        if not runs_inline(text):
            left_out += 1
            continue
        print(seed, file=sys.stderr, flush=True)
        if (found := difference(text)) is not None:
            known = [kind_of(failure["found"]) for failure in failures]
            # The first few of each kind are worth the time.
            if known.count(kind_of(found)) < 2:
                text = shrink(text, found)
            failures.append({"seed": seed, "found": found, "program": text})
    print(json.dumps({"failures": failures, "refused": REFUSED, "left_out": left_out}))


if __name__ == "__main__":
    main(*sys.argv[1:])
