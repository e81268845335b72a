"""From what a person has (text, ids, chats, encodings, images) to what a model's forward takes.

Two steps, because a batch is only known when all its invokes are: `Reader.read` makes a `Prompt`
of one input, and `Reader.join` lays several prompts into one call.

A shorter prompt of a batch is padded on the left (on the right for encoders and
encoder-decoders), its mask says so, and its positions are counted from its first token; so it
gives the same activations as alone. A prompt that is alone is passed as it came: the call is
then, argument for argument, the one that a person would write with transformers.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tracekit.errors import DoubleBosWarning, MixedInputsError, PromptError

from ._images import image_token
from ._prompts import (
    Prompt,
    cached_columns,
    given_cache,
    lengthen_mask,
    merge_options,
    positions_of,
    short,
)

IGNORED_LABEL: Final = -100
"""The label that transformers' losses leave out."""

_ALONG_TOKENS: Final = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "labels",
    "inputs_embeds",
    "decoder_input_ids",
    "decoder_attention_mask",
    "mm_token_type_ids",
)
"""Fields with one row per prompt and one column per token."""

_OF_THE_DECODER: Final = ("labels", "decoder_input_ids", "decoder_attention_mask")
"""The columns of these are the decoder's in an encoder-decoder model."""

_FOR_THE_PROCESSOR: Final = ("text", "images", "audio", "videos", "sampling_rate")

_BESIDES: Final = frozenset({"text", "padding", "padding_side", "sampling_rate"})
"""What a processor is given besides images and audio."""

_FEATURES: Final = ("feature_", "image_", "input_", "pixel_", "video_")
"""How the names of what a processor makes of images and audio begin."""

_FIXED_WIDTH: Final = ("input_features",)
"""Fields with one row per prompt and a width of their own: joined when the widths agree."""

_ONE_LABEL_A_ROW: Final = tuple(
    f"{kind}Classification" for kind in ("Sequence", "Image", "Audio", "Video")
)
"""How the names of classes end whose labels are not those of tokens; so transformers does it."""

_IMAGE_DIMS: Final = 4


