"""The door for older scripts: `import tracekit.nnsight as nnsight`.

Scripts written for nnsight 0.5 to 0.8 run with this name in place of that package. What is
different from the rest of tracekit:

* `keep="saved"` is the default: after a block only those names are bound that were saved in it.
* The names of all those versions are there. Each works, or raises an `OldNameError` that says what
  to write instead; names that have a better one warn with `NNsightDeprecationWarning`.
* `model.generate(...)` and any other method of the model are a tracer in a `with` line, and a call
  elsewhere. Which of the two it is stands in the calling frame's bytecode.

Not here: `with loss.backward():` outside of a traced block, because torch is patched nowhere; that
is `with nnsight.backward(loss):`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

import torch

from .._runtime.saving import save
from .._runtime.tracer import Backend, Tracer
from .._torch.tracers import InterleavingTracer, Invoker
from .._vocabulary.cache import Cache
from .._vocabulary.gradients import BackwardsTracer, BackwardTracer, backward
from .._vocabulary.recorded import CacheDict, Entry
from .._vocabulary.session import Session
from ..errors import OutOfOrderError, WithBlockNotFoundError
from ._oldmodels import LanguageModel, TransformersModel, VisionLanguageModel
from ._oldnodes import Envoy, NNsight
from ._oldtracers import EditingTracer, OldSession
from ._oldviews import eproperty
from ._telling import NNsightDeprecationWarning, gone, options

__version__ = "0.8.1"  # the last version whose scripts are meant

Object = torch.Tensor
"""The older type hint of a value that is read in a block."""


def session(backend: Backend | None = None, **kwargs: Any) -> Session:
    """Open a block of several traces of any models.

    Args:
        backend: What runs the block.
        **kwargs: Older options; `keep=`.
    """
    return OldSession(backend=backend, keep=kwargs.pop("keep", "saved"), **options(kwargs))


class _Config(SimpleNamespace):
    """Settings of older versions: they can be set and read, and change nothing."""

    def set_default_api_key(self, key: str) -> None:
        """Note a key."""
        self.API.APIKEY = key

    def set_default_app_debug(self, value: bool) -> None:
        """Note a setting."""
        self.APP.DEBUG = value

    def save(self) -> None:
        """Do nothing: there is no file of settings."""


CONFIG: Final = _Config(
    API=SimpleNamespace(HOST="", APIKEY=None, COMPRESS=True),
    APP=SimpleNamespace(
        CACHE_DIR="",
        CROSS_INVOKER=True,
        DEBUG=False,
        DISABLE_CPP_BACKTRACE=True,
        PYMOUNT=False,
        REMOTE_LOGGING=False,
        TRACE_CACHING=True,
    ),
)

_HERE_ONLY: Final = "run the model on this machine: it is not sent anywhere"
_SAVE: Final = "an ordinary Python value, and `.save()` on it"
_OLD_NAMES: Final = {
    "DiffusionModel": "nnsight.NNsight(pipeline.unet), and trace one call of it",
    "ExceptionWrapper": "except the error itself: it has its own class and the lines of the block",
    "Mediator": "the errors are nnsight.OutOfOrderError and tracekit.NeverRanError",
    "UnifiedTransformer": "tracekit.LanguageModel, with model.layers[i].attn and .mlp",
    "VLLM": "nnsight.LanguageModel",
    "apply": "call the function: in a block values are real tensors",
    "bool": _SAVE,
    "compare": _HERE_ONLY,
    "cond": "an ordinary `if`",
    "dict": _SAVE,
    "float": _SAVE,
    "int": _SAVE,
    "intervention": "import the class from here: nnsight.Envoy, nnsight.Tracer, nnsight.Cache, ...",
    "is_model_running": _HERE_ONLY,
    "iter": "an ordinary `for` loop",
    "list": _SAVE,
    "local": "nothing: the block runs here",
    "log": "print(...)",
    "login": _HERE_ONLY,
    "modeling": "import the class from here: nnsight.LanguageModel, nnsight.TransformersModel",
    "models": "import the class from here: nnsight.LanguageModel, nnsight.NNsight",
    "ndif": _HERE_ONLY,
    "ndif_status": _HERE_ONLY,
    "register": _HERE_ONLY,
    "requires_input": 'nnsight.eproperty(key="input")',
    "requires_output": 'nnsight.eproperty(key="output")',
    "set": _SAVE,
    "status": _HERE_ONLY,
    "stop": "tracer.stop()",
    "str": _SAVE,
    "trace": "an ordinary function, called in the block",
    "tracing": "import the class from here: nnsight.Tracer, nnsight.InterleavingTracer, ...",
    "tuple": _SAVE,
    "util": "torch.utils._pytree.tree_map in place of util.apply",
    "whoami": _HERE_ONLY,
}

__all__ = (
    "CONFIG",
    "Backend",
    "BackwardTracer",
    "BackwardsTracer",
    "Cache",
    "CacheDict",
    "EditingTracer",
    "Entry",
    "Envoy",
    "InterleavingTracer",
    "Invoker",
    "LanguageModel",
    "NNsight",
    "NNsightDeprecationWarning",
    "Object",
    "OutOfOrderError",
    "Tracer",
    "TransformersModel",
    "VisionLanguageModel",
    "WithBlockNotFoundError",
    "backward",
    "eproperty",
    "save",
    "session",
)


def __getattr__(name: str) -> Any:
    if name in _OLD_NAMES:
        raise gone(f"nnsight.{name}", _OLD_NAMES[name])
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
