"""What drivers share: calling a Function by hand, and a tensor function through the engine."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from autograder.sandbox.frames import MAX_BYTES, FrameError
from autograder.sandbox.layouts import laid_out

MOST_VALUES = 100_000  # that a driver may return, counted as often as they are referred to


def run(mp: Any, drivers: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a driver returns, as plain values. request: "driver", "arrays", "layouts", "params", "memory"."""
    driver = getattr(drivers, request["driver"], None) or globals()[request["driver"]]
    arrays = {name: laid_out(x, request["layouts"].get(name, "plain")) for name, x in request["arrays"].items()}
    with np.errstate(all="ignore"):
        outputs: dict[str, Any] = within(request["memory"], lambda: normalized(driver(mp, arrays, request["params"])))
    return outputs


def normalized(x: Any, left: list[int] | None = None) -> Any:
    """x as a frame carries it: arrays copied to plain ones, NumPy scalars as 0-d arrays or numbers, tuples as lists.

    What is none of these comes back as it is (`encode` makes an `Opaque` of it). left: how many values may follow.
    """
    left = [MOST_VALUES] if left is None else left
    left[0] -= 1
    if left[0] < 0:
        raise FrameError(f"more than {MOST_VALUES} values")
    if isinstance(x, np.ndarray):
        if x.nbytes > MAX_BYTES:
            raise FrameError(f"an array of {x.nbytes} bytes: at most {MAX_BYTES} can be returned")
        return np.array(x, order="C", subok=False)
    if isinstance(x, np.floating):
        return np.asarray(x)
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, (list, tuple)):
        return [normalized(v, left) for v in x]
    if isinstance(x, Mapping):
        return {str(k): normalized(v, left) for k, v in x.items()}
    return x


def within(most: int, call: Callable[[], Any]) -> Any:
    """Call, and raise MemoryError if it took more bytes than that; 0 for any number."""
    if not most:
        return call()
    tracemalloc.stop()  # a call that raised may have left it on
    tracemalloc.start()
    try:
        found = call()
        if tracemalloc.get_traced_memory()[1] > most:
            raise MemoryError(f"more than {most} bytes")
        return found
    finally:
        tracemalloc.stop()


def module(mp: Any, name: str) -> Any:
    """The library's module of that name ("ops.activation"): some are hidden behind a function of the same name."""
    return sys.modules[f"{mp.__name__}.{name}"]


def error_of(call: Any) -> str:
    """Return the name of what a call raises, "" for nothing."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


def refusal(call: Any) -> str:
    """Return the name of the ValueError that a call raises, or "accepted"."""
    try:
        call()
    except ValueError as error:
        return type(error).__name__
    return "accepted"


def fitting(mp: Any, model: Any, config: Any) -> str:
    """Return the name of the ValueError that a method's ``apply`` raises for a model, or "accepted"."""
    peft = mp.peft.PeftModel(model)

    def apply() -> None:
        with peft._new_adapter("default", config):
            peft.train_modules_to_save(config)
            config.apply(peft, np.random.default_rng(0))

    try:
        return refusal(apply)
    finally:
        peft.unload()


def constant(value: Any, a: dict[str, Any]) -> Any:
    """An argument out of JSON: lists are tuples, {"slice": [a, b, c]} a slice, {"array": name} an input, "..." an
    ellipsis."""
    if isinstance(value, list):
        return tuple(constant(v, a) for v in value)
    if isinstance(value, dict):
        return a[value["array"]] if "array" in value else slice(*value["slice"])
    return Ellipsis if value == "..." else value


