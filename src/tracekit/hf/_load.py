"""From a name or a folder to a model, its weights later.

`open_checkpoint` reads the config and decides which class of transformers the checkpoint is for.
`Checkpoint.skeleton` builds that class on the meta device, from the config alone; nothing is
downloaded or read but `config.json`. `Checkpoint.load` is transformers' own `from_pretrained`, with
its own progress bar, called with what the user gave. Tokenizers and processors come when asked for.

What transformers says about a checkpoint that it cannot open is often about something else (a
folder that is not there is "not a repo id"). So the usual causes are told apart here.
"""

from __future__ import annotations

import difflib
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from huggingface_hub import errors as hub_errors
from transformers.models.auto import modeling_auto

from tracekit.errors import (
    GatedModelError,
    HubUnreachableError,
    ModelNotFoundError,
    NoTokenizerError,
    SkeletonWarning,
    TracekitError,
    WrongModelClassError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

_HUB: Final = (
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
"""What `from_pretrained` of a config, a tokenizer and a model all take: where to find files."""

_NOT_FOR_CONFIG: Final = ("attn_implementation", "quantization_config")
"""What `from_pretrained` of a model takes although a config has an attribute of the name."""

_GENERATE_TEXT: Final = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForImageTextToText",
    "AutoModelForSpeechSeq2Seq",
)
"""The classes whose models generate text, tried in this order."""

_TOKENIZER_FILES: Final = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "spiece*",
    "sentencepiece*",
)
_SHOWN: Final = 5


class Checkpoint:
    """A checkpoint that transformers can load, its config read, its weights not.

    Args:
        name: A folder, or a name on the Hugging Face hub.
        auto: The `transformers` class whose `from_pretrained` loads it.
        config: Its config.
        options: What else `from_pretrained` is given.
    """

    name: str
    auto: Any
    config: PretrainedConfig
    options: dict[str, Any]

    def __init__(
        self, name: str, auto: Any, config: PretrainedConfig, options: dict[str, Any]
    ) -> None:
        self.name = name
        self.auto = auto
        self.config = config
        self.options = options

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, {self.auto.__name__})"

    @property
    def hub(self) -> dict[str, Any]:
        """What says where to find the files: for the tokenizer and the processor too."""
        return {key: value for key, value in self.options.items() if key in _HUB}

    @property
    def device(self) -> torch.device:
        """Where the model's inputs will have to be once the weights are loaded."""
        return future_device(self.options.get("device_map"))

    def skeleton(self) -> PreTrainedModel | None:
        """Build the model without weights, on the meta device.

        Returns:
            A model with every module, name, shape and dtype of the real one and no storage; in
            evaluation mode, as a loaded one is. `None` when the class cannot be built that way;
            then a `SkeletonWarning` has said why.
        """
        passed: dict[str, Any] = {
            key: self.options[key]
            for key in ("attn_implementation", "trust_remote_code", "code_revision")
            if key in self.options
        }
        dtype = self.options.get("dtype")
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype.removeprefix("torch."), None)
        if isinstance(dtype, torch.dtype):
            passed["dtype"] = dtype
        try:
            with torch.device("meta"):
                model = self.auto.from_config(self.config, **passed)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            message = (
                f"{self.name!r} cannot be built without its weights, so they are loaded now "
                f"({type(error).__name__}: {reason})"
            )
            warnings.warn(message, SkeletonWarning, stacklevel=2)
            return None
        # A checkpoint's name is what its tokenizer is found by.
        model.config.name_or_path = self.name
        result: PreTrainedModel = model.eval()
        return result

    def load(self, config: PretrainedConfig | None = None) -> PreTrainedModel:
        """Load the weights.

        Equivalent to `auto.from_pretrained(name, **options)`, except for the errors.

        Args:
            config: Used instead of the checkpoint's own: the one of a skeleton on which, say, the
                attention implementation was changed.

        Returns:
            The model, in evaluation mode, where `device_map` says.

        Raises:
            ModelNotFoundError: `model-not-found`. There are no weights.
        """
        given = self.config if config is None else config
        options = dict(self.options)
        # Older versions load in single precision where nothing is said.
        options.setdefault("dtype", "auto")
        implementation = getattr(given, "_attn_implementation", None)
        if config is not None and implementation is not None:
            options["attn_implementation"] = implementation
        with explained(self.name):
            model: PreTrainedModel = self.auto.from_pretrained(self.name, config=given, **options)
        return model


