"""Models of transformers: from a name or a folder to a traced generation.

`LanguageModel` generates text; `TransformersModel` is for every other class. Importing this
package is what loads transformers.
"""

from __future__ import annotations

from . import _caches as _caches
from ._experts import Routing
from ._model import LanguageModel, TransformersModel
from ._names import Anatomy, Sizes
from ._tokens import Tokens

__all__ = ("Anatomy", "LanguageModel", "Routing", "Sizes", "Tokens", "TransformersModel")
