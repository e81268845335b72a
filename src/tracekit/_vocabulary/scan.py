"""Runs on shapes: `model.scan(x)`, its memory forecast, and `trace(x, validate=True)`.

A scan is a trace whose model and block see fake tensors (`_torch/fake.py`): the same block, the
same sites, no weight loaded and no floating-point kernel run. `validate=True` puts a scan before
the real run: the block is run twice, so what the first pass wrote is put back in between.

Things that don't work: copying the caller's objects for the first pass (a copy of a model, a lock
or a file is not the thing the block uses), or forbidding writes in it (most blocks collect into a
list). So containers and attributes reachable from the block's names are noted before and put back
after; what the block does elsewhere happens twice, and `tracer.validating` lets it ask.
"""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CellType, FrameType, FunctionType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from .._bytecode.opcodes import number
from .._protocol import UNBOUND
from .._runtime import frames
from .._torch.fake import FakeRun, put_back
from .._torch.tracers import InterleavingTracer
from .._torch.tree import Node
from .._torch.values import describe, tensors
from ..errors import ScanDeviceError, ScanMismatchError, TracekitError, ValueNotKnownError
from .model import ModelTracer

if TYPE_CHECKING:
    from .._runtime.bodies import Body
    from .._torch.run import Run

# What is raised for operands that do not fit, by torch and by Python itself.
_MISFITS: Final = (RuntimeError, IndexError, TypeError, ValueError, AttributeError)
# What torch raises for a fake tensor only: no fake kernel, or no memory to look at.
_FAKE_ONLY: Final = (UnsupportedFakeTensorException, UnsupportedOperatorException)
_FAKE_ONLY_WORDS: Final = (
    "data pointer",
    "'Meta' backend",
    "Cannot copy out of meta",
    "no fake impl registered",
    "Cannot access accelerator device",
    "hasPrimaryContext expects",
)
_FAKE_NAME: Final = "'FakeTensor'"
_RAISE: Final = number("RAISE_VARARGS")
_MAX_VALIDATED: Final = 256
_CONTAINERS: Final = frozenset({list, dict, set, OrderedDict, defaultdict, Counter})
_ROOT: Final = "(model)"
_MAX_NOTED: Final = 10_000
_PLAIN: Final = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


# What a scan knows.


@dataclass(frozen=True)
class Record:
    """What one module gave in a scan.

    Attributes:
        path: The module's name.
        kind: Its class.
        visits: How often it was called.
        output: The output of its last visit in words: `float32[2, 16, 128]`.
        output_bytes: Bytes of the tensors in that output, views counted whole.
    """

    path: str
    kind: str
    visits: int
    output: str
    output_bytes: int


@dataclass
class Report:
    """A forecast of what the run would need.

    Attributes:
        records: Each module that was called, in the order of their first outputs.
        retained_bytes: Bytes that the names bound by the block keep; storages counted once.
            `None` if it was run as a function: it has no names in the caller.
        peak_bytes: Most bytes of activations alive at one time, the block's own included,
            weights and integer tensors not, by the life times of the tensors in the scan.
        parameter_bytes: Bytes of parameters and buffers.
        guesses: Code that was given made-up integers -> how often. If there is any, shapes may
            depend on values, and lengths of generations do.
    """

    records: list[Record] = field(default_factory=list)
    retained_bytes: int | None = None
    peak_bytes: int = 0
    parameter_bytes: int = 0
    guesses: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        width = max((len(record.path or _ROOT) for record in self.records), default=4) + 2
        lines = [
            f"{record.path or _ROOT:<{width}}{_bytes(record.output_bytes):>10}  "
            f"{record.output}{f'  x{record.visits}' if record.visits > 1 else ''}"
            for record in self.records
        ]
        lines.append(f"parameters and buffers  {_bytes(self.parameter_bytes)}")
        lines.append(f"peak of activations     {_bytes(self.peak_bytes)}  (kernels' own not known)")
        if self.retained_bytes is not None:
            lines.append(f"kept by the block       {_bytes(self.retained_bytes)}")
        if self.guesses:
            lines.append("shapes may depend on values: made-up integers were given to")
            lines += [f"  {name} ({count}x)" for name, count in sorted(self.guesses.items())]
        return "\n".join(lines)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _storage_key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata  # a storage has no other identity
    return key


