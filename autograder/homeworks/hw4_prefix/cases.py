"""What hw4_prefix is graded on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FROZEN, UNTOUCHED, Draw, problem


@problem("4.1", again="both")
def prepend(draw: Draw) -> Iterator[Case]:
    def case(
        name: str, needs: str, checks: Mapping[str, str], sizes: tuple[int, int, int, int], dtype: str = "float64",
        backward: bool = True, **more: Any,
    ) -> Case:  # fmt: skip
        B, P, T, d = sizes
        arrays = {"p": draw.normal(P, d, dtype=dtype), "x": draw.normal(B, T, d, dtype=dtype)}
        if backward:
            arrays["dz"] = draw.normal(B, P + T, d, dtype=dtype)
        return Case(name, "prepend", arrays, checks, {"needs": needs.split()}, **more)

    checks = {"z": "forward", **UNTOUCHED}
    yield case("the forward", "p", checks, (3, 4, 5, 2), backward=False, layouts={"x": "readonly", "p": "fortran"})
    grads = {"dp": "dp", "dx": "dx", **UNTOUCHED}
    yield case("both", "p x", grads, (3, 4, 5, 2), layouts={"dz": "strided"})
    yield case("another batch", "p x", grads, (5, 2, 3, 7), layouts={"dz": "readonly"})
    yield case("the prompt alone", "p", {"dp": "dp", "dx": "None where none is wanted"}, (2, 3, 4, 5))
    yield case("x alone", "x", {"dx": "dx", "dp": "None where none is wanted"}, (2, 3, 4, 5))
    yield case("one row, one token, float32", "p x", {"z": "edge sizes", "dp": "edge sizes"}, (1, 1, 1, 3), "float32")


@problem("4.2")
def start(draw: Draw) -> Iterator[Case]:
    table = {"table": draw.normal(11, 6, scale=0.3) + 0.2}
    seed = draw.seed()

    def case(name: str, aspect: str, is_text: bool = True, **config: Any) -> Case:
        params = {"config": config, "is_text": is_text, "seed": seed}
        return Case(name, "start", table, {"z": aspect, "untouched": aspect}, params)

    yield case("RANDOM", "RANDOM", num_virtual_tokens=9, prompt_tuning_init="RANDOM")
    yield case("RANDOM with a deviation", "RANDOM", num_virtual_tokens=4, prompt_tuning_init="RANDOM", init_std=1.7)
    yield case("RANDOM without text", "RANDOM", False, num_virtual_tokens=5)
    yield case("SAMPLE_VOCAB", "SAMPLE_VOCAB", num_virtual_tokens=8, prompt_tuning_init="SAMPLE_VOCAB")
    yield case("by default", "SAMPLE_VOCAB", num_virtual_tokens=3)
    ids = [int(i) for i in draw.integers(11, 3)]
    text: dict[str, Any] = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_ids": ids}
    yield case("TEXT, repeated", "TEXT", num_virtual_tokens=8, **text)
    yield case("TEXT, cut off", "TEXT", num_virtual_tokens=2, **text)
    edges: dict[str, Any] = {**text, "prompt_tuning_init_ids": [10, 0]}  # the largest and the smallest id
    yield case("TEXT with the first and the last id", "refusals", num_virtual_tokens=1, **edges)
    yield case("TEXT without ids", "refusals", prompt_tuning_init="TEXT")
    yield case("TEXT with an id too large", "refusals", prompt_tuning_init="TEXT", prompt_tuning_init_ids=[1, 11])
    yield case("TEXT with a negative id", "refusals", prompt_tuning_init="TEXT", prompt_tuning_init_ids=[-1])
    yield case("TEXT without text", "refusals", False, **text)
    yield case("another name", "refusals", prompt_tuning_init="ZEROS")


@problem("4.3")
def mask(draw: Draw) -> Iterator[Case]:
    def case(
        name: str, aspect: str, sizes: tuple[int, int, int, int], causal: bool, m: np.ndarray | None = None,
        dtype: str = "float64", **more: Any,
    ) -> Case:  # fmt: skip
        B, H, N, S = sizes
        params = {"B": B, "H": H, "N": N, "S": S, "causal": causal, "dtype": dtype}
        checks = {"seen": aspect, "hidden": aspect, "dtype": "dtype", **UNTOUCHED}
        return Case(name, "mask", {} if m is None else {"mask": m}, checks, params, **more)

    N, more, many = draw.sizes(1, 4, 20)[0], draw.sizes(1, 2, 9)[0], draw.sizes(1, 5, 20)[0]
    yield case("square", "causal, square", (1, 1, N, N), True)
    yield case("keys in front", "causal, with keys in front", (1, 1, N, N + more), True)
    yield case("many keys in front, two queries", "causal, with keys in front", (2, 1, 2, 2 + many), True)
    pads = draw.mask(3, 1, 1, 6)
    yield case("padding by example", "padding", (3, 2, 4, 6), False, pads, layouts={"mask": "readonly"})
    yield case("padding and causal", "padding and causal", (3, 2, 4, 6), True, pads, "float32")
    own = draw.mask(2, 3, 5, 8)
    yield case("a mask for each head", "padding and causal", (2, 3, 5, 8), True, own)
    nothing = {"B": 1, "H": 1, "N": 3, "S": 4, "causal": False, "dtype": "float64"}
    yield Case("nothing to hide", "mask", {}, {"none": "None where nothing is hidden"}, nothing)


@problem("4.4", again="two heads")
def behind(draw: Draw) -> Iterator[Case]:
    checks = {"z": "[prefix; x]", **UNTOUCHED}
    for name, (P, Hk, D, B, S), layouts in (
        ("two heads", (3, 2, 4, 5, 6), {"x": "readonly", "prefix": "fortran"}),
        ("one head, a longer prefix", (7, 1, 3, 2, 4), {"x": "strided"}),
        ("one of each", (1, 1, 2, 1, 1), {}),
    ):
        arrays = {"prefix": draw.normal(P, Hk, D), "x": draw.normal(B, Hk, S, D)}
        yield Case(name, "behind", arrays, checks, layouts=layouts)


def _attend(
    draw: Draw,
    name: str,
    needs: str,
    checks: Mapping[str, str],
    *,
    groups: int = 1,
    causal: bool = True,
    masked: str = "",
    more_keys: int = 0,
    dtype: str = "float64",
    backward: bool = True,
    sizes: tuple[int, int, int, int, int] | None = None,
    scale: float | None = None,
    **more: Any,
) -> Case:
    B, P, N, D, Hk = sizes or (2, *draw.sizes(3, 3, 7), 3)
    S, H = N + more_keys, Hk * groups
    arrays = {
        "q": draw.normal(B, H, N, D, dtype=dtype),
        "k": draw.normal(B, Hk, S, D, dtype=dtype),
        "v": draw.normal(B, Hk, S, D, dtype=dtype),
        "prefix": draw.normal(2, P, Hk, D, dtype=dtype),
    }
    if masked:
        arrays["mask"] = draw.mask(B, 1, N if masked == "by query" else 1, S)
    if backward:
        arrays["dz"] = draw.normal(B, H, N, D, dtype=dtype)
    s = draw.number(0.3, 0.8) if scale is None else scale
    shown = {"dP_k": "dP_k, the keys' half", "dP_v": "dP_v, the values' half"}
    kept: dict[str, Any] = {n: more.pop(n) for n in ("unneeded", "at_most") if n in more}
    params = {"causal": causal, "scale": s, "needs": needs.split(), **kept}
    return Case(name, "attend", arrays, checks, params, shown=shown, **more)


@problem("4.5", again="causal")
def attention_forward(draw: Draw) -> Iterator[Case]:
    def case(name: str, aspect: str, **more: Any) -> Case:
        checks = {"z": aspect, **UNTOUCHED}
        return _attend(draw, name, "prefix", checks, backward=False, **more)

    yield case("every query sees all", "not causal", causal=False, layouts={"q": "readonly", "prefix": "fortran"})
    yield case("causal", "causal", layouts={"k": "strided", "v": "readonly"})
    yield case("causal, keys of a cache before the text", "causal", more_keys=2)
    yield case("two queries to a key head", "grouped heads", groups=2)
    yield case("three queries to a key head, causal off", "grouped heads", groups=3, causal=False)
    yield case("padding by example", "masks", masked="by example", causal=False)
    yield case("padding by example, causal", "masks", masked="by example", groups=2)
    yield case("a mask by query", "masks", masked="by query", causal=False)
    yield case("large scores", "large scores", scale=300.0)
    yield case("one query", "edge sizes", sizes=(1, 2, 1, 3, 1))
    # With heads of 40 numbers, Q, K' and V' are each larger than all scores together.
    B, P, N, D, Hk = sizes = (2, 3, 5, 40, 2)
    A, Q, K = (8 * B * Hk * n for n in (N * (P + N), N * D, (P + N) * D))
    for needs, unneeded, at_most in (
        ("v", ["q", "k"], 2 * A),
        ("q", ["q"], 2 * A + 2 * K),
        ("prefix", ["k"], 2 * A + K + Q),
        ("k prefix", ["k"], 2 * A + K + Q),
    ):
        lean: dict[str, Any] = {"unneeded": unneeded, "at_most": at_most}
        checks = {"z": "causal", "lean": FROZEN}
        yield _attend(draw, f"gradients of {needs} alone", needs, checks, backward=False, sizes=sizes, **lean)
    single = {"z": "float32"}
    yield _attend(draw, "float32", "prefix", single, backward=False, dtype="float32", tol=2e-5)


@problem("4.6", again="causal")
def attention_backward(draw: Draw) -> Iterator[Case]:
    grads = {"dq": "dq", "dk": "dk", "dv": "dv", "dP_k": "dP_k", "dP_v": "dP_v", **UNTOUCHED}
    everything = "q k v prefix"
    yield _attend(draw, "every query sees all", everything, grads, causal=False, layouts={"dz": "readonly"})
    yield _attend(draw, "causal", everything, grads, layouts={"dz": "strided", "q": "readonly"})
    yield _attend(draw, "causal, keys of a cache before the text", everything, grads, more_keys=3)
    grouped = {**dict.fromkeys(("dq", "dk", "dv", "dP_k", "dP_v"), "grouped heads")}
    yield _attend(draw, "two queries to a key head", everything, grouped, groups=2)
    yield _attend(draw, "three, with padding", everything, grouped, groups=3, masked="by example", causal=False)
    yield _attend(draw, "padding by example", everything, grads, masked="by example")
    frozen = {"dq": FROZEN, "dk": FROZEN, "dv": FROZEN}
    yield _attend(draw, "the prefix alone", "prefix", {**frozen, "dP_k": "dP_k", "dP_v": "dP_v"}, groups=2)
    alone = {"dk": FROZEN, "dv": FROZEN, "dP_k": FROZEN, "dP_v": FROZEN}
    yield _attend(draw, "q alone", "q", {"dq": "dq", **alone})
    only_v = {"dv": "dv", "dq": FROZEN, "dk": FROZEN, "dP_k": FROZEN}
    yield _attend(draw, "v alone", "v", only_v)
    yield _attend(draw, "k and the prefix", "k prefix", {"dk": "dk", "dP_k": "dP_k", "dq": FROZEN, "dv": FROZEN})
    yield _attend(draw, "one query", everything, dict.fromkeys(("dq", "dP_k"), "edge sizes"), sizes=(3, 2, 1, 4, 2))
    single = dict.fromkeys(("dq", "dk", "dP_k", "dP_v"), "float32")
    yield _attend(draw, "float32", everything, single, dtype="float32", tol=5e-5)
    large = (4, 16, 64, 32, 4)
    yield _attend(draw, "large, in little time", everything, grads, sizes=large, groups=2, seconds=2.0)


@problem("4.7", again="two key heads")
def reparametrization(draw: Draw) -> Iterator[Case]:
    shared = ("dembedding", "dweight", "dbias")
    own = ("dweight0", "dbias0", "dweight1", "dbias1")
    checks = {"hidden": "hidden layer", "z0": "prefix", "z1": "prefix"}
    checks |= dict.fromkeys(shared, "gradients of what is shared") | dict.fromkeys(own, "gradients of each layer's own")
    shown = {"dembedding": "dQ_θ", "dweight": "dW₁", "dbias": "db₁"}
    for name, (P, d, m, Hk, D) in (("two key heads", (5, 4, 3, 2, 6)), ("three key heads", (2, 6, 7, 3, 4))):
        arrays = {
            "embedding": draw.normal(P, d),
            "weight": draw.normal(m, d, scale=0.5),
            "bias": draw.normal(m),
        }
        for i in range(2):
            arrays[f"weight{i}"] = draw.normal(2 * Hk * D, m)
            arrays[f"bias{i}"] = draw.normal(2 * Hk * D)
            arrays[f"dz{i}"] = draw.normal(2, P, Hk, D)
        params = {"P": P, "d": d, "m": m, "Hk": Hk, "D": D}
        yield Case(name, "reparametrized", arrays, checks, params, shown=shown)


def _sizes(layout: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {"vocab_size": 19, "d_model": 12, "n_layers": 2, "n_heads": 6, "d_ff": 20, "context": 24}
    return {**sizes, "n_kv_heads": 2} if layout == "llama" else sizes


@problem("4.8")
def collapse(draw: Draw) -> Iterator[Case]:
    checks = {
        "same output": "the same outputs",
        "shapes": "flat prefixes are trained",
        "prefixes": "flat prefixes are trained",
        "leaves": "flat prefixes are trained",
        "option": "flat prefixes are trained",
    }
    for layout in ("gpt2", "llama"):
        params = {"layout": layout, "sizes": _sizes(layout), "P": draw.sizes(1)[0], "phase": draw.number(0.0, 6.0)}
        yield Case(layout, "collapsed", {"ids": draw.integers(19, 3, 7)}, checks, params, tol=1e-4)


@problem("4.9")
def model(draw: Draw) -> Iterator[Case]:
    checks = {
        "shapes": "trained tensors",
        "offset": "positions",
        "z": "output",
        "gradient norms": "gradients",
        "base": "the base as before",
        "offset afterwards": "the base as before",
        "no room": "refuses what leaves no room",
    }
    for layout, projection, m in (
        ("gpt2", False, None),
        ("llama", False, None),
        ("gpt2", True, None),
        ("llama", True, draw.sizes(1, 5, 11)[0]),
    ):
        params = {"layout": layout, "sizes": _sizes(layout), "P": draw.sizes(1)[0], "projection": projection, "m": m}
        params["lengths"] = draw.shuffled([24, 25, 48, 1, 12, 23])  # half of them leave room in a context of 24
        name = f"{layout}, {'reparametrized' if projection else 'flat'}"
        yield Case(name, "model", {"ids": draw.integers(19, 3, 8)}, checks, params, tol=1e-4)