def by_hand(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """The Function p["function"] of p["module"], called as `function` says.

    p["names"]: its arguments; those that are no inputs come from p["constants"]. Returned besides: "lean", whether none
    of the arguments p["unneeded"] was kept and at most p["at_most"] bytes of other arrays.
    """
    F = getattr(module(mp, p["module"]), p["function"])
    constants = p.get("constants", {})
    args = tuple(a[n] if n in a else constant(constants.get(n), a) for n in p["names"].split())
    out = function(mp, F, p["names"], args, p["needs"], a.get("dz"))
    unneeded = set(p.get("unneeded", ()))
    out["lean"] = not unneeded.intersection(out["kept"]) and out["saved"] <= p.get("at_most", 0)
    return out


def function(mp: Any, F: Any, names: str, args: tuple[Any, ...], needs: Any, dz: Any) -> dict[str, Any]:
    """Forward and backward of a Function, called by hand.

    names: of the arguments, in order, separated by spaces; needs: the names that want a gradient. dz None: the forward
    alone. Returned: "z"; "d" and the name of every argument (None where none is wanted); "saved", the bytes of arrays
    that were kept besides the arguments, and "kept", the arguments that were kept; "changed", the arrays that were
    written though they should not be, or that are once a gradient is written.
    """
    labels = names.split()
    wanted = [n in needs for n in labels]
    arrays = {n: x for n, x in zip(labels, args, strict=True) if isinstance(x, np.ndarray)}
    before = {n: x.copy() for n, x in arrays.items()}
    ctx = mp.Context(*wanted)
    with mp.no_grad():  # a Function computes with arrays: neither half asks the engine
        z = F.forward(ctx, *args)
    out: dict[str, Any] = {"z": z}
    out.update(saved_by(ctx, arrays))
    if _between is not None:
        _between()
    grads: Any = ()
    if any(wanted) and dz is not None:
        dz_before, z_before = dz.copy(), np.array(z)
        with mp.no_grad():
            grads = F.backward(ctx, dz)
        if isinstance(grads, np.ndarray) or not isinstance(grads, (tuple, list)):
            grads = (grads,)
        if len(grads) != len(labels):
            raise ValueError(f"backward returned {len(grads)} gradients for {len(labels)} arguments ({names})")
        out.update({f"d{n}": g for n, g in zip(labels, grads, strict=True)})
        if _compared is not None:
            _compared.extend(compared(mp, F, labels, args, wanted, dz_before, grads))
        arrays, before = {**arrays, "dz": dz}, {**before, "dz": dz_before}
        if isinstance(z, np.ndarray):
            arrays, before = {**arrays, "z": z}, {**before, "z": z_before}
    changed = [n for n, x in arrays.items() if not np.array_equal(x, before[n], equal_nan=x.dtype.kind == "f")]
    out["changed"] = changed + written_with(grads, dz, arrays)
    return out


def written_with(grads: Sequence[Any], dz: np.ndarray | None, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the arrays that change when a gradient is written, as clipping does; dz may be returned."""
    owned = [g for g in grads if isinstance(g, np.ndarray) and dz is not None and not np.may_share_memory(g, dz)]
    others = {n: x for n, x in arrays.items() if n != "dz"}
    return [f"{n}, by returning it" for n, x in others.items() if any(np.may_share_memory(g, x) for g in owned)]


_between: Callable[[], Any] | None = None  # what `function` calls between a forward and its backward


def twice(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Call the driver p["of"] of p["homework"] with two inputs, the second between the first's forward and backward.

    The second input is the first with each array of floats reversed. Then the arrays of the first get the values of the
    second and are used again. Outputs: those of the first, and with "second" and "again" in front of their names.
    """
    global _between
    drivers = import_module(f"autograder.homeworks.{p['homework']}.drivers")
    driver = getattr(drivers, p["of"], None) or globals()[p["of"]]
    other = {n: np.array(np.flip(x)) if x.dtype.kind == "f" else x for n, x in a.items()}
    found: dict[str, Any] = {}

    def named(outputs: dict[str, Any], before: str) -> None:
        found.update({f"{before}{name}": normalized(x) for name, x in outputs.items()})

    def between() -> None:
        global _between
        _between = None
        named(driver(mp, other, p), "second ")

    try:
        _between = between
        named(driver(mp, a, p), "")
        if _between is not None:  # a driver that does not call `function`
            between()
    finally:
        _between = None
    for n, x in a.items():
        if x.dtype.kind == "f":
            x[...] = other[n]
    named(driver(mp, a, p), "again ")
    return found


ENTRIES = 60  # of an argument, that differences are taken of
STEP = 1e-5
_compared: list[dict[str, Any]] | None = None  # where `function` puts its comparisons, while they are asked for


def finite_differences(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """The driver p["driver"] of p["homework"] with p["params"], for what `compared` says of the Functions it calls."""
    global _compared
    _compared = []
    try:
        getattr(import_module(f"autograder.homeworks.{p['homework']}.drivers"), p["driver"])(mp, a, p["params"])
        return {"compared": _compared}
    finally:
        _compared = None


def compared(
    mp: Any, F: Any, labels: list[str], args: tuple[Any, ...], wanted: list[bool], dz: np.ndarray, grads: Any
) -> list[dict[str, Any]]:
    """Gradients beside central differences of the same Function's forward, for the float64 arguments that want one.

    For each: "argument"; "at", "backward" and "differences", the worst entry and both its values; "error", the largest
    difference relative to the largest of all those values; "entries", how many were looked at.
    """

    def loss(i: int, x: np.ndarray) -> float:
        own = [v.copy() if isinstance(v, np.ndarray) else v for v in args]
        own[i] = x.copy()
        return float((F.forward(mp.Context(*wanted), *own) * dz).sum())

    found = []
    for i, (label, x, g) in enumerate(zip(labels, args, grads, strict=True)):
        if not wanted[i] or not isinstance(x, np.ndarray) or x.dtype != np.float64 or not x.size:
            continue
        if not isinstance(g, np.ndarray) or g.shape != x.shape:
            continue
        x = np.array(x, order="C")
        step = STEP * min(1.0, float(np.sqrt((x * x).mean())) or 1.0)
        places = np.arange(x.size)
        if x.size > ENTRIES:
            places = np.sort(np.random.default_rng(0).choice(x.size, ENTRIES, replace=False))
        flat, numeric = x.reshape(-1), np.zeros(len(places))
        for k, j in enumerate(places):
            value = flat[j]
            flat[j] = value + step
            up = loss(i, x)
            flat[j] = value - step
            numeric[k] = (up - loss(i, x)) / (2 * step)
            flat[j] = value
        analytic = np.array(g, dtype=np.float64).reshape(-1)[places]
        difference = np.abs(analytic - numeric)
        worst = int(np.where(np.isfinite(difference), difference, np.inf).argmax())
        scale = max(float(np.abs(analytic).max()), float(np.abs(numeric).max()), 1e-12)
        found.append(
            {
                "argument": label,
                "at": [int(n) for n in np.unravel_index(places[worst], x.shape)],
                "backward": float(analytic[worst]),
                "differences": float(numeric[worst]),
                "error": float(difference[worst]) / scale,
                "entries": len(places),
            }
        )
    return found


def saved_by(ctx: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what a context keeps.

    "kept": names of the arguments that it keeps, as they are, as views or as copies. A function may keep anything, so
    it counts as all of them. "saved": bytes of the other arrays.
    """
    kept: set[str] = set()
    buffers: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, np.ndarray):
            owners = [n for n, x in arrays.items() if np.may_share_memory(value, x) or _is_copy(value, x)]
            kept.update(owners)
            if not owners:
                base = value
                while isinstance(base.base, np.ndarray):
                    base = base.base
                buffers[id(base)] = base.nbytes
        elif isinstance(value, (list, tuple, set)):
            for v in value:
                walk(v)
        elif isinstance(value, dict):
            walk(list(value.values()))
        elif callable(value) and not isinstance(value, type):
            kept.update(arrays)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            walk(vars(value))

    walk(ctx.saved)
    return {"kept": sorted(kept), "saved": sum(buffers.values())}


def _is_copy(value: np.ndarray, x: np.ndarray) -> bool:
    """Return whether an array has the entries of another, in whatever order."""
    return 1 < value.size == x.size and bool(np.array_equal(np.sort(value, axis=None), np.sort(x, axis=None)))


def through_engine(mp: Any, f: Any, arrays: dict[str, np.ndarray], needs: Any, dz: Any) -> dict[str, Any]:
    """``f(tensors)`` recorded and walked back: "z", and "d" and the name of each array (None where none is wanted)."""
    tensors = {n: mp.Tensor(x, requires_grad=n in needs) for n, x in arrays.items()}
    z = f(tensors)
    out: dict[str, Any] = {"z": z.data}
    if needs:
        z.backward(dz)
    out.update({f"d{n}": t.grad for n, t in tensors.items()})
    return out
