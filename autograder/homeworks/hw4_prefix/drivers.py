"""How the cases of hw4_prefix call what was written."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from autograder.homeworks.driver import function, refusal


def _prefix() -> Any:
    return import_module("minipeft.peft.prefix")


def prepend(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Prepend by hand."""
    F = import_module("minipeft.peft.prompt").Prepend
    return function(mp, F, "p x", (a["p"], a["x"]), p["needs"], a.get("dz"))


def start(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """The rows that a prompt starts from, or the error's type."""
    config = import_module("minipeft.peft.prompt").PromptTuningConfig(**p["config"])
    before = a["table"].copy()
    try:
        z = config._start(a["table"], p["is_text"], np.random.default_rng(p["seed"]))
    except ValueError as error:
        return {"z": type(error).__name__, "untouched": True}
    return {"z": np.array(z), "untouched": bool(np.array_equal(before, a["table"]))}


def mask(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """What mask_bias lets each query see, (B, H, N, S): "seen" where it is 0, "hidden" where its exponential is 0."""
    m = a.get("mask")
    before = None if m is None else m.copy()
    like = np.zeros(1, p["dtype"])
    bias = import_module("minipeft.ops.attention").mask_bias(like, p["N"], p["S"], p["causal"], m)
    out: dict[str, Any] = {
        "changed": [] if m is None or before is None or np.array_equal(m, before) else ["mask"],
        "none": bias is None,
    }
    if bias is not None:
        whole = np.broadcast_to(bias, (p["B"], p["H"], p["N"], p["S"]))
        out["seen"] = np.array(whole == 0)
        out["hidden"] = np.array(np.exp(whole) == 0)  # -1e9 is as good as -inf
        out["dtype"] = str(bias.dtype)
    return out


def behind(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """[prefix; x]."""
    before = {n: x.copy() for n, x in a.items()}
    z = _prefix()._behind(a["prefix"], a["x"])
    return {"z": np.array(z), "changed": [n for n, x in a.items() if not np.array_equal(x, before[n])]}


def attend(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """PrefixAttention by hand: forward, and with a cotangent "dz" backward; the prefix's gradient in its two halves."""
    F = _prefix().PrefixAttention
    args = (a["q"], a["k"], a["v"], a["prefix"], a.get("mask"), p["causal"], p["scale"])
    out = function(mp, F, "q k v prefix mask causal scale", args, p["needs"], a.get("dz"))
    whole = out.pop("dprefix", None)
    out["lean"] = not set(p.get("unneeded", ())).intersection(out["kept"]) and out["saved"] <= p.get("at_most", 0)
    out["dP_k"], out["dP_v"] = (None, None) if whole is None else (whole[0], whole[1])
    return out


def reparametrized(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Two layers' prefixes out of one hidden layer: their values, and the gradients of all that they are made of."""
    module = _prefix()
    P, d, m, Hk, D = (p[n] for n in ("P", "d", "m", "Hk", "D"))
    like = mp.Tensor(np.zeros(1, dtype=a["embedding"].dtype))
    rng = np.random.default_rng(0)
    shared = module.SharedHidden(like, P, d, m, rng)
    for name in ("embedding", "weight", "bias"):
        getattr(shared, name).data[...] = a[name]
    layers = [module.ProjectedPrefix(shared, Hk, D, m, rng) for _ in range(2)]
    for i, layer in enumerate(layers):
        layer.weight.data[...] = a[f"weight{i}"]
        layer.bias.data[...] = a[f"bias{i}"]
    hidden = shared()
    values = [layer() for layer in layers]
    loss = sum((mp.ops.sum(z * a[f"dz{i}"]) for i, z in enumerate(values)), start=mp.Tensor(np.zeros(())))
    loss.backward()
    out = {"hidden": hidden.data, "z0": values[0].data, "z1": values[1].data}
    out |= {f"d{n}": getattr(shared, n).grad for n in ("embedding", "weight", "bias")}
    for i, layer in enumerate(layers):
        out |= {f"dweight{i}": layer.weight.grad, f"dbias{i}": layer.bias.grad}
    return out


def _decoder(mp: Any, p: dict[str, Any]) -> Any:
    return mp.models.DecoderLM(getattr(mp.models.DecoderConfig, p["layout"])(**p["sizes"]), rng=3).eval()


def _filled(adapted: Any, phase: float = 1.0) -> list[Any]:
    """The trained tensors, with values that do not depend on how they were drawn."""
    trained = [x for _, x in adapted.named_parameters() if x.requires_grad]
    for x in trained:
        x.data[...] = 0.4 * np.sin(phase + np.arange(x.size).reshape(x.shape))
    return trained


def collapsed(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A reparametrized prefix before and after it is collapsed."""
    adapted = mp.peft.get_peft_model(_decoder(mp, p), mp.peft.PrefixTuningConfig(p["P"], prefix_projection=True), rng=1)
    _filled(adapted, p["phase"])
    before = adapted(a["ids"]).data.copy()
    _prefix().collapse(adapted)
    trained = [x for _, x in adapted.named_parameters() if x.requires_grad]
    after = adapted(a["ids"]).data
    return {
        "same output": bool(np.abs(after - before).max() <= 1e-5 * np.abs(before).max()),
        "shapes": sorted(list(x.shape) for x in trained),
        "prefixes": [x.data for x in trained],
        "leaves": bool(all(x.node is None for x in trained)),
        "option": bool(adapted.peft_config.prefix_projection),
    }


def model(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A decoder behind prefixes: its trained tensors, logits, gradients, and the base afterwards."""
    net = _decoder(mp, p)
    before = {n: x.data.copy() for n, x in net.named_parameters()}
    config = mp.peft.PrefixTuningConfig(p["P"], prefix_projection=p["projection"], encoder_hidden_size=p.get("m"))
    adapted = mp.peft.get_peft_model(net, config, rng=1)
    trained = _filled(adapted)
    out: dict[str, Any] = {
        "shapes": sorted(list(x.shape) for x in trained),
        "offset": int(net.input.position_offset),
        "z": adapted(a["ids"]).data,
    }
    adapted.loss(a["ids"], np.roll(a["ids"], -1, axis=1)).backward()
    out["gradient norms"] = np.sort([float(np.linalg.norm(x.grad)) for x in trained])
    base = adapted.unload()
    out["base"] = bool(all(np.array_equal(x.data, before[n]) for n, x in base.named_parameters()))
    out["offset afterwards"] = int(base.input.position_offset)

    def fill(P: int) -> None:
        mp.peft.get_peft_model(_decoder(mp, p), mp.peft.PrefixTuningConfig(P))

    out["no room"] = [refusal(partial(fill, P)) for P in p["lengths"]]
    return out
