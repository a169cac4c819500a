"""How the cases of hw6_lora call what was written."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from autograder.homeworks.driver import by_hand, fitting, function, module, refusal

__all__ = ["add_to_rows", "by_hand", "decoder", "draw", "layer", "merged", "mixed", "scale", "thin", "train_biases"]


def thin(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """LoRALinear by hand without copies of its inputs, for a case that has little memory."""
    F = module(mp, "peft.lora").LoRALinear
    names = p["names"].split()
    ctx = mp.Context(*(n in p["needs"] for n in names))
    out: dict[str, Any] = {"z": F.forward(ctx, *[a.get(n, p["scale"]) for n in names])}
    if "dz" in a:
        out.update({f"d{n}": g for n, g in zip(names, F.backward(ctx, a["dz"]), strict=True)})
    return out


def _linear(mp: Any, a: dict[str, Any]) -> Any:
    """A frozen linear layer with the weight "W" and, where it is given, the bias "b"."""
    return mp.nn.Linear.from_weight(mp.Tensor(a["W"]), mp.Tensor(a["b"]) if "b" in a else None)


def _adapted(mp: Any, a: dict[str, Any], scale: float, dropout: float = 0.0, base: Any = None, which: str = "") -> Any:
    """A LoraLayer, or with a table "E" a LoraEmbedding, with given A and B."""
    A, B = (mp.Tensor(a[n + which], requires_grad=True) for n in "AB")
    if "E" in a:
        made = module(mp, "peft.lora_embedding").LoraEmbedding(
            mp.nn.Embedding.from_weight(mp.Tensor(a["E"])), A.shape[0], scale
        )
        made.lora_embedding_A, made.lora_embedding_B = A, B
        return made
    made = module(mp, "peft.lora").LoraLayer(_linear(mp, a) if base is None else base, A.shape[0], scale, dropout)
    made.lora_A, made.lora_B = A, B
    return made


def draw(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Two layers drawn from one seed, a third from another: what A and B are like, as numbers."""
    names = ("lora_embedding_A", "lora_embedding_B") if "E" in a else ("lora_A", "lora_B")

    def drawn(rng: Any) -> list[Any]:
        start = {**a, "A": np.zeros((p["r"], p["k"]), p["dtype"]), "B": np.zeros((p["d"], p["r"]), p["dtype"])}
        made = _adapted(mp, start, 1.0)
        made.draw(rng, p["init"])
        return [getattr(made, n) for n in names]

    rng = np.random.default_rng(p["seed"])
    first, second = drawn(rng), drawn(rng)
    again, other = drawn(np.random.default_rng(p["seed"])), drawn(np.random.default_rng(p["seed"] + 1))
    out: dict[str, Any] = {}
    for i, n in enumerate("AB"):
        x = np.asarray(first[i].data)
        std = float(x.std()) if x.size else 0.0
        out[f"{n} shape"], out[f"{n} dtype"] = x.shape == ((p["r"], p["k"]), (p["d"], p["r"]))[i], str(x.dtype)
        out[f"{n} rows"], out[f"{n} columns"] = int(x.any(axis=1).sum()), int(x.any(axis=0).sum())  # that are not zero
        out[f"{n} trained"] = bool(first[i].requires_grad)
        out[f"{n} is zero"] = not x.any()
        out[f"{n} spread"] = std
        out[f"{n} centre"] = 1.0 + float(x.mean()) / std if std else 1.0
        out[f"{n} kurtosis"] = float((((x - x.mean()) / std) ** 4).mean()) if std else 0.0
        out[f"{n} largest"] = float(np.abs(x).max()) if p.get("bounded") else 0.0
        out[f"{n} repeats"] = bool(np.array_equal(x, again[i].data))
        out[f"{n} goes on"] = bool(np.array_equal(x, second[i].data))
        out[f"{n} by seed"] = bool(np.array_equal(x, other[i].data))
    return out


