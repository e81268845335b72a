"""Every exception of tracekit, in three families, with one layout for all messages.

The families differ by what the reader does next:

* `TraceError`: the code asked for something that the run cannot give. Change the code.
* `UnsupportedError`: a limit of tracekit. Rewrite as the message shows, or ask for it.
* `InternalError`: a bug of tracekit. Report it; the message carries a dump.

Every class that is raised has a *slug*. A slug stands in four places, and a test holds them
together: the class, a section of `docs/errors.md`, a test that triggers it, and the last row of
the message. To add an error: a class here, its name in `tracekit/__init__.py`, a section, a test.

`python -m tracekit.errors SLUG` prints the section; without a slug, the list.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

_PUBLIC_MODULE = "tracekit"
_LABEL_WIDTH = 6


def _row(label: str, text: str) -> str:
    """Lay out one row; further lines of *text* are indented under the first."""
    first, *rest = text.split("\n")
    lines = [f"  {label + ':':<{_LABEL_WIDTH}}{first}"]
    lines += [f"  {'':<{_LABEL_WIDTH}}{line}" for line in rest]
    return "\n".join(lines)


class TracekitError(Exception):
    """Base of all errors that tracekit raises on purpose.

    Printed as fixed rows, of which the empty ones are dropped: what happened, *At* the reader's
    file and line, *Seen* the facts, *Why* one sentence on how tracekit works, *Fix* something to
    type, *See* the page. The rows are attributes, so an outer layer may add what it knows, for
    instance `error.where = "analysis.py:42"`.

    Args:
        what: What happened, with the value, in one line.
        where: File and line of the reader's code.
        seen: The facts, with shapes and names; may have several lines.
        why: One sentence about how tracekit works.
        fix: Something to type.
    """

    slugs: ClassVar[dict[str, type[TracekitError]]] = {}
    slug: ClassVar[str | None] = None

    where: str
    seen: str
    why: str
    fix: str

    def __init_subclass__(cls, slug: str | None = None) -> None:
        super().__init_subclass__()
        if cls.__module__ == __name__:
            # The home of a class is private, its address is public: reprs, tracebacks and
            # pickles say `tracekit.OutOfOrderError`.
            cls.__module__ = _PUBLIC_MODULE
        cls.slug = slug
        if slug is not None:
            if slug in TracekitError.slugs:
                taken = TracekitError.slugs[slug].__name__
                message = f"slug {slug!r} of {cls.__name__} is taken by {taken}"
                raise TypeError(message)
            TracekitError.slugs[slug] = cls

    def __init__(
        self, what: str, *, where: str = "", seen: str = "", why: str = "", fix: str = ""
    ) -> None:
        # Only `what` goes into args: pickle rebuilds an exception as cls(*args) and then
        # restores __dict__, so this survives a process boundary without a __reduce__.
        super().__init__(what)
        self.where = where
        self.seen = seen
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        rows = [("At", self.where), ("Seen", self.seen), ("Why", self.why), ("Fix", self.fix)]
        if self.slug is not None:
            rows.append(("See", f"python -m tracekit.errors {self.slug}"))
        what = str(self.args[0]) if self.args else ""
        return "\n".join([what, *(_row(label, text) for label, text in rows if text)])


TracekitError.__module__ = _PUBLIC_MODULE


class TraceError(TracekitError):
    """The code asked for something that the run cannot give. Next move: change the code."""


class UnsupportedError(TracekitError, NotImplementedError):
    """A limit of tracekit. Next move: rewrite as shown, or ask for it."""


class InternalError(TracekitError, slug="internal"):
    """A bug of tracekit. Next move: report it, with the dump.

    Args:
        what: What was found, in one line.
        where: File and line of the reader's code.
        seen: The facts.
        why: One sentence about how tracekit works.
        fix: Something to type.
        dump: What a developer needs to see; printed last, whole.
    """

    dump: str

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        seen: str = "",
        why: str = "",
        fix: str = "Please report this, with the whole message",
        dump: str = "",
    ) -> None:
        super().__init__(what, where=where, seen=seen, why=why, fix=fix)
        self.dump = dump

    def __str__(self) -> str:
        if not self.dump:
            return super().__str__()
        return f"{super().__str__()}\n  Dump of Python {sys.version.split()[0]}:\n{self.dump}"


# Capture: what is refused before the block has run.


class WithBlockNotFoundError(UnsupportedError, slug="not-a-with"):
    """A tracer was entered, but not by a `with` statement whose body can be found."""


class LeavesBlockError(UnsupportedError, slug="leaves-block"):
    """A `return`, `yield`, `await`, `break` or `continue` would leave the block."""


class AsyncWithError(UnsupportedError, slug="async-with"):
    """A tracer stands in an `async with`."""


class AlreadyEnteredError(TraceError, slug="already-entered"):
    """A tracer was entered a second time."""


class NamesNotRestorableError(UnsupportedError, slug="names-not-restorable"):
    """The block unbinds a local variable, and this Python cannot unbind it in the caller."""


class UnsupportedPythonError(UnsupportedError, slug="unsupported-python"):
    """This Python's bytecode is unknown."""


