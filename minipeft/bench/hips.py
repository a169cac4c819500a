"""The teaching size compared with HIPS autograd: the same GPT-2, operation by operation in ``autograd.numpy``.

Both sides take a whole step: loss, gradients, and minipeft's AdamW. Losses and gradients are compared first. BLAS has
one thread, and steps are taken in turn. The ratio shows the gain from fused operations and from frozen inputs without
cost: autograd records every NumPy call.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minipeft.accounting.timing import in_turn
from minipeft.bench import Part, Row
from minipeft.bench.profile import our_model
from minipeft.bench.step import REST, SHAPES, quartiles
from minipeft.bench.torch_side import ALPHA, RANK, Shape, batch_of, shifted
from minipeft.ops.loss import IGNORED
from minipeft.optim import AdamW
from minipeft.train import backward, train_step

REPEATS, QUICK = 60, 5


def their_loss(shape: Shape, ids: np.ndarray, labels: np.ndarray) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    """Return the loss in ``autograd.numpy``, as a function of the trained and the frozen arrays by name."""
    import autograd.numpy as anp

    def norm(x: Any, p: dict[str, Any], name: str) -> Any:
        centred = x - anp.mean(x, axis=-1, keepdims=True)
        return (
            centred / anp.sqrt(anp.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * p[f"{name}.weight"]
            + p[f"{name}.bias"]
        )

    def linear(x: Any, p: dict[str, Any], name: str) -> Any:
        if f"{name}.lora_A" not in p:
            return anp.dot(x, p[f"{name}.weight"].T) + p[f"{name}.bias"]
        change = anp.dot(anp.dot(x, p[f"{name}.lora_A"].T), p[f"{name}.lora_B"].T)
        return anp.dot(x, p[f"{name}.base.weight"].T) + p[f"{name}.base.bias"] + (ALPHA / RANK) * change

    def loss(trained: dict[str, Any], frozen: dict[str, Any]) -> Any:
        p = {**frozen, **trained}
        B, T = ids.shape
        H, D = shape.n_heads, shape.d_model // shape.n_heads
        hidden = np.triu(np.full((T, T), -1e9, dtype=np.float32), k=1)
        x = anp.reshape(p["input.tokens.weight"][ids] + p["input.positions.weight"][:T], (B * T, -1))
        for i in range(shape.n_layers):
            at = f"stack.layers.{i}."
            h = norm(x, p, at + "attention_norm")
            q, k, v = (
                anp.transpose(anp.reshape(linear(h, p, f"{at}attention.{n}_proj"), (B, T, H, D)), (0, 2, 1, 3))
                for n in "qkv"
            )
            s = anp.matmul(q, anp.transpose(k, (0, 1, 3, 2))) * D**-0.5 + hidden
            e = anp.exp(s - anp.max(s, axis=-1, keepdims=True))
            z = anp.matmul(e / anp.sum(e, axis=-1, keepdims=True), v)
            z = anp.reshape(anp.transpose(z, (0, 2, 1, 3)), (B * T, -1))
            x = x + linear(z, p, at + "attention.out_proj")
            u = linear(norm(x, p, at + "feed_forward_norm"), p, at + "feed_forward.up_proj")
            u = 0.5 * u * (1.0 + anp.tanh((2.0 / np.pi) ** 0.5 * (u + 0.044715 * u * u * u)))
            x = x + linear(u, p, at + "feed_forward.down_proj")
        kept = np.flatnonzero(labels.reshape(-1) != IGNORED)
        logits = anp.dot(norm(x, p, "stack.norm"), p["input.tokens.weight"].T)[kept]
        logits = logits - anp.max(logits, axis=1, keepdims=True)
        picked = logits[np.arange(len(kept)), labels.reshape(-1)[kept]]
        return anp.mean(anp.log(anp.sum(anp.exp(logits), axis=1)) - picked)

    return loss


def parts(quick: bool = False) -> list[Part]:
    """Return a part for LoRA and one for full fine-tuning: the ratio of our step to theirs."""
    return [Part(mode, partial(compare, mode, QUICK if quick else REPEATS)) for mode in ("lora", "full")]


def compare(mode: str, repeats: int) -> list[Row]:
    """Return the row of a mode, measured with one BLAS thread; AssertionError if loss or gradients differ."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return [_compare(mode, repeats)]


def _compare(mode: str, repeats: int) -> Row:
    from autograd import value_and_grad

    shape = SHAPES["d64"]
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}
    ours, twin = our_model(shape, mode), our_model(shape, mode)
    named = {name.removeprefix("base_model."): p for name, p in twin.named_parameters()}
    trained = {name: p for name, p in named.items() if p.requires_grad}
    frozen = {name: p.data for name, p in named.items() if not p.requires_grad}
    with_gradient = value_and_grad(their_loss(shape, ids, batch["labels"]))

    def their_gradients() -> float:
        loss, grads = with_gradient({name: p.data for name, p in trained.items()}, frozen)
        for name, p in trained.items():
            p.grad = grads[name].astype(p.dtype)
        return float(loss)

    theirs = their_gradients()
    loss = backward(ours, batch)
    if abs(loss - theirs) > 1e-5 * abs(theirs):
        raise AssertionError(f"the losses differ: ours {loss}, theirs {theirs}")
    worst = 0.0
    for name, p in ours.named_parameters():
        if p.requires_grad:
            other: Any = trained[name.removeprefix("base_model.")].grad
            worst = max(worst, float(np.abs(p.grad - other).max() / max(np.abs(other).max(), 1e-6)))
    if worst > 1e-3:
        raise AssertionError(f"the gradients differ by {worst} of their largest entry")
    own, other_optimizer = AdamW(ours, lr=1e-4), AdamW(twin, lr=1e-4)

    def our_step() -> None:
        train_step(ours, batch, own)

    def their_step() -> None:
        their_gradients()
        other_optimizer.step()

    seconds = in_turn({"ours": our_step, "theirs": their_step}, repeats, unmeasured=1, rest=REST)
    pairs = list(zip(*seconds.values(), strict=True))
    low, middle, high = quartiles([a / b for a, b in pairs])
    return {
        "shape": shape.name,
        "mode": mode,
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "ours ms": 1e3 * statistics.median(a for a, _ in pairs),
        "autograd ms": 1e3 * statistics.median(b for _, b in pairs),
        "largest disagreement": worst,
    }
