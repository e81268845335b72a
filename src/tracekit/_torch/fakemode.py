"""The dispatch mode of a fake run: floats have no values, integers and booleans do.

PyTorch's own `FakeTensorMode` gives every tensor a shape and no value. Real programs read
integers all the time: masks are tested, token ids are compared, lengths become shapes. So here a
tensor is one of three things:

* *fake*: a `FakeTensor`; all floating-point and complex tensors, and integers too big to compute.
* *known*: an integer or boolean tensor with values, on the CPU. On the CPU it is an ordinary
  tensor; a known tensor that claims another device is a `Known`, which carries the values.
  A float tensor that was only filled with one number (`torch.ones`) remembers it: masks are made so.
* *made up*: a known tensor whose values follow from fake ones (`x > 0`, `argmax`); zeros. The
  code of the libraries in `_MAY_GUESS` gets them when it asks (so a generation goes on until its
  length ends it); all other code is refused.

Things that don't work: fake integers with FakeTensor's own constants (only set for literals, and
dropped at the first write); a `FakeTensor` that carries values for claimed devices (transformers
takes other paths when it is shown a `FakeTensor`); one marker per made-up tensor (a write through
a view must reach its base, so the marks are kept per storage).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..errors import ScanDeviceError, ValueNotKnownError
from . import fakechecks, nocuda

_aten = torch.ops.aten
_ITEM: Final = _aten._local_scalar_dense.default
_DEVICE: Final = torch.ops.prim.device.default
_LIFTS: Final = {_aten.lift_fresh.default, _aten.lift_fresh_copy.default}
_DYNAMIC: Final = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_GROUPED_MM: Final = getattr(getattr(_aten, "_grouped_mm", None), "default", None)

# Fused cell -> how many states it gives, and parts of its workspace.
_FUSED_CELLS: Final = {
    _aten._thnn_fused_lstm_cell.default: (2, 4),
    _aten._thnn_fused_gru_cell.default: (1, 5),
}
_HERE: Final = frozenset({"cpu", "meta"})
# Operation that fills a tensor -> the number, from its arguments.
_FILLS: Final[dict[Any, Callable[..., Any]]] = {
    _aten.ones.default: lambda *_: 1.0,
    _aten.ones_like.default: lambda *_: 1.0,
    _aten.new_ones.default: lambda *_: 1.0,
    _aten.zeros.default: lambda *_: 0.0,
    _aten.zeros_like.default: lambda *_: 0.0,
    _aten.new_zeros.default: lambda *_: 0.0,
    _aten.full.default: lambda _size, number: number,
    _aten.full_like.default: lambda _like, number: number,
    _aten.new_full.default: lambda _like, _size, number: number,
}
_COMPARISONS: Final = {
    _aten.eq.Scalar: operator.eq,
    _aten.ne.Scalar: operator.ne,
    _aten.lt.Scalar: operator.lt,
    _aten.le.Scalar: operator.le,
    _aten.gt.Scalar: operator.gt,
    _aten.ge.Scalar: operator.ge,
}

# Integers of more elements than this are not computed: they are packed weights, not indices.
MAX_KNOWN_ELEMENTS: Final = 1 << 24

# Whose code may be given made-up values: it asks for them to decide when a generation ends and
# which experts to run, never for a result that somebody reads.
_MAY_GUESS: Final = (
    "transformers.generation",
    "transformers.models",
    "transformers.integrations",
    "transformers.modeling",
    "transformers.masking_utils",
    "transformers.cache_utils",
    "transformers.utils",
    "transformers.activations",
)
_NOT_ASKERS: Final = ("torch", "tracekit._torch", "contextlib", "functools", "transformers.utils")


class Known(Tensor):
    """An integer or boolean tensor that claims a device; its values lie on the CPU."""

    value: Tensor
    stand_in: FakeTensor | None

    @staticmethod
    def __new__(cls: type[Known], value: Tensor, device: torch.device) -> Known:  # noqa: PYI034
        known: Known = torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=device,
        )
        known.value = value
        known.stand_in = None
        return known

    def __repr__(self, **_options: Any) -> str:  # type: ignore[override]
        return f"Known({self.value!r}, device={str(self.device)!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer outside of the fake run: with the values, where they are."""
        del types
        plain = tree_map_only(Known, lambda known: known.value, (args, kwargs or {}))
        return func(*plain[0], **plain[1])


