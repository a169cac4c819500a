"""How many bytes a training step holds at its peak, foreseen from the graph of a loss without taking the step.

The walk back is played with sizes in place of arrays. What the graph saved is there at the start and goes node by node;
gradients come, are added up, and go. At each node the bytes alive are

    saved by the nodes not walked yet + gradients on their way + gradients of parameters + what the backward works with

and the largest of these sums, or that of the forward's last operation, is the peak of the step; parameters and
optimizer state stand beside it. Every sum is affine in the number of examples, so a graph of one example and a graph of
two say it for all; which of the sums is the largest may change with the number.
"""

from __future__ import annotations

import math
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.accounting.counting import buffer_of, readable_bytes, recorded_nodes, saved_arrays
from minipeft.autograd import Node, Tensor
from minipeft.backend import BLOCK_BYTES, array_module, is_array, to_numpy
from minipeft.nn.layers import random_stream
from minipeft.ops.loss import IGNORED
from minipeft.peft.intrinsic import ROWS, Dense

# Functions whose backward returns dz or views of it.
ALIASES = {"Add", "Shift", "Reshape", "Transpose", "SplitHeads", "MergeHeads", "Concatenate", "Prepend", "AddToRows"}
# Functions whose output is a view of their input.
VIEWS = {"Reshape", "Transpose", "SplitHeads", "MergeHeads", "Index"}
# Functions whose backward holds nothing large beside what it was given and what it returns.
IN_PLACE = ALIASES | {
    *("Linear", "LinearCrossEntropy", "CrossEntropy", "Activation", "Gate", "Dropout", "Scale", "Multiply", "MatMul"),
    *("Rotary", "Index", "BroadcastTo"),
}
BLOCKS = 4  # arrays of a cache block that a chain of elementwise steps holds: from 2 (GELU by tanh) to 6 (GELU)
BY_BLOCKS = {"Activation", "Gate", "LayerNorm", "RMSNorm", "LNLoRALinear"}  # in their forward
SAVE_INPUT = {"Linear", "LoRALinear", "FactorizedLinear", "Bottleneck"}
MARGIN = 0.1  # what a peak may be above its forecast, where a budget is to be kept


@dataclass(frozen=True)
class Capped:
    """min(amount, cap) times ``each`` bytes: what is worked by blocks takes no more than a block's."""

    amount: int
    cap: int
    each: int

    @property
    def bytes(self) -> int:
        return min(self.amount, self.cap) * self.each


@dataclass(frozen=True)
class Moment:
    """The bytes alive at a node."""

    where: str
    fixed: int
    capped: tuple[Capped, ...] = ()

    @property
    def bytes(self) -> int:
        return self.fixed + sum(c.bytes for c in self.capped)

    def with_examples(self, two: Moment, examples: int) -> Moment:
        """For ``examples``, this being the moment of one example and ``two`` that of two."""

        def at(a: int, b: int) -> int:
            return a + (examples - 1) * (b - a)

        capped = (
            Capped(at(a.amount, b.amount), a.cap, at(a.each, b.each))
            for a, b in zip(self.capped, two.capped, strict=True)
        )
        return Moment(self.where, at(self.fixed, two.fixed), tuple(capped))


class Gradients:
    """The gradients alive in a walk: their bytes, and by how many each is held."""

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: list[int] = []
        self._holders: list[int] = []

    def new(self, size: int) -> int:
        self.bytes += size
        self._sizes.append(size)
        self._holders.append(1)
        return len(self._sizes) - 1

    def hold(self, which: int) -> int:
        self._holders[which] += 1
        return which

    def drop(self, which: int) -> None:
        self._holders[which] -= 1
        if not self._holders[which]:
            self.bytes -= self._sizes[which]


