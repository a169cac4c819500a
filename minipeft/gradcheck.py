"""Is a backward right? Central differences in float64, and the contract that every backward keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor, no_grad
from minipeft.backend import Array, aliases, device_of, is_array, to_device, to_numpy


class GradcheckError(AssertionError):
    """A gradient is wrong; the message names the input, the worst entry and both values."""


def gradcheck(
    fn: Callable[..., Tensor],
    *arrays: Any,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    seed: int = 0,
    directions: int = 0,
) -> bool:
    """Compare the gradients of ``fn(*tensors)`` with central differences.

    The output is contracted with a random cotangent, since a cotangent of ones hides every error that sums to zero.

    Args:
        fn: takes one Tensor for each floating-point array and the array itself for an integer or boolean one; returns a
            Tensor of any shape.
        arrays: the inputs, float64 where they are floating-point.
        step: of the differences.
        tolerance: an entry is wrong if it is off by more than this times the largest entry of the gradient.
        seed: of the cotangent and the directions.
        directions: if positive, take only so many random directional derivatives for each input: 2n evaluations
            in place of two an entry, for whole models.

    Returns:
        True.

    Raises:
        GradcheckError: a gradient is wrong; names the input, the worst entry and both values.
        TypeError: a floating-point input is not float64.
    """
    for i, x in enumerate(arrays):
        if is_array(x) and x.dtype.kind == "f" and x.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 (differences vanish in less), but input {i} is {x.dtype}")
    checked = [i for i, x in enumerate(arrays) if is_array(x) and x.dtype == np.float64]
    if not checked:
        raise TypeError("gradcheck needs at least one float64 array to check")
    rng = np.random.default_rng(seed)
    values = _apart(arrays)
    inputs = [Tensor(x, requires_grad=True) if i in checked else x for i, x in enumerate(values)]
    before = [x.copy() if is_array(x) else x for x in values]
    z = fn(*inputs)
    if not isinstance(z, Tensor):
        raise TypeError(f"gradcheck: the function returned {type(z).__name__}, expected a Tensor")
    if not z.requires_grad:
        raise GradcheckError("the output does not depend on any of the inputs: nothing was recorded")
    if not np.isfinite(to_numpy(z.data)).all():
        raise GradcheckError("the output is not finite everywhere: there are no differences to compare with")
    dz = to_device(rng.standard_normal(z.shape), device_of(z.data))
    dz_before = dz.copy()
    grads: dict[Tensor, Array] = {}
    z.backward(dz, into=grads)

    def evaluate() -> float:
        with no_grad():
            return float(to_numpy((fn(*inputs).data * dz_before).sum()))

    for i, x in enumerate(values):
        if is_array(x) and not _same(x, before[i]):
            raise GradcheckError(f"input {i} was written by the forward or the backward")
    if not _same(dz, dz_before):
        raise GradcheckError("the cotangent dz was written by the backward")
    _check_apart({i: grads[x] for i, x in enumerate(inputs) if isinstance(x, Tensor) and x in grads}, values)
    terms = to_numpy(z.data) * to_numpy(dz_before)
    size = float(np.abs(terms).sum())
    if abs(evaluate() - float(terms.sum())) > 1e-9 * size:
        raise GradcheckError("two calls give two values: take the randomness (dropout) out of the function")
    for i in checked:
        x = values[i]
        analytic = to_numpy(grads[inputs[i]]) if inputs[i] in grads else np.zeros(x.shape)
        label = f"input {i} of shape {x.shape}"
        if directions:
            _compare_directions(label, x, analytic, evaluate, size, step, tolerance, directions, rng)
        else:
            _compare_entries(label, x, analytic, evaluate, size, step, tolerance)
    return True


def gradcheck_parameters(
    loss: Callable[[], Tensor],
    named: dict[str, Tensor],
    step: float = 1e-5,
    tolerance: float = 1e-6,
    directions: int = 2,
    seed: int = 0,
) -> bool:
    """Check the gradients of a whole model by directional derivatives, one parameter at a time.

    Args:
        loss: computes a scalar from the tensors of ``named``.
        named: float64 tensors by name, as ``model.named_parameters()`` gives them; frozen ones must receive no
            gradient. Every ``.grad`` is left as it is.
        step: of the differences.
        tolerance: as in `gradcheck`.
        directions: how many for each parameter.
        seed: of the directions.

    Returns:
        True.

    Raises:
        GradcheckError: a gradient is wrong; names the parameter.
    """
    rng = np.random.default_rng(seed)
    for name, p in named.items():
        if p.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 parameters, but {name} is {p.dtype}; use model.to(numpy.float64)")

    def evaluate() -> float:
        with no_grad():
            return loss().item()

    grads: dict[Tensor, Array] = {}
    first = loss()
    first.backward(into=grads)
    if abs(evaluate() - first.item()) > 1e-9 * abs(first.item()):
        raise GradcheckError("two calls give two losses: take the randomness out of the model with eval()")
    for name, p in named.items():
        if not p.requires_grad:
            if p in grads:
                raise GradcheckError(f"{name} is frozen but received a gradient")
            continue
        analytic = to_numpy(grads[p]) if p in grads else np.zeros(p.shape)
        _compare_directions(name, p.data, analytic, evaluate, abs(first.item()), step, tolerance, directions, rng)
    return True


def check_contract(function: type[Function], *args: Any, seed: int = 0, constants: Sequence[int] = ()) -> bool:
    """Hold one Function to its contract, for every subset of the inputs that may need a gradient.

    constants: the positions of floating-point inputs that never get a gradient.
    Every gradient is None exactly where it is not needed, has its input's shape and dtype, and does not depend on
    which other gradients are asked for; inputs, cotangent and saved arrays are not written; no gradient is an input,
    a saved array or another gradient; freezing an input never saves more bytes, and every floating-point array that
    is saved is used: with NaN in its place some gradient must change. Raises GradcheckError.
    """
    name = function.__name__
    can = [i for i, a in enumerate(args) if is_array(a) and a.dtype.kind == "f" and i not in constants]
    rng = np.random.default_rng(seed)
    z = function.forward(Context(*[False] * len(args)), *args)
    dz = to_device(rng.standard_normal(z.shape).astype(z.dtype), device_of(z))
    full: dict[int, np.ndarray] = {}
    bytes_when: dict[frozenset[int], int] = {}
    for bits in reversed(range(1, 2 ** len(can))):
        asked = frozenset(c for k, c in enumerate(can) if bits >> k & 1)
        ctx = Context(*[i in asked for i in range(len(args))])
        copies = [a.copy() if is_array(a) else a for a in args]
        function.forward(ctx, *args)
        saved = [s for s in ctx.saved if is_array(s)]
        saved_copies = [s.copy() for s in saved]
        bytes_when[asked] = sum(s.nbytes for s in saved)
        dz_copy = dz.copy()
        grads = _gradients(function, ctx, dz)
        if len(grads) != len(args):
            raise GradcheckError(f"{name}.backward returned {len(grads)} gradients for {len(args)} inputs")
        for a, c in zip([*args, *saved, dz], [*copies, *saved_copies, dz_copy], strict=True):
            if is_array(a) and not _same(a, c):
                raise GradcheckError(f"{name} wrote into an input, a saved array or dz (needs {sorted(asked)})")
        for i, g in enumerate(grads):
            if (g is not None) != (i in asked):
                raise GradcheckError(
                    f"{name}.backward: gradient {i} is {'missing' if g is None else 'computed in vain'} "
                    f"when the inputs that need one are {sorted(asked)}"
                )
            if g is None:
                continue
            if g.shape != args[i].shape or g.dtype != args[i].dtype:
                raise GradcheckError(
                    f"{name}.backward: gradient {i} is {g.dtype}{g.shape}, its input {args[i].dtype}{args[i].shape}"
                )
            if any(aliases(g, a) for a in [*(a for a in args if is_array(a)), *saved]):
                raise GradcheckError(f"{name}.backward: gradient {i} shares memory with an input or a saved array")
            for j, other in enumerate(grads[:i]):
                if other is not None and other is not g and aliases(other, g) and not aliases(g, dz):
                    raise GradcheckError(f"{name}.backward: gradients {j} and {i} share memory without being one array")
            _same_as_before(name, i, to_numpy(g), full)
        for k, s in enumerate(ctx.saved):
            if is_array(s) and s.dtype.kind == "f" and s.size and not _is_used(function, ctx, k, dz, grads):
                raise GradcheckError(
                    f"{name} saves an array of shape {s.shape} that no gradient of the inputs {sorted(asked)} uses"
                )
    for asked, n in bytes_when.items():
        for more, m in bytes_when.items():
            if asked < more and n > m:
                raise GradcheckError(f"{name} saves {n} bytes for inputs {sorted(asked)} but {m} for {sorted(more)}")
    return True


def _gradients(function: type[Function], ctx: Context, dz: Array) -> Sequence[Array | None]:
    out = function.backward(ctx, dz)
    return out if isinstance(out, (tuple, list)) else (out,)


def _is_used(function: type[Function], ctx: Context, k: int, dz: Array, grads: Sequence[Array | None]) -> bool:
    """Whether some gradient changes with NaN in place of the k-th saved array."""
    poisoned = Context(*ctx.needs_grad)
    poisoned.save(*ctx.saved[:k], ctx.saved[k] * math.nan, *ctx.saved[k + 1 :])
    with np.errstate(all="ignore"):
        changed = _gradients(function, poisoned, dz)
    return any(g is not None and not _same(g, h) for g, h in zip(grads, changed, strict=True))


def _same(x: Array, y: Array) -> bool:
    return np.array_equal(to_numpy(x), to_numpy(y), equal_nan=x.dtype.kind == "f")


def _apart(arrays: Sequence[Any]) -> list[Any]:
    """``arrays``, with a copy of each that cannot be nudged alone: read-only, or in the memory of an earlier one."""
    values: list[Any] = []
    for x in arrays:
        if is_array(x):
            locked = not getattr(x.flags, "writeable", True)  # CuPy knows no read-only arrays
            if locked or any(is_array(v) and device_of(v) == device_of(x) and aliases(x, v) for v in values):
                x = x.copy()
        values.append(x)
    return values


def _check_apart(grads: dict[int, Array], values: Sequence[Any]) -> None:
    for i, g in grads.items():
        for j, x in enumerate(values):
            if is_array(x) and aliases(g, x):
                raise GradcheckError(
                    f"the gradient of input {i} shares memory with input {j}; a backward returns its own"
                )
            if j < i and j in grads and aliases(g, grads[j]):
                raise GradcheckError(f"the gradients of inputs {j} and {i} share memory; scaling one would scale both")


def _same_as_before(name: str, i: int, g: np.ndarray, full: dict[int, np.ndarray]) -> None:
    first = full.setdefault(i, g)
    scale = max(float(np.abs(first).max(initial=0.0)), 1e-30)
    if float(np.abs(first - g).max(initial=0.0)) > 100 * np.finfo(g.dtype).eps * scale:
        raise GradcheckError(f"{name}.backward: gradient {i} depends on which other gradients are asked for")


def _nudged(x: Array, index: tuple[int, ...], h: float, evaluate: Callable[[], float]) -> float:
    old = x[index].item()
    x[index] = old + h
    try:
        return evaluate()
    finally:
        x[index] = old


def _resolution(size: float, step: float) -> float:
    """What rounding leaves of a difference quotient of values that are sums of terms of absolute sum ``size``."""
    return 32 * float(np.finfo(np.float64).eps) * size / step


def _compare_entries(
    label: str,
    x: Array,
    analytic: np.ndarray,
    evaluate: Callable[[], float],
    size: float,
    step: float,
    tolerance: float,
) -> None:
    numeric = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        h = step * max(1.0, abs(x[index].item()))
        numeric[index] = (_nudged(x, index, h, evaluate) - _nudged(x, index, -h, evaluate)) / (2 * h)
    if not np.isfinite(analytic).all():
        bad = tuple(int(k) for k in np.argwhere(~np.isfinite(analytic))[0])
        raise GradcheckError(f"{label}: the gradient at {bad} is {analytic[bad]}")
    if not x.size:
        return
    scale = max(float(np.abs(numeric).max()), float(np.abs(analytic).max()), np.finfo(np.float64).tiny)
    error = np.abs(analytic - numeric)
    right = error <= tolerance * scale + _resolution(size, step)  # False for NaN
    if not right.all():
        worst = tuple(int(k) for k in np.unravel_index(int(error.argmax()), error.shape))
        wrong = int((~right).sum())
        raise GradcheckError(
            f"{label}: {wrong} of {error.size} entries are wrong; worst at {worst}: backward gives "
            f"{analytic[worst]:.10g}, central differences {numeric[worst]:.10g} (error {error.max() / scale:.2e} "
            f"of the largest entry, allowed {tolerance:.0e})"
        )


def _compare_directions(
    label: str,
    x: Array,
    analytic: np.ndarray,
    evaluate: Callable[[], float],
    size: float,
    step: float,
    tolerance: float,
    directions: int,
    rng: np.random.Generator,
) -> None:
    if x.size == 0:
        return
    x0 = x.copy()
    spread = float(np.sqrt((to_numpy(x) ** 2).mean()))
    step *= min(1.0, spread) or 1.0  # a table of size 0.02 before a normalization bends 50 times sooner
    for k in range(directions):
        u = rng.standard_normal(x.shape)
        u /= np.sqrt((u * u).mean())
        du = to_device(step * u, device_of(x))
        try:
            x[...] = x0 + du
            up = evaluate()
            x[...] = x0 - du
            down = evaluate()
        finally:
            x[...] = x0
        numeric = (up - down) / (2 * step)
        predicted = float((analytic * u).sum())
        scale = max(abs(numeric), float(np.sqrt((analytic**2).sum())))
        if not abs(predicted - numeric) <= tolerance * scale + _resolution(size, step):  # so NaN is wrong too
            worst = tuple(int(i) for i in np.unravel_index(int(np.abs(analytic).argmax()), analytic.shape))
            raise GradcheckError(
                f"{label}: directional derivative {k} is {predicted:.10g} by backward, {numeric:.10g} by central "
                f"differences (largest gradient entry at {worst}: {analytic[worst]:.6g}); "
                f"run gradcheck without directions to find the entry"
            )


__all__ = ["GradcheckError", "check_contract", "gradcheck", "gradcheck_parameters"]
