"""`yield from` in the twin of a user's generator.

What is delegated to yields its items there, so they go up as `Item`s, and what is sent or thrown
comes down as an answer: a value, or `Raised(error)`.
"""

from __future__ import annotations

from typing import Any

from .._protocol import END, Carrier, Item, Raised
from .attributes import get_attr
from .items import Driven, ObjectIterator, VirtualGenerator, VirtualIterator, is_virtual
from .iteration import open_iter
from .resolve import call


def delegate(obj: Any) -> Driven:
    """What `yield from obj` drives."""
    if type(obj) is VirtualGenerator and not obj.inner.gi_suspended:
        # The inner generator yields items and requests itself: no Python in between.
        inner: Driven = obj.inner
        return inner
    # One that is under way must be held: dropping it would close the inner one.
    return _delegate(obj)


def _delegate(obj: Any) -> Driven:
    iterator = yield from open_iter(obj)
    if type(iterator) is VirtualGenerator:
        return (yield from iterator.inner)
    if type(iterator) is ObjectIterator:
        return (yield from _to_object(iterator))
    if is_virtual(type(iterator)):
        return (yield from _to_lazy(iterator))
    return (yield from _to_plain(iterator))


def _to_plain(iterator: Any) -> Driven:
    """An iterator that does not suspend."""
    sent: object = None
    try:
        while True:
            try:
                if type(sent) is Raised:
                    item = _throw_into(iterator, sent.error)
                elif sent is None:
                    item = next(iterator)
                else:
                    item = iterator.send(sent)
            except StopIteration as stop:
                return stop.value
            sent = yield Item(item)
    finally:
        del sent


def _throw_into(iterator: Any, error: BaseException) -> Any:
    try:
        if isinstance(error, GeneratorExit):
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            raise error
        throw = getattr(iterator, "throw", None)
        if throw is None:
            raise error
        return throw(error)
    finally:
        del error


def _to_object(iterator: ObjectIterator) -> Driven:
    """A user's iterator, whose `send`, `throw` and `close` may suspend like its `__next__`."""
    target = iterator.target
    sent: object = None
    try:
        while True:
            try:
                if type(sent) is Raised:
                    item = yield from _throw_into_object(target, sent.error)
                elif sent is None:
                    item = yield from iterator.following()
                else:
                    item = yield from call((yield from get_attr(target, "send")), sent)
            except Carrier as carrier:
                return carrier.error.value
            sent = yield Item(item)
    finally:
        del sent


def _throw_into_object(target: Any, error: BaseException) -> Driven:
    leaves = isinstance(error, GeneratorExit)
    try:
        try:
            method = yield from get_attr(target, "close" if leaves else "throw")
        except AttributeError:
            method = None
        if leaves and method is not None:
            yield from call(method)
        if leaves or method is None:
            raise error
        return (yield from call(method, error))
    finally:
        del error


def _to_lazy(iterator: VirtualIterator) -> Driven:
    """A `map`, `zip` ...: these have no `send` and no `throw`."""
    sent: object = None
    try:
        while True:
            if type(sent) is Raised:
                raise sent.error
            if sent is not None:
                kind = iterator.__class__.__name__
                raise AttributeError(f"'{kind}' object has no attribute 'send'")
            item = yield from iterator.step()
            if item is END:
                return None
            sent = yield Item(item)
    finally:
        del sent
