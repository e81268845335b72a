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

# This file is long because one page of names is read more easily than several.

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import nn

from ._bytecode.cut import decode, is_with_entry
from ._interleave.requests import Read, View, Write
from ._protocol import ask, suspending
from ._runtime.saving import save
from ._runtime.tracer import Backend, Tracer
from ._runtime.twins import ORIGINALS
from ._torch import hooks
from ._torch.tracers import InterleavingTracer, Invoker
from ._torch.tree import Node, Port, _Method
from ._vocabulary.cache import Cache
from ._vocabulary.edits import EditingTracer as _EditingTracer
from ._vocabulary.gradients import BackwardsTracer, BackwardTracer, backward
from ._vocabulary.model import Model, ModelTracer
from ._vocabulary.recorded import CacheDict, Entry
from ._vocabulary.served import Served, _watch
from ._vocabulary.session import Session
from ._vocabulary.steps import StepLoop, Steps, _go_on, go_on
from .errors import (
    NotRunningError,
    OldNameError,
    OutOfOrderError,
    WithBlockNotFoundError,
)
from .hf import LanguageModel as _LanguageModel
from .hf._parts import Part
from .hf._tracer import TransformersTracer

__version__ = "0.8.1"  # the last version whose scripts are meant

Object = torch.Tensor
"""The older type hint of a value that is read in a block."""


class NNsightDeprecationWarning(FutureWarning):
    """An older name was used that has a better one now; the text says which."""


def _warn(old: str, new: str) -> None:
    """Warn at the line of the script, wherever that is below the frames of this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tracekit"):
        frame = frame.f_back
    text = f"{old} is an older name: write {new}"
    if frame is None:
        warnings.warn(text, NNsightDeprecationWarning, stacklevel=1)
        return
    warnings.warn_explicit(
        text, NNsightDeprecationWarning, frame.f_code.co_filename, frame.f_lineno
    )


def _gone(name: str, fix: str, why: str = "") -> OldNameError:
    return OldNameError(f"`{name}` is an older name that has no counterpart here", why=why, fix=fix)


def _enters_with(frame: FrameType) -> bool:
    """Tell whether the call that *frame* makes is an item of a `with`."""
    twin = ORIGINALS.get(id(frame.f_code))
    code, offset = frame.f_code, frame.f_lasti
    if twin is not None:
        origin = twin.origin_of(offset)
        if origin is None:
            return False
        code, offset = twin.original, origin
    # On 3.11 a call is two instructions.
    for _ in range(2):
        offset = decode(code.co_code, offset).stop_offset
        if is_with_entry(code, offset):
            return True
    return False


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out the options of older calls that are no argument of the model.

    Raises:
        OldNameError: `old-name`. One that cannot be honoured.
    """
    if kwargs.pop("remote", None):
        raise _gone(
            "remote=",
            "run it on this machine: leave `remote=` out",
            "this door opens models on this machine only",
        )
    for name in ("blocking", "job_id"):
        kwargs.pop(name, None)
    if "invoker_args" in kwargs:
        raise _gone("invoker_args=", "give the options to trace() or invoke() themselves")
    if "scan" in kwargs:
        _warn("trace(..., scan=True)", "trace(..., validate=True)")
        kwargs["validate"] = kwargs.pop("scan") or kwargs.get("validate", False)
    return kwargs


# Tracers.

_OLD_TRACER_NAMES: Final = {
    "apply": "call the function: its arguments are real tensors",
    "cond": "an ordinary `if`",
    "local": "nothing: the block runs here",
    "log": "print(...)",
    "model_inputs": "model.inputs, in the block",
    "output": "tracer.result",
}


class _KeepsTracers:
    """The part of a tracer that also binds the names of tracers: what `as` gave in the block."""

    def keeps(self) -> Callable[[str, object], bool] | None:
        """Which names are bound after the block: `None` for all of them."""
        above: Any = super()
        saved: Callable[[str, object], bool] | None = above.keeps()
        if saved is None:
            return None
        return lambda name, value: isinstance(value, Tracer) or saved(name, value)