# The run: what a block asked for and cannot get.


class NotRunningError(TraceError, AttributeError, slug="not-running"):
    """A value was asked for outside of a run.

    Also an `AttributeError`, so that `hasattr` is safe outside of a run.
    """


class OutOfOrderError(TraceError, slug="out-of-order"):
    """A value was asked for when the model had already moved past it."""


class NeverRanError(TraceError, slug="never-ran"):
    """A value was asked for at a place that the model did not reach in this run."""


class CannotSkipError(UnsupportedError, slug="cannot-skip"):
    """The inline copy of a block cannot be passed over, because no events are delivered here."""


class CannotSuspendError(UnsupportedError, slug="cannot-suspend"):
    """A value was asked for where the block cannot be suspended, such as under a C function."""


class WaitError(TraceError, slug="never-bound"):
    """Blocks wait for one another, and none of them can go on."""


class InvokeError(TraceError, slug="invoke-refused"):
    """An input was given to a run that cannot take it, or a run has no place for a request."""


class CheckpointedWriteError(UnsupportedError, slug="checkpointed-write"):
    """A value was changed in a region that is run again in the backward."""


class UnsupportedModuleError(UnsupportedError, slug="unsupported-module"):
    """A value was asked for inside a module that does not call its children from Python."""


class UnknownNameError(TraceError, AttributeError, slug="unknown-name"):
    """No module, alias or port has this name. The message lists the nearest."""


# Caches and gradients.


class NotCachedError(TraceError, KeyError, AttributeError, slug="not-cached"):
    """A cache was asked for what it has not recorded."""


class NoGradientError(TraceError, slug="no-gradient"):
    """A gradient was asked for that this backward pass does not compute."""


# Language models: loading, prompts, generation.


class ModelNotFoundError(TraceError, slug="model-not-found"):
    """There is no model at this folder or under this name."""


class HubUnreachableError(TraceError, slug="hub-unreachable"):
    """A model is not on this machine, and the hub cannot be reached."""


class GatedModelError(TraceError, slug="gated-model"):
    """The hub gives this model only to those who have accepted its terms."""


class WrongModelClassError(TraceError, slug="wrong-model-class"):
    """A model that does not generate text was opened as a language model."""


class NoTokenizerError(TraceError, slug="no-tokenizer"):
    """Text, images or audio were given to a model without a tokenizer or processor."""


class WeightsNotLoadedError(TraceError, slug="weights-not-loaded"):
    """A parameter was asked for before the weights were loaded."""


class PromptError(TraceError, slug="bad-prompt"):
    """What was given as input is nothing that a language model can read."""


class MixedInputsError(UnsupportedError, slug="mixed-inputs"):
    """The inputs of several invokes cannot be put into one batch."""


class GenerateOnlyError(TraceError, slug="generate-only"):
    """An option of `generate` was given to `trace`."""


class UnsupportedGenerationError(UnsupportedError, slug="unsupported-generation"):
    """This way of generating runs the model in a manner that steps cannot follow."""


