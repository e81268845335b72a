"""The tracer of a model of transformers: weights before the run, tokens in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tracekit._vocabulary.model import ModelTracer
from tracekit.errors import PromptError

if TYPE_CHECKING:
    from tracekit._runtime.tracer import Body

    from ._tokens import Tokens


class TransformersTracer(ModelTracer):
    """Runs a block in step with a forward or a generation of a model of transformers."""

    _tokens: Tokens | None = None

    @property
    def tokens(self) -> Tokens:
        """The run's tokens: what they are, and which of them the model sees in this step.

        Raises:
            PromptError: `bad-prompt`. The run has no input yet.
        """
        if self._tokens is None:
            raise PromptError(
                "this run has no tokens yet",
                why="the inputs of a trace are known when its first value has been asked for",
                fix="ask for a value of the model first, for example model.embed.output",
            )
        return self._tokens

    def execute(self, body: Body) -> object:
        """Run *body* in step with the model; its weights are loaded first if they are not."""
        model: Any = self.model
        model.root.dispatch()
        model.root._begin_run(self)
        return super().execute(body)

    def call(self) -> Any:
        """Make the call without a block; the weights are loaded first if they are not."""
        model: Any = self.model
        model.root.dispatch()
        return super().call()

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        function, args, kwargs = super()._call()
        tokens = self._tokens
        if tokens is None or getattr(function, "__name__", "") != "generate":
            return function, args, kwargs

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            tokens.finish(result)
            return result

        return generate, args, kwargs

    def _forwards(self) -> int:
        """The number of the forward that runs now, from 0; -1 before the first."""
        run = self._current
        return -1 if run is None else run.calls("") - 1
