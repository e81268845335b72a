"""The wrapped module tree: `model.layers[0].mlp.output` becomes a request for a site.

A node stands for one module. Nodes are made when they are asked for, one a module; nothing is
put on the modules, and a module that is replaced in its parent gets another node.
"""

from __future__ import annotations

import difflib
import fnmatch
import sys
import weakref
from collections.abc import Callable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import torch
from torch import nn

from .._interleave.host import WAIT
from .._interleave.requests import Read, Skip, View, Write
from .._interleave.site import spell
from .._protocol import Raised, Suspending, ask, suspending
from .._runtime.refusals import cannot_wait
from .._runtime.twins import enters_with
from ..errors import NotRunningError, UnknownNameError
from . import hooks
from .run import edited_call
from .values import checked_inputs, first_input, with_first_input

if TYPE_CHECKING:
    from .run import Run

_SHOWN_NAMES = 8
_MADE_AGAIN: Final = frozenset(
    {"_requests", "_nodes", "_reached", "_called", "_rules", "_first_parameter"}
)
_LISTS: Final = (nn.ModuleList, nn.Sequential)


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """Give the direct child of that name, `None` if there is none.

    A scripted module's table of children has no `get`.
    """
    children = module._modules
    return children[name] if name in children else None  # noqa: SIM401 - it has no `get`


class Place(Protocol):
    """Where a run can be asked to stand besides modules, such as an operation in a forward."""

    def _reach(self, run: Run) -> BaseException | None:
        """See to it that *run* comes by, or say why it cannot."""

    def _explain(self, run: Run) -> tuple[str, str, str]:
        """Say why *run* did not come by: rows *Seen*, *Why* and *Fix*."""


class Tree:
    """What the nodes of one wrapper share.

    Attributes:
        root: The wrapped module.
        node_class: What the nodes below the root are made of.
        wrappers: What the nodes of some modules are made of instead: by type, or by pattern of
            the path.
        nodes: Those that are alive, by path. A node holds its children and the tree; the tree
            does not hold the nodes, so that no cycle keeps a model alive.
        edits: Stored edits, in the order in which they were made.
        origins: The trees that this one is an edited copy of: their nodes mean the same modules.
        aliases: Names given by `rename=`: of a node's path, the alias and the real path below.
        places: What is asked for and is no module, by path.
        validates: Each trace is scanned before it runs, unless it says otherwise.
        spares: What `hooks` put on modules in earlier runs, by path.
        ways: How `straight` hooked modules in earlier runs, before the call; by path.
        late_ways: The same, while the model ran.
    """

    def __init__(self, root: nn.Module, node_class: type[Node]) -> None:
        self.root = root
        self.shapes: dict[str, Any] = {}
        """What each module gave in the last scan, in words; by path."""
        self.node_class = node_class
        self.wrappers: dict[Any, type[Node]] = {}
        self.nodes: weakref.WeakValueDictionary[str, Node] = weakref.WeakValueDictionary()
        self.aliases: dict[str, dict[str, str]] = {}
        self.edits: list[Any] = []
        self.origins: tuple[Tree, ...] = ()
        self.places: dict[str, Place] = {}
        self.validates = False
        self.spares: dict[str, Any] = {}
        self.ways: dict[str, Any] = {}
        self.late_ways: dict[str, Any] = {}
        self._paths: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "root": self.root,
            "node_class": self.node_class,
            "aliases": self.aliases,
            "edits": self.edits,
            "wrappers": self.wrappers,
            "validates": self.validates,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], state["node_class"])  # type: ignore[misc]
        self.aliases = state["aliases"]
        self.edits = state["edits"]
        self.wrappers = state["wrappers"]
        self.validates = state["validates"]

    def path_of(self, module: nn.Module, guess: str) -> str:
        """Give a module's name as in `named_modules()`: the first one if it has several.

        Args:
            module: A module of the tree.
            guess: The name under which it was found.
        """
        path = self._paths.get(module)
        if path is None or self.find_module(path) is not module:
            # `named_modules()` walks the whole tree: once, and again when it has changed.
            self._paths = weakref.WeakKeyDictionary(
                {found: name for name, found in self.root.named_modules()}
            )
            path = self._paths.get(module, guess)
        return path

    def find_module(self, path: str) -> nn.Module | None:
        """Give the module that stands at *path* now."""
        module: nn.Module | None = self.root
        if path:
            for name in path.split("."):
                module = child_of(module, name) if module is not None else None
        return module

    def chain(self, path: str) -> list[tuple[str, nn.Module]]:
        """List the modules from the root down to *path*, with their paths."""
        module: nn.Module = self.root
        found = [("", module)]
        if path:
            name = ""
            for part in path.split("."):
                name = f"{name}.{part}" if name else part
                child = child_of(module, part)
                if child is None:
                    raise UnknownNameError(f"`{spell(name, '')}` is no longer in the model")
                module = child
                found.append((name, module))
        return found

    def class_of(self, path: str, module: nn.Module) -> type[Node]:
        """Tell what the node of a module is made of: by its type first, then by its path."""
        wrappers = self.wrappers
        if wrappers and path:
            for kind in type(module).__mro__:
                if kind in wrappers:
                    return wrappers[kind]
            names = (path, spelled(self.aliases, path))
            for pattern, cls in wrappers.items():
                if isinstance(pattern, str) and any(
                    fnmatch.fnmatchcase(f".{name}", f"*.{pattern.removeprefix('.')}")
                    for name in names
                ):
                    return cls
        return self.node_class

    def node(self, path: str, module: nn.Module) -> Node:
        """Give the node of a module that was found at *path*."""
        path = self.path_of(module, path)
        node = self.nodes.get(path)
        if node is None or node._module is not module:
            cls = self.class_of(path, module)
            node = cls.__new__(cls)
            node._attach(self, path, module)
            self.nodes[path] = node
        return node


