"""The engine: tensors, functions, and the walk back.

A Function computes with arrays and knows nothing of tensors; a Tensor is an array and, if it was computed
from something trainable, the node that computed it. The engine knows nothing of the operations.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from minipeft.backend import Array, aliases, array_module, backend_of, backward_phase, is_array
from minipeft.specialize import page_of, specialized

_recording: ContextVar[bool] = ContextVar("recording", default=True)
_birth = itertools.count()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside (in this thread); also usable as a decorator."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Context:
    """What a forward leaves for its backward.

    ``needs_grad[i]`` says whether argument i of the forward wants a gradient (False if it is not a tensor);
    ``save(...)`` keeps what the backward needs, and ``saved`` is that tuple. Made by hand, ``Context(True, False)``,
    it lets anybody call a forward and a backward without the engine.
    """

    __slots__ = ("needs_grad", "saved")

    def __init__(self, *needs_grad: bool):
        self.needs_grad = needs_grad
        self.saved: tuple[Any, ...] = ()

    def save(self, *values: Any) -> None:
        """Keep arrays (or None, or plain numbers and shapes) for the backward."""
        self.saved = values


class Node:
    """One recorded application of a Function: its context, the nodes or leaves of its arguments, its output's shape."""

    __slots__ = ("birth", "ctx", "function", "parents", "shape")

    def __init__(
        self, function: type[Function], ctx: Context, parents: list[Node | Tensor | None], shape: tuple[int, ...]
    ):
        self.function = function
        self.ctx: Context | None = ctx
        self.parents = parents
        self.shape = shape
        self.birth = next(_birth)

    @property
    def name(self) -> str:
        """The name of the operation, also if a specialization of it ran."""
        return str(page_of(self.function).__name__)


class Function:
    """An operation with an explicit forward and backward, arrays in and arrays out.

    ``backward(ctx, dz)`` returns one gradient for each argument of the forward, of its shape, or None where
    ``ctx.needs_grad`` is False. It returns new arrays, ``dz`` or views of ``dz``, also one array for several
    arguments; it never writes ``dz`` or an input, and never returns a saved array.
    """

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Array:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any) -> Tensor:
        """Run the forward on the arrays of ``args``; record a node if any of them requires a gradient.

        Tensors among ``args`` reach the forward as their arrays, everything else as it is. While recording
        (``_recording``), ``ctx.needs_grad[i]`` is what tensor i requires; under `no_grad`, and if it is not a tensor,
        it is False. Where one entry is True, the output requires a gradient and its ``node`` is a new `Node`, whose
        parents are, argument by argument: the node that computed the tensor, the tensor itself if it is a leaf, None
        where no gradient is needed. Otherwise the output has no node and nothing is kept. In place of this class runs
        what is `specialized` for the first tensor's device.
        """
        raise NotImplementedError("hw1.9: Function.apply")


