"""The tracer of a model of transformers: weights before the run, tokens in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from tracekit._runtime.tracebacks import add_note_once
from tracekit._torch.tracers import Invoker
from tracekit._vocabulary.model import ModelTracer
from tracekit.errors import PromptError

from ._prompts import Prompt, rows_of
from ._weights import keeps_no_weights

if TYPE_CHECKING:
    from tracekit._torch.base import Traceable
    from tracekit._torch.run import Run

    from ._tokens import Tokens

_DEVICES_DIFFER: Final = (
    "on the same device",
    "on the expected device",
    "found two different devices",
)
"""What torch says of an operation that mixes devices."""

_ONCE: Final = ("streamer",)
"""Options of a generation that only the real run may see, not the fake ones that learn axes."""


def _no_tokens() -> PromptError:
    return PromptError(
        "this run has no tokens yet",
        why="the inputs of invokes are laid out when all of them are known",
        fix="ask inside the block of an invoke",
    )


class TransformersInvoker(Invoker):
    """One prompt of a run with several, and the block that sees its rows."""

    _tokens: Tokens | None = None

    @property
    def tokens(self) -> Tokens:
        """The tokens of this prompt: what they are, and which the model sees in this step.

        Raises:
            PromptError: `bad-prompt`. The run has not begun.
        """
        if self._tokens is None:
            raise _no_tokens()
        return self._tokens


class TransformersTracer(ModelTracer):
    """Runs a block in step with a forward or a generation of a model of transformers."""

    _tokens: Tokens | None = None
    _common: dict[str, Any]
    """Options given to the trace, for all its invokes."""

    @property
    def tokens(self) -> Tokens:
        """The run's tokens: what they are, and which of them the model sees in this step.

        Raises:
            PromptError: `bad-prompt`. The run has no input yet.
        """
        if self._tokens is None:
            raise _no_tokens()
        return self._tokens

    def invoke(self, *args: Any, **kwargs: Any) -> TransformersInvoker:
        """Give a prompt its own block: `with tracer.invoke("text"): ...`.

        Args:
            *args: The prompt, as for `trace`; none: the block sees the rows of all.
            **kwargs: Labels, masks and options, as for `trace`.
        """
        return TransformersInvoker(self, *args, **kwargs)

    def _ready(self) -> None:
        # The weights are loaded first if they are not.
        model: Any = self.model
        self._common = {}
        whole = model._whole
        if not self.scanning:
            whole.dispatch()
        whole._begin_run(self)

    def _explain(self, error: BaseException) -> None:
        model: Any = self.model
        if isinstance(error, TypeError | AttributeError):
            self._explain_missing_weights(error, model._whole)
        elif isinstance(error, RuntimeError) and any(
            text in str(error) for text in _DEVICES_DIFFER
        ):
            add_note_once(
                error,
                "each value is on the device of the part of the model that it comes from; "
                "move one to the other: `x.to(hidden.device)`",
            )

    def _explain_missing_weights(self, error: Exception, whole: Any) -> None:
        """Say of an error about `None` that attention weights are what may be missing."""
        fused = keeps_no_weights(whole._module)
        if not fused or "NoneType" not in str(error):
            return
        with_weights = {"", *whole._attentions()}
        if any(site.port == "output" and site.path in with_weights for site in self.visited):
            add_note_once(
                error,
                f"attention weights are None under the attention implementation {fused!r}; to have "
                'them: model.set_attn_implementation("eager"), then `attn.pattern` under a '
                "standard name, or output_attentions=True",
            )

    def call(self) -> Any:
        """Make the call without a block; the weights are loaded first if they are not."""
        model: Any = self.model
        self._common = {}
        model._whole.dispatch()
        return super().call()

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        function, args, kwargs = super()._call()
        kwargs = {**self._common, **kwargs}
        tokens = self._tokens
        if tokens is None or getattr(function, "__name__", "") != "generate":
            return function, args, kwargs

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            tokens.finish(result)
            return result

        return generate, args, kwargs

    def _next_group(self, model: Traceable) -> Sequence[Invoker]:
        whole: Any = model._whole
        options = {key: value for key, value in self._common.items() if key not in _ONCE}
        for each in self._invokes:
            if each.has_input and not (each.args and isinstance(each.args[0], Prompt)):
                prompt = whole._read(each.args, each.kwargs)
                prompt.options = {**options, **prompt.options}
                each.args, each.kwargs = (prompt,), {}
        started = super()._next_group(model)
        given = [each for each in started if each.has_input]
        prompts = [each.args[0] for each in given]
        if prompts:
            merged = whole._reader.merge(prompts, generating=self.fn == "generate")
            self._tokens = whole._count_tokens(merged, self)
        for each, rows in zip(given, rows_of(prompts), strict=True):
            if self._tokens is not None and isinstance(each, TransformersInvoker):
                each._tokens = self._tokens.rows(rows)
        return started

    def _forwards(self) -> int:
        """The number of the forward that runs now, from 0; -1 before the first."""
        run, model = self._current, self.model
        if run is None or model is None:
            return -1
        whole: Any = model._whole
        return run.calls(whole._called_in_generate() if self._generates() else "") - 1

    def _step_path(self, run: Run) -> str | None:
        path = super()._step_path(run)
        if path != "":
            return path
        model: Any = self.model
        called: str = model._whole._called_in_generate()
        return called
