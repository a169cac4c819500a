"""What hw5_intrinsic is graded on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import FROZEN, UNTOUCHED, Draw, problem

ROWS = 4096  # of a block, as in the library


def _seed(draw: Draw) -> list[int]:
    return [int(i) for i in draw.integers(10**6, 2)]


@problem("5.1")
def block(draw: Draw) -> Iterator[Case]:
    checks = {"z": "values", "again": "the same again"}
    for name, size, start, dtype in (
        ("the first block, a short one", 37, 0, "float64"),
        ("a full block", ROWS + 9, 0, "float64"),
        ("the last rows", ROWS + 9, ROWS, "float64"),
    ):
        params = {"kind": "dense", "size": size, "d": 5, "total": 3 * size + 1, "seed": _seed(draw), "start": start}
        yield Case(name, "block", {"like": np.zeros(1, dtype)}, checks, params)
    params = {"kind": "dense", "size": 21, "d": 3, "total": 50, "seed": _seed(draw), "start": 0}
    yield Case("float32", "block", {"like": np.zeros(1, "float32")}, {"z": "float32"}, params, tol=1e-5)
    params = {"kind": "doubled", "size": ROWS + 25, "d": 4, "total": 30, "seed": _seed(draw), "start": ROWS}
    yield Case("of a projection with a choice of its own", "block", {"like": np.zeros(1)}, {"z": "asks _kept"}, params)


def _project(
    draw: Draw, kind: str, name: str, size: int, d: int, checks: Mapping[str, str], dtype: str = "float64", **more: Any
) -> Case:
    arrays = {"x": draw.normal(d, dtype=dtype), "y": draw.normal(size, dtype=dtype)}
    params = {"kind": kind, "size": size, "d": d, "total": size + 11 * d, "seed": _seed(draw)}
    return Case(name, "project", arrays, checks, params, shown={"Px": "P x", "Pty": "Pᵀ y"}, **more)


BOTH = {"Px": "P x", "Pty": "Pᵀ y", **UNTOUCHED}


@problem("5.2", again="one block")
def dense(draw: Draw) -> Iterator[Case]:
    yield _project(draw, "dense", "one block", 29, 7, BOTH, layouts={"x": "strided", "y": "readonly"})
    yield _project(draw, "dense", "three blocks, the last one short", 2 * ROWS + 13, 6, BOTH, layouts={"x": "readonly"})
    yield _project(draw, "dense", "blocks that are full", 2 * ROWS, 3, BOTH)
    yield _project(draw, "dense", "one direction, one number", 1, 1, {"Px": "edge sizes", "Pty": "edge sizes"})
    yield _project(draw, "dense", "float32", 300, 5, {"Px": "float32", "Pty": "float32"}, "float32", tol=2e-5)
    d, size = 400, 5 * ROWS
    arrays = {"x": draw.normal(d), "y": draw.normal(size)}
    params = {"kind": "dense", "size": size, "d": d, "total": size, "seed": _seed(draw)}
    checks = dict.fromkeys(("Px", "Pty"), "never the whole P")
    half = size * d * 8 // 2  # bytes
    yield Case("a large P, in little memory", "project", arrays, checks, params, seconds=6.0, memory=half)


@problem("5.3")
def sparse(draw: Draw) -> Iterator[Case]:
    for name, total, start in (("a quarter stays", 16, 0), ("a tenth stays", 100, ROWS)):
        params = {"kind": "sparse", "size": 64, "d": 9, "total": total, "seed": _seed(draw), "start": start}
        checks = {"z": "which entries, and their size", "untouched": "values untouched"}
        yield Case(name, "kept", {"values": draw.away(40, 9)}, checks, params)
    yield _project(draw, "sparse", "P x and Pᵀ y", ROWS + 30, 8, {"Px": "in use", "Pty": "in use"})


@problem("5.4", again="L = 16, strided")
def hadamard(draw: Draw) -> Iterator[Case]:
    checks = {"z": "H x", **UNTOUCHED}
    for L in (2, 8, 64):
        yield Case(f"L = {L}", "hadamard", {"x": draw.normal(L)}, checks, layouts={"x": "readonly"})
    yield Case("L = 16, strided", "hadamard", {"x": draw.normal(16)}, checks, layouts={"x": "strided"})
    yield Case("L = 1", "hadamard", {"x": draw.normal(1)}, {"z": "L = 1"})
    single = {"x": draw.normal(32, dtype="float32")}
    yield Case("float32", "hadamard", single, {"z": "float32"}, tol=1e-5)
    large = {"x": draw.normal(1 << 17, scale=0.1)}
    yield Case("L = 131,072, in little time", "hadamard", large, {"z": "L log L steps"}, seconds=2.0)


@problem("5.5", again="more numbers than directions")
def fastfood(draw: Draw) -> Iterator[Case]:
    layouts = {"x": "strided", "y": "readonly"}
    yield _project(draw, "fastfood", "more numbers than directions", 27, 5, BOTH, layouts=layouts)
    yield _project(draw, "fastfood", "more directions than numbers", 3, 13, BOTH, layouts={"x": "readonly"})
    yield _project(draw, "fastfood", "a power of two", 16, 16, BOTH)
    yield _project(draw, "fastfood", "one of each", 1, 1, {"Px": "edge sizes", "Pty": "edge sizes"})
    yield _project(draw, "fastfood", "float32", 50, 7, {"Px": "float32", "Pty": "float32"}, "float32", tol=5e-5)
    for size, d in ((11, 4), (5, 9)):
        params = {"kind": "fastfood", "size": size, "d": d, "total": 40, "seed": _seed(draw)}
        checks = {"is the transpose": "Pᵀ is the transpose of P", "not zero": "Pᵀ is the transpose of P"}
        yield Case(f"P ({size}, {d}) against Pᵀ, entry by entry", "adjoint", {}, checks, params)
    yield _project(draw, "fastfood", "large, in little time", 60_000, 700, {"Px": "P x", "Pty": "Pᵀ y"}, seconds=2.0)


@problem("5.6", again="SAID")
def subspace(draw: Draw) -> Iterator[Case]:
    def case(
        name: str, needs: str, checks: Mapping[str, str], shape: tuple[int, ...], said: bool = True,
        dtype: str = "float64", backward: bool = True, **more: Any,
    ) -> Case:  # fmt: skip
        d, size = 5, int(np.prod(shape))
        arrays = {
            "theta0": draw.normal(*shape, dtype=dtype),
            "theta": draw.normal(d, dtype=dtype),
            "P": draw.normal(size, d, dtype=dtype),
        }
        if said:
            arrays["scale"] = np.asarray(draw.number(1.5, 3.0), dtype=dtype)
        if backward:
            arrays["dz"] = draw.normal(*shape, dtype=dtype)
        names = {"z": "θ", "dtheta0": "dθ₀", "dtheta": "dθ_d", "dscale": "dλ"}
        return Case(name, "subspace", arrays, checks, {"needs": needs.split()}, shown=names, **more)

    did = {"z": "DID", "dtheta": "DID", "dtheta0": FROZEN, **UNTOUCHED}
    yield case("DID", "theta", did, (3, 4), said=False, layouts={"theta0": "readonly", "dz": "readonly"})
    said = {"z": "SAID: θ", "dtheta": "SAID: dθ_d", "dscale": "SAID: dλ", **UNTOUCHED}
    yield case("SAID", "theta scale", {**said, "dtheta0": FROZEN, "keeps θ₀": FROZEN}, (2, 3, 4))
    yield case("SAID, dz Fortran-ordered", "theta scale", said, (4, 7), layouts={"dz": "fortran"})
    yield case("everything trained", "theta0 theta scale", {**said, "dtheta0": "dθ₀"}, (6,))
    yield case("λ alone", "scale", {"dscale": "SAID: dλ", "dtheta": FROZEN, "dtheta0": FROZEN}, (5, 2))
    yield case("θ₀ alone", "theta0", {"dtheta0": "dθ₀", "dtheta": FROZEN, "dscale": FROZEN}, (3, 5))
    single = {"z": "float32", "dtheta": "float32"}
    yield case("float32", "theta scale", single, (3, 3), dtype="float32", tol=2e-5)
    yield case("the forward alone", "", {"z": "SAID: θ"}, (2, 5), backward=False)


@problem("5.7")
def model(draw: Draw) -> Iterator[Case]:
    checks = {
        "start": "starts at θ₀",
        "number": "starts at θ₀",
        "z": "output",
        "gradient": "gradients",
        "scales": "gradients",
        "base": "θ₀ is never written",
    }
    for kind in ("dense", "sparse", "fastfood"):
        for said in (False, True):
            arrays = {"x": draw.normal(6, 7, dtype="float32"), "labels": draw.integers(4, 6), "theta": draw.normal(30)}
            d = draw.sizes(1, 11, 30)[0]
            params = {"sizes": [7, 9, 4], "d": d, "kind": kind, "said": said, "seed": int(draw.integers(1000))}
            name = f"{kind}, {'SAID' if said else 'DID'}"
            yield Case(name, "model", arrays, checks, params, tol=1e-4, shown={"gradient": "dθ_d", "scales": "dλ"})


@problem("5.8")
def crossing(draw: Draw) -> Iterator[Case]:
    checks = {"z": "between two dimensions", **UNTOUCHED}
    ds = [int(d) for d in np.cumsum(draw.integers(40, 7, low=3))]
    rising = {"means": np.sort(draw.rng.random(7)) + np.arange(7) * 0.05}
    target = float((rising["means"][3] + rising["means"][4]) / 2 + 0.01)
    yield Case("rising means", "crossing", rising, checks, {"ds": ds, "target": target})
    dip = np.array([0.2, 0.55, 0.4, 0.5, 0.7, 0.65, 0.9]) + draw.number(-0.02, 0.02)
    yield Case("means with a dip", "crossing", {"means": dip}, {"z": "running maximum"}, {"ds": ds, "target": 0.62})
    late = np.array([0.2, 0.3, 0.8, 0.5, 0.6, 0.65, 0.95]) + draw.number(-0.02, 0.02)
    yield Case(
        "reached, then lost again", "crossing", {"means": late}, {"z": "running maximum"}, {"ds": ds, "target": 0.7}
    )
    yield Case("the first one reaches it", "crossing", {"means": dip}, {"z": "at the ends"}, {"ds": ds, "target": 0.1})
    yield Case("none reaches it", "crossing", {"means": dip}, {"z": "at the ends"}, {"ds": ds, "target": 0.97})
    exact = {"ds": ds, "target": float(dip[4])}
    yield Case("reached exactly", "crossing", {"means": dip}, {"z": "at the ends"}, exact)


@problem("5.9")
def applied(draw: Draw) -> Iterator[Case]:
    checks = {
        "shapes": "what is trained",
        "dtypes": "what is trained",
        "values at the start": "starts at θ₀",
        "z at the start": "starts at θ₀",
        "start": "starts at θ₀",
        "z": "output",
        "gradient norms": "gradients",
        "base": "θ₀ is never written",
        "refused": "refuses what does not fit",
    }
    sizes = [7, 9, 4]  # 112 parameters in 4 tensors
    network = {"sizes": sizes}
    x = {"x": draw.normal(6, 7, dtype="float32"), "labels": draw.integers(4, 6)}
    decoder = {"vocab_size": 13, "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 12, "context": 9}
    ids = {"x": draw.integers(13, 3, 5), "labels": draw.integers(13, 3, 5)}
    # Among what must be refused, in a drawn order, are three settings that must not be.
    tried: list[dict[str, Any]] = [{"projection": "gaussian"}, {"d": 0}, {"d": 10**6}, {"d": 24}, {"d": 60}, {"d": 70}]
    for name, on, arrays, config, more in (
        ("DID", network, x, {"projection": "dense"}, [{"d": 113}]),
        ("SAID", network, x, {"projection": "sparse", "said": True}, [{"d": 4}, {"d": 117}]),
        ("a head beside it", network, x, {"modules_to_save": ["layers.1"]}, [{"d": 73}]),
        ("a decoder, tied", {"decoder": decoder}, ids, {"projection": "fastfood"}, []),
        ("a decoder, tied, SAID", {"decoder": decoder}, ids, {"said": True}, [{"d": 18}]),
    ):
        settings = {"d": draw.sizes(1, 24, 60)[0], "seed": int(draw.integers(1000)), **config}
        alone = {"a layer alone": True, "modules_to_save": [], "d": 40}  # its parameters are the model's own
        params = {**on, "config": settings, "refused": draw.shuffled([*tried, *more, alone])}
        yield Case(name, "applied", arrays, checks, params, tol=1e-4)