def layer(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """LoraLayer through the engine, or its change alone: z, dx, dA, dB; with dropout out of a seed."""
    base = _linear(mp, a)
    if p.get("other base"):

        class Doubled(mp.nn.Linear):  # type: ignore[misc]
            def forward(self, x: Any) -> Any:
                return super().forward(x) * 2.0

        base.__class__ = Doubled
    made = _adapted(mp, a, p["scale"], p.get("dropout", 0.0), base)
    made.train(p.get("training", False))
    x = mp.Tensor(a["x"], requires_grad=True)
    with mp.nn.random_stream(p["seed"]):
        z = made.change(x) if p.get("change") else made(x)
    out = {"z": z.data}
    if "dz" in a:
        z.backward(a["dz"])
        out.update(dx=x.grad, dA=made.lora_A.grad, dB=made.lora_B.grad, dW=base.weight.grad)
    return out


def scale(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Rank and scale of every path."""
    config = module(mp, "peft.lora").LoraConfig(**p["options"])
    found = [config.rank_and_scale(path) for path in p["paths"]]
    return {
        "ranks": [config.rank(path) for path in p["paths"]],
        "ranks with scales": [r for r, _ in found],
        "scales": [float(s) for _, s in found],
    }


def merged(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """ΔW, the merged layer, what it computes, and what became of the base."""
    made = _adapted(mp, a, p["scale"])
    base = made.base.weight.data
    before = base.copy()
    out: dict[str, Any] = {"delta": made.delta()}
    plain = made.merged()
    out["weight"] = plain.weight.data
    out["class"] = type(plain).__name__
    if "E" in a:
        out["z"] = plain(a["ids"]).data
    else:
        out["z"] = plain(mp.Tensor(a["x"])).data
        out["bias"] = None if plain.bias is None else plain.bias.data
        out["sizes"] = [int(plain.in_features), int(plain.out_features)]
    out["base"] = bool(np.array_equal(base, before) and made.base.weight.data is base)
    out["weight of its own"] = not np.may_share_memory(plain.weight.data, base)
    out["again"] = made.merged().weight.data  # not merged twice
    return out


def add_to_rows(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """AddToRows by hand."""
    F = module(mp, "peft.mixed").AddToRows
    out = function(mp, F, "x y index", (a["x"], a["y"], a["index"]), p["needs"], a.get("dz"))
    out["lean"] = out["saved"] <= a["index"].nbytes and not {"x", "y"}.intersection(out["kept"])
    return out


def mixed(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """MixedLora of two adapters of different rank: z, the gradients, and whether the forward made no product twice."""
    base = _linear(mp, a)
    layers = {n: _adapted(mp, a, s, base=base, which=n) for n, s in p["scales"].items()}
    mix = module(mp, "peft.mixed").MixedLora(base, layers, p["examples"])
    x = mp.Tensor(a["x"], requires_grad=True)
    before = a["x"].copy()
    with mp.accounting.count_flops() as flops:
        z = mix(x)
    R, (d, k) = int(np.prod(a["x"].shape[:-1])), a["W"].shape
    own = {n: p["examples"].count(n) * R // len(p["examples"]) * len(a[f"A{n}"]) for n in layers}
    out: dict[str, Any] = {
        "z": z.data,
        "no work twice": flops.forward <= 2 * R * d * k + 2 * (d + k) * sum(own.values()),
    }
    if "dz" in a:
        z.backward(a["dz"])
        out["dx"] = x.grad
        for n, made in layers.items():
            out.update({f"dA{n}": made.lora_A.grad, f"dB{n}": made.lora_B.grad})
    out["changed"] = not np.array_equal(a["x"], before)
    batches = [mp.Tensor(np.resize(a["x"], (n, *a["x"].shape[1:]))) for n in p["batches"]]
    out["refused"] = [refusal(partial(mix, batch)) for batch in batches]
    return out


def _model(mp: Any, p: dict[str, Any]) -> Any:
    """A small decoder, "gpt2" or "llama"; its biases, which start at 0, moved away from there."""
    config = getattr(mp.models.DecoderConfig, p["family"])(**p["sizes"])
    model = mp.models.DecoderLM(config, rng=1).eval()
    for i, (name, x) in enumerate(model.named_parameters()):
        if name.endswith(".bias"):
            x.data[...] = 0.1 * np.cos(p.get("phase", 0.0) + i + np.arange(x.size))
    return model


def train_biases(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Which biases are trained in a decoder whose q_proj and v_proj are wrapped, and how."""
    lora = module(mp, "peft.lora")
    model = _model(mp, p)
    before = {n: (x, x.data.copy()) for n, x in model.named_parameters()}
    peft = mp.peft.PeftModel(model)
    config = lora.LoraConfig(bias=p["bias"])
    with peft._new_adapter("default", config):
        taken = peft.train_copy(p["taken"])
        for path in p["paths"]:
            peft.swap(path, lora.LoraLayer(mp.nn.module.find(model, path), 2, 1.0))
        config.train_biases(peft, p["paths"])
    trained = peft.trained()
    biases = {n: x for n, x in trained.items() if n.endswith(".bias") and n != p["taken"]}
    originals = {id(x) for x, _ in before.values()}
    return {
        "names": sorted(biases),
        "others": sorted(n for n in trained if n not in biases and n != p["taken"] and ".lora_" not in n),
        "values": [biases[n].data for n in sorted(biases)],
        "copies": not any(id(x) in originals for x in biases.values()),
        "taken": trained.get(p["taken"]) is taken,
        "base": bool(all(np.array_equal(x.data, v) and not x.requires_grad for x, v in before.values())),
    }


def decoder(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """LoRA on a small decoder: what is trained, where it starts, gradients, three steps, another adapter and back."""
    LoraConfig = module(mp, "peft.lora").LoraConfig
    model = _model(mp, p)
    base = dict(model.named_parameters())
    before = {n: x.data.copy() for n, x in base.items()}
    peft = mp.peft.get_peft_model(model, LoraConfig(**p["options"]), rng=2)
    model.eval()  # the new layers, too
    trained = dict(sorted(peft.trained().items()))
    out: dict[str, Any] = {
        "names": list(trained),
        "shapes": [list(x.shape) for x in trained.values()],
        "start": peft(a["ids"]).data,
        "classes": sorted(type(m).__name__ for _, m in model.named_modules() if type(m).__name__.startswith("Lora")),
    }
    drawn = {n: x.data.copy() for n, x in trained.items() if n.endswith(("lora_A", "lora_embedding_B"))}
    out["at random"] = [bool(x.any()) for x in drawn.values()]
    out["in order"] = _drawn_in_order(model, p["options"].get("init_lora_weights", True))
    out["dropout"] = [float(m.dropout.p) for _, m in model.named_modules() if type(m).__name__ == "LoraLayer"]
    out["all differently"] = len({x.tobytes() for x in drawn.values()}) == len(drawn)
    _move(trained)
    out["z"] = peft(a["ids"]).data
    loss = peft.loss(a["ids"], a["labels"])
    loss.backward()
    out["gradients"] = [x.grad for x in trained.values()]
    optimizer = mp.optim.SGD(peft, lr=0.1)
    optimizer.step()
    for _ in range(2):
        optimizer.zero_grad()
        peft.loss(a["ids"], a["labels"]).backward()
        optimizer.step()
    out["after three steps"] = [x.data.copy() for x in trained.values()]
    out["first"] = peft(a["ids"]).data
    peft.add_adapter("second", LoraConfig(**p["second"]), rng=3)
    _move(dict(sorted(peft.trained().items())), 5.0)
    out["second"] = peft(a["ids"]).data
    peft.set_adapter("default")
    out["back"] = bool(np.array_equal(peft(a["ids"]).data, out["first"]))
    out["base"] = bool(
        all(np.array_equal(x.data, before[n]) and x.grad is None and not x.requires_grad for n, x in base.items())
    )

    out["refused"] = [fitting(mp, _model(mp, p), LoraConfig(**options)) for options in p["refused"]]
    return out


def _drawn_in_order(model: Any, init: Any) -> list[bool]:
    """Whether each layer holds what it draws when the layers are drawn one after the other out of the same seed."""
    rng, found = np.random.default_rng(2), []
    for _, m in model.named_modules():
        if type(m).__name__.startswith("Lora"):
            names = [n for n, _ in m.named_parameters() if n.startswith("lora_")]
            before = [getattr(m, n) for n in names]
            m.draw(rng, init)
            found.append(all(np.array_equal(getattr(m, n).data, x.data) for n, x in zip(names, before, strict=True)))
            vars(m).update(zip(names, before, strict=True))
    return found


def _move(trained: dict[str, Any], start: float = 1.0) -> None:
    """Away from where training starts, each tensor to other values."""
    for i, x in enumerate(trained.values()):
        x.data[...] = 0.2 * np.sin(start + i + np.arange(x.size)).reshape(x.shape)