class Reader:
    """Reads the inputs of one model.

    Args:
        model: The model: its `forward` says which fields it takes, its config the rest.
        tokenizer: Gives the tokenizer, when text is read.
        processor: Gives the processor, when images or audio are read.
        embed: Gives the embedding, shape (rows, seq, d_model), of ids of shape (rows, seq).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[], Any],
        processor: Callable[[], Any],
        embed: Callable[[Tensor], Tensor],
    ) -> None:
        self._config = model.config
        self._text_config = _text_config(model.config)
        self._main_input: str = getattr(model, "main_input_name", "input_ids")
        self._parameters = frozenset(inspect.signature(_original_forward(model)).parameters)
        self._tokenizer = tokenizer
        self._processor = processor
        self._embed = embed
        self._classifies_rows = _class_name(model).endswith(_ONE_LABEL_A_ROW)
        self.encoder_decoder = bool(getattr(self._config, "is_encoder_decoder", False))
        self.pads_left = not self.encoder_decoder and hasattr(model, "generate")

    def has_prompt(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Say whether the arguments of a call hold a prompt, and not only options.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
        """
        return bool(args) or any(
            key in _ALONG_TOKENS
            or key in _FOR_THE_PROCESSOR
            or key == self._main_input
            or key.startswith(_FEATURES)
            for key in kwargs
        )

    # One input.

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Prompt:
        """Read one input.

        Args:
            args: At most one: text, a list of texts, token ids (a list, a list of lists, a tensor,
                an array), a chat (a list of messages), a list of chats, or an encoding.
            kwargs: Keyword arguments of the forward; `text`, `images`, `audio` and `videos` go
                through the processor.

        Returns:
            The prompt. Tensors are where they were; nothing is copied without need.

        Raises:
            PromptError: `bad-prompt`. Not one of these, or empty, or given twice.
            NoTokenizerError: `no-tokenizer`. Text, and no tokenizer.
        """
        rest = dict(kwargs)
        add_special = rest.pop("add_special_tokens", None)
        if len(args) > 1:
            raise PromptError(
                f"{len(args)} prompts were given side by side",
                fix=f"one list: [{', '.join(short(arg) for arg in args)}], or keywords: "
                "model.trace(ids, attention_mask=mask)",
            )
        given = args[0] if args else None
        again = [key for key in ("input_ids", "inputs_embeds", "text") if rest.get(key) is not None]
        if given is not None and again:
            raise PromptError(
                "the prompt is given twice",
                seen=f"{short(given)} and {again[0]}={short(rest[again[0]])}",
                fix="leave one of the two out",
            )
        for_processor: dict[str, Any] = {
            key: rest.pop(key) for key in _FOR_THE_PROCESSOR if key in rest
        }
        if for_processor.keys() - {"text", "sampling_rate"}:
            if given is not None:
                for_processor["text"] = given
            found = self._process(for_processor)
        elif given is None and "text" in for_processor:
            found = self._read_one(for_processor["text"], add_special)
        elif given is None:
            found = {}
        else:
            found = self._read_one(given, add_special)
        return self._prompt({**found, **rest})

    def _read_one(self, given: Any, add_special: bool | None) -> dict[str, Any]:
        if isinstance(given, str):
            return self._tokenize([given], add_special)
        if isinstance(given, Mapping) and "role" not in given:
            return {str(key): value for key, value in given.items()}
        if isinstance(given, Mapping):
            return self._chat([[given]])
        if isinstance(given, Tensor) or hasattr(given, "__array__"):
            return self._tensor(torch.as_tensor(given))
        if not isinstance(given, (list, tuple)):
            raise PromptError(
                f"{short(given)} is no prompt",
                seen=f"its type is {type(given).__name__}",
                fix='model.trace("text"), model.trace(["text", "text"]) or model.trace(ids)',
            )
        if not given:
            raise PromptError("the list of prompts is empty", fix='model.trace(["text"])')
        if all(isinstance(one, str) for one in given):
            return self._tokenize(list(given), add_special)
        if all(isinstance(one, Mapping) and "role" in one for one in given):
            return self._chat([list(given)])
        if all(
            isinstance(one, (list, tuple))
            and one
            and all(isinstance(message, Mapping) and "role" in message for message in one)
            for one in given
        ):
            return self._chat([list(one) for one in given])
        return self._ids(_as_rows(given))

    def _tokenize(self, texts: list[str], add_special: bool | None) -> dict[str, Any]:
        for index, text in enumerate(texts):
            if not text:
                which = f"text {index} of {len(texts)}" if len(texts) > 1 else "the prompt"
                raise PromptError(
                    f"{which} is empty",
                    why="an empty prompt has no token to run the model on",
                    fix="to start from nothing: model.trace([[model.tokenizer.bos_token_id]])",
                )
        tokenizer = self._tokenizer()
        options = {} if add_special is None else {"add_special_tokens": add_special}
        encoding = tokenizer(texts, **options)
        found = self._ids([list(row) for row in encoding["input_ids"]], mask=True)
        types = encoding.get("token_type_ids")
        if types is not None and "token_type_ids" in self._parameters:
            found["token_type_ids"] = self._pad_rows("token_type_ids", _as_rows(types))
        return found

    def _chat(self, chats: list[list[Any]]) -> dict[str, Any]:
        rich = any(
            isinstance(part, Mapping) and part.get("type", "text") != "text"
            for chat in chats
            for message in chat
            if isinstance(message.get("content"), (list, tuple))
            for part in message["content"]
        )
        holder = self._processor() if rich else self._tokenizer()
        # An unfinished conversation is the user's turn answered: what the model was trained on.
        open_ended = all(chat[-1]["role"] != "assistant" for chat in chats)
        try:
            if rich:
                side = {"padding_side": "left"} if self.pads_left else {}
                encoding = holder.apply_chat_template(
                    chats if len(chats) > 1 else chats[0],
                    add_generation_prompt=open_ended,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    **({"padding": True, **side} if len(chats) > 1 else {}),
                )
                return dict(encoding)
            rows = [
                holder.apply_chat_template(
                    chat, add_generation_prompt=open_ended, tokenize=True, return_dict=True
                )["input_ids"]
                for chat in chats
            ]
        except ValueError as error:
            if "chat_template" not in str(error) and "chat template" not in str(error):
                raise
            raise PromptError(
                "chat messages were given, and the tokenizer has no chat template",
                why="a base model knows no roles; only models tuned on chats have a template",
                fix="give text instead, or set model.tokenizer.chat_template",
            ) from error
        return self._ids(rows, mask=True)

    def _tensor(self, value: Tensor) -> dict[str, Any]:
        if value.is_floating_point():
            if self._main_input in ("input_ids", "inputs_embeds"):
                raise PromptError(
                    f"a tensor of {str(value.dtype).removeprefix('torch.')} is no token ids",
                    seen=f"shape {tuple(value.shape)}",
                    fix="for embeddings: model.trace(inputs_embeds=x); for ids: x.long()",
                )
            return {self._main_input: value}
        if value.dim() not in (1, 2) or value.shape[-1] == 0:
            raise PromptError(
                f"token ids of shape {tuple(value.shape)}",
                why="ids are one prompt, shape (seq,), or several, shape (rows, seq); not empty",
                fix="ids.reshape(1, -1)",
            )
        return {self._main_input: value if value.dim() == 2 else value[None]}

    def _ids(self, rows: list[list[int]], *, mask: bool = False) -> dict[str, Any]:
        """Lay rows of ids out, shape (rows, longest); with a mask where it is needed."""
        for index, row in enumerate(rows):
            if not row:
                raise PromptError(
                    f"prompt {index} of {len(rows)} has no tokens",
                    why="an empty prompt has no token to run the model on",
                    fix="leave it out",
                )
        found: dict[str, Any] = {"input_ids": self._pad_rows("input_ids", rows)}
        if mask or len({len(row) for row in rows}) > 1:
            found["attention_mask"] = self._pad_rows("attention_mask", [[1] * len(r) for r in rows])
        return found

    def _process(self, given: dict[str, Any]) -> dict[str, Any]:
        processor = self._processor()
        sampling_rate = given.pop("sampling_rate", None)
        if sampling_rate is not None:
            given["sampling_rate"] = sampling_rate
        if isinstance(given.get("text"), (list, tuple)):
            given["padding"] = True
            if self.pads_left:
                given["padding_side"] = "left"
        elif given.get("text") is None:
            given.pop("text", None)
        if not callable(processor) or (
            hasattr(processor, "convert_tokens_to_ids") and not hasattr(processor, "tokenizer")
        ):
            raise PromptError(
                f"{' and '.join(sorted(given.keys() - _BESIDES))} were given, and the "
                "model has no processor for them",
                fix='LanguageModel(..., processor=AutoProcessor.from_pretrained("..."))',
            )
        return dict(processor(**given, return_tensors="pt"))

    def _prompt(self, given: dict[str, Any]) -> Prompt:
        """Sort the keyword arguments of one call into fields, features and options."""
        fields: dict[str, Tensor] = {}
        features: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for key, value in given.items():
            if value is None:
                continue
            if key in _ALONG_TOKENS:
                fields[key] = self._field(key, value)
            elif isinstance(value, Tensor) and (
                key == self._main_input or key.startswith(_FEATURES)
            ):
                features[key] = value
            else:
                options[key] = value
        leading = next(
            (
                fields[key]
                for key in ("input_ids", "inputs_embeds", "decoder_input_ids", "labels")
                if key in fields
            ),
            None,
        )
        if leading is None:
            leading = features.get(self._main_input)
        rows = len(leading) if isinstance(leading, Tensor) and leading.dim() else 0
        self._check_shapes(fields, rows)
        if "input_ids" in fields:
            self._warn_double_bos(fields)
        return Prompt(fields, features, options, rows)

    def _field(self, key: str, value: Any) -> Tensor:
        if key == "labels" and self._classifies_rows:
            classes = torch.as_tensor(value)
            return classes if classes.dim() else classes[None]
        if isinstance(value, str) or (
            isinstance(value, (list, tuple)) and value and isinstance(value[0], str)
        ):
            texts = [value] if isinstance(value, str) else list(value)
            return self._pad_rows(key, [list(row) for row in self._tokenizer()(texts)["input_ids"]])
        if isinstance(value, (list, tuple)):
            if value and isinstance(value[0], Tensor) and value[0].is_floating_point():
                value = torch.stack(list(value))
            else:
                return self._pad_rows(key, _as_rows(value))
        tensor = torch.as_tensor(value)
        alone = 2 if key == "inputs_embeds" else 1
        return tensor[None] if tensor.dim() == alone else tensor

    def _check_shapes(self, fields: dict[str, Tensor], rows: int) -> None:
        for key, value in fields.items():
            if value.dim() and len(value) != rows and key != "position_ids":
                raise PromptError(
                    f"{key} has {len(value)} rows, the prompt has {rows}",
                    seen=", ".join(f"{name} {tuple(one.shape)}" for name, one in fields.items()),
                    fix=f"give {key} one row per prompt",
                )
        labels, ids = fields.get("labels"), fields.get("input_ids")
        if (
            labels is not None
            and ids is not None
            and not self.encoder_decoder
            and hasattr(self._config, "vocab_size")
            and labels.dim() == ids.dim()
            and labels.shape != ids.shape
        ):
            raise PromptError(
                f"labels of shape {tuple(labels.shape)} for ids of shape {tuple(ids.shape)}",
                why="a language model has one label per token; -100 leaves one out of the loss",
                fix="labels=ids",
            )

    def _warn_double_bos(self, fields: dict[str, Tensor]) -> None:
        ids = fields["input_ids"]
        bos = getattr(self._text_config, "bos_token_id", None)
        if bos is None or ids.dim() != 2 or ids.shape[1] < 2 or ids.device.type == "meta":
            return
        mask = fields.get("attention_mask")
        if mask is None or mask.shape != ids.shape:
            if bos == self._pad_id():
                return
            mask = torch.ones_like(ids)
        first = mask.to(torch.int8).argmax(1)
        second = (first + 1).clamp(max=ids.shape[1] - 1)
        row = torch.arange(len(ids), device=ids.device)
        doubled = (ids[row, first] == bos) & (ids[row, second] == bos) & (second > first)
        if bool(doubled.any()):
            which = int(doubled.to(torch.int8).argmax())
            message = (
                f"prompt {which} begins with two beginning-of-sequence tokens (id {bos}): the text "
                "has one and the tokenizer adds one. Fix: trace(text, add_special_tokens=False)"
            )
            warnings.warn(message, DoubleBosWarning, stacklevel=_users_level())

    # Padding.

    def _pad_id(self) -> int:
        """Give an id to pad with; which one does not matter, since it is masked."""
        for key in ("pad_token_id", "eos_token_id"):
            value = getattr(self._text_config, key, None)
            if isinstance(value, (list, tuple)):
                value = value[0] if value else None
            if isinstance(value, int) and value >= 0:
                return value
        return 0

    def _filler(self, key: str) -> float:
        if key in ("input_ids", "decoder_input_ids"):
            return self._pad_id()
        return IGNORED_LABEL if key == "labels" else 0

    def _left(self, key: str) -> bool:
        return self.pads_left and not (self.encoder_decoder and key in _OF_THE_DECODER)

    def _pad_rows(self, key: str, rows: list[list[int]]) -> Tensor:
        width = max(map(len, rows), default=0)
        filler = int(self._filler(key))
        if key == "labels" and self._left(key):
            rows = [row if len(row) == width else [filler, *row[1:]] for row in rows]
        padded = [
            [filler] * (width - len(row)) + list(row)
            if self._left(key)
            else list(row) + [filler] * (width - len(row))
            for row in rows
        ]
        return torch.tensor(padded, dtype=torch.long)

    def _widen(self, key: str, value: Tensor, width: int) -> Tensor:
        if value.dim() == 1:
            return value
        missing = width - value.shape[1]
        if missing == 0:
            return value
        if key == "labels" and self._left(key):
            # Alone, nothing predicts a prompt's first token; here a pad would.
            value = torch.cat([value.new_full((len(value), 1), IGNORED_LABEL), value[:, 1:]], 1)
        shape = (value.shape[0], missing, *value.shape[2:])
        pad = value.new_full(shape, self._filler(key))
        return torch.cat([pad, value] if self._left(key) else [value, pad], 1)

    # Several inputs.

    def join(self, prompts: Sequence[Prompt], *, generating: bool = False) -> dict[str, Any]:
        """Lay several prompts into one call.

        Equivalent to `merge(prompts).arguments()`: keyword arguments of the forward.
        """
        return self.merge(prompts, generating=generating).arguments()

    def merge(self, prompts: Sequence[Prompt], *, generating: bool = False) -> Prompt:
        """Make one prompt of several.

        Args:
            prompts: At least one.
            generating: For `generate`, which counts positions itself.

        Returns:
            All their rows; those of the first prompt come first.

        Raises:
            MixedInputsError: `mixed-inputs`. Images or other features beside another prompt.
            PromptError: `bad-prompt`. Two prompts give one option two values.
        """
        first = prompts[0]
        if len(prompts) == 1:
            fields, features = dict(first.fields), first.features
        else:
            fields = self._join_fields([dict(prompt.fields) for prompt in prompts])
            features = self._join_features(prompts)
            for prompt in prompts:
                if given_cache(prompt.options) is not None:
                    raise MixedInputsError(
                        "a cache is given in one of several invokes",
                        why="all rows of a batch go through one call, with one cache",
                        fix="trace this prompt alone, or give all rows that the cache holds",
                    )
        if not generating and (cache := given_cache(first.options)) is not None:
            lengthen_mask(fields, cached_columns(cache))
        if not generating and self.pads_left and not self._own_positions(features):
            self._add_positions(fields)
        rows = sum(prompt.rows for prompt in prompts)
        return Prompt(fields, features, merge_options(prompts), rows)

    def _join_fields(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        embedded = ["inputs_embeds" in part for part in parts]
        if any(embedded) and not all(embedded):
            parts = [self._embedded(part) for part in parts]
        lead = "inputs_embeds" if any(embedded) else "input_ids"
        keys = list(dict.fromkeys(key for part in parts for key in part))
        ragged = len({part[lead].shape[1] for part in parts if lead in part}) > 1
        if (ragged or "attention_mask" in keys) and all(lead in part for part in parts):
            for part in parts:
                rows, seq = part[lead].shape[:2]
                part.setdefault(
                    "attention_mask",
                    torch.ones(rows, seq, dtype=torch.long, device=part[lead].device),
                )
            if "attention_mask" not in keys:
                keys.append("attention_mask")
        joined: dict[str, Tensor] = {}
        for key in keys:
            values = [self._default(key, part, lead) for part in parts]
            width = max(value.shape[1] if value.dim() > 1 else 1 for value in values)
            if key == "attention_mask" and any(value.dim() != 2 for value in values):
                raise MixedInputsError(
                    "an attention mask of shape (rows, heads, seq, seq) in one of several invokes",
                    why="it cannot be widened to the longest prompt of the batch",
                    fix="trace this prompt alone",
                )
            device = values[0].device
            joined[key] = torch.cat([self._widen(key, value.to(device), width) for value in values])
        return joined

    def _embedded(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn ids into embeddings, to be batched with a prompt that is given as embeddings."""
        if "inputs_embeds" in part or "input_ids" not in part:
            return part
        ids = part["input_ids"]
        rest = {key: value for key, value in part.items() if key != "input_ids"}
        return {"inputs_embeds": self._embed(ids), **rest}

    def _default(self, key: str, part: dict[str, Tensor], lead: str) -> Tensor:
        """Give a field of one prompt, or what stands for it where only other prompts have it."""
        if key in part:
            value = part[key]
            if key == "position_ids" and value.shape[0] == 1 and part[lead].shape[0] > 1:
                return value.expand(part[lead].shape[0], -1)
            return value
        if lead in part:
            model = part[lead]
            rows, seq = model.shape[:2]
            if key == "position_ids":
                return torch.arange(seq, device=model.device).expand(rows, seq)
            if key == "token_type_ids" and not hasattr(self._text_config, "type_vocab_size"):
                # Such as GPT-2, which adds the embedding of token 0 where a type is 0.
                raise MixedInputsError(
                    "one invoke gives token_type_ids, another does not",
                    why="this model takes types of tokens for tokens, so 0 is not the same as none",
                    fix="give ids, or a tokenizer that makes no token_type_ids",
                )
            if key == "labels" and self._classifies_rows:
                return torch.full((rows,), IGNORED_LABEL, device=model.device)
            if key == "token_type_ids" or (key == "labels" and not self.encoder_decoder):
                return torch.full((rows, seq), int(self._filler(key)), device=model.device)
        raise MixedInputsError(
            f"one invoke gives {key}, another does not",
            why="all rows of a batch go through one call of the model",
            fix=f"give {key} in all invokes, or trace them one by one",
        )

    def _join_features(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        keys = list(dict.fromkeys(key for prompt in prompts for key in prompt.features))
        joined: dict[str, Any] = {}
        for key in keys:
            values = [prompt.features.get(key) for prompt in prompts]
            tensors = [value for value in values if isinstance(value, Tensor)]
            if self._goes_in_order(key, tensors, prompts):
                joined[key] = torch.cat(tensors)
                continue
            if (
                not (key in _FIXED_WIDTH or (key == "pixel_values" and _are_images(tensors)))
                or len(tensors) < len(values)
                or len({value.shape[1:] for value in tensors}) > 1
                or any(len(v) != p.rows for v, p in zip(tensors, prompts, strict=True))
            ):
                raise MixedInputsError(
                    f"{key} cannot be batched with another invoke's input",
                    seen=", ".join(
                        f"invoke {i}: {tuple(v.shape) if isinstance(v, Tensor) else 'none'}"
                        for i, v in enumerate(values)
                    ),
                    why="which rows of such a tensor belong to which prompt is the model's affair",
                    fix="trace it alone, or give all texts and images in one invoke",
                )
            joined[key] = torch.cat(tensors)
        return joined

    def _goes_in_order(
        self, key: str, tensors: Sequence[Tensor], prompts: Sequence[Prompt]
    ) -> bool:
        """Say whether these are images that the model puts in the places of tokens, in order."""
        token = image_token(self._config)
        return (
            key == "pixel_values"
            and _are_images(tensors)
            and len({value.shape[1:] for value in tensors}) == 1
            and token is not None
            and all(
                "input_ids" in prompt.fields
                and ("pixel_values" in prompt.features)
                == bool((prompt.fields["input_ids"] == token).any())
                for prompt in prompts
            )
        )

    def _own_positions(self, features: Mapping[str, Any]) -> bool:
        """Say whether the model counts positions in a way of its own, such as by image patches."""
        rope = getattr(self._text_config, "rope_parameters", None) or getattr(
            self._text_config, "rope_scaling", None
        )
        return bool(features) or (isinstance(rope, Mapping) and "mrope_section" in rope)

    def _add_positions(self, fields: dict[str, Tensor]) -> None:
        mask = fields.get("attention_mask")
        if (
            mask is None
            or mask.dim() != 2
            or mask.device.type == "meta"
            or "position_ids" in fields
            or "position_ids" not in self._parameters
        ):
            return
        if bool((mask[:, 1:] > mask[:, :-1]).any()):
            # Learned positions, as in GPT-2, are otherwise counted from the first column.
            lead = fields.get("input_ids", fields.get("inputs_embeds"))
            width = mask.shape[1] if lead is None else lead.shape[1]
            fields["position_ids"] = positions_of(mask)[:, mask.shape[1] - width :]


def _are_images(tensors: Sequence[Tensor]) -> bool:
    """Say whether each is (images, channels, height, width), and not patches or tiles of them."""
    return all(value.dim() == _IMAGE_DIMS for value in tensors)


def _as_rows(value: Any) -> list[list[int]]:
    """Give rows of ids as lists, whatever they came in."""
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        tensor = torch.as_tensor(value)
        rows: list[list[int]] = (tensor if tensor.dim() > 1 else tensor[None]).tolist()
        return rows
    if all(_is_int(one) for one in value):
        return [[int(one) for one in value]]
    rows = []
    for index, row in enumerate(value):
        if isinstance(row, Tensor) or hasattr(row, "__array__"):
            row = torch.as_tensor(row).tolist()
        if not isinstance(row, (list, tuple)) or not all(_is_int(one) for one in row):
            raise PromptError(
                f"entry {index} of the list is {short(row)}",
                why="a list holds texts, token ids, lists of token ids, or messages; not a mixture",
                fix='model.trace(["text", "text"]) or model.trace([[1, 2], [3]])',
            )
        rows.append([int(one) for one in row])
    return rows


def _is_int(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    # Arrays and tensors have an `__index__` of any shape, which fails when it is used.
    return isinstance(value, int) or (hasattr(value, "__index__") and not getattr(value, "ndim", 0))


def _text_config(config: Any) -> Any:
    getter = getattr(config, "get_text_config", None)
    return getter() if getter is not None else config


def _inner(model: Any) -> Any:
    """Give the model inside an adapter's wrapper."""
    base = getattr(model, "get_base_model", None)
    return base() if base is not None else model


def _class_name(model: Any) -> str:
    return type(_inner(model)).__name__


def _original_forward(model: Any) -> Callable[..., Any]:
    """Give the forward as its class wrote it: adapters and offloading wrap it."""
    forward: Callable[..., Any] = type(_inner(model)).forward
    return forward


def _users_level() -> int:
    """Count the frames up to the first that is not ours, for a warning's `stacklevel`."""
    frame = inspect.currentframe()
    level = 0
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("tracekit."):
        frame = frame.f_back
        level += 1
    return max(level, 1)
