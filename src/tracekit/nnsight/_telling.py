"""What an older script is told, and how its calls are read."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

from ..errors import OldNameError


class NNsightDeprecationWarning(FutureWarning):
    """An older name was used that has a better one now; the text says which."""


NNsightDeprecationWarning.__module__ = "tracekit.nnsight"


def warn(old: str, new: str) -> None:
    """Warn at the line of the script, wherever that is below the frames of this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tracekit"):
        frame = frame.f_back
    text = f"{old} is an older name: write {new}"
    if frame is None:
        warnings.warn(text, NNsightDeprecationWarning, stacklevel=1)
        return
    warnings.warn_explicit(
        text, NNsightDeprecationWarning, frame.f_code.co_filename, frame.f_lineno
    )


def gone(name: str, fix: str, why: str = "") -> OldNameError:
    return OldNameError(f"`{name}` is an older name that has no counterpart here", why=why, fix=fix)


def options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out the options of older calls that are no argument of the model.

    Raises:
        OldNameError: `old-name`. One that cannot be honoured.
    """
    if kwargs.pop("remote", None):
        raise gone(
            "remote=",
            "run it on this machine: leave `remote=` out",
            "this door opens models on this machine only",
        )
    for name in ("blocking", "job_id"):
        kwargs.pop(name, None)
    if "invoker_args" in kwargs:
        raise gone("invoker_args=", "give the options to trace() or invoke() themselves")
    if "scan" in kwargs:
        warn("trace(..., scan=True)", "trace(..., validate=True)")
        kwargs["validate"] = kwargs.pop("scan") or kwargs.get("validate", False)
    return kwargs