@dataclass(frozen=True)
class Graph:
    """The sizes in the graph of a recorded tensor: nodes in the order of the forward, what they save and work with."""

    nodes: list[Node]
    holds: dict[Node, dict[int, int]]  # bytes of the buffers that a node saved, parameters left out
    workspace: dict[Node, int]
    again: dict[Node, int]  # what a checkpointed layer takes for its second forward
    itemsize: int
    blocks: Capped

    @classmethod
    def of(cls, root: Tensor, parameters: list[Tensor]) -> Graph:
        nodes = sorted(recorded_nodes(root), key=lambda n: n.birth)
        known = {id(buffer_of(p.data)) for p in parameters}
        itemsize = root.data.dtype.itemsize
        holds = {}
        for node in nodes:
            assert node.ctx is not None
            buffers = {id(x): x.nbytes for x in map(buffer_of, saved_arrays(node.ctx.saved))}
            holds[node] = {key: n for key, n in buffers.items() if key not in known}
        inside = {n: _inside(n, parameters) for n in nodes if n.name == "Checkpoint"}
        workspace = {n: inside[n][1] if n in inside else _workspace(n, itemsize) for n in nodes}
        largest = max(math.prod(node.shape) * itemsize for node in nodes)
        return cls(
            nodes,
            holds,
            workspace,
            {n: a for n, (a, _) in inside.items()},
            itemsize,
            Capped(largest, BLOCK_BYTES, BLOCKS),
        )

    def moments(self, accumulating: bool = False) -> list[Moment]:
        """The bytes alive from the start of the forward to the end of the walk back, parameters left out.

        accumulating: the gradients of parameters are there already and added to; they are left out, too.
        """
        saved = sum({key: n for held in self.holds.values() for key, n in held.items()}.values())
        last = self.nodes[-1]
        found = [*_forward(self), _end_of_forward(last, saved, self.itemsize)]
        users = Counter(key for held in self.holds.values() for key in held)
        grads = Gradients()
        pending = {last: (grads.new(self.itemsize), False)}
        leaves: set[int] = set()
        going: list[int] = []  # what the walk lets go of when it turns to the next node
        last_dz: int | None = None
        freed = 0
        for node in reversed(self.nodes):
            if last_dz is not None:
                grads.drop(last_dz)
            dz, _ = pending.pop(node)
            last_dz = dz
            saved -= freed
            name = node.name
            aliases = name in ALIASES
            sizes = _gradient_sizes(node, self.itemsize)
            results = [None if n is None else grads.hold(dz) if aliases else grads.new(n) for n in sizes]
            found.append(Moment(name, saved + grads.bytes + self.workspace[node]))
            if name == "Checkpoint":  # the layer once more, before there are its gradients
                again = saved + grads.bytes - sum(n or 0 for n in sizes) + self.again[node]
                found.append(Moment(f"{name}, forward", again, (self.blocks,)))
            for which in going:
                grads.drop(which)
            for parent, size, result in zip(node.parents, sizes, results, strict=True):
                if parent is None or size is None or result is None:
                    continue
                if isinstance(parent, Tensor):
                    if id(parent) not in leaves and not accumulating:  # it keeps this one, or a copy
                        leaves.add(id(parent))
                        _ = grads.new(size) if aliases else grads.hold(result)
                elif parent not in pending:
                    pending[parent] = (grads.hold(result), False)
                elif not pending[parent][1]:
                    total = grads.new(size)
                    found.append(Moment(f"sum for {parent.name}", saved + grads.bytes))
                    grads.drop(pending[parent][0])
                    pending[parent] = (total, True)
            going = [r for r in results if r is not None]
            freed = 0
            for key, n in self.holds[node].items():
                users[key] -= 1
                freed += n if not users[key] else 0
        found.append(Moment("end", saved + grads.bytes))
        return found


def _gradient_sizes(node: Node, itemsize: int) -> list[int | None]:
    return [None if p is None else math.prod(p.shape) * itemsize for p in node.parents]


