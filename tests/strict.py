"""A stand-in for a GPU array, stricter than CuPy: whatever would silently touch the host is refused or counted here.

Implicit conversion to NumPy, operands of two kinds, NumPy functions called on it, and indexing or assigning with NumPy
arrays or lists raise TypeError, although CuPy lets some of them pass. It offers only what CuPy 14 has too (a test
marked `gpu` compares the names). The results have NumPy's bits, since NumPy computes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from minipeft.backend import Backend, register


class Syncs:
    """How often the host has waited for the device."""

    count = 0  # a value was read: bool, float, int, item, to_numpy, print
    sizes = 0  # the shape of a result depended on values: boolean masks, nonzero
    uploads = 0  # an array went to the device, which nothing waits for


class Flags(NamedTuple):
    """The flags that CuPy has; NumPy's own object would let the host lock the array."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class StrictArray:
    """Wraps a NumPy array; a subclass could not refuse what NumPy does by itself. Made by `wrap` alone."""

    __slots__ = ("__weakref__", "_data", "base")
    __array_ufunc__ = None  # NumPy's own operators give way, and its ufuncs refuse
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: np.ndarray):
        assert type(data) is np.ndarray
        self._data = data
        self.base = wrap(data.base) if isinstance(data.base, np.ndarray) else None

    shape = property(lambda self: self._data.shape)
    strides = property(lambda self: self._data.strides)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    dtype = property(lambda self: self._data.dtype)
    nbytes = property(lambda self: self._data.nbytes)
    itemsize = property(lambda self: self._data.itemsize)
    T = property(lambda self: wrap(self._data.T))
    mT = property(lambda self: wrap(self._data.mT))

    @property
    def flags(self) -> Flags:
        f = self._data.flags
        return Flags(f.c_contiguous, f.f_contiguous, f.owndata)

    def __len__(self) -> int:
        return len(self._data)

    # refused

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __array_interface__ among them: NumPy would read the memory through it
            raise AttributeError(name)
        raise AttributeError(f"a device array has no {name!r}: CuPy lacks it, or tests/strict.py does not list it")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion of a device array to NumPy; use to_numpy")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on a device array; call it through array_module(x)")

    def __iter__(self) -> Any:
        raise TypeError("iterating over a device array starts a kernel a row; index or slice it")

    def __index__(self) -> int:
        raise TypeError("a device array cannot be an index of the host; read it with item() first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a device array is not pickled; use to_numpy and safetensors")

    def __deepcopy__(self, memo: Any) -> StrictArray:
        return wrap(self._data.copy())

    # counted

    def item(self, *index: int) -> Any:
        Syncs.count += 1
        return self._data.item(*index)

    def tolist(self) -> Any:
        Syncs.count += 1
        return self._data.tolist()

    def __bool__(self) -> bool:
        Syncs.count += 1
        return bool(self._data)

    def __float__(self) -> float:
        Syncs.count += 1
        return float(self._data)

    def __int__(self) -> int:
        Syncs.count += 1
        return int(self._data)

    def __repr__(self) -> str:
        Syncs.count += 1
        return f"Strict{self._data!r}"

    def __format__(self, spec: str) -> str:
        Syncs.count += 1
        return format(self._data.item() if self.ndim == 0 else self._data, spec)

    # indexing

    def __getitem__(self, key: Any) -> StrictArray:
        if _picks(key, "b"):
            Syncs.sizes += 1
        return wrap(self._data[_key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        inner, new = _key(key), _operand(value)
        if isinstance(new, np.ndarray):
            if _picks(key, "b"):
                Syncs.sizes += 1
            if _picks(key, "iu"):
                hits = np.zeros(self.shape, np.intp)
                np.add.at(hits, inner, 1)
                if hits.max(initial=0) > 1:
                    raise ValueError("an index is repeated: which value stays is undefined on a device")
        self._data[inner] = new

    def fill(self, value: Any) -> None:
        self._data.fill(_operand(value))


_wrappers: WeakValueDictionary[int, StrictArray] = WeakValueDictionary()


def wrap(x: Any) -> Any:
    """Every array in ``x`` as a device array; one array has one wrapper, so that ``x[1:].base is x`` as in NumPy."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(wrap, x))
    if not isinstance(x, (np.ndarray, np.generic)):
        return x
    data = np.asarray(x)
    known = _wrappers.get(id(data))
    if known is None or known._data is not data:
        known = _wrappers[id(data)] = StrictArray(data)
    return known


def _operand(x: Any) -> Any:
    """What may meet a device array: another one, or a number of Python or NumPy (which keeps its dtype)."""
    if isinstance(x, StrictArray):
        return x._data
    if isinstance(x, (bool, int, float, np.generic)):
        return x
    raise TypeError(f"a device array met {type(x).__name__}; move it with to_device first")


def _argument(x: Any) -> Any:
    """What a function may be given besides: shapes, axes, dtypes, and lists of device arrays."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(_argument, x))
    return x if x is None or isinstance(x, (str, type, np.dtype)) else _operand(x)


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    if isinstance(key, StrictArray):
        return key._data
    if key is None or key is Ellipsis or isinstance(key, (int, np.integer, slice)):
        return key
    raise TypeError(f"indexing a device array with {type(key).__name__}: it would be copied to the device")


def _picks(key: Any, kinds: str) -> bool:
    """Whether ``key`` holds a device array of one of these kinds of dtype."""
    return any(
        isinstance(k, StrictArray) and k.dtype.kind in kinds for k in (key if isinstance(key, tuple) else (key,))
    )


def _holds_device_array(x: Any) -> bool:
    return isinstance(x, StrictArray) or (isinstance(x, (tuple, list)) and any(map(_holds_device_array, x)))


def _call(function: Any, args: Any, keywords: dict[str, Any]) -> Any:
    for name in ("where", "initial", "like", "subok", "device"):
        if name in keywords:
            raise TypeError(f"{name}= is not a keyword of a device function; for where= use xp.where")
    return wrap(function(*map(_argument, args), **{k: _argument(v) for k, v in keywords.items()}))


def _operator(name: str) -> Any:
    plain = getattr(np.ndarray, name)
    in_place = name.startswith("__i") and name != "__invert__"

    def operator(self: StrictArray, *other: Any) -> Any:
        result = plain(self._data, *map(_operand, other))
        return self if in_place else wrap(result)

    return operator


def _method(name: str) -> Any:
    return lambda self, *args, **keywords: _call(getattr(self._data, name), args, keywords)


_BINARY = "add sub mul truediv floordiv mod pow and or xor"
OPERATORS = [f"__{form}{name}__" for name in _BINARY.split() for form in ("", "r", "i")]
OPERATORS += ["__matmul__", "__rmatmul__", "__neg__", "__pos__", "__abs__", "__invert__"]  # no __imatmul__ in CuPy
OPERATORS += ["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"]
METHODS = """all any argmax argmin argsort astype clip copy cumsum diagonal dot flatten max mean min prod ravel repeat
    reshape round sort squeeze std sum swapaxes take trace transpose var view""".split()

for _name in OPERATORS:
    setattr(StrictArray, _name, _operator(_name))
for _name in METHODS:
    setattr(StrictArray, _name, _method(_name))


class Ufunc:
    """A ufunc as CuPy has it: no ``where``, ``out`` of exactly the result's shape, few of the methods."""

    def __init__(self, ufunc: np.ufunc):
        self._ufunc = ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: Any = "same_kind", **other: Any) -> Any:
        if other:
            raise TypeError(f"{self.__name__} on a device has no keyword {sorted(other)}; for where= use xp.where")
        if len(args) > self._ufunc.nin:
            *args, out = args  # type: ignore[assignment]
        if not any(isinstance(a, StrictArray) for a in args):
            raise TypeError(f"{self.__name__} was called on the device with {[type(a).__name__ for a in args]}")
        result = self._ufunc(*map(_operand, args), dtype=dtype, casting=casting)
        if out is None:
            return wrap(result)
        if not isinstance(out, StrictArray):
            raise TypeError(f"out must be a device array, got {type(out).__name__}")
        if out.shape != result.shape:
            raise ValueError(
                f"out has shape {out.shape}, the result {result.shape}; a device does not broadcast into it"
            )
        np.copyto(out._data, result, casting=casting)
        return out

    def _only(self, method: str, *ufuncs: np.ufunc) -> None:
        if self._ufunc not in ufuncs:
            has = " and ".join(u.__name__ for u in ufuncs)
            raise TypeError(f"{self.__name__}.{method} does not exist on a device, only that of {has}")

    def reduce(self, x: StrictArray, axis: Any = 0, dtype: Any = None, keepdims: bool = False) -> StrictArray:
        self._only("reduce", np.add, np.multiply)
        return wrap(self._ufunc.reduce(x._data, axis=axis, dtype=dtype, keepdims=keepdims))

    def accumulate(self, x: StrictArray, axis: int = 0, dtype: Any = None) -> StrictArray:
        self._only("accumulate", np.add, np.multiply)
        return wrap(self._ufunc.accumulate(x._data, axis=axis, dtype=dtype))

    def reduceat(self, x: StrictArray, starts: StrictArray, axis: int = 0) -> StrictArray:
        self._only("reduceat", np.add)
        return wrap(self._ufunc.reduceat(x._data, starts._data, axis=axis))

    def at(self, x: StrictArray, index: Any, updates: Any) -> None:
        self._only("at", np.add)  # CuPy has four more; minipeft.backend.scatter_add is the only caller
        self._ufunc.at(x._data, _key(index), _operand(updates))


def _function(name: str, creates: bool = False, waits: bool = False) -> Any:
    plain = getattr(np, name)

    def function(*args: Any, **keywords: Any) -> Any:
        if not creates and not any(map(_holds_device_array, (*args, *keywords.values()))):
            raise TypeError(f"{name} was called on the device with {[type(a).__name__ for a in args]}")
        if waits or (name == "where" and len(args) == 1):
            Syncs.sizes += 1
        return _call(plain, args, keywords)

    return function


class Library:
    """The module ``xp`` of the device: what is not in these lists does not exist."""

    UFUNCS = """add subtract multiply divide true_divide floor_divide remainder power negative absolute abs sign square
        sqrt reciprocal exp expm1 exp2 log log1p log2 log10 sin cos tan sinh cosh tanh arctan maximum minimum fmax fmin
        copysign hypot floor ceil rint trunc isfinite isinf isnan equal not_equal less less_equal greater greater_equal
        logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_xor invert matmul""".split()
    CREATING = "arange array asarray empty eye full linspace ones zeros".split()
    WAITING = "argwhere flatnonzero nonzero unique".split()
    FUNCTIONS = """all any argmax argmin argsort array_equal ascontiguousarray broadcast_to clip concatenate cumsum diag
        dot empty_like expand_dims flip full_like max may_share_memory mean min moveaxis ones_like outer prod ravel
        repeat reshape result_type roll shares_memory sort split squeeze stack std sum swapaxes take take_along_axis
        tensordot tile transpose tril triu var where zeros_like""".split()
    PLAIN = """bool_ dtype e finfo float16 float32 float64 iinfo inf int8 int16 int32 int64 issubdtype nan newaxis pi
        promote_types uint8""".split()  # of the host, in CuPy too

    def __init__(self) -> None:
        names = vars(self)
        names.update((name, Ufunc(getattr(np, name))) for name in self.UFUNCS)
        names.update((name, _function(name, creates=True)) for name in self.CREATING)
        names.update((name, _function(name, waits=True)) for name in self.WAITING)
        names.update((name, _function(name)) for name in self.FUNCTIONS)
        names.update((name, getattr(np, name)) for name in self.PLAIN)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the device's library has no {name!r}: CuPy lacks it, or tests/strict.py does not list it"
        )


strict_xp = Library()


def from_host(x: np.ndarray) -> StrictArray:
    """A copy of a NumPy array on the device; counted, though nothing waits for it."""
    Syncs.uploads += 1
    return wrap(np.array(x))


def to_host(x: StrictArray) -> np.ndarray:
    """A copy on the host; counted."""
    Syncs.count += 1
    return x._data.copy()


backend = Backend("strict", strict_xp, StrictArray, from_host, to_host)
register(backend)
