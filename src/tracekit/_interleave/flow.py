"""Values between blocks: by name, and by explicit meeting points.

A block may read a name that an earlier block binds. It waits until the earlier block has ended or
stands where no further store to the name can be reached, and then gets the value that stands in
that block. So a reader never sees the first value of a loop, nor one left by an earlier run.
Blocks that meet at a barrier say themselves when a value is ready: each then reads the names of
the others as they stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .._protocol import UNBOUND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .worker import Worker


@runtime_checkable
class NamedBody(Protocol):
    """A body whose names other bodies may read."""

    stores: frozenset[str]

    def may_store(self, generator: Any, name: str) -> bool:
        """Tell whether a store to *name* can be reached from where *generator* stands."""
        ...

    def await_again(self) -> None:
        """Forget which names of other bodies have been read: they may be new by now."""
        ...

    def place_of_store(self, name: str) -> tuple[str, int]:
        """Give file and line of the body's last store to *name*."""
        ...

    def lookup(self, generator: Any, name: str) -> object:
        """Give what the body has bound *name* to, `UNBOUND` if nothing.

        *generator* is `None` once the body has ended.
        """
        ...


def writers(workers: Iterable[Worker], reader: Worker, name: str) -> list[Worker]:
    """List the earlier blocks that store to *name* somewhere, the latest first."""
    found = [
        worker
        for worker in workers
        if worker.order < reader.order
        and isinstance(worker.body, NamedBody)
        and name in worker.body.stores
    ]
    return found[::-1]


def blocker(workers: Iterable[Worker], reader: Worker, name: str) -> Worker | None:
    """Find an earlier block that may still store to *name*."""
    for worker in writers(workers, reader, name):
        if worker.finished or worker.order in reader.met:
            continue
        body = worker.body
        if not worker.started or (
            isinstance(body, NamedBody) and body.may_store(worker.generator, name)
        ):
            return worker
    return None


def value_of(workers: Iterable[Worker], reader: Worker, name: str) -> object:
    """Give what the latest earlier block that bound *name* left in it, else `UNBOUND`."""
    for worker in writers(workers, reader, name):
        body = worker.body
        if isinstance(body, NamedBody):
            value = body.lookup(worker.generator, name)
            if value is not UNBOUND:
                return value
    return UNBOUND


class Barrier:
    """A meeting point of several blocks; usable again for the next round.

    Args:
        participants: How many blocks meet.
    """

    __slots__ = ("arrived", "participants", "released")

    def __init__(self, participants: int) -> None:
        self.participants = participants
        self.arrived: set[int] = set()
        self.released: dict[int, frozenset[int]] = {}

    def __repr__(self) -> str:
        return f"barrier({self.participants})"

    def arrive(self, worker: Worker) -> None:
        """Note that *worker* is here; the last to arrive lets all of the round go."""
        self.arrived.add(worker.order)
        if len(self.arrived) >= self.participants:
            together = frozenset(self.arrived)
            self.released.update(dict.fromkeys(together, together))
            self.arrived = set()

    def passes(self, worker: Worker) -> bool:
        """Tell, once, that the round of *worker* is complete."""
        met = self.released.pop(worker.order, None)
        if met is None:
            return False
        worker.met = met
        if isinstance(worker.body, NamedBody):
            worker.body.await_again()
        return True
