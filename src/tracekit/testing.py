"""Oracles: whether traced code does what inline code does, and leaves nothing behind.

`same_as_inline()` states the library's promise as a check: a program is run twice, once with a
context manager that does nothing in the place of the tracer, once traced, and everything that can
be seen from outside is compared. `no_residue()` states the other half: after a run, the process is
as it was found. `tiny_models()` gives models to try both on.

They are shipped because whoever writes a tracer, a backend or a helper library needs them, too.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import gc
import importlib.util
import inspect
import io
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, GeneratorType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from tracekit import _protocol
from tracekit._protocol import Raised
from tracekit.errors import CannotSuspendError, UnsupportedError

if TYPE_CHECKING:
    import torch

_MAX_DEPTH = 6


@dataclass(frozen=True)
class Outcome:
    """Everything that can be seen of one run of a program from outside.

    Attributes:
        names: What the program's names are bound to, as text.
        returned: What the function returned, as text (programs: `None`).
        printed: What went to standard output.
        logged: What was passed to `log`, as text, in order.
        asked: What was passed to `ask`, as text, in order.
        error: The exception that left the program: type, arguments, frames with lines and
            columns, cause and context; or an empty tuple.
        refused: The refusal, if the program did what tracekit does not support.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    returned: str = "None"
    printed: str = ""
    logged: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    error: tuple[Any, ...] = ()
    refused: UnsupportedError | None = None

    def differences(self, other: Outcome) -> list[str]:
        """List what differs, one line or more each; empty if nothing does.

        Args:
            other: The traced run; `self` is the inline one.
        """
        found = []
        for name in ("returned", "printed", "logged", "asked", "error"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name}\n    inline: {mine!r}\n    traced: {theirs!r}")
        for name in sorted({*self.names, *other.names}):
            mine = self.names.get(name, "(unbound)")
            theirs = other.names.get(name, "(unbound)")
            if mine != theirs:
                found.append(f"name {name!r}\n    inline: {mine}\n    traced: {theirs}")
        return found


class _Inline:
    """Stands for a tracer, and does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class _Question:
    """What a traced program's `ask(key)` yields to its driver."""

    __slots__ = ("key",)

    def __init__(self, key: object) -> None:
        self.key = key


def _answer(key: object) -> object:
    """Answer a request: the key itself, or, for an exception, raise it."""
    if isinstance(key, BaseException) or (isinstance(key, type) and issubclass(key, Exception)):
        raise key
    return key


