"""What hw1_autograd is graded on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FORWARD, FROZEN, LARGE, SMALL, UNTOUCHED, Draw, as_float32, calls, problem


def _signed(draw: Draw, *shape: int, low: float = 0.3, high: float = 2.0, dtype: str = "float64") -> np.ndarray:
    """Entries of either sign and of a size between ``low`` and ``high``: denominators."""
    x = draw.positive(*shape, low=low, high=high, dtype=dtype)
    return x * np.where(draw.rng.random(shape) < 0.5, -1, 1).astype(dtype)


ARITHMETIC = "ops.arithmetic"
AXES = "x axis keepdims"


@problem("1.1")
def unbroadcast(draw: Draw) -> Iterator[Case]:
    b, n, m = draw.sizes(3)
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...], str]] = [
        ("axes in front", (b, n, m), (m,), "axes in front"),
        ("two axes left of three", (b, n, m), (n, m), "axes in front"),
        ("a column", (n, m), (n, 1), "axes of size 1"),
        ("a row", (n, m), (1, m), "axes of size 1"),
        ("the middle of three", (b, n, m), (b, 1, m), "axes of size 1"),
        ("in front and of size 1", (b, n, m), (n, 1), "both"),
        ("all of them", (b, n, m), (1, 1), "both"),
        ("down to a scalar", (n, m), (), "both"),
        ("nothing stretched", (n, m), (n, m), "nothing to sum"),
        ("size 1 on both sides", (n, 1, m), (1, 1, m), "nothing to sum"),
        ("no rows", (0, m), (1, m), "axes of size 1"),
    ]
    layouts = ("plain", "readonly", "fortran", "strided", "negative")
    for i, (name, big, small, aspect) in enumerate(shapes):
        checks = {"dx": aspect, **UNTOUCHED}
        layout = {"dz": layouts[i % 5]}
        zero = frozenset({"dx"} if 0 in big else ())
        arrays = {"dz": draw.normal(*big) + 0.5}  # else a sum over all may be next to nothing
        yield Case(name, "unbroadcast", arrays, checks, {"shape": list(small)}, layout, exact=zero)
    single = {"dz": draw.normal(b, n, m, dtype="float32")}
    yield Case("float32", "unbroadcast", single, {"dx": SMALL}, {"shape": [n, 1]}, tol=1e-5)


def _pairs(draw: Draw) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Shapes that broadcast with each other."""
    b, n, m = draw.sizes(3)
    yield "one shape", (n, m), (n, m)
    yield "a row beside a matrix", (n, m), (m,)
    yield "a column beside a matrix", (n, 1), (n, m)
    yield "each stretches the other", (b, 1, m), (n, 1)
    yield "a 0-d array", (), (n, m)
    yield "one entry", (1, 1), (1,)


@problem("1.2")
def product(draw: Draw) -> Iterator[Case]:
    layouts = ("plain", "readonly", "strided", "fortran", "plain", "negative")
    for f, what in (("Multiply", "product"), ("Divide", "quotient")):
        case = calls(f, "x y", ARITHMETIC)
        for i, (name, sx, sy) in enumerate(_pairs(draw)):
            x, y = draw.away(*sx, margin=0.2, scale=1.7), _signed(draw, *sy)
            dz = draw.away(*np.broadcast_shapes(sx, sy), margin=0.2)
            layout = {"dz": "readonly"}
            if sx:
                layout["x"] = layouts[i]
            forward = {"z": f"{what}: forward", **UNTOUCHED}
            yield case(f"{what}: {name}", {"x": x, "y": y}, forward, layouts=layout)
            checks = {"dx": f"{what}: dx", "dy": f"{what}: dy", **UNTOUCHED}
            yield case(f"{what}: {name}, backward", {"x": x, "y": y, "dz": dz}, checks, "x y", layouts=layout)
        n, m = draw.sizes(2)
        arrays = {"x": draw.normal(n, m), "y": _signed(draw, m), "dz": draw.normal(n, m)}
        only_x = {"dx": f"{what}: dx", "dy": FROZEN, "lean": FROZEN}
        # a copy of what is needed is no mistake, one of the other operand is
        yield case(f"{what}: y frozen", arrays, only_x, "x", unneeded="x", at_most=arrays["y"].nbytes)
        only_y = {"dx": FROZEN, "dy": f"{what}: dy"}
        unneeded = ""
        if f == "Multiply":
            only_y["lean"], unneeded = FROZEN, "y"
        # the quotient itself may be kept in place of x, so bytes are no mistake where dy is wanted
        yield case(f"{what}: x frozen", arrays, only_y, "y", unneeded=unneeded, at_most=arrays["x"].nbytes)
        single = as_float32(arrays)
        yield case(f"{what}: float32", single, {"z": SMALL, "dx": SMALL, "dy": SMALL}, "x y", tol=1e-5)


