"""Served values as older scripts write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self

from .._interleave.requests import View, Write
from .._protocol import ask
from .._vocabulary.served import Served, watch_copies
from ._telling import gone


class eproperty(Served):  # noqa: N801 - the older name
    """A served value of an `Envoy` subclass, as older scripts write it.

    Equivalent to `tracekit.served`, except that for `key="input"` the view is made of the pair
    `(args, kwargs)`, and that what is assigned goes through `postprocess`, while an edited view
    goes back through `transform`.

    Args:
        key: `"output"` or `"input"`; or, without parentheses, the method.
        description: What `print(model)` says of it.
    """

    def __init__(self, key: Any = None, description: str | None = None) -> None:
        self._description = description
        self._key = key
        self._transform: Callable[..., Any] | None = None
        self._post: Callable[..., Any] | None = None
        self._pre: Callable[..., Any] | None = None
        if callable(key):
            self._key = None
            self(key)

    def __call__(self, stub: Callable[..., Any]) -> Self:
        """Take the method that makes the view."""
        key = self._key or stub.__name__
        if key not in ("output", "input", "inputs"):
            raise gone(
                f"eproperty(key={key!r})",
                "@tracekit.served(...) on a view of a module's output or input",
                "values are served where modules and operations begin and end",
            )
        if len(inspect.signature(stub).parameters) > 1:
            self._pre = stub
        super().__init__("output" if key == "output" else "inputs", stub)
        self.doc = self._description or stub.__doc__ or ""
        return self

    def preprocess(self, function: Callable[..., Any]) -> Self:
        """Say how the view is made, in the words of 0.7."""
        self._pre = function
        return self

    def postprocess(self, function: Callable[..., Any]) -> Self:
        """Say what is done to an assigned value: it gives the port's value."""
        self._post = function
        return self

    def transform(self, function: Callable[..., Any]) -> Self:
        """Say how an edited view goes back; takes the view and, since 0.8, the port's value."""
        self._transform = function
        return self

    def provide(self, obj: Any, value: Any) -> Any:
        """Serve a value from the model's side, in older versions.

        Raises:
            OldNameError: `old-name`. Always.
        """
        raise gone("eproperty.provide", "a module of its own in the model, whose output it is")

    def _view(self, node: Any) -> View:
        return View(
            self.name, lambda whole: self._made(node, whole), self._edited(node), self._watch
        )

    @property
    def _watch(self) -> Any:
        return None if self._transform is None else watch_copies

    def _made(self, node: Any, whole: Any) -> Any:
        return whole if self._pre is None else self._pre(node, whole)

    def _edited(self, node: Any) -> Callable[[Any, Any], Any]:
        def put(whole: Any, view: Any) -> Any:
            function = self._transform
            assert function is not None
            takes = len(inspect.signature(function).parameters)
            return function(node, view, whole) if takes > 2 else function(node, view)

        return put

    def _assigned(self, node: Any) -> View:
        post = self._post

        def put(_whole: Any, value: Any) -> Any:
            return value if post is None else post(node, value)

        return View(self.name, lambda whole: self._made(node, whole), put)

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Suspend until the model stands at the site; replace the port's value."""
        owner, path = obj._site_owner()
        yield from ask(Write(owner, path, self.port, value, self._assigned(obj)))
