"""One body being run."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import CodeType, FrameType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from .._protocol import Carrier

if TYPE_CHECKING:
    from .position import Loop
    from .requests import Request

_OURS: Final = str(Path(__file__).resolve().parents[1])
_MANY_FILES: Final = 1000
_files: Final[dict[str, bool]] = {}


def _is_ours(filename: str) -> bool:
    if len(_files) >= _MANY_FILES:
        _files.clear()
    ours = _files[filename] = filename.startswith(_OURS)
    return ours


def place_of(code: CodeType, offset: int) -> tuple[str, int]:
    """Give the file and the line of an instruction.

    Args:
        code: A code object.
        offset: Bytes from the start of its bytecode.
    """
    for start, stop, lineno in code.co_lines():
        if start <= offset < stop and lineno is not None:
            return code.co_filename, lineno
    return code.co_filename, code.co_firstlineno


class Delay(NamedTuple):
    """A wait of a body for something that is no site, while the model went on.

    Attributes:
        request: What it waited for.
        place: The user's code that waited, and the offset of its instruction.
        since: How many sites the model had visited when it began.
        until: How many when it was over.
    """

    request: Request
    place: tuple[CodeType, int] | None
    since: int
    until: int


class Body(Protocol):
    """What a worker needs to know of a captured block."""

    name: str
    filename: str
    first_lineno: int
    is_apart: bool

    def resume(self) -> None:
        """It is about to go on; called where `is_apart`."""
        ...

    def suspend(self) -> None:
        """It has suspended or ended; called where `is_apart`."""
        ...

    def start(self, value: object) -> Generator[Any, Any, Any]:
        """Give a fresh generator of the block; *value* is what the `as` target gets."""
        ...


class Worker:
    """One body being run: its generator, and what it waits for.

    Attributes:
        body: The block.
        order: Its place in written order, from 0.
        rows: Which part of the batch it sees; `None` for all of it.
        pending: The request that it waits for.
        loops: The loops over steps that it is in, innermost last.
        stepped: It has opened a loop over steps.
        asked: How many sites the model had visited when the pending request was made.
        delay: Its last wait for a name, for other blocks or for the end of a loop's steps.
        value: What the body returned.
        error: What the body raised; taken out by whoever raises it on.
        aborted: It is being unwound; further requests end it too.
        is_apart: Its body has a namespace of its own; see `Body`.
        is_outer: It is the body around the other bodies of the run, and reads their names last.
        modes: What the host keeps about the surroundings of the body.
        met: Orders of the bodies that it has met at its last barrier.
    """

    __slots__ = (
        "aborted",
        "asked",
        "body",
        "delay",
        "error",
        "generator",
        "is_apart",
        "is_outer",
        "loops",
        "met",
        "modes",
        "order",
        "pending",
        "rows",
        "started",
        "stepped",
        "told",
        "value",
    )

    def __init__(self, body: Body, order: int = 0, rows: Any = None) -> None:
        self.body = body
        self.order = order
        self.rows = rows
        self.generator: Generator[Any, Any, Any] | None = None
        self.pending: Request | None = None
        self.loops: list[Loop] = []
        self.value: object = None
        self.error: BaseException | None = None
        self.is_apart = False
        self.is_outer = False
        self.started = False
        self.stepped = False
        self.aborted = False
        self.told = False
        self.asked = 0
        self.delay: Delay | None = None
        self.modes: Any = None
        self.met: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<worker {self.order} of {self.body.name}, waits for {self.pending!r}>"

    @property
    def finished(self) -> bool:
        """It ran to its end, or raised."""
        return self.started and self.generator is None

    def start(self, value: object) -> None:
        """Make the generator; the first `send` enters it."""
        self.started = True
        self.generator = self.body.start(value)
        self.is_apart = self.body.is_apart

    def send(self, answer: object) -> Request | None:
        """Run on until the next request.

        Args:
            answer: What the pending request is answered with; `None` at first.

        Returns:
            The next request; `None` if the body has ended, with `value` or `error` set.
        """
        generator = self.generator
        assert generator is not None
        try:
            request: Request = generator.send(answer)
        except BaseException as error:  # noqa: BLE001 - handed on by the interleaver
            self.ended_by(error)
        else:
            return request
        # From 3.12 on the frame in which a body ends keeps those alive that it was resumed from:
        # an answer that is an error must not be held by the frames of its own traceback.
        answer = None
        return None

    def ended_by(self, error: BaseException) -> None:
        """Note with what the generator has ended.

        Args:
            error: What the resuming of it has raised, in the frame that calls this.
        """
        self.generator = None
        if isinstance(error, StopIteration):
            self.value = error.value
        elif isinstance(error, Carrier):
            self.error = error.error
        else:
            # That frame holds the worker and the traceback holds that frame: cut it off.
            traceback = error.__traceback__
            self.error = error.with_traceback(traceback and traceback.tb_next)

    def close(self) -> None:
        """Give up on a body that answers each error with another request."""
        generator, self.generator = self.generator, None
        assert generator is not None
        try:
            generator.close()
        except BaseException as error:  # noqa: BLE001 - handed on by the interleaver
            self.ended_by(error)

    def asking(self) -> tuple[CodeType, int] | None:
        """Find the user's code that has made the pending request.

        Returns:
            The innermost code object that is not ours, and the offset of its instruction; `None`
            if nothing is suspended.
        """
        found: tuple[CodeType, int] | None = None
        generator: Any = self.generator
        while type(generator) is GeneratorType:
            code = generator.gi_code
            # A frame object is made when it is asked for: only for the user's own code.
            filename = code.co_filename
            ours = _files.get(filename)
            if ours is None:
                ours = _is_ours(filename)
            if not ours:
                frame: FrameType | None = generator.gi_frame
                if frame is None:
                    break
                found = (code, frame.f_lasti)
            generator = generator.gi_yieldfrom
        return found

    def position(self) -> tuple[str, int]:
        """Find the user's line at which the body is suspended.

        Returns:
            File name and line, of the innermost code that is not ours; of the block itself if
            nothing is suspended.
        """
        found = self.asking()
        if found is None:
            return self.body.filename, self.body.first_lineno
        return place_of(*found)

    def where(self) -> str:
        """Say where the body is suspended, as the row *At* of a message."""
        filename, lineno = self.position()
        text = f"{filename}:{lineno}"
        if (filename, self.body.first_lineno) == (self.body.filename, lineno):
            return text
        return f"{text}, in the block that starts at line {self.body.first_lineno}"
