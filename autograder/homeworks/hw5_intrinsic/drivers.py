"""How the cases of hw5_intrinsic call what was written."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from autograder.homeworks.driver import fitting, function


def _module(name: str = "intrinsic") -> Any:
    return import_module(f"minipeft.peft.{name}")


def _projection(p: dict[str, Any]) -> Any:
    kind = _module("projections").KINDS["dense" if p["kind"] == "doubled" else p["kind"]]
    if p["kind"] == "doubled":  # a kind of the case's own, to see that `_kept` is asked

        class Doubled(kind):  # type: ignore[valid-type, misc]
            def _kept(self, values: np.ndarray, start: int) -> np.ndarray:
                return 2.0 * values + start / 4096

        kind = Doubled
    return kind(p["size"], p["d"], p["total"], tuple(p["seed"]))


def block(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """One block of rows, drawn twice."""
    projection = _projection(p)
    z = projection._block(p["start"], a["like"])
    return {"z": z, "again": bool(np.array_equal(z, projection._block(p["start"], a["like"])))}


def kept(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """What Sparse makes of a block's values."""
    before = a["values"].copy()
    z = _projection(p)._kept(a["values"], p["start"])
    return {"z": np.asarray(z), "untouched": bool(np.array_equal(before, a["values"]))}


def project(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """P x, Pᵀ y; "adjoint", y · P x - x · Pᵀ y relative to their size; "state", whether P was kept in the object."""
    projection = _projection(p)
    before = {n: v.copy() for n, v in a.items()}
    out: dict[str, Any] = {"Px": projection.apply(a["x"]), "Pty": projection.transpose(a["y"])}
    out["changed"] = [n for n, v in a.items() if not np.array_equal(v, before[n])]
    held = sum(v.nbytes for v in vars(projection).values() if isinstance(v, np.ndarray))
    out["P is kept nowhere"] = bool(held <= 8 * 4 * (p["size"] + p["d"]))
    return out


def adjoint(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Whether the transpose is that of what ``apply`` does, whatever that is: every column of P against every row."""
    projection = _projection(p)
    P = np.stack([projection.apply(e) for e in np.eye(p["d"])], axis=1)
    Pt = np.stack([projection.transpose(e) for e in np.eye(p["size"])], axis=1)
    return {"is the transpose": bool(np.abs(P - Pt.T).max() <= 1e-9 * np.abs(P).max()), "not zero": bool(P.any())}


def hadamard(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """H x."""
    before = a["x"].copy()
    z = _module("projections").walsh_hadamard(a["x"])
    return {"z": z, "changed": [] if np.array_equal(before, a["x"]) else ["x"]}


class Given:
    """A projection whose P is an array of the case."""

    def __init__(self, P: np.ndarray):
        self.P = P

    def apply(self, x: np.ndarray) -> np.ndarray:
        return self.P @ x

    def transpose(self, y: np.ndarray) -> np.ndarray:
        return self.P.T @ y


def subspace(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Subspace by hand with a projection of the case's own."""
    scale = a.get("scale")
    args = (a["theta0"], a["theta"], scale, Given(a["P"]))
    out = function(mp, _module().Subspace, "theta0 theta scale projection", args, p["needs"], a.get("dz"))
    if isinstance(out.get("dscale"), (float, np.floating)):
        out["dscale"] = np.asarray(out["dscale"])
    return {**out, "keeps θ₀": "theta0" in out["kept"]}


def model(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A small network in a subspace: its start, its gradient, a step away, and the base afterwards."""
    net = mp.models.MLP(p["sizes"], rng=0)
    before = {n: x.data.copy() for n, x in net.named_parameters()}
    start = net(a["x"]).data.copy()
    config = mp.peft.IntrinsicConfig(d=p["d"], projection=p["kind"], said=p["said"], seed=p["seed"])
    adapted = mp.peft.get_peft_model(net, config, rng=1)
    trained = {n: x for n, x in adapted.named_parameters() if x.requires_grad}
    out: dict[str, Any] = {
        "start": bool(np.array_equal(adapted(a["x"]).data, start)),
        "number": sum(x.size for x in trained.values()),
    }
    for x in trained.values():
        if x.size > 1:
            x.data[...] = a["theta"][: x.size]
    out["z"] = adapted(a["x"]).data
    adapted.loss(a["x"], a["labels"]).backward()
    out["gradient"] = next(x.grad for x in trained.values() if x.size > 1)
    scales = [float(x.grad.reshape(())) for x in trained.values() if x.size == 1]
    out["scales"] = np.sort(np.array(scales))
    out["base"] = bool(all(np.array_equal(x.data, before[n]) for n, x in net.named_parameters() if n in before))
    return out


def applied(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A network or a decoder (with a tensor in two places) put into a subspace: what is trained, and from where."""

    def model() -> Any:
        if "sizes" in p:
            return mp.models.MLP(p["sizes"], rng=0)
        return mp.models.DecoderLM(mp.models.DecoderConfig.gpt2(**p["decoder"]), rng=0).eval()

    net = model()
    before = {n: x.data.copy() for n, x in net.named_parameters()}
    start = net(a["x"]).data.copy()
    adapted = mp.peft.get_peft_model(net, mp.peft.IntrinsicConfig(**p["config"]), rng=1)
    trained = sorted((x for _, x in adapted.named_parameters() if x.requires_grad), key=lambda x: (-x.size, -x.ndim))
    shapes: list[list[int]] = [list(x.shape) for x in trained]
    out: dict[str, Any] = {"shapes": shapes, "dtypes": sorted({str(x.dtype) for x in trained})}
    out["values at the start"] = [np.unique(x.data) for x in trained]
    out["z at the start"] = adapted(a["x"]).data
    out["start"] = bool(np.array_equal(out["z at the start"], start))
    for x in trained:
        x.data[...] = 0.3 * np.cos(np.arange(x.size)).reshape(x.shape) if x.ndim else 1.25
    out["z"] = adapted(a["x"]).data
    adapted.loss(a["x"], a["labels"]).backward()
    out["gradient norms"] = np.sort([float(np.linalg.norm(x.grad)) for x in trained])
    base = adapted.unload()
    out["base"] = bool(all(np.array_equal(x.data, before[n]) for n, x in base.named_parameters()))

    def tried(bad: dict[str, Any]) -> str:
        options = {**p["config"], **bad}
        alone = options.pop("a layer alone", False)
        return fitting(mp, mp.nn.Linear(9, 8, rng=0) if alone else model(), mp.peft.IntrinsicConfig(**options))

    out["refused"] = [tried(bad) for bad in p["refused"]]
    return out


def crossing(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """_crossing of means."""
    before = a["means"].copy()
    z = _module()._crossing(p["ds"], a["means"], p["target"])
    return {"z": None if z is None else float(z), "changed": [] if np.array_equal(before, a["means"]) else ["means"]}
