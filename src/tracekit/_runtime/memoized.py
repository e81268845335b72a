"""Functions under `functools.lru_cache`, whose cache is a C object.

Two things make it reachable: the garbage collector shows the dictionary, and a hit never calls the
function. So a hit is left to the original; after a miss the function is called virtually, and the
value put into the dictionary. A bounded cache holds links of a private C type there, which nobody
can make; for those the values computed in blocks are kept beside it, by the same key and bound.
"""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

from .items import Driven
from .registry import Virtual, register
from .resolve import WAYS, call
from .special import LRU_CACHE, asks, lookup


def _cached(wrapper: Any) -> Virtual | None:
    return functools.partial(_cached_call, wrapper) if asks(wrapper) else None


WAYS[LRU_CACHE] = _cached


def _cached_call(wrapper: Any, /, *args: Any, **kwargs: Any) -> Driven:
    parameters = wrapper.cache_parameters()
    maxsize, typed = parameters["maxsize"], parameters["typed"]
    if maxsize == 0:
        return (yield from call(wrapper.__wrapped__, *args, **kwargs))
    referents = gc.get_referents(wrapper)
    mark = next((x for x in referents if type(x) is object), None)
    key = _cache_key(mark, args, kwargs, typed=typed)
    own = wrapper.__dict__
    cache = next((x for x in referents if type(x) is dict and x is not own), None)
    if cache is not None and key in cache:
        return wrapper(*args, **kwargs)
    beside = _BESIDE.setdefault(wrapper, {})
    if key in beside:
        beside[key] = value = beside.pop(key)
        return value
    value = yield from call(wrapper.__wrapped__, *args, **kwargs)
    if maxsize is None and cache is not None:
        cache[key] = value
    else:
        beside[key] = value
        if maxsize is not None and len(beside) > maxsize:
            del beside[next(iter(beside))]
    return value


_BESIDE: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
"""Function under a bounded cache -> what blocks have computed for it."""


def _cache_key(mark: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, typed: bool) -> Any:
    if not typed and not kwargs and len(args) == 1 and type(args[0]) in (int, str):
        return args[0]
    key = args
    if kwargs:
        key += (mark,)
        for item in kwargs.items():
            key += item
    if typed:
        key += tuple(type(value) for value in args)
        key += tuple(type(value) for value in kwargs.values())
    return key


def _cache_clear(wrapper: Any) -> Driven:
    _BESIDE.pop(wrapper, None)
    wrapper.cache_clear()
    return None
    yield


def _clears(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return True


register(lookup(LRU_CACHE, "cache_clear"), _cache_clear, when=_clears)