def open_checkpoint(
    name: str | os.PathLike[str], *, auto: str | Any | None = None, **options: Any
) -> Checkpoint:
    """Read the config of a checkpoint and decide which class it is loaded with.

    Args:
        name: A folder, or a name on the Hugging Face hub.
        auto: A class of transformers with `from_pretrained`, or its name. By default the class
            that generates text with this kind of model.
        options: Passed to `from_pretrained`.

    Returns:
        The checkpoint; only `config.json` has been read.

    Raises:
        ModelNotFoundError: `model-not-found`. No such folder, or no such name on the hub.
        HubUnreachableError: `hub-unreachable`. No network, and the files are not cached.
        GatedModelError: `gated-model`. The hub wants its terms accepted first.
        WrongModelClassError: `wrong-model-class`. The model does not generate text.
    """
    place = _existing(os.fspath(name), options)
    options = {key: value for key, value in options.items() if value is not None}
    if "torch_dtype" in options:
        options.setdefault("dtype", options.pop("torch_dtype"))
    hub = {key: value for key, value in options.items() if key in _HUB}
    for_config = {
        key: value
        for key, value in options.items()
        if key not in _HUB and key not in _NOT_FOR_CONFIG and key not in ("dtype", "device_map")
    }
    with explained(place):
        config, unused = transformers.AutoConfig.from_pretrained(
            place, return_unused_kwargs=True, **hub, **for_config
        )
    # What the config took is in it; passed again, the model's constructor would refuse it.
    kept = {key: value for key, value in options.items() if key not in for_config}
    kept |= {key: value for key, value in unused.items() if key in for_config}
    return Checkpoint(place, _auto_class(place, config, auto), config, kept)


def _existing(name: str, options: dict[str, Any]) -> str:
    """Give *name* with `~` expanded; refuse a path at which there is no model."""
    path = Path(name).expanduser()
    if path.is_dir():
        inside = path / (options.get("subfolder") or "")
        files = [options.get("gguf_file") or "config.json", "adapter_config.json"]
        if any((inside / file).exists() for file in files):
            return str(path) if name.startswith("~") else name
        found = sorted(entry.name for entry in path.iterdir())
        raise ModelNotFoundError(
            f"the folder {name!r} holds no model: it has no `config.json`",
            seen=f"in it: {', '.join(found[:_SHOWN]) or 'nothing'}"
            + (" ..." if len(found) > _SHOWN else ""),
            fix=_models_below(path) or "give the folder that `save_pretrained` wrote to",
        )
    if path.is_file():
        raise ModelNotFoundError(
            f"{name!r} is a file; a model is a folder",
            fix=f"tracekit.LanguageModel({str(path.parent)!r})",
        )
    looks_like_a_path = (
        name.startswith(("/", ".", "~", os.sep)) or name.count("/") > 1 or "\\" in name
    )
    if looks_like_a_path:
        parent = path
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        names = [entry.name for entry in parent.iterdir() if entry.is_dir()]
        missing = path.relative_to(parent).parts[0] if path != parent else path.name
        near = difflib.get_close_matches(missing, names, n=1)
        raise ModelNotFoundError(
            f"there is no folder {name!r}",
            seen=f"the nearest folder that exists is {str(parent)!r}"
            + (f"; in it: {', '.join(sorted(names)[:_SHOWN])}" if names else ""),
            fix=f"tracekit.LanguageModel({str(parent / near[0])!r})" if near else "",
        )
    return name


