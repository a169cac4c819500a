"""What hw7_vision is graded on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FORWARD, FROZEN, UNTOUCHED, Draw, problem


def _ln(
    draw: Draw,
    name: str,
    needs: str,
    checks: dict[str, str],
    batch: tuple[int, ...] = (2, 3),
    backward: bool = True,
    bias: bool = True,
    dtype: str = "float64",
    spread: float = 1.0,
    sizes: tuple[int, int, int] | None = None,
    **more: Any,
) -> Case:
    r, k, d = sizes or draw.sizes(3, 3, 9)
    arrays = {
        "x": draw.normal(*batch, k, scale=spread, dtype=dtype) + np.asarray(draw.number(0.5, 1.5) * spread, dtype),
        "W": draw.normal(d, k, dtype=dtype),
        "gamma": draw.positive(k, dtype=dtype),
        "beta": draw.normal(k, dtype=dtype),
        "A": draw.normal(r, k, dtype=dtype),
        "B": draw.normal(d, r, dtype=dtype),
    }
    if bias:
        arrays["b"] = draw.normal(d, dtype=dtype)
    if backward:
        arrays["dz"] = draw.normal(*batch, d, scale=spread, dtype=dtype)  # dx goes as dz / σ(x)
    params = {"scale": draw.number(1.5, 3.5), "needs": needs.split()}
    return Case(name, "lnlora_linear", arrays, checks, params, **more)


@problem("7.1", again="a batch of sequences")
def ln_forward(draw: Draw) -> Iterator[Case]:
    own = "A B gamma beta"
    yield _ln(draw, "a batch of sequences", own, FORWARD, backward=False, layouts={"x": "readonly"})
    yield _ln(
        draw, "rows, x strided, W Fortran-ordered", "", FORWARD, (5,), False, layouts={"x": "strided", "W": "fortran"}
    )
    yield _ln(draw, "no bias", own, FORWARD, (4,), False, bias=False)
    yield _ln(draw, "inputs a hundredth as large", own, FORWARD, (2, 4), False, spread=0.01)
    yield _ln(draw, "float32", own, {"z": "float32"}, (2, 3), False, dtype="float32", tol=2e-5)
    yield _ln(draw, "one row of a batch", own, {"z": "edge sizes"}, (1, 1), False)
    yield _ln(draw, "no row at all", own, {"z": "edge sizes"}, (0, 2), False)


@problem("7.2", again="x and the layer's own")
def ln_backward(draw: Draw) -> Iterator[Case]:
    grads = {"dA": "dA", "dB": "dB", "dgamma": "dγ and dβ", "dbeta": "dγ and dβ", **UNTOUCHED}
    all_own = "x A B gamma beta"
    yield _ln(draw, "x and the layer's own", all_own, {"dx": "dx", **grads}, layouts={"dz": "readonly"})
    yield _ln(draw, "three axes, dz strided", all_own, {"dx": "dx", **grads}, (2, 3, 4), layouts={"dz": "strided"})
    yield _ln(draw, "inputs a hundredth as large", all_own, {"dx": "dx", **grads}, (7,), spread=0.01)
    everything = {"dx": "dx", "dW": "dW and db", "db": "dW and db", **grads}
    yield _ln(draw, "everything trained", f"{all_own} W b", everything, (3, 2))
    frozen = {"dx": FROZEN, "dW": FROZEN, "db": FROZEN, "keeps W": FROZEN}
    yield _ln(draw, "A and B alone", "A B", {"dA": "dA", "dB": "dB", **frozen, "dgamma": FROZEN}, (5,))
    yield _ln(draw, "x alone", "x", {"dx": "dx", "dA": FROZEN, "dB": FROZEN, "dgamma": FROZEN, "dbeta": FROZEN}, (4,))
    yield _ln(draw, "γ alone", "gamma", {"dgamma": "dγ and dβ", "dx": FROZEN, "dA": FROZEN, "dB": FROZEN}, (6,))
    yield _ln(draw, "float32", all_own, {"dx": "float32", "dA": "float32"}, (2, 3), dtype="float32", tol=2e-5)
    large = (3, 160, 128)
    yield _ln(draw, "large, in little time", all_own, {"dx": "dx", **grads}, (4, 96), sizes=large, seconds=2.0)


@problem("7.3")
def ln_layer(draw: Draw) -> Iterator[Case]:
    checks = {
        "shapes": "tensors",
        "trained": "tensors",
        "dtypes": "tensors",
        "constants": "constants",
        "scale": "scale",
        "A within the bound": "A",
        "A size": "A",
        "A spread": "A",
        "A repeats with the seed": "A",
        "start": "starts as the base",
        "base kept": "starts as the base",
        "too large a rank": "refuses a rank beyond min(d, k)",
    }
    for dtype in ("float64", "float32"):
        r, k, d = draw.sizes(1, 7, 11)[0], draw.sizes(1, 61, 90)[0], draw.sizes(1, 23, 40)[0]
        arrays = {n: draw.normal(*s, dtype=dtype) for n, s in {"W": (d, k), "b": (d,), "x": (3, k)}.items()}
        params = {"k": k, "d": d, "r": r, "alpha": draw.number(9.0, 20.0), "seed": draw.seed()}
        yield Case(dtype, "lnlora_layer", arrays, checks, params, tol=1e-10 if dtype == "float64" else 1e-5)


def _fact(
    draw: Draw,
    name: str,
    blocks: str,
    needs: str,
    checks: dict[str, str],
    batch: tuple[int, ...] = (2, 3),
    backward: bool = True,
    bias: bool = True,
    dtype: str = "float64",
    sizes: tuple[int, int] | None = None,
    **more: Any,
) -> Case:
    r, d = sizes or draw.sizes(2, 3, 7)
    m = {"square": 1, "output": 4, "input": 2}[blocks]
    D, k = (m * d, d) if blocks == "output" else (d, m * d)
    arrays = {
        "x": draw.normal(*batch, k, dtype=dtype),
        "W": draw.normal(D, k, dtype=dtype),
        "U": draw.normal(r, d, scale=d**-0.5, dtype=dtype),
        "V": draw.normal(d, r, scale=r**-0.5, dtype=dtype),
        "S": draw.normal(m, r, r, dtype=dtype),
    }
    if bias:
        arrays["b"] = draw.normal(D, dtype=dtype)
    if backward:
        arrays["dz"] = draw.normal(*batch, D, dtype=dtype)
    params = {"scale": draw.number(1.5, 3.5), "needs": needs.split()}
    return Case(name, "factorized_linear", arrays, checks, params, shown={"dS": "dΣ"}, **more)


@problem("7.4", again="output, a batch")
def fact_forward(draw: Draw) -> Iterator[Case]:
    for blocks, aspect in (("square", "square"), ("output", "blocks in the output"), ("input", "blocks of the input")):
        checks = {"z": aspect, **UNTOUCHED}
        yield _fact(draw, f"{blocks}, a batch", blocks, "U V S", checks, backward=False, layouts={"x": "readonly"})
        yield _fact(draw, f"{blocks}, rows, x strided", blocks, "", checks, (5,), False, layouts={"x": "strided"})
    yield _fact(draw, "no bias", "output", "U V S", {"z": "blocks in the output"}, (4,), False, bias=False)
    yield _fact(draw, "float32", "input", "U V S", {"z": "float32"}, (3,), False, dtype="float32", tol=2e-5)
    yield _fact(draw, "one row of a batch", "output", "U V S", {"z": "edge sizes"}, (1, 1), False)


@problem("7.5", again="output, a batch")
def fact_backward(draw: Draw) -> Iterator[Case]:
    own = "x U V S"
    grads = {"dx": "dx", "dU": "dU", "dV": "dV", "dS": "dΣ", **UNTOUCHED}
    for blocks in ("square", "output", "input"):
        yield _fact(draw, f"{blocks}, a batch", blocks, own, grads, layouts={"dz": "readonly"})
        yield _fact(draw, f"{blocks}, rows, dz strided", blocks, own, grads, (7,), layouts={"dz": "strided"})
    everything = {**grads, "dW": "dW and db", "db": "dW and db"}
    yield _fact(draw, "everything trained", "output", f"{own} W b", everything, (3, 2))
    frozen = {"dx": FROZEN, "dW": FROZEN, "db": FROZEN}
    yield _fact(draw, "U, V and Σ alone", "output", "U V S", {"dU": "dU", "dV": "dV", "dS": "dΣ", **frozen}, (5,))
    yield _fact(
        draw, "V alone", "input", "V", {"dV": "dV", "dU": FROZEN, "dS": FROZEN, "keeps W": FROZEN, **frozen}, (6,)
    )
    yield _fact(draw, "Σ alone", "output", "S", {"dS": "dΣ", "dU": FROZEN, "dV": FROZEN, **frozen}, (4,))
    yield _fact(draw, "x alone", "input", "x", {"dx": "dx", "dU": FROZEN, "dV": FROZEN, "dS": FROZEN}, (4,))
    yield _fact(draw, "float32", "input", own, {"dx": "float32", "dU": "float32"}, dtype="float32", tol=2e-5)
    yield _fact(draw, "large, in little time", "output", own, grads, (4, 96), sizes=(8, 96), seconds=2.0)


@problem("7.6", again="FacT-TK, from the middle")
def core(draw: Draw) -> Iterator[Case]:
    r, n, m, first = 3, 11, 4, 5
    tt = {"sigma": draw.normal(m, r, r), "dz": draw.normal(m, r, r)}
    yield Case("FacT-TT", "core", tt, {"z": "FacT-TT", "dsigma": "FacT-TT"}, {"first": 2, "m": m})
    checks = {"z": "FacT-TK", "dC": "gradients of C and P", "dP": "gradients of C and P"}
    for name, start, number in (("from the middle", first, m), ("the first block", 0, 1), ("the last ones", n - 2, 2)):
        arrays = {"C": draw.normal(r, r, r), "P": draw.normal(r, n), "dz": draw.normal(number, r, r)}
        yield Case(f"FacT-TK, {name}", "core", arrays, checks, {"first": start, "m": number})


@problem("7.7", again="output")
def delta(draw: Draw) -> Iterator[Case]:
    for blocks, m in (("square", 1), ("output", 4), ("input", 3)):
        r, d = draw.sizes(2, 3, 7)
        D, k = (m * d, d) if blocks == "output" else (d, m * d)
        arrays = {
            "W": draw.normal(D, k),
            "U": draw.normal(r, d),
            "V": draw.normal(d, r),
            "S": draw.normal(m, r, r),
        }
        checks = {"z": "square" if m == 1 else f"blocks of the {blocks}", "base": "base untouched"}
        exact = frozenset({"base"})
        yield Case(blocks, "delta", arrays, checks, {"scale": draw.number(1.5, 3.5)}, exact=exact)


@problem("7.8")
def vision(draw: Draw) -> Iterator[Case]:
    checks = {
        "number": "number of parameters",
        "shapes": "number of parameters",
        "start": "starts as the base",
        "zero": "starts as the base",
        "z": "output",
        "gradient norms": "gradients",
        "every tensor has a gradient": "gradients",
        "base": "base untouched",
        "refused": "refuses what does not fit",
    }
    vit = {
        "image_size": 8, "patch_size": 4, "channels": 1, "n_classes": 5, "d_model": 12, "n_layers": 2, "n_heads": 3,
    }  # fmt: skip
    # Two or three that must be refused, and four or five that must not be, in a drawn order.
    tried: list[dict[str, Any]] = [
        {"factorization": "cp"}, {"r": 13}, {"r": 1}, {"r": 2}, {"scale": 0.1}, {"r": 12},
        {"vit": {"d_ff": 20}},  # refused if the feed-forward is among the targets
    ]  # fmt: skip
    for factorization in ("tt", "tk"):
        for name, options in (("all matrices", {}), ("queries and values", {"target_modules": ["q_proj", "v_proj"]})):
            arrays = {"images": draw.normal(3, 1, 8, 8, dtype="float32"), "labels": draw.integers(5, 3)}
            params = {
                "vit": {**vit, "d_ff": 12 * int(draw.integers(8, low=3))},
                "factorization": factorization,
                "r": int(draw.integers(10, low=3)),
                "scale": draw.number(0.5, 1.5),
                "options": options,
                "refused": draw.shuffled(tried),
            }
            yield Case(f"FacT-{factorization.upper()}, {name}", "vision", arrays, checks, params, tol=1e-4)