class _Alive:
    """Lies in a tensor's `__dict__` and says when the tensor is gone.

    A weak reference would do, but torch refuses to convert a parameter that has one.
    """

    __slots__ = ("key", "meter")

    def __init__(self, meter: _Meter, key: int) -> None:
        self.meter = meter
        self.key = key

    def __del__(self) -> None:
        self.meter.gone(self.key)

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        """The copy of a tensor is another tensor."""


class _Meter:
    """Adds up the bytes of the storages that are alive."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._users: dict[int, list[int]] = {}
        self._weights: set[int] = set()

    def leave_out(self, module: nn.Module) -> None:
        """Do not count the module's parameters and buffers, nor views of them."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._weights.add(_storage_key(tensor))

    def observe(self, tensor: Tensor) -> None:
        key = _storage_key(tensor)
        if key in self._weights:
            return
        users = self._users.get(key)
        if users is None:
            users = self._users[key] = [0, tensor.untyped_storage().nbytes()]
            self.now += users[1]
            self.peak = max(self.peak, self.now)
        users[0] += 1
        tensor.__dict__["_alive"] = _Alive(self, key)

    def gone(self, key: int) -> None:
        """One tensor less has this storage."""
        users = self._users[key]
        users[0] -= 1
        if not users[0]:
            self.now -= users[1]
            del self._users[key]


class Scanning(InterleavingTracer):
    """Turns a tracer class into one that runs on shapes; see `scanning_class`."""

    scanning = True
    device: torch.device | str | None = None
    _report: Report | None = None
    _records: dict[str, Record]

    def execute(self, body: Body) -> object:
        """Run *body* in step with the model, both on fake tensors.

        Returns:
            What the body returned.
        """
        model = self.model
        assert model is not None
        root: Any = model.root
        report = Report()
        self._records = {}
        meter = _Meter()
        module: nn.Module = root._module
        report.parameter_bytes = _weight_bytes(module)
        fake = FakeRun(module, _future_device(self.device, root))
        try:
            with fake:
                meter.leave_out(module)
                fake.mode.observe = meter.observe
                self.args, self.kwargs = fake.inputs(self.args, self.kwargs)
                result = super().execute(body)
        finally:
            report.records = list(self._records.values())
            report.guesses = fake.guesses
            report.peak_bytes = meter.peak
            self._report = report
            root._tree.shapes = {record.path: record.output for record in report.records}
        return result

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        run = self._current
        assert run is not None
        run.watch_all("", run.tree.root)
        for spot in list(run.paths.values()):
            run.interleaver.record(spot.path, "output", self._note)
        return super()._call()

    def _note(self, key: tuple[str, str], visit: int, output: Any) -> None:
        """Note what a module gave, after the block's edits."""
        path = key[0]
        assert self.model is not None
        module = self.model._tree.find_module(path)
        if module is None:
            # An operation inside a module.
            return
        before = self._records.get(path)
        self._records[path] = Record(
            path,
            type(module).__name__,
            1 if before is None else before.visits + 1,
            describe(output),
            sum(t.numel() * t.element_size() for t in tensors(output)),
        )

    def _run_block(self, body: Any) -> None:
        super()._run_block(body)
        assert self._report is not None
        if body.frame is not None:
            names = [name for name in body.stores if name in body.block.pushed] or [
                name for name in body.stores if name in body.frame.f_locals
            ]
            kept = frames.pull(body.frame, tuple(names))
            self._report.retained_bytes = _storage_bytes(kept)

    def call(self) -> Any:
        """Make the call on shapes without a block; give what it returns."""
        return self.run(_result_of)

    def report(self) -> Report:
        """Tell what the scan found: shapes, bytes, peak.

        Raises:
            RuntimeError: The scan has not been run.
        """
        if self._report is None:
            message = "the report of a scan is there after its `with`"
            raise RuntimeError(message)
        return self._report