def is_float(tensor: Tensor) -> bool:
    """Tell whether a tensor's values are fake in a fake run: floating point or complex."""
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def describe(tensor: Tensor) -> str:
    """Name a tensor in a message: `float32[2, 16]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _asking_frame() -> FrameType:
    """Find the Python code that asked: the innermost frame outside of torch and tracekit."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_NOT_ASKERS) or name.startswith("torchvision"):
            break
        frame = frame.f_back
    return frame


def _asker() -> str:
    """Name the module whose code asked for a value."""
    return str(_asking_frame().f_globals.get("__name__", ""))


def _in_beam_search() -> bool:
    """Tell whether a beam search asks if it should go on: then the guess is that it should."""
    return _asking_frame().f_code.co_name == "_check_early_stop_heuristic"


class FloatsFake(TorchDispatchMode):
    """Runs operations on fake floats and known integers.

    Args:
        fake_mode: Makes and owns the fake tensors.
        meta_device: What a tensor on the meta device is taken to be on.
    """

    supports_higher_order_operators = True

    def __init__(self, fake_mode: FakeTensorMode, meta_device: torch.device | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake_mode = fake_mode
        self.meta_device = meta_device
        self.guesses: dict[str, int] = {}
        """Module that asked for made-up values -> how often."""
        self.observe: Callable[[FakeTensor], None] | None = None
        """Called with each new fake tensor that an operation gave."""
        self.refuses_cuda = not nocuda.is_usable()
        self._made_up: dict[int, StorageWeakRef] = {}
        self._own: dict[int, StorageWeakRef] = {}
        self._overwritten: dict[int, tuple[Tensor, Tensor]] = {}
        self._filled: dict[int, tuple[StorageWeakRef, Any]] = {}

    # Which of the three a tensor is, and how one becomes another.

    def fake(self, tensor: Tensor) -> Tensor:
        """Give the fake tensor that stands for *tensor*. Reads no value.

        Args:
            tensor: Any shape; real, meta, known or already fake.

        Returns:
            Same shape, strides and dtype; the device that *tensor* will be on.
        """
        if isinstance(tensor, FakeTensor):
            return tensor
        if isinstance(tensor, Known):
            if tensor.stand_in is None:
                tensor.stand_in = self.stand_in(tensor.value, tensor.device)
            return tensor.stand_in
        if tensor.is_meta and self.meta_device is not None:
            return self.stand_in(tensor, self.meta_device)
        if not is_float(tensor) and type(tensor) is Tensor:
            return self.stand_in(tensor, tensor.device)
        return self.fake_mode.from_tensor(tensor, static_shapes=True)

    def stand_in(self, tensor: Tensor, device: torch.device) -> FakeTensor:
        """Make a new fake tensor with the layout of *tensor* on *device*."""
        meta = torch.empty_strided(
            tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta"
        )
        return FakeTensor(self.fake_mode, meta, device)

    def known(self, value: Tensor, device: torch.device, *, own: bool = True) -> Tensor:
        """Present an integer tensor on the CPU as one on *device*."""
        if own:
            storage = value.untyped_storage()
            self._own[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        return value if device.type == "cpu" else Known(value, device)

    def make_up(self, like: Tensor, device: torch.device) -> Tensor:
        """Give zeros for an integer result that follows from fake values."""
        if like.numel() > MAX_KNOWN_ELEMENTS:
            return like
        guess = int(like.dtype is torch.bool and _in_beam_search())
        value = torch.full(like.size(), guess, dtype=like.dtype)
        self.mark(value)
        return self.known(value, device)

    def mark(self, tensor: Tensor) -> None:
        """Note that the values of a known tensor are made up."""
        value = tensor.value if isinstance(tensor, Known) else tensor
        storage = value.untyped_storage()
        # The weak reference keeps the address from being taken by another storage.
        self._made_up[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    def is_made_up(self, tensor: Tensor) -> bool:
        """Tell whether the values of a tensor are not known: fake, or made up."""
        if isinstance(tensor, FakeTensor):
            return True
        value = tensor.value if isinstance(tensor, Known) else tensor
        return bool(self._made_up) and value.untyped_storage()._cdata in self._made_up

    def restore_overwritten(self) -> None:
        """Give tensors from outside the run, written in it, their values back."""
        for tensor, before in self._overwritten.values():
            if tensor.is_inference():
                with torch.inference_mode():
                    tensor.copy_(before)
            else:
                with torch.no_grad():
                    tensor.copy_(before)
        self._overwritten.clear()

    def _about_to_write(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._own or storage._cdata in self._overwritten:
            return
        whole = torch.empty(0, dtype=tensor.dtype).set_(storage)
        self._overwritten[storage._cdata] = (whole, whole.clone())

    # What is refused.

    def refuse_unless_guessing(self, tensors: list[Tensor], what: str) -> None:
        """Refuse to answer with made-up values, except to code that may be given them.

        Raises:
            ValueNotKnownError: `value-not-known`. A value that follows from fake floats was
                asked for.
        """
        asker = _asker()
        floats = [t for t in tensors if is_float(t)]
        if not floats and asker.startswith(_MAY_GUESS):
            self.guesses[asker] = self.guesses.get(asker, 0) + 1
            return
        shown = ", ".join(describe(t) for t in tensors[:3])
        origin = (
            "it is a floating-point tensor" if floats else "it follows from floating-point ones"
        )
        raise ValueNotKnownError(
            f"{what} needs the value of a tensor, and a scan does not know it",
            seen=f"{shown}: {origin}",
            why="in a scan floating-point tensors have shapes, dtypes and devices, but no values",
            fix="use `.shape` here, or run the block with `trace` instead of `scan`",
        )

    def item(self, tensor: Tensor) -> Any:
        """Answer `.item()`, `bool()`, `int()` and `float()`."""
        if isinstance(tensor, FakeTensor):
            if tensor.constant is not None:
                with unset_fake_temporarily():
                    return tensor.constant.item()
            self.refuse_unless_guessing([tensor], "`.item()`")
            return False if tensor.dtype is torch.bool else 0
        if is_float(tensor):
            self.refuse_unless_guessing([tensor], "`.item()`")
        if self.is_made_up(tensor):
            self.refuse_unless_guessing([tensor], "`.item()`")
        with unset_fake_temporarily():
            return (tensor.value if isinstance(tensor, Known) else tensor).item()

    # One operation.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        if func is _ITEM:
            return self.item(args[0])
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self._is_stray(t) for t in tensors):
            with unset_fake_temporarily():
                args, kwargs = tree_map_only(Tensor, self.bring_in, (args, kwargs))
            return self.__torch_dispatch__(func, (), args, kwargs)
        if isinstance(func, HigherOrderOperator):
            return self.run_fake(func, args, kwargs)
        if func in _LIFTS and is_float(args[0]):
            return func(*args, **kwargs)
        if func is _aten.index.Tensor or func is _aten.index_put_.default:
            args = (args[0], self._masks_to_indices(args[0], args[1]), *args[2:])
        elif func is _aten.masked_select.default and self._is_known(args[1]):
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)  # type: ignore[no-untyped-call]
            mask = self._run_or_keep(_aten.expand.default, args[1], shape)
            expanded = self._run_or_keep(_aten.expand.default, args[0], shape)
            func, args = _aten.index.Tensor, (expanded, self._masks_to_indices(expanded, [mask]))
        elif func is _GROUPED_MM:
            return self._grouped_mm(*args, **kwargs)
        elif func in _FUSED_CELLS:
            # These two have no fake kernel: states are like the state given, and the workspace
            # has 4 (LSTM) or 5 (GRU) parts for each unit.
            outputs, parts = _FUSED_CELLS[func]
            state = args[2]
            work = state.new_empty(state.size(0), parts * state.size(1))
            return (*(torch.empty_like(state) for _ in range(outputs)), work)
        if func in fakechecks.CHECKS:
            fakechecks.CHECKS[func](self, *args, **kwargs)
        elif torch.Tag.pointwise in func.tags and func._schema.is_mutable:
            fakechecks.in_place(args)
        if all(self._is_known(t) for t in tensors):
            return self._run_known(func, args, kwargs, tensors)
        return self._run_unknown(func, args, kwargs, tensors)

    def _run_or_keep(self, func: Any, tensor: Tensor, *args: Any) -> Any:
        """Run one more operation on one tensor, whichever kind it is."""
        run = self._run_known if self._is_known(tensor) else self._run_unknown
        return run(func, (tensor, *args), {}, [tensor])

    def values(self, tensor: object) -> Tensor | None:
        """Give the values of an integer tensor, if they are known and not made up."""
        if not isinstance(tensor, Tensor) or not self._is_known(tensor):
            return None
        if self.is_made_up(tensor):
            return None
        return tensor.value if isinstance(tensor, Known) else tensor

    @staticmethod
    def _is_known(tensor: Tensor) -> bool:
        return not is_float(tensor) and not isinstance(tensor, FakeTensor) and not tensor.is_meta

    @staticmethod
    def _is_stray(tensor: Tensor) -> bool:
        """Tell whether integers lie on a device where they cannot be computed here."""
        return type(tensor) is Tensor and not is_float(tensor) and tensor.device.type not in _HERE

    def bring_in(self, tensor: Tensor) -> Tensor:
        """Copy an integer tensor of another device to the CPU; it keeps claiming its device."""
        if not self._is_stray(tensor):
            return tensor
        return self.known(tensor.detach().to("cpu", copy=True), tensor.device)

    def run_fake(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        with unset_fake_temporarily():
            args, kwargs = tree_map_only(Tensor, self.fake, (args, kwargs))
        result = func(*args, **kwargs)
        if func in _FILLS and isinstance(result, FakeTensor) and is_float(result):
            storage = result.untyped_storage()
            number = _FILLS[func](*args)
            reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self._filled[storage._cdata] = (reference, number)
        if self.observe is not None:
            for leaf in tree_leaves(result):
                if isinstance(leaf, FakeTensor):
                    self.observe(leaf)
        return result

    def _run_unknown(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Any:
        known = self._from_fill(func, args, kwargs)
        if known is not None:
            return known
        try:
            result = self.run_fake(func, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            unknown = [t for t in tensors if self.is_made_up(t) or is_float(t)]
            self.refuse_unless_guessing(unknown, f"`{func.overloadpacket.__name__}`")
            with unset_fake_temporarily():
                zeros = tree_map_only(
                    Tensor, lambda t: torch.zeros(t.size(), dtype=t.dtype), (args, kwargs)
                )
                return self._adopt(func(*zeros[0], **zeros[1]), tensors, made_up=True)
        written = self._written(func, args, kwargs)
        for tensor in written:
            if self._filled and isinstance(tensor, FakeTensor):
                self._filled.pop(tensor.untyped_storage()._cdata, None)
            if self._is_known(tensor):
                self.mark(tensor)
        if len(written) == 1 and isinstance(result, Tensor) and self._is_known(written[0]):
            return written[0]
        with unset_fake_temporarily():
            return tree_map_only(
                FakeTensor,
                lambda leaf: leaf if is_float(leaf) else self.make_up(leaf, leaf.fake_device),
                result,
            )

    def _from_fill(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """Compute integers and booleans that follow from a tensor filled with one number."""
        if not self._filled or not args or not isinstance(args[0], FakeTensor):
            return None
        dtype = kwargs.get("dtype") if func is _aten._to_copy.default else torch.bool
        compare = _COMPARISONS.get(func)
        if compare is None and (func is not _aten._to_copy.default or dtype is None):
            return None
        found = self._filled.get(args[0].untyped_storage()._cdata)
        if found is None or found[0].expired():  # type: ignore[no-untyped-call]
            return None
        number = found[1] if compare is None else compare(found[1], args[1])
        twin = self.run_fake(func, args, kwargs)
        if is_float(twin) or twin.numel() > MAX_KNOWN_ELEMENTS:
            return None
        with unset_fake_temporarily():
            value = torch.full(twin.size(), number, dtype=dtype)
            return self.known(value, twin.fake_device)

    def _run_known(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Any:
        made_up = any(self.is_made_up(t) for t in tensors)
        if made_up and not _DYNAMIC.isdisjoint(func.tags) and func is not _aten.index.Tensor:
            self.refuse_unless_guessing(
                [t for t in tensors if self.is_made_up(t)], f"`{func.overloadpacket.__name__}`"
            )
        fake_leaves: list[Any] | None = None
        try:
            # Shape and device rules first; and no float is computed.
            result = self.run_fake(func, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            pass
        else:
            fake_leaves = tree_leaves(result)
            found = [leaf for leaf in fake_leaves if isinstance(leaf, Tensor)]
            if found and all(is_float(leaf) for leaf in found):
                return result
            if any(leaf.numel() > MAX_KNOWN_ELEMENTS for leaf in found):
                return result
        originals: dict[int, Tensor] = {}
        for tensor in tensors:
            value = tensor.value if isinstance(tensor, Known) else tensor
            originals[id(value)] = tensor
        real_args, real_kwargs = tree_map_only(Known, lambda t: t.value, (args, kwargs))
        if real_kwargs.get("device") is not None:
            real_kwargs = {**real_kwargs, "device": torch.device("cpu")}
            real_kwargs.pop("pin_memory", None)
        with unset_fake_temporarily():
            for tensor in self._written(func, args, kwargs):
                self._about_to_write(tensor.value if isinstance(tensor, Known) else tensor)
            real = func(*real_args, **real_kwargs)
            return self._adopt(
                real, tensors, made_up=made_up, fakes=fake_leaves, originals=originals
            )

    def _adopt(
        self,
        result: Any,
        tensors: list[Tensor],
        *,
        made_up: bool,
        fakes: list[Any] | None = None,
        originals: dict[int, Tensor] | None = None,
    ) -> Any:
        """Turn the real results of an operation into known and fake tensors."""
        device = tensors[0].device if tensors else torch.device("cpu")
        queue = iter(fakes or ())

        def take(leaf: Any) -> Any:
            twin = next(queue, None)
            if not isinstance(leaf, Tensor):
                return leaf
            if originals is not None and id(leaf) in originals:
                if made_up:
                    self.mark(leaf)
                return originals[id(leaf)]
            claimed = twin.device if isinstance(twin, Tensor) else device
            if is_float(leaf):
                return twin if isinstance(twin, FakeTensor) else self.stand_in(leaf, claimed)
            if made_up:
                self.mark(leaf)
            return self.known(leaf, claimed, own=not self._is_view_of_foreign(leaf, tensors))

        return tree_map(take, result)

    def _is_view_of_foreign(self, result: Tensor, tensors: list[Tensor]) -> bool:
        storage = result.untyped_storage()._cdata
        if storage in self._own:
            return False
        return any(
            (t.value if isinstance(t, Known) else t).untyped_storage()._cdata == storage
            for t in tensors
        )

    @staticmethod
    def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
        """List the tensors that an operation writes to."""
        schema = func._schema
        if not schema.is_mutable:
            return []
        written: list[Tensor] = []
        for index, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[index] if index < len(args) else kwargs.get(argument.name)
                written += [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        return written

    def _masks_to_indices(self, tensor: Tensor, indices: Any) -> list[Any]:
        """Replace boolean masks by the positions they select, so that shapes are known."""
        plain: list[Any] = []
        for index in indices:
            if not isinstance(index, Tensor) or index.dtype not in {torch.bool, torch.uint8}:
                plain.append(index)
                continue
            fakechecks.mask_fits(tensor, index, len(plain))
            if not self._is_known(index) or self.is_made_up(index):
                self.refuse_unless_guessing([index], "indexing with a mask")
            with unset_fake_temporarily():
                given = index
                if isinstance(given, FakeTensor):
                    given = self.make_up(torch.empty_like(given, device="meta"), given.fake_device)
                value = given.value if isinstance(given, Known) else given
                plain += [self.known(at, given.device) for at in value.nonzero().unbind(1)]
        return plain

    def _grouped_mm(
        self,
        left: Tensor,
        right: Tensor,
        offs: Tensor | None = None,
        bias: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> Tensor:
        # QUESTION: may a grouped matrix product take anything but bfloat16?
        #   CPU kernel: yes.   Fake kernel of torch 2.13: no ("Mat1 expected BFloat16").
        #   Goes when the fake kernel takes what the real one takes.
        del bias
        groups = () if offs is None else (offs.size(0),)
        if left.size(-1) != right.size(-2):
            message = (
                f"grouped_mm: contraction sizes differ: {describe(left)} and {describe(right)}"
            )
            raise RuntimeError(message)
        if left.dim() == 2 and right.dim() == 2:
            shape = (*groups, left.size(0), right.size(1))
        elif left.dim() == 2:
            shape = (left.size(0), right.size(-1))
        elif right.dim() == 2:
            shape = (left.size(1), right.size(1))
        else:
            shape = (left.size(0), left.size(1), right.size(-1))
        return torch.empty(shape, dtype=out_dtype or left.dtype, device=left.device)


def _names_cuda(args: Any, kwargs: dict[str, Any] | None) -> bool:
    """Tell whether a tensor method is about a CUDA device."""
    for value in (*args[:2], *(kwargs or {}).values()):
        if isinstance(value, FakeTensor):
            device: Any = value.fake_device  # `.device` says "meta" inside a fake kernel
        else:
            device = value.device if isinstance(value, Tensor) else value
        if getattr(device, "type", device if isinstance(device, str) else "").startswith("cuda"):
            return True
    return False


_READS: Final = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
_GRADIENTS: Final = {Tensor.backward, torch.autograd.grad}
_NO_ENGINE: Final = (
    "Cannot access accelerator device",
    "hasPrimaryContext expects",
    "acquiring a default stream",
)
_PICKLES: Final = {Tensor.__reduce_ex__, FakeTensor.__reduce_ex__}


class AsksForValues(TorchFunctionMode):
    """Answers what torch would otherwise do in C++ without dispatching an operation.

    `.tolist()` and `.numpy()` read a tensor's memory; subscripts need a device that is there.
    """

    def __init__(self, mode: FloatsFake) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is Tensor.__format__ and len(args) > 1 and args[1] and is_float(args[0]):
            self.mode.refuse_unless_guessing([args[0]], "formatting")
        elif func in _PICKLES:
            self.mode.refuse_unless_guessing([args[0]], "pickling")
        if func in _READS:
            tensor = args[0]
            if is_float(tensor) or self.mode.is_made_up(tensor):
                self.mode.refuse_unless_guessing([tensor], f"`.{func.__name__}()`")
            if func is Tensor.tolist:
                value = tensor.value if isinstance(tensor, Known) else tensor
                return value.tolist()
        elif self.mode.refuses_cuda and (func is Tensor.cuda or _names_cuda(args, kwargs)):
            raise ScanDeviceError(
                "a CUDA device is named in a scan, and this build of torch knows none",
                why="tensors that claim a device need a guard for it, which torch lacks here",
                fix="install a build of torch with CUDA (no GPU is needed), or scan on the CPU",
            )
        if func in _GRADIENTS:
            return self._gradients(func, args, kwargs or {})
        return nocuda.STAND_INS.get(func, func)(*args, **(kwargs or {}))

    @staticmethod
    def _gradients(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if not any(words in str(error) for words in _NO_ENGINE):
                raise
            raise ScanDeviceError(
                "gradients are asked for on a device that is not there",
                why="a tensor may claim it in a scan, but torch's engine of gradients looks for it",
                fix="scan the gradients on the CPU",
            ) from error
