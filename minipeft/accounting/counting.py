"""Counting on a model and on the graph of its loss: parameters, bytes by kind, floating-point operations."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

from minipeft.autograd import Node, Tensor
from minipeft.backend import Array, FlopCount, counting, is_array
from minipeft.files.table import Columns
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
        """Return the four kinds by name."""
        return {f.name.replace("_", " "): getattr(self, f.name) for f in fields(self)}


def memory(model: Module, optimizer: Any = None, loss: Tensor | None = None) -> Memory:
    """Return the bytes of a training step by kind.

    Gradients are those that the trainable parameters will receive. Activations are the buffers that the recorded graph
    of ``loss`` keeps for its backward, each once, without the parameters; 0 without a loss.
    """
    parameters = list(model.parameters())
    gradients = sum(p.data.nbytes for p in parameters if p.requires_grad)
    state = 0 if optimizer is None else optimizer.state_bytes
    activations = 0 if loss is None else sum(n for _, n in saved_buffers(loss, parameters))
    return Memory(sum(p.data.nbytes for p in parameters), gradients, state, activations)


def recorded_nodes(loss: Tensor) -> Iterator[Node]:
    """Yield the nodes of the graph of ``loss``, each once."""
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
    """Yield (node, bytes) of each buffer that the graph keeps, with the first node that saved it; not of parameters."""
    seen = {id(buffer_of(p.data)) for p in parameters}
    for node in sorted(recorded_nodes(loss), key=lambda n: n.birth):
        for x in saved_arrays(node.ctx.saved) if node.ctx is not None else ():
            if id(buffer_of(x)) not in seen:
                seen.add(id(buffer_of(x)))
                yield node, buffer_of(x).nbytes


def saved_by(loss: Tensor, model: Module) -> dict[str, int]:
    """Return the bytes of saved activations by the Function that saved them first."""
    by_name: Counter[str] = Counter()
    for node, n in saved_buffers(loss, list(model.parameters())):
        by_name[node.name] += n
    return dict(by_name)


def saved_arrays(values: tuple[Any, ...]) -> Iterator[Array]:
    for value in values:
        if is_array(value):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from saved_arrays(tuple(value))


def buffer_of(x: Array) -> Array:
    """Return the array that owns the memory of x."""
    while x.base is not None and is_array(x.base):
        x = x.base
    return x


def count_flops() -> AbstractContextManager[FlopCount]:
    """Return a context that counts the FLOPs of all matrix products inside, of forward and backward separately."""
    return counting(FlopCount())


@dataclass(frozen=True)
class Report:
    """What a training step needs; as a text, a table with units."""

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
        return "\n".join(map(Columns(lines, (False, True, True, True)).line, lines))


def _share(name: str, n: int, trained: int) -> tuple[str, str, str, str]:
    return name, f"{n:,}", f"{trained:,}", f"{100 * trained / n:.2f}"


def report(model: Module, optimizer: Any = None, loss: Tensor | None = None, flops: FlopCount | None = None) -> Report:
    """Return all that is counted on a model.

    Args:
        model: gives the parameters.
        optimizer: gives the optimizer's state, 0 without one.
        loss: a recorded loss, whose graph gives the activations.
        flops: what was counted while the loss was computed.
    """
    saved = {} if loss is None else saved_by(loss, model)
    return Report(count_parameters(model), memory(model, optimizer, loss), saved, flops)


def readable_bytes(n: int) -> str:
    """Return bytes with a binary unit: 1.5 MiB."""
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def bytes_of(size: int | float | str) -> int:
    """Return a size in bytes, given as a number or a text such as "2GiB", "500 MB", "1.5e9".

    Raises ValueError for anything else and for a size that is not positive.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(size).lower())
    try:
        value = float(found[1]) * UNITS[found[2]] if found else 0.0
    except (KeyError, ValueError):
        value = 0.0
    if not 1 <= value < math.inf:
        raise ValueError(f"expected a size in bytes, such as 2e9, '500MB' or '2GiB', got {size!r}")
    return int(value)
