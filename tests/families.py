"""Tiny models of twenty families, made from configs: no network, 20 to 60 thousand parameters.

`FAMILIES["llama"]` is a `Family`: `build()` gives the module in eval mode, `inputs()` keyword
inputs for one forward, `generates` tells whether it has a `generate` that takes them. Token ids
of begin, end and padding lie inside the vocabulary, else transformers warns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402 (after the skip)
from torch import Tensor, nn  # noqa: E402

BEFORE_5 = int(transformers.__version__.partition(".")[0]) < 5
"""This transformers is of the oldest that are supported: its models are built otherwise."""

VOCAB = 97
SEQ = 7
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {"vocab_size": VOCAB, **IDS}
DEEP = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Family:
    """How to build one tiny model and what to feed it."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[..., dict[str, Any]]
    generates: bool = True

    def build(self, seed: int = 0) -> nn.Module:
        """Build the module with reproducible weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make().eval()

    def build_on_meta(self) -> nn.Module:
        """Build the module without weights."""
        with torch.device("meta"):
            return self.make().eval()


def ids(rows: int = 2, seq: int = SEQ) -> Tensor:
    """Token ids, shape (rows, seq), without special ones."""
    return torch.randint(3, VOCAB - 4, (rows, seq), generator=torch.Generator().manual_seed(rows))


def text(rows: int = 2) -> dict[str, Any]:
    return {"input_ids": ids(rows), "attention_mask": torch.ones(rows, SEQ, dtype=torch.long)}


def pixels(rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)
    return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}


def pair(rows: int = 2) -> dict[str, Any]:
    return {**text(rows), "decoder_input_ids": ids(rows, 3)}


def sound(rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)
    return {
        "input_features": torch.randn(rows, 8, 32, generator=generator),
        "decoder_input_ids": ids(rows, 3),
    }


def text_and_pixels(rows: int = 2) -> dict[str, Any]:
    return {**text(rows), **pixels(rows)}


def picture_and_text(rows: int = 2) -> dict[str, Any]:
    image = torch.full((rows, 4), VOCAB - 1)
    joined = torch.cat([ids(rows, 3), image, ids(rows, 2)], dim=1)
    return {"input_ids": joined, "attention_mask": torch.ones_like(joined), **pixels(rows)}


def _family(
    name: str,
    model: str,
    config: Callable[[], Any],
    inputs: Callable[..., dict[str, Any]] = text,
    *,
    generates: bool = True,
) -> Family:
    def make() -> nn.Module:
        made: nn.Module = getattr(transformers, model)(config())
        return made

    return Family(name, make, inputs, generates)


def _config(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**options)


_MOE = {**TEXT, **DEEP, **GROUPED, "num_experts_per_tok": 2}
_PAIR = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 48}
_PAIR |= {"decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}

_ALL = [
    _family(
        "gpt2",
        "GPT2LMHeadModel",
        _config("GPT2Config", n_embd=32, n_layer=2, n_head=4, n_positions=64, **TEXT),
    ),
    _family("llama", "LlamaForCausalLM", _config("LlamaConfig", **TEXT, **DEEP, **GROUPED)),
    _family(
        "neox",
        "GPTNeoXForCausalLM",
        _config("GPTNeoXConfig", intermediate_size=48, **TEXT, **DEEP),
    ),
    _family(
        "opt",
        "OPTForCausalLM",
        _config("OPTConfig", ffn_dim=48, word_embed_proj_dim=32, **TEXT, **DEEP),
    ),
    _family(
        "gemma2",
        "Gemma2ForCausalLM",
        _config(
            "Gemma2Config",
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=4,
            **TEXT,
            **DEEP,
            **GROUPED,
        ),
    ),
    _family(
        "gemma3",
        "Gemma3ForCausalLM",
        _config(
            "Gemma3TextConfig",
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=4,
            **TEXT,
            **DEEP,
            **GROUPED,
        ),
    ),
    _family(
        "qwen3",
        "Qwen3ForCausalLM",
        _config("Qwen3Config", head_dim=8, **TEXT, **DEEP, **GROUPED),
    ),
    _family(
        "qwen3moe",
        "Qwen3MoeForCausalLM",
        _config("Qwen3MoeConfig", head_dim=8, moe_intermediate_size=16, num_experts=4, **_MOE),
    ),
    _family("mixtral", "MixtralForCausalLM", _config("MixtralConfig", num_local_experts=4, **_MOE)),
    _family(
        "gptoss",
        "GptOssForCausalLM",
        _config("GptOssConfig", head_dim=8, num_local_experts=4, sliding_window=4, **_MOE),
    ),
    _family(
        "deepseekv3",
        "DeepseekV3ForCausalLM",
        _config(
            "DeepseekV3Config",
            **{**_MOE, "num_key_value_heads": 4},
            moe_intermediate_size=16,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
        ),
    ),
    _family(
        "bert",
        "BertForMaskedLM",
        _config("BertConfig", intermediate_size=48, vocab_size=VOCAB, pad_token_id=0, **DEEP),
        generates=False,
    ),
    _family(
        "vit",
        "ViTForImageClassification",
        _config("ViTConfig", **VISION),
        pixels,
        generates=False,
    ),
    _family(
        "clip",
        "CLIPModel",
        _config(
            "CLIPConfig",
            text_config={**TEXT, **DEEP, "intermediate_size": 48, "projection_dim": 16},
            vision_config={**VISION, "projection_dim": 16},
            projection_dim=16,
        ),
        text_and_pixels,
        generates=False,
    ),
    _family(
        "t5",
        "T5ForConditionalGeneration",
        _config(
            "T5Config",
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            vocab_size=VOCAB,
            eos_token_id=2,
            pad_token_id=0,
        ),
        pair,
    ),
    _family(
        "bart",
        "BartForConditionalGeneration",
        _config(
            "BartConfig",
            max_position_embeddings=64,
            decoder_start_token_id=1,
            forced_eos_token_id=None,
            **_PAIR,
            **TEXT,
        ),
        pair,
    ),
    _family(
        "whisper",
        "WhisperForConditionalGeneration",
        _config(
            "WhisperConfig",
            num_mel_bins=8,
            max_source_positions=16,
            max_target_positions=32,
            decoder_start_token_id=1,
            **_PAIR,
            **TEXT,
        ),
        sound,
    ),
    _family(
        "mamba",
        "MambaForCausalLM",
        _config(
            "MambaConfig",
            hidden_size=32,
            num_hidden_layers=2,
            state_size=4,
            intermediate_size=64,
            time_step_rank=4,
            **TEXT,
        ),
    ),
    _family(
        "mamba2",
        "Mamba2ForCausalLM",
        _config(
            "Mamba2Config",
            hidden_size=32,
            num_hidden_layers=2,
            state_size=8,
            num_heads=4,
            head_dim=16,
            n_groups=1,
            chunk_size=8,
            **TEXT,
        ),
    ),
    _family(
        "llava",
        "LlavaForConditionalGeneration",
        lambda: transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**TEXT, **DEEP, **GROUPED),
            vision_config=transformers.CLIPVisionConfig(projection_dim=16, **VISION),
            image_token_index=VOCAB - 1,
            image_token_id=VOCAB - 1,
            vision_feature_layer=-1,
        ),
        picture_and_text,
    ),
]
FAMILIES = {family.name: family for family in _ALL}