def _models_below(path: Path) -> str:
    """Give a line to type when a folder one level down holds the model."""
    below = sorted(str(found.parent) for found in path.glob("*/config.json"))
    return f"tracekit.LanguageModel({below[0]!r})" if below else ""


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what transformers and the hub say about *name* into errors with the next thing to type.

    Args:
        name: What was asked for.

    Raises:
        ModelNotFoundError: `model-not-found`.
        HubUnreachableError: `hub-unreachable`.
        GatedModelError: `gated-model`.
    """
    try:
        yield
    except TracekitError:
        raise
    except (OSError, ValueError) as error:
        explanation = _explanation(name, error)
        if explanation is None:
            raise
        raise explanation from error


def _explanation(name: str, error: BaseException) -> TracekitError | None:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    text = str(error)
    if caused_by(hub_errors.HFValidationError) or text.startswith("Repo id must"):
        return ModelNotFoundError(
            f"{name!r} is no folder here, and no name that a model on the hub can have",
            why='a name is "model" or "owner/model", of letters, digits, `-`, `_` and `.`',
            fix="check the spelling, and for a folder the working directory",
        )
    if caused_by(hub_errors.GatedRepoError) or "gated repo" in text:
        return GatedModelError(
            f"{name!r} is gated: its terms have to be accepted on the hub first",
            fix=f"open https://huggingface.co/{name}, accept, then `hf auth login`",
        )
    if caused_by(hub_errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"there is no folder and no model on the hub named {name!r}",
            why="the hub answers the same for a private model and for one that does not exist",
            fix="check the spelling; for a private model: `hf auth login`",
        )
    if caused_by(hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled, OSError) and (
        "connect" in text or "offline" in text.lower()
    ):
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        return HubUnreachableError(
            f"{name!r} is neither a folder here nor in the local cache, and the hub cannot be "
            "reached",
            seen="HF_HUB_OFFLINE is set" if offline else "no connection to https://huggingface.co",
            fix="unset HF_HUB_OFFLINE"
            if offline
            else f"with a network, once: `hf download {name}`; or give a folder",
        )
    if Path(name).is_dir() and "no file named" in text:
        return ModelNotFoundError(
            f"the folder {name!r} has a config, but no weights",
            seen=text.partition("\n")[0],
            fix="give the folder that `save_pretrained` wrote to",
        )
    if Path(name).is_dir() and "model_type" in text:
        return ModelNotFoundError(
            f"`config.json` in {name!r} does not say which model it is for",
            seen=text.partition("\n")[0],
            why="transformers finds the class of a model by `model_type`",
            fix='add the line `"model_type": "gpt2"`, or whichever it is, to config.json',
        )
    return None


def _auto_class(name: str, config: PretrainedConfig, auto: str | Any | None) -> Any:
    if auto is not None:
        cls = getattr(transformers, auto, None) if isinstance(auto, str) else auto
        if cls is None or not hasattr(cls, "from_pretrained"):
            raise WrongModelClassError(
                f"transformers has no model class {auto!r}",
                seen=_near_auto_classes(str(auto)),
                fix='for example "AutoModelForSequenceClassification"',
            )
        return cls
    candidates = [kind for kind in _GENERATE_TEXT if _maps(kind, config)]
    candidates += [
        kind
        for kind in _GENERATE_TEXT
        if kind in (getattr(config, "auto_map", None) or {}) and kind not in candidates
    ]
    written = (getattr(config, "architectures", None) or [""])[0]
    for kind in candidates:
        if written and written in _class_names(kind, config):
            return getattr(transformers, kind)
    other = _other_head(written, config)
    if other is not None or not candidates or _is_encoder(config):
        kind = other or "AutoModel"
        raise WrongModelClassError(
            f"{name!r} is a `{written or type(config).__name__}`, which does not generate text",
            why="a `LanguageModel` needs a model with `generate`",
            fix=f"tracekit.hf.TransformersModel({name!r}, auto={kind!r})",
        )
    return getattr(transformers, candidates[0])


def _mapping(kind: str) -> Any:
    return getattr(getattr(transformers, kind), "_model_mapping", {})


def _maps(kind: str, config: PretrainedConfig) -> bool:
    return type(config) in _mapping(kind)


def _class_names(kind: str, config: PretrainedConfig) -> set[str]:
    """Names of the classes that auto class *kind* makes of *config*."""
    if not _maps(kind, config):
        reference = (getattr(config, "auto_map", None) or {}).get(kind, "")
        return {str(reference).rpartition(".")[2]}
    found = _mapping(kind)[type(config)]
    return {cls.__name__ for cls in (found if isinstance(found, (tuple, list)) else (found,))}


def _other_head(written: str, config: PretrainedConfig) -> str | None:
    """Give the auto class of the head a checkpoint was saved with, if it is no generating one."""
    if not written:
        return None
    for kind in dir(modeling_auto):
        if (
            kind.startswith("AutoModelFor")
            and kind not in (*_GENERATE_TEXT, "AutoModelForPreTraining", "AutoModelForMultimodalLM")
            and hasattr(transformers, kind)
            and _maps(kind, config)
            and written in _class_names(kind, config)
        ):
            return kind
    return None


def _is_encoder(config: PretrainedConfig) -> bool:
    """Say whether this is a BERT: a class that can generate exists, its checkpoints cannot."""
    return (
        _maps("AutoModelForMaskedLM", config)
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "is_encoder_decoder", False)
    )


def _near_auto_classes(name: str) -> str:
    known = [kind for kind in dir(modeling_auto) if kind.startswith("AutoModel")]
    return "there are: " + ", ".join(difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.3))


def future_device(device_map: Any) -> torch.device:
    """Say where a model's inputs will have to be, from the `device_map` it will be loaded with.

    Args:
        device_map: As `from_pretrained` takes it.

    Returns:
        The device of the first part of the model. For `"auto"` and its like the first accelerator,
        if there is one; a model that does not fit there may still end up elsewhere.
    """
    first = next(iter(device_map.values()), None) if isinstance(device_map, dict) else device_map
    if first is None:
        return torch.get_default_device()
    if isinstance(first, torch.device):
        return first
    if first == "disk":
        return torch.device("cpu")
    if isinstance(first, int):
        return torch.device(_accelerator() or "cuda", first)
    if first in ("auto", "balanced", "balanced_low_0", "sequential"):
        kind = _accelerator()
        return torch.device("cpu") if kind is None else torch.device(kind, 0)
    return torch.device(first)


def _accelerator() -> str | None:
    """Give the kind of accelerator that is here."""
    # Asked for one that is not there, older versions raise.
    found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
    return found.type if found else None


def current_device(module: nn.Module) -> torch.device:
    """Say where a loaded model's inputs have to be.

    Args:
        module: Possibly spread over devices, or offloaded; then its parameters are on the meta
            device outside of their forward, and accelerate knows where they run.

    Returns:
        The device of the first part of the model; the CPU for a model without parameters.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        where = getattr(hook, "execution_device", None)
        if where is not None:
            return torch.device(where) if not isinstance(where, int) else future_device(where)
    for parameter in module.parameters():
        return parameter.device
    for buffer in module.buffers():
        return buffer.device
    return torch.device("cpu")