def _reductions(draw: Draw) -> Iterator[tuple[str, tuple[int, ...], Any, bool]]:
    b, n, m = draw.sizes(3)
    yield "all entries", (n, m), None, False
    yield "all entries, axes kept", (n, m), None, True
    yield "axis 0", (n, m), 0, False
    yield "axis 1 of three", (b, n, m), 1, False
    yield "the last axis, kept", (b, n, m), -1, True
    yield "two axes", (b, n, m), (0, 2), False
    yield "two axes, counted from the end", (b, n, m), (-1, -2), False
    yield "one entry", (1,), 0, False


def _axis(axis: Any) -> Any:
    return list(axis) if isinstance(axis, tuple) else axis


@problem("1.3")
def reductions(draw: Draw) -> Iterator[Case]:
    layouts = ("readonly", "strided", "fortran", "negative")
    for f, what in (("Sum", "sum"), ("Mean", "mean")):
        case = calls(f, AXES, ARITHMETIC)
        for i, (name, shape, axis, keepdims) in enumerate(_reductions(draw)):
            x = draw.normal(*shape, scale=1.5) + 0.5
            constants = {"axis": _axis(axis), "keepdims": keepdims}
            z = x.sum(axis=axis, keepdims=keepdims)
            layout = {"x": layouts[i % 4]}
            forward = {"z": f"{what}: forward", **UNTOUCHED}
            yield case(f"{what} over {name}", {"x": x}, forward, "", constants, layouts=layout)
            layout["dz"] = "readonly"
            checks = {"dx": f"{what}: backward", **UNTOUCHED}
            arrays = {"x": x, "dz": np.asarray(draw.away(*z.shape, margin=0.2))}
            yield case(f"{what} over {name}, backward", arrays, checks, "x", constants, layouts=layout)
        n, m = draw.sizes(2)
        single = {"x": draw.normal(n, m, dtype="float32"), "dz": draw.normal(m, dtype="float32")}
        checks = {"z": SMALL, "dx": SMALL}
        constants = {"axis": 0, "keepdims": False}
        yield case(f"{what}: float32", single, checks, "x", constants, tol=1e-5)
    n, m = draw.sizes(2)
    nothing = {"x": draw.normal(0, m), "dz": draw.normal(m)}
    checks = {"z": "sum: forward", "dx": "sum: backward"}
    constants = {"axis": 0, "keepdims": False}
    total = calls("Sum", AXES, ARITHMETIC)
    yield total("sum over no rows", nothing, checks, "x", constants, exact=frozenset({"z"}))


@problem("1.4")
def maximum(draw: Draw) -> Iterator[Case]:
    case = calls("Max", AXES, ARITHMETIC)
    for name, shape, axis, keepdims in _reductions(draw):
        x = draw.rng.permutation(np.arange(1.0, np.prod(shape) + 1)).reshape(shape) * -0.3  # negative, all different
        constants = {"axis": _axis(axis), "keepdims": keepdims}
        z = x.max(axis=axis, keepdims=keepdims)
        yield case(f"over {name}", {"x": x}, FORWARD, "", constants, layouts={"x": "strided"})
        arrays = {"x": x, "dz": np.asarray(draw.away(*z.shape, margin=0.2))}
        checks = {"dx": "backward", **UNTOUCHED}
        yield case(f"over {name}, backward", arrays, checks, "x", constants, layouts={"dz": "readonly"})
    n, m = draw.sizes(2, 4, 8)
    x = draw.normal(n, m)
    for row in x:  # every row has its maximum two or three times
        at = draw.rng.permutation(m)[: int(draw.rng.integers(2, 4))]
        row[at] = row.max() + 0.5
    constants = {"axis": 1, "keepdims": False}
    arrays = {"x": x, "dz": draw.normal(n)}
    yield case("equal entries", arrays, {"dx": "equal entries share"}, "x", constants)
    yield case("frozen", {"x": x}, {"lean": FROZEN}, "", constants, unneeded="x")
    single = as_float32(arrays)
    yield case("float32", single, {"z": SMALL, "dx": SMALL}, "x", constants, tol=1e-5)


