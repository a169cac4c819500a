"""What a method costs, counted and not timed: parameters, bytes by kind, floating-point operations.

What is counted on a model stands beside the closed formula for it, and the tests hold the two equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

from minipeft.array import Array, FlopCount, counting, is_array
from minipeft.autograd import Node, Tensor
from minipeft.models.decoder import DecoderConfig
from minipeft.nn.module import Module


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters, each tensor once: all, trainable, and both by the part of the model."""

    total: int
    trainable: int
    by_group: dict[str, int]
    trainable_by_group: dict[str, int]


def count_parameters(model: Module) -> ParameterCount:
    """Count the parameters of a model; a part is the first segment in which the parameters' paths differ."""
    named = [(name.split("."), p) for name, p in model.named_parameters()]
    depth = 0
    while len({path[depth] for path, _ in named}) == 1 and min(len(path) for path, _ in named) > depth + 1:
        depth += 1
    groups: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for path, p in named:
        groups[path[depth]] += p.size
        trained[path[depth]] += p.size if p.requires_grad else 0
    return ParameterCount(groups.total(), trained.total(), dict(groups), dict(trained))


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, by kind."""

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, int]:
        """The four kinds by name."""
        return {f.name.replace("_", " "): getattr(self, f.name) for f in fields(self)}


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
        for x in _arrays(node.ctx.saved) if node.ctx is not None else ():
            if id(_buffer(x)) not in seen:
                seen.add(id(_buffer(x)))
                yield node, _buffer(x).nbytes


def saved_by(loss: Tensor, model: Module) -> dict[str, int]:
    """Bytes of saved activations by the Function that saved them first."""
    by_name: Counter[str] = Counter()
    for node, n in saved_buffers(loss, list(model.parameters())):
        by_name[node.function.__name__] += n
    return dict(by_name)


def _arrays(values: tuple[Any, ...]) -> Iterator[Array]:
    for value in values:
        if is_array(value):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _arrays(tuple(value))


def _buffer(x: Array) -> Array:
    """The array that owns the memory of x."""
    while x.base is not None and is_array(x.base):
        x = x.base
    return x


def count_flops() -> AbstractContextManager[FlopCount]:
    """A context that counts the FLOPs of all matrix products made inside, forward and backward apart."""
    return counting(FlopCount())


def linear_flops(rows: int, in_features: int, out_features: int) -> int:
    """FLOPs of x Wᵀ for x (rows, in_features), W (out_features, in_features); its two gradients take as many each."""
    return 2 * rows * in_features * out_features


def decoder_parameters(config: DecoderConfig) -> int:
    """The number of parameters of a `DecoderLM`, by formula."""
    c, d = config, config.d_model
    kv = (c.n_kv_heads or c.n_heads) * (d // c.n_heads)  # the width of all keys
    norm = 2 * d if c.norm == "layer" else d
    feed_forward = (3 if c.gated else 2) * d * c.d_ff
    biases = (2 * d + 2 * kv) + (2 if c.gated else 1) * c.d_ff + d if c.bias else 0
    layer = 2 * d * d + 2 * d * kv + feed_forward + biases + 2 * norm
    tables = c.vocab_size * (1 if c.tied else 2) + (0 if c.rotary else c.context)
    return c.n_layers * layer + tables * d + (norm if c.norm_first else 0)


def decoder_flops(config: DecoderConfig, batch: int, length: int, labels: int | None = None) -> FlopCount:
    """FLOPs of the loss of a `DecoderLM` for ids (batch, length) and of its gradients for all parameters, by formula.

    labels: how many of the tokens have one (all by default); the vocabulary head is computed for those alone.
    """
    c, d, R = config, config.d_model, batch * length
    kv = (c.n_kv_heads or c.n_heads) * (d // c.n_heads)
    projections = 2 * linear_flops(R, d, d) + 2 * linear_flops(R, d, kv)
    scores = 2 * (2 * R * length * d)  # Q Kᵀ and P V, over all heads
    feed_forward = (3 if c.gated else 2) * linear_flops(R, d, c.d_ff)
    head = linear_flops(R if labels is None else labels, d, c.vocab_size)
    forward = c.n_layers * (projections + scores + feed_forward) + head
    return FlopCount(forward, 2 * forward)


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


@dataclass(frozen=True)
class Gpt3Size:
    """A row of Table 2.1 of Brown et al. 2020; ``printed`` is the number of parameters that stands there."""

    name: str
    printed: float
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int


# As printed, oddities included: 24 · 128 is not 2048 and 40 · 128 is not 5140. The printed counts are those of
# attention matrices of d_model rows.
GPT3_SIZES = (
    Gpt3Size("GPT-3 Small", 125e6, 12, 768, 12, 64),
    Gpt3Size("GPT-3 Medium", 350e6, 24, 1024, 16, 64),
    Gpt3Size("GPT-3 Large", 760e6, 24, 1536, 16, 96),
    Gpt3Size("GPT-3 XL", 1.3e9, 24, 2048, 24, 128),
    Gpt3Size("GPT-3 2.7B", 2.7e9, 32, 2560, 32, 80),
    Gpt3Size("GPT-3 6.7B", 6.7e9, 32, 4096, 32, 128),
    Gpt3Size("GPT-3 13B", 13.0e9, 40, 5140, 40, 128),
    Gpt3Size("GPT-3 175B", 175.0e9, 96, 12288, 96, 128),
)


@dataclass(frozen=True)
class Report:
    """What a training step takes; as a text, a table with units."""

    parameters: ParameterCount
    memory: Memory
    saved_by: dict[str, int]
    flops: FlopCount | None

    def __str__(self) -> str:
        p, m = self.parameters, self.memory
        lines = [("parameters", "all", "trained", "trained %")]
        lines += [_share(name, n, p.trainable_by_group[name]) for name, n in p.by_group.items()]
        lines += [_share("total", p.total, p.trainable), ("",) * 4, ("memory", "bytes", "", "")]
        lines += [(name, readable_bytes(n), "", "") for name, n in m.by_kind().items()]
        lines += [("total", readable_bytes(m.total), "", "")]
        if self.saved_by:
            lines += [("",) * 4, ("activations saved by", "bytes", "", "")]
            largest = sorted(self.saved_by.items(), key=lambda item: -item[1])
            lines += [(name, readable_bytes(n), "", "") for name, n in largest]
        if self.flops is not None:
            lines += [("",) * 4, ("matrix products", "GFLOP", "", "")]
            counts = {"forward": self.flops.forward, "backward": self.flops.backward, "total": self.flops.total}
            lines += [(name, f"{n / 1e9:,.3f}", "", "") for name, n in counts.items()]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        padded = (
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
            for line in lines
        )
        return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _share(name: str, n: int, trained: int) -> tuple[str, str, str, str]:
    return name, f"{n:,}", f"{trained:,}", f"{100 * trained / n:.2f}"


def report(model: Module, optimizer: Any = None, loss: Tensor | None = None, flops: FlopCount | None = None) -> Report:
    """All that is counted on a model, its optimizer, a recorded loss and its FLOPs."""
    saved = {} if loss is None else saved_by(loss, model)
    return Report(count_parameters(model), memory(model, optimizer, loss), saved, flops)


def readable_bytes(n: int) -> str:
    """Bytes with a binary unit: 1.5 MiB."""
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