class NoAttentionWeightsError(TraceError, slug="no-attention-weights"):
    """Attention weights were asked for, and the attention implementation keeps none."""


class DevicesDifferError(TraceError, slug="devices-differ"):
    """A value of one device was put where the model works on another."""


class NoStandardNameError(TraceError, AttributeError, slug="no-standard-name"):
    """This architecture has no such part, or it was not recognised."""


class SourceNotAvailableError(UnsupportedError, slug="no-source"):
    """The operations inside a forward were asked for, and it has none that can be seen."""


class SkeletonWarning(UserWarning):
    """A model cannot be built without its weights, so they are loaded at once."""


class DoubleBosWarning(UserWarning):
    """A prompt begins with two beginning-of-sequence tokens."""


class FirstRowWarning(UserWarning):
    """`[0]` of an output under a standard name: the first row, not the first item of a tuple."""


SkeletonWarning.__module__ = DoubleBosWarning.__module__ = _PUBLIC_MODULE
FirstRowWarning.__module__ = _PUBLIC_MODULE


# Several inputs in one run, and runs on shapes.


class ValueNotKnownError(TraceError, slug="value-not-known"):
    """The value of a tensor was asked for in a scan, where only its shape is known."""


class ScanDeviceError(UnsupportedError, slug="scan-device"):
    """A scan cannot do this for a device that is not there."""


class ScanMismatchError(TraceError, slug="scan-mismatch"):
    """The scan of a block found a shape, dtype or device that does not fit."""


class BatchAxisError(TraceError, slug="batch-axis"):
    """A value has no batch axis, so one invoke cannot have or edit rows of it."""


class CannotJoinError(TraceError, slug="cannot-join"):
    """The inputs of several invokes cannot be joined into one run."""


class RowsMismatchError(TraceError, slug="rows-mismatch"):
    """What an invoke writes does not fit the rows that it has."""


class HeldValueWarning(UserWarning):
    """A tensor that was read from the model has changed, or an edit of it comes too late."""


HeldValueWarning.__module__ = _PUBLIC_MODULE


class OldNameError(UnsupportedError, AttributeError, slug="old-name"):
    """A script for another library uses a name that has no counterpart; the fix says what has."""


class StepsWarning(UserWarning):
    """A loop asked for more steps than the run had."""


StepsWarning.__module__ = _PUBLIC_MODULE


class ExitTracingException(BaseException):
    """Takes a frame out of the inline copy of a traced block. Never reaches a user.

    A `BaseException`, so that no handler of the frame that says `except Exception` stops it.
    """

    def __str__(self) -> str:
        # Only a context manager of the user's own can let it out.
        return (
            "a context manager around a tracer has not called the tracer's `__exit__` with this "
            "exception, so the block has not run"
        )


ExitTracingException.__module__ = _PUBLIC_MODULE


def _page() -> Path:
    """Find `errors.md`: beside this file in a wheel, in `docs` in a checkout."""
    here = Path(__file__).resolve()
    shipped = here.with_name("errors.md")
    return shipped if shipped.exists() else here.parents[2] / "docs" / "errors.md"


def section(slug: str) -> str:
    """Give the section of the errors page about *slug*.

    Args:
        slug: The last word of an error message.

    Returns:
        Markdown, from the section's heading to the line before the next one.

    Raises:
        KeyError: The page has no such section.
    """
    for part in _page().read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        if heading.strip() == slug:
            return f"## {slug}\n{text.rstrip()}\n"
    raise KeyError(slug)


def main(arguments: list[str]) -> int:
    """Print the section for the slug given on the command line, or all slugs.

    Args:
        arguments: What follows the module name on the command line.

    Returns:
        The exit status: 0, or 2 for an unknown slug.
    """
    if not arguments:
        for slug, cls in sorted(TracekitError.slugs.items()):
            sys.stdout.write(f"{slug:<24}{(cls.__doc__ or '').splitlines()[0]}\n")
        return 0
    try:
        text = section(arguments[0])
    except KeyError:
        known = ", ".join(sorted(TracekitError.slugs))
        sys.stderr.write(f"no error has the slug {arguments[0]!r}; there are: {known}\n")
        return 2
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
