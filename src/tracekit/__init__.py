"""See into PyTorch models: read and change internal values from ordinary Python.

Names are loaded on first use. Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors see; kept equal to _HOMES by a test
    from ._runtime.saving import save as save
    from ._runtime.skip import release as release
    from ._runtime.tracer import Backend as Backend
    from ._runtime.tracer import Tracer as Tracer
    from ._runtime.twins import never_asks as never_asks
    from ._runtime.twins import touches_models as touches_models
    from ._vocabulary.cache import Cache as Cache
    from ._vocabulary.edits import Edit as Edit
    from ._vocabulary.gradients import backward as backward
    from ._vocabulary.model import Model as Model
    from ._vocabulary.recorded import CacheDict as CacheDict
    from ._vocabulary.recorded import Entry as Entry
    from ._vocabulary.served import served as served
    from ._vocabulary.session import session as session
    from .errors import AlreadyEnteredError as AlreadyEnteredError
    from .errors import AsyncWithError as AsyncWithError
    from .errors import BatchAxisError as BatchAxisError
    from .errors import CannotJoinError as CannotJoinError
    from .errors import CannotSkipError as CannotSkipError
    from .errors import CannotSuspendError as CannotSuspendError
    from .errors import CheckpointedWriteError as CheckpointedWriteError
    from .errors import DevicesDifferError as DevicesDifferError
    from .errors import DoubleBosWarning as DoubleBosWarning
    from .errors import ExitTracingException as ExitTracingException
    from .errors import FirstRowWarning as FirstRowWarning
    from .errors import GatedModelError as GatedModelError
    from .errors import GenerateOnlyError as GenerateOnlyError
    from .errors import HeldValueWarning as HeldValueWarning
    from .errors import HubUnreachableError as HubUnreachableError
    from .errors import InternalError as InternalError
    from .errors import InvokeError as InvokeError
    from .errors import LeavesBlockError as LeavesBlockError
    from .errors import MixedInputsError as MixedInputsError
    from .errors import ModelNotFoundError as ModelNotFoundError
    from .errors import NamesNotRestorableError as NamesNotRestorableError
    from .errors import NeverRanError as NeverRanError
    from .errors import NoAttentionWeightsError as NoAttentionWeightsError
    from .errors import NoGradientError as NoGradientError
    from .errors import NoStandardNameError as NoStandardNameError
    from .errors import NotCachedError as NotCachedError
    from .errors import NoTokenizerError as NoTokenizerError
    from .errors import NotRunningError as NotRunningError
    from .errors import OldNameError as OldNameError
    from .errors import OutOfOrderError as OutOfOrderError
    from .errors import PromptError as PromptError
    from .errors import RowsMismatchError as RowsMismatchError
    from .errors import ScanDeviceError as ScanDeviceError
    from .errors import ScanMismatchError as ScanMismatchError
    from .errors import SkeletonWarning as SkeletonWarning
    from .errors import SourceNotAvailableError as SourceNotAvailableError
    from .errors import StepsWarning as StepsWarning
    from .errors import TraceError as TraceError
    from .errors import TracekitError as TracekitError
    from .errors import UnknownNameError as UnknownNameError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import UnsupportedGenerationError as UnsupportedGenerationError
    from .errors import UnsupportedModuleError as UnsupportedModuleError
    from .errors import UnsupportedPythonError as UnsupportedPythonError
    from .errors import ValueNotKnownError as ValueNotKnownError
    from .errors import WaitError as WaitError
    from .errors import WeightsNotLoadedError as WeightsNotLoadedError
    from .errors import WithBlockNotFoundError as WithBlockNotFoundError
    from .errors import WrongModelClassError as WrongModelClassError
    from .hf import LanguageModel as LanguageModel

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use, because importing any submodule runs this
# file, and the lower floors must stay importable where torch is not installed.
_HOMES = {
    "AlreadyEnteredError": ".errors",
    "AsyncWithError": ".errors",
    "Backend": "._runtime.tracer",
    "BatchAxisError": ".errors",
    "Cache": "._vocabulary.cache",
    "CacheDict": "._vocabulary.recorded",
    "CannotJoinError": ".errors",
    "CannotSkipError": ".errors",
    "CannotSuspendError": ".errors",
    "DevicesDifferError": ".errors",
    "DoubleBosWarning": ".errors",
    "Edit": "._vocabulary.edits",
    "Entry": "._vocabulary.recorded",
    "ExitTracingException": ".errors",
    "FirstRowWarning": ".errors",
    "GatedModelError": ".errors",
    "GenerateOnlyError": ".errors",
    "HeldValueWarning": ".errors",
    "HubUnreachableError": ".errors",
    "InternalError": ".errors",
    "InvokeError": ".errors",
    "LanguageModel": ".hf",
    "LeavesBlockError": ".errors",
    "MixedInputsError": ".errors",
    "Model": "._vocabulary.model",
    "ModelNotFoundError": ".errors",
    "NamesNotRestorableError": ".errors",
    "NeverRanError": ".errors",
    "NoAttentionWeightsError": ".errors",
    "NoGradientError": ".errors",
    "NoStandardNameError": ".errors",
    "NoTokenizerError": ".errors",
    "NotCachedError": ".errors",
    "NotRunningError": ".errors",
    "OldNameError": ".errors",
    "OutOfOrderError": ".errors",
    "PromptError": ".errors",
    "RowsMismatchError": ".errors",
    "ScanDeviceError": ".errors",
    "ScanMismatchError": ".errors",
    "SkeletonWarning": ".errors",
    "SourceNotAvailableError": ".errors",
    "StepsWarning": ".errors",
    "TraceError": ".errors",
    "TracekitError": ".errors",
    "Tracer": "._runtime.tracer",
    "UnknownNameError": ".errors",
    "UnsupportedError": ".errors",
    "UnsupportedGenerationError": ".errors",
    "CheckpointedWriteError": ".errors",
    "UnsupportedModuleError": ".errors",
    "UnsupportedPythonError": ".errors",
    "ValueNotKnownError": ".errors",
    "WaitError": ".errors",
    "WeightsNotLoadedError": ".errors",
    "WithBlockNotFoundError": ".errors",
    "WrongModelClassError": ".errors",
    "backward": "._vocabulary.gradients",
    "never_asks": "._runtime.twins",
    "release": "._runtime.skip",
    "save": "._runtime.saving",
    "served": "._vocabulary.served",
    "session": "._vocabulary.session",
    "touches_models": "._runtime.twins",
}
__all__ = tuple(_HOMES)  # the list above is the only one


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message) from None
    value: object = getattr(import_module(home, __name__), name)
    if getattr(value, "__module__", "").startswith(f"{__name__}."):
        # The home of a name is private, its address is public.
        value.__module__ = __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
