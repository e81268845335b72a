"""A place in a run where a value can be read or written."""

from __future__ import annotations

from typing import NamedTuple

ROOT_NAME = "model"


class Site(NamedTuple):
    """One visit of one port of one module.

    Printed as the user would write it, with the visit in brackets where it is not the first:
    `model.layers.0.output` or `model.cell.output (visit 3)`.
    """

    path: str
    """Module name as in `named_modules()`; empty for the model itself."""
    port: str
    """`input`, `output`, or a word of the run such as `result`."""
    visit: int = 0
    """How many times the run reached this path and port before, from 0."""

    def __str__(self) -> str:
        name = spell(self.path, self.port)
        return name if self.visit == 0 else f"{name} (visit {self.visit})"


def spell(path: str, port: str) -> str:
    """Write a path and a port as the user would, for example `model.layers.0.output`.

    Args:
        path: Module name; empty for the model itself.
        port: The port's name; empty for the module alone.

    Returns:
        The parts joined by dots, the model first.
    """
    return ".".join(part for part in (ROOT_NAME, path, port) if part)


def spell_recent(sites: list[Site], limit: int = 6) -> str:
    """List the last few of the visited sites, oldest first.

    Args:
        sites: All of them, oldest first.
        limit: How many are named.

    Returns:
        One line; `nothing yet` if there are none.
    """
    if not sites:
        return "nothing yet"
    shown = ", ".join(str(site) for site in sites[-limit:])
    return f"... {shown}" if len(sites) > limit else shown
