"""What hw6_lora is graded on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FORWARD, FROZEN, UNTOUCHED, Draw, problem

WIDE = (2, 1500, 1600)  # r, k, d
HALF = 8 * 1500 * 1600 // 2  # bytes: not enough for an array as large as W₀
LINEAR, EMBEDDING = "x W b A B s", "E ids A B s"


def _linear(
    draw: Draw,
    name: str,
    needs: str,
    checks: Mapping[str, str],
    batch: tuple[int, ...] = (2, 3),
    backward: bool = True,
    bias: bool = True,
    dtype: str = "float64",
    sizes: tuple[int, int, int] | None = None,
    spread: float = 1.0,
    **more: Any,
) -> Case:
    r, k, d = sizes or draw.sizes(3, 4, 9)
    arrays = {
        "x": draw.normal(*batch, k, dtype=dtype, scale=spread),
        "W": draw.normal(d, k, dtype=dtype),
        "A": draw.normal(r, k, dtype=dtype),
        "B": draw.normal(d, r, dtype=dtype),
    }
    if bias:
        arrays["b"] = draw.normal(d, dtype=dtype)
    if backward:
        arrays["dz"] = draw.normal(*batch, d, dtype=dtype)
    s = draw.number(1.5, 3.5)
    params = {
        "module": "peft.lora", "function": "LoRALinear", "names": LINEAR, "constants": {"s": s}, "scale": s,
        "needs": needs.split(), "unneeded": more.pop("unneeded", []), "at_most": more.pop("at_most", 0),
    }  # fmt: skip
    return Case(name, more.pop("driver", "by_hand"), arrays, checks, params, **more)


@problem("6.1", again="a batch of sequences, x read-only")
def forward(draw: Draw) -> Iterator[Case]:
    yield _linear(draw, "a matrix of rows", "A B", FORWARD, (3,), False)
    yield _linear(
        draw, "a batch of sequences, x read-only", "A B", FORWARD, (2, 3), False,
        layouts={"x": "readonly", "W": "fortran", "A": "strided", "B": "negative"},
    )  # fmt: skip
    yield _linear(draw, "x strided, inputs 1e-2", "", FORWARD, (4,), False, layouts={"x": "strided"}, spread=1e-2)
    yield _linear(draw, "no bias", "A B", FORWARD, (5,), False, bias=False)
    yield _linear(draw, "three axes, everything trained", "x W b A B", FORWARD, (2, 1, 3), False)
    yield _linear(draw, "float32", "A B", {"z": "float32"}, (2, 3), False, dtype="float32", tol=2e-5)
    yield _linear(draw, "a single vector", "A B", {"z": "edge sizes"}, (), False)
    yield _linear(draw, "rank 1, one row", "A B", {"z": "edge sizes"}, (1, 1), False, sizes=(1, 5, 7))
    yield _linear(draw, "no row", "A B", {"z": "edge sizes"}, (0, 2), False)
    # With 60 rows of 19 numbers, X, H = X Aᵀ and W₀ are each larger than A and B together.
    r, k, d, R = 2, 19, 23, 60
    A_and_B, H = 8 * r * (d + k), 8 * R * r
    for needs, unneeded, at_most in (
        ("A B", ["W"], H + A_and_B),
        ("A", ["W"], A_and_B),
        ("B", ["W"], H + A_and_B),
        ("x", ["x"], A_and_B),
        ("b", ["x", "W"], A_and_B),
    ):
        checks = {"z": "forward", "lean": FROZEN}
        kept: dict[str, Any] = {"unneeded": unneeded, "at_most": at_most}
        yield _linear(draw, f"gradients of {needs} alone", needs, checks, (R,), False, sizes=(r, k, d), **kept)
    yield _linear(
        draw, "a large W₀, one row", "A B", {"z": "thin"}, (1,), False, sizes=WIDE, memory=HALF, driver="thin"
    )


@problem("6.2", again="x, A and B trained")
def backward(draw: Draw) -> Iterator[Case]:
    own = {"dA": "dA", "dB": "dB", **UNTOUCHED}
    grads = {"dx": "dx", **own}
    yield _linear(draw, "x, A and B trained", "x A B", grads, (2, 3), layouts={"dz": "readonly"})
    yield _linear(draw, "rows, dz strided", "x A B", grads, (7,), layouts={"dz": "strided", "x": "fortran"})
    everything = {**grads, "dW": "dW and db", "db": "dW and db"}
    yield _linear(
        draw, "everything trained, three axes", "x W b A B", everything, (2, 3, 2), layouts={"dz": "negative"}
    )
    yield _linear(draw, "no bias, x small", "x A B", {"dx": "dx", **own}, (4, 2), bias=False, spread=1e-2)
    yield _linear(draw, "float32", "x A B", dict.fromkeys(("dx", "dA", "dB"), "float32"), dtype="float32", tol=2e-5)
    yield _linear(draw, "a single vector", "x A B", dict.fromkeys(("dx", "dA", "dB"), "edge sizes"), ())
    empty = dict.fromkeys(("dx", "dA", "dB"), "edge sizes")
    yield _linear(draw, "no row", "x A B", empty, (0, 2), sizes=(3, 7, 5), exact=frozenset({"dA", "dB"}))
    rest = dict.fromkeys(("dx", "dW", "db", "dA", "dB"), FROZEN)
    yield _linear(draw, "A and B alone", "A B", {**rest, **own}, (5,))
    yield _linear(draw, "A alone", "A", {**rest, "dA": "dA"}, (2, 4))
    yield _linear(draw, "B alone", "B", {**rest, "dB": "dB"}, (6,))
    yield _linear(draw, "x alone", "x", {**rest, "dx": "dx"}, (3, 2))
    yield _linear(draw, "x and B", "x B", {**rest, "dx": "dx", "dB": "dB"}, (4,))
    yield _linear(draw, "b alone", "b", {**rest, "db": "dW and db"}, (5,))
    thin = dict.fromkeys(("dx", "dA", "dB"), "thin")
    yield _linear(draw, "a large W₀, one row", "x A B", thin, (1,), sizes=WIDE, memory=HALF, driver="thin")
    yield _linear(
        draw, "many rows, in little time", "x A B", grads, (4, 96), sizes=(8, 160, 128), spread=0.1, seconds=2.0
    )


def _looked_up(
    draw: Draw,
    name: str,
    needs: str,
    checks: Mapping[str, str],
    ids: np.ndarray,
    V: int = 11,
    backward: bool = True,
    dtype: str = "float64",
    sizes: tuple[int, int] | None = None,
    **more: Any,
) -> Case:
    r, d = sizes or draw.sizes(2, 2, 7)
    arrays = {
        "E": draw.normal(V, d, dtype=dtype),
        "ids": ids,
        "A": draw.normal(r, V, dtype=dtype),
        "B": draw.normal(d, r, dtype=dtype),
    }
    if backward:
        arrays["dz"] = draw.normal(*ids.shape, d, dtype=dtype)
    params = {
        "module": "peft.lora_embedding", "function": "LoRAEmbedding", "names": EMBEDDING,
        "constants": {"s": draw.number(1.5, 3.5)}, "needs": needs.split(),
        "unneeded": more.pop("unneeded", []), "at_most": more.pop("at_most", 0),
    }  # fmt: skip
    return Case(name, "by_hand", arrays, checks, params, **more)


def _repeated(draw: Draw, *shape: int, V: int = 11) -> np.ndarray:
    """Ids of which the first comes three times at least."""
    ids = draw.integers(V, *shape)
    ids.reshape(-1)[-2:] = ids.reshape(-1)[0]
    return ids


@problem("6.3", again="a batch")
def embedding_forward(draw: Draw) -> Iterator[Case]:
    yield _looked_up(
        draw,
        "a batch",
        "A B",
        FORWARD,
        _repeated(draw, 3, 4),
        backward=False,
        layouts={"E": "readonly", "A": "fortran"},
    )
    yield _looked_up(
        draw, "a row of ids", "E A B", FORWARD, _repeated(draw, 5), backward=False, layouts={"E": "strided"}
    )
    single: dict[str, Any] = {"backward": False, "dtype": "float32", "tol": 2e-5}
    yield _looked_up(draw, "float32", "A B", {"z": "float32"}, _repeated(draw, 2, 3), **single)
    yield _looked_up(draw, "no id", "A B", {"z": "edge sizes"}, np.zeros((2, 0), dtype=np.int64), backward=False)
    small: dict[str, Any] = {"unneeded": ["E"], "at_most": 60 * 3 * 8, "sizes": (3, 17)}  # H, but no rows of the table
    for needs in ("A", "B", "A B"):
        checks = {"z": "forward", "lean": FROZEN}
        ids = _repeated(draw, 60)
        yield _looked_up(draw, f"gradients of {needs} alone", needs, checks, ids, backward=False, **small)


@problem("6.4", again="the table as well")
def embedding_backward(draw: Draw) -> Iterator[Case]:
    grads = {"dA": "dA", "dB": "dB", **UNTOUCHED}
    frozen = dict.fromkeys(("dE", "dA", "dB"), FROZEN)
    yield _looked_up(
        draw, "A and B, ids repeat", "A B", {**frozen, **grads}, _repeated(draw, 3, 4), layouts={"dz": "readonly"}
    )
    yield _looked_up(
        draw, "the table as well", "E A B", {**grads, "dE": "dE"}, _repeated(draw, 7), layouts={"dz": "strided"}
    )
    yield _looked_up(draw, "one id", "A B", {"dA": "edge sizes", "dB": "edge sizes"}, draw.integers(11, 1, 1))
    yield _looked_up(draw, "A alone", "A", {**frozen, "dA": "dA"}, _repeated(draw, 2, 5))
    yield _looked_up(draw, "B alone", "B", {**frozen, "dB": "dB"}, _repeated(draw, 9))
    float32 = {"dA": "float32", "dB": "float32"}
    yield _looked_up(draw, "float32", "A B", float32, _repeated(draw, 6), dtype="float32", tol=2e-5)
    many = _repeated(draw, 8, 512, V=700)
    yield _looked_up(draw, "many ids, in little time", "A B", grads, many, 700, sizes=(8, 64), seconds=2.0)


def _many(draw: Draw) -> tuple[int, int, int]:
    """Sizes r, k and d of matrices with entries enough for statistics."""
    return draw.sizes(1, 60, 120)[0], draw.sizes(1, 200, 600)[0], draw.sizes(1, 200, 600)[0]


@problem("6.5")
def initialization(draw: Draw) -> Iterator[Case]:
    """Numbers that describe what was drawn, within a tenth (seven of their standard deviations, mostly).

    The sizes are drawn, too: a property of a matrix counts only for a matrix of this size.
    """
    shape = {f"{n} {w}": "shapes and types" for n in "AB" for w in ("shape", "dtype", "trained")}
    seeds = {f"{n} {w}": "out of the generator" for n in "AB" for w in ("repeats", "goes on", "by seed")}

    def law(n: str, aspect: str, what: tuple[str, ...]) -> dict[str, str]:
        return {f"{n} {w}": aspect for w in what}

    uniform, gaussian = ("spread", "centre", "kurtosis", "largest"), ("spread", "centre", "kurtosis")
    zero = {"B is zero": "B starts at zero", "A is zero": "A does not", "A rows": "A does not"}
    for name, init, dtype, checks in (
        ("uniform", True, "float32", {**law("A", "A uniform", uniform), **zero}),
        ("uniform, float64", True, "float64", {**law("A", "A uniform", uniform), **zero}),
        ("Gaussian", "gaussian", "float32", {**law("A", "A Gaussian", gaussian), **zero}),
        ("both random", False, "float32", {**law("A", "both random", uniform), **law("B", "both random", uniform)}),
    ):
        r, k, d = _many(draw)
        arrays = {"W": draw.normal(d, k, dtype=dtype)}
        params = {"r": r, "k": k, "d": d, "dtype": dtype, "init": init, "seed": draw.seed()}
        params["bounded"] = init != "gaussian"
        yield Case(
            name, "draw", arrays, {**checks, **shape, **seeds, "A columns": "out of the generator"}, params, tol=0.1
        )
    for name, init, checks in (
        ("an embedding", True, {**law("B", "embedding", gaussian), "A is zero": "embedding"}),
        (
            "an embedding, both random",
            False,
            {**law("A", "embedding", gaussian), **law("B", "embedding", gaussian)},
        ),
    ):
        r, k, d = _many(draw)
        arrays = {"E": draw.normal(k, d, dtype="float32")}
        params = {"r": r, "k": k, "d": d, "dtype": "float32", "init": init, "seed": draw.seed()}
        more = {"B rows": "embedding", "B columns": "out of the generator"}
        yield Case(name, "draw", arrays, {**checks, **shape, **seeds, **more}, params, tol=0.1)


@problem("6.6", again="gradients")
def layer(draw: Draw) -> Iterator[Case]:
    def case(name: str, checks: Mapping[str, str], backward: bool = True, **params: Any) -> Case:
        r, k, d = draw.sizes(3, 4, 9)
        arrays = {
            "x": draw.normal(2, 5, k), "W": draw.normal(d, k), "b": draw.normal(d),
            "A": draw.normal(r, k), "B": draw.normal(d, r),
        }  # fmt: skip
        if backward:
            arrays["dz"] = draw.normal(2, 5, d)
        settings = {"scale": draw.number(1.5, 3.5), "seed": draw.seed(), **params}
        return Case(name, "layer", arrays, checks, settings)

    def all_as(aspect: str) -> dict[str, str]:
        return {"z": aspect, "dx": aspect, "dA": aspect, "dB": aspect}

    yield case("no dropout", {"z": "forward"}, backward=False)
    yield case("gradients", {**all_as("gradients"), "dW": "gradients"}, training=True)
    yield case("dropout in training", all_as("dropout"), training=True, dropout=0.4)
    yield case("dropout, not in training", {"z": "dropout"}, False, dropout=0.4)
    yield case("another kind of base", all_as("another kind of base"), **{"other base": True})
    yield case("the change alone", all_as("change"), change=True)
    yield case("the change with dropout", all_as("change"), change=True, training=True, dropout=0.4)


@problem("6.7")
def scales(draw: Draw) -> Iterator[Case]:
    paths = [f"stack.layers.{i}.{rest}" for i in (0, 1, 11) for rest in ("attention.q_proj", "feed_forward.up_proj")]
    paths += ["input.tokens", "my_q_proj"]
    for rs in (False, True):
        kind = "rsLoRA" if rs else "α / r"
        r, other, third = draw.sizes(3, 3, 16)
        base = {"r": r, "lora_alpha": draw.number(5.0, 20.0), "use_rslora": rs}
        ranks = {"rank_pattern": {"q_proj": other, r"layers\.1\..*": third}}
        alphas = {"alpha_pattern": {"up_proj": draw.number(21.0, 40.0), "tokens|q_proj": draw.number(41.0, 60.0)}}
        both = {"ranks": "patterns", "ranks with scales": "patterns", "scales": "patterns"}
        plain = {"ranks": kind, "ranks with scales": kind, "scales": kind}
        for name, options, checks in (
            ("no pattern", {}, plain),
            ("ranks by pattern", ranks, both),
            ("α by pattern", alphas, both),
            ("both", {**ranks, **alphas}, both),
        ):
            yield Case(f"{kind}, {name}", "scale", {}, checks, {"options": {**base, **options}, "paths": paths})


@problem("6.8", again="a linear layer")
def merging(draw: Draw) -> Iterator[Case]:
    kept = {"base": "base untouched", "weight of its own": "base untouched"}
    for name, bias, dtype in (("a linear layer", True, "float64"), ("no bias, float32", False, "float32")):
        r, k, d = draw.sizes(3, 4, 9)
        shapes = {"x": (2, 3, k), "W": (d, k), "A": (r, k), "B": (d, r)} | ({"b": (d,)} if bias else {})
        arrays = {n: draw.normal(*s, dtype=dtype) for n, s in shapes.items()}
        checks = {
            "delta": "ΔW", "weight": "the merged layer", "z": "the merged layer", "bias": "the merged layer",
            "sizes": "the merged layer", "class": "the merged layer", "again": "the merged layer", **kept,
        }  # fmt: skip
        tol = 1e-10 if dtype == "float64" else 2e-5
        yield Case(name, "merged", arrays, checks, {"scale": draw.number(1.5, 3.5)}, tol=tol)
    r, V, d = draw.sizes(3, 4, 9)
    arrays = {n: draw.normal(*s) for n, s in {"E": (V, d), "A": (r, V), "B": (d, r)}.items()}
    arrays["ids"] = draw.integers(V, 2, 5)
    merged = dict.fromkeys(("weight", "z", "class", "again"), "the merged embedding")
    checks = {"delta": "ΔE", **merged, **kept}
    yield Case("an embedding", "merged", arrays, checks, {"scale": draw.number(1.5, 3.5)})


@problem("6.9", again="gradients; a batch of four kinds")
def mixing(draw: Draw) -> Iterator[Case]:
    def rows(name: str, needs: str, checks: Mapping[str, str], B: int, n: int, backward: bool, **more: Any) -> Case:
        T, d = draw.sizes(2, 2, 7)
        arrays = {"x": draw.normal(B, T, d), "y": draw.normal(n, T, d), "index": draw.rng.permutation(B)[:n]}
        if backward:
            arrays["dz"] = draw.normal(B, T, d)
        return Case(name, "add_to_rows", arrays, checks, {"needs": needs.split()}, **more)

    added, back = "rows added", "gradients of the rows"
    yield rows("some rows", "x y", {"z": added, **UNTOUCHED}, 7, 3, False, layouts={"x": "readonly"})
    yield rows("no row", "x y", {"z": added}, 4, 0, False)
    grads = {"dx": back, "dy": back, **UNTOUCHED, "lean": FROZEN}
    yield rows("gradients", "x y", grads, 6, 4, True, layouts={"dz": "readonly"})
    yield rows("y alone", "y", {"dy": back, "dx": FROZEN}, 5, 2, True, layouts={"dz": "strided"})
    yield rows("x alone", "x", {"dx": back, "dy": FROZEN}, 5, 2, True)
    for name, examples, batch, backward in (
        ("a batch of four kinds", ["q", "p", "", "q", "p", "other"], (3,), True),
        ("one adapter for all", ["p", "p", "p"], (2, 2), False),
        ("an adapter of nobody", ["q", "", "q"], (), True),
    ):
        r, s, k, d = draw.sizes(4, 3, 9)
        shapes = {"x": (len(examples), *batch, k), "W": (d, k), "b": (d,)}
        shapes |= {"Ap": (r, k), "Bp": (d, r), "Aq": (s, k), "Bq": (d, s)}
        arrays = {n: draw.normal(*shape) for n, shape in shapes.items()}
        checks = {"z": "a mixed batch", "no work twice": "no work twice", **UNTOUCHED, "refused": "refused"}
        if backward:
            arrays["dz"] = draw.normal(len(examples), *batch, d)
            used = [f"d{n}{who}" for who in ("p", "q") if who in examples for n in "AB"]
            checks |= dict.fromkeys(("dx", *used), "gradients of a mixed batch")
        n = len(examples)
        params = {
            "scales": {"p": draw.number(1.5, 2.5), "q": draw.number(2.6, 3.5)},
            "examples": examples,
            "batches": draw.shuffled(
                [n, n - 1, n + 1, 2 * n, n]
            ),  # with as many examples as adapters are named for, or not
        }
        yield Case(name, "mixed", arrays, checks, params)


GPT2 = {"vocab_size": 17, "d_model": 12, "n_layers": 2, "n_heads": 3, "context": 16, "d_ff": 20}
LLAMA = {**GPT2, "d_model": 16, "n_heads": 4, "n_kv_heads": 2}


@problem("6.10")
def biases(draw: Draw) -> Iterator[Case]:
    projections = [f"stack.layers.{i}.attention.{n}_proj" for i in (0, 1) for n in ("q", "k", "v", "out")]
    for bias in ("none", "lora_only", "all"):
        what = dict.fromkeys(("names", "values", "others"), f'bias="{bias}"')
        checks = {**what, "copies": "copies, and the base kept", "base": "copies, and the base kept"}
        checks["taken"] = "what is trained already"
        *paths, other = draw.shuffled(projections)[:5]
        taken = ("stack.layers.0.feed_forward.up_proj.bias", f"{other}.bias")[int(draw.integers(2))]
        params = {"family": "gpt2", "sizes": GPT2, "bias": bias, "paths": sorted(paths), "phase": draw.number(0.0, 6.0)}
        yield Case(bias, "train_biases", {}, checks, {**params, "taken": taken})


@problem("6.11")
def applied(draw: Draw) -> Iterator[Case]:
    checks = {
        "names": "what is trained",
        "shapes": "what is trained",
        "classes": "what is trained",
        "start": "start",
        "at random": "start",
        "all differently": "start",
        "in order": "start",
        "dropout": "what is trained",
        "z": "output and gradients",
        "gradients": "output and gradients",
        "after three steps": "output and gradients",
        "second": "two adapters",
        "back": "two adapters",
        "refused": "refuses what does not fit",
        "base": "base untouched",
    }
    refused: list[dict[str, Any]] = [
        {"r": 0}, {"r": 200}, {"rank_pattern": {"q_proj": 300}}, {"lora_alpha": 0.0}, {"bias": "some"},
        {"init_lora_weights": "zero"}, {"target_modules": ["qproj"]}, {"rank_pattern": {"k_proj": 2}},
        {"alpha_pattern": {"nothing": 2.0}},
        {"r": 1}, {"lora_alpha": 0.5}, {"bias": "all"}, {"rank_pattern": {"q_proj": 1}},  # these four fit
    ]  # fmt: skip
    attention = ["q_proj", "k_proj", "v_proj", "out_proj"]
    for name, family, sizes, options in (
        ("queries and values of a GPT-2", "gpt2", GPT2, {}),
        ("ranks by pattern, biases", "gpt2", GPT2, {"rank_pattern": {"v_proj": draw.sizes(1, 7, 11)[0]},
                                              "bias": "lora_only", "target_modules": ["q_proj", "v_proj", "up_proj"]}),
        ("every linear layer of a Llama", "llama", LLAMA, {"target_modules": "all-linear", "use_rslora": True,
                                                     "lora_dropout": draw.number(0.1, 0.4)}),
        ("the attention of one layer", "llama", LLAMA, {"target_modules": attention, "layers_to_transform": [1],
                                                        "exclude_modules": ["out_proj"]}),
        ("the embedding as well", "llama", LLAMA, {"target_modules": ["tokens", "q_proj"]}),
    ):  # fmt: skip
        arrays = {"ids": draw.integers(17, 3, 6), "labels": draw.integers(17, 3, 6)}
        params = {
            "family": family,
            "sizes": sizes,
            "options": {"r": draw.sizes(1, 2, 6)[0], "lora_alpha": draw.number(4.0, 9.0), **options},
            "second": {"r": 2, "lora_alpha": 3.0, "target_modules": ["k_proj"]},
            "refused": draw.shuffled(refused),
        }  # fmt: skip
        yield Case(name, "decoder", arrays, checks, params, tol=1e-4)
