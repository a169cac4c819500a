"""What hw3_frozen_adapters is graded on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FROZEN, LARGE, SMALL, UNTOUCHED, Draw, by_hand, problem


@problem("3.1", again="rows, backward")
def linear(draw: Draw) -> Iterator[Case]:
    d, k, b, n = draw.sizes(4)
    names = "x W b"

    def case(name: str, shape: tuple[int, ...], checks: dict[str, str], needs: str = "", bias: bool = True,
             unneeded: str = "", backward: bool = True, dtype: str = "float64", **kw: Any) -> Case:  # fmt: skip
        arrays = {"x": draw.normal(*shape, k), "W": draw.normal(d, k, scale=0.6)}
        if bias:
            arrays["b"] = draw.normal(d)
        if backward:
            arrays["dz"] = draw.normal(*shape, d)
        arrays = {n: x.astype(dtype) for n, x in arrays.items()}
        at_most = 64 + (arrays["W"].nbytes if "x" in needs else 0) + (arrays["x"].nbytes if "W" in needs else 0)
        return by_hand(name, "Linear", names, arrays, checks, needs, {"b": None}, module="ops.linear",
                       unneeded=unneeded, at_most=at_most, **kw)  # fmt: skip

    forward = {"z": "forward", **UNTOUCHED}
    yield case("rows", (n,), forward, backward=False, layouts={"x": "readonly", "W": "fortran"})
    yield case("sequences", (b, n), forward, backward=False, layouts={"x": "strided", "b": "readonly"})
    yield case("without a bias", (n,), forward, bias=False, backward=False, layouts={"x": "negative"})
    yield case("a single row", (1,), forward, backward=False)
    grads = {"dx": "dx", "dW": "dW", "db": "db", **UNTOUCHED}
    yield case("rows, backward", (n,), grads, "x W b", layouts={"dz": "readonly"})
    yield case("sequences, backward", (b, n), grads, "x W b", layouts={"dz": "fortran", "x": "fortran"})
    yield case("without a bias, backward", (b, n), {"dx": "dx", "dW": "dW", "db": FROZEN}, "x W", bias=False)
    yield case("no rows", (0,), {"dW": "dW", "db": "db"}, "x W b", exact=frozenset({"dW", "db"}))
    none = {"dx": FROZEN, "dW": FROZEN, "db": FROZEN}
    # rows enough for a copy of x to be larger than one of W, which would be no mistake where W is needed
    many = (4, 15)
    yield case("W frozen", many, {**none, "dx": "dx", "lean": FROZEN}, "x", unneeded="x")
    yield case("W frozen, b trained", many, {**none, "dx": "dx", "db": "db", "lean": FROZEN}, "x b", unneeded="x")
    yield case("b alone", many, {**none, "db": "db", "lean": FROZEN}, "b", unneeded="x W")
    yield case("x frozen", (b, n), {**none, "dW": "dW", "lean": FROZEN}, "W", unneeded="W")
    yield case("all frozen", (b, n), {"lean": FROZEN}, backward=False, unneeded="x W")
    yield case(
        "float32", (b, n), {"z": SMALL, "dx": SMALL, "dW": SMALL, "db": SMALL}, "x W b", dtype="float32", tol=1e-5
    )
    arrays = {"x": draw.normal(10, 100, 90), "W": draw.normal(70, 90), "b": draw.normal(70)}
    arrays["dz"] = draw.normal(10, 100, 70)
    checks = dict.fromkeys(("z", "dx", "dW", "db"), LARGE)
    yield by_hand("1000 rows", "Linear", names, arrays, checks, "x W b", module="ops.linear", seconds=1.0)


def _tree(draw: Draw) -> dict[str, Any]:
    """Names and sizes of the parts of a module."""
    parts = ("first", "layers", "heads", "fixed", "scale", "weight", "bias", "a", "b")
    names = {part: f"{part}_{draw.integers(10000)}" for part in parts}
    return {"names": names, "sizes": draw.sizes(7, 2, 40), "new": draw.sizes(1, 41, 80)[0]}


@problem("3.2")
def modules(draw: Draw) -> Iterator[Case]:
    checks = {"flags": "freezing", "self": "freezing", "values": "freezing", "grads": "gradients forgotten"}
    checks.update({"part flags": "thawing", "part self": "thawing", "kept grads": "thawing"})
    yield Case("a tree frozen, a part of it thawed", "freezing", {}, checks, _tree(draw))
    checks = dict.fromkeys(("first.bias", "first"), "attributes")
    checks.update(dict.fromkeys(("layers.1", "layers.0.weight", "length"), "lists"))
    checks.update(dict.fromkeys(("heads.b", "heads.a.weight"), "dicts"))
    absent = ("nothing", "first.nothing", "layers.7", "heads.c", "layers.x", "nothing.weight")
    checks.update({f"absent {path}": "places that are not there" for path in absent})
    checks.update(dict.fromkeys(("tuple", "modules", "present"), "places that are not there"))
    yield Case("a tree with lists, dicts and a tuple", "swapping", {}, checks, _tree(draw))


@problem("3.3")
def held(draw: Draw) -> Iterator[Case]:
    checks = {"module": "names", "list": "names", "generator": "names", "pairs": "names"}
    checks.update({"half": "frozen parameters", "frozen": "frozen parameters", "strided, frozen": "frozen parameters"})
    checks.update({"one name, frozen": "frozen parameters"})
    checks.update({"tied": "tied parameters", "tied list": "tied parameters", "one name, tied": "tied parameters"})
    # Each kind of refusal beside something of that kind that must be accepted.
    checks.update(dict.fromkeys(("none", "empty", "one"), "nothing to train"))
    checks.update(dict.fromkeys(("arrays", "numbers", "frozen array", "tensors"), "other things"))
    checks.update(dict.fromkeys(("one name", "two names"), "one name twice"))
    checks.update(dict.fromkeys(("strided", "contiguous"), "not contiguous"))
    yield Case("parameters given in several ways", "held", {}, checks, _tree(draw))


def _steps(
    draw: Draw, name: str, kind: str, aspect: str, steps: int, lr: Any, scale: float = 1.0, dtype: str = "float64",
    shapes: tuple[tuple[int, ...], ...] | None = None, state: bool = True, **options: Any,
) -> Case:  # fmt: skip
    shapes = shapes or ((draw.sizes(1)[0], 3), (4,))
    arrays = {f"w{i}": draw.away(*s, margin=0.3, dtype=dtype) for i, s in enumerate(shapes)}
    arrays["frozen"] = draw.normal(5, dtype=dtype)
    for step in range(steps):
        for i, s in enumerate(shapes):
            arrays[f"g{step}_{i}"] = draw.away(*s, margin=0.2, dtype=dtype) * np.asarray(scale, dtype=dtype)
    checks = {f"w{i} after {t + 1}": aspect for i in range(len(shapes)) for t in range(steps)}
    checks.update(UNTOUCHED)
    checks["in place"] = "in place"
    if state:
        checks.update({"state": "state", "bytes": "state", "frozen": "state"})
        slots = ("m", "v") if kind == "AdamW" else ("velocity",) if options.get("momentum") else ()
        names = [f"layer.{i}.{'bias' if i else 'weight'}" for i in range(len(shapes))]
        checks.update({f"{slot} of {n}": "state" for slot in slots for n in names})
    params = {"kind": kind, "count": len(shapes), "steps": steps, "lr": lr, "options": options}
    tol = 1e-5 if dtype == "float32" else 1e-10
    return Case(name, "optimize", arrays, checks, params, tol=tol)


@problem("3.4", again="momentum")
def sgd(draw: Draw) -> Iterator[Case]:
    lr = draw.number(0.05, 0.3)
    yield _steps(draw, "plain", "SGD", "plain", 2, lr)
    yield _steps(draw, "a schedule", "SGD", "plain", 3, [0.3, 0.1, 0.2])
    yield _steps(draw, "momentum", "SGD", "momentum", 4, lr, momentum=draw.number(0.5, 0.9))
    yield _steps(draw, "momentum, a schedule", "SGD", "momentum", 3, [0.3, 0.1, 0.2], momentum=0.8)
    yield _steps(draw, "Nesterov's momentum", "SGD", "Nesterov", 4, lr, momentum=draw.number(0.5, 0.9), nesterov=True)
    yield _steps(draw, "weight decay", "SGD", "weight decay", 3, lr, weight_decay=draw.number(0.1, 0.4))
    yield _steps(draw, "weight decay and momentum", "SGD", "weight decay", 3, lr, momentum=0.7, weight_decay=0.3)
    both: dict[str, Any] = {"momentum": 0.7, "nesterov": True, "weight_decay": 0.3}
    yield _steps(draw, "weight decay, Nesterov", "SGD", "weight decay", 3, lr, **both)
    yield _steps(draw, "no decay of biases", "SGD", "weight decay", 2, lr, weight_decay=0.3, no_decay=["bias"])
    yield _steps(draw, "float32", "SGD", SMALL, 3, 0.1, dtype="float32", momentum=0.9, weight_decay=0.1)


@problem("3.5", again="five steps")
def adamw(draw: Draw) -> Iterator[Case]:
    lr = draw.number(0.02, 0.1)
    betas = [draw.number(0.5, 0.9), draw.number(0.9, 0.99)]
    yield _steps(draw, "one step", "AdamW", "the first step", 1, lr, betas=betas, weight_decay=0.0)
    yield _steps(draw, "five steps", "AdamW", "several steps", 5, lr, betas=betas, weight_decay=0.0)
    yield _steps(draw, "the usual betas", "AdamW", "several steps", 4, lr, weight_decay=0.0)
    yield _steps(draw, "a schedule", "AdamW", "several steps", 3, [0.1, 0.03, 0.06], weight_decay=0.0)
    tiny: dict[str, Any] = {"eps": draw.number(1e-5, 3e-5), "weight_decay": 0.0, "betas": betas}
    yield _steps(draw, "gradients as small as epsilon", "AdamW", "epsilon", 3, lr, scale=2e-5, state=False, **tiny)
    large: dict[str, Any] = {"eps": draw.number(0.3, 0.6), "weight_decay": 0.0, "betas": betas}
    yield _steps(draw, "a large epsilon", "AdamW", "epsilon", 3, lr, **large)
    yield _steps(draw, "weight decay", "AdamW", "weight decay", 3, lr, weight_decay=draw.number(0.5, 2.0), betas=betas)
    decay: dict[str, Any] = {"weight_decay": 1.5, "no_decay": ["bias"]}
    yield _steps(draw, "no decay of biases", "AdamW", "weight decay", 2, lr, **decay)
    yield _steps(draw, "float32", "AdamW", SMALL, 3, 0.05, dtype="float32", weight_decay=0.1)
    big = _steps(draw, "90000 entries", "AdamW", LARGE, 3, lr, shapes=((300, 300), (7,)), state=False)
    yield Case(big.name, big.driver, big.arrays, big.checks, big.params, tol=1e-10, seconds=1.5)


@problem("3.6", again="cut, list")
def clip(draw: Draw) -> Iterator[Case]:
    def case(name: str, gs: list[np.ndarray], max_norm: float, checks: dict[str, str], tol: float = 1e-5,
             **params: Any) -> Case:  # fmt: skip
        arrays = {f"g{i}": g for i, g in enumerate(gs)}
        return Case(name, "clip", arrays, checks, {"max_norm": max_norm, **params}, tol=tol)

    n, m = draw.sizes(2)
    gs = [draw.normal(n, m), draw.normal(m), np.asarray(draw.number(0.5, 1.0))]
    norm = float(np.sqrt(sum((g**2).sum() for g in gs)))
    cut = {"norm": "norm", "g0": "scaled", "g1": "scaled", "g2": "scaled", "in place": "in place", "none": "norm"}
    for how in ("list", "pairs", "module", "generator", "twice"):
        aspect = cut if how != "twice" else dict.fromkeys(("norm", "g0", "g1", "g2"), "given twice")
        yield case(f"cut, {how}", gs, norm * draw.number(0.2, 0.6), aspect, how=how)
    yield case("within", gs, norm * 1.5, {"norm": "norm", "untouched": "within the norm"})
    single = [g.astype("float32") for g in gs]
    yield case("float32", single, norm * 0.4, {"g0": SMALL, "g1": SMALL, "dtype 0": SMALL, "norm": SMALL})
    huge = [(g * 1e25).astype("float32") for g in gs[:2]]
    yield case("squares beyond float32", huge, 2.0, {"g0": "squares that overflow", "g1": "squares that overflow"})
    many = [np.full((64, 64), 0.02, dtype="float32"), draw.normal(3, dtype="float32")]
    yield case("many small entries", many, 0.5, {"norm": "norm", "g0": "scaled"})
    yield case("no gradients", [], 1.0, {"norm": "none and errors"})
    small = {"error": "none and errors", "g0": "none and errors"}
    yield case("a small max_norm", gs, norm * draw.number(1e-3, 1e-2), small, raises=True)
    for value in (0.0, -1.0):
        yield case(
            f"max_norm {value}", gs, value, {"error": "none and errors", "untouched": "none and errors"}, raises=True
        )
    strict: dict[str, Any] = {"options": {"error_if_nonfinite": True}, "raises": True}
    finite = {"error": "not finite", "g0": "not finite"}
    yield case("all finite, asked whether they are", gs, norm * draw.number(0.2, 0.6), finite, **strict)
    odd = [gs[0].copy(), gs[1]]
    odd[0][0, 0] = np.nan
    checks = {"error": "not finite", "untouched": "not finite"}
    yield case("NaN", odd, 1.0, checks, **strict)
    odd = [gs[0].copy(), gs[1]]
    odd[0][0, 0] = np.inf
    yield case("infinity", odd, 1.0, checks, **strict)


def _applied(
    draw: Draw, name: str, aspect: str, model: str, config: str, options: dict[str, Any], **params: Any
) -> Case:
    checks = {"names": aspect, "counts": aspect, "L": aspect, "gradients": aspect, "base names": aspect}
    checks.update({"kept": "nothing kept below", "nodes": "nothing kept below"})
    if config == "BitFitConfig":
        checks["by linear layers"] = "nothing kept below"
    checks.update({"state": "frozen stays frozen", "moved": "frozen stays frozen", "base": "frozen stays frozen"})
    settings = {"model": model, "config": config, "config options": options, "seed": draw.seed(), **params}
    return Case(name, "applied", {}, checks, settings, tol=1e-5)


@problem("3.7")
def top_layers(draw: Draw) -> Iterator[Case]:
    def case(name: str, aspect: str, model: str, k: int, **params: Any) -> Case:
        return _applied(draw, name, aspect, model, "TopLayersConfig", {"n_layers": k}, **params)

    yield case("a decoder's last layer", "decoder", "decoder", 1)
    yield case("a decoder's last two", "decoder", "decoder", 2, layers=4)
    yield case("all of a decoder", "decoder", "decoder", 3)
    yield case("the last two of twelve", "decoder", "decoder", 2, layers=12)
    yield case("a decoder with RMSNorm", "decoder", "decoder", 1, **{"model options": {"norm": "rms", "tied": False}})
    yield case("an encoder and its head", "encoder", "encoder", 2)
    yield case("the head alone", "encoder", "encoder", 0)
    yield case("an encoder-decoder", "encoder-decoder", "encoder-decoder", 1)
    yield case("a vision Transformer", "other models", "vit", 1)
    yield case("a perceptron", "other models", "mlp", 1)
    for k in (4, 100):
        settings = {"model": "decoder", "config": "TopLayersConfig", "config options": {"n_layers": k}, "seed": 0}
        yield Case(f"{k} layers of three", "refused", {}, {"error": "refused", "same": "refused"}, settings)
    yield Case(
        "a model without layers",
        "refused",
        {},
        {"error": "refused", "same": "refused"},
        {**settings, "model": "linear"},
    )


@problem("3.8")
def bitfit(draw: Draw) -> Iterator[Case]:
    def case(name: str, aspect: str, model: str, options: dict[str, Any], **params: Any) -> Case:
        return _applied(draw, name, aspect, model, "BitFitConfig", options, **params)

    yield case("a decoder", "with normalizations", "decoder", {})
    yield case("a decoder, not its normalizations", "without normalizations", "decoder", {"norms": False})
    yield case("an encoder and its head", "heads", "encoder", {})
    yield case("an encoder, not its normalizations", "heads", "encoder", {"norms": False})
    yield case("an encoder-decoder", "with normalizations", "encoder-decoder", {})
    yield case("a perceptron", "without normalizations", "mlp", {"norms": False})
    bare = {"norm": "rms", "bias": False}
    settings = {"model": "decoder", "config": "BitFitConfig", "config options": {}, "seed": 0, "model options": bare}
    yield Case("a model without biases", "refused", {}, {"error": "refused", "same": "refused"}, settings)
    layer = {"norm": "layer", "bias": False}
    settings = {**settings, "config options": {"norms": False}, "model options": layer}
    yield Case("biases of normalizations alone", "refused", {}, {"error": "refused", "same": "refused"}, settings)


NAMES = "h W_down b_down W_up b_up activation scale residual"


def _bottleneck(
    draw: Draw, name: str, checks: dict[str, str], needs: str = "", shape: tuple[int, ...] | None = None,
    activation: str = "gelu", scale: float | None = None, residual: bool = True, unneeded: str = "",
    at_most: int = 0, backward: bool = False, dtype: str = "float64", **kw: Any,
) -> Case:  # fmt: skip
    d, r, b, n = draw.sizes(4)
    shape = (b, n) if shape is None else shape
    arrays = {
        "h": draw.normal(*shape, d),
        "W_down": draw.normal(r, d, scale=0.7),
        "b_down": draw.normal(r),
        "W_up": draw.normal(d, r, scale=0.7),
        "b_up": draw.normal(d),
    }
    if backward:
        arrays["dz"] = draw.normal(*shape, d)
    arrays = {n: x.astype(dtype) for n, x in arrays.items()}
    rows = int(np.prod(shape))
    scale = draw.number(1.5, 4.0) if scale is None else scale
    constants = {"activation": activation, "scale": scale, "residual": residual}
    at_most = at_most * rows * r * 8 + 2 * d * r * 8
    return by_hand(name, "Bottleneck", NAMES, arrays, checks, needs, constants, module="peft.adapters",
                   unneeded=unneeded, at_most=at_most, **kw)  # fmt: skip


@problem("3.9", again="with residual")
def bottleneck(draw: Draw) -> Iterator[Case]:
    def forward(aspect: str) -> dict[str, str]:
        return {"z": aspect, **UNTOUCHED}

    layouts = {"h": "readonly", "W_up": "fortran", "b_up": "readonly"}
    yield _bottleneck(draw, "with residual", forward("with residual"), layouts=layouts)
    yield _bottleneck(draw, "without residual", forward("without residual"), residual=False, layouts={"h": "fortran"})
    yield _bottleneck(draw, "rows, scale 1", forward("with residual"), shape=(4,), scale=1.0, layouts={"h": "strided"})
    yield _bottleneck(draw, "one row", forward("without residual"), shape=(1,), residual=False)
    for f in ("relu", "tanh", "silu", "gelu_tanh"):
        yield _bottleneck(draw, f, forward("activations"), activation=f)
    yield _bottleneck(draw, "float32", {"z": SMALL}, dtype="float32", tol=1e-5)
    many = (4, 20)  # rows enough for a copy of h to be larger than one of the weights
    yield _bottleneck(draw, "all frozen", {"lean": FROZEN}, shape=many, unneeded="h W_down W_up")
    weights = "W_down b_down W_up b_up"
    yield _bottleneck(draw, "h frozen", {"lean": FROZEN}, weights, shape=many, unneeded="W_down", at_most=2)
    yield _bottleneck(draw, "b_up alone", {"lean": FROZEN}, "b_up", shape=many, unneeded="h W_down W_up")
    yield _bottleneck(draw, "W_up alone", {"lean": FROZEN}, "W_up", shape=many, unneeded="h W_down W_up", at_most=1)
    yield _bottleneck(draw, "h alone", {"lean": FROZEN}, "h", shape=many, unneeded="h", at_most=1)


@problem("3.10", again="with residual")
def bottleneck_backward(draw: Draw) -> Iterator[Case]:
    every = "h W_down b_down W_up b_up"
    grads = {f"d{n}": f"d{n}" for n in every.split()}
    layouts = {"dz": "readonly", "h": "readonly"}
    yield _bottleneck(draw, "with residual", {**grads, **UNTOUCHED}, every, backward=True, layouts=layouts)
    plain = {**grads, "dh": "dh without residual", **UNTOUCHED}
    layouts = {"dz": "fortran"}
    yield _bottleneck(draw, "without residual", plain, every, residual=False, backward=True, layouts=layouts)
    rows = {**grads, **UNTOUCHED}
    layouts = {"dz": "strided"}
    yield _bottleneck(draw, "rows, scale 1", rows, every, shape=(4,), scale=1.0, backward=True, layouts=layouts)
    for f in ("tanh", "silu"):
        yield _bottleneck(draw, f, dict.fromkeys(grads, "activations"), every, activation=f, backward=True)
    yield _bottleneck(draw, "float32", dict.fromkeys(grads, SMALL), every, dtype="float32", backward=True, tol=1e-5)
    none = {f"d{n}": FROZEN for n in every.split()}
    for needs in ("h", "W_down", "b_down", "W_up", "b_up", "W_down b_down W_up b_up"):
        some = {**none, **{f"d{n}": "some of them alone" for n in needs.split()}}
        yield _bottleneck(draw, f"{needs} wanted", some, needs, backward=True)


@problem("3.11", again="AdapterH")
def adapter(draw: Draw) -> Iterator[Case]:
    checks = {"shape": "truncated normal", "seeded": "truncated normal"}
    drawn = ("cut", "reaches", "spread", "mean", "no pile at the cut", "no pile at zero")
    checks.update(dict.fromkeys(drawn, "truncated normal"))
    shape = [draw.sizes(1, 100, 130)[0], draw.sizes(1, 200, 260)[0]]
    yield Case("at least 20000 draws", "truncated", {}, checks, {"shape": shape, "seed": draw.seed()})
    parameters = dict.fromkeys(("names", "shapes", "dtypes", "trained", "formula", "settings"), "parameters")
    values = dict.fromkeys(("biases", "down", "up", "apart", "near", "count"), "the start")
    d = draw.sizes(1, 96, 140)[0]
    x = {"x": draw.normal(3, d)}
    plain = {"r": draw.sizes(1, 40, 60)[0], "init_std": 0.01}
    cases: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
        ("the usual start", plain, values, "float32"),
        ("another spread", {**plain, "init_std": 0.003, "activation": "tanh", "scale": 2.5}, values, "float32"),
        ("an exact identity", {**plain, "zero_up": True}, values, "float32"),
        ("with a normalization", {**plain, "layer_norm": True}, {**values, "norm": "the start"}, "float32"),
        ("float64", plain, {}, "float64"),
    ]
    for name, options, more, dtype in cases:
        params = {"d": d, "options": options, "seed": draw.seed(), "dtype": dtype}
        yield Case(name, "start", x, {**parameters, **more}, params)
    forms: dict[str, dict[str, Any]] = {
        "AdapterH": {"r": 3, "activation": "tanh"},
        "AdapterL": {"r": 3, "layer_norm": True},
        "scaled": {"r": 4, "scale": 2.5, "activation": "silu"},
        "scaled, with a normalization": {"r": 4, "scale": 2.5, "layer_norm": True},
    }
    for name, options in forms.items():
        arrays = {"h": draw.normal(2, 5, 7), "dz": draw.normal(2, 5, 7)}
        aspect = "with a normalization" if options.get("layer_norm") else "h + b(h)"
        names = ["z", "dh", "d down", "d down_bias", "d up", "d up_bias"]
        names += ["d norm.weight", "d norm.bias"] if options.get("layer_norm") else []
        params = {"options": options, "seed": draw.seed()}
        yield Case(name, "adapt", arrays, dict.fromkeys(names, aspect), params)


@problem("3.12", again="behind, scaled")
def around(draw: Draw) -> Iterator[Case]:
    forms: dict[str, dict[str, Any]] = {"scale 1": {"r": 3}, "scaled": {"r": 2, "scale": 2.5, "activation": "tanh"}}
    for kind, aspect in (("Adapted", "behind"), ("AdaptedInParallel", "beside")):
        for name, options in forms.items():
            arrays = {n: draw.normal(2, 4, 6) for n in ("x", "y", "dz")}
            names = ["z", "dx", "seen", "d down", "d down_bias", "d up", "d up_bias"]
            params = {"kind": kind, "options": {**options, "parallel": kind != "Adapted"}, "seed": draw.seed()}
            yield Case(f"{aspect}, {name}", "around", arrays, dict.fromkeys(names, aspect), params)
    models: list[tuple[str, str, dict[str, Any]]] = [
        ("AdapterH in a decoder", "decoder", {"r": 3}),
        ("AdapterL in an encoder", "encoder", {"r": 2, "after": ["feed_forward"], "layer_norm": True}),
        ("in parallel", "decoder", {"r": 3, "parallel": True, "scale": 4.0}),
    ]
    for name, model, options in models:
        case = _applied(draw, name, "in a model", model, "AdapterConfig", options)
        checks = {k: v for k, v in case.checks.items() if v != "nothing kept below"}
        yield Case(name, "applied", {}, checks, case.params, tol=1e-4)
