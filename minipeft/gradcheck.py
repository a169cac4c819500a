"""Is a backward right? Central differences in float64, and the contract that every backward keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minipeft.array import Array, aliases, device_of, is_array, to_device, to_numpy
from minipeft.autograd import Context, Function, Tensor, no_grad


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
    """Compare the gradients of ``fn(*tensors)`` with central differences; True, or GradcheckError.

    fn takes one Tensor for each floating-point array (float64) and the array itself for an integer or boolean one,
    and returns a Tensor of any shape. Its output is contracted with a random cotangent, since a cotangent of ones
    hides every error that sums to zero. An entry is wrong when it is off by more than ``tolerance`` times the
    largest entry of the numerical gradient. With ``directions=n`` only n random directional derivatives are taken
    for each input: 2n evaluations in place of two an entry, for whole models.
    Raises TypeError for floating-point inputs that are not float64.
    """
    for i, x in enumerate(arrays):
        if is_array(x) and x.dtype.kind == "f" and x.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 (differences vanish in less), but input {i} is {x.dtype}")
    checked = [i for i, x in enumerate(arrays) if is_array(x) and x.dtype == np.float64]
    if not checked:
        raise TypeError("gradcheck needs at least one float64 array to check")
    rng = np.random.default_rng(seed)
    inputs = [Tensor(x, requires_grad=True) if i in checked else x for i, x in enumerate(arrays)]
    before = [x.copy() if is_array(x) else x for x in arrays]
    z = fn(*inputs)
    if not isinstance(z, Tensor):
        raise TypeError(f"gradcheck: the function returned {type(z).__name__}, expected a Tensor")
    if not z.requires_grad:
        raise GradcheckError("the output does not depend on any of the inputs: nothing was recorded")
    dz = to_device(rng.standard_normal(z.shape), device_of(z.data))
    z.backward(dz)

    def evaluate() -> float:
        with no_grad():
            return float(to_numpy((fn(*inputs).data * dz).sum()))

    for i, x in enumerate(arrays):
        if is_array(x) and not np.array_equal(to_numpy(x), to_numpy(before[i]), equal_nan=x.dtype.kind == "f"):
            raise GradcheckError(f"input {i} was written by the forward or the backward")
    for i in checked:
        x, g = arrays[i], inputs[i].grad
        analytic = to_numpy(g) if g is not None else np.zeros(x.shape)
        label = f"input {i} of shape {x.shape}"
        if directions:
            _compare_directions(label, x, analytic, evaluate, step, tolerance, directions, rng)
        else:
            _compare_entries(label, x, analytic, evaluate, step, tolerance)
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

    ``loss()`` computes a scalar from the float64 tensors of ``named`` (as ``model.named_parameters()`` gives them);
    frozen ones must receive no gradient. Raises GradcheckError naming the parameter.
    """
    rng = np.random.default_rng(seed)
    for name, p in named.items():
        if p.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 parameters, but {name} is {p.dtype}; use model.to(numpy.float64)")
        p.grad = None
    loss().backward()

    def evaluate() -> float:
        with no_grad():
            return loss().item()

    for name, p in named.items():
        if not p.requires_grad:
            if p.grad is not None:
                raise GradcheckError(f"{name} is frozen but received a gradient")
            continue
        analytic = to_numpy(p.grad) if p.grad is not None else np.zeros(p.shape)
        _compare_directions(name, p.data, analytic, evaluate, step, tolerance, directions, rng)
    return True


def check_contract(function: type[Function], *args: Any, seed: int = 0, constants: Sequence[int] = ()) -> bool:
    """Hold one Function to its contract, for every subset of the inputs that may need a gradient.

    constants: the positions of floating-point inputs that never get a gradient.
    Every gradient is None exactly where it is not needed, has its input's shape and dtype, and does not depend on
    which other gradients are asked for; inputs, cotangent and saved arrays are not written; no gradient is an input,
    a saved array or another gradient; freezing an input never saves more bytes. Raises GradcheckError.
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
        out = function.backward(ctx, dz)
        grads = out if isinstance(out, tuple) else (out,)
        if len(grads) != len(args):
            raise GradcheckError(f"{name}.backward returned {len(grads)} gradients for {len(args)} inputs")
        for a, c in zip([*args, *saved, dz], [*copies, *saved_copies, dz_copy], strict=True):
            if is_array(a) and not np.array_equal(to_numpy(a), to_numpy(c), equal_nan=a.dtype.kind == "f"):
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
                if other is g or (other is not None and aliases(other, g) and not aliases(g, dz)):
                    raise GradcheckError(f"{name}.backward: gradients {j} and {i} are one array")
            _same_as_before(name, i, to_numpy(g), full)
    for asked, n in bytes_when.items():
        for more, m in bytes_when.items():
            if asked < more and n > m:
                raise GradcheckError(f"{name} saves {n} bytes for inputs {sorted(asked)} but {m} for {sorted(more)}")
    return True


def _same_as_before(name: str, i: int, g: np.ndarray, full: dict[int, np.ndarray]) -> None:
    first = full.setdefault(i, g)
    scale = max(float(np.abs(first).max(initial=0.0)), 1e-30)
    if float(np.abs(first - g).max(initial=0.0)) > 100 * np.finfo(g.dtype).eps * scale:
        raise GradcheckError(f"{name}.backward: gradient {i} depends on which other gradients are asked for")


def _nudged(x: Array, index: tuple[int, ...], h: float, evaluate: Callable[[], float]) -> float:
    old = x[index].item()
    x[index] = old + h
    value = evaluate()
    x[index] = old
    return value


def _compare_entries(
    label: str, x: Array, analytic: np.ndarray, evaluate: Callable[[], float], step: float, tolerance: float
) -> None:
    numeric = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        h = step * max(1.0, abs(x[index].item()))
        numeric[index] = (_nudged(x, index, h, evaluate) - _nudged(x, index, -h, evaluate)) / (2 * h)
    if not np.isfinite(analytic).all():
        bad = tuple(int(k) for k in np.argwhere(~np.isfinite(analytic))[0])
        raise GradcheckError(f"{label}: the gradient at {bad} is {analytic[bad]}")
    scale = max(float(np.abs(numeric).max(initial=0.0)), float(np.abs(analytic).max(initial=0.0)), 1e-12)
    error = np.abs(analytic - numeric)
    # Rounding in the two evaluations bounds what differences can resolve, however small the gradient is.
    floor = 1e-9
    if error.size and error.max() > tolerance * scale + floor:
        worst = tuple(int(k) for k in np.unravel_index(int(error.argmax()), error.shape))
        wrong = int((error > tolerance * scale + floor).sum())
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
        x[...] = x0 + du
        up = evaluate()
        x[...] = x0 - du
        down = evaluate()
        x[...] = x0
        numeric = (up - down) / (2 * step)
        predicted = float((analytic * u).sum())
        scale = max(abs(numeric), float(np.sqrt((analytic**2).sum())), 1e-12)
        rounding = 4 * np.finfo(np.float64).eps * max(abs(up), 1.0) / step
        if not np.isfinite(predicted) or abs(predicted - numeric) > tolerance * scale + rounding:
            worst = tuple(int(i) for i in np.unravel_index(int(np.abs(analytic).argmax()), analytic.shape))
            raise GradcheckError(
                f"{label}: directional derivative {k} is {predicted:.10g} by backward, {numeric:.10g} by central "
                f"differences (largest gradient entry at {worst}: {analytic[worst]:.6g}); "
                f"run gradcheck without directions to find the entry"
            )


__all__ = ["GradcheckError", "check_contract", "gradcheck", "gradcheck_parameters"]
