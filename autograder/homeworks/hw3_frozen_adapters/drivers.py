"""How the cases of hw3_frozen_adapters call what was written."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from autograder.homeworks.driver import by_hand as by_hand
from autograder.homeworks.driver import error_of, fitting, module


def _path(p: dict[str, Any], path: str) -> str:
    """A path with the drawn names."""
    return ".".join(p["names"].get(part, part) for part in path.split("."))


def _tree(mp: Any, p: dict[str, Any]) -> Any:
    """A module with tensors in attributes, lists, tuples and dicts, one of them in two places."""
    sizes = iter(p["sizes"])

    def made(**parts: Any) -> Any:
        m = mp.nn.Module()
        vars(m).update({p["names"][name]: part for name, part in parts.items()})
        return m

    def tensor(*shape: int) -> Any:
        t = mp.Tensor(np.full(shape, 0.5), requires_grad=True)
        t.grad = np.full(shape, 2.0)
        return t

    shared = tensor(next(sizes), 3)
    leaf = made(weight=shared, bias=tensor(next(sizes)))
    heads = {name: made(weight=tensor(next(sizes))) for name in (p["names"]["a"], p["names"]["b"])}
    return made(
        first=leaf,
        layers=[made(weight=tensor(next(sizes))), made(weight=shared)],
        heads=heads,
        fixed=(made(weight=tensor(next(sizes))),),
        scale=tensor(next(sizes)),
    )


def _at(tree: Any, path: str) -> Any:
    """What is at a path, found without the library."""
    for part in path.split("."):
        tree = (
            tree[int(part)]
            if isinstance(tree, (list, tuple))
            else (tree if isinstance(tree, dict) else vars(tree))[part]
        )
    return tree


def _sizes(mp: Any, x: Any) -> list[int]:
    """The sizes of a module's parameters, or of a tensor."""
    tensors = x.parameters() if isinstance(x, mp.nn.Module) else [x] if isinstance(x, mp.Tensor) else []
    return [int(t.size) for t in tensors]


