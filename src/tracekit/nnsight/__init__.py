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

import sys
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
from ._oldplaces import lookup, put
from ._oldtracers import EditingTracer, OldSession
from ._oldviews import eproperty
from ._telling import NNsightDeprecationWarning, options

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


put()


def __getattr__(name: str) -> Any:
    return lookup(__name__, name, sys._getframe(1))