@problem("1.5")
def matmul(draw: Draw) -> Iterator[Case]:
    case = calls("MatMul", "x y", ARITHMETIC)
    a, b, m, k, n = draw.sizes(5, 2, 7)
    shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...], str]] = [
        ("matrices", (m, k), (k, n), "matrices"),
        ("a batch of matrices", (a, m, k), (a, k, n), "batches"),
        ("two batch axes", (a, b, m, k), (a, b, k, n), "batches"),
        ("one matrix for a batch", (a, m, k), (k, n), "broadcast batches"),
        ("a batch for one matrix", (m, k), (a, b, k, n), "broadcast batches"),
        ("each batch stretches the other", (a, 1, m, k), (b, k, n), "broadcast batches"),
        ("one row, one column", (1, k), (k, 1), "matrices"),
        ("an inner size of 1", (m, 1), (1, n), "matrices"),
        ("no rows", (0, k), (k, n), "matrices"),
    ]
    layouts = ("fortran", "strided", "negative", "readonly")
    for i, (name, sx, sy, aspect) in enumerate(shapes):
        x, y = draw.normal(*sx, scale=1.3), draw.normal(*sy, scale=0.7)
        dz = draw.normal(*np.matmul(x, y).shape)
        layout = {"x": layouts[i % 4], "y": layouts[(i + 1) % 4], "dz": layouts[(i + 2) % 4]}
        zero = frozenset({"dy"} if 0 in sx else ())
        forward = {"z": "forward", **UNTOUCHED}
        yield case(name, {"x": x, "y": y}, forward, "", layouts=layout)
        checks = {"dx": f"{aspect}: dX", "dy": f"{aspect}: dY", **UNTOUCHED}
        yield case(f"{name}, backward", {"x": x, "y": y, "dz": dz}, checks, "x y", layouts=layout, exact=zero)
    arrays = {"x": draw.normal(a, m, k), "y": draw.normal(k, n), "dz": draw.normal(a, m, n)}
    only_x = {"dx": "broadcast batches: dX", "dy": FROZEN, "lean": FROZEN}
    yield case("Y frozen", arrays, only_x, "x", unneeded="x", at_most=arrays["y"].nbytes)
    only_y = {"dy": "broadcast batches: dY", "dx": FROZEN, "lean": FROZEN}
    yield case("X frozen", arrays, only_y, "y", unneeded="y", at_most=arrays["x"].nbytes)
    single = as_float32(arrays)
    yield case("float32", single, {"z": SMALL, "dx": SMALL, "dy": SMALL}, "x y", tol=1e-5)
    large = {"x": draw.normal(4, 160, 48), "y": draw.normal(4, 48, 130), "dz": draw.normal(4, 160, 130)}
    checks = {"z": LARGE, "dx": LARGE, "dy": LARGE}
    yield case("four matrices of 160 x 48 x 130", large, checks, "x y", seconds=1.0)


@problem("1.6")
def axes(draw: Draw) -> Iterator[Case]:
    transposed, spread = calls("Transpose", "x axes", "ops.shape"), calls("BroadcastTo", "x shape", "ops.shape")
    sizes = draw.sizes(4)
    orders = [
        ("a matrix", (1, 0), "transpose"),
        ("two of three axes exchanged", (0, 2, 1), "transpose"),
        ("a cycle of three axes", (1, 2, 0), "transpose: cycles"),
        ("the other cycle", (2, 0, 1), "transpose: cycles"),
        ("a cycle of four axes", (2, 0, 3, 1), "transpose: cycles"),
        ("nothing moved", (0, 1, 2), "transpose"),
    ]
    for i, (name, order, aspect) in enumerate(orders):
        x = draw.normal(*sizes[: len(order)])
        arrays = {"x": x, "dz": draw.normal(*x.transpose(order).shape)}
        checks = {"dx": aspect, **UNTOUCHED}
        layout = {"dz": ("readonly", "fortran", "strided")[i % 3]}
        constants = {"axes": list(order)}
        yield transposed(name, arrays, checks, "x", constants, layouts=layout)
    b, n, m = sizes[:3]
    stretched = [
        ("a row repeated", (m,), (n, m)),
        ("a column repeated", (n, 1), (n, m)),
        ("new axes and old", (n, 1), (b, n, m)),
        ("a number repeated", (), (n, m)),
        ("nothing repeated", (n, m), (n, m)),
    ]
    for name, small, big in stretched:
        arrays = {"x": draw.normal(*small), "dz": draw.normal(*big)}
        checks = {"dx": "stretching", **UNTOUCHED}
        yield spread(name, arrays, checks, "x", {"shape": list(big)})