def spelled(aliases: dict[str, dict[str, str]], path: str) -> str:
    """Write a path with aliases where there are some.

    Args:
        aliases: Of a path, alias to real path below.
        path: Without aliases.
    """
    words: list[str] = []
    at = ""
    while at != path:
        rest = path.removeprefix(f"{at}." if at else "")
        for alias, real in aliases.get(at, {}).items():
            if rest == real or rest.startswith(f"{real}."):
                word, step = alias, real
                break
        else:
            word = step = rest.partition(".")[0]
        words.append(word)
        at = f"{at}.{step}" if at else step
    return ".".join(words)


class Port(Suspending):
    """A value of a node that can be read and assigned when the model stands there."""

    __slots__ = ("doc", "name", "port", "view")

    def __init__(self, name: str, port: str, view: View | None = None, doc: str = "") -> None:
        self.name = name
        self.port = port
        self.view = view
        self.doc = doc

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self.doc

    def request(self, node: Any) -> Read:
        """Give the request for the value of *node* at this port, always the same object."""
        requests: dict[str, Read] | None = node._requests
        if requests is None:
            requests = node._requests = {}
        request = requests.get(self.name)
        if request is None:
            owner, path = node._site_owner()
            request = requests[self.name] = Read(owner, path, self.port, self.view)
        return request

    def ask_get(self, obj: Any) -> Any:
        """Suspend until the model stands at the site; give the value."""
        requests = obj._requests
        request = None if requests is None else requests.get(self.name)
        return ask(request or self.request(obj))

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Suspend until the model stands at the site; replace the value."""
        owner, path = obj._site_owner()
        yield from ask(Write(owner, path, self.port, value, self.view))

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        return answer_now(self.request(obj))

    def __set__(self, obj: Any, value: Any) -> None:
        owner, path = obj._site_owner()
        answer_now(Write(owner, path, self.port, value, self.view))


def answer_now(request: Read) -> Any:
    """Answer a request of code that cannot suspend: only if the model stands at the site.

    Raises:
        NotRunningError: `not-running`. No run is going on.
        CannotSuspendError: `cannot-suspend`. The model does not stand there.
    """
    run = hooks.current_run()
    name = spell(request.key[0], request.name)
    if run is None:
        raise NotRunningError(
            f"`{name}` has a value only while the model runs",
            why="a value inside the model exists only in a traced run",
            fix="ask for it in a block: `with model.trace(x): ...`",
        )
    answer = run.interleaver.answer_now(request)
    if type(answer) is Raised:
        raise answer.error
    if answer is WAIT:
        raise cannot_wait(f"`{name}`")
    return answer


class Node:
    """One module of a wrapped model.

    Its children are found by attribute and by index, its values at `output`, `input` and
    `inputs`; all other names are the module's own.
    """

    _module: nn.Module
    _tree: Tree
    _path: str
    _requests: dict[str, Read]
    _nodes: dict[str, Node]
    _reached: dict[str, Node]
    """Children that were reached by attribute: no name of the class stands before them."""
    _called: tuple[Tree, nn.Module]

    output = Port(
        "output", "output", doc="What the module gives to its caller, the user's hooks included."
    )
    inputs = Port(
        "inputs",
        "input",
        View("inputs", lambda value: value, checked_inputs),
        doc="The arguments that the module's forward gets: `(args, kwargs)`.",
    )
    input = Port(
        "input",
        "input",
        View("input", first_input, with_first_input),
        doc="The first positional argument, else the first keyword argument.",
    )

    def _attach(self, tree: Tree, path: str, module: nn.Module) -> None:
        fill = object.__setattr__
        fill(self, "_tree", tree)
        fill(self, "_path", path)
        fill(self, "_requests", {})
        fill(self, "_nodes", {})
        fill(self, "_reached", {})
        self._stand_for(module)

    def _stand_for(self, module: nn.Module) -> None:
        """Let *module* be the one that this node stands for."""
        fill = object.__setattr__
        fill(self, "_module", module)
        # Each look at an attribute of a node is slow, and a call outside of traces must not be.
        fill(self, "_called", (self._tree, module))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: the module, the names, what a subclass has added."""
        return {name: value for name, value in vars(self).items() if name not in _MADE_AGAIN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(self._tree, self._path, self._module)
        self._tree.nodes[self._path] = self

    def _site_owner(self) -> tuple[object, str]:
        return self._tree, self._path

    def __call__(self, *args: Any, hook: bool = False, **kwargs: Any) -> Any:
        """Call the module.

        Outside of a run stored edits take part. Inside a block the call runs at once, is no visit,
        and no edit takes part; with `hook=True` other blocks may
        ask for what is inside it.
        """
        tree, module = self._called
        if hook:
            run = hooks.current_run()
            if run is not None and not run.forwarding:
                run.forwarding = True
                try:
                    return module(*args, **kwargs)
                finally:
                    run.forwarding = False
        if tree.edits and not hooks.runs_tree(tree):
            call = (module, args, kwargs)
            return edited_call(tree, self._path, self._path, lambda: call)
        return module(*args, **kwargs)

    def skip(self, value: Any) -> None:
        """Let the module not run in this visit; *value* is its output.

        Its own input can be read before, and its output after; what is inside it does not run.

        Args:
            value: What the caller of the module gets.
        """
        answer_now(Skip(self._tree, self._path, value))

    # The tree.

    @property
    def path(self) -> str:
        """The module's name as in `named_modules()`; empty for the model itself."""
        return self._path

    @property
    def root(self) -> Node:
        """The wrapper of the whole model."""
        return self._tree.node("", self._tree.root)

    @property
    def parent(self) -> Node | None:
        """The node above; `None` for the model itself."""
        if not self._path:
            return None
        above = self._path.rpartition(".")[0]
        module = self._tree.find_module(above)
        assert module is not None
        return self._tree.node(above, module)

    def _child(self, name: str) -> Node | None:
        child = child_of(self._module, name)
        if child is None:
            return None
        node = self._nodes.get(name)
        if node is None or node._module is not child:
            path = f"{self._path}.{name}" if self._path else name
            node = self._nodes[name] = self._tree.node(path, child)
        return node

    def __getattr__(self, name: str) -> Any:
        # Called only for names that the class does not have.
        own = self.__dict__
        module = own.get("_module")
        if module is None:
            # A half-made copy, as `copy` and `pickle` look at it.
            raise AttributeError(name)
        node = own["_reached"].get(name)
        if node is not None and module._modules.get(name) is node.__dict__["_module"]:
            return node
        if hasattr(type(self), name):
            # A port outside of a run: its error is an `AttributeError`, which led here.
            return object.__getattribute__(self, name)
        child = self._child(name)
        if child is not None:
            if isinstance(module._modules, dict):
                own["_reached"][name] = child
            return child
        aliases = self._tree.aliases
        if aliases:
            real = aliases.get(self._path, {}).get(name)
            if real is not None:
                return self._below(real)
        try:
            value = getattr(module, name)
        except AttributeError as error:
            defined = getattr(type(module), name, None)
            if isinstance(defined, property):
                # torch says that the property is missing; the user must see what failed in it.
                return defined.__get__(module)
            if defined is not None:
                raise
            # What a module says that looks names up in its own way is worth reading.
            own_words = type(module).__getattr__ is not nn.Module.__getattr__
            raise self._unknown(name) from (error if own_words else None)
        if isinstance(value, MethodType) and value.__self__ is module:
            return _Method(self, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        elif isinstance(value, Node):
            # `model.layers += ...` and the like give the wrapper back.
            if self._child(name) is not value:
                setattr(self._module, name, value._module)
        else:
            setattr(self._module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module, name)

    def _below(self, path: str) -> Node:
        node: Node = self
        for name in path.split("."):
            child = node._child(name)
            if child is None:
                raise node._unknown(name)
            node = child
        return node

    def get(self, path: str) -> Any:
        """Give the node at a dotted path below this one.

        Args:
            path: As in `named_modules()`, also with aliases, for example `layers.0.mlp`. In a
                block it may end in a port: `layers.0.mlp.output`.

        Raises:
            UnknownNameError: `unknown-name`. There is no such module.
        """
        value: Any = self
        for name in path.split(".") if path else ():
            if isinstance(value, Node) and (child := value._child(name)) is not None:
                value = child
            else:
                value = getattr(value, name)
        return value

    def find(self, pattern: str) -> list[Node]:
        """List the nodes whose path matches a shell pattern.

        Args:
            pattern: `*` matches any run of characters, dots included, as in `fnmatch`; for
                example `*.mlp`. Matched against the path below this node.

        Returns:
            The nodes, in the order of `named_modules()`; empty if none matches.
        """
        return [node for name, node in self.named_modules() if fnmatch.fnmatchcase(name, pattern)]

    def named_modules(
        self, include_fn: Callable[[Node], bool] | None = None
    ) -> list[tuple[str, Node]]:
        """List this node and those below it with their paths below this node.

        Args:
            include_fn: Only nodes for which it is true.
        """
        found = []
        for name, _ in self._module.named_modules():
            node = self._below(name) if name else self
            if include_fn is None or include_fn(node):
                found.append((name, node))
        return found

    def modules(self, include_fn: Callable[[Node], bool] | None = None) -> list[Node]:
        """List this node and those below it, each once.

        Args:
            include_fn: Only nodes for which it is true.
        """
        return [node for _, node in self.named_modules(include_fn)]

    def named_children(self) -> list[tuple[str, Node]]:
        """List the nodes directly below with their names."""
        found = []
        for name in self._module._modules:
            child = self._child(name)
            if child is not None:
                found.append((name, child))
        return found

    def children(self) -> list[Node]:
        """List the nodes directly below."""
        return [node for _, node in self.named_children()]

    def __getitem__(self, key: Any) -> Any:
        if type(key) is int and key >= 0:
            # Each look at an attribute of a node is slow; see `_stand_for`.
            own = self.__dict__
            module = own["_module"]
            if isinstance(module, _LISTS):
                name = str(key)
                node = own["_nodes"].get(name)
                if node is not None and node.__dict__["_module"] is module._modules.get(name):
                    return node
                child = self._child(name)
                if child is not None:
                    return child
        names = list(self._module._modules)
        if isinstance(key, str):
            child = self._child(key)
            if child is None:
                if "." in key:
                    return self.get(key)
                raise self._unknown(key)
            return child
        if isinstance(key, slice):
            return [self._child(name) for name in names[key]]
        if isinstance(self._module, nn.ModuleList | nn.Sequential | nn.ParameterList):
            try:
                name = names[key]
            except IndexError:
                raise IndexError(
                    f"`{spell(self._path, '')}` has {len(names)} children, no number {key}"
                ) from None
            return self._child(name)
        return self._module[key]  # type: ignore[index]

    def __len__(self) -> int:
        return len(self._module)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._module, nn.ModuleList | nn.Sequential):
            return iter(self.children())
        items: Iterator[Any] = iter(self._module)  # type: ignore[call-overload]
        return items

    def __contains__(self, item: object) -> bool:
        if isinstance(item, Node):
            item = item._module
        if isinstance(item, str):
            return item in self._module._modules
        return any(item is child for child in self._module._modules.values())

    # The module.

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert the module, as `nn.Module.to`; gives this node back."""
        self._module.to(*args, **kwargs)
        return self

    def cpu(self) -> Self:
        """Move the module to the CPU; gives this node back."""
        self._module.cpu()
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Move the module to a GPU; gives this node back."""
        self._module.cuda(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device | None:
        """Where the first parameter is, else the first buffer; `None` if there is neither."""
        for parameter in self._module.parameters():
            return parameter.device
        for buffer in self._module.buffers():
            return buffer.device
        return None

    @property
    def devices(self) -> set[torch.device]:
        """Where the parameters and buffers are."""
        return {
            tensor.device
            for kind in (self._module.parameters(), self._module.buffers())
            for tensor in kind
        }

    def __dir__(self) -> list[str]:
        return sorted(
            {
                *object.__dir__(self),
                *dir(self._module),
                *self._module._modules,
                *self._tree.aliases.get(self._path, ()),
            }
        )

    def __repr__(self) -> str:
        from .printed import render  # which knows nodes

        return render(self)

    def _unknown(self, name: str) -> UnknownNameError:
        children = list(self._module._modules)
        names = [*children, *self._tree.aliases.get(self._path, ())]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        near += [
            n
            for n in difflib.get_close_matches(
                name, [*dir(self._module), *dir(type(self))], n=3, cutoff=0.75
            )
            if n not in near and not n.startswith("_")
        ]
        more = [child for child in children if child not in near]
        shown = ", ".join(near + more[: _SHOWN_NAMES - len(near)])
        if len(more) > _SHOWN_NAMES - len(near):
            shown += ", ..."
        return UnknownNameError(
            f"`{spell(self._path, '')}` ({type(self._module).__name__}) has no `{name}`",
            seen=f"it has: {shown}" if shown else "it has no children",
            fix=f"did you mean `{spell(self._path, near[0])}`?" if near else "",
        )


@suspending(Node.skip)
def _skip(self: Node, value: Any) -> Any:
    yield from ask(Skip(self._tree, self._path, value))


@suspending(Node.get)
def _get(self: Node, path: str) -> Any:
    value: Any = self
    for name in path.split(".") if path else ():
        child = value._child(name) if isinstance(value, Node) else None
        if child is not None:
            value = child
        elif isinstance(port := getattr(type(value), name, None), Suspending):
            value = yield from port.ask_get(value)
        else:
            value = getattr(value, name)
    return value


class _Method:
    """A method of the module; where it gives the module back, the wrapper is given instead."""

    __slots__ = ("__wrapped__", "_node")

    def __init__(self, node: Node, method: MethodType) -> None:
        self._node = node
        self.__wrapped__ = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        node, method = self._node, self.__wrapped__
        if method.__name__ == "generate" and enters_with(sys._getframe(1)):
            # What it returns can be entered by no `with`: the call is to be traced.
            tracer: Any = node
            return tracer.trace(*args, fn="generate", **kwargs)
        if (
            node._tree.edits
            and not hasattr(nn.Module, method.__name__)
            and not hooks.runs_tree(node._tree)
        ):
            call = (method, args, kwargs)
            result = edited_call(node._tree, node._path, None, lambda: call)
        else:
            result = method(*args, **kwargs)
        return self._node if result is self._node._module else result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)