class _Recorder:
    """What a program under test is given, and what is noted of it."""

    def __init__(self, answer: Callable[[object], object]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.logged: list[str] = []
        self.refused: UnsupportedError | None = None

    def log(self, *values: object) -> None:
        self.logged.append(", ".join(map(fingerprint, values)))

    def ask_inline(self, key: object) -> object:
        self.asked.append(fingerprint(key))
        return self.answer(key)

    def serve(self, request: object) -> object:
        """Serve one request of a suspended body: the answer to send back."""
        if not isinstance(request, _Question):
            message = f"a body under test yielded {request!r}, which is no request of its program"
            raise TypeError(message)
        self.asked.append(fingerprint(request.key))
        try:
            return self.answer(request.key)
        except Exception as error:  # noqa: BLE001  # errors travel as answers
            return Raised(error)

    def ask_traced(self) -> Callable[[object], object]:
        """Make the `ask` of a traced program: suspends if it can, refuses if it cannot."""

        def ask(key: object) -> object:
            error = CannotSuspendError(
                f"`ask({fingerprint(key)})` is called where the block cannot be suspended"
            )
            self.refused = self.refused or error
            raise error

        @_protocol.suspending(ask)
        def ask_suspending(key: object) -> Generator[Any, Any, Any]:
            return (yield from _protocol.ask(_Question(key)))

        return ask


def _tracer_factory(recorder: _Recorder) -> Callable[[], Any]:
    from tracekit._runtime.bodies import Body
    from tracekit._runtime.tracer import Backend, Tracer

    class Serving(Backend):
        """Runs a body to its end, and answers what it asks."""

        def __call__(self, tracer: Tracer, body: Body) -> object:
            generator = body.start(tracer.value())
            answer: object = None
            try:
                while True:
                    answer = recorder.serve(generator.send(answer))
            except StopIteration as end:
                return end.value
            except _protocol.Carrier as carrier:
                error = carrier.error
            raise error

    return lambda: Tracer(backend=Serving())


_SHOWN_BY_REPR = (bool, int, float, complex, str, bytes, range, slice)


def fingerprint(value: object, depth: int = _MAX_DEPTH) -> str:
    """Give a text that is equal for values which a program cannot tell apart.

    Equivalent to `repr(value)`, except that no memory address is in it, that functions show their
    defaults and closures, classes their contents and instances their attributes.

    Args:
        value: Anything.
        depth: How many containers deep to look.
    """
    kind = type(value)
    if value is None or any(kind is plain for plain in _SHOWN_BY_REPR):
        return repr(value)
    if depth == 0:
        return f"<{type(value).__qualname__} ...>"
    inner = depth - 1
    if isinstance(value, list | tuple):
        items = ", ".join(fingerprint(item, inner) for item in value)
        return f"{type(value).__qualname__}({items})"
    if isinstance(value, set | frozenset):
        items = ", ".join(sorted(fingerprint(item, inner) for item in value))
        return f"{type(value).__qualname__}({items})"
    if isinstance(value, Mapping):
        items = ", ".join(
            f"{fingerprint(key, inner)}: {fingerprint(item, inner)}" for key, item in value.items()
        )
        return f"{type(value).__qualname__}({items})"
    if isinstance(value, FunctionType):
        return _fingerprint_function(value, inner)
    if isinstance(value, ModuleType):
        return f"<module {value.__name__}>"
    if isinstance(value, type):
        if value.__module__ in sys.modules:
            return f"<class {value.__module__}.{value.__qualname__}>"
        skipped = {"__dict__", "__weakref__", "__module__", "__annotations_cache__"}
        own = {name: item for name, item in vars(value).items() if name not in skipped}
        return f"<class {value.__qualname__} {fingerprint(own, inner)}>"
    if isinstance(value, BaseException):
        return f"{type(value).__qualname__}({fingerprint(value.args, inner)})"
    if isinstance(value, Generator):
        return f"<generator {getattr(value, '__qualname__', '?')}>"
    if isinstance(value, _Inline) or type(value).__module__.startswith("tracekit"):
        return "<tracekit object>"
    attributes = getattr(value, "__dict__", None)
    shown = fingerprint(attributes, inner) if isinstance(attributes, dict) else ""
    return f"<{type(value).__qualname__} object {shown}>"


def _fingerprint_function(function: FunctionType, depth: int) -> str:
    cells = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cells.append(f"{name}={fingerprint(cell.cell_contents, depth)}")
        except ValueError:
            cells.append(f"{name} unbound")
    parts = [
        function.__qualname__,
        f"line {function.__code__.co_firstlineno}",
        fingerprint(function.__defaults__, depth),
        fingerprint(function.__kwdefaults__, depth),
        *cells,
    ]
    return f"<function {' '.join(parts)}>"


def _frames(traceback: TracebackType | None) -> tuple[tuple[Any, ...], ...]:
    """List the frames of a traceback, ours and the caller's left out."""
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename != __file__:
            positions: tuple[int | None, ...] = (traceback.tb_lineno, None, None, None)
            for index, position in enumerate(code.co_positions()):
                if index == traceback.tb_lasti // 2:
                    positions = position
            found.append((code.co_filename, code.co_qualname, traceback.tb_lineno, *positions))
        traceback = traceback.tb_next
    return tuple(found)


def _describe(error: BaseException | None, depth: int = 4) -> tuple[Any, ...]:
    if error is None or depth == 0:
        return ()
    members: tuple[Any, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        members = tuple(_describe(member, depth - 1) for member in error.exceptions)
    frames = _frames(error.__traceback__)
    if isinstance(error, UnboundLocalError) and not hasattr(sys, "monitoring"):
        # 3.11, with nothing traced: once code is warm, two loads are one instruction, and the
        # error of the second is reported at the first. Cold and warm runs differ.
        # Goes when 3.11 goes.
        frames = frames[:-1]
    if members and error.args[:1] == ("",) and not hasattr(sys, "monitoring"):
        # 3.11: the nameless group that an `except*` makes has no entry for its own frame, and
        # traced it has one for the line of the `with`: an entry cannot be taken away there.
        # Goes when 3.11 goes.
        frames = ()
    return (
        type(error).__qualname__,
        fingerprint(error.args),
        frames,
        _describe(error.__cause__, depth - 1),
        _describe(error.__context__, depth - 1),
        error.__suppress_context__,
        members,
    )


Program = str | Callable[..., object]


def _compile(program: Program, filename: str) -> CodeType | Callable[..., object]:
    if not isinstance(program, str):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return compile(program, filename, "exec")


def _run(
    program: CodeType | Callable[..., object],
    given: Mapping[str, object],
    recorder: _Recorder,
) -> Outcome:
    printed = io.StringIO()
    namespace: dict[str, object] = {"__name__": "program"}
    returned: object = None
    described: tuple[Any, ...] = ()
    with contextlib.redirect_stdout(printed):
        try:
            if isinstance(program, CodeType):
                namespace.update(given)
                exec(program, namespace)  # noqa: S102  # that is what running a program means
            else:
                wanted = inspect.signature(program).parameters
                returned = program(**{name: given[name] for name in wanted})
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  # whatever left the program is the result
            described = _describe(error)
            if isinstance(error, UnsupportedError):
                recorder.refused = recorder.refused or error
    hidden = {*given, "__name__", "__builtins__", "__warningregistry__"}
    return Outcome(
        names={name: fingerprint(v) for name, v in namespace.items() if name not in hidden},
        returned=fingerprint(returned),
        printed=printed.getvalue(),
        logged=tuple(recorder.logged),
        asked=tuple(recorder.asked),
        error=described,
        refused=recorder.refused,
    )


def run_inline(
    program: Program,
    names: Mapping[str, object] | None = None,
    *,
    answer: Callable[[object], object] = _answer,
    filename: str = "<program>",
) -> Outcome:
    """Run a program with nothing traced. See `same_as_inline()`."""
    recorder = _Recorder(answer)
    given = {"trace": _Inline, "ask": recorder.ask_inline, "log": recorder.log, **(names or {})}
    return _run(_compile(program, filename), given, recorder)


def run_traced(
    program: Program,
    names: Mapping[str, object] | None = None,
    *,
    answer: Callable[[object], object] = _answer,
    filename: str = "<program>",
    times: int = 1,
) -> list[Outcome]:
    """Run a program traced, *times* times from the same code objects. See `same_as_inline()`."""
    compiled = _compile(program, filename)
    outcomes = []
    for _ in range(times):
        recorder = _Recorder(answer)
        given = {
            "trace": _tracer_factory(recorder),
            "ask": recorder.ask_traced(),
            "log": recorder.log,
            **(names or {}),
        }
        outcomes.append(_run(compiled, given, recorder))
    return outcomes


def same_as_inline(
    program: Program,
    names: Mapping[str, object] | None = None,
    *,
    answer: Callable[[object], object] = _answer,
    filename: str = "<program>",
    times: int = 2,
    may_refuse: bool = False,
) -> Outcome:
    """Check that a program does the same traced as inline.

    The program uses three names that it is given: `with trace():` around each block to compare,
    `ask(key)` for a value that a run has to serve (inline a plain call), and `log(...)` for what
    it wants to be compared on the way. What it is *not* given is any hint which run it is in.

    Compared are names, printed and logged text, the order of requests, and the exception that
    leaves: type, arguments, each frame with line and columns, cause and context.

    Args:
        program: Source text of a module; or a function with any of the parameters `trace`, `ask`,
            `log`, whose return value is compared, too.
        names: Further names for it.
        answer: Gives the value of a request. By default the key itself; an exception is raised.
        filename: The file name that tracebacks show.
        times: How often the traced run is repeated, as blocks are compiled once.
        may_refuse: Whether an `UnsupportedError` with a slug is as good as the right result.

    Returns:
        What the inline run did; with `refused` set if a traced run refused.

    Raises:
        AssertionError: Something differs. The message lists what, and the program.

    Example:
        >>> same_as_inline("with trace(): x = ask(2) + 1").names["x"]
        '3'
    """
    inline = run_inline(program, names, answer=answer, filename=filename)
    refused = None
    for traced in run_traced(program, names, answer=answer, filename=filename, times=times):
        if traced.refused is not None and may_refuse:
            refused = traced.refused
            if refused.slug is None:
                message = f"a refusal without a slug: {refused!r}"
                raise AssertionError(message)
            continue
        if found := inline.differences(traced):
            text = program if isinstance(program, str) else program.__qualname__
            message = "\n".join(["traced is not inline:", *found, "in", text])
            raise AssertionError(message)
    if refused is None:
        return inline
    return Outcome(**{**vars(inline), "refused": refused})


# What is left behind.

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)

# What tools are tempted to patch.
_PATCHABLE = (
    ("builtins", "__import__ __build_class__ print open exec eval isinstance type object"),
    ("torch", "Tensor tensor set_grad_enabled no_grad"),
    ("torch.nn", "Module"),
    (
        "torch.nn.Module",
        "__call__ _call_impl __getattr__ __setattr__ forward register_forward_hook",
    ),
    ("torch.Tensor", "backward grad register_hook __torch_function__"),
)


def _lookup(path: str) -> object:
    top, *rest = path.split(".")
    value: object = builtins if top == "builtins" else sys.modules.get(top)
    for name in rest:
        value = getattr(value, name, None)
    return value


def _modes() -> dict[str, object]:
    torch_module = sys.modules.get("torch")
    if torch_module is None:
        return {}
    import torch
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "dispatch modes": len(_get_current_dispatch_mode_stack()),
        "function modes": torch._C._len_torch_function_stack(),  # no public way
    }