@problem("1.7")
def parts(draw: Draw) -> Iterator[Case]:
    index, join = calls("Index", "x key", "ops.shape"), calls("Concatenate", "axis x0 x1 x2", "ops.shape")
    b, n, m = draw.sizes(3, 4, 8)
    x = draw.normal(b, n, m)
    ids = draw.integers(b - 1, 2, 3)
    ids[1] = ids[0]  # every row of the first half comes twice, at least
    mask = draw.mask(b, n, p=0.5)
    low = -draw.integers(b, 5, low=1)
    low[3:] = low[0]
    rows, columns = draw.integers(b, 6), draw.integers(n, 6)
    rows[3:], columns[3:] = rows[:3], columns[:3]
    i, j = {"array": "i"}, {"array": "j"}
    keys: list[tuple[str, Any, dict[str, np.ndarray], str]] = [
        ("one row", 1, {}, "slices"),
        ("a row from the end", -1, {}, "slices"),
        ("every second row, backwards", [{"slice": [None, None, -2]}, 0], {}, "slices"),
        ("columns", ["...", {"slice": [1, 3, None]}], {}, "slices"),
        ("a new axis", [{"slice": [None, None, None]}, None, 2], {}, "slices"),
        ("rows by number, repeated", i, {"i": ids}, "repeated entries"),
        ("rows from the end, repeated", i, {"i": low}, "repeated entries"),
        ("entries by two numbers, repeated", [i, j], {"i": rows, "j": columns}, "repeated entries"),
        ("by number behind a slice", [{"slice": [None, None, 2]}, i], {"i": columns}, "repeated entries"),
        ("by a mask", i, {"i": mask}, "masks"),
    ]  # fmt: skip
    for at, (name, key, extra, aspect) in enumerate(keys):
        z = x[_key(key, extra)]
        arrays = {"x": x, "dz": np.asarray(draw.away(*z.shape, margin=0.2)), **extra}
        checks = {"dx": f"index: {aspect}", **UNTOUCHED}
        layout = {"dz": "readonly"} if at % 2 or z.ndim < 2 else {"dz": "fortran"}
        yield index(name, arrays, checks, "x", {"key": key}, layouts=layout)
    one = {"x": x.astype("float32"), "i": ids, "dz": draw.normal(*ids.shape, n, m, dtype="float32")}
    yield index("index: float32", one, {"dx": SMALL}, "x", {"key": i}, tol=1e-5)
    p, q, r = draw.sizes(3)
    for axis in (0, 1, -1):
        shapes = []
        for size in (p, q, r):
            shape = [b, n, m]
            shape[axis] = size
            shapes.append(shape)
        xs = {f"x{i}": draw.normal(*s) for i, s in enumerate(shapes)}
        dz = draw.normal(*np.concatenate(list(xs.values()), axis).shape)
        arrays = {**xs, "dz": dz}
        checks = {**{f"dx{i}": "joining" for i in range(3)}, **UNTOUCHED}
        constants = {"axis": axis}
        name = f"three along axis {axis}"
        yield join(name, arrays, checks, "x0 x1 x2", constants, layouts={"dz": "readonly"})
    checks = {"dx0": "joining", "dx1": FROZEN, "dx2": "joining", "lean": FROZEN}
    yield join("the middle one frozen", arrays, checks, "x0 x2", constants, unneeded="x0 x1 x2")
    nothing = {"x0": draw.normal(n, 0), "x1": draw.normal(n, p), "x2": draw.normal(n, q), "dz": draw.normal(n, p + q)}
    checks = {f"dx{i}": "joining" for i in range(3)}
    yield join("an empty one", nothing, checks, "x0 x1 x2", {"axis": 1})