def _result_of(tracer: InterleavingTracer) -> Any:
    return tracer.result


class ScanningTracer(Scanning, ModelTracer):
    """Runs a block in step with one call of a model on shapes; what `model.scan(...)` gives.

    Equivalent to the tracer of `model.trace(...)`, except that floating-point tensors have no
    values (asking for one raises `ValueNotKnownError`), that no weight is loaded, and that
    nothing of the run stays in the model.
    """


# The scanning and the validating form of each tracer class. Subclasses are few and live long.
_FORMS: Final[dict[tuple[type, type], type[Any]]] = {}


def _form(mixin: type[Any], cls: type[Any], prefix: str) -> type[Any]:
    form = _FORMS.get((mixin, cls))
    if form is None:
        form = type(f"{prefix}{cls.__name__}", (mixin, cls), {"__doc__": cls.__doc__})
        _FORMS[mixin, cls] = form
    return form


def scanning_class(cls: type[InterleavingTracer]) -> type[Scanning]:
    """Give the scanning form of a tracer class.

    Args:
        cls: What `trace` of the same model uses.
    """
    if cls is ModelTracer:
        return ScanningTracer
    return _form(Scanning, cls, "Scanning")


def _future_device(stated: torch.device | str | None, root: Any) -> torch.device | str | None:
    """Where weights that are not loaded will be."""
    if stated is not None:
        return stated
    if not any(parameter.is_meta for parameter in root._module.parameters()):
        return None
    device: torch.device | None = getattr(type(root), "device", None) and root.device
    return None if device is None or device.type == "meta" else device


def _weight_bytes(module: nn.Module) -> int:
    weights = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in weights.values())


def _storage_bytes(values: Any) -> int:
    storages = {_storage_key(t): t.untyped_storage().nbytes() for t in tensors(values)}
    return sum(storages.values())


# Validation: a scan before the run.


