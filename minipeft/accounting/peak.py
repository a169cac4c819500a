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
from minipeft.array import BLOCK_BYTES, array_module, is_array, to_numpy
from minipeft.autograd import Node, Tensor
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
BLOCKS = 3  # arrays of a cache block that the longest chain of elementwise steps holds
MOST = 2**24  # examples at once, where even they would fit


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


def moments(root: Tensor, parameters: list[Tensor]) -> list[Moment]:
    """The bytes alive from the end of the forward to the end of the walk back from ``root``, parameters left out."""
    nodes = sorted(recorded_nodes(root), key=lambda n: n.birth)
    known = {id(buffer_of(p.data)) for p in parameters}
    itemsize = root.data.dtype.itemsize
    holds: dict[Node, dict[int, int]] = {}
    users: Counter[int] = Counter()
    for node in nodes:
        assert node.ctx is not None
        buffers = {id(x): x.nbytes for x in map(buffer_of, saved_arrays(node.ctx.saved))}
        holds[node] = {key: n for key, n in buffers.items() if key not in known}
        users.update(holds[node].keys())
    saved = sum({key: n for held in holds.values() for key, n in held.items()}.values())
    largest = max(math.prod(node.shape) * itemsize for node in nodes)
    blocks = Capped(largest, BLOCK_BYTES, BLOCKS)
    found = [*_forward(nodes, holds, itemsize, blocks), _end_of_forward(nodes[-1], saved, itemsize)]
    grads = Gradients()
    pending = {nodes[-1]: (grads.new(itemsize), False)}
    leaves: set[int] = set()
    going: list[int] = []  # what the walk lets go of when it turns to the next node
    freed = 0
    for node in reversed(nodes):
        dz, _ = pending.pop(node)
        saved -= freed
        sizes = [None if p is None else math.prod(p.shape) * itemsize for p in node.parents]
        name = node.function.__name__
        aliases = name in ALIASES
        results = [None if n is None else grads.hold(dz) if aliases else grads.new(n) for n in sizes]
        at_work = _workspace(node, sizes, itemsize, parameters)
        found.append(Moment(name, saved + grads.bytes + at_work, () if name == "Subspace" else (blocks,)))
        for which in going:
            grads.drop(which)
        for parent, size, result in zip(node.parents, sizes, results, strict=True):
            if parent is None or size is None or result is None:
                continue
            if isinstance(parent, Tensor):
                if id(parent) not in leaves:  # the parameter keeps it, or a copy; a later one is added in place
                    leaves.add(id(parent))
                    _ = grads.new(size) if aliases else grads.hold(result)
            elif parent not in pending:
                pending[parent] = (grads.hold(result), False)
            elif not pending[parent][1]:
                total = grads.new(size)
                found.append(Moment(f"sum for {parent.function.__name__}", saved + grads.bytes, (blocks,)))
                grads.drop(pending[parent][0])
                pending[parent] = (total, True)
        going = [dz, *(r for r in results if r is not None)]
        freed = 0
        for key, n in holds[node].items():
            users[key] -= 1
            freed += n if not users[key] else 0
    found.append(Moment("end", saved + grads.bytes))
    return found


def _forward(nodes: list[Node], holds: dict[Node, dict[int, int]], itemsize: int, blocks: Capped) -> list[Moment]:
    """At each operation of the forward: what is saved so far, its inputs, its output, and outputs still to be used."""
    last_use: dict[Node, int] = {}
    for i, node in reversed(list(enumerate(nodes))):
        for parent in node.parents:
            if isinstance(parent, Node):
                use = last_use.get(node, i) if node.function.__name__ in VIEWS else i  # a view keeps what it looks at
                last_use[parent] = max(last_use.get(parent, i), use)
    found, alive, saved, seen = [], 0, 0, set[int]()
    going: dict[int, int] = {}  # bytes by the operation after which they go
    for i, node in enumerate(nodes):
        size = 0 if node.function.__name__ in VIEWS else math.prod(node.shape) * itemsize
        alive += size
        saved += sum(n for key, n in holds[node].items() if key not in seen)
        seen |= holds[node].keys()
        found.append(Moment(f"forward of {node.function.__name__}", saved + alive, (blocks,)))
        end = last_use.get(node, i)
        going[end] = going.get(end, 0) + size
        alive -= going.pop(i, 0)
    return found


def _end_of_forward(last: Node, saved: int, itemsize: int) -> Moment:
    """While the last operation runs: its input is there still, and the vocabulary head's logits are."""
    assert last.ctx is not None
    if last.function.__name__ != "LinearCrossEntropy":
        return Moment("forward", saved)
    dx, dW, _, (n, V, block) = last.ctx.saved
    rows = n if dx is None else dx.shape[0]
    product = 0 if dW is None else dW.nbytes
    logits = Capped(rows, block, V * itemsize)
    return Moment("forward", saved + product + (0 if dx is None else dx.nbytes), (logits,))