def _forward(graph: Graph) -> list[Moment]:
    """At each operation of the forward: what is saved so far, its output, and outputs that are still to be used."""
    last_use: dict[Node, int] = {}
    for i, node in reversed(list(enumerate(graph.nodes))):
        for parent in node.parents:
            if isinstance(parent, Node):
                use = last_use.get(node, i) if node.name in VIEWS else i  # a view keeps what it looks at
                last_use[parent] = max(last_use.get(parent, i), use)
    found, saved, seen = [], 0, set[int]()
    alive: dict[Node, int] = {}  # bytes of outputs
    for i, node in enumerate(graph.nodes):
        if node.name not in VIEWS:
            alive[node] = math.prod(node.shape) * graph.itemsize
        for key, n in graph.holds[node].items():
            if key not in seen:
                seen.add(key)
                saved += n
                first = next((p for p in node.parents if p is not None), None)
                if node.name in SAVE_INPUT and isinstance(first, Node) and alive.get(first) == n:
                    del alive[first]  # saved as it is: it counts once
        blocks = (graph.blocks,) if node.name in BY_BLOCKS else ()
        found.append(Moment(f"forward of {node.name}", saved + sum(alive.values()), blocks))
        alive = {n: size for n, size in alive.items() if last_use.get(n, i) > i}
    return found


def _end_of_forward(last: Node, saved: int, itemsize: int) -> Moment:
    """While the last operation runs: its input is there still, and the vocabulary head's logits are."""
    assert last.ctx is not None
    if last.name != "LinearCrossEntropy":
        return Moment("forward", saved)
    dx, dW, _, (n, V, block) = last.ctx.saved
    rows = n if dx is None else dx.shape[0]
    product = 0 if dW is None else dW.nbytes
    logits = Capped(rows, block, V * itemsize)
    return Moment("forward", saved + product + (0 if dx is None else dx.nbytes), (logits,))


def _workspace(node: Node, itemsize: int) -> int:
    """Bytes that a backward holds beside what it was given and returns; of functions unknown, as its largest result."""
    name, ctx = node.name, node.ctx
    sizes = [n or 0 for n in _gradient_sizes(node, itemsize)]
    assert ctx is not None
    if name in IN_PLACE:
        return 0
    if name == "Attention":
        P = [x.nbytes for x in ctx.saved[4:] if is_array(x)] or [ctx.saved[0].nbytes]  # by tiles of queries, or whole
        return max(P) if ctx.needs_grad[0] or ctx.needs_grad[1] else 0  # dS
    if name == "PrefixAttention":
        return 2 * ctx.saved[0].nbytes
    if name == "BlockwiseAttention":
        Q, k, block = ctx.saved[0], ctx.saved[1], ctx.saved[6][2]
        return 2 * math.prod(Q.shape[:-1]) * min(block, k.shape[2]) * itemsize
    if name == "Subspace" and isinstance(ctx.saved[0], Dense):
        return 16 * min(ROWS, ctx.saved[0].size) * ctx.saved[0].d  # a block of P, drawn in float64 and scaled
    if name in ("LayerNorm", "RMSNorm"):
        return math.prod(node.shape) * itemsize if ctx.needs_grad[1] else 0
    if name == "Embedding":
        return 2 * math.prod(node.shape) * itemsize  # rows put in order, and summed
    return max(sizes)


def _inside(node: Node, parameters: list[Tensor]) -> tuple[int, int]:
    """What a checkpointed layer takes in its second forward, and in the walk after it beside the gradients it returns.

    Its graph is recorded here for its sizes, and thrown away.
    """
    assert node.ctx is not None
    run, _, arrays, rng = node.ctx.saved
    needs = node.ctx.needs_grad[2 : 2 + len(arrays)]
    inputs = [Tensor(x, requires_grad=n) for x, n in zip(arrays, needs, strict=True)]
    with random_stream(np.random.default_rng(0) if rng is None else deepcopy(rng)):
        z = run(inputs)
    moments = Graph.of(z, [*inputs, *parameters]).moments()
    forward = max(m.fixed for m in moments if m.where.startswith("forward"))
    returned = sum(n or 0 for n in _gradient_sizes(node, z.data.dtype.itemsize))
    return forward, max(m.fixed for m in moments) - returned


