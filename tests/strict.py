"""A stand-in for a GPU array, stricter than CuPy: whatever would silently touch the host is refused here.

Implicit conversion to NumPy, operands of two kinds, NumPy functions called on it, and indexing or assigning with NumPy
arrays raise TypeError; reading a value on the host is counted. The results have the same bits as NumPy's.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from minipeft.array import Backend, register

SCALARS = (int, float, bool)


class Syncs:
    """How often a value was read on the host."""

    count = 0


class StrictArray:
    """Wraps a NumPy array; a subclass could not refuse what NumPy does by itself."""

    __array_ufunc__ = None

    def __init__(self, data: np.ndarray):
        assert type(data) is np.ndarray
        self._data = data

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on a device array; call it through array_module(x)")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion of a device array to NumPy; use to_numpy")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __array_interface__ among them: NumPy would read the memory through it
            raise AttributeError(name)
        raise AttributeError(f"a device array has no {name!r} here")

    shape = property(lambda self: self._data.shape)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    dtype = property(lambda self: self._data.dtype)
    nbytes = property(lambda self: self._data.nbytes)
    itemsize = property(lambda self: self._data.itemsize)
    flags = property(lambda self: self._data.flags)
    T = property(lambda self: StrictArray(self._data.T))

    @property
    def base(self) -> StrictArray | None:
        return None if self._data.base is None else StrictArray(self._data.base)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Any:
        raise TypeError("iterating over a device array copies it row by row")

    def item(self) -> Any:
        Syncs.count += 1
        return self._data.item()

    def __float__(self) -> float:
        Syncs.count += 1
        return float(self._data)

    def __int__(self) -> int:
        Syncs.count += 1
        return int(self._data)

    def __bool__(self) -> bool:
        Syncs.count += 1
        return bool(self._data)

    def __index__(self) -> int:
        raise TypeError("a device array cannot be an index of the host")

    def __getitem__(self, key: Any) -> StrictArray:
        return wrap(self._data[_key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[_key(key)] = unwrap(value)

    def __repr__(self) -> str:
        return f"StrictArray{self.shape}"


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_key(k) for k in key)
    if isinstance(key, StrictArray):
        return key._data
    if key is None or key is Ellipsis or isinstance(key, (int, slice)):
        return key
    raise TypeError(f"indexing a device array with {type(key).__name__}: it would be copied to the device")


def wrap(x: Any) -> Any:
    return StrictArray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def unwrap(x: Any) -> Any:
    if isinstance(x, StrictArray):
        return x._data
    if isinstance(x, np.generic) and x.dtype.kind in "fiub":
        return x.item()
    if x is None or isinstance(x, (*SCALARS, str, type, np.dtype, slice)):
        return x
    if isinstance(x, (tuple, list)):
        return type(x)(unwrap(v) for v in x)
    raise TypeError(f"a device array met {type(x).__name__}; move it with to_device first")


def _operator(name: str) -> Any:
    plain = getattr(np.ndarray, name)

    def operator(self: StrictArray, other: Any) -> Any:
        result = plain(self._data, unwrap(other))
        if result is NotImplemented:
            return result
        return self if name.startswith("__i") and name != "__invert__" else wrap(result)

    return operator


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        if hasattr(np.ndarray, _form):
            setattr(StrictArray, _form, _operator(_form))
for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(StrictArray, _name, _operator(_name))
StrictArray.__hash__ = object.__hash__  # type: ignore[method-assign]
for _name in ("__neg__", "__invert__", "__abs__"):
    setattr(StrictArray, _name, lambda self, _n=_name: wrap(getattr(self._data, _n)()))


def _method(name: str) -> Any:
    def method(self: StrictArray, *args: Any, **kwargs: Any) -> Any:
        return wrap(getattr(self._data, name)(*map(unwrap, args), **{k: unwrap(v) for k, v in kwargs.items()}))

    return method


for _name in (
    "reshape",
    "transpose",
    "swapaxes",
    "sum",
    "max",
    "min",
    "mean",
    "astype",
    "copy",
    "ravel",
    "view",
    "argmax",
):
    setattr(StrictArray, _name, _method(_name))
StrictArray.repeat = _method("repeat")  # type: ignore[attr-defined]


class Ufunc:
    """A NumPy ufunc as CuPy has it: no ``where``, ``out`` of exactly the result's shape, reduceat for add alone."""

    def __init__(self, ufunc: np.ufunc):
        self.ufunc = ufunc

    def __call__(self, *args: Any, out: StrictArray | None = None, **kwargs: Any) -> Any:
        if "where" in kwargs:
            raise TypeError("where= is not a keyword of a device ufunc; use xp.where")
        if not any(isinstance(a, StrictArray) for a in args):
            raise TypeError(f"{self.ufunc.__name__} was called on the device with {[type(a).__name__ for a in args]}")
        result = self.ufunc(*map(unwrap, args), **kwargs)
        if out is None:
            return wrap(result)
        if out.shape != result.shape:
            raise ValueError(f"out has shape {out.shape}, the result {result.shape}")
        out._data[...] = result
        return out

    def reduceat(self, x: StrictArray, starts: StrictArray, axis: int = 0) -> StrictArray:
        if self.ufunc is not np.add:
            raise TypeError("reduceat exists for add alone")
        return wrap(np.add.reduceat(x._data, starts._data, axis=axis))


def _function(name: str, needs_device: bool = True) -> Any:
    plain = getattr(np, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        result = plain(*map(unwrap, args), **{k: unwrap(v) for k, v in kwargs.items()})
        return wrap(result)

    return function


UFUNCS = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "exp",
    "log",
    "sqrt",
    "tanh",
    "abs",
    "maximum",
    "minimum",
    "copysign",
)
FUNCTIONS = (
    "concatenate",
    "where",
    "empty",
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "empty_like",
    "arange",
)
FUNCTIONS += ("full_like", "tril", "argsort", "flatnonzero", "broadcast_to", "ascontiguousarray", "may_share_memory")
strict_xp = SimpleNamespace(
    **{name: Ufunc(getattr(np, name)) for name in UFUNCS},
    **{name: _function(name) for name in FUNCTIONS},
    matmul=Ufunc(np.matmul),
)


def _to_host(x: StrictArray) -> np.ndarray:
    Syncs.count += 1
    return x._data


register(Backend("strict", strict_xp, StrictArray, lambda x: StrictArray(np.array(x)), _to_host))
