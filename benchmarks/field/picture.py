"""The results as a picture: how many times the cost of hooks, on a logarithmic axis."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

from .workloads import WORKLOADS

_COLORS = ("#1a7f5a", "#c2571a", "#5b4bb3", "#8a6d00")
_LEFT, _RIGHT, _TOP, _ROW = 270, 40, 62, 26
_WIDTH = 860
_LEAST, _MOST = 0.9, 64.0


def _x(ratio: float) -> float:
    part = math.log(min(max(ratio, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
    return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)


def draw(found: dict[str, Any]) -> str:
    """Give the text of an SVG file."""
    names = list(found["libraries"])
    rows = []
    for workload in WORKLOADS:
        cells = [found["libraries"][name]["results"].get(workload.id) for name in names]
        if any(cell and "ratio" in cell for cell in cells):
            rows.append((workload.title, cells))
    height = _TOP + _ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="20" font-size="14" font-weight="600" fill="#222">',
        "Time of a traced call, in times of the same with hand-written hooks</text>",
    ]
    at = 12
    for name, color in zip(names, _COLORS, strict=False):
        label = f"{name} {found['libraries'][name]['version']}"
        parts.append(f'<circle cx="{at + 5}" cy="38" r="5" fill="{color}"/>')
        parts.append(f'<text x="{at + 15}" y="42" fill="#222">{escape(label)}</text>')
        at += 40 + 7 * len(label)
    bottom = height - 24
    for tick in (1, 1.5, 2, 4, 8, 16, 32, 64):
        x = _x(tick)
        color = "#444" if tick == 1 else "#ddd"
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{color}"/>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" fill="#555">{tick:g}</text>'
        )
    for number, (title, cells) in enumerate(rows):
        y = _TOP + _ROW * number + 8
        parts.append(
            f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end" fill="#222">'
            f"{escape(title)}</text>"
        )
        for place, (cell, color) in enumerate(zip(cells, _COLORS, strict=False)):
            if not cell or "ratio" not in cell:
                continue
            line = y - 4 + 8 * place / max(1, len(cells) - 1)
            parts.append(
                f'<line x1="{_x(cell["ratio_low"]):.1f}" y1="{line:.1f}" '
                f'x2="{_x(cell["ratio_high"]):.1f}" y2="{line:.1f}" '
                f'stroke="{color}" stroke-width="2" opacity="0.5"/>'
            )
            parts.append(
                f'<circle cx="{_x(cell["ratio"]):.1f}" cy="{line:.1f}" r="4" fill="{color}"/>'
            )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
