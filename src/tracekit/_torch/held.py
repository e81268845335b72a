"""Tensors that were handed out, and what became of them.

A read hands out the model's own tensor, so that edits in place count. Two silent mistakes follow:

* the model overwrites the tensor later (an activation in place), and the held value changes;
* the block edits it in place when the model is past it, and the edit comes too late.

Both show in the tensor's version counter, which torch raises at each write in place. Counters are
compared at each switch between block and model, for the tensors read last, and for all at the end.
Of what changed between those it is not known who did it, and the warning says so. Warnings are
given at the end of the run, at the line of the read; of what the model overwrote only if somebody
still holds it, since `h.output.clone()` lets go of it at once.

Tensors are held weakly: what a block lets go of is not kept for this.

Things that don't work:

- "Alive at the end" alone as "held by the user". A tensor that autograd has saved keeps its Python
  object alive. So the garbage collector is asked who refers to it, once a run, and only when
  there is something to complain about.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Final

import torch

from .._interleave.site import Site
from .._interleave.worker import place_of
from ..errors import HeldValueWarning
from .values import tensors

if TYPE_CHECKING:
    from types import CodeType

    from .._interleave.interleaver import Standing
    from .._interleave.requests import Key
    from .._interleave.worker import Worker

RECENT: Final = 4
"""How many tensors are looked at in each switch: a run with n reads must not pay for n * n."""

_OVERWRITTEN: Final = (
    "the value of `{site}`, read here, was overwritten in place by the model later: the name now "
    "shows the new numbers. Keep a copy: `{site}.clone()`"
)
_TOO_LATE: Final = (
    "the value of `{site}`, read here, was edited in place when the model was already past it: "
    "the edit does not reach the model as `{site}`. Edit it before the block asks for a later "
    "value, or edit a copy: `{site}.clone()`"
)
_CHANGED: Final = (
    "the value of `{site}`, read here, was changed in place later, by the model or by the block: "
    "the name now shows the new numbers, and an edit of the block's came too late to reach the "
    "model. Keep a copy: `{site}.clone()`"
)


Entry = tuple["weakref.ref[torch.Tensor]", int, tuple["Key", int], "tuple[CodeType, int] | None"]
"""A tensor that was handed out, weakly; its counter, when it was looked at last; path and port and
the visit, where it was read; the user's code that has read it, and the offset there."""


class Held:
    """The tensors that one run has handed out."""

    __slots__ = ("_complaints", "_overwritten", "entries")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._complaints: dict[tuple[str, int], str] = {}
        self._overwritten: list[tuple[Entry, str]] = []

    def add(self, worker: Worker, standing: Standing, value: object) -> None:
        """Note what a block has read."""
        asking = worker.asking()
        at = (standing.key, standing.visit)
        for tensor in (value,) if type(value) is torch.Tensor else tensors(value):
            try:
                version = tensor._version
            except RuntimeError:
                continue  # an inference tensor has no version counter
            self.entries.append((weakref.ref(tensor), version, at, asking))

    def site_of(self, tensor: torch.Tensor) -> Site | None:
        """Tell where a tensor was read first; `None` if it was not."""
        for held, _, at, _ in self.entries:
            if held() is tensor:
                return _site(at)
        return None

    def model_ran(self) -> None:
        """A block resumes: what changed was changed by the model."""
        for entry, _ in self._changed():
            self._overwritten.append((entry, _OVERWRITTEN))

    def run_ended(self) -> None:
        """The model has run for the last time."""
        self.model_ran()
        for entry in self.entries[:-RECENT]:
            tensor = entry[0]()
            if tensor is not None and tensor._version != entry[1]:
                self._overwritten.append((entry, _CHANGED))

    def block_ran(self, standing: Standing | None) -> bool:
        """A block has suspended or ended: what changed was changed by the block.

        Args:
            standing: Where the model stands: an edit of the value there is in time.

        Returns:
            Whether there was such an edit.
        """
        changed = self._changed()
        if not changed:
            return False
        here = None if standing is None else (standing.key, standing.visit)
        in_time = {_storage(tensor) for entry, tensor in changed if entry[2] == here}
        for entry, tensor in changed:
            # The same memory may have been read at an earlier site as well.
            if _storage(tensor) not in in_time:
                self._complaints.setdefault(_place(entry), _TOO_LATE.format(site=_site(entry[2])))
        return bool(in_time)

    def _changed(self) -> list[tuple[Entry, torch.Tensor]]:
        changed = []
        entries = self.entries
        for index in range(max(0, len(entries) - RECENT), len(entries)):
            held, version, at, asking = entry = entries[index]
            tensor = held()
            if tensor is not None and tensor._version != version:
                entries[index] = (held, tensor._version, at, asking)
                changed.append((entry, tensor))
        return changed

    def is_quiet(self) -> bool:
        """Tell, when the model has run for the last time, that there is nothing to complain of."""
        if self._complaints or self._overwritten:
            return False
        for held, version, _, _ in self.entries:
            tensor = held()
            if tensor is not None and tensor._version != version:
                return False
        return True

    def complain(self) -> None:
        """Give the warnings, once for each line."""
        for entry, text in self._overwritten:
            place = _place(entry)
            if place not in self._complaints and _is_held(entry):
                self._complaints[place] = text.format(site=_site(entry[2]))
        complaints, self._complaints = self._complaints, {}
        self.entries, self._overwritten = [], []
        for (filename, lineno), text in complaints.items():
            warnings.warn_explicit(text, HeldValueWarning, filename, lineno)


def _site(at: tuple[Key, int]) -> Site:
    return Site(*at[0], at[1])


def _place(entry: Entry) -> tuple[str, int]:
    asking = entry[3]
    return ("<unknown>", 1) if asking is None else place_of(*asking)


def _is_held(entry: Entry) -> bool:
    """Tell whether something of the user's refers to the tensor.

    From 3.12 on, the frame in which a block has ended keeps the frames alive that it was resumed
    from, the model's among them, with their arguments. Those count as little as our own.
    """
    tensor = entry[0]()
    if tensor is None:
        return False
    code = None if entry[3] is None else entry[3][0]
    for referrer in gc.get_referrers(tensor):
        if isinstance(referrer, FrameType):
            if referrer.f_code is code:
                return True
        elif type(referrer).__name__ != "Standing" and not (
            type(referrer) is tuple and len(referrer) == 1
        ):
            return True
    return False


def _storage(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return id(tensor)
