"""Caches on disk: the tensors in the safetensors format, the structure around them as metadata.

Nothing is pickled, so a file can be opened without trust. Tensors are read when they are asked
for: opening a file of many gigabytes reads its header only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .recorded import _MISSING, CacheDict, Entries, Entry

_FORMAT: Final = 1
_PLAIN: Final = (str, bool, int, float, type(None))


_KINDS: Final = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "I8": "int8",
    "U8": "uint8",
}
"""Names of dtypes: the format's, and torch's."""


class Record(dict[str, Any]):
    """What a named tuple, dataclass or model output comes back as: items by name or attribute.

    Attributes:
        kind: The name of the class that it was.
    """

    kind = ""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"{self.kind or 'Record'}({', '.join(f'{k}={v!r}' for k, v in self.items())})"


class Omitted:
    """Stands for a value that a file of tensors cannot hold, such as a KV cache.

    Attributes:
        kind: The name of its class.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}, not saved>"


def write(cache: CacheDict, path: str | os.PathLike[str]) -> None:
    """Write a cache to a file; see `CacheDict.save`.

    Args:
        cache: What to write.
        path: The file; overwritten.
    """
    found = _Found()
    entries: dict[str, Any] = {}
    for name, visits in dict.items(cache):
        entries[name] = [
            {
                port: _encode(getattr(entry, port), f"{name or 'model'}/{visit}/{port}", found)
                for port in ("output", "inputs")
                if getattr(entry, f"_{port}") is not _MISSING
            }
            for visit, entry in enumerate(visits)
        ]
    about = {"version": _FORMAT, "aliases": cache._aliases, "entries": entries}
    save_file(found.tensors, os.fspath(path), {"format": "pt", "tracekit": json.dumps(about)})


def read(path: str | os.PathLike[str], device: str | torch.device) -> CacheDict:
    """Open what `write` wrote; see `CacheDict.load`.

    Args:
        path: The file.
        device: Where the tensors go.

    Raises:
        ValueError: The file holds no cache.
    """
    file = _File(os.fspath(path), str(device))
    text = (file.open().metadata() or {}).get("tracekit")
    about = json.loads(text) if text else {}
    if about.get("version") != _FORMAT:
        message = f"{os.fspath(path)} holds no cache that this version of tracekit can read"
        raise ValueError(message)
    cache = CacheDict({}, about["aliases"])
    for name, visits in about["entries"].items():
        made: list[Entry] = [_StoredEntry(file, visit) for visit in visits]
        cache[name] = made[0] if len(made) == 1 else Entries(made)
    return cache


class _File:
    """A safetensors file, opened at the first read; in another process it is opened again."""

    def __init__(self, path: str, device: str) -> None:
        self.path = os.path.abspath(path)
        self.device = device
        self._opened: Any = None

    def open(self) -> Any:
        if self._opened is None:
            self._opened = safe_open(self.path, framework="pt", device=self.device)
        return self._opened

    def tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self.open().get_tensor(name)
        return tensor

    def shape(self, name: str) -> str:
        part = self.open().get_slice(name)
        kind = part.get_dtype()
        return f"{_KINDS.get(kind, kind)}[{', '.join(map(str, part.get_shape()))}]"


class _StoredEntry(Entry):
    """An entry whose values are in a file until they are asked for."""

    __slots__ = ("_file", "_stored")

    def __init__(self, file: _File, stored: dict[str, Any]) -> None:
        super().__init__()
        self._file = file
        self._stored = stored

    def _get(self, slot: str, name: str) -> Any:
        port = slot.removeprefix("_")
        if getattr(self, slot) is _MISSING and port in self._stored:
            setattr(self, slot, _decode(self._stored[port], self._file))
        return super()._get(slot, name)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, those in the file included."""
        self._load()
        return super().nbytes

    def _load(self) -> None:
        for port in self._stored:
            self._get(f"_{port}", port)

    def __reduce__(self) -> Any:
        # What is pickled is the values: the file may be elsewhere, or nowhere.
        self._load()
        return Entry, (self._output, self._inputs)

    def __repr__(self) -> str:
        shown = [f"{port}={_spell(what, self._file)}" for port, what in self._stored.items()]
        return f"Entry({', '.join(shown)})"


class _Found:
    """The tensors of a cache, by their names in the file; each with memory of its own."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.storages: set[int] = set()


def _encode(value: Any, name: str, found: _Found) -> Any:
    """Give the JSON that stands for a value; its tensors go into *found*."""
    if isinstance(value, torch.Tensor):
        while name in found.tensors:  # a key may hold a slash
            name += "'"
        made = value.detach().contiguous()
        storage = made.untyped_storage().data_ptr()
        found.tensors[name] = made.clone() if storage in found.storages else made
        found.storages.add(storage)
        return {"tensor": name}
    if type(value) in _PLAIN:
        return {"value": value}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, torch.dtype | torch.device):
        kind = "dtype" if isinstance(value, torch.dtype) else "device"
        return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, Record):
        return _record(value.kind, value.items(), name, found)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = zip(value._fields, value, strict=True)
        return _record(type(value).__name__, pairs, name, found)
    if isinstance(value, tuple | list):
        items = [_encode(item, f"{name}/{at}", found) for at, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, Mapping) and all(type(key) in _PLAIN for key in value):
        if type(value) is not dict and all(type(key) is str for key in value):
            return _record(type(value).__name__, value.items(), name, found)
        return {"dict": [[k, _encode(v, f"{name}/{k}", found)] for k, v in value.items()]}
    if is_dataclass(value) and not isinstance(value, type):
        held = ((field.name, getattr(value, field.name, None)) for field in fields(value))
        return _record(type(value).__name__, held, name, found)
    return {"omitted": value.kind if isinstance(value, Omitted) else type(value).__name__}


def _record(kind: str, items: Any, name: str, found: _Found) -> Any:
    return {"record": kind, "items": [[k, _encode(v, f"{name}/{k}", found)] for k, v in items]}


def _decode(what: Any, file: _File) -> Any:
    (kind, held), *more = what.items()
    match kind:
        case "tensor":
            return file.tensor(held)
        case "value":
            return held
        case "size":
            return torch.Size(held)
        case "dtype":
            return getattr(torch, held)
        case "device":
            return torch.device(held)
        case "tuple":
            return tuple(_decode(item, file) for item in held)
        case "list":
            return [_decode(item, file) for item in held]
        case "dict":
            return {key: _decode(item, file) for key, item in held}
        case "record":
            record = Record((key, _decode(item, file)) for key, item in more[0][1])
            record.kind = held
            return record
    return Omitted(held)


def _spell(what: Any, file: _File) -> str:
    """Say what is stored, without reading it."""
    (kind, held), *more = what.items()
    if kind == "tensor":
        return file.shape(held)
    if kind in {"tuple", "list"}:
        shown = ", ".join(_spell(item, file) for item in held)
        one = "," if len(held) == 1 else ""
        return f"({shown}{one})" if kind == "tuple" else f"[{shown}]"
    if kind == "value":
        return repr(held)
    if kind == "dict":
        return f"{{{', '.join(f'{key}: {_spell(item, file)}' for key, item in held)}}}"
    if kind == "record":
        shown = ", ".join(f"{key}={_spell(item, file)}" for key, item in more[0][1])
        return f"{held}({shown})"
    return str(held)
