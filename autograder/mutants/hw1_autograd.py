"""Mistakes in hw1_autograd."""

from autograder.mutants import Mutant

A, S, E, T = "minipeft.ops.arithmetic", "minipeft.ops.shape", "minipeft.ops.embedding", "minipeft.autograd"

# Plain forwards, so that the backwards below know what was saved.
BINARY = """
ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None, x.shape, y.shape)
return {}
"""
QUOTIENT = """
ctx.save(x if ctx.needs_grad[1] else None, y, x.shape)
return x / y
"""
REDUCED = """
axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
axes = tuple(a % x.ndim for a in axes)
kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
count = 1
for a in axes:
    count *= x.shape[a]
ctx.save(x.shape, kept, count)
return x.{}(axis=axis, keepdims=keepdims)
"""
LOOKED_UP = """
ctx.save(ids if ctx.needs_grad[0] else None, table.shape)
return table[ids]
"""
WALK = """
pending = {{root: (grad, False)}}
heap = [(-root.birth, root)]
while heap:
    node = heapq.heappop(heap)[1]
    dz, _ = pending.pop(node)
    {used}
    ctx, node.ctx = node.ctx, None
    grads = node.function.backward(ctx, dz)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    {count}
    for i, (parent, g) in enumerate(zip(node.parents, grads)):
        if parent is None:
            continue
        {shape}
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, {leaf}, dz, into)
        elif parent not in pending:
            pending[parent] = (g, False)
            heapq.heappush(heap, (-parent.birth, parent))
        else:
            {add}
    node.parents = []
"""


def walk(**parts: str) -> str:
    """The walk with some of its steps done otherwise."""
    steps = {
        "used": 'if node.ctx is None: raise RuntimeError("walked before")',
        "count": 'if len(grads) != len(node.parents): raise RuntimeError("another number of gradients")',
        "shape": 'if getattr(g, "shape", None) != parent.shape: raise RuntimeError("another shape")',
        "leaf": "g.copy()",
        "add": "pending[parent] = (pending[parent][0] + g, True)",
    }
    return WALK.format(**{**steps, **parts})


RECORD = """
recording = _recording.get()
arrays = [a.data if isinstance(a, Tensor) else a for a in args]
needs = [{needs} for a in args]
parents = [{parents} for a, n in zip(args, needs)]
ctx = Context(*needs)
out = Tensor(cls.forward(ctx, *arrays))
if {recorded}:
    out.requires_grad = True
    out.node = Node(cls, ctx, parents, out.data.shape)
return out
"""


def record(**parts: str) -> str:
    """The recording with some of its steps done otherwise."""
    steps = {
        "needs": "isinstance(a, Tensor) and recording and a.requires_grad",
        "parents": "(a.node or a) if n else None",
        "recorded": "any(needs)",
    }
    return RECORD.format(**{**steps, **parts})


LEAF = """
{first}
sofar = leaf.grad if into is None else into.get(leaf)
if sofar is None:
    sofar = {copy}
else:
    {add}
if into is None:
    leaf.grad = sofar
else:
    into[leaf] = sofar
"""


def to_leaf(**parts: str) -> str:
    """What a leaf receives, with some of the steps done otherwise."""
    steps = {
        "first": "g = np.asarray(g)",
        "copy": "g.astype(leaf.dtype, copy=True)",
        "add": "sofar += g",
    }
    return LEAF.format(**{**steps, **parts})