def _monitoring() -> dict[str, object]:
    """State of the other tools of `sys.monitoring`, where there is one; our own must be at rest."""
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        return {}
    found: dict[str, object] = {}
    for tool_id in range(6):
        name = monitoring.get_tool(tool_id)
        ours = name is not None and name.startswith("tracekit")
        found[f"monitoring tool {tool_id}"] = None if ours else name
        found[f"global events of tool {tool_id}"] = (
            monitoring.get_events(tool_id) if name is not None else 0
        )
    return found


def _process_state() -> dict[str, object]:
    state: dict[str, object] = {
        "sys.gettrace()": sys.gettrace(),
        "sys.getprofile()": sys.getprofile(),
        "threading.gettrace()": threading.gettrace(),
        "threading.getprofile()": threading.getprofile(),
        "sys.excepthook": sys.excepthook,
        "sys.unraisablehook": sys.unraisablehook,
        "recursion limit": sys.getrecursionlimit(),
        **_modes(),
        **_monitoring(),
    }
    for path, names in _PATCHABLE:
        owner = _lookup(path)
        for name in names.split() if owner is not None else ():
            state[f"{path}.{name}"] = inspect.getattr_static(owner, name, None)
    return state


def _is_twin(code: CodeType) -> bool:
    """Whether a code object is a rewritten one: it holds checks of ours as constants."""
    return any(getattr(c, "__module__", None) in _ENGINE_MODULES for c in code.co_consts)


