"""Tiny decoders of every family with standard names, and a small tokenizer for them.

Those of `families.py` that generate from text alone, and the ones that only the language-model
tests need. `saved(tmp_path, name)` writes a model and its tokenizer into one folder, as a
checkpoint from the hub would be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import DEEP, FAMILIES, GROUPED, TEXT, VOCAB, Family, _config, _family
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_NO_TEXT_ALONE = ("bert", "vit", "clip", "t5", "bart", "whisper", "llava")
_MOE = {**TEXT, **DEEP, **GROUPED, "num_experts_per_tok": 2}
_BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4}

_MORE = [
    _family("mistral", "MistralForCausalLM", _config("MistralConfig", **TEXT, **DEEP, **GROUPED)),
    _family("qwen2", "Qwen2ForCausalLM", _config("Qwen2Config", **TEXT, **DEEP, **GROUPED)),
    _family(
        "qwen2moe",
        "Qwen2MoeForCausalLM",
        _config(
            "Qwen2MoeConfig",
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            num_experts=4,
            **_MOE,
        ),
    ),
    _family("phi", "PhiForCausalLM", _config("PhiConfig", intermediate_size=48, **TEXT, **DEEP)),
    _family("phi3", "Phi3ForCausalLM", _config("Phi3Config", **TEXT, **DEEP, **GROUPED)),
    _family("bloom", "BloomForCausalLM", _config("BloomConfig", **_BLOOM, **TEXT)),
    _family("falcon", "FalconForCausalLM", _config("FalconConfig", **TEXT, **DEEP)),
    _family(
        "falcon-alibi",
        "FalconForCausalLM",
        _config("FalconConfig", alibi=True, new_decoder_architecture=False, **TEXT, **DEEP),
    ),
    _family(
        "falcon-groups",
        "FalconForCausalLM",
        _config("FalconConfig", num_kv_heads=2, new_decoder_architecture=True, **TEXT, **DEEP),
    ),
    _family("olmo", "OlmoForCausalLM", _config("OlmoConfig", **TEXT, **DEEP, **GROUPED)),
    _family("olmo2", "Olmo2ForCausalLM", _config("Olmo2Config", **TEXT, **DEEP, **GROUPED)),
]

DECODERS: dict[str, Family] = {
    **{name: family for name, family in FAMILIES.items() if name not in _NO_TEXT_ALONE},
    **{family.name: family for family in _MORE},
}
"""Family name -> how to build a model of it that reads and writes text."""

WORDS = (
    "<pad> <s> </s> <unk> The Eiffel Tower Colosseum Brandenburg Gate is in the city of Paris Rome "
    "Berlin London . , capital France Italy Germany a an and it was user assistant : ? where what "
    "Hello world big small cat dog sat on mat"
).split()
CHAT = (
    "{{ bos_token }}{% for m in messages %} {{ m['role'] }} : {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def tokenizer(*, bos: bool = False, chat: bool = True) -> Any:
    """A word per token; ids below the vocabulary of the tiny models; pads on the right by itself.

    Args:
        bos: Put a beginning-of-sequence token before each text, as a Llama's tokenizer does.
        chat: Give it a chat template.
    """
    assert len(WORDS) < VOCAB - 4
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        # As a decoder's tokenizer has it; older versions add types of tokens by themselves.
        model_input_names=["input_ids", "attention_mask"],
    )
    if chat:
        made.chat_template = CHAT
    return made


def saved(folder: Path, name: str = "gpt2", *, with_tokenizer: bool = True) -> str:
    """Write a tiny model of a family, and the tokenizer, into *folder*; give its path."""
    path = folder / name
    family = DECODERS.get(name) or FAMILIES[name]
    family.build().save_pretrained(path)
    if with_tokenizer:
        tokenizer().save_pretrained(path)
    return str(path)
