"""Models of transformers with the older names."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from .._interleave.requests import Read, Write
from .._protocol import ask
from .._runtime.twins import enters_with
from .._torch import hooks
from .._torch.tree import Node, Port
from ..errors import NotRunningError
from ..hf import LanguageModel as _LanguageModel
from ..hf._parts import Part
from ._oldnodes import OldNode
from ._oldtracers import NNsightTransformersTracer
from ._telling import gone, options, warn


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
        warn("model.generator.output", "tracer.result")
        return Read(run.interleaver.owners[1], "", "result")

    def ask_get(self, obj: Any) -> Any:
        """Suspend until the run's call has returned; give what it returned."""
        return (yield from ask(self.request(obj)))

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
        raise gone(
            "model.generator.streamer",
            "model.output.logits[:, -1].argmax(-1) in a loop over tracer.iter, or tracer.result "
            "after it",
            "a step is a forward of the model, whose values have the new token",
        )


class OldPart(OldNode, Part):
    """A module of a model of transformers."""

    @classmethod
    def _child_class(cls) -> type[Node]:
        return OldPart


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


class TransformersModel(OldNode, _LanguageModel):
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
        return OldPart

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
            raise gone(
                "TransformersModel(peft=)",
                "TransformersModel(peft.PeftModel.from_pretrained(model, ...), tokenizer=...)",
            )
        if "automodel" in kwargs:
            warn("automodel=", "auto=")
            kwargs["auto"] = kwargs.pop("automodel")
        if "torch_dtype" in kwargs:
            warn("torch_dtype=", "dtype=")
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        if task is not None and isinstance(repo_id, str):
            if task not in _TASKS:
                raise gone(f"task={task!r}", f"auto=..., or one of: {', '.join(sorted(_TASKS))}")
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
            kwargs["trace"] = enters_with(sys._getframe(1))
        return super().generate(*args, **options(kwargs))


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
        warn("VisionLanguageModel", "tracekit.LanguageModel")
        kwargs.setdefault("task", "image-text-to-text")
        super().__init__(repo_id, *args, **kwargs)