class Validating(InterleavingTracer):
    """Turns a tracer class into one that scans before it runs; see `validating_class`.

    Attributes:
        validated_to: `None` if the whole block was validated; else the line where a value was
            needed, as `file:line`.
    """

    validated_to: str | None = None
    device: torch.device | str | None = None
    _observed: Run | None = None

    def execute(self, body: Body) -> object:
        """Scan, put everything back, run.

        Raises:
            ScanMismatchError: `scan-mismatch`. A shape, dtype, device or index does not fit.
        """
        model: Any = self.model
        root = model.root
        known: dict[Hashable, tuple[object, str | None]] = root.__dict__.get("_validated") or {}
        code, key = self._validation_key(body)
        if key not in known:
            self._validate(body, root)
            # Holds the code object, whose id is in the key.
            known[key] = (code, self.validated_to)
            if len(known) > _MAX_VALIDATED:
                del known[next(iter(known))]
            object.__setattr__(root, "_validated", known)
        else:
            self.validated_to = known[key][1]
        return super().execute(body)

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        self._observed = self._current
        return super()._call()

    def _validate(self, body: Body, root: Any) -> None:
        state = dict(self.__dict__)
        frame: FrameType | None = getattr(body, "frame", None)
        stop: str | None = None
        self.validating = self.scanning = True
        try:
            with (
                _rolled_back(body, frame),
                FakeRun(root._module, _future_device(self.device, root)) as fake,
            ):
                self.args, self.kwargs = fake.inputs(self.args, self.kwargs)
                super().execute(body)
        except (ValueNotKnownError, ScanDeviceError) as error:
            stop = _line_of(error.__traceback__, body) or "the model"
        except TracekitError:
            raise
        except _MISFITS as error:
            line = _line_of(error.__traceback__, body)
            if _is_of_fakes_only(error) or (not line and fake.guesses):
                stop = line or "the model"
            elif line and _is_the_blocks_own(error):
                raise
            else:
                raise self._mismatch(error, body) from error
        finally:
            self.__dict__.clear()
            self.__dict__.update(state)
        self.validated_to = stop

    def _mismatch(self, error: BaseException, body: Body) -> ScanMismatchError:
        where = _line_of(error.__traceback__, body)
        seen = str(error).strip().split("\n")[0].replace(_FAKE_NAME, "'Tensor'")
        if type(error) is not RuntimeError:
            seen = f"{type(error).__name__}: {seen}"
        if where:
            by_torch = isinstance(error, (RuntimeError, IndexError)) or _is_torchs(_origin(error))
            return ScanMismatchError(
                "this line does not fit the shapes, dtypes or devices of the model"
                if by_torch
                else "this line fails, whatever the values are",
                where=where,
                seen=seen,
                why="the block was run on shapes first; no kernel has run and no weight was loaded",
                fix="`model.scan(...)` shows the shape of every value",
            ).with_traceback(error.__traceback__)
        writes = [] if self._observed is None else list(self._observed.interleaver.writes)
        edits = "; ".join(f"{site} at {line}" for site, line in writes[-3:])
        return ScanMismatchError(
            "what the block wrote does not fit what the model does with it"
            if edits
            else "the model cannot be called with this input",
            where=writes[-1][1] if writes else "",
            seen=f"{seen}\nlast edits: {edits}" if edits else seen,
            why="the block was run on shapes first; no kernel has run and no weight was loaded",
            fix="write a value of the shape, dtype and device that a read gives" if edits else "",
        ).with_traceback(error.__traceback__)

    def _validation_key(self, body: Any) -> tuple[object, Hashable]:
        """Give the block's code, and what a validation of it holds for."""
        info = getattr(body, "info", None)
        names: Hashable
        if info is not None:
            code, place = info.code, info.enter_offset
            names = _kinds(_look_up(info.frame, body.loads))
        else:
            function: FunctionType = body._function
            code, place = function.__code__, -1
            used = {name: function.__globals__.get(name) for name in sorted(set(code.co_names))}
            held = [_content(cell) for cell in function.__closure__ or ()]
            names = (_kinds(used), _kind((body._arguments, function.__defaults__, held)))
        model: Any = self.model
        module: nn.Module = model._module
        first = next(iter(module.parameters()), None)
        return code, (
            (id(code), place),
            names,
            str(self.fn),
            _kind(self._shapes_of_inputs()),
            model._path,
            tuple(id(edit) for edit in model._tree.edits),
            None if first is None else (first.dtype, first.device),
            module.training,
            torch.is_grad_enabled(),
        )

    def _shapes_of_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the inputs; text as what becomes of it, since other words may have one length."""
        model: Any = self.model
        if not any(_is_text(value) for value in (*self.args, *self.kwargs.values())):
            return self.args, self.kwargs
        module = model._module
        function = getattr(module, self.fn, module) if isinstance(self.fn, str) else module
        prepared: tuple[tuple[Any, ...], dict[str, Any]]
        prepared = model._prepare(function, self.args, self.kwargs)
        return prepared


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return UNBOUND


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], str)
    )


def _kinds(values: dict[str, object]) -> Hashable:
    return tuple((name, _kind(value)) for name, value in values.items())


def validating_class(cls: type[InterleavingTracer]) -> type[Validating]:
    """Give the form of a tracer class that scans before it runs.

    Args:
        cls: What `trace` of the same model uses.
    """
    return _form(Validating, cls, "Validating")


def _kind(value: Any, depth: int = 4) -> Hashable:
    """Tell values apart for which shapes in a block may differ."""
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.device, value.requires_grad)
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if type(value) in {list, tuple} and depth:
        return (type(value), tuple(_kind(item, depth - 1) for item in value[:100]), len(value))
    if type(value) is dict and depth:
        return (dict, tuple((_kind(k), _kind(v, depth - 1)) for k, v in value.items()))
    return (type(value), id(value))


def _line_of(traceback: TracebackType | None, body: Body) -> str:
    """Find the line of the block in a traceback; empty if the error did not pass it.

    The model may stand in the same file, so the name of the code counts as well.
    """
    found = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        is_there = code.co_filename == body.filename and code.co_name == body.name
        if is_there and traceback.tb_lineno >= body.first_lineno:
            found = f"{code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _is_torchs(traceback: TracebackType) -> bool:
    """Tell whether the Python code in which an error arose is torch's."""
    name = str(traceback.tb_frame.f_globals.get("__name__", ""))
    return name.startswith(("torch", "tracekit._torch"))


