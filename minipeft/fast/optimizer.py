"""Faster steps of the optimizers: in place by blocks that fit the cache, or one kernel for all parameters on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from minipeft.backend import Array, array_module, block_threads, has_kernels, in_threads, kernels, row_blocks
from minipeft.optim.optimizer import Part
from minipeft.optim.rules import SGD, AdamW
from minipeft.specialize import specialize

Rule = Callable[[Part, Array], None]  # changes a block in place; the second array, as large as x, may be overwritten


@specialize(SGD, "cpu", "cuda")
def sgd(optimizer: SGD, parts: Sequence[Part], lr: float) -> None:
    """Run `SGD.update` for all parts, by blocks."""

    def rule(part: Part, work: Array) -> None:
        x, g, state, decay = part
        if decay:
            g = g + decay * x
        if optimizer.momentum:
            v = state["velocity"]
            v *= optimizer.momentum
            v += g
            g = g + optimizer.momentum * v if optimizer.nesterov else v
        array_module(x).multiply(g, lr, out=work)
        x -= work

    by_blocks(rule, parts)


@specialize(AdamW, "cpu", "cuda")
def adamw(optimizer: AdamW, parts: Sequence[Part], lr: float) -> None:
    """Run `AdamW.update` for all parts, by blocks; on a GPU in one launch for each dtype."""
    beta1, beta2 = optimizer.betas
    c1, c2 = 1.0 - beta1**optimizer.steps, math.sqrt(1.0 - beta2**optimizer.steps)

    def rule(part: Part, work: Array) -> None:
        x, g, state, decay = part
        xp, m, v = array_module(x), state["m"], state["v"]
        xp.multiply(g, 1.0 - beta1, out=work)
        m *= beta1
        m += work
        xp.multiply(g, g, out=work)
        work *= 1.0 - beta2
        v *= beta2
        v += work
        # m̂ / (√v̂ + ε) = c₂/c₁ m / (√v + c₂ ε) with c₁ = 1 - β₁ᵗ and c₂ = √(1 - β₂ᵗ) saves a pass over the block
        xp.sqrt(v, out=work)
        work += c2 * optimizer.eps
        xp.divide(m, work, out=work)
        work *= lr * c2 / c1
        if decay:
            x *= 1.0 - lr * decay
        x -= work

    on_gpu = [part for part in parts if has_kernels(part[0])]
    for dtype in {x.dtype for x, *_ in on_gpu}:
        chosen = [part for part in on_gpu if part[0].dtype == dtype and part[0].size]
        if chosen:
            tensors = [(x, g, state["m"], state["v"]) for x, g, state, _ in chosen]
            decays = [decay for *_, decay in chosen]
            kernels.adamw(tensors, decays, lr, optimizer.betas, optimizer.eps, optimizer.steps)
    by_blocks(rule, [part for part in parts if not has_kernels(part[0])])


def by_blocks(rule: Rule, parts: Sequence[Part]) -> None:
    """Run an elementwise rule on all blocks of all parts; threads share the blocks, and the result is the same."""
    blocks = [(part, block) for part in parts for block in row_blocks(part[0])]

    def work(some: Sequence[tuple[Part, slice]]) -> None:
        scratch = None
        for (x, g, state, decay), block in some:
            xb = x[block]
            if scratch is None or len(scratch) < len(xb) or scratch.dtype != xb.dtype:
                scratch = array_module(x).empty_like(xb)
            slots = {slot: value[block] for slot, value in state.items()}
            rule((xb, g[block], slots, decay), scratch[: len(xb)])

    in_threads(work, blocks, block_threads(blocks))
