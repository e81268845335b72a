"""`LanguageModel`: a model of transformers, from a name or a folder to a traced generation.

    LanguageModel("name")  ->  config, skeleton on the meta device: names, shapes, `scan`
    the first run          ->  weights, by `from_pretrained`; the skeleton's place is taken
    trace(prompt)          ->  prompt -> fields of the forward -> one forward
    generate(prompt, ...)  ->  prompt -> fields -> transformers' own loop, a step a forward

The wrapper's nodes stand for places in the tree, not for module objects, so that nodes, edits and
aliases made before the weights were loaded hold after it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from tracekit._torch.axes import BatchRules
from tracekit._torch.joining import Joined
from tracekit._vocabulary.served import Wrappers
from tracekit.errors import (
    GenerateOnlyError,
    NoStandardNameError,
    NoTokenizerError,
    UnsupportedGenerationError,
    WrongModelClassError,
)

from ._images import image_rules
from ._inputs import Reader
from ._lens import lens, most_probable
from ._load import (
    Checkpoint,
    current_device,
    load_processor,
    load_tokenizer,
    no_tokenizer,
    open_checkpoint,
)
from ._names import Anatomy, Sizes, anatomy, sizes
from ._parts import (
    Part,
    StandardAttention,
    StandardLayer,
    StandardLayers,
    StandardMlp,
    StandardPart,
)
from ._prompts import Prompt, rows_of
from ._returns import items_returned
from ._tokens import Tokens, tokens_of
from ._tracer import TransformersTracer
from ._weights import keeps_no_weights, no_weights, switch_attentions

_GENERATE_ONLY: Final = (
    "do_sample",
    "eos_token_id",
    "generation_config",
    "logits_processor",
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "stop_strings",
    "stopping_criteria",
    "streamer",
    "temperature",
    "top_k",
    "top_p",
)
"""Options of `generate` that a forward would ignore, or refuse in words of its own."""

_SEVERAL_TOKENS_A_STEP: Final = (
    "assistant_early_exit",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "use_mtp",
)

_JOINED: Final = threading.local()
"""The batching rule of the inputs that this thread has joined last, where they need their own."""


def is_generation(function: Any) -> bool:
    """Say whether a traced call is a generation: many forwards, and positions of its own."""
    return getattr(function, "__name__", "") == "generate"


class TransformersModel(Part):
    """Any model of transformers.

    Args:
        model: A folder, a name on the hub, or a model that is loaded already, which is wrapped as
            it is (also inside a `PeftModel`).
        auto: A class of transformers with `from_pretrained`, or its name, such as
            `"AutoModelForSequenceClassification"`; by default the class that the checkpoint was
            saved with.
        tokenizer: A tokenizer, or the name or folder of one; by default the checkpoint's own,
            loaded when it is needed.
        processor: For images and audio, likewise.
        dispatch: Load the weights now. By default the first run does.
        rename: Further names for modules: `{path, pattern or class: name or names}`.
        validate: Scan each block before it runs.
        wrappers: Classes of nodes for some modules, as for `tracekit.Model`; they are subclasses of
            `tracekit.Model`, and their modules have the values that those serve.
        options: Passed to `from_pretrained`: `device_map`, `dtype`, `revision`,
            `quantization_config`, ...

    Raises:
        ModelNotFoundError: `model-not-found`.
        HubUnreachableError: `hub-unreachable`.
        GatedModelError: `gated-model`.
        WrongModelClassError: `wrong-model-class`.
    """

    tracer_class = TransformersTracer
    _needs_generate = False

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module,
        tokenizer: Any = None,
        *,
        auto: Any = None,
        processor: Any = None,
        dispatch: bool = False,
        rename: dict[Any, str | list[str]] | None = None,
        validate: bool = False,
        wrappers: Wrappers | None = None,
        **options: Any,
    ) -> None:
        checkpoint: Checkpoint | None = None
        if isinstance(model, (str, os.PathLike)):
            if auto is None and not self._needs_generate:
                auto = "AutoModel"
            checkpoint = open_checkpoint(model, auto=auto, **options)
            module: Any = None if dispatch else checkpoint.skeleton()
            loaded = module is None
            if loaded:
                module = checkpoint.load()
        else:
            module = getattr(model, "_module", model)
            loaded = True
            self._check_module(module, options)
        fill = object.__setattr__
        fill(self, "_checkpoint", checkpoint)
        fill(self, "_loaded", loaded)
        fill(self, "_given_tokenizer", tokenizer)
        fill(self, "_given_processor", processor)
        super().__init__(module, rename=rename, validate=validate, wrappers=wrappers)
        fill(self, "_anatomy", self._find_anatomy())
        self._make_reader()

    def _make_reader(self) -> None:
        # Parts hold the wrapper, and nothing that the wrapper holds may hold it: a model must be
        # freed with its last name.
        whole = weakref.proxy(self)
        fill = object.__setattr__
        fill(self, "_standard_parts", weakref.WeakValueDictionary())
        fill(self, "_first_rows", set())
        fill(self, "_returned", {})
        fill(
            self,
            "_reader",
            Reader(
                self._module,
                lambda: whole.tokenizer,
                lambda: whole.processor,
                lambda ids: whole._embed(ids),  # noqa: PLW0108  # a bound method holds its object
            ),
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds; the reader is made again."""
        made_again = ("_reader", "_standard_parts", "_first_rows", "_returned")
        return {k: v for k, v in super().__getstate__().items() if k not in made_again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_reader()

    _checkpoint: Checkpoint | None
    _loaded: bool
    _given_tokenizer: Any
    _given_processor: Any
    _standard_parts: weakref.WeakValueDictionary[str, StandardPart]
    _first_rows: set[str]
    _returned: dict[str, int | None]
    _anatomy: Anatomy | NoStandardNameError
    _reader: Reader

    @classmethod
    def _check_module(cls, module: Any, options: dict[str, Any]) -> None:
        if not isinstance(module, nn.Module) or not hasattr(module, "config"):
            raise TypeError(
                "a folder, a name or a model of transformers is wrapped, not "
                f"{type(module).__name__!r}"
            )
        if options:
            raise TypeError(
                f"{', '.join(sorted(options))}: options of loading, and the model is loaded already"
            )

    # Loading.

    @property
    def dispatched(self) -> bool:
        """The weights are loaded."""
        return self._loaded

    def dispatch(self) -> None:
        """Load the weights, if they are not loaded yet. The first run does this by itself."""
        if self._loaded:
            return
        checkpoint = self._checkpoint
        assert checkpoint is not None
        skeleton = self._module
        real = checkpoint.load(skeleton.config)  # type: ignore[arg-type]
        real.train(skeleton.training)
        self._take(real)
        object.__setattr__(self, "_loaded", True)

    def _take(self, module: nn.Module) -> None:
        """Let *module* stand where the skeleton stood."""
        tree = self._tree
        tree.root = module
        object.__setattr__(self, "_first_parameter", None)
        for path, node in [*tree.nodes.items(), *self._standard_parts.items()]:
            found = tree.find_module(path)
            if found is not None:
                node._stand_for(found)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs have to be; before loading, where they will have to be."""
        if not self._loaded and self._checkpoint is not None:
            return self._checkpoint.device
        return current_device(self._module)

    def _first_device(self) -> torch.device | None:
        if not self._loaded:
            # In a scan the skeleton's parameters are where the weights will be.
            first = super()._first_device()
            return None if first is None or first.type == "meta" else first
        spread = hasattr(self._module, "_hf_hook") or hasattr(self._module, "hf_device_map")
        return current_device(self._module) if spread else super()._first_device()

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; loaded when it is first asked for.

        Raises:
            NoTokenizerError: `no-tokenizer`.
        """
        if self._given_tokenizer is None:
            processor = self._given_processor
            if isinstance(processor, (str, os.PathLike)):
                processor = self.processor
            inner = getattr(processor, "tokenizer", None)
            object.__setattr__(
                self, "_given_tokenizer", inner if inner is not None else self._find(load_tokenizer)
            )
        elif isinstance(self._given_tokenizer, (str, os.PathLike)):
            name = os.fspath(self._given_tokenizer)
            object.__setattr__(self, "_given_tokenizer", load_tokenizer(name))
        return self._given_tokenizer

    @property
    def processor(self) -> Any:
        """The processor of images, audio and text; loaded when it is first asked for.

        Raises:
            NoTokenizerError: `no-tokenizer`.
        """
        if self._given_processor is None:
            object.__setattr__(self, "_given_processor", self._find(load_processor))
        elif isinstance(self._given_processor, (str, os.PathLike)):
            name = os.fspath(self._given_processor)
            object.__setattr__(self, "_given_processor", load_processor(name))
        return self._given_processor

    def _find(self, load: Callable[..., Any]) -> Any:
        if self._checkpoint is not None:
            return load(self._checkpoint.name, **self._checkpoint.hub)
        name = getattr(self._module.config, "name_or_path", "")
        if not name:
            raise no_tokenizer(
                "this model does not know where it was loaded from, so its tokenizer is unknown"
            )
        return load(name)

    def _embed(self, ids: Tensor) -> Tensor:
        embedding = self._module.get_input_embeddings()  # type: ignore[operator]
        result: Tensor = embedding(ids.to(self.device))
        return result

    # Names.

    def _find_anatomy(self) -> Anatomy | NoStandardNameError:
        module: Any = self._module
        try:
            found = anatomy(module, module.config)
        except NoStandardNameError as error:
            # Its traceback holds this frame; it is raised when a name is asked for.
            return error.with_traceback(None)
        aliases = self._tree.aliases.setdefault("", {})
        for path, name in found.rename().items():
            if "." not in name and name not in module._modules:
                aliases.setdefault(name, path)
        return found

    @property
    def anatomy(self) -> Anatomy:
        """Where the standard parts are.

        Raises:
            NoStandardNameError: `no-standard-name`. They were not found.
        """
        if isinstance(self._anatomy, NoStandardNameError):
            raise self._anatomy
        return self._anatomy

    def __getattr__(self, name: str) -> Any:
        if name == "layers" and isinstance(self.__dict__.get("_anatomy"), Anatomy):
            return self._standard(self.anatomy.layers)
        return super().__getattr__(name)

    def __dir__(self) -> list[str]:
        named = [] if isinstance(self._anatomy, NoStandardNameError) else ["layers"]
        return sorted({*super().__dir__(), *named, *self._tree.aliases.get("", ())})

    def _standard(self, path: str) -> StandardPart:
        """Give the node of a module under its standard name."""
        found = self._standard_parts.get(path)
        module = self._tree.find_module(path)
        if found is None or found._module is not module:
            where = self.anatomy
            tail = path.removeprefix(f"{where.layers}.")
            cls: type[StandardPart] = StandardPart
            if path == where.layers:
                cls = StandardLayers
            elif tail.isdigit():
                cls = StandardLayer
            elif tail in {f"{i}.{name}" for i, name in enumerate(where.attn)}:
                cls = StandardAttention
            elif tail in {f"{i}.{name}" for i, name in enumerate(where.mlp)}:
                cls = StandardMlp
            found = cls.__new__(cls)
            assert module is not None
            found._attach(self._tree, path, module)
            object.__setattr__(found, "_owner", self)
            self._standard_parts[path] = found
        return found

    def _attentions(self) -> list[str]:
        """Paths of the modules that keep a cache between the steps of a generation."""
        where = self._anatomy
        if isinstance(where, NoStandardNameError):
            return [
                path
                for path, module in self._module.named_modules()
                if type(module).__name__.endswith(("Attention", "Mixer"))
            ]
        stack = self._module.get_submodule(where.layers)
        return [
            f"{where.layers}.{index}.{name or 'mixer'}"
            for index, name in enumerate(where.attn)
            if name is not None or "mixer" in stack[index]._modules  # type: ignore[index]
        ]

    def _items_returned(self, path: str) -> int | None:
        """How many items a standard part returns in a tuple; `None` for a part that gives a tensor.

        Raises:
            UnsupportedModuleError: `unsupported-module`. The model cannot be run on shapes.
        """
        known = self._returned
        if path not in known:
            known.update(items_returned(self._module, self.anatomy, path))
        return known.get(path)

    def _called_in_generate(self) -> str:
        """Path of the module that `generate` calls: an adapter's wrapper hands it to what it wraps."""
        inner = getattr(self._module, "get_base_model", None)
        return "" if inner is None else self._tree.path_of(inner(), "")

    @property
    def sizes(self) -> Sizes:
        """The model's sizes."""
        return sizes(self._module.config)

    @property
    def n_layers(self) -> int:
        """How many layers there are."""
        return self.sizes.n_layers

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.sizes.d_model

    @property
    def d_vocab(self) -> int:
        """How many entries the vocabulary has."""
        return self.sizes.d_vocab

    @property
    def n_heads(self) -> int:
        """How many query heads an attention has."""
        return self._size("n_heads")

    @property
    def n_kv_heads(self) -> int:
        """How many key and value heads: fewer than `n_heads` under grouped-query attention."""
        return self._size("n_kv_heads")

    @property
    def d_head(self) -> int:
        """The width of a head."""
        return self._size("d_head")

    def _size(self, name: str) -> int:
        value: int | None = getattr(self.sizes, name)
        if value is None:
            raise NoStandardNameError(
                f"`{type(self._module).__name__}` has no {name}", why="it has no attention"
            )
        return value

    # Runs.

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer: `with model.trace(prompt) as tracer:` runs the block in step.

        Args:
            *args: The prompt: text, a list of texts, token ids, chat messages, or what a tokenizer
                or processor returned.
            **kwargs: Given to the model's forward; `labels=` may be text or ids like the prompt;
                `images=`, `audio=`, `videos=` and `text=` go through the processor.

        Raises:
            GenerateOnlyError: `generate-only`. An option of `generate`.
        """
        self._refuse_generate_only(kwargs)
        return super().trace(*args, **kwargs)

    def scan(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer that runs block and model on shapes: no weight is loaded or read.

        Args:
            *args: The prompt, as for `trace`.
            **kwargs: As for `trace`; with `fn="generate"`, as for `generate`.

        Raises:
            GenerateOnlyError: `generate-only`. An option of `generate`, without `fn="generate"`.
        """
        self._refuse_generate_only(kwargs)
        return super().scan(*args, **kwargs)

    @staticmethod
    def _refuse_generate_only(kwargs: dict[str, Any]) -> None:
        if kwargs.get("fn") == "generate" or is_generation(kwargs.get("fn")):
            return
        for name in _GENERATE_ONLY:
            if name in kwargs:
                raise GenerateOnlyError(
                    f"`{name}` was given to one forward",
                    why="trace() and scan() are one forward of the model; generate() makes new "
                    "tokens",
                    fix=f"model.generate(prompt, {name}={kwargs[name]!r})",
                )

    def _prepare(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if function is not self._module and not is_generation(function):
            return super()._prepare(function, args, kwargs)
        call = self._reader.join([self._read(args, kwargs)], generating=is_generation(function))
        return super()._prepare(function, (), call)

    def _begin_run(self, tracer: TransformersTracer) -> None:
        """Read the prompt of a run, before its block starts."""
        fn = tracer.fn
        if tracer.model is not self or not (tracer.args or tracer.kwargs):
            return
        if fn is not None and fn not in ("__call__", "forward", "generate"):
            return
        if not self._reader.has_prompt(tracer.args, tracer.kwargs):
            # Options for all invokes, whose prompts are still to come.
            tracer._common, tracer.kwargs = tracer.kwargs, {}
            return
        prompt = self._read(tracer.args, tracer.kwargs)
        tracer.args, tracer.kwargs = (prompt,), {}
        tracer._tokens = self._count_tokens(prompt, tracer)

    def _count_tokens(self, prompt: Prompt, tracer: TransformersTracer) -> Tokens | None:
        """Lay out the tokens of a run."""
        try:
            decode = self.tokenizer.decode
        except NoTokenizerError:
            decode = None
        return tokens_of(
            prompt,
            tracer._forwards,
            decode=None if decode is None else lambda one: decode([one]),
            generating=tracer.fn == "generate",
            of_decoder=self._reader.encoder_decoder,
            defaults=getattr(self._module, "generation_config", None),
        )

    def _join(
        self,
        function: Callable[..., Any],
        inputs: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    ) -> Joined:
        """Make one run's inputs of those of several invokes, padded to the longest prompt.

        Args:
            function: What is going to be called.
            inputs: Of each invoke, in written order, as given to it.

        Returns:
            The joined inputs, on the model's device, and each invoke's rows.
        """
        prompts = [self._read(args, kwargs) for args, kwargs in inputs]
        where = self._anatomy
        _JOINED.rules = (
            image_rules(prompts, self._module.config, where) if isinstance(where, Anatomy) else None
        )
        merged = self._reader.merge(prompts, generating=is_generation(function))
        args, kwargs = super()._prepare(function, (), merged.arguments())
        return Joined(args, kwargs, list(rows_of(prompts)), merged.rows)

    def _batch_rules(self) -> BatchRules:
        """What is known about the batch axes of the inputs that were joined last, in this thread."""
        rules: BatchRules | None = getattr(_JOINED, "rules", None)
        return super()._batch_rules() if rules is None else rules

    def _count_rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        return self._read(args, kwargs).rows if args or kwargs else 0

    def _read(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Prompt:
        if args and isinstance(args[0], Prompt):
            # The tracer has read it already; a scan and an untraced call have not.
            read: Prompt = args[0]
            return read
        self._refuse_attentions(kwargs)
        return self._reader.read(args, kwargs)

    def _refuse_attentions(self, kwargs: dict[str, Any]) -> None:
        implementation = keeps_no_weights(self._module)
        if kwargs.get("output_attentions") and implementation:
            raise no_weights("output_attentions=True", implementation)

    def set_attn_implementation(self, name: str) -> None:
        """Switch the attention implementation; nothing is reloaded.

        Args:
            name: `"eager"` keeps the attention weights; `"sdpa"` and others are faster.

        Raises:
            WrongModelClassError: `wrong-model-class`. This class takes it only when it is loaded.
        """
        switch_attentions(self._module, name)

    # Small helpers.

    def logit_lens(self, hidden: Tensor) -> Tensor:
        """Read a residual stream as if it were the last: the head of its last norm.

        Args:
            hidden: Shape (..., d_model).

        Returns:
            Logits, shape (..., d_vocab), scaled and capped as the model does it.
        """
        self._load_first()
        return lens(self._module, self.anatomy, hidden)

    def next_tokens(self, logits: Tensor, k: int = 5) -> list[list[tuple[str, float]]]:
        """Say which tokens are the most probable ones.

        Args:
            logits: Shape (batch, seq, d_vocab), of which the last position is taken, or
                (batch, d_vocab).
            k: How many.

        Returns:
            For each row, text and probability of the *k* best, best first.
        """
        return most_probable(logits, k, self.tokenizer.decode)


class LanguageModel(TransformersModel):
    """A model that generates text.

    Args:
        model: A folder, a name on the hub, or a model that is loaded already.
        tokenizer: A tokenizer, or the name or folder of one; by default the checkpoint's own,
            loaded when it is needed.
        dispatch: Load the weights now. By default the first run does.
        device_map: As for `from_pretrained`.
        dtype: By default the checkpoint's own.
        options: As for `TransformersModel`.

    Example:
        >>> model = LanguageModel("openai-community/gpt2")                   # doctest: +SKIP
        >>> with model.trace("The Eiffel Tower is in the city of"):          # doctest: +SKIP
        ...     hidden = model.layers[6].output
        ...     logits = model.output.logits
    """

    _needs_generate = True

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module,
        tokenizer: Any = None,
        *,
        dispatch: bool = False,
        device_map: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        given = {"device_map": device_map, "dtype": dtype}
        options |= {key: value for key, value in given.items() if value is not None}
        super().__init__(model, tokenizer, dispatch=dispatch, **options)

    @classmethod
    def _check_module(cls, module: Any, options: dict[str, Any]) -> None:
        super()._check_module(module, {k: v for k, v in options.items() if k != "auto"})
        if not hasattr(module, "generate"):
            raise WrongModelClassError(
                f"a `{type(module).__name__}` does not generate text",
                why="a `LanguageModel` needs a model with `generate`",
                fix="tracekit.hf.TransformersModel(module)",
            )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Give a tracer of a generation: `with model.generate(prompt, max_new_tokens=5):`.

        The call is `module.generate(...)`; a step of the run is one forward of the model. The new
        ids are `tracer.result`.

        Args:
            *args: The prompt, as for `trace`.
            **kwargs: Given to `generate` of transformers. `trace=False` generates at once and
                gives the ids.

        Raises:
            UnsupportedGenerationError: `unsupported-generation`. Assisted generation, prompt
                lookup: there a step is several tokens.
        """
        self._refuse_several_tokens(kwargs)
        # A compiled forward would not run the Python code that serves blocks.
        kwargs.setdefault("disable_compile", True)
        return super().trace(*args, fn="generate", **kwargs)

    def _refuse_several_tokens(self, kwargs: dict[str, Any]) -> None:
        configs = [
            kwargs.get("generation_config"),
            getattr(self._module, "generation_config", None),
        ]
        for name in _SEVERAL_TOKENS_A_STEP:
            given = kwargs.get(name) or next(
                (getattr(one, name, None) for one in configs if getattr(one, name, None)), None
            )
            if given and not (name in kwargs and not kwargs[name]):
                raise UnsupportedGenerationError(
                    f"`{name}` makes several tokens in one forward",
                    why="assisted generation verifies guesses and takes some of them back, so a "
                    "step would not be a token",
                    fix=f"leave {name} out",
                )

    def generate_batch(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Refused: continuous batching packs all requests into one row, in another thread.

        Raises:
            UnsupportedGenerationError: `unsupported-generation`. Always.
        """
        raise UnsupportedGenerationError(
            "generate_batch() cannot be traced",
            why="continuous batching packs all requests into one row, and runs in another thread",
            fix="model.generate(prompts, max_new_tokens=...); untraced: model._module.generate_batch",
        )
