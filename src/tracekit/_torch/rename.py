"""Further names for modules: `rename={"*.h": "layers", MyBlock: "block"}`."""

from __future__ import annotations

import fnmatch
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tree import Tree


def bind_aliases(tree: Tree, rename: dict[Any, str | list[str]]) -> None:
    """Bind the aliases that `rename=` asks for.

    A key is a dotted path that is valid from any node (a leading dot is ignored, `*` is any one
    child), or a module class of which a node has exactly one direct child. A dotted alias is
    bound on the node that its prefix names.

    Args:
        tree: The model.
        rename: Key to alias or aliases.

    Raises:
        ValueError: An alias hides something, or a key matches two children of one node.
    """
    modules = dict(tree.root.named_modules())
    for key, given in rename.items():
        aliases = [given] if isinstance(given, str) else list(given)
        found = False
        for base, module in modules.items():
            matches = _matches(module, key)
            if not matches:
                continue
            if len(matches) > 1:
                message = (
                    f"rename key {_spell(key)} matches {len(matches)} modules below "
                    f"`{base or 'model'}`: {', '.join(matches)}"
                )
                raise ValueError(message)
            found = True
            for alias in aliases:
                _bind(tree, modules, base, alias, matches[0])
        if not found:
            warnings.warn(f"rename key {_spell(key)} matches no module", stacklevel=4)


def _spell(key: Any) -> str:
    return key.__name__ if isinstance(key, type) else repr(key)


def _matches(module: Any, key: Any) -> list[str]:
    """The paths below *module* that *key* means."""
    if isinstance(key, type):
        found = [name for name, child in module._modules.items() if isinstance(child, key)]
        # Several children of a class are a list of them, not one part with a name.
        return found if len(found) == 1 else []
    level = [("", module)]
    for part in str(key).removeprefix(".").split("."):
        level = [
            (f"{path}.{name}" if path else name, child)
            for path, parent in level
            for name, child in parent._modules.items()
            if child is not None and fnmatch.fnmatchcase(name, part)
        ]
    return [path for path, _ in level]


def _bind(tree: Tree, modules: dict[str, Any], base: str, alias: str, real: str) -> None:
    prefix, _, name = alias.rpartition(".")
    if prefix:
        above = f"{base}.{prefix}" if base else prefix
        if above not in modules:
            message = f"alias {alias!r}: there is no module `{above}`"
            raise ValueError(message)
        if not real.startswith(f"{prefix}."):
            message = f"alias {alias!r} stands elsewhere than `{real}`, which it names"
            raise ValueError(message)
        base, real = above, real.removeprefix(f"{prefix}.")
    module = modules[base]
    where = base or "model"
    taken = tree.aliases.setdefault(base, {})
    if name in module._modules or hasattr(module, name) or hasattr(tree.node_class, name):
        message = f"alias {name!r} would hide `{where}.{name}`"
        raise ValueError(message)
    if taken.get(name, real) != real:
        message = f"alias {name!r} of `{where}` means both `{taken[name]}` and `{real}`"
        raise ValueError(message)
    taken[name] = real
