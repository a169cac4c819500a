"""What a method costs, counted and not timed: parameters, bytes by kind, floating-point operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from minipeft.array import Array, FlopCount, counting, is_array
from minipeft.autograd import Node, Tensor
from minipeft.nn.module import Module


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters, each tensor once: all, trainable, and by the first segment of their path."""

    total: int
    trainable: int
    by_group: dict[str, int]


def count_parameters(model: Module) -> ParameterCount:
    """Count the parameters of a model."""
    named = list(model.named_parameters())
    groups: Counter[str] = Counter()
    for name, p in named:
        groups[name.partition(".")[0]] += p.size
    return ParameterCount(sum(p.size for _, p in named), sum(p.size for _, p in named if p.requires_grad), dict(groups))


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, by kind."""

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer_state + self.activations


def memory(model: Module, optimizer: Any = None, loss: Tensor | None = None) -> Memory:
    """Bytes of parameters, gradients, optimizer state, and the activations saved for the backward of ``loss``.

    gradients: what the trainable parameters will receive. activations: every buffer that the recorded graph keeps,
    once, less those that are parameters; 0 without a loss.
    """
    parameters = list(model.parameters())
    gradients = sum(p.data.nbytes for p in parameters if p.requires_grad)
    state = 0 if optimizer is None else optimizer.state_bytes
    activations = 0 if loss is None else sum(n for _, n in saved_buffers(loss, parameters))
    return Memory(sum(p.data.nbytes for p in parameters), gradients, state, activations)


def recorded_nodes(loss: Tensor) -> Iterator[Node]:
    """The nodes of the graph that ``loss`` stands on, each once."""
    seen: set[int] = set()
    stack = [loss.node] if loss.node is not None else []
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        stack.extend(parent for parent in node.parents if isinstance(parent, Node))


def saved_buffers(loss: Tensor, parameters: list[Tensor]) -> Iterator[tuple[Node, int]]:
    """(node, bytes) for each buffer that the graph keeps, at the first node that saved it; parameters are left out."""
    seen = {id(_buffer(p.data)) for p in parameters}
    for node in sorted(recorded_nodes(loss), key=lambda n: n.birth):
        for x in node.ctx.saved if node.ctx is not None else ():
            if is_array(x) and id(_buffer(x)) not in seen:
                seen.add(id(_buffer(x)))
                yield node, _buffer(x).nbytes


def saved_by(loss: Tensor, model: Module) -> dict[str, int]:
    """Bytes of saved activations by the Function that saved them first."""
    by_name: Counter[str] = Counter()
    for node, n in saved_buffers(loss, list(model.parameters())):
        by_name[node.function.__name__] += n
    return dict(by_name)


def _buffer(x: Array) -> Array:
    """The array that owns the memory of x."""
    while x.base is not None and is_array(x.base):
        x = x.base
    return x


def count_flops() -> AbstractContextManager[FlopCount]:
    """A context that counts the FLOPs of all matrix products made inside, forward and backward apart."""
    return counting(FlopCount())


def zero_memory(psi: float, k: float = 12, n: int = 1, stage: int = 0) -> float:
    """Bytes of model states a device, by stage of ZeRO (Rajbhandari et al. 2020), for mixed precision and Adam.

    psi: Ψ, the number of parameters; k: K, bytes of optimizer state a parameter; n: N_d, the number of devices.
    Stage 0: (2 + 2 + K) Ψ; 1 spreads the optimizer state, 2 also the gradients, 3 also the parameters.
    Raises ValueError for a stage outside 0 to 3 or n below 1.
    """
    if stage not in (0, 1, 2, 3) or n < 1:
        raise ValueError(f"zero_memory: stage is 0 to 3 and n at least 1, got stage {stage}, n {n}")
    parts = (2.0, 2.0, float(k))  # parameters, gradients, optimizer state
    return psi * sum(part / n if stage >= 3 - i else part for i, part in enumerate(parts))


def gpt3_parameters(
    n_layers: int, d_model: int, vocab_size: int = 50257, context: int = 2048, d_attention: int | None = None
) -> int:
    """The exact number of parameters of a GPT-2/3 decoder with tied embeddings (Brown et al. 2020, Table 2.1).

    12 d² + 13 d a layer: four attention matrices with biases, two feed-forward ones, two normalizations; then the token
    and position tables and the last normalization. d_attention: n_heads · d_head where that is not d_model.
    """
    a = d_model if d_attention is None else d_attention
    attention = 4 * d_model * a + 3 * a + d_model
    feed_forward = 8 * d_model**2 + 5 * d_model
    return n_layers * (attention + feed_forward + 4 * d_model) + (vocab_size + context) * d_model + 2 * d_model