def offloaded(module: nn.Module, name: str) -> torch.Tensor | None:
    """Give the values of a parameter that accelerate keeps elsewhere while its module rests.

    Args:
        module: The module that owns the parameter.
        name: The parameter's name in the module.

    Returns:
        The tensor that the next forward will use, on the CPU; from a disk it is a copy. `None`
        when accelerate does not keep it.
    """
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights is None:
            continue
        try:
            found: torch.Tensor = weights[name]
        except KeyError:
            continue
        return found
    return None


def load_tokenizer(name: str, **options: Any) -> Any:
    """Load the tokenizer that belongs to a checkpoint.

    Equivalent to `AutoTokenizer.from_pretrained(name, **options)`, except that a folder without
    tokenizer files is an error: transformers makes an empty tokenizer of it, for which every text
    has no tokens.

    Args:
        name: A folder, or a name on the hub.
        options: Passed on.

    Returns:
        The tokenizer.

    Raises:
        NoTokenizerError: `no-tokenizer`.
    """
    folder = Path(name) / (options.get("subfolder") or "")
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise no_tokenizer(f"the folder {str(folder)!r} has no tokenizer files")
    try:
        with explained(name):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except HubUnreachableError:
        raise
    except (OSError, ValueError, KeyError, ImportError, TracekitError) as error:
        found = no_tokenizer(f"no tokenizer can be loaded for {name!r}")
        found.seen = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise found from error
    return tokenizer


def no_tokenizer(what: str) -> NoTokenizerError:
    """Make the error for a model that has no tokenizer.

    Args:
        what: What was found, in one line.

    Returns:
        The error, to be raised.
    """
    return NoTokenizerError(
        what,
        why="text becomes token ids by a tokenizer; token ids can be given without one",
        fix='LanguageModel(..., tokenizer=AutoTokenizer.from_pretrained("...")), or trace ids: '
        "model.trace([[1, 2, 3]])",
    )


def load_processor(name: str, **options: Any) -> Any:
    """Load the processor that turns images, audio and text into a checkpoint's inputs.

    Equivalent to `AutoProcessor.from_pretrained(name, **options)`, except for the error.

    Args:
        name: A folder, or a name on the hub.
        options: Passed on.

    Returns:
        The processor; for a model that only takes text, its tokenizer.

    Raises:
        NoTokenizerError: `no-tokenizer`.
    """
    try:
        with explained(name):
            return transformers.AutoProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
    except HubUnreachableError:
        raise
    except (OSError, ValueError, KeyError, ImportError, TracekitError) as error:
        raise NoTokenizerError(
            f"no processor can be loaded for {name!r}",
            seen=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            why="images and audio become a model's inputs by a processor",
            fix='LanguageModel(..., processor=AutoProcessor.from_pretrained("..."))',
        ) from error