def _key(key: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The key of a case as NumPy takes it."""
    if isinstance(key, list):
        return tuple(_key(k, arrays) for k in key)
    if isinstance(key, dict):
        return arrays[key["array"]] if "array" in key else slice(*key["slice"])
    return Ellipsis if key == "..." else key


@problem("1.8")
def embedding(draw: Draw) -> Iterator[Case]:
    V, d, b, t = draw.sizes(4, 3, 9)
    E = draw.normal(V, d, scale=1.4)
    ids = draw.integers(V - 1, b, t)  # the last row is never looked up
    ids[:, -1] = ids[:, 0]
    case = calls("Embedding", "E ids", "ops.embedding")
    layout = {"E": "fortran", "ids": "strided"}
    yield case("sequences", {"E": E, "ids": ids}, FORWARD, "", layouts=layout)
    backward = {"dE": "dE", **UNTOUCHED}
    layout = {"dz": "readonly", "ids": "readonly"}
    arrays = {"E": E, "ids": ids, "dz": draw.normal(b, t, d)}
    yield case("sequences, ids repeated", arrays, backward, "E", layouts=layout)
    one = {"E": E, "ids": np.full(t, V // 2, dtype=np.int32), "dz": draw.normal(t, d)}
    yield case("one id all over", one, backward, "E", layouts={"dz": "negative"})
    scalar = {"E": E, "ids": np.array(1), "dz": draw.normal(d)}
    yield case("a single id", scalar, {"z": "forward", **backward}, "E")
    none = {"E": E, "ids": np.zeros((0, t), dtype=np.int64), "dz": draw.normal(0, t, d)}
    zero = frozenset({"dE"})
    yield case("no ids", none, {"z": "forward", **backward}, "E", exact=zero)
    yield case("frozen table", {"E": E, "ids": ids}, {"lean": FROZEN}, "", unneeded="E ids")
    # the table itself is not needed for its own gradient, its shape is
    yield case("trained table", arrays, {"lean": FROZEN}, "E", unneeded="E", at_most=4096)
    single = {"E": E.astype("float32"), "ids": ids, "dz": arrays["dz"].astype("float32")}
    yield case("float32", single, {"z": SMALL, "dE": SMALL}, "E", tol=1e-5)
    many = {"E": draw.normal(2000, 24), "ids": draw.integers(2000, 40, 100), "dz": draw.normal(40, 100, 24)}
    yield case("4000 ids of 2000", many, {"z": LARGE, "dE": LARGE}, "E", seconds=2.0)


@problem("1.9")
def apply(draw: Draw) -> Iterator[Case]:
    n, m = draw.sizes(2)
    arrays = {"x": draw.normal(n, m), "y": draw.normal(n, m), "raw": draw.normal(m)}

    def order() -> list[int]:
        return [int(i) for i in draw.rng.permutation(4)]

    run = {"z": "forward", "kinds": "forward", "type": "forward", "leaf": "forward"}
    node = {"requires": "node", "node": "node", "parents": "parents", "shape": "node", "needs": "needs_grad"}
    for name, needs in (("both trained", "x y"), ("the first trained", "x"), ("the second trained", "y")):
        params = {"needs": needs.split(), "number": draw.number(1.5, 3.0), "recording": True, "order": order()}
        yield Case(name, "apply", arrays, {**run, **node}, params)
    frozen = {"requires": "frozen: no node", "node": "frozen: no node", "needs": "needs_grad"}
    params = {"needs": [], "number": 2.0, "recording": True, "order": order()}
    yield Case("both frozen", "apply", arrays, {**run, **frozen}, params)
    silent = {"requires": "no_grad", "node": "no_grad", "needs": "no_grad", "after": "no_grad"}
    params = {"needs": ["x", "y"], "number": 2.0, "recording": False, "order": order()}
    yield Case("under no_grad", "apply", arrays, {**run, **silent}, params)
    checks = {
        "z": "forward",
        "parents": "parents",
        "same": "parents",
        "ordered": "parents",
        "frozen": "frozen: no node",
    }
    yield Case("computed arguments", "apply_twice", {"x": arrays["x"], "y": arrays["y"]}, checks)


@problem("1.10")
def leaf(draw: Draw) -> Iterator[Case]:
    n, m = draw.sizes(2)
    x, dz = draw.normal(n, m), draw.normal(n, m)
    value = {"dx": "values", "array": "values", **UNTOUCHED}
    own = {"shared": "memory of its own"}
    arrays = {"x": x, "dz": dz}
    for times in (1, 2, 3):
        checks = {**value, **own} if times == 1 else {**value, **own, "dx": "sums"}
        yield Case(f"the leaf itself, {times} times", "leaf", arrays, checks, {"how": "itself", "times": times})
    yield Case("two leaves of one sum", "leaf", arrays, {**value, **own}, {"how": "sum", "times": 1})
    yield Case(
        "two leaves of one sum, twice", "leaf", arrays, {**own, "dx": "sums", **UNTOUCHED}, {"how": "sum", "times": 2}
    )
    given = {"dx": "into", "grad": "into", **own}
    yield Case("into a dictionary", "leaf", arrays, given, {"how": "sum", "times": 1, "into": True})
    yield Case("into a dictionary, twice", "leaf", arrays, given, {"how": "sum", "times": 2, "into": True})
    yield Case("a gradient that is computed", "leaf", arrays, value, {"how": "double", "times": 1})
    single = {"x": x.astype("float32"), "dz": dz.astype("float32")}
    typed = {"dx": "dtype of the leaf", "dtype": "dtype of the leaf"}
    for times in (1, 2):
        params = {"how": "double", "times": times}
        yield Case(f"a float64 gradient, {times} times", "leaf", single, typed, params, tol=1e-5)
    scalar = {"x": np.asarray(draw.away()), "dz": np.asarray(draw.away())}
    for times in (1, 2):
        checks = {"dx": "0-d", "array": "0-d"}
        yield Case(f"a NumPy scalar, {times} times", "leaf", scalar, checks, {"how": "entry", "times": times})


@problem("1.11")
def walk(draw: Draw) -> Iterator[Case]:
    n, m = draw.sizes(2)

    def arrays(dtype: str = "float64") -> dict[str, np.ndarray]:
        drawn = {name: _signed(draw, n, m, low=0.4, high=1.4, dtype=dtype) for name in ("x", "y", "w")}
        return {**drawn, "dz": draw.normal(n, m, dtype=dtype)}

    aspects = {
        "chain": "chains",
        "square": "an argument twice",
        "diamond": "several uses",
        "early": "several uses",
        "alias": "shared memory",
        "twins": "shared memory",
        "doubling": "each rule once",
    }
    for graph, aspect in aspects.items():
        needs = {"chain": "x", "square": "x", "doubling": "x y", "twins": "x y"}.get(graph, "x y w").split()
        checks = {**{f"d{v}": aspect for v in needs}, "walked": "each rule once", **UNTOUCHED}
        yield Case(graph, "walk", arrays(), checks, {"graph": graph, "needs": needs}, {"dz": "readonly"})
    checks = {"dx": "several uses", "dy": "several uses", "dw": "frozen inputs", "walked": "frozen inputs"}
    yield Case("frozen arguments", "walk", arrays(), checks, {"graph": "frozen", "needs": ["x", "y"]})
    yield Case("one frozen of three", "walk", arrays(), checks, {"graph": "early", "needs": ["x", "y"]})
    into = {"dx": "into", "dy": "into", "own dx": "into", "own dy": "into"}
    yield Case("into a dictionary", "walk", arrays(), into, {"graph": "early", "needs": ["x", "y"], "into": True})
    single = {"dx": SMALL, "dy": SMALL, "dw": SMALL}
    yield Case("float32", "walk", arrays("float32"), single, {"graph": "alias", "needs": ["x", "y", "w"]}, tol=1e-5)
    some = {"x": draw.normal(n, m), "dz": draw.normal(n, m)}
    gone = {"contexts": "emptied", "parents": "emptied", "kept": "emptied", "dx": "chains"}
    factors = [draw.number(0.5, 2.0) for _ in range(4)]
    yield Case("what is left of a chain", "emptied", some, gone, {"factors": factors})
    yield Case("walked before", "again", some, {"dx": "chains", "same": "walked before", "part": "walked before"})
    wrong = {
        "too few": "broken rules",
        "too many": "broken rules",
        "alone": "broken rules",
        "wrong shape": "broken rules",
    }
    right = {"None": "broken rules", "right": "chains", "d right": "chains", "list": "chains", "d list": "chains"}
    ignored = {"too much": "frozen inputs", "d too much": "frozen inputs"}
    yield Case("rules that return something else", "broken", some, {**wrong, **right, **ignored})
    for name, depth, width in (("3000 nodes deep", 3000, 0), ("one node used 500 times", 1, 500)):
        long = {"x": draw.normal(2), "dz": draw.normal(2), "chain": draw.positive(depth, 2, low=0.999, high=1.001)}
        long |= {"first": draw.positive(width, 2, low=0.99, high=1.01), "second": draw.normal(width, 2)}
        yield Case(name, "deep", long, {"dx": "deep and wide"}, seconds=3.0)
