"""How the cases of hw2_transformer call what was written."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograder.homeworks.driver import by_hand as by_hand
from autograder.homeworks.driver import module


def _changed(a: dict[str, Any], before: dict[str, Any], *written: str) -> list[str]:
    """The names of arrays that were changed, but for those that are to be written."""
    return [
        n for n, x in a.items() if n not in written and not np.array_equal(x, before[n], equal_nan=x.dtype.kind == "f")
    ]


def stable_softmax(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """stable_softmax of an array."""
    before = {"s": a["s"].copy()}
    return {"p": module(mp, "ops.softmax").stable_softmax(a["s"], p["axis"]), "changed": _changed(a, before)}


def block_loss(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """_block_loss, which turns s into its own gradient."""
    s = a["s"].copy()
    loss = module(mp, "ops.loss")._block_loss(s, a["labels"], p["want"])
    return {"L": np.asarray(loss), "ds": s if p["want"] else None}


def cross_entropy(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """CrossEntropy by hand; "ignored": the gradient of the rows without a label."""
    out = by_hand(mp, a, p)
    if isinstance(out.get("ds"), np.ndarray) and out["ds"].shape == a["s"].shape:
        others = np.setdiff1d(np.arange(a["s"].shape[0]), a["kept"])
        out["ignored"] = out["ds"][others]
    return out


def mask_bias(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """mask_bias: where it is 0 and where it is -inf, spread over all scores; None is as good as zeros."""
    B, H, N, S = p["shape"]
    like = a["like"]
    bias = module(mp, "ops.attention").mask_bias(like, N, S, p["causal"], a.get("mask"))
    if bias is None:
        return {"visible": np.ones((B, H, N, S), dtype=bool), "dtype": str(like.dtype)}
    full = np.broadcast_to(bias, (B, H, N, S))
    rest = full[full != 0.0]
    return {"visible": full == 0.0, "hidden": bool((rest == -np.inf).all()), "dtype": str(bias.dtype)}


def _float64(m: Any, seed: int) -> Any:
    """The module in float64, with biases and gains that are not 0 and 1."""
    rng = np.random.default_rng(seed)
    m.to(np.float64)
    for name, q in m.named_parameters():
        if q.data.ndim == 1:
            q.data[...] = (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.3 * rng.standard_normal(
                q.shape
            )
        else:
            q.data[...] = rng.standard_normal(q.shape) * q.shape[1] ** -0.5
    return m


def _gradients(m: Any, named: dict[str, Any]) -> dict[str, Any]:
    """The gradients of a module's parameters and of tensors, by name."""
    out = {f"d{n}": t.grad for n, t in named.items()}
    out["weights"] = [q.grad for q in m.parameters() if q.data.ndim > 1]
    vectors = [q.grad for q in m.parameters() if q.data.ndim == 1]
    # together, since some of them are zero but for rounding: a bias of the keys moves no softmax
    out["vectors"] = None if not vectors or any(g is None for g in vectors) else np.concatenate(vectors)
    return out


def _angles(mp: Any, p: dict[str, Any], start: int, stop: int, head_dim: int) -> Any:
    if not p.get("rotary"):
        return None
    return module(mp, "ops.attention").rotary_angles(np.arange(start, stop), head_dim)


def multi_head(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """MultiHeadAttention forward and backward through the engine."""
    m = mp.nn.MultiHeadAttention(p["d"], p["heads"], p.get("kv_heads"), p["causal"], p.get("bias", True), rng=0)
    m = _float64(m, p["seed"])
    x = mp.Tensor(a["x"], requires_grad=True)
    tensors = {"x": x}
    if "memory" in a:
        tensors["memory"] = mp.Tensor(a["memory"], requires_grad=True)
    angles = _angles(mp, p, 3, 3 + x.shape[1], m.head_dim)
    z = m(x, memory=tensors.get("memory"), mask=a.get("mask"), angles=angles)
    out = {"z": z.data}
    if "dz" in a:
        z.backward(a["dz"])
        out.update(_gradients(m, tensors))
    return out


def cached(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """MultiHeadAttention fed in pieces with a cache, under no_grad."""
    m = mp.nn.MultiHeadAttention(p["d"], p["heads"], p.get("kv_heads"), p["causal"], rng=0)
    m = _float64(m, p["seed"])
    memory = mp.Tensor(a["memory"]) if "memory" in a else None
    cache = mp.nn.LayerCache()
    parts, lengths, start = [], [], 0
    with mp.no_grad():
        for stop in p["stops"]:
            angles = _angles(mp, p, start, stop, m.head_dim)
            x = mp.Tensor(a["x"][:, start:stop])
            parts.append(m(x, memory=memory, angles=angles, cache=cache).data)
            lengths.append(cache.length)
            start = stop
    return {"z": np.concatenate(parts, axis=1), "lengths": lengths}


def core(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """MultiHeadAttention with another module in place of its core: what reaches it."""
    m = mp.nn.MultiHeadAttention(p["d"], p["heads"], p.get("kv_heads"), False, rng=0)
    m = _float64(m, p["seed"])
    seen: dict[str, Any] = {}

    class Other:
        def __call__(self, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
            seen.update({"q": q.data, "k": k.data, "v": v.data, "mask": mask is a["mask"]})
            return q * 2.0

        forward = __call__

    m.core = Other()
    z = m(mp.Tensor(a["x"]), mask=a["mask"])
    return {"z": z.data, **seen}


def feed_forward(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """FeedForward forward and backward through the engine."""
    m = _float64(mp.nn.FeedForward(p["d"], p["d_ff"], p["activation"], p["gated"], rng=0), p["seed"])
    x = mp.Tensor(a["x"], requires_grad=True)
    z = m(x)
    z.backward(a["dz"])
    return {"z": z.data, **_gradients(m, {"x": x})}


def residual(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """TransformerLayer._residual around a sublayer and a normalization of its own, with or without dropout."""
    layer = mp.nn.TransformerLayer(4, 2, 8, norm_first=p["norm_first"], dropout=p["dropout"], rng=0)
    calls: list[str] = []

    class Sublayer:
        def __call__(self, x: Any, **kwargs: Any) -> Any:
            calls.append("sublayer " + ",".join(sorted(kwargs)))
            return x * x * p["factor"]

        forward = __call__

    class Norm:
        def __call__(self, x: Any) -> Any:
            calls.append("norm")
            return x * 0.5 + 1.0

        forward = __call__

    layer.train(bool(p["dropout"]))
    x = mp.Tensor(a["x"], requires_grad=True)
    with mp.nn.random_stream(p["seed"]):
        z = layer._residual(x, Sublayer(), Norm(), mask=None, angles=None)
    z.backward(a["dz"])
    return {"z": z.data, "dx": x.grad, "calls": calls}


def layer(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A whole TransformerLayer forward and backward."""
    m = mp.nn.TransformerLayer(p["d"], p["heads"], p["d_ff"], rng=0, **p["options"])
    m = _float64(m, p["seed"])
    tensors = {"x": mp.Tensor(a["x"], requires_grad=True)}
    if "memory" in a:
        tensors["memory"] = mp.Tensor(a["memory"], requires_grad=True)
    z = m(tensors["x"], mask=a.get("mask"), memory=tensors.get("memory"))
    z.backward(a["dz"])
    return {"z": z.data, **_gradients(m, tensors)}
