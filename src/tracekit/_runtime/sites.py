"""What is kept of the blocks of a program: cut and compiled once per place, forgotten with the code."""

from __future__ import annotations

import weakref
from functools import partial
from types import CodeType
from typing import Any, Final

from .._bytecode.cut import Cut, cut
from .._bytecode.generator import make_body_twin
from .._bytecode.names import StoreMap
from . import debuggers, memory
from .guards import HOOKS
from .twins import ORIGINALS

NOTHING: Final[frozenset[str]] = frozenset()


class Compiled:
    """What is kept of one block: its twin, and what its frame needs to know.

    Attributes:
        twin: The rewritten body.
        arguments: The caller's plain locals it uses, in order of its arguments.
        cells: The caller's cell variables it uses.
        frees: The caller's free variables it uses.
        loads: Names it may read.
        stores: Names it may bind or unbind.
        nested: Globals that functions made in it may read, where names are a namespace.
        pushed: The plain locals that it may bind.
        pushes: The same, each with its place in `arguments`.
        read: The arguments whose values the body needs: the others it binds and does not look at.
        read_at: Where in `arguments` they are.
        exchanged: As `frames.exchange` takes the plain locals; made when it is first needed.
        spares: What `straight` uses again for runs of this block.
        first_offset: Bytes; where the frame must not go on.
        shared: Names that other blocks of the same run read or bind.
        all_names: Whether it has all names of the function, also those it does not use.
    """

    __slots__ = (
        "all_names",
        "arguments",
        "cells",
        "exchanged",
        "first_offset",
        "frees",
        "is_optimized",
        "lineno",
        "loads",
        "nested",
        "pushed",
        "pushes",
        "read",
        "read_at",
        "shared",
        "spares",
        "stores",
        "takes_value",
        "twin",
    )

    def __init__(self, part: Cut, shared: frozenset[str], all_names: bool) -> None:
        self.shared = shared
        self.all_names = all_names
        self.arguments = part.arguments
        self.cells = part.cells
        self.frees = part.frees
        self.loads = part.loads
        self.stores = part.stores
        self.first_offset = part.first_offset
        self.is_optimized = part.is_optimized
        self.takes_value = part.takes_value
        self.nested = NOTHING if part.is_optimized else part.nested
        self.lineno = part.lineno
        own = set(part.arguments) - set(part.cells)
        self.pushed = tuple(sorted(part.stores & own)) if part.is_optimized else ()
        self.pushes = tuple((name, part.arguments.index(name)) for name in self.pushed)
        only_bound = part.only_bound()
        self.read = tuple(name for name in part.arguments if name not in only_bound)
        self.read_at = tuple(part.arguments.index(name) for name in self.read)
        self.exchanged: tuple[tuple[int, int, bool], ...] | None = None
        self.spares: list[Any] = []
        self.twin = make_body_twin(part, HOOKS, shared)


def _forget(key: int, sites: dict[int, Site], twins: dict[int, Any], _: object) -> None:
    """Let go of the blocks of a code object that is gone."""
    # Called at the end of the process, too, when this module has no names any more.
    site = sites.pop(key, None)
    if site is not None:
        for block in site.blocks.values():
            twins.pop(id(block.twin.code), None)
            while block.spares:
                block.spares.pop().let_go()


class Site:
    """The blocks of one code object, and the code object itself, weakly.

    Attributes:
        entries: Offsets that are known to enter a `with`.
        may_debug: The code itself may start a debugger.
        blocks: The compiled ones.
        plain: Of those by offset, the ones entered directly that share no names, show nobody all
            of them, and cannot start a debugger.
        stores: What `store_map` gives.
    """

    __slots__ = ("blocks", "code", "entries", "may_debug", "plain", "stores")

    def __init__(self, code: CodeType) -> None:
        self.entries: set[int] = set()
        self.may_debug = debuggers.may_start(code)
        self.blocks: dict[tuple[int, bool, frozenset[str], bool], Compiled] = {}
        self.plain: dict[int, Compiled] = {}
        self.stores: dict[int, StoreMap] = {}
        self.code = weakref.ref(code, partial(_forget, id(code), SITES, ORIGINALS))


# Builtins that look at all names of the frame that calls them.
_LOOKING: Final = frozenset({"locals", "vars", "dir", "eval", "exec"})

# By id: hashing a code object reads the whole of it, and equal ones differ in file name.
SITES: Final[dict[int, Site]] = {}


def site_of(code: CodeType) -> Site:
    site = SITES.get(id(code))
    if site is None or site.code() is not code:
        site = SITES[id(code)] = Site(code)
    return site


def compiled_block(
    code: CodeType,
    enter_offset: int,
    *,
    after_target: bool = False,
    shared: frozenset[str] = NOTHING,
    all_names: bool = False,
) -> Compiled:
    """Cut and compile the block that *enter_offset* of *code* enters, or give the one kept.

    Args:
        code: The original code object.
        enter_offset: Bytes; the instruction that enters the `with`.
        after_target: See `cut`.
        shared: Names that other blocks of the same run read or bind.
        all_names: See `cut`.
    """
    blocks = site_of(code).blocks
    key = (enter_offset, after_target, shared, all_names)
    block = blocks.get(key)
    if block is None:
        part = cut(code, enter_offset, after_target=after_target, all_names=all_names)
        if (
            memory.AVAILABLE
            and part.is_optimized
            and not (all_names or _LOOKING.isdisjoint(part.loads))
        ):
            all_names = True
            part = cut(code, enter_offset, after_target=after_target, all_names=True)
        block = Compiled(part, shared, all_names)
        ORIGINALS[id(block.twin.code)] = block.twin
        blocks[key] = block
    return block


def store_map(code: CodeType, enter_offset: int) -> StoreMap:
    """Which names the block can still store to, from each of its instructions; kept."""
    stores = site_of(code).stores
    found = stores.get(enter_offset)
    if found is None:
        found = stores[enter_offset] = StoreMap(code, enter_offset)
    return found