def _origin(error: BaseException) -> TracebackType:
    """Where an error arose."""
    traceback = error.__traceback__
    assert traceback is not None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


def _is_the_blocks_own(error: BaseException) -> bool:
    """Tell whether an error has nothing to do with tensors: a `raise`, an object's attribute."""
    if isinstance(error, AttributeError):
        return _FAKE_NAME not in str(error)
    origin = _origin(error)
    return not _is_torchs(origin) and origin.tb_frame.f_code.co_code[origin.tb_lasti] == _RAISE


def _is_of_fakes_only(error: BaseException) -> bool:
    """Tell whether a real tensor would not give this error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _FAKE_ONLY) or any(word in str(cause) for word in _FAKE_ONLY_WORDS):
            return True
        cause = cause.__cause__
    return False


@contextmanager
def _rolled_back(body: Body, frame: FrameType | None) -> Iterator[None]:
    """Put names, containers and attributes back that the block can reach by its names."""
    names: dict[str, object] = {}
    names_of_globals: dict[str, object] = {}
    if frame is not None:
        names = _look_up(frame, body.loads | body.stores)
        names_of_globals = {name: frame.f_globals.get(name, UNBOUND) for name in _globals(frame)}
    noted = _note([*names.values(), *names_of_globals.values()])
    try:
        yield
    finally:
        for container, before in reversed(noted):
            put_back(container, before)
        if frame is not None:
            _restore_globals(frame.f_globals, names_of_globals)
            own = _own_names(frame, body.stores)
            now = dict(zip(own, frames.pull(frame, own), strict=True))
            changed = {name: names[name] for name in own if now[name] is not names[name]}
            if changed:
                frames.push(frame, changed)


def _globals(frame: FrameType) -> frozenset[str]:
    """Names of the frame's globals that its code may touch."""
    return (
        frozenset(frame.f_code.co_names) if frame.f_globals is not frame.f_locals else frozenset()
    )


def _own_names(frame: FrameType, names: Iterable[str]) -> tuple[str, ...]:
    """Those of some names that are variables of the frame itself, and no globals."""
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return tuple(sorted(names))
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    return tuple(sorted(own.intersection(names)))


def _look_up(frame: FrameType, names: Iterable[str]) -> dict[str, object]:
    """Give what names mean in a frame: its own variables, else globals; `UNBOUND` if nothing."""
    own = _own_names(frame, names)
    found = dict(zip(own, frames.pull(frame, own), strict=True))
    for name in sorted(names):
        if found.get(name, UNBOUND) is UNBOUND and name not in own:
            found[name] = frame.f_globals.get(name, UNBOUND)
    return found


def _restore_globals(namespace: dict[str, Any], before: dict[str, object]) -> None:
    for name, value in before.items():
        if value is UNBOUND:
            namespace.pop(name, None)
        elif namespace.get(name, UNBOUND) is not value:
            namespace[name] = value


def _note(roots: list[object]) -> list[tuple[Any, Any]]:
    """Copy the built-in containers and attribute dicts that are reachable from some objects."""
    noted: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting and len(noted) < _MAX_NOTED:
        value: Any = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in _CONTAINERS:
            noted.append((value, value.copy()))
            waiting.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, tuple):
            waiting.extend(value)
        elif _has_own_attributes(value):
            waiting.append(value.__dict__)
    return noted


def _has_own_attributes(value: Any) -> bool:
    """Tell whether a block may write attributes of an object that nobody else puts back."""
    if isinstance(
        value,
        (type, ModuleType, FunctionType, nn.Module, Node, Tensor, InterleavingTracer, *_PLAIN),
    ):
        return False
    return type(getattr(value, "__dict__", None)) is dict
