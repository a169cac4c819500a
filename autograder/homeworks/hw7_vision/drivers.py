"""How the cases of hw7_vision call what was written."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from autograder.homeworks.driver import fitting, function


def _without_weight(out: dict[str, Any]) -> dict[str, Any]:
    """With "keeps W": whether the frozen weight, which only dx needs, was saved."""
    return {**out, "keeps W": "W" in out["kept"]}


def lnlora_linear(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """LNLoRALinear by hand: forward, and with a cotangent "dz" backward for the wanted gradients."""
    args = (a["x"], a["W"], a.get("b"), a["gamma"], a["beta"], a["A"], a["B"], p["scale"])
    F = import_module("minipeft.peft.lnlora").LNLoRALinear
    return _without_weight(function(mp, F, "x W b gamma beta A B scale", args, p["needs"], a.get("dz")))


def lnlora_layer(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A new layer: its tensors, its scale, and what it computes at the start."""
    module = import_module("minipeft.peft.lnlora")
    k, d = p["k"], p["d"]
    base = mp.nn.Linear.from_weight(mp.Tensor(a["W"]), mp.Tensor(a["b"]))
    config = module.LNLoraConfig(r=p["r"], lora_alpha=p["alpha"])
    layer = module.LNLoraLayer(base, config, np.random.default_rng(p["seed"]))
    tensors = {n: getattr(layer, n) for n in ("norm_weight", "norm_bias", "lora_A", "lora_B")}
    A = tensors["lora_A"].data
    out: dict[str, Any] = {
        "shapes": [list(t.shape) for t in tensors.values()],
        "trained": [bool(t.requires_grad) for t in tensors.values()],
        "dtypes": [str(t.dtype) for t in tensors.values()],
        "constants": [tensors[n].data for n in ("norm_weight", "norm_bias", "lora_B")],
        "scale": float(layer.scale),
        "A within the bound": bool((np.abs(A) <= k**-0.5).all()),
        "A size": int(A.size),
        "A spread": bool(0.8 < A.std() * (3 * k) ** 0.5 < 1.2),  # of a uniform law: bound / √3
        "A repeats with the seed": bool(
            np.array_equal(A, module.LNLoraLayer(base, config, np.random.default_rng(p["seed"])).lora_A.data)
        ),
        "start": layer(mp.Tensor(a["x"])).data,
        "base kept": base.weight.data is a["W"] and bool(not base.weight.requires_grad),
    }
    try:
        module.LNLoraLayer(base, module.LNLoraConfig(r=min(k, d) + 1), np.random.default_rng(0))
        out["too large a rank"] = "accepted"
    except ValueError as error:
        out["too large a rank"] = type(error).__name__
    return out


def factorized_linear(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """FactorizedLinear by hand: forward, and with a cotangent "dz" backward for the wanted gradients."""
    args = (a["x"], a["W"], a.get("b"), a["U"], a["V"], a["S"], p["scale"])
    F = import_module("minipeft.peft.fact").FactorizedLinear
    return _without_weight(function(mp, F, "x W b U V S scale", args, p["needs"], a.get("dz")))


def core(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Core through the engine: Σ, and the gradients of what it is made of."""
    Core = import_module("minipeft.peft.fact").Core
    names = [n for n in ("sigma", "C", "P") if n in a]
    tensors = {n: mp.Tensor(a[n], requires_grad=True) for n in names}
    made = Core(tensors.get("sigma"), tensors.get("C"), tensors.get("P"), p["first"], p["m"])
    z = made()
    z.backward(a["dz"])
    return {"z": z.data, **{f"d{n}": tensors[n].grad for n in names}}


def delta(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """FacTLayer's ΔW."""
    module = import_module("minipeft.peft.fact")
    base = mp.nn.Linear.from_weight(mp.Tensor(a["W"]))
    sigma = mp.Tensor(a["S"], requires_grad=True)
    U, V = mp.Tensor(a["U"], requires_grad=True), mp.Tensor(a["V"], requires_grad=True)
    layer = module.FacTLayer(base, U, V, module.Core(sigma, None, None, 0, a["S"].shape[0]), p["scale"])
    return {"z": layer.delta(), "base": base.weight.data}


def vision(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """FacT on a small ViT: which tensors are trained, whether it starts at the base, and a step of its gradient."""
    config = mp.models.ViTConfig(**p["vit"])
    model = mp.models.ViT(config, rng=1).eval()
    before = {n: x.data.copy() for n, x in model.named_parameters()}
    start = model(a["images"]).data.copy()
    settings = {"r": p["r"], "factorization": p["factorization"], "scale": p["scale"]}
    adapted = mp.peft.get_peft_model(model, mp.peft.FacTConfig(**settings, **p.get("options", {})), rng=2)
    trained = [x for _, x in adapted.named_parameters() if x.requires_grad]
    shapes: list[list[int]] = sorted(list(x.shape) for x in trained)
    out: dict[str, Any] = {
        "number": sum(x.size for x in trained),
        "shapes": shapes,
        "start": bool(np.array_equal(adapted(a["images"]).data, start)),
    }
    out["zero"] = sorted(list(x.shape) for x in trained if not x.data.any())
    for x in trained:  # away from the start, where V = 0; the same values for tensors of one size, whatever their order
        x.data[...] = 0.3 * np.sin(1.0 + np.arange(x.size).reshape(x.shape))
    out["z"] = adapted(a["images"]).data
    loss = adapted.loss(a["images"], a["labels"])
    loss.backward()
    out["gradient norms"] = np.sort([float(np.linalg.norm(x.grad)) for x in trained])
    out["every tensor has a gradient"] = bool(all(x.grad is not None and np.abs(x.grad).max() > 0 for x in trained))
    base = adapted.unload()
    out["base"] = bool(all(np.array_equal(x.data, before[n]) for n, x in base.named_parameters()))

    def tried(bad: dict[str, Any]) -> str:
        sizes = {**p["vit"], **bad.get("vit", {})}
        options = {**settings, **p.get("options", {}), **{n: x for n, x in bad.items() if n != "vit"}}
        return fitting(mp, mp.models.ViT(mp.models.ViTConfig(**sizes), rng=1), mp.peft.FacTConfig(**options))

    out["refused"] = [tried(bad) for bad in p["refused"]]
    return out