def freezing(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Module.requires_grad_: off, then a part of it on again."""
    tree = _tree(mp, p)
    named = dict(tree.named_parameters())
    values = {n: t.data.copy() for n, t in named.items()}
    same = tree.requires_grad_(False)
    out: dict[str, Any] = {
        "self": same is tree,
        "flags": [n for n, t in named.items() if not t.requires_grad],
        "grads": [n for n, t in named.items() if t.grad is None],
    }
    for t in named.values():
        t.grad = np.ones(t.shape)
    first = _at(tree, _path(p, "first"))
    part = first.requires_grad_()
    out["part self"] = part is first
    out["part flags"] = [n for n, t in named.items() if t.requires_grad]
    out["kept grads"] = [n for n, t in named.items() if t.grad is not None]
    out["values"] = all(np.array_equal(t.data, values[n]) for n, t in named.items())
    return out


def swapping(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """nn.replace at an attribute, in a list, in a dict; and where there is nothing, or a tuple."""
    tree = _tree(mp, p)

    def module(size: int) -> Any:
        m = mp.nn.Module()
        vars(m)["weight"] = mp.Tensor(np.ones(size))
        return m

    out: dict[str, Any] = {}
    for size, name in enumerate(("first.bias", "first", "layers.1", "layers.0.weight", "heads.b", "heads.a.weight")):
        path = _path(p, name)
        old = _at(tree, path)
        new = mp.Tensor(np.ones(p["new"] + size)) if name.endswith(("bias", "weight")) else module(p["new"] + size)
        came = mp.nn.replace(tree, path, new)
        out[name] = [came is old, _sizes(mp, came), _at(tree, path) is new, _sizes(mp, _at(tree, path))]
    out["length"] = [len(_at(tree, _path(p, name))) for name in ("layers", "heads")]
    before = [n for n, _ in tree.named_modules()]
    for name in ("nothing", "first.nothing", "layers.7", "heads.c", "layers.x", "nothing.weight"):
        out[f"absent {name}"] = error_of(partial(mp.nn.replace, tree, _path(p, name), module(2)))
    out["tuple"] = error_of(partial(mp.nn.replace, tree, _path(p, "fixed.0"), module(2)))
    out["modules"] = [n for n, _ in tree.named_modules()] == before
    mp.nn.replace(tree, _path(p, "first"), module(p["new"] + 9))
    out["present"] = _sizes(mp, _at(tree, _path(p, "first")))
    return out


def _held(call: Any) -> list[Any]:
    """The names and shapes that an optimizer holds, or the name of what making it raises."""
    try:
        return [[name, *t.shape] for name, t in call().params.items()]
    except Exception as error:
        return [type(error).__name__]


def held(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """What SGD holds of parameters given in several ways."""

    def tensor(*shape: int, trained: bool = True) -> Any:
        return mp.Tensor(np.ones(shape), requires_grad=trained)

    def sgd(params: Any) -> Any:
        return lambda: mp.optim.SGD(params, 0.1)

    k, n, m = p["sizes"][:3]
    x, y, z, frozen = tensor(k), tensor(n), tensor(m, 5), tensor(6, trained=False)
    tree = _tree(mp, p)
    half = _tree(mp, p)
    for t in half.parameters():
        t.requires_grad = t is _at(half, _path(p, "layers.1.weight"))
    return {
        "module": _held(sgd(tree)),
        "half": _held(sgd(half)),
        "list": _held(sgd([x, y, z])),
        "generator": _held(sgd(t for t in (x, y))),
        "frozen": _held(sgd([frozen, x, frozen, y])),
        "pairs": _held(sgd([("a", x), ("b.weight", frozen), ("c", z)])),
        "tied": _held(sgd([("a", x), ("b", y), ("c", x), ("d", y)])),
        "tied list": _held(sgd([x, x, y])),
        "one": _held(sgd([x])),
        "none": _held(sgd([frozen])),
        "empty": _held(sgd([])),
        "tensors": _held(sgd([z, x])),
        "arrays": _held(sgd([np.ones(2)])),
        "numbers": _held(sgd([("a", 1.0)])),
        "frozen array": _held(sgd([("a", x), ("b", np.ones(2))])),
        "two names": _held(sgd([("a", y), ("b", x)])),
        "one name": _held(sgd([("a", x), ("a", y)])),
        "one name, frozen": _held(sgd([("a", x), ("a", frozen)])),
        "one name, tied": _held(sgd([("a", x), ("a", x)])),
        "contiguous": _held(sgd([mp.Tensor(np.ones((n, m)), requires_grad=True)])),
        "strided": _held(sgd([mp.Tensor(np.ones((4, 6))[:, ::2], requires_grad=True)])),
        "strided, frozen": _held(sgd([x, mp.Tensor(np.ones((4, 6))[:, ::2])])),
    }


def optimize(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Some steps on parameters w0, w1, … with gradients g<step>_<i>, beside a frozen one."""
    weights = [mp.Tensor(a[f"w{i}"].copy(), requires_grad=True) for i in range(p["count"])]
    frozen = mp.Tensor(a["frozen"].copy())
    named = [(f"layer.{i}.{'bias' if i else 'weight'}", w) for i, w in enumerate(weights)]
    options = dict(p["options"])
    rate = p["lr"]
    if isinstance(rate, list):
        options["lr"] = lambda step: rate[min(step, len(rate) - 1)]
    else:
        options["lr"] = rate
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    optimizer = getattr(mp.optim, p["kind"])([*named, ("frozen", frozen)], **options)
    places = [w.data for w in weights]
    out: dict[str, Any] = {}
    changed: list[str] = []
    for step in range(p["steps"]):
        for i, w in enumerate(weights):
            w.grad = a[f"g{step}_{i}"].copy()
        optimizer.step()
        for i, w in enumerate(weights):
            if not np.array_equal(w.grad, a[f"g{step}_{i}"]):
                changed.append(f"gradient {i}")
            out[f"w{i} after {step + 1}"] = w.data.copy()
    out["in place"] = all(w.data is place for w, place in zip(weights, places, strict=True))
    out["frozen"] = bool(np.array_equal(frozen.data, a["frozen"]))
    out["state"] = [[name, sorted(slots)] for name, slots in sorted(optimizer.state.items())]
    out["bytes"] = int(optimizer.state_bytes)
    for name, slots in optimizer.state.items():
        for slot, x in slots.items():
            out[f"{slot} of {name}"] = x
    out["changed"] = sorted(set(changed))
    return out


def clip(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """clip_grad_norm_ on gradients g0, g1, …; "how" says how they are handed over."""
    count = sum(name.startswith("g") for name in a)
    tensors = []
    for i in range(count):
        t = mp.Tensor(np.zeros_like(a[f"g{i}"]), requires_grad=True)
        t.grad = a[f"g{i}"].copy()
        tensors.append(t)
    places = [t.grad for t in tensors]
    without = mp.Tensor(np.zeros(3), requires_grad=True)
    given: Any = [*tensors, without]
    if p.get("how") == "pairs":
        given = [(str(i), t) for i, t in enumerate(given)]
    elif p.get("how") == "twice":
        given = [*given, *tensors]
    elif p.get("how") == "module":
        m = mp.nn.Module()
        vars(m).update({f"p{i}": t for i, t in enumerate(given)})
        given = m
    elif p.get("how") == "generator":
        given = (t for t in tensors)
    out: dict[str, Any] = {"error": "", "norm": None}

    def call() -> None:
        out["norm"] = float(mp.optim.clip_grad_norm_(given, p["max_norm"], **p.get("options", {})))

    if p.get("raises"):
        out["error"] = error_of(call)
    else:
        call()
    for i, t in enumerate(tensors):
        out[f"g{i}"] = t.grad
        out[f"dtype {i}"] = str(t.grad.dtype)
    out["in place"] = all(t.grad is place for t, place in zip(tensors, places, strict=True))
    out["untouched"] = all(np.array_equal(t.grad, a[f"g{i}"], equal_nan=True) for i, t in enumerate(tensors))
    out["none"] = without.grad is None
    return out


def _model(mp: Any, p: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A small model, and a batch for its loss."""
    rng = np.random.default_rng(p["seed"])
    kind, options = p["model"], p.get("model options", {})
    models = mp.models
    ids = rng.integers(3, 17, (2, 5))
    if kind == "decoder":
        config = models.DecoderConfig(17, 8, p.get("layers", 3), 2, 12, context=16, **options)
        return models.DecoderLM(config, rng=1), {"ids": ids, "labels": rng.integers(0, 17, (2, 5))}
    if kind == "encoder":
        config = models.EncoderConfig(17, 8, p.get("layers", 3), 2, 12, context=16, **options)
        return models.EncoderClassifier(config, n_classes=3, rng=1), {"ids": ids, "labels": rng.integers(0, 3, 2)}
    if kind == "encoder-decoder":
        config = models.EncoderDecoderConfig(17, 8, p.get("layers", 3), 2, 12, context=16, **options)
        return models.EncoderDecoder(config, rng=1), {"ids": ids, "labels": rng.integers(3, 17, (2, 4))}
    if kind == "linear":
        return mp.nn.Linear(6, 5, False, rng=1), {}
    if kind == "mlp":
        return models.MLP((6, 5, 4, 3), rng=1), {"x": rng.standard_normal((4, 6)), "labels": rng.integers(0, 3, 4)}
    config = models.ViTConfig(8, 4, 1, 4, 8, p.get("layers", 3), 2, 12, **options)
    return models.ViT(config, rng=1), {"images": rng.standard_normal((2, 1, 8, 8)), "labels": rng.integers(0, 4, 2)}


def _config(mp: Any, p: dict[str, Any]) -> Any:
    return getattr(mp.peft, p["config"])(**p["config options"])


def applied(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A method put on a model: what is trained, what the loss keeps, what a step changes, and the base afterwards."""
    model, batch = _model(mp, p)
    bits = {name: t.data.copy() for name, t in model.named_parameters()}
    peft = mp.peft.get_peft_model(model, _config(mp, p), rng=2)
    trained = peft.trained()
    out: dict[str, Any] = {"names": sorted(trained), "counts": list(peft.trainable_counts())}
    rng = np.random.default_rng(p["seed"])
    for name in sorted(trained):  # what a method draws is its own matter
        if name not in bits:
            trained[name].data[...] = 0.2 * rng.standard_normal(trained[name].shape)
    loss = peft.loss(**batch)
    out["L"] = float(loss.data)
    out["kept"] = int(mp.accounting.memory(peft, None, loss).activations)
    saved = mp.accounting.saved_by(loss, peft)
    out["by linear layers"] = saved.get("Linear", 0)
    out["nodes"] = sum(1 for _ in mp.accounting.recorded_nodes(loss))
    loss.backward()
    before = {name: (t.data.copy(), t) for name, t in peft.base_model.named_parameters()}
    out["gradients"] = sorted(name for name, (_, t) in before.items() if t.grad is not None)
    optimizer = mp.optim.AdamW(peft, lr=0.1)
    optimizer.step()
    out["state"] = sorted(optimizer.state)
    out["moved"] = sorted(name for name, (x, t) in before.items() if not np.array_equal(x, t.data))
    base = peft.unload()
    out["base"] = all(np.array_equal(t.data, bits[name]) for name, t in base.named_parameters())
    out["base names"] = sorted(n for n, _ in base.named_parameters()) == sorted(bits)
    return out


def refused(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A method that does not fit a model: the error, and the model as it was."""
    model, _ = _model(mp, p)
    bits = {name: t.data.copy() for name, t in model.named_parameters()}
    error = fitting(mp, model, _config(mp, p))
    same = all(np.array_equal(t.data, bits[name]) and t.requires_grad for name, t in model.named_parameters())
    return {"error": error, "same": same}


def _adapter(mp: Any, d: int, options: dict[str, Any], seed: int, dtype: str = "float32") -> Any:
    config = mp.peft.AdapterConfig(**options)
    like = mp.Tensor(np.zeros((d, d), dtype=dtype))
    return module(mp, "peft.adapters").Adapter(like, d, config, np.random.default_rng(seed))


def _filled(adapter: Any, seed: int) -> Any:
    """The adapter in float64 with parameters that are not small, the same on both sides."""
    rng = np.random.default_rng(seed)
    adapter.to(np.float64)
    for name, t in sorted(adapter.named_parameters()):
        t.data[...] = 0.6 * rng.standard_normal(t.shape) + (1.0 if name == "norm.weight" else 0.0)
    return adapter


def truncated(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """What truncated_normal draws, as yes and no: the numbers themselves are its own matter."""
    draw = module(mp, "peft.adapters").truncated_normal
    shape = tuple(p["shape"])
    x = draw(np.random.default_rng(p["seed"]), shape)
    again = draw(np.random.default_rng(p["seed"]), shape)
    other = draw(np.random.default_rng(p["seed"] + 1), shape)
    return {
        "shape": list(x.shape),
        "cut": bool(np.abs(x).max() <= 2.0),
        "reaches": bool(np.abs(x).max() > 1.95),
        "spread": bool(abs(x.std() - 0.8796) < 0.02),  # of a normal cut at two standard deviations
        "mean": bool(abs(x.mean()) < 0.03),
        "no pile at the cut": bool((np.abs(x) > 1.99).mean() < 0.005),
        "no pile at zero": bool((np.abs(x) < 0.01).mean() < 0.015),
        "seeded": bool(np.array_equal(x, again) and not np.array_equal(x, other)),
    }


def start(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A new adapter: its parameters, their spread, and how far it is from the identity."""
    d, options = p["d"], p["options"]
    r, std = options["r"], options.get("init_std", 0.01)
    adapter = _adapter(mp, d, options, p["seed"], p.get("dtype", "float32"))
    named = dict(adapter.named_parameters())
    down, up = adapter.down.data, adapter.up.data
    x = mp.Tensor(a["x"].astype(p.get("dtype", "float32")))
    with mp.no_grad():
        z = adapter(x).data
    moved = float(np.abs(z - x.data).max() / np.abs(x.data).max())
    out = {
        "names": sorted(named),
        "shapes": [list(named[n].shape) for n in sorted(named)],
        "dtypes": [str(named[n].dtype) for n in sorted(named)],
        "trained": all(bool(t.requires_grad) for t in named.values()),
        "count": sum(t.size for t in named.values()),
        "formula": sum(t.size for t in named.values()) == 2 * d * r + r + d + (2 * d if adapter.norm else 0),
        "biases": bool(not adapter.down_bias.data.any() and not adapter.up_bias.data.any()),
        "down": bool(abs(down.std() / (0.8796 * std) - 1.0) < 0.05 and np.abs(down).max() <= 2.001 * std),
        "up": bool(not up.any())
        if options.get("zero_up")
        else bool(abs(up.std() / (0.8796 * std) - 1.0) < 0.05 and np.abs(up).max() <= 2.001 * std),
        "apart": bool(not np.array_equal(down, up.T) and not np.shares_memory(down, up)),
        "near": moved == 0.0 if options.get("zero_up") else moved < 0.05,
        "settings": [adapter.activation, float(adapter.scale)],
    }
    if adapter.norm is not None:
        out["norm"] = bool((adapter.norm.weight.data == 1.0).all() and not adapter.norm.bias.data.any())
    else:
        out["norm"] = None
    return out


def adapt(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """An adapter forward and backward through the engine, its parameters set."""
    adapter = _filled(_adapter(mp, a["h"].shape[-1], p["options"], 0), p["seed"])
    h = mp.Tensor(a["h"], requires_grad=True)
    z = adapter(h)
    z.backward(a["dz"])
    return {"z": z.data, "dh": h.grad, **{f"d {n}": t.grad for n, t in adapter.named_parameters()}}


def around(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """An adapter behind or beside a sublayer that takes more arguments than x."""
    seen: list[Any] = []

    def forward(x: Any, y: Any = None, mask: Any = None, **rest: Any) -> Any:
        seen.append([y is not None, mask is not None, sorted(rest)])
        return x * y * 3.0

    base = mp.nn.Module()
    vars(base)["forward"] = forward
    adapter = _filled(_adapter(mp, a["x"].shape[-1], p["options"], 0), p["seed"])
    wrapped = getattr(module(mp, "peft.adapters"), p["kind"])(base, adapter)
    x = mp.Tensor(a["x"], requires_grad=True)
    z = wrapped(x, mp.Tensor(a["y"]), mask=a["x"] > 0, cache=None)
    z.backward(a["dz"])
    return {"z": z.data, "dx": x.grad, "seen": seen, **{f"d {n}": t.grad for n, t in adapter.named_parameters()}}
