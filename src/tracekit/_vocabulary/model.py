"""The public wrapper of any module: the base, and the words that stand on a run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from .._interleave.site import spell
from .._protocol import suspending
from .._runtime.tracer import Backend
from .._torch.base import Traceable
from .._torch.tracers import InterleavingTracer
from .._torch.tree import Node
from . import gradients  # noqa: F401 - serves `with loss.backward():` in blocks
from .cache import CachingTracer
from .display import DisplayedModel, DisplayedTracer
from .edits import Editable, adopt
from .served import Wrappers, checked
from .session import InSession, Session
from .source import SourceAttribute
from .steps import StepLoop, Steps, _go_on, go_on

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from .._torch.run import Run


class ModelTracer(DisplayedTracer, InSession, CachingTracer, InterleavingTracer):
    """Runs a block in step with one call of a model; what `model.trace(...)` gives.

    Attributes:
        scanning: The block runs on shapes now: tensors of floats have no values.
        validating: It does so before it runs for real.
    """

    scanning = False
    validating = False
    _assumed: frozenset[tuple[str, str]] | set[tuple[str, str]] = frozenset()

    @property
    def iter(self) -> Steps:
        """The run's steps: `for step in tracer.iter[2:]`.

        Where the traced call calls the model several times, as generation does, step n is its
        n-th call; elsewhere step n is visit n of whatever the loop's body asks for.
        """
        return Steps(self)

    def all(self) -> StepLoop:
        """All steps; the same as `iter[:]`."""
        return self.iter[:]

    def next(self, steps: int = 1) -> Self:
        """Make what is asked for from here on a matter of a later step.

        Args:
            steps: How many steps further.

        Returns:
            The tracer.
        """
        go_on(self, steps)
        return self

    def explain(self) -> str:
        """Tell what was cut, what is rewritten in it and refused, and which axes were assumed.

        Returns:
            Several lines. Where fake runs of the model fail, rows of several inputs are taken
            to lie along axis 0; these sites are listed last.
        """
        text = super().explain()
        sites = [site for site in self.visited if (site.path, site.port) in self._assumed]
        if not sites:
            return text
        names = ", ".join(dict.fromkeys(spell(site.path, site.port) for site in sites))
        return f"{text}\n  assumed   rows along axis 0, as the model cannot be scanned: {names}"

    def _start_invokes(
        self, function: Callable[..., Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        started = super()._start_invokes(function)
        assert self.model is not None
        self._assumed = self.model._batch_rules().assumed
        return started

    def _step_path(self, run: Run) -> str | None:
        """The module whose calls are the steps; `None`: each site counts its own visits."""
        model = self.model
        assert model is not None
        return model._path if run.once is None else None


@suspending(ModelTracer.next)
def _tracer_next(self: ModelTracer, steps: int = 1) -> Any:
    return (yield from _go_on(self, steps))


class Model(Editable, DisplayedModel, Traceable):
    """A wrapped `torch.nn.Module`, whose internal values can be read and changed in a block.

    Wrapping changes nothing: no hook is installed, and a call of the wrapper is a call of the
    module.

    Args:
        module: Any module.
        rename: Further names for modules: `{path, pattern or class: name or names}`.
        validate: Scan each block before it runs; see `trace`.
        wrappers: Classes of nodes for some modules: `{module class or path pattern: class}`, or
            one class for all below the model. Types go first, then patterns in their order.

    Example:
        >>> import torch
        >>> model = Model(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
        >>> with model.trace(torch.ones(1, 2)):
        ...     hidden = model[0].output
        >>> hidden.shape
        torch.Size([1, 2])
    """

    tracer_class = ModelTracer
    source = SourceAttribute()

    @classmethod
    def _child_class(cls) -> type[Node]:
        return Model

    def __init__(
        self,
        module: nn.Module,
        *,
        rename: dict[Any, str | list[str]] | None = None,
        validate: bool = False,
        wrappers: Wrappers | None = None,
    ) -> None:
        super().__init__(module, rename=rename)
        adopt(self._tree)
        if wrappers is not None:
            self.use_wrappers(wrappers)
        if validate:
            self._tree.validates = True

    @classmethod
    def from_transformers(cls, auto_class: Any, model: Any, **options: Any) -> Any:
        """Wrap a model of transformers with any task's head.

        Equivalent to `tracekit.hf.TransformersModel(model, auto=auto_class, **options)`.

        Args:
            auto_class: A class of transformers with `from_pretrained`, or its name, such as
                `"AutoModelForSequenceClassification"`.
            model: A folder, or a name on the Hugging Face hub.
            options: As `TransformersModel` takes them: `tokenizer`, `processor`, `dispatch`, and
                those of `from_pretrained`.

        Returns:
            The wrapped model; its weights are loaded by the first run.

        Raises:
            ModelNotFoundError: `model-not-found`. No such folder, or no such name on the hub.
            WrongModelClassError: `wrong-model-class`. transformers has no such class.
        """
        # The one look upwards, by name: nothing of transformers is imported before it is called.
        return import_module("tracekit.hf").TransformersModel(model, auto=auto_class, **options)

    def use_wrappers(self, wrappers: Wrappers) -> Self:
        """Make the nodes of some modules of other classes, with served values of their own.

        Args:
            wrappers: As for the class. Nodes that were handed out before stay what they are.

        Returns:
            This node.
        """
        self._tree.wrappers = {**self._tree.wrappers, **checked(wrappers)}
        self._tree.nodes.clear()
        self._tree.nodes[self._path] = self
        self._nodes.clear()
        self._reached.clear()
        return self

    def session(self, *, backend: Backend | None = None, keep: str = "all") -> Session:
        """Open a block of several traces: `with model.session(): ...`.

        Args:
            backend: What runs the block.
            keep: `"saved"`: only what was saved in the block is bound after it.
        """
        return Session(backend=backend, keep=keep)

    def trace(
        self,
        *args: Any,
        validate: bool | None = None,
        progress: bool | None = None,
        tracer_cls: type[InterleavingTracer] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Give a tracer: `with model.trace(x) as tracer:` runs the block in step with a call.

        Args:
            *args: Given to the call.
            validate: Scan first: a mistake in shape, dtype or device is found before the model
                runs. By default as `Model(..., validate=)` says, which is no.
            progress: Show a bar of the steps where the call runs the model several times, of the
                inputs where they need several runs. By default in a terminal or a notebook, when
                it has taken some seconds.
            tracer_cls: A subclass of `InterleavingTracer`.
            **kwargs: Given to the call; see the base class for those that are not.

        Returns:
            The tracer, or with `trace=False` what the call returned.
        """
        validates = self._called[0].validates
        if not (kwargs or validate or progress or validates or tracer_cls is not None):
            return self.tracer_class(None, self, *args)
        if validate if validate is not None else validates:
            from .scan import validating_class

            tracer_cls = validating_class(tracer_cls or self.tracer_class)
        if progress or (progress is None and ("fn" in kwargs or "max_rows" in kwargs)):
            from .progress import wanted, watched_class

            if wanted(progress):
                tracer_cls = watched_class(tracer_cls or self.tracer_class)
                tracer = super().trace(*args, tracer_cls=tracer_cls, **kwargs)
                if kwargs.get("trace", True):
                    tracer.progress = progress
                return tracer
        return super().trace(*args, tracer_cls=tracer_cls, **kwargs)

    def scan(self, *args: Any, device: torch.device | str | None = None, **kwargs: Any) -> Any:
        """Give a tracer that runs block and model on shapes: no weight is loaded or read.

        Equivalent to `trace`, except that floating-point tensors have a shape, dtype and device,
        and no values. Its `report()` forecasts memory.

        Args:
            *args: Given to the call.
            device: Where model and inputs are taken to be; it need not exist here. By default
                where they are, and weights that are not loaded where they will be.
            **kwargs: Given to the call; those of `trace` as there.
        """
        from .scan import scanning_class

        cls = scanning_class(kwargs.pop("tracer_cls", None) or self.tracer_class)
        call = kwargs.pop("trace", True)
        tracer = super().trace(*args, tracer_cls=cls, **kwargs)
        tracer.device = device
        return tracer if call else tracer.call()

    @property
    def iter(self) -> Steps:
        """This module's calls as steps: `for call in model.cell.iter[:]`."""
        return Steps(self)

    def all(self) -> StepLoop:
        """All calls of this module; the same as `iter[:]`."""
        return self.iter[:]

    def next(self, steps: int = 1) -> Self:
        """Make what is asked for from here on a matter of a later call of this module.

        Args:
            steps: How many calls further.

        Returns:
            This node.
        """
        go_on(self, steps)
        return self

    def _step_path(self, _run: Run) -> str:
        return self._path


@suspending(Model.next)
def _model_next(self: Model, steps: int = 1) -> Any:
    return (yield from _go_on(self, steps))