MUTANTS = [
    Mutant(
        "leading-axes-only",
        f"{A}:unbroadcast",
        "1.1",
        "The axes in front are summed, those of size 1 are not: a column that was repeated gets too large a gradient.",
        body="""
return dz.sum(axis=tuple(range(dz.ndim - len(shape))))
""",
    ),
    Mutant(
        "size-one-axes-only",
        f"{A}:unbroadcast",
        "1.1",
        "The axes of size 1 are summed, those that the input lacks in front are not.",
        body="""
extra = dz.ndim - len(shape)
ones = tuple(i + extra for i, n in enumerate(shape) if n == 1)
return dz.sum(axis=ones, keepdims=True) if ones else dz
""",
    ),
    Mutant(
        "first-instead-of-sum",
        f"{A}:unbroadcast",
        "1.1",
        "One of the repeated entries is taken where all of them should be summed.",
        body="""
extra = dz.ndim - len(shape)
part = dz[(0,) * extra]
return part[tuple(slice(0, 1) if n == 1 and m > 1 else slice(None) for n, m in zip(shape, part.shape))]
""",
    ),
    Mutant(
        "mean-instead-of-sum",
        f"{A}:unbroadcast",
        "1.1",
        "The repeated entries are averaged where they should be summed.",
        body="""
extra = dz.ndim - len(shape)
axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1))
return (dz.mean(axis=axes, keepdims=True) if axes else dz).reshape(shape)
""",
    ),
    Mutant(
        "size-one-axes-lost",
        f"{A}:unbroadcast",
        "1.1",
        "The axes of size 1 are summed away and not put back: the shape is not the input's.",
        body="""
extra = dz.ndim - len(shape)
return dz.sum(axis=(*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1)))
""",
    ),
    Mutant(
        "product-saves-all",
        f"{A}:Multiply.forward",
        "1.2",
        "Both factors are kept whatever is trained: x is needed for dy alone, y for dx alone.",
        body="""
ctx.save(x, y, x.shape, y.shape)
return x * y
""",
        along={
            "Multiply.backward": """
x, y, x_shape, y_shape = ctx.saved
dx = unbroadcast(dz * y, x_shape) if ctx.needs_grad[0] else None
dy = unbroadcast(dz * x, y_shape) if ctx.needs_grad[1] else None
return dx, dy
"""
        },
    ),
    Mutant(
        "product-own-factor",
        f"{A}:Multiply.backward",
        "1.2",
        "dx takes the factor y and dy the factor x; here each has its own.",
        body="""
x, y, x_shape, y_shape = ctx.saved
dx = None if x is None else unbroadcast(dz * x, x_shape)
dy = None if y is None else unbroadcast(dz * y, y_shape)
return dx, dy
""",
        along={
            "Multiply.forward": """
needs_x, needs_y = ctx.needs_grad
ctx.save(x if needs_x else None, y if needs_y else None, x.shape, y.shape)
return x * y
"""
        },
    ),
    Mutant(
        "product-not-summed",
        f"{A}:Multiply.backward",
        "1.2",
        "The gradients are not summed to the shapes of x and y where these were broadcast.",
        body="""
x, y, x_shape, y_shape = ctx.saved
return None if y is None else dz * y, None if x is None else dz * x
""",
        along={"Multiply.forward": BINARY.format("x * y")},
    ),
    Mutant(
        "product-frozen-gradient",
        f"{A}:Multiply.backward",
        "1.2",
        "A gradient is computed for an input that wants none; ctx.needs_grad says which do.",
        body="""
x, y, x_shape, y_shape = ctx.saved
return unbroadcast(dz * y, x_shape), unbroadcast(dz * x, y_shape)
""",
        along={"Multiply.forward": "ctx.save(x, y, x.shape, y.shape)\nreturn x * y"},
    ),
    Mutant(
        "product-in-place",
        f"{A}:Multiply.backward",
        "1.2",
        "dz is multiplied in place: it belongs to others, who read it later.",
        body="""
x, y, x_shape, y_shape = ctx.saved
dy = None if x is None else unbroadcast(dz * x, y_shape)
if y is None:
    return None, dy
dz *= y
return unbroadcast(dz, x_shape), dy
""",
        along={"Multiply.forward": BINARY.format("x * y")},
    ),
    Mutant(
        "quotient-square-missing",
        f"{A}:Divide.backward",
        "1.2",
        "The derivative of 1/y has y squared below; here it stands once.",
        body="""
x, y, x_shape = ctx.saved
dx = unbroadcast(dz / y, x_shape) if ctx.needs_grad[0] else None
return dx, unbroadcast(-dz * x / y, y.shape) if ctx.needs_grad[1] else None
""",
        along={"Divide.forward": QUOTIENT},
    ),
    Mutant(
        "quotient-sign",
        f"{A}:Divide.backward",
        "1.2",
        "A quotient falls as its denominator grows: dy lacks the minus sign.",
        body="""
x, y, x_shape = ctx.saved
dx = unbroadcast(dz / y, x_shape) if ctx.needs_grad[0] else None
return dx, unbroadcast(dz * x / (y * y), y.shape) if ctx.needs_grad[1] else None
""",
        along={"Divide.forward": QUOTIENT},
    ),
    Mutant(
        "quotient-dy-shape",
        f"{A}:Divide.backward",
        "1.2",
        "dy is not summed to the shape of y where y was broadcast.",
        body="""
x, y, x_shape = ctx.saved
dx = unbroadcast(dz / y, x_shape) if ctx.needs_grad[0] else None
return dx, -dz * x / (y * y) if ctx.needs_grad[1] else None
""",
        along={"Divide.forward": QUOTIENT},
    ),
    Mutant(
        "sum-axis-not-put-back",
        f"{A}:Sum.backward",
        "1.3",
        "The summed axis is missing in dz; without it as size 1, dz spreads along the wrong axis or not at all.",
        body="""
shape, kept, count = ctx.saved
return array_module(dz).broadcast_to(dz, shape).copy(), None, None
""",
        along={"Sum.forward": REDUCED.format("sum")},
    ),
    Mutant(
        "sum-of-ones",
        f"{A}:Sum.backward",
        "1.3",
        "The derivative of a sum is one for each entry, times what comes from above: dz is ignored.",
        body="""
shape, kept, count = ctx.saved
return array_module(dz).ones(shape, dtype=dz.dtype), None, None
""",
        along={"Sum.forward": REDUCED.format("sum")},
    ),
    Mutant(
        "mean-not-divided",
        f"{A}:Mean.backward",
        "1.3",
        "The gradient of a mean lacks the factor 1/n.",
        body="""
shape, kept, count = ctx.saved
return array_module(dz).broadcast_to(dz.reshape(kept), shape).copy(), None, None
""",
        along={"Mean.forward": REDUCED.format("mean")},
    ),
    Mutant(
        "mean-divided-by-all",
        f"{A}:Mean.backward",
        "1.3",
        "n is the number of entries that one mean runs over, not the size of the whole array.",
        body="""
shape, kept, count = ctx.saved
size = 1
for n in shape:
    size *= n
return array_module(dz).broadcast_to(dz.reshape(kept) / size, shape).copy(), None, None
""",
        along={"Mean.forward": REDUCED.format("mean")},
    ),
    Mutant(
        "mean-keepdims-ignored",
        f"{A}:Mean.forward",
        "1.3",
        "keepdims asks for the reduced axes to stay, with size 1.",
        body="""
axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
axes = tuple(a % x.ndim for a in axes)
kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
count = 1
for a in axes:
    count *= x.shape[a]
ctx.save(x.shape, kept, count)
return x.mean(axis=axis)
""",
        along={
            "Mean.backward": """
shape, kept, count = ctx.saved
return array_module(dz).broadcast_to(dz.reshape(kept) / count, shape).copy(), None, None
"""
        },
    ),
    Mutant(
        "max-ties-all",
        f"{A}:Max.backward",
        "1.4",
        "Where several entries are the largest, each gets the whole of dz; they are to share it evenly.",
        body="""
top, kept = ctx.saved
return top * dz.reshape(kept), None, None
""",
        along={
            "Max.forward": """
top = x.max(axis=axis, keepdims=True)
if ctx.needs_grad[0]:
    ctx.save((x == top).astype(x.dtype), top.shape)
return top if keepdims else x.max(axis=axis)
"""
        },
    ),
    Mutant(
        "max-ties-first",
        f"{A}:Max.forward",
        "1.4",
        "Where several entries are the largest, one of them gets all of dz; they are to share it evenly.",
        body="""
top = x.max(axis=axis, keepdims=True)
xp = array_module(x)
if ctx.needs_grad[0]:
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(a % x.ndim for a in axes)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    order = rest + axes
    lined = (x == top).transpose(order)
    flat = lined.reshape(*(x.shape[a] for a in rest), -1)
    first = (flat & (xp.cumsum(flat, axis=-1) == 1)).astype(x.dtype).reshape(lined.shape)
    ctx.save(first.transpose(tuple(sorted(range(x.ndim), key=lambda i: order[i]))), top.shape)
return top if keepdims else x.max(axis=axis)
""",
        along={
            "Max.backward": """
top, kept = ctx.saved
return top * dz.reshape(kept), None, None
"""
        },
    ),
    Mutant(
        "max-spread",
        f"{A}:Max.backward",
        "1.4",
        "Every entry gets dz; only the largest one moves the maximum.",
        body="""
top, kept = ctx.saved
return dz.reshape(kept) + 0.0 * top, None, None
""",
        along={
            "Max.forward": """
top = x.max(axis=axis, keepdims=True)
if ctx.needs_grad[0]:
    ctx.save((x == top).astype(x.dtype), top.shape)
return top if keepdims else x.max(axis=axis)
"""
        },
    ),
    Mutant(
        "matmul-dx-order",
        f"{A}:MatMul.backward",
        "1.5",
        "dX is dZ times Y transposed; here Y stands as it is, which fits for square matrices alone.",
        body="""
x, y, x_shape, y_shape = ctx.saved
dx = None if y is None else unbroadcast(arr.matmul(dz, y), x_shape)
dy = None if x is None else unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape)
return dx, dy
""",
        along={"MatMul.forward": BINARY.format("arr.matmul(x, y)")},
    ),
    Mutant(
        "matmul-dy-transposed",
        f"{A}:MatMul.backward",
        "1.5",
        "dY comes out transposed: its factors stand in the wrong order.",
        body="""
x, y, x_shape, y_shape = ctx.saved
dx = None if y is None else unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape)
dy = None if x is None else unbroadcast(arr.matmul(dz.swapaxes(-1, -2), x), (*y_shape[:-2], y_shape[-1], y_shape[-2]))
return dx, dy
""",
        along={"MatMul.forward": BINARY.format("arr.matmul(x, y)")},
    ),
    Mutant(
        "matmul-T",
        f"{A}:MatMul.backward",
        "1.5",
        ".T reverses all axes; of a batch of matrices only the last two are to be exchanged.",
        body="""
x, y, x_shape, y_shape = ctx.saved
dx = None if y is None else unbroadcast(arr.matmul(dz, y.T), x_shape)
dy = None if x is None else unbroadcast(arr.matmul(x.T, dz), y_shape)
return dx, dy
""",
        along={"MatMul.forward": BINARY.format("arr.matmul(x, y)")},
    ),
    Mutant(
        "matmul-batch-not-summed",
        f"{A}:MatMul.backward",
        "1.5",
        "An operand that was broadcast over the batch has one gradient, the sum over the batch.",
        body="""
x, y, x_shape, y_shape = ctx.saved
dx = None if y is None else arr.matmul(dz, y.swapaxes(-1, -2))
dy = None if x is None else arr.matmul(x.swapaxes(-1, -2), dz)
return dx, dy
""",
        along={"MatMul.forward": BINARY.format("arr.matmul(x, y)")},
    ),
    Mutant(
        "matmul-saves-all",
        f"{A}:MatMul.forward",
        "1.5",
        "Both operands are kept whatever is trained: X is needed for dY alone, Y for dX alone.",
        body="""
ctx.save(x, y, x.shape, y.shape)
return arr.matmul(x, y)
""",
        along={
            "MatMul.backward": """
x, y, x_shape, y_shape = ctx.saved
dx = unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape) if ctx.needs_grad[0] else None
dy = unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape) if ctx.needs_grad[1] else None
return dx, dy
"""
        },
    ),
    Mutant(
        "transpose-same-order",
        f"{S}:Transpose.backward",
        "1.6",
        "The way back needs the inverse of the order; exchanging two axes is its own inverse, a cycle of three is not.",
        body="""
(axes,) = ctx.saved
return dz.transpose(axes), None
""",
        along={"Transpose.forward": "ctx.save(axes)\nreturn x.transpose(axes)"},
    ),
    Mutant(
        "transpose-reversed",
        f"{S}:Transpose.backward",
        "1.6",
        "All axes are reversed, whatever their order was.",
        body="""
return dz.T, None
""",
    ),
    Mutant(
        "stretch-mean",
        f"{S}:BroadcastTo.backward",
        "1.6",
        "The copies are averaged where they should be summed.",
        body="""
(shape,) = ctx.saved
total = unbroadcast(dz, shape)
return total * (total.size / dz.size), None
""",
        along={"BroadcastTo.forward": "ctx.save(x.shape)\nreturn array_module(x).broadcast_to(x, shape)"},
    ),
    Mutant(
        "index-lost-repeats",
        f"{S}:Index.backward",
        "1.7",
        "dx[key] += dz keeps one of several gradients of an entry that was taken more than once.",
        body="""
shape, key = ctx.saved
dx = array_module(dz).zeros(shape, dtype=dz.dtype)
dx[key] += dz
return dx, None
""",
        along={"Index.forward": "ctx.save(x.shape, key)\nreturn x[key]"},
    ),
    Mutant(
        "index-float64",
        f"{S}:Index.backward",
        "1.7",
        "The zeros are float64: they draw a float32 gradient up to float64.",
        body="""
shape, key = ctx.saved
dx = array_module(dz).zeros(shape)
np.add.at(dx, key, dz)
return dx, None
""",
        along={"Index.forward": "ctx.save(x.shape, key)\nreturn x[key]"},
    ),
    Mutant(
        "join-equal-parts",
        f"{S}:Concatenate.backward",
        "1.7",
        "dz is cut into parts of the same size; the inputs have sizes of their own.",
        body="""
axis, sizes = ctx.saved
pieces = array_module(dz).array_split(dz, len(sizes), axis=axis)
return None, *[g if needed else None for needed, g in zip(ctx.needs_grad[1:], pieces)]
""",
        along={
            "Concatenate.forward": """
ctx.save(axis, tuple(x.shape[axis] for x in xs))
return array_module(xs[0]).concatenate(xs, axis=axis)
"""
        },
    ),
    Mutant(
        "join-start-stands",
        f"{S}:Concatenate.backward",
        "1.7",
        "Every part starts at the beginning of dz: the start does not move on.",
        body="""
axis, sizes = ctx.saved
grads = []
for needed, n in zip(ctx.needs_grad[1:], sizes):
    key = (slice(None),) * (axis % dz.ndim) + (slice(0, n),)
    grads.append(dz[key] if needed else None)
return None, *grads
""",
        along={
            "Concatenate.forward": """
ctx.save(axis, tuple(x.shape[axis] for x in xs))
return array_module(xs[0]).concatenate(xs, axis=axis)
"""
        },
    ),
    Mutant(
        "join-frozen-skipped",
        f"{S}:Concatenate.backward",
        "1.7",
        "A frozen input gets no gradient, but its part of dz is still there: the start must move past it.",
        body="""
axis, sizes = ctx.saved
grads, start = [], 0
for needed, n in zip(ctx.needs_grad[1:], sizes):
    if not needed:
        grads.append(None)
        continue
    key = (slice(None),) * (axis % dz.ndim) + (slice(start, start + n),)
    grads.append(dz[key])
    start += n
return None, *grads
""",
        along={
            "Concatenate.forward": """
ctx.save(axis, tuple(x.shape[axis] for x in xs))
return array_module(xs[0]).concatenate(xs, axis=axis)
"""
        },
    ),
    Mutant(
        "embedding-lost-repeats",
        f"{E}:Embedding.backward",
        "1.8",
        "dE[ids] += dz keeps one gradient of an id that comes several times; they are to be summed.",
        body="""
ids, shape = ctx.saved
dE = array_module(dz).zeros(shape, dtype=dz.dtype)
dE[ids] += dz
return dE, None
""",
        along={"Embedding.forward": LOOKED_UP},
    ),
    Mutant(
        "embedding-shape-of-dz",
        f"{E}:Embedding.backward",
        "1.8",
        "The gradient has the shape of the table, not that of the rows that were taken from it.",
        body="""
ids, shape = ctx.saved
return dz * 1.0, None
""",
        along={"Embedding.forward": LOOKED_UP},
    ),
    Mutant(
        "embedding-averaged",
        f"{E}:Embedding.backward",
        "1.8",
        "The gradients of an id that comes several times are averaged where they should be summed.",
        body="""
ids, shape = ctx.saved
dE = array_module(dz).zeros(shape, dtype=dz.dtype)
scatter_add(dE, ids.reshape(-1), dz.reshape(ids.size, shape[1]))
n = np.maximum(np.bincount(ids.reshape(-1).astype(np.int64), minlength=shape[0]), 1)
dE /= n[:, None].astype(dE.dtype)
return dE, None
""",
        along={"Embedding.forward": LOOKED_UP},
    ),
    Mutant(
        "embedding-saves-table",
        f"{E}:Embedding.forward",
        "1.8",
        "The table is kept though its gradient needs its shape alone.",
        body="""
ctx.save(ids if ctx.needs_grad[0] else None, table)
return table[ids]
""",
        along={
            "Embedding.backward": """
ids, table = ctx.saved
dE = array_module(dz).zeros(table.shape, dtype=dz.dtype)
scatter_add(dE, ids.reshape(-1), dz.reshape(ids.size, table.shape[1]))
return dE, None
"""
        },
    ),
    Mutant(
        "apply-always-records",
        f"{T}:Function.apply",
        "1.9",
        "A node is recorded though nothing requires a gradient: frozen parts of a model would keep their activations.",
        body=record(recorded="recording"),
    ),
    Mutant(
        "apply-ignores-no-grad",
        f"{T}:Function.apply",
        "1.9",
        "Under no_grad nothing is recorded, even where an input requires a gradient.",
        body=record(needs="isinstance(a, Tensor) and a.requires_grad"),
    ),
    Mutant(
        "apply-all-need",
        f"{T}:Function.apply",
        "1.9",
        "ctx.needs_grad is the same for all arguments; each argument has its own answer.",
        body=record(
            needs="recording and any(isinstance(b, Tensor) and b.requires_grad for b in args)",
            parents="(a.node or a) if isinstance(a, Tensor) and a.requires_grad else None",
        ),
    ),
    Mutant(
        "apply-all-must-need",
        f"{T}:Function.apply",
        "1.9",
        "One input that requires a gradient is enough for a node.",
        body=record(recorded="all(n for a, n in zip(args, needs) if isinstance(a, Tensor))"),
    ),
    Mutant(
        "apply-parent-tensor",
        f"{T}:Function.apply",
        "1.9",
        "The parent of a computed tensor is the node that computed it; only a leaf stands there itself.",
        body=record(parents="a if n else None"),
    ),
    Mutant(
        "apply-frozen-parent",
        f"{T}:Function.apply",
        "1.9",
        "What needs no gradient has no parent, only a None in its place.",
        body=record(parents="(a.node or a) if isinstance(a, Tensor) else None"),
    ),
    Mutant(
        "leaf-overwritten",
        f"{T}:_add_to_leaf",
        "1.10",
        "A second gradient is added to the first, it does not take its place.",
        body=to_leaf(add="sofar = g.astype(leaf.dtype, copy=True)"),
    ),
    Mutant(
        "leaf-alias",
        f"{T}:_add_to_leaf",
        "1.10",
        "The gradient is dz itself: two leaves would share one array, and clipping one would scale the other.",
        body=to_leaf(copy="g.astype(leaf.dtype, copy=False)"),
    ),
    Mutant(
        "leaf-dtype",
        f"{T}:_add_to_leaf",
        "1.10",
        "A gradient has the dtype of its leaf, also where a float64 came.",
        body=to_leaf(copy="g.copy()"),
    ),
    Mutant(
        "leaf-scalar",
        f"{T}:_add_to_leaf",
        "1.10",
        "A NumPy scalar is no array: a gradient of shape () is a 0-d array.",
        body=to_leaf(first="", copy="g.astype(leaf.dtype)"),
    ),
    Mutant(
        "leaf-into-ignored",
        f"{T}:_add_to_leaf",
        "1.10",
        "Where ``into`` is given, gradients go there and leaf.grad stays as it is.",
        body="""
g = np.asarray(g)
leaf.grad = g.astype(leaf.dtype, copy=True) if leaf.grad is None else leaf.grad + g
if into is not None:
    into[leaf] = leaf.grad
""",
    ),
    Mutant(
        "walk-overwrites",
        f"{T}:_walk",
        "1.11",
        "What is used twice gets two gradients; the second takes the place of the first where it should be added.",
        body=walk(add="pending[parent] = (g, False)"),
    ),
    Mutant(
        "walk-keeps-first",
        f"{T}:_walk",
        "1.11",
        "What is used twice gets two gradients; only the first is kept.",
        body=walk(add="pass"),
    ),
    Mutant(
        "walk-adds-in-place",
        f"{T}:_walk",
        "1.11",
        "A gradient that a rule returned may be dz or another's gradient too: adding to it in place changes both.",
        body=walk(add="pending[parent][0].__iadd__(g)"),
    ),
    Mutant(
        "walk-shares-leaves",
        f"{T}:_walk",
        "1.11",
        "A rule may return one array for two inputs. Two leaves must not share it: adding to one would change both.",
        body=walk(leaf="g"),
    ),
    Mutant(
        "walk-in-order-of-finding",
        f"{T}:_walk",
        "1.11",
        "Nodes are walked in the order in which they are found; some of them still wait for a gradient from another.",
        body="""
pending, queue = {root: grad}, [root]
while queue:
    node = queue.pop(0)
    dz = pending.pop(node)
    if node.ctx is None:
        raise RuntimeError("walked before")
    ctx, node.ctx = node.ctx, None
    grads = node.function.backward(ctx, dz)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if len(grads) != len(node.parents):
        raise RuntimeError("another number of gradients")
    for parent, g in zip(node.parents, grads):
        if parent is None:
            continue
        if getattr(g, "shape", None) != parent.shape:
            raise RuntimeError("another shape")
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, g.copy(), dz, into)
        elif parent in pending:
            pending[parent] = pending[parent] + g
        else:
            pending[parent] = g
            queue.append(parent)
    node.parents = []
""",
    ),
    Mutant(
        "walk-depth-first",
        f"{T}:_walk",
        "1.11",
        "A node is walked before all that used it has been: what comes later arrives at a node that is empty.",
        body="""
stack = [(root, grad)]
while stack:
    node, dz = stack.pop()
    if node.ctx is None:
        raise RuntimeError("walked before")
    ctx, node.ctx = node.ctx, None
    grads = node.function.backward(ctx, dz)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if len(grads) != len(node.parents):
        raise RuntimeError("another number of gradients")
    for parent, g in zip(node.parents, grads):
        if parent is None:
            continue
        if getattr(g, "shape", None) != parent.shape:
            raise RuntimeError("another shape")
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, g.copy(), dz, into)
        else:
            stack.append((parent, g))
    node.parents = []
""",
    ),
    Mutant(
        "walk-emptied-at-the-end",
        f"{T}:_walk",
        "1.11",
        "Nodes are emptied when all is done; each is to be emptied once it is walked, so that memory falls on the way.",
        body="done = []\n"
        + walk()
        .replace("ctx, node.ctx = node.ctx, None", "ctx = node.ctx")
        .replace("node.parents = []", "done.append(node)")
        + "for node in done:\n    node.ctx, node.parents = None, []",
    ),
    Mutant(
        "walk-every-way",
        f"{T}:_walk",
        "1.11",
        "A node is walked once for every way that leads to it; their number doubles with each sum. Add up first.",
        body="""
done = []
stack = [(root, grad)]
while stack:
    node, dz = stack.pop()
    if node.ctx is None:
        raise RuntimeError("walked before")
    done.append(node)
    grads = node.function.backward(node.ctx, dz)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if len(grads) != len(node.parents):
        raise RuntimeError("another number of gradients")
    for parent, g in zip(node.parents, grads):
        if parent is None:
            continue
        if getattr(g, "shape", None) != parent.shape:
            raise RuntimeError("another shape")
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, g.copy(), dz, into)
        else:
            stack.append((parent, g))
for node in done:
    node.ctx, node.parents = None, []
""",
    ),
    Mutant(
        "walk-walked-before",
        f"{T}:_walk",
        "1.11",
        "A graph that was walked before is passed over in silence; it is an error that the caller must hear of.",
        body=walk(used="if node.ctx is None: continue"),
    ),
    Mutant(
        "walk-keeps-saved",
        f"{T}:_walk",
        "1.11",
        "The nodes keep what they saved after the walk: the memory of a step is held until the loss is gone.",
        body=walk(used="").replace("ctx, node.ctx = node.ctx, None", "ctx = node.ctx").replace("node.parents = []", ""),
    ),
    Mutant(
        "walk-shape-unchecked",
        f"{T}:_walk",
        "1.11",
        "A gradient of the wrong shape goes through: broadcasting would spread the mistake in silence.",
        body=walk(shape='if g is None: raise RuntimeError("no gradient")'),
    ),
    Mutant(
        "walk-recursive",
        f"{T}:_walk",
        "1.11",
        "Recursion ends at Python's limit of some thousand calls; a graph may be deeper.",
        body="""
order, seen = [], set()


def visit(node):
    if node in seen:
        return
    seen.add(node)
    if node.ctx is None:
        raise RuntimeError("walked before")
    for parent in node.parents:
        if isinstance(parent, Node):
            visit(parent)
    order.append(node)


visit(root)
pending = {root: grad}
for node in reversed(order):
    dz = pending.pop(node)
    ctx, node.ctx = node.ctx, None
    grads = node.function.backward(ctx, dz)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if len(grads) != len(node.parents):
        raise RuntimeError("another number of gradients")
    for parent, g in zip(node.parents, grads):
        if parent is None:
            continue
        if getattr(g, "shape", None) != parent.shape:
            raise RuntimeError("another shape")
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, g.copy(), dz, into)
        else:
            pending[parent] = pending[parent] + g if parent in pending else g
    node.parents = []
order.clear()
""",
    ),
]
