"""What the interleaver asks of its surroundings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._protocol import UNBOUND

if TYPE_CHECKING:
    from .interleaver import Standing
    from .requests import Key, Read
    from .worker import Worker

WAIT: Final = object()
"""Not yet: the request stays pending."""


class Host:
    """What a run depends on besides its bodies; this one knows nothing.

    A subclass overrides what it needs.
    """

    def enter(self, worker: Worker) -> Any:
        """A body is about to run; what is returned is given to `leave`."""

    def leave(self, worker: Worker, before: Any) -> None:
        """The body has suspended or ended; the model is about to go on."""

    def calls(self, path: str) -> int:
        """Tell how many calls of a module have begun."""
        return 0

    def calls_by_path(self) -> dict[str, int]:
        """Give `calls` of all modules that have been asked for."""
        return {}

    def count(self, key: Key) -> int:
        """Tell how many visits of a site the model has left behind, as far as is known."""
        return 0

    def reach(self, worker: Worker, request: Read) -> BaseException | None:
        """See to it that the request's site will be visited, or say why it cannot be."""
        return None

    def elsewhere(self, request: Read) -> object:
        """Answer a request for a site of another run, if that one stands there; else `WAIT`."""
        del request
        return WAIT

    def handed_out(self, worker: Worker, standing: Standing, value: object) -> None:
        """A body got *value* by a read."""

    def part(self, worker: Worker, standing: Standing) -> object:
        """Give the part of a site's value that *worker* sees, always the same object."""
        return standing.value

    def put_part(self, worker: Worker, standing: Standing, new: object) -> None:
        """Take *new*, which *worker* wrote, in the place of its part."""
        standing.value = new

    def edited(self, worker: Worker, standing: Standing) -> BaseException | None:
        """*worker*, which has suspended, may have edited its part; say why it may not."""
        del worker, standing
        return None

    def joined(self, standing: Standing) -> object:
        """Make one value of the parts, with what was edited in them."""
        return standing.value

    def skipped(self, parts: list[tuple[Worker, object]], standing: Standing) -> object:
        """Make one output of what all the bodies that skip a module have given."""
        return parts[-1][1]

    def written(self, worker: Worker, standing: Standing) -> BaseException | None:
        """A body is about to replace what stands at a site; say why it may not."""
        del worker, standing
        return None

    def outer_goes_on(self, worker: Worker) -> object:
        """The body around the others reads a name of theirs, and they have all ended.

        Returns:
            What the read is answered with; `UNBOUND` if the name is bound in its place by now.
        """
        del worker
        return UNBOUND

    def explain(self, request: Read) -> tuple[str, str, str]:
        """Say why a site was never visited: rows *Seen*, *Why* and *Fix*; empty if unknown."""
        return ("", "", "")
