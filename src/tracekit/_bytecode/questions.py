"""What twins ask while they run, and what they remember of the answers.

`Hooks` are the questions: one field for each kind of instruction that can run Python code. They are
written down here, where it is known what each is called with, and answered by whoever fills the
fields in (`_runtime/guards.py`), who need not know how a twin is made. `Last` and `CallSite` are
the answers a twin keeps, so that it need not ask the same twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

Guard = Callable[..., Generator[Any, Any, Any] | None]


class Last:
    """The type that a guard met last and said None about.

    Twins compare it with the operand's type in four instructions, and call the guard only where
    it is another. A guard has one in its attribute `last`, if that settles it.
    """

    __slots__ = ("kind",)

    def __init__(self) -> None:
        self.kind: type | None = None


NOTHING_MET: Final = object()
"""What no call calls."""


class CallSite:
    """What one call of a twin called last, for which the answer needs no check.

    Attributes:
        straight: Called as it stands, whatever the arguments.
        function: A Python function whose twin is called.
        code: Its code when it was looked at.
        twin: Called in its place; returns the generator to drive.
    """

    __slots__ = ("code", "function", "straight", "twin")

    def __init__(self) -> None:
        self.straight: object = NOTHING_MET
        self.function: object = NOTHING_MET
        self.code: object = NOTHING_MET
        self.twin: object = NOTHING_MET


@dataclass(frozen=True, slots=True, eq=False)
class Hooks:
    """What the inserted checks call. `docs/inside/map.md` has the table of what each must do."""

    check: Callable[[int, tuple[str, ...]], tuple[Callable[..., Any], CallSite]]
    check_spread: Callable[..., Any]
    attr: Callable[[str], Guard]
    super_attr: Callable[[str], Guard]
    store_attr: Callable[[str], Guard]
    delete_attr: Callable[[str], Guard]
    binary: Callable[[int], Guard]
    compare: Callable[[str], Guard]
    unary: Callable[[str], Guard]
    truth: Guard
    contains: Guard
    subscr: Guard
    store_subscr: Guard
    delete_subscr: Guard
    iter: Guard
    step: Callable[[Any], Generator[Any, Any, Any]]
    unpack: Guard
    mapping: Guard
    enter: Guard
    exit_error: Guard
    format: Callable[[str], Guard]
    match_class: Guard
    match_keys: Guard
    length: Guard
    raised: Guard
    delegate: Callable[[Any], Generator[Any, Any, Any]]
    unwrap: Callable[[BaseException], BaseException]
    carry: Callable[[BaseException], BaseException]
    carry_generator: Callable[[BaseException], BaseException]
    virtual_iterators: frozenset[type]
    shared_name: Callable[[str], Guard]
    shared_store: Callable[[str], Callable[[Any], None]]
    opens_block: Callable[[Any], object]
