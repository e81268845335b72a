"""A Llama of a billion parameters on a GPU: reads, edits, and generation, against hooks.

    PYTHONPATH=src python -m benchmarks.field.gpu [--layers N]

Needs CUDA; without it a model of a few thousand parameters is run on the CPU, which shows only that
the script works. Time is taken with CUDA events around calls in turns; that no synchronisation is
added is checked by torch itself: a traced forward runs with `set_sync_debug_mode("error")`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import tracekit

_TOKENS = 32
_SITES = 16


def model_on(device: str, layers: int) -> Any:
    """A Llama of the 1B shape (16 layers, width 2,048) in bfloat16; tiny without a GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True,
    } if device == "cuda" else {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 128,
    }  # fmt: skip
    config = LlamaConfig(
        num_hidden_layers=layers, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes
    )
    with torch.device(device):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def timed_ms(run: Callable[[], object], device: str) -> float:
    """One call, from its first kernel to its last."""
    if device != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def in_turns(base: Callable[[], object], other: Callable[[], object], device: str, rounds: int
             ) -> dict[str, float]:  # fmt: skip
    """Medians in ms, the median ratio within a round, and its quartiles."""
    for _ in range(3):
        base()
        other()
    pairs = []
    for number in range(rounds):
        if number % 2:
            mine = timed_ms(base, device)
            theirs = timed_ms(other, device)
        else:
            theirs = timed_ms(other, device)
            mine = timed_ms(base, device)
        pairs.append((mine, theirs))
    low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4, method="inclusive")
    return {
        "hooks_ms": statistics.median(a for a, _ in pairs),
        "traced_ms": statistics.median(b for _, b in pairs),
        "ratio": middle, "ratio_low": low, "ratio_high": high,
    }  # fmt: skip


def _hooked(layers: Any, hook: Callable[..., Any], call: Callable[[], Any]) -> Any:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        return call()
    finally:
        for handle in handles:
            handle.remove()


def reads_and_edits(module: Any, model: Any, ids: torch.Tensor) -> tuple[Any, Any]:
    """At each of 16 layers: read the output, then halve its last position in place."""
    layers = list(module.model.layers)

    def by_hooks() -> Any:
        kept = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            kept.append(hidden[:, 0].clone())
            hidden[:, -1] *= 0.5

        return _hooked(layers, hook, lambda: module(ids).logits), kept

    def traced() -> Any:
        kept = []
        with model.trace(ids):
            for layer in model.model.layers:
                hidden = layer.output
                kept.append(hidden[:, 0].clone())
                hidden[:, -1] *= 0.5
            logits = model.output.logits
        return logits, kept

    return by_hooks, traced


def generation(module: Any, model: Any, ids: torch.Tensor) -> tuple[Any, Any]:
    """32 tokens with one read each."""
    options = {"max_new_tokens": _TOKENS, "min_new_tokens": _TOKENS, "do_sample": False}
    middle = len(module.model.layers) // 2
    mask = torch.ones_like(ids)

    def by_hooks() -> Any:
        kept = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            kept.append((output if isinstance(output, torch.Tensor) else output[0])[:, -1])

        call = lambda: module.generate(ids, attention_mask=mask, **options)  # noqa: E731
        return _hooked([module.model.layers[middle]], hook, call), kept

    def traced() -> Any:
        kept = []
        with model.generate(ids, **options) as tracer:
            for _ in tracer.iter[:]:
                kept.append(model.model.layers[middle].output[:, -1])  # noqa: PERF401
            tokens = tracer.result
        return tokens, kept

    return by_hooks, traced


def _same(expected: Any, actual: Any) -> None:
    assert torch.equal(expected[0], actual[0])
    assert len(expected[1]) == len(actual[1]) > 0
    for mine, theirs in zip(expected[1], actual[1], strict=True):
        assert torch.equal(mine, theirs)


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=_SITES)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = model_on(device, options.layers)
    model = tracekit.LanguageModel(module)
    ids = torch.randint(1, 100, (4, 128), device=device)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu: shows nothing",
        "torch": torch.__version__,
        "parameters": sum(each.numel() for each in module.parameters()),
    }
    with torch.no_grad():
        base, traced = reads_and_edits(module, model, ids)
        _same(base(), traced())
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            traced()
            torch.cuda.set_sync_debug_mode("default")
            found["synchronisations"] = 0
        found["reads_and_edits"] = in_turns(base, traced, device, options.rounds)
        base, traced = generation(module, model, ids[:1, :16])
        _same(base(), traced())
        result = in_turns(base, traced, device, max(5, options.rounds // 4))
        result["us_more_per_token"] = (result["traced_ms"] - result["hooks_ms"]) / _TOKENS * 1e3
        found["generation"] = result
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