class _OldTracer(_KeepsTracers):
    """The part of a tracer that knows the older names."""

    def __init__(self, *args: Any, keep: str = "saved", **kwargs: Any) -> None:
        above: Any = super()
        above.__init__(*args, keep=keep, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _OLD_TRACER_NAMES:
            raise _gone(f"tracer.{name}", _OLD_TRACER_NAMES[name])
        message = f"{type(self).__name__!r} has no attribute {name!r}"
        raise AttributeError(message)


class NNsightTracer(_OldTracer, ModelTracer):
    """As `tracekit.Model` gives one, with `keep="saved"` by default."""


class NNsightTransformersTracer(_OldTracer, TransformersTracer):
    """As `tracekit.LanguageModel` gives one, with `keep="saved"` by default."""


class _OldSession(_KeepsTracers, Session):
    """As `tracekit.session` gives one."""


class _Pair(tuple[Any, Any]):
    """What the `as` of an edit gets: tracer and model, also used as the model alone."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        _warn("with model.edit() as edited:", "with model.edit() as (tracer, edited):")
        return getattr(self[1], name)


class EditingTracer(_EditingTracer):
    """As `tracekit.Model.edit` gives one; its `as` may be one name, the edited model."""

    def value(self) -> Any:
        """What the `as` target gets."""
        value = super().value()
        return _Pair(value) if isinstance(value, tuple) else value


# Nodes.

_OLD_NODE_NAMES: Final = {
    "envoys": "model.modules()",
    "export_edits": "keep the function that makes the edit, and call model.edit().run(fn) again",
    "import_edits": "keep the function that makes the edit, and call model.edit().run(fn) again",
    "interleaver": "nothing: a run belongs to its tracer",
    "pipe": "transformers.pipeline(task, model=model.as_module(), tokenizer=model.tokenizer)",
    "wait_for_input": "read it: model.layer.input",
    "wait_for_output": "read it: model.layer.output",
}
_PORTS: Final = ("output", "input", "inputs")


class _Renamed(Port):
    """A port under its older name."""

    __slots__ = ()

    def request(self, node: Any) -> Read:
        """Give the request for the value, with a warning."""
        _warn(f"nns_{self.name}", f"`.{self.name}`; the child is `E_{self.name}`")
        return super().request(node)


class _OldMethod(_Method):
    """A method of the model: in a `with` line a tracer, elsewhere a call."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _enters_with(sys._getframe(1)):
            node: Any = self._node
            return node.trace(*args, fn=self.__name__, **kwargs)
        return super().__call__(*args, **kwargs)


class _OldNode:
    """The part of a node that knows the older names."""

    _module: nn.Module
    _path: str

    nns_output = _Renamed("output", "output")
    nns_inputs = _Renamed("inputs", "input", Node.inputs.view)
    nns_input = _Renamed("input", "input", Node.input.view)

    if TYPE_CHECKING:

        def children(self) -> list[Any]: ...
        def _child(self, name: str) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("E_") and "_module" in self.__dict__:
            child = self._child(name[2:])
            if child is not None:
                return child
        try:
            value = super().__getattr__(name)  # type: ignore[misc]
        except AttributeError:
            if name in _OLD_NODE_NAMES:
                raise _gone(f"model.{name}", _OLD_NODE_NAMES[name]) from None
            raise
        if type(value) is _Method and not hasattr(nn.Module, name):
            return _OldMethod(value._node, value.__wrapped__)
        return value

    @property
    def path(self) -> str:
        """The module's path as older versions wrote it: `model.transformer.h.0`."""
        return f"model.{self._path}" if self._path else "model"

    @property
    def _model(self) -> nn.Module:
        return self._module

    @property
    def _children(self) -> list[Any]:
        return self.children()

    @property
    def iter(self) -> Steps:
        """This module's calls as steps. Older name of `tracer.iter`."""
        _warn("model.iter", "tracer.iter")
        return Steps(self)

    def all(self) -> StepLoop:
        """All calls of this module. Older name of `tracer.all()`."""
        _warn("model.all()", "tracer.all()")
        return Steps(self)[:]

    def next(self, steps: int = 1) -> Self:
        """Go on to a later call of this module. Older name of `tracer.next()`."""
        _warn("model.next()", "tracer.next(), or a loop over tracer.iter")
        go_on(self, steps)
        return self

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer; see `tracekit.Model.trace`.

        Args:
            *args: Given to the call.
            **kwargs: Given to the call, older options of a trace aside.
        """
        return super().trace(*args, **_options(kwargs))  # type: ignore[misc]

    def scan(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer that runs on shapes; see `tracekit.Model.scan`.

        Args:
            *args: Given to the call.
            **kwargs: Given to the call, older options of a trace aside.
        """
        return super().scan(*args, **_options(kwargs))  # type: ignore[misc]

    def edit(self, *, inplace: bool = False, backend: Backend | None = None) -> EditingTracer:
        """Keep a block that later forwards replay; see `tracekit.Model.edit`.

        Args:
            inplace: Edit this wrapper.
            backend: What is given the captured block.
        """
        assert isinstance(self, Node)
        return EditingTracer(self, inplace=inplace, backend=backend)

    def session(
        self, backend: Backend | None = None, tracer_cls: Any = None, **kwargs: Any
    ) -> Session:
        """Open a block of several traces, after which only saved names are bound.

        Args:
            backend: What runs the block.
            tracer_cls: A subclass of `Session`.
            **kwargs: Older options; `keep=`.
        """
        cls: Any = _OldSession if tracer_cls is None else tracer_cls
        opened: Session = cls(backend=backend, keep=kwargs.pop("keep", "saved"), **_options(kwargs))
        return opened


@suspending(_OldNode.next)
def _next(self: Any, steps: int = 1) -> Any:
    _warn("model.next()", "tracer.next(), or a loop over tracer.iter")
    return (yield from _go_on(self, steps))


class Envoy(_OldNode, Model):
    """A node of the tree. Subclasses of it may serve values of their own, by `eproperty`."""

    tracer_class = NNsightTracer

    @classmethod
    def _child_class(cls) -> type[Node]:
        return Envoy

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("_batch", "_batch_size", "_batcher_class"):
            if name in vars(cls):
                raise _gone(
                    f"{cls.__name__}.{name}",
                    "batch_axis(self, path, port, leaf), which gives the axis of the rows",
                    "inputs of several invokes are joined along one axis, which one method states",
                )


class NNsight(Envoy):
    """A wrapped module, as older scripts make it.

    Args:
        module: Any module.
        path: Ignored: the model is called `model`.
        rename: Further names for modules.
        envoys: Classes of nodes, by module class or by the end of the path; or one for all.
        interleaver: Refused.
    """

    def __init__(
        self,
        module: nn.Module,
        path: str = "model",
        interleaver: Any = None,
        rename: dict[Any, Any] | None = None,
        envoys: Any = None,
    ) -> None:
        if interleaver is not None:
            raise _gone(
                "NNsight(interleaver=)", "subclass InterleavingTracer, and give tracer_cls="
            )
        super().__init__(module, rename=rename, wrappers=envoys)


# Models of transformers.


class _ResultOfTheRun(Port):
    """What the run's call returned, asked for at the model."""

    __slots__ = ()

    def request(self, node: Any) -> Read:
        """Give the request for the result of the run that is going on."""
        run = hooks.current_run()
        if run is None:
            raise NotRunningError(
                "`model.generator.output` has a value only while the model generates",
                fix="ask for it in a block: `with model.generate(...): ...`",
            )
        _warn("model.generator.output", "tracer.result")
        return Read(run.interleaver.owners[1], "", "result")

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Replace the result of the run that is going on."""
        read = self.request(obj)
        yield from ask(Write(read.owner, "", "result", value))


class Generator:
    """What `model.generator` is: the result of a generation under its older name."""

    output = _ResultOfTheRun("result", "result")

    @property
    def streamer(self) -> Any:
        """The tokens step by step, in older versions.

        Raises:
            OldNameError: `old-name`. Always.
        """
        raise _gone(
            "model.generator.streamer",
            "model.output.logits[:, -1].argmax(-1) in a loop over tracer.iter, or tracer.result "
            "after it",
            "a step is a forward of the model, whose values have the new token",
        )


class _OldPart(_OldNode, Part):
    """A module of a model of transformers."""

    @classmethod
    def _child_class(cls) -> type[Node]:
        return _OldPart


_TASKS: Final = {
    "audio-classification": "AutoModelForAudioClassification",
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "image-feature-extraction": "AutoModel",
    "image-text-to-text": "AutoModelForImageTextToText",
    "question-answering": "AutoModelForQuestionAnswering",
    "summarization": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
    "translation": "AutoModelForSeq2SeqLM",
}


class TransformersModel(_OldNode, _LanguageModel):
    """A model of transformers, as older scripts make it.

    Args:
        repo_id: A folder, a name on the hub, or a model that is loaded already.
        task: Of a pipeline; says which class of transformers is loaded.
        tokenizer: By default the checkpoint's own.
        processor: For images and audio; by default the checkpoint's own.
        image_processor: The same, in older words.
        feature_extractor: The same, in older words.
        peft: Refused: wrap a `PeftModel`.
        tokenizer_kwargs: Attributes set on the tokenizer.
        rename: Further names for modules.
        envoys: Classes of nodes, by module class or by the end of the path; or one for all.
        **kwargs: As for `tracekit.LanguageModel`.
    """

    tracer_class = NNsightTransformersTracer

    @classmethod
    def _child_class(cls) -> type[Node]:
        return _OldPart

    def __init__(
        self,
        repo_id: Any,
        *,
        task: str | None = None,
        tokenizer: Any = None,
        processor: Any = None,
        image_processor: Any = None,
        feature_extractor: Any = None,
        peft: Any = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        rename: dict[Any, Any] | None = None,
        envoys: Any = None,
        **kwargs: Any,
    ) -> None:
        if peft is not None:
            raise _gone(
                "TransformersModel(peft=)",
                "TransformersModel(peft.PeftModel.from_pretrained(model, ...), tokenizer=...)",
            )
        if "automodel" in kwargs:
            _warn("automodel=", "auto=")
            kwargs["auto"] = kwargs.pop("automodel")
        if "torch_dtype" in kwargs:
            _warn("torch_dtype=", "dtype=")
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        if task is not None and isinstance(repo_id, str):
            if task not in _TASKS:
                raise _gone(f"task={task!r}", f"auto=..., or one of: {', '.join(sorted(_TASKS))}")
            kwargs.setdefault("auto", _TASKS[task])
        given = next((p for p in (processor, image_processor, feature_extractor) if p), None)
        super().__init__(repo_id, tokenizer, processor=given, rename=rename, **kwargs)
        # A name of the script's own goes before a standard one.
        object.__setattr__(self, "_renamed", frozenset(_aliases(rename)))
        object.__setattr__(self, "generator", Generator())
        if envoys is not None:
            self.use_wrappers(envoys)
        for name, value in (tokenizer_kwargs or {}).items():
            setattr(self.tokenizer, name, value)

    _renamed: frozenset[str] = frozenset()
    generator: Generator

    def __getattr__(self, name: str) -> Any:
        if name in self._renamed:
            return self._below(self._tree.aliases[""][name])
        return super().__getattr__(name)

    @classmethod
    def _check_module(cls, module: Any, options: dict[str, Any]) -> None:
        if hasattr(module, "generate"):
            super()._check_module(module, options)

    @property
    def attn_implementation(self) -> str | None:
        """Which attention is used: `"eager"`, `"sdpa"`, ..."""
        found: str | None = getattr(self._module.config, "_attn_implementation", None)
        return found

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """In a `with` line a tracer of a generation; elsewhere the generation itself.

        Args:
            *args: The prompt.
            **kwargs: Given to `generate` of transformers; `trace=True` gives the tracer anywhere.
        """
        if "trace" not in kwargs:
            kwargs["trace"] = _enters_with(sys._getframe(1))
        return super().generate(*args, **_options(kwargs))


def _aliases(rename: dict[Any, Any] | None) -> Iterable[str]:
    for given in (rename or {}).values():
        yield from [given] if isinstance(given, str) else given


class LanguageModel(TransformersModel):
    """A model that generates text, as older scripts make it; see `TransformersModel`."""

    def __init__(self, repo_id: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            (kwargs["tokenizer"],) = args
        super().__init__(repo_id, **kwargs)


class VisionLanguageModel(LanguageModel):
    """A model that reads images and text. Older name of `LanguageModel`."""

    def __init__(self, repo_id: Any, *args: Any, **kwargs: Any) -> None:
        _warn("VisionLanguageModel", "tracekit.LanguageModel")
        kwargs.setdefault("task", "image-text-to-text")
        super().__init__(repo_id, *args, **kwargs)


# Served values.


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
            raise _gone(
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
        raise _gone("eproperty.provide", "a module of its own in the model, whose output it is")

    def _view(self, node: Any) -> View:
        return View(
            self.name, lambda whole: self._made(node, whole), self._edited(node), self._watch
        )

    @property
    def _watch(self) -> Any:
        return None if self._transform is None else _watch

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


# What stands beside the models.


def session(backend: Backend | None = None, **kwargs: Any) -> Session:
    """Open a block of several traces of any models.

    Args:
        backend: What runs the block.
        **kwargs: Older options; `keep=`.
    """
    return _OldSession(backend=backend, keep=kwargs.pop("keep", "saved"), **_options(kwargs))


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
        raise _gone(f"nnsight.{name}", _OLD_NAMES[name])
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