class Tensor:
    """An array that gradients flow to.

    ``data`` the array; ``grad`` an array of the same shape, or None; ``node`` what computed it, None for a leaf.
    Arrays keep their dtype; Python numbers and lists of them become float32 (integers and booleans stay).
    Raises TypeError for data that is not numeric, or for an integer tensor that shall require a gradient.
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            raise TypeError("expected an array or numbers, got a Tensor; use tensor.detach() or tensor.data")
        if not is_array(data):
            converted = np.asarray(data)
            keep = isinstance(data, np.generic) or converted.dtype.kind in "iub"
            data = converted if keep else converted.astype(np.float32, casting="same_kind")
        if data.dtype.kind not in "fiub":
            raise TypeError(f"expected real numbers, got an array of {data.dtype}")
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require a gradient, got {data.dtype}")
        self.data: Array = data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.node: Node | None = None

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)

    if TYPE_CHECKING:  # the operators come from ops/operators.py; this tells type checkers of them

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, p: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:  # without it, Python would ask __len__
        return bool(self.data)

    def __repr__(self) -> str:
        made_by = f", from {self.node.name}" if self.node else ""
        flag = ", requires_grad=True" if self.requires_grad and not self.node else ""
        return f"Tensor({self.data!r}{made_by}{flag})"

    def __float__(self) -> float:
        return float(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else str(self), spec)

    __array_ufunc__ = None  # so that `array * tensor` asks the tensor

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("a Tensor is not converted to an array silently; use tensor.data")

    def item(self) -> float:
        """Return the single value as a Python number (from a GPU this waits for the device)."""
        if self.data.size != 1:
            raise ValueError(f"expected a tensor of one number, got shape {self.shape}; use tensor.data for the array")
        return self.data.item()

    def detach(self) -> Tensor:
        """The same array, cut from the graph: gradients stop here."""
        return Tensor(self.data)

    def requires_grad_(self, flag: bool = True) -> Tensor:
        """Make a leaf trainable or frozen; raises RuntimeError on a computed tensor."""
        if self.node is not None:
            raise RuntimeError("requires_grad_ is for leaves; this tensor was computed: use detach() to cut it off")
        if flag and self.data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require a gradient, got {self.data.dtype}")
        self.requires_grad = flag
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.node is not None or (self.requires_grad and _recording.get()):
            raise RuntimeError(
                "writing into a tensor that is recorded would falsify its gradient; "
                "build a new tensor, or write under no_grad() into a leaf"
            )
        self.data[key] = value.data if isinstance(value, Tensor) else value

    def backward(self, grad: Array | None = None, into: dict[Tensor, Array] | None = None) -> None:
        """Walk back from here and add to ``.grad`` of every trainable leaf, or to ``into`` where it is given.

        grad: dL/dz, of this tensor's shape and cast to its dtype; ones for a scalar. The walk is by birth: a node uses
        only nodes born before it, so reversed birth order is a topological order. A node is emptied once it is walked.
        Raises RuntimeError for a tensor without a graph, one walked before, or a Function whose backward breaks the
        contract; ValueError for a grad of the wrong shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: nothing here requires a gradient (all inputs frozen, or under no_grad)")
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"backward of a tensor of shape {self.shape} needs grad, an array of that shape")
            grad = array_module(self.data).ones_like(self.data)
        elif isinstance(grad, np.generic):  # NumPy's arithmetic turns 0-d arrays into scalars
            grad = np.asarray(grad)
        if not is_array(grad) or grad.shape != self.shape:
            raise ValueError(f"grad must be an array of shape {self.shape}, got {_described(grad)}")
        if grad.dtype != self.data.dtype:  # a float64 cotangent would drag the whole pass to float64
            grad = grad.astype(self.data.dtype)
        if self.node is None:
            return _add_to_leaf(self, grad, grad, into)
        with backward_phase():
            _walk(self.node, grad, into)
        return None


def _walk(root: Node, grad: Array, into: dict[Tensor, Array] | None) -> None:
    """The whole backward pass: pop the youngest node, run its rule, add to its parents.

    Each node's rule runs once, after every node that used its output. A parent that is a leaf receives its gradient
    through `_add_to_leaf`, as a copy if the rule returned that array for another argument as well. A parent that is a
    node collects its gradients in a sum: a gradient from a rule may be ``dz``, a view of it or shared, so it is kept
    but never written; only a sum made here is added to in place. The gradient of a parent that is None is ignored. A
    visited node is emptied, ``ctx`` None and ``parents`` empty, before the next one is visited.
    Raises RuntimeError for a node that was walked before, for another number of gradients than inputs, and for a
    gradient that is not an array of its parent's shape (None included).
    """
    raise NotImplementedError("hw1.11: _walk")


def _described(x: Any) -> str:
    return f"{type(x).__name__} of shape {x.shape}" if hasattr(x, "shape") else repr(x)


def _add_to_leaf(leaf: Tensor, g: Array, dz: Array, into: dict[Tensor, Array] | None) -> None:
    """Add ``g`` to the leaf's gradient; what may alias ``dz`` is copied, so that no two ``.grad`` share memory.

    The gradient is ``into[leaf]`` where ``into`` is given (``leaf.grad`` stays as it is), else ``leaf.grad``. It is an
    array, in the dtype of the leaf even where ``g`` has another, and 0-d where ``g`` is a NumPy scalar.
    """
    raise NotImplementedError("hw1.10: _add_to_leaf")
