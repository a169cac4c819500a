"""What hw2_transformer is graded on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FORWARD, FROZEN, LARGE, SMALL, UNTOUCHED, Draw, as_float32, calls, problem

HIDDEN_ROWS = "queries that see nothing"


@problem("2.1", again="axis 1 of 3, backward")
def softmax(draw: Draw) -> Iterator[Case]:
    b, n, m = draw.sizes(3, 3, 8)

    def stable(name: str, s: np.ndarray, aspect: str, axis: int = -1, **kwargs: Any) -> Case:
        return Case(name, "stable_softmax", {"s": s}, {"p": aspect, **UNTOUCHED}, {"axis": axis}, **kwargs)

    rows = draw.normal(n, m, scale=1.8)
    yield stable("rows", rows, "stable_softmax", layouts={"s": "readonly"})
    yield stable("columns", rows, "stable_softmax", 0, layouts={"s": "fortran"})
    yield stable("the middle axis", draw.normal(b, n, m), "stable_softmax", 1)
    yield stable("one column", draw.normal(n, 1), "stable_softmax")
    large = draw.normal(n, m, scale=3.0) + 900.0 * draw.rng.permutation(np.arange(n) % 3 - 1)[:, None]
    yield stable("large entries", large, "large entries")
    masked = np.where(draw.mask(n, m, p=0.6), rows, -np.inf)
    yield stable("some entries -inf", masked, "-inf")
    masked = masked.copy()
    masked[n // 2] = -np.inf
    yield stable("a row of -inf", masked, "-inf")
    single = {"s": rows.astype("float32")}
    yield Case("rows, float32", "stable_softmax", single, {"p": SMALL}, {"axis": -1}, tol=1e-5)
    case = calls("Softmax", "s axis", "ops.softmax")
    for axis, shape in ((-1, (n, m)), (0, (n, m)), (1, (b, n, m)), (-1, (b, n, m))):
        s = draw.normal(*shape, scale=2.2)
        layout = {"s": ("strided", "fortran", "readonly", "negative")[(len(shape) + axis) % 4]}
        constants = {"axis": axis}
        name = f"axis {axis} of {len(shape)}"
        yield case(name, {"s": s}, FORWARD, "", constants, layouts=layout)
        arrays = {"s": s, "dz": draw.normal(*shape)}
        layout = {**layout, "dz": "readonly"}
        checks = {"ds": "backward", **UNTOUCHED}
        yield case(f"{name}, backward", arrays, checks, "s", constants, layouts=layout)
    s = draw.normal(n, m) + 900.0 * draw.rng.permutation(np.arange(n) % 3 - 1)[:, None]
    s[1] = -np.inf
    arrays = {"s": s, "dz": draw.normal(n, m)}
    checks = {"z": "large entries", "ds": "large entries"}
    yield case("large entries and a row of -inf", arrays, checks, "s", {"axis": 1})
    many = {"s": draw.normal(60, 1500), "dz": draw.normal(60, 1500)}
    yield case("60 rows of 1500", many, {"z": LARGE, "ds": LARGE}, "s", {"axis": 1}, seconds=1.0)


@problem("2.2", again="exact, around 0, backward")
def gelu(draw: Draw) -> Iterator[Case]:
    case = calls("Activation", "x name", "ops.activation")
    for curve, what in (("gelu", "exact"), ("gelu_tanh", "tanh")):
        n, m = draw.sizes(2, 4, 9)
        constants = {"name": curve}
        for name, x in {
            "around 0": draw.normal(n, m),
            "wide": draw.normal(n, m, scale=3.0),
            "far": np.array([[-40.0, -9.0, -6.5, 0.0, 6.5, 9.0, 40.0]]),
        }.items():
            forward = {"z": f"{what}: value", **UNTOUCHED}
            layout = {"x": "strided" if name == "wide" else "readonly"}
            yield case(f"{what}, {name}", {"x": x}, forward, "", constants, layouts=layout)
            arrays = {"x": x, "dz": draw.away(*x.shape)}
            checks = {"dx": f"{what}: derivative", **UNTOUCHED}
            yield case(f"{what}, {name}, backward", arrays, checks, "x", constants, layouts=layout)
        arrays = as_float32({"x": draw.normal(n, m, scale=2.0), "dz": draw.normal(n, m)})
        yield case(f"{what}, float32", arrays, {"z": SMALL, "dx": SMALL}, "x", constants, tol=1e-5)
    many = {"x": draw.normal(300, 400), "dz": draw.normal(300, 400)}
    for curve in ("gelu", "gelu_tanh"):
        checks = {"z": LARGE, "dx": LARGE}
        yield case(f"120000 entries, {curve}", many, checks, "x", {"name": curve}, seconds=1.5)


def _normed(draw: Draw, *shape: int, spread: float = 1.0, mean: float = 0.0) -> dict[str, np.ndarray]:
    d = shape[-1]
    x = draw.normal(*shape, scale=spread) + mean
    return {"x": x, "gamma": draw.positive(d), "beta": draw.normal(d)}


@problem("2.3", again="trained")
def layer_norm(draw: Draw) -> Iterator[Case]:
    b, n, d = draw.sizes(3, 3, 8)
    call = calls("LayerNorm", "x gamma beta eps", "ops.normalize")

    def case(name: str, arrays: dict[str, np.ndarray], checks: dict[str, str], eps: float = 1e-5, **kw: Any) -> Case:
        return call(name, arrays, checks, kw.pop("needs", ""), {"eps": eps}, **kw)

    yield case("rows", _normed(draw, n, d, mean=0.7), FORWARD, layouts={"x": "readonly"})
    yield case("sequences", _normed(draw, b, n, d, spread=2.5, mean=-3.0), FORWARD, layouts={"x": "fortran"})
    yield case("strided", _normed(draw, n, d), FORWARD, layouts={"x": "strided", "gamma": "strided"})
    yield case("trained", _normed(draw, n, d), FORWARD, needs="x gamma beta")
    yield case("one vector", _normed(draw, d), {"z": "other shapes"})
    yield case("one feature", _normed(draw, n, 1), {"z": "other shapes"})
    yield case("no rows", _normed(draw, 0, d), {"z": "other shapes"})
    small = {"z": "place of epsilon"}
    yield case("a spread of 0.01", _normed(draw, n, d, spread=0.01), small, eps=draw.number(1e-4, 3e-4))
    yield case("a large epsilon", _normed(draw, n, d), small, eps=draw.number(0.3, 0.8))
    yield case("all entries of a row equal", {**_normed(draw, n, d), "x": np.full((n, d), 1.5)}, small, eps=1e-3)
    yield case("float32", as_float32(_normed(draw, n, d, spread=2.0)), {"z": SMALL}, tol=1e-5)
    far = as_float32(_normed(draw, n, d, mean=2000.0))
    yield case("float32, a mean of 2000", far, {"z": "a mean far from 0"}, tol=1e-2)
    arrays = _normed(draw, 12, 17)
    kept: dict[str, Any] = {"unneeded": "x", "at_most": 2 * 8 * 12}  # the statistics of the rows
    yield case("all frozen", arrays, {"lean": FROZEN}, **kept)
    yield case("beta alone", arrays, {"lean": FROZEN}, needs="beta", **kept)
    at_most = 2 * arrays["x"].nbytes
    yield case("gamma alone", arrays, {"lean": FROZEN}, needs="gamma", at_most=at_most)
    yield case("2000 rows", _normed(draw, 2000, 48), {"z": LARGE}, seconds=1.0)


@problem("2.4", again="rows")
def layer_norm_backward(draw: Draw) -> Iterator[Case]:
    b, n, d = draw.sizes(3, 3, 8)
    call = calls("LayerNorm", "x gamma beta eps", "ops.normalize")
    grads = {"dx": "dx", "dgamma": "dgamma", "dbeta": "dbeta", **UNTOUCHED}

    def case(name: str, arrays: dict[str, np.ndarray], checks: dict[str, str], needs: str = "x gamma beta",
             eps: float = 1e-5, **kw: Any) -> Case:  # fmt: skip
        arrays = {**arrays, "dz": draw.normal(*arrays["x"].shape, dtype=arrays["x"].dtype.name)}
        return call(name, arrays, checks, needs, {"eps": eps}, **kw)

    yield case("rows", _normed(draw, n, d, mean=0.7), grads, layouts={"dz": "readonly"})
    yield case("sequences", _normed(draw, b, n, d, spread=2.5), grads, layouts={"dz": "strided", "x": "fortran"})
    yield case("a spread of 0.01", _normed(draw, n, d, spread=0.01), {"dx": "place of epsilon"}, eps=2e-4)
    yield case("a large epsilon", _normed(draw, n, d), {"dx": "place of epsilon"}, eps=0.5)
    yield case(
        "one vector", _normed(draw, d), {"dx": "other shapes", "dgamma": "other shapes", "dbeta": "other shapes"}
    )
    none = {"dx": "other shapes", "dgamma": "other shapes", "dbeta": "other shapes"}
    yield case("no rows", _normed(draw, 0, d), none, exact=frozenset({"dgamma", "dbeta"}))
    single = {"dx": SMALL, "dgamma": SMALL, "dbeta": SMALL}
    yield case("float32", as_float32(_normed(draw, n, d, spread=2.0)), single, tol=1e-5)
    arrays = _normed(draw, b, n, d)
    yield case("x alone", arrays, {"dx": "dx", "dgamma": FROZEN, "dbeta": FROZEN}, "x")
    yield case("gamma and beta", arrays, {"dx": FROZEN, "dgamma": "dgamma", "dbeta": "dbeta"}, "gamma beta")
    yield case("beta alone", arrays, {"dx": FROZEN, "dgamma": FROZEN, "dbeta": "dbeta"}, "beta")
    many = dict.fromkeys(("dx", "dgamma", "dbeta"), LARGE)
    yield case("60 rows of 2000", _normed(draw, 60, 2000), many, seconds=1.5)


@problem("2.5", again="rows, backward")
def rms_norm(draw: Draw) -> Iterator[Case]:
    b, n, d = draw.sizes(3, 3, 8)
    call = calls("RMSNorm", "x gamma eps", "ops.normalize")
    back = {"dx": "dx", "dgamma": "dgamma", **UNTOUCHED}

    def case(name: str, arrays: dict[str, np.ndarray], checks: dict[str, str], needs: str = "",
             eps: float = 1e-6, **kw: Any) -> Case:  # fmt: skip
        arrays = {n: x for n, x in arrays.items() if n != "beta"}
        if needs:
            arrays["dz"] = draw.normal(*arrays["x"].shape, dtype=arrays["x"].dtype.name)
        return call(name, arrays, checks, needs, {"eps": eps}, **kw)

    for name, shape, mean in (("rows", (n, d), 1.5), ("sequences", (b, n, d), -0.4)):
        arrays = _normed(draw, *shape, spread=1.7, mean=mean)
        yield case(name, arrays, FORWARD, layouts={"x": "strided"})
        yield case(f"{name}, backward", arrays, back, "x gamma", layouts={"dz": "readonly", "x": "fortran"})
    small = {"z": "place of epsilon", "dx": "place of epsilon"}
    yield case("a spread of 0.01", _normed(draw, n, d, spread=0.01), small, "x gamma", eps=2e-4)
    yield case("a large epsilon", _normed(draw, n, d), small, "x gamma", eps=0.5)
    zero = {**_normed(draw, n, d), "x": np.zeros((n, d))}
    yield case("zeros", zero, {"dx": "place of epsilon"}, "x gamma", eps=0.01)
    single = {"z": SMALL, "dx": SMALL, "dgamma": SMALL}
    yield case("float32", as_float32(_normed(draw, n, d, spread=2.0)), single, "x gamma", tol=1e-5)
    arrays = _normed(draw, 12, 17)
    yield case("all frozen", arrays, {"lean": FROZEN}, unneeded="x", at_most=2 * 8 * 12)
    yield case("x alone", arrays, {"dx": "dx", "dgamma": FROZEN}, "x")
    yield case("gamma alone", arrays, {"dx": FROZEN, "dgamma": "dgamma"}, "gamma")
    many = _normed(draw, 60, 2000)
    yield case("60 rows of 2000", many, {"z": LARGE, "dx": LARGE, "dgamma": LARGE}, "x gamma", seconds=1.5)


def _labelled(draw: Draw, R: int, V: int, n: int) -> dict[str, np.ndarray]:
    """Logits of R rows, n of them with a label."""
    kept = np.sort(draw.rng.permutation(R)[:n])
    return {"s": draw.normal(R, V, scale=1.6), "kept": kept, "labels": draw.integers(V, n)}


@problem("2.6", again="a label for some, backward")
def cross_entropy(draw: Draw) -> Iterator[Case]:
    R, V, n = (*draw.sizes(2, 6, 11), 4)
    call = calls("CrossEntropy", "s kept labels", "ops.loss")

    def case(name: str, arrays: dict[str, np.ndarray], checks: dict[str, str], needs: str = "", **kw: Any) -> Case:
        if needs:
            arrays = {**arrays, "dz": np.asarray(draw.number(1.5, 4.0), dtype=arrays["s"].dtype)}
        return call(name, arrays, checks, needs, driver="cross_entropy", **kw)

    some, every = _labelled(draw, R, V, n), _labelled(draw, R, V, R)
    back = {"ds": "backward", **UNTOUCHED}
    rest = {"ignored": "rows without a label", "ds": "rows without a label"}
    exact = frozenset({"ignored"})
    yield case("a label for each row", every, FORWARD, layouts={"s": "readonly"})
    yield case("a label for each row, backward", every, back, "s", layouts={"s": "readonly"})
    yield case("a label for some", some, {"z": "rows without a label"}, layouts={"s": "fortran"})
    yield case("a label for some, backward", some, rest, "s", exact=exact, layouts={"s": "strided"})
    one = _labelled(draw, R, V, 1)
    yield case("a single label", one, {"z": "rows without a label", **rest}, "s", exact=exact)
    large = {**every, "s": every["s"] * 3.0 + 900.0}
    yield case("large logits", large, {"z": "large logits", "ds": "large logits"}, "s")
    shifted = {**every, "s": every["s"] - 5000.0}
    yield case("logits far below 0", shifted, {"z": "large logits", "ds": "large logits"}, "s")
    unlikely = {**every, "s": every["s"].copy()}
    unlikely["s"][np.arange(R), every["labels"]] -= 800.0  # the probability is below the smallest number
    yield case("unlikely labels", unlikely, {"z": "large logits", "ds": "large logits"}, "s")
    yield case("float32", as_float32(some), {"z": SMALL, "ds": SMALL}, "s", tol=1e-5)
    yield case("frozen logits", some, {"lean": FROZEN}, unneeded="s kept labels")
    direct = {"s": every["s"], "labels": every["labels"]}
    yield Case("a block", "block_loss", direct, {"L": "one block"}, {"want": False})
    yield Case("a block and its gradient", "block_loss", direct, {"L": "one block", "ds": "one block"}, {"want": True})
    direct = {"s": large["s"], "labels": every["labels"]}
    yield Case("a block of large logits", "block_loss", direct, {"L": "one block", "ds": "one block"}, {"want": True})
    many = _labelled(draw, 90, 1200, 80)
    yield case("90 rows of 1200", many, {"z": LARGE, "ds": LARGE}, "s", seconds=1.0)


def _qkv(draw: Draw, B: int, H: int, Hk: int, N: int, S: int, D: int, Dv: int) -> dict[str, np.ndarray]:
    return {"q": draw.normal(B, H, N, D), "k": draw.normal(B, Hk, S, D), "v": draw.normal(B, Hk, S, Dv)}


def _padding(draw: Draw, B: int, S: int) -> np.ndarray:
    """Another number of padded keys for each example, (B, 1, 1, S)."""
    lengths = draw.rng.permutation(np.arange(S - B, S))[:B]
    return (np.arange(S) < lengths[:, None])[:, None, None, :]


def _attentions(draw: Draw) -> Iterator[tuple[str, str, dict[str, np.ndarray], bool]]:
    """(name, aspect, arrays, causal)"""
    N, S, D, Dv = 4, 7, 3, 5
    yield "square", "square", _qkv(draw, 2, 3, 3, N, N, D, Dv), False
    yield "more keys than queries", "not square", _qkv(draw, 2, 3, 3, N, S, D, Dv), False
    yield "more queries than keys", "not square", _qkv(draw, 2, 3, 3, S, N, D, Dv), False
    yield "causal", "causal", _qkv(draw, 2, 1, 1, N + 1, N + 1, D, Dv), True
    yield "causal, keys before the first query", "causal, more keys", _qkv(draw, 2, 3, 3, N, S, D, Dv), True
    yield "causal, one query", "causal, more keys", _qkv(draw, 2, 1, 1, 1, S, D, Dv), True
    padded = _qkv(draw, 3, 2, 2, N, S, D, Dv)
    padded["mask"] = _padding(draw, 3, S)
    yield "padding", "masks", padded, False
    both = _qkv(draw, 3, 2, 2, N, S, D, Dv)
    both["mask"] = _padding(draw, 3, S)
    yield "padding and causal", "masks", both, True
    full = _qkv(draw, 2, 3, 3, N, S, D, Dv)
    full["mask"] = draw.mask(2, 3, N, S, p=0.6)
    yield "a mask for each head", "masks", full, False
    yield "grouped heads", "grouped heads", _qkv(draw, 2, 6, 2, N, S, D, Dv), False
    yield "grouped heads, causal", "grouped heads", _qkv(draw, 2, 4, 2, N, S, D, Dv), True
    blind = _qkv(draw, 2, 1, 1, N, S, D, Dv)
    blind["mask"] = draw.mask(2, 1, N, S, p=0.6)
    blind["mask"][0, 0, 1] = False
    yield "a query that sees nothing", HIDDEN_ROWS, blind, False
    yield "one key", "not square", _qkv(draw, 2, 1, 1, N, 1, D, Dv), False


def _attend(draw: Draw, name: str, arrays: dict[str, np.ndarray], causal: bool, checks: dict[str, str],
            needs: str = "", scale: float | None = None, **kw: Any) -> Case:  # fmt: skip
    scale = draw.number(0.4, 0.9) if scale is None else scale
    constants = {"mask": None, "causal": causal, "scale": scale}
    call = calls("Attention", "q k v mask causal scale", "ops.attention")
    return call(name, arrays, checks, needs, constants, **kw)


@problem("2.7", again="causal, keys before the first query")
def attention(draw: Draw) -> Iterator[Case]:
    layouts = ("readonly", "fortran", "negative", "strided")
    for i, (name, aspect, arrays, causal) in enumerate(_attentions(draw)):
        layout = {"q": layouts[i % 4], "k": layouts[(i + 1) % 4], "v": layouts[(i + 2) % 4]}
        yield _attend(draw, name, arrays, causal, {"z": aspect, **UNTOUCHED}, layouts=layout)
    large = _qkv(draw, 2, 2, 2, 4, 6, 3, 5)
    yield _attend(draw, "large scores", large, True, {"z": "large scores"}, scale=700.0)
    single = as_float32(_qkv(draw, 2, 4, 2, 3, 5, 6, 7))
    yield _attend(draw, "float32", single, True, {"z": SMALL}, "q k v", tol=1e-5)
    single["mask"] = _padding(draw, 2, 5)
    yield _attend(draw, "float32, padding", single, False, {"z": SMALL}, "q k v", tol=1e-5)
    some = _qkv(draw, 2, 4, 2, 3, 5, 6, 7)
    yield _attend(draw, "all frozen", some, True, {"lean": FROZEN}, unneeded="q k v")
    scores = 2 * 4 * 3 * 5 * 8
    yield _attend(draw, "v alone", some, False, {"lean": FROZEN}, "v", unneeded="q k v", at_most=scores + 64)
    N, S = draw.sizes(1, 4, 12)[0], draw.sizes(1, 13, 20)[0]
    for name, shape, causal, mask in (
        ("bias: square", (1, 1, N, N), True, None),
        ("bias: more keys", (1, 1, N, S), True, None),
        ("bias: one query", (1, 1, 1, S), True, None),
        ("bias: no mask", (2, 3, N, S), False, None),
        ("bias: padding", (3, 2, N, S), False, _padding(draw, 3, S)),
        ("bias: padding and causal", (3, 2, N, S), True, _padding(draw, 3, S)),
    ):
        arrays = {"like": np.zeros((2, 2), dtype="float32")}
        if mask is not None:
            arrays["mask"] = mask
        checks = {"visible": "mask_bias", "dtype": "mask_bias"}
        if (causal and shape[2] > 1) or mask is not None:
            checks["hidden"] = "mask_bias"
        yield Case(name, "mask_bias", arrays, checks, {"shape": list(shape), "causal": causal})
    many = _qkv(draw, 2, 4, 4, 90, 130, 16, 24)
    yield _attend(draw, "8 heads, 90 queries, 130 keys", many, True, {"z": LARGE}, seconds=1.5)


@problem("2.8", again="causal, keys before the first query")
def attention_backward(draw: Draw) -> Iterator[Case]:
    for i, (name, aspect, arrays, causal) in enumerate(_attentions(draw)):
        B, H, N, _ = arrays["q"].shape
        arrays["dz"] = draw.normal(B, H, N, arrays["v"].shape[3])
        if aspect in ("square", "not square"):
            checks = {"dq": f"{aspect}: dQ", "dk": f"{aspect}: dK", "dv": f"{aspect}: dV"}
        else:
            checks = {"dq": aspect, "dk": aspect, "dv": aspect}
        exact = frozenset({"dq", "dk"} if name == "one key" else ())  # a softmax over one key is constant
        if exact:
            checks = {"dv": checks["dv"]}
        layout = {"dz": ("readonly", "fortran", "strided")[i % 3]}
        yield _attend(draw, name, arrays, causal, {**checks, **UNTOUCHED}, "q k v", layouts=layout)
    single = as_float32(_qkv(draw, 2, 4, 2, 3, 5, 6, 7))
    single["dz"] = draw.normal(2, 4, 3, 7, dtype="float32")
    yield _attend(draw, "float32", single, True, {"dq": SMALL, "dk": SMALL, "dv": SMALL}, "q k v", tol=1e-5)
    some = _qkv(draw, 2, 3, 3, 3, 5, 6, 7)
    some["dz"] = draw.normal(2, 3, 3, 7)
    for needs in ("q", "k", "v", "q v", "k v"):
        wanted = {f"d{n}": "any of the three alone" for n in needs.split()}
        other = {f"d{n}": FROZEN for n in "qkv" if n not in needs}
        yield _attend(draw, f"{needs} wanted", some, True, {**wanted, **other}, needs)
    many = _qkv(draw, 2, 4, 4, 90, 130, 16, 24)
    many["dz"] = draw.normal(2, 4, 90, 24)
    yield _attend(
        draw, "8 heads, 90 queries, 130 keys", many, True, {"dq": LARGE, "dk": LARGE, "dv": LARGE}, "q k v", seconds=3.0
    )


@problem("2.9", again="split, plain; merge, plain; rotary, one order of positions")
def heads(draw: Draw) -> Iterator[Case]:
    B, N, H, D = draw.sizes(4)
    flat, halves = draw.normal(B, N, H * D), draw.normal(B, H, N, D)
    split, merge = calls("SplitHeads", "x n", "ops.attention"), calls("MergeHeads", "x", "ops.attention")
    for place in ("plain", "strided"):
        arrays = {"x": flat, "dz": draw.normal(B, H, N, D)}
        checks = {"z": "split", "dx": "split", **UNTOUCHED}
        yield split(f"split, {place}", arrays, checks, "x", {"n": H}, layouts={"x": place, "dz": "readonly"})
        arrays = {"x": halves, "dz": draw.normal(B, N, H * D)}
        checks = {"z": "merge", "dx": "merge", **UNTOUCHED}
        yield merge(f"merge, {place}", arrays, checks, "x", layouts={"x": "readonly", "dz": place})
    rotary = calls("Rotary", "x cos sin", "ops.attention")
    for name, shape in (("one order of positions", (N, D)), ("positions by example", (B, 1, N, D))):
        angle = draw.rng.uniform(-3.0, 3.0, shape)
        x = draw.normal(B, H, N, 2 * D)
        arrays = {"x": x, "cos": np.cos(angle), "sin": np.sin(angle), "dz": draw.normal(*x.shape)}
        checks = {"z": "rotary: forward", "dx": "rotary: backward", **UNTOUCHED}
        yield rotary(f"rotary, {name}", arrays, checks, "x", layouts={"x": "fortran", "dz": "readonly"})
    yield rotary("rotary, float32", as_float32(arrays), {"z": SMALL, "dx": SMALL}, "x", tol=1e-5)


@problem("2.10", again="three heads")
def multi_head(draw: Draw) -> Iterator[Case]:
    def case(name: str, aspect: str, arrays: dict[str, np.ndarray], **params: Any) -> Case:
        checks = {"z": f"{aspect}: forward", "dx": f"{aspect}: gradients", "weights": f"{aspect}: gradients"}
        if params.get("bias", True):
            checks["vectors"] = f"{aspect}: gradients"
        if "memory" in arrays:
            checks["dmemory"] = f"{aspect}: gradients"
        arrays["dz"] = draw.normal(*arrays["x"].shape)
        settings = {"d": 12, "heads": 3, "causal": False, "seed": draw.seed(), **params}
        return Case(name, "multi_head", arrays, checks, settings)

    def x(T: int = 5, d: int = 12) -> dict[str, np.ndarray]:
        return {"x": draw.normal(2, T, d)}

    yield case("three heads", "heads", x())
    yield case("causal, without biases", "heads", x(), causal=True, bias=False)
    yield case("grouped heads", "heads", x(5, 16), d=16, heads=4, kv_heads=2)
    yield case("padding", "masks", {**x(7), "mask": _padding(draw, 2, 7)[:, 0, 0]})
    yield case("a mask for each query", "masks", {**x(), "mask": draw.mask(2, 1, 5, 5, p=0.6)})
    yield case("a memory", "memory", {**x(), "memory": draw.normal(2, 8, 12)})
    both = {**x(), "memory": draw.normal(2, 8, 12), "mask": _padding(draw, 2, 8)[:, 0, 0]}
    yield case("a memory with padding", "memory", both)
    yield case("rotary positions", "rotary", x(), causal=True, rotary=True)
    seed = draw.seed()
    settings = {"d": 12, "heads": 3, "causal": True, "seed": seed, "stops": [3, 4, 7], "rotary": True}
    pieces = {"z": "cache", "lengths": "cache"}
    yield Case("piece by piece", "cached", x(7), pieces, settings)
    settings = {"d": 12, "heads": 6, "kv_heads": 3, "causal": False, "seed": seed, "stops": [2, 3, 5]}
    yield Case("piece by piece, with a memory", "cached", {**x(), "memory": draw.normal(2, 8, 12)}, pieces, settings)
    checks = dict.fromkeys(("z", "q", "k", "v", "mask"), "core")
    settings = {"d": 12, "heads": 6, "kv_heads": 2, "seed": seed}
    yield Case("another core", "core", {**x(), "mask": draw.mask(2, 5)}, checks, settings)


@problem("2.11", again="feed-forward, gelu; GPT-2's layer")
def layer(draw: Draw) -> Iterator[Case]:
    for name, activation, gated in (("gelu", "gelu", False), ("silu, gated", "silu", True)):
        arrays = {"x": draw.normal(2, 3, 6), "dz": draw.normal(2, 3, 6)}
        aspect = "feed-forward, gated" if gated else "feed-forward"
        checks = {"z": aspect, "dx": aspect, "weights": aspect, "vectors": aspect}
        settings = {"d": 6, "d_ff": 10, "activation": activation, "gated": gated, "seed": draw.seed()}
        yield Case(f"feed-forward, {name}", "feed_forward", arrays, checks, settings)
    for first in (True, False):
        name = "norm first" if first else "norm behind"
        for dropout in (0.0, 0.4):
            arrays = {"x": draw.normal(3, 4, 5), "dz": draw.normal(3, 4, 5)}
            aspect = "dropout" if dropout else f"residual, {name}"
            checks = {"z": aspect, "dx": aspect, "calls": aspect}
            settings = {
                "norm_first": first, "dropout": dropout, "factor": draw.number(0.5, 2.0),
                "seed": draw.seed(),
            }  # fmt: skip
            yield Case(f"{name}, dropout {dropout}", "residual", arrays, checks, settings)
    options: list[tuple[str, dict[str, Any]]] = [
        ("GPT-2's layer", {"causal": True, "activation": "gelu_tanh"}),
        ("Llama's layer", {"causal": True, "norm": "rms", "gated": True, "activation": "silu", "n_kv_heads": 1}),
        ("BERT's layer", {"norm_first": False}),
        ("a decoder's layer", {"causal": True, "cross": True}),
    ]  # fmt: skip
    for name, choice in options:
        arrays = {"x": draw.normal(2, 5, 8), "dz": draw.normal(2, 5, 8)}
        if choice.get("cross"):
            arrays["memory"] = draw.normal(2, 7, 8)
        checks = dict.fromkeys(("z", "dx", "weights", "vectors"), "whole layers")
        settings = {"d": 8, "heads": 2, "d_ff": 12, "options": choice, "seed": draw.seed()}
        yield Case(name, "layer", arrays, checks, settings)
