"""Tracers with the older names, after which only saved names are bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .._runtime.tracer import Tracer
from .._vocabulary.edits import EditingTracer as _EditingTracer
from .._vocabulary.model import ModelTracer
from .._vocabulary.session import Session
from ..hf._tracer import TransformersTracer
from ._telling import NNsightDeprecationWarning, gone, warn

_OLD_TRACER_NAMES: Final = {
    "apply": "call the function: its arguments are real tensors",
    "cond": "an ordinary `if`",
    "local": "nothing: the block runs here",
    "log": "print(...)",
    "model_inputs": "model.inputs, in the block",
    "output": "tracer.result",
}


class _KeepsTracers:
    """The part of a tracer that also binds the names of tracers: what `as` gave in the block."""

    def keeps(self) -> Callable[[str, object], bool] | None:
        """Which names are bound after the block: `None` for all of them."""
        above: Any = super()
        saved: Callable[[str, object], bool] | None = above.keeps()
        if saved is None:
            return None
        return lambda name, value: isinstance(value, Tracer) or saved(name, value)


class _OldTracer(_KeepsTracers):
    """The part of a tracer that knows the older names."""

    older_form = NNsightDeprecationWarning

    def __init__(self, *args: Any, keep: str = "saved", **kwargs: Any) -> None:
        above: Any = super()
        above.__init__(*args, keep=keep, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _OLD_TRACER_NAMES:
            raise gone(f"tracer.{name}", _OLD_TRACER_NAMES[name])
        message = f"{type(self).__name__!r} has no attribute {name!r}"
        raise AttributeError(message)


class NNsightTracer(_OldTracer, ModelTracer):
    """As `tracekit.Model` gives one, with `keep="saved"` by default."""


class NNsightTransformersTracer(_OldTracer, TransformersTracer):
    """As `tracekit.LanguageModel` gives one, with `keep="saved"` by default."""


class OldSession(_KeepsTracers, Session):
    """As `tracekit.session` gives one."""


class _Pair(tuple[Any, Any]):
    """What the `as` of an edit gets: tracer and model, also used as the model alone."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        warn("with model.edit() as edited:", "with model.edit() as (tracer, edited):")
        return getattr(self[1], name)


class EditingTracer(_EditingTracer):
    """As `tracekit.Model.edit` gives one; its `as` may be one name, the edited model."""

    older_form = NNsightDeprecationWarning

    def value(self) -> Any:
        """What the `as` target gets."""
        value = super().value()
        return _Pair(value) if isinstance(value, tuple) else value