_ENGINE_MODULES = frozenset(
    {
        "tracekit._bytecode.questions",
        "tracekit._runtime.guards",
        "tracekit._runtime.callsites",
        "tracekit._runtime.items",
    }
)


def suspended_bodies() -> list[GeneratorType[Any, Any, Any]]:
    """List the suspended generators of the process that are rewritten code, or code of ours."""
    package = __file__.removesuffix("testing.py")
    found = []
    for thing in gc.get_objects():
        # The exact type: nothing of the object's own may run here.
        if type(thing) is not GeneratorType or not thing.gi_suspended:
            continue
        code = thing.gi_code
        ours = code.co_filename.startswith(package) and code.co_filename != __file__
        if ours or _is_twin(code):
            found.append(thing)
    return found


class Residue:
    """A snapshot of the process, to be compared with what it is after a run.

    Args:
        modules: Modules whose hooks are compared, with those of their children.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        self._state = _process_state()
        self._hooks: list[tuple[str, dict[object, object], dict[object, object]]] = []
        self._bodies = {id(body) for body in suspended_bodies()}
        self.watch(*modules)

    def watch(self, *modules: torch.nn.Module) -> None:
        """Compare the hooks of *modules*, too, with what they are now."""
        for module in modules:
            for path, child in module.named_modules():
                for table in _HOOK_TABLES:
                    hooks = vars(child).get(table)
                    if hooks is not None:
                        self._hooks.append((f"{path or 'model'}.{table}", hooks, dict(hooks)))

    def found(self) -> list[str]:
        """List what is not as it was, one line each."""
        complaints = []
        now = _process_state()
        for name, before in self._state.items():
            after = now.get(name)
            if after is not before and after != before:
                complaints.append(f"{name}: was {before!r}, is {after!r}")
        for name, table, before_hooks in self._hooks:
            if list(table.items()) != list(before_hooks.items()):
                complaints.append(f"{name}: was {before_hooks}, is {dict(table)}")
        complaints.extend(
            f"suspended: {body!r}" for body in suspended_bodies() if id(body) not in self._bodies
        )
        return complaints

    def check(self) -> None:
        """Raise an `AssertionError` that lists what is left behind, if anything is."""
        if complaints := self.found():
            message = "left behind:\n  " + "\n  ".join(complaints)
            raise AssertionError(message)


@contextlib.contextmanager
def no_residue(*modules: torch.nn.Module) -> Iterator[None]:
    """Check that what runs inside leaves nothing behind, also if it raises.

    Compared are the hooks of *modules* and their children, tracing, profiling and monitoring,
    torch's modes, commonly patched functions of torch and Python, and suspended bodies.

    Args:
        modules: The modules that are traced inside.

    Raises:
        AssertionError: Something is left behind. The message lists what.

    Example:
        >>> with no_residue():
        ...     pass
    """
    residue = Residue(*modules)
    try:
        yield
    finally:
        residue.check()


# Models to try things on.


@dataclass(frozen=True)
class TinyModel:
    """A model of a certain shape, and how to call it.

    Attributes:
        name: Its name in `tiny_models()`.
        make: Makes the module, with the same weights each time.
        inputs: Makes positional arguments for its forward.
        shows: What is special about it.
    """

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    shows: str


def tiny_models() -> dict[str, TinyModel]:
    """Give models with a few thousand random weights, one per shape of module that exists.

    Needs torch; those of transformers' architectures are left out where it is not installed.

    Returns:
        By name. Nothing is downloaded, nothing is made before `make()` is called.

    Example:
        >>> tiny = tiny_models()["mlp"]
        >>> tuple(tiny.make()(*tiny.inputs()).shape)
        (1, 16)
    """
    from tracekit._torch import tiny

    entries = list(tiny.MODELS)
    if importlib.util.find_spec("transformers") is not None:
        entries += [
            ("gpt2", gpt2, _tokens, "a GPT-2, two blocks, 4 heads, width 32"),
            ("llama", _llama, _tokens, "a Llama, two blocks, grouped key and value heads"),
        ]
    return {
        name: TinyModel(name, functools.partial(tiny.seeded, make), inputs, shows)
        for name, make, inputs, shows in entries
    }


def gpt2(**config: Any) -> torch.nn.Module:
    """Make a GPT-2 language model with random weights. Needs transformers; loads nothing.

    Args:
        config: Overrides of a tiny `GPT2Config`: 2 blocks, width 32, 4 heads, 64 positions, a
            vocabulary of 128. With `n_layer=12, n_embd=768, n_head=12` it has the shape of GPT-2
            small.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": 128}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**{**tiny, **special, **config}))


def _llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            vocab_size=128,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def _tokens() -> tuple[Any, ...]:
    import torch

    return (torch.arange(1, 11).reshape(2, 5),)
