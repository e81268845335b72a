"""How a tree of nodes is printed."""

from __future__ import annotations

from typing import Any

from torch import nn

from .tree import Node, Port, Tree


def render(node: Node) -> str:
    """Print a node as torch prints its module: equal neighbours folded, hidden names marked.

    After a scan each module that was called shows what it gave: `-> float32[2, 16, 128]`; after
    a run each whose output was read.

    Args:
        node: The top of what is printed.

    Returns:
        Several lines, without a line end at the end.
    """
    return _render(node._module, type(node), node._tree, node._path)


def _render(module: nn.Module, cls: type, tree: Tree, path: str) -> str:
    extra = module.extra_repr()
    served = served_lines(cls)
    names = {real: alias for alias, real in tree.aliases.get(path, {}).items()}
    blocks: list[tuple[list[str], str]] = []
    for name, child in module._modules.items():
        label = f"{names[name]}/{name}" if name in names else name
        if hasattr(cls, name):
            label = f'["{name}"]'
        below = f"{path}.{name}" if path else name
        text = "None" if child is None else _render(child, tree.class_of(below, child), tree, below)
        if blocks and blocks[-1][1] == text and blocks[-1][0][-1].isdigit() and label.isdigit():
            blocks[-1][0].append(label)
        else:
            blocks.append(([label], text))
    lines = []
    for labels, text in blocks:
        indented = text.replace("\n", "\n  ")
        if len(labels) == 1:
            lines.append(f"({labels[0]}): {indented}")
        else:
            lines.append(f"({labels[0]}-{labels[-1]}): {len(labels)} x {indented}")
    name = type(module).__name__
    shape = tree.shapes.get(path)
    end = ")" if shape is None else f")  -> {shown_shape(shape)}"
    lines += served
    if not lines:
        return f"{name}({extra}{end}"
    body = [*([extra] if extra else []), *lines]
    return f"{name}(\n" + "\n".join("  " + line for line in body) + f"\n{end}"


def shown_shape(shape: Any) -> str:
    """Write what `Tree.shapes` keeps of a module's output.

    Args:
        shape: A text; or dtype, shape and device of a tensor, as a run notes them.
    """
    if isinstance(shape, str):
        return shape
    dtype, size, device = shape
    place = "" if device.type == "cpu" else f" on {device}"
    return f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, size))}]{place}"


def served_lines(cls: type) -> list[str]:
    """List the values that a class of nodes serves beside the usual ones, with their texts."""
    found = []
    for name in dir(cls):
        port = getattr(cls, name, None)
        if isinstance(port, Port) and not hasattr(Node, name):
            text = (port.doc or "").strip().partition("\n")[0]
            found.append(f"<{name}>: {port.port}{f', {text}' if text else ''}")
    return found
