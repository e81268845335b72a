"""Modules of older versions, for `from tracekit.nnsight.intervention.envoy import Envoy`.

There are no such files. A name of theirs is the one of the door, or refused as there.
"""

from __future__ import annotations

import sys
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any, Final

from torch import nn

from .._bytecode.cut import is_from_import
from ..errors import OutOfOrderError
from ._telling import gone

DOOR: Final = __name__.rpartition(".")[0]

_WITHIN: Final = {
    "": "envoy intervention modeling models ndif tracing util",
    "intervention": "aliasing backends backward barrier batching cache editing envoy eproperty "
    "errors fragments hooks interleaver iterator serialization source tracer tracing util",
    "intervention.backends": "base display editing execution local remote",
    "intervention.tracing": "backwards base editing globals invoker iterator tracer util",
    "modeling": "base diffusion huggingface language mixins peft processing quantization "
    "transformers vllm vlm",
    "models": "DiffusionModel LanguageModel NNsightModel UnifiedTransformer",
    "tracing": "backend backends contexts globals graph hint tracer util",
}
"""Of a module, by its name below the door, the modules in it; of all versions."""


_HERE_ONLY: Final = "run the model on this machine: it is not sent anywhere"
_SAVE: Final = "an ordinary Python value, and `.save()` on it"
OLD_NAMES: Final = {
    "DiffusionModel": "nnsight.NNsight(pipeline.unet), and trace one call of it",
    "ExceptionWrapper": "except the error itself: it has its own class and the lines of the block",
    "UnifiedTransformer": "tracekit.LanguageModel, with model.layers[i].attn and .mlp",
    "VLLM": "nnsight.LanguageModel",
    "apply": "call the function: in a block values are real tensors",
    "bool": _SAVE,
    "compare": _HERE_ONLY,
    "cond": "an ordinary `if`",
    "dict": _SAVE,
    "float": _SAVE,
    "int": _SAVE,
    "is_model_running": _HERE_ONLY,
    "iter": "an ordinary `for` loop",
    "list": _SAVE,
    "local": "nothing: the block runs here",
    "log": "print(...)",
    "login": _HERE_ONLY,
    "ndif_status": _HERE_ONLY,
    "register": _HERE_ONLY,
    "requires_input": 'nnsight.eproperty(key="input")',
    "requires_output": 'nnsight.eproperty(key="output")',
    "set": _SAVE,
    "status": _HERE_ONLY,
    "stop": "tracer.stop()",
    "str": _SAVE,
    "trace": "an ordinary function, called in the block",
    "tuple": _SAVE,
    "whoami": _HERE_ONLY,
}
"""Names without a counterpart, and what to write instead."""


class WrapperModule(nn.Module):
    """Gives what it is given: a place in a model at which a value can be read and changed."""

    def forward(self, *values: Any) -> Any:
        """Give one value as it is, several as a tuple."""
        return values[0] if len(values) == 1 else values


_MORE: Final[dict[str, Any]] = {
    "Mediator": SimpleNamespace(OutOfOrderError=OutOfOrderError),
    "WrapperModule": WrapperModule,
}


class OldPlace(ModuleType):
    """One of those modules."""

    def __getattr__(self, name: str) -> Any:
        return lookup(self.__name__, name, sys._getframe(1))


def lookup(module: str, name: str, frame: FrameType) -> Any:
    """Find what a name of an older module means.

    Args:
        module: The module; it has no such name itself.
        name: The name.
        frame: Who asks.

    Raises:
        OldNameError: `old-name`. It has no counterpart. From an `import`, an `ImportError` with
            the same text: an `AttributeError` would be replaced there by one without it.
    """
    inner = sys.modules.get(f"{module}.{name}")
    if inner is not None:
        return inner
    door = sys.modules[DOOR]
    if name in _MORE or name in door.__all__:
        return _MORE[name] if name in _MORE else getattr(door, name)
    fix = OLD_NAMES.get(name)
    if fix is None:
        message = f"module {module!r} has no attribute {name!r}"
        raise AttributeError(message)
    error = gone(f"nnsight.{name}", fix)
    if is_from_import(frame.f_code, frame.f_lasti):
        raise ImportError(str(error), name=module)
    raise error


def put() -> None:
    """Make the modules known to `import`."""
    for above, names in _WITHIN.items():
        for name in names.split():
            path = ".".join(filter(None, (DOOR, above, name)))
            module = OldPlace(path, "A module of older versions; its names are those of the door.")
            module.__path__ = []
            sys.modules[path] = module