class Forecast:
    """The peak of training steps on batches like ``batch``, by the number of examples.

    batch: the arguments of ``model.loss`` by name; the model is run on one of its examples, and on two copies of it.
    shards: threads that share a batch, each with activations and gradients of its own; that all of them are at their
    peak at once is the worst that can happen.
    Raises ValueError, when asked, where the graph of two examples is another than that of one.
    """

    def __init__(self, model: Any, optimizer: Any, batch: Any, shards: int = 1):
        self.model = model
        self.batch = batch
        self.shards = shards
        self.parameters = sum(p.data.nbytes for p in model.parameters())
        self.trained = sum(p.data.nbytes for p in optimizer.params.values())
        self.optimizer_state = len(optimizer.slots) * self.trained
        self._known: dict[int, dict[bool, list[Moment]]] = {1: self._record(1)}

    @property
    def states(self) -> int:
        """Bytes of parameters and optimizer state."""
        return self.parameters + self.optimizer_state

    def worst(self, examples: int, accumulating: bool = False) -> Moment:
        """The largest moment of one thread with so many examples."""
        one = self._known[1][accumulating]
        if examples == 1:
            return max(one, key=lambda m: m.bytes)
        if 2 not in self._known:
            self._known[2] = self._record(2)
        two = self._known[2][accumulating]
        if [m.where for m in one] != [m.where for m in two]:
            raise ValueError("the loss of two examples has another graph than that of one: no peak can be foreseen")
        return max((a.with_examples(b, examples) for a, b in zip(one, two, strict=True)), key=lambda m: m.bytes)

    def peak(self, examples: int, accumulating: bool = False) -> int:
        """Bytes at the peak of a step on so many examples.

        accumulating: its gradients are added to those of examples before it, which are there all the time.
        """
        each, more = divmod(examples, self.shards)
        in_place = accumulating and self.shards == 1  # shards have gradients of their own, added at the end
        parts = [(each + 1, more), (each, self.shards - more if each else 0)]
        work = sum(n * self.worst(part, in_place).bytes for part, n in parts if n)
        return self.states + work + (self.trained if accumulating else 0)

    def needs(self, examples: int, accumulating: bool = False) -> int:
        """The budget within which a step on so many examples stays: its peak and a margin, in bytes."""
        return math.ceil((1 + MARGIN) * self.peak(examples, accumulating))

    def at_once(self, examples: int, budget: int) -> int:
        """How many of ``examples`` fit into ``budget`` bytes: all, or the most that do with gradients accumulated.

        Raises ValueError where one is too much, with the smallest budget that works.
        """
        one = self.needs(1, accumulating=examples > 1)
        if one > budget:
            raise ValueError(
                f"a memory budget of {readable_bytes(budget)} is below the smallest that works, {one} bytes "
                f"({readable_bytes(one)}): one example at a time; {readable_bytes(self.states)} of them are parameters "
                "and optimizer state. Give at least that, shorten the examples, or train fewer parameters"
            )
        forward = max(m.bytes for m in self._known[1][False] if m.where.startswith("forward"))
        if examples == 1 or self.states + 2 * forward > budget:  # then not even the graph of two is sure to fit
            return 1
        if self.needs(examples) <= budget:
            return examples
        low, high = 1, examples
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.needs(middle, accumulating=True) <= budget else (low, middle)
        return low

    def _record(self, examples: int) -> dict[bool, list[Moment]]:
        """The moments of so many copies of the example that has the most labels, without and with accumulation."""
        rows = {name: x for name, x in self.batch.items() if is_array(x) and x.ndim}
        labelled = to_numpy(rows["labels"] != IGNORED) if "labels" in rows else np.ones((1, 1))
        i = int(labelled.reshape(len(labelled), -1).sum(axis=1).argmax())
        copies = {name: array_module(x).concatenate([x[i : i + 1]] * examples) for name, x in rows.items()}
        with random_stream(0):
            loss = self.model.loss(**{**self.batch, **copies})
        graph = Graph.of(loss, list(self.model.parameters()))
        return {flag: graph.moments(accumulating=flag) for flag in (False, True)}