def _workspace(node: Node, sizes: list[int | None], itemsize: int, parameters: list[Tensor]) -> int:
    """Bytes that a backward holds beside what it was given and returns; of functions unknown, as its largest result."""
    name, ctx = node.function.__name__, node.ctx
    assert ctx is not None
    if name in IN_PLACE:
        return 0
    if name == "Attention":
        return ctx.saved[0].nbytes if ctx.needs_grad[0] or ctx.needs_grad[1] else 0  # dS
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
    if name == "Checkpoint":
        return _inside(ctx.saved, ctx.needs_grad, parameters) - sum(n or 0 for n in sizes)
    return max(n or 0 for n in sizes)


def _inside(saved: tuple[Any, ...], needs_grad: tuple[bool, ...], parameters: list[Tensor]) -> int:
    """What the backward of a checkpointed layer holds: its own graph, recorded here for its sizes and thrown away."""
    run, _, arrays, rng = saved
    inputs = [Tensor(x, requires_grad=n) for x, n in zip(arrays, needs_grad[2 : 2 + len(arrays)], strict=True)]
    with random_stream(np.random.default_rng(0) if rng is None else deepcopy(rng)):
        z = run(inputs)
    return max(m.fixed for m in moments(z, [*inputs, *parameters]))


class Forecast:
    """The peak of training steps on batches like ``batch``, by the number of examples.

    batch: the arguments of ``model.loss`` by name; the model is run on one of its examples, and on two copies of it.
    shards: threads that share a batch; each has activations and gradients of its own.
    """

    def __init__(self, model: Any, optimizer: Any, batch: Any, shards: int = 1):
        self.model = model
        self.batch = batch
        self.shards = shards
        self.parameters = sum(p.data.nbytes for p in model.parameters())
        self.optimizer_state = len(optimizer.slots) * sum(p.data.nbytes for p in optimizer.params.values())
        self.one = self._moments(1)
        self._two: list[Moment] | None = None

    @property
    def states(self) -> int:
        """Bytes of parameters and optimizer state."""
        return self.parameters + self.optimizer_state

    @property
    def smallest(self) -> int:
        """The peak of a step on one example, in bytes."""
        return self.states + max(m.bytes for m in self.one)

    @property
    def two(self) -> list[Moment]:
        if self._two is None:
            self._two = self._moments(2)
            if [m.where for m in self.one] != [m.where for m in self._two]:
                raise ValueError("the loss of two examples has another graph than that of one: no peak is foreseen")
        return self._two

    def working(self, examples: int) -> Moment:
        """The largest moment of one thread with ``examples``."""
        if examples == 1:
            return max(self.one, key=lambda m: m.bytes)
        pairs = zip(self.one, self.two, strict=True)
        return max((a.with_examples(b, examples) for a, b in pairs), key=lambda m: m.bytes)

    def peak(self, examples: int) -> int:
        """Bytes at the peak of a step on so many examples."""
        each, more = divmod(examples, self.shards)
        work = more * self.working(each + 1).bytes if more else 0
        return self.states + work + ((self.shards - more) * self.working(each).bytes if each else 0)

    def largest(self, budget: int) -> int:
        """The largest number of examples whose step stays within ``budget`` bytes.

        Raises ValueError where even one does not, with the bytes that it takes.
        """
        if self.smallest > budget:
            raise ValueError(
                f"a memory budget of {readable_bytes(budget)} is below what one example takes, {self.smallest:,} bytes "
                f"({readable_bytes(self.smallest)}): {readable_bytes(self.states)} of them are the parameters and the "
                "optimizer's state; give at least that, shorten the examples, or train fewer parameters"
            )
        if self.states + 2 * self.one[0].bytes > budget:  # a graph of two might not fit
            return 1
        low, high = 1, 2
        while high < MOST and self.peak(high) <= budget:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= budget else (low, middle)
        return low

    def _moments(self, examples: int) -> list[Moment]:
        """Of the example with the most labels, so many times."""
        rows = {name: x for name, x in self.batch.items() if is_array(x) and x.ndim}
        labelled = to_numpy(rows["labels"] != IGNORED) if "labels" in rows else np.ones((1, 1))
        i = int(labelled.reshape(len(labelled), -1).sum(axis=1).argmax())
        copies = {name: array_module(x).concatenate([x[i : i + 1]] * examples) for name, x in rows.items()}
        with random_stream(0):
            loss = self.model.loss(**{**self.batch, **copies})
        return moments(loss, list(self.model.parameters()))
