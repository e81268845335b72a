"""Tables of results, as Markdown."""

from __future__ import annotations

from typing import Any

from . import once
from .workloads import WORKLOADS


def time_text(us: float) -> str:
    """Write a time as people do."""
    if us < 1_000:
        return f"{us:.3g} us" if us >= 1 else f"{us:.2f} us"
    return f"{us / 1_000:.3g} ms" if us < 1_000_000 else f"{us / 1_000_000:.3g} s"


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    if "error" in result:
        return "fails"
    text = f"{result['ratio']:.3f} [{result['ratio_low']:.3f}, {result['ratio_high']:.3f}]"
    return f"{text} {result['more_us']:+.3g} us" if result["base_us"] < 1e4 else text


def _promise(workload: Any) -> str:
    if workload.ratio is not None:
        return f"{workload.ratio:g}"
    return "" if workload.more_us is None else f"+{workload.more_us:g} us"


def kept(workload: Any, result: dict[str, Any] | None) -> bool | None:
    """Whether a promise is kept; `None` where there is none, or no result."""
    if result is None or "error" in result:
        return None
    if workload.ratio is not None:
        return bool(result["ratio"] <= workload.ratio)
    if workload.more_us is not None:
        return bool(result["more_us"] <= workload.more_us)
    return None


def table(found: dict[str, Any]) -> str:
    """The workloads that are timed in turns with hooks."""
    names = list(found["libraries"])
    rows = [
        ["workload", "hooks", "promise", *names],
        ["---"] * (3 + len(names)),
    ]
    for workload in WORKLOADS:
        results = [found["libraries"][name]["results"].get(workload.id) for name in names]
        base = next((r["base_us"] for r in results if r and "base_us" in r), None)
        if not any(results):
            continue
        rows.append(
            [
                workload.title,
                "" if base is None else time_text(base),
                _promise(workload),
                *(_cell(result) for result in results),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def once_table(found: dict[str, Any]) -> str:
    """What happens once."""
    names = list(found["libraries"])
    rows = [["once", "promise", *names], ["---"] * (2 + len(names))]
    for case, title in once.TITLES.items():
        results = [found["libraries"][name]["results"].get(case) for name in names]
        if not any(results):
            continue
        cells = [
            ""
            if r is None
            else f"{r['ms']:.3g} ms [{r['low_ms']:.3g}, {r['high_ms']:.3g}]"
            + (f", again {r['again_ms']:.2g}" if "again_ms" in r else "")
            for r in results
        ]
        promise = once.PROMISES_MS.get(case)
        rows.append([title, "" if promise is None else f"{promise:g} ms", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def notes(found: dict[str, Any]) -> list[str]:
    """Memory, slopes, and what failed."""
    lines = []
    for name, library in found["libraries"].items():
        results = library["results"]
        for key, result in results.items():
            if "error" in result:
                lines.append(f"{name}, {key}: {result['error']}")
            if "peak_bytes" in result:
                lines.append(
                    f"{name}, {key}: peak memory {result['peak_bytes'] / 1e6:.2f} MB, hooks "
                    f"{result['base_peak_bytes'] / 1e6:.2f} MB"
                )
            if "tensors_more" in result:
                lines.append(
                    f"{name}, {key}: after two more, {result['tensors_more']} tensors and "
                    f"{result['rss_more_kib']} KiB more"
                )
        slopes = [
            (label, results.get(f"{kind}_{low}"), results.get(f"{kind}_{high}"), high - low)
            for kind, label, low, high in (
                ("requests", "a request, from 120 to 1,200", 120, 1200),
                ("requests", "a request, from 12 to 120", 12, 120),
                ("invokes", "an invoke, from 1 to 16", 1, 16),
                ("invokes", "an invoke, from 16 to 256", 16, 256),
            )
        ]
        for label, small, large, count in slopes:
            if small and large and "us" in small and "us" in large:
                slope = (large["more_us"] - small["more_us"]) / count
                lines.append(f"{name}: {slope:.2f} us above hooks for {label}")
    return lines
