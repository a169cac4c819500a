"""Mistakes in hw1_autograd."""

from autograder.homeworks.mutant import Mutant, mistakes

# Plain programs, which the diffs below change; "with" brings a plain forward or backward along.
PLAIN = {
    "minipeft.ops.arithmetic:Multiply.forward": """
ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None, x.shape, y.shape)
return x * y
""",
    "minipeft.ops.arithmetic:Multiply.backward": """
x, y, x_shape, y_shape = ctx.saved
dx = unbroadcast(dz * y, x_shape) if ctx.needs_grad[0] else None
dy = unbroadcast(dz * x, y_shape) if ctx.needs_grad[1] else None
return dx, dy
""",
    "minipeft.ops.arithmetic:Divide.forward": """
ctx.save(x if ctx.needs_grad[1] else None, y, x.shape)
return x / y
""",
    "minipeft.ops.arithmetic:Sum.forward": """
axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
axes = tuple(a % x.ndim for a in axes)
kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
count = 1
for a in axes:
    count *= x.shape[a]
ctx.save(x.shape, kept, count)
return x.sum(axis=axis, keepdims=keepdims)
""",
    "minipeft.ops.arithmetic:Mean.forward": """
axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
axes = tuple(a % x.ndim for a in axes)
kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
count = 1
for a in axes:
    count *= x.shape[a]
ctx.save(x.shape, kept, count)
return x.mean(axis=axis, keepdims=keepdims)
""",
    "minipeft.ops.arithmetic:Mean.backward": """
shape, kept, count = ctx.saved
return array_module(dz).broadcast_to(dz.reshape(kept) / count, shape).copy(), None, None
""",
    "minipeft.ops.arithmetic:Max.forward": """
top = x.max(axis=axis, keepdims=True)
if ctx.needs_grad[0]:
    ctx.save((x == top).astype(x.dtype), top.shape)
return top if keepdims else x.max(axis=axis)
""",
    "minipeft.ops.arithmetic:Max.backward": """
top, kept = ctx.saved
return top * dz.reshape(kept), None, None
""",
    "minipeft.ops.arithmetic:MatMul.forward": """
ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None, x.shape, y.shape)
return arr.matmul(x, y)
""",
    "minipeft.ops.arithmetic:MatMul.backward": """
x, y, x_shape, y_shape = ctx.saved
dx = unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape) if ctx.needs_grad[0] else None
dy = unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape) if ctx.needs_grad[1] else None
return dx, dy
""",
    "minipeft.ops.shape:Transpose.forward": """
ctx.save(axes)
return x.transpose(axes)
""",
    "minipeft.ops.shape:BroadcastTo.forward": """
ctx.save(x.shape)
return array_module(x).broadcast_to(x, shape)
""",
    "minipeft.ops.shape:Index.forward": """
ctx.save(x.shape, key)
return x[key]
""",
    "minipeft.ops.shape:Concatenate.forward": """
ctx.save(axis, tuple(x.shape[axis] for x in xs))
return array_module(xs[0]).concatenate(xs, axis=axis)
""",
    "minipeft.ops.embedding:Embedding.forward": """
ctx.save(ids if ctx.needs_grad[0] else None, table.shape)
return table[ids]
""",
    "minipeft.ops.embedding:Embedding.backward": """
ids, table = ctx.saved
dE = array_module(dz).zeros(table.shape, dtype=dz.dtype)
scatter_add(dE, ids.reshape(-1), dz.reshape(ids.size, table.shape[1]))
return dE, None
""",
    "minipeft.autograd:Function.apply": """
recording = _recording.get()
arrays = [a.data if isinstance(a, Tensor) else a for a in args]
needs = [isinstance(a, Tensor) and recording and a.requires_grad for a in args]
parents = [(a.node or a) if n else None for a, n in zip(args, needs)]
ctx = Context(*needs)
out = Tensor(cls.forward(ctx, *arrays))
if any(needs):
    out.requires_grad = True
    out.node = Node(cls, ctx, parents, out.data.shape)
return out
""",
    "minipeft.autograd:_add_to_leaf": """
g = np.asarray(g)
sofar = leaf.grad if into is None else into.get(leaf)
if sofar is None:
    sofar = g.astype(leaf.dtype, copy=True)
else:
    sofar += g
if into is None:
    leaf.grad = sofar
else:
    into[leaf] = sofar
""",
    "minipeft.autograd:_walk": """
pending = {root: (grad, False)}
heap = [(-root.birth, root)]
while heap:
    node = heapq.heappop(heap)[1]
    dz, _ = pending.pop(node)
    if node.ctx is None:
        raise RuntimeError("walked before")
    ctx, node.ctx = node.ctx, None
    grads = node.function.backward(ctx, dz)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if len(grads) != len(node.parents):
        raise RuntimeError("another number of gradients")
    for i, (parent, g) in enumerate(zip(node.parents, grads)):
        if parent is None:
            continue
        if getattr(g, "shape", None) != parent.shape:
            raise RuntimeError("another shape")
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, g.copy(), dz, into)
        elif parent not in pending:
            pending[parent] = (g, False)
            heapq.heappush(heap, (-parent.birth, parent))
        else:
            pending[parent] = (pending[parent][0] + g, True)
    node.parents = []
""",
}

TEXT = """
== minipeft.ops.arithmetic:unbroadcast 1.1

leading-axes-only
The axes in front are summed, those of size 1 are not: a column that was repeated gets too large a gradient.
+ return dz.sum(axis=tuple(range(dz.ndim - len(shape))))

size-one-axes-only
The axes of size 1 are summed, those that the input lacks in front are not.
+ extra = dz.ndim - len(shape)
+ ones = tuple(i + extra for i, n in enumerate(shape) if n == 1)
+ return dz.sum(axis=ones, keepdims=True) if ones else dz

first-instead-of-sum
One of the repeated entries is taken where all of them should be summed.
+ extra = dz.ndim - len(shape)
+ part = dz[(0,) * extra]
+ return part[tuple(slice(0, 1) if n == 1 and m > 1 else slice(None) for n, m in zip(shape, part.shape))]

mean-instead-of-sum
The repeated entries are averaged where they should be summed.
+ extra = dz.ndim - len(shape)
+ axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1))
+ return (dz.mean(axis=axes, keepdims=True) if axes else dz).reshape(shape)

size-one-axes-lost
The axes of size 1 are summed away and not put back: the shape is not the input's.
+ extra = dz.ndim - len(shape)
+ return dz.sum(axis=(*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1)))

== minipeft.ops.arithmetic:Multiply.forward 1.2 with Multiply.backward

product-saves-all
Both factors are kept whatever is trained: x is needed for dy alone, y for dx alone.
- ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None, x.shape, y.shape)
+ ctx.save(x, y, x.shape, y.shape)

== minipeft.ops.arithmetic:Multiply.backward 1.2 with Multiply.forward

product-not-summed
The gradients are not summed to the shapes of x and y where these were broadcast.
+ x, y, x_shape, y_shape = ctx.saved
+ return None if y is None else dz * y, None if x is None else dz * x

product-in-place
dz is multiplied in place: it belongs to others, who read it later.
+ x, y, x_shape, y_shape = ctx.saved
+ dy = None if x is None else unbroadcast(dz * x, y_shape)
+ if y is None:
+     return None, dy
+ dz *= y
+ return unbroadcast(dz, x_shape), dy

== minipeft.ops.arithmetic:Divide.backward 1.2 with Divide.forward

quotient-square-missing
The derivative of 1/y has y squared below; here it stands once.
+ x, y, x_shape = ctx.saved
+ dx = unbroadcast(dz / y, x_shape) if ctx.needs_grad[0] else None
+ return dx, unbroadcast(-dz * x / y, y.shape) if ctx.needs_grad[1] else None

quotient-sign
A quotient falls as its denominator grows: dy lacks the minus sign.
+ x, y, x_shape = ctx.saved
+ dx = unbroadcast(dz / y, x_shape) if ctx.needs_grad[0] else None
+ return dx, unbroadcast(dz * x / (y * y), y.shape) if ctx.needs_grad[1] else None

quotient-dy-shape
dy is not summed to the shape of y where y was broadcast.
+ x, y, x_shape = ctx.saved
+ dx = unbroadcast(dz / y, x_shape) if ctx.needs_grad[0] else None
+ return dx, -dz * x / (y * y) if ctx.needs_grad[1] else None

== minipeft.ops.arithmetic:Sum.backward 1.3 with Sum.forward

sum-axis-not-put-back
The summed axis is missing in dz; without it as size 1, dz spreads along the wrong axis or not at all.
+ shape, kept, count = ctx.saved
+ return array_module(dz).broadcast_to(dz, shape).copy(), None, None

sum-of-ones
The derivative of a sum is one for each entry, times what comes from above: dz is ignored.
+ shape, kept, count = ctx.saved
+ return array_module(dz).ones(shape, dtype=dz.dtype), None, None

== minipeft.ops.arithmetic:Mean.backward 1.3 with Mean.forward

mean-not-divided
The gradient of a mean lacks the factor 1/n.
- return array_module(dz).broadcast_to(dz.reshape(kept) / count, shape).copy(), None, None
+ return array_module(dz).broadcast_to(dz.reshape(kept), shape).copy(), None, None

mean-divided-by-all
n is the number of entries that one mean runs over, not the size of the whole array.
- return array_module(dz).broadcast_to(dz.reshape(kept) / count, shape).copy(), None, None
+ size = 1
+ for n in shape:
+     size *= n
+ return array_module(dz).broadcast_to(dz.reshape(kept) / size, shape).copy(), None, None

== minipeft.ops.arithmetic:Mean.forward 1.3 with Mean.backward

mean-keepdims-ignored
keepdims asks for the reduced axes to stay, with size 1.
- return x.mean(axis=axis, keepdims=keepdims)
+ return x.mean(axis=axis)

== minipeft.ops.arithmetic:Max.backward 1.4 with Max.forward

max-ties-all
Where several entries are the largest, each gets the whole of dz; they are to share it evenly.
+ top, kept = ctx.saved
+ return top * dz.reshape(kept), None, None

== minipeft.ops.arithmetic:Max.forward 1.4 with Max.backward

max-ties-first
Where several entries are the largest, one of them gets all of dz; they are to share it evenly.
- top = x.max(axis=axis, keepdims=True)
+ top = x.max(axis=axis, keepdims=True)
+ xp = array_module(x)
-     ctx.save((x == top).astype(x.dtype), top.shape)
+     axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
+     axes = tuple(a % x.ndim for a in axes)
+     rest = tuple(a for a in range(x.ndim) if a not in axes)
+     order = rest + axes
+     lined = (x == top).transpose(order)
+     flat = lined.reshape(*(x.shape[a] for a in rest), -1)
+     first = (flat & (xp.cumsum(flat, axis=-1) == 1)).astype(x.dtype).reshape(lined.shape)
+     ctx.save(first.transpose(tuple(sorted(range(x.ndim), key=lambda i: order[i]))), top.shape)

== minipeft.ops.arithmetic:Max.backward 1.4 with Max.forward

max-spread
Every entry gets dz; only the largest one moves the maximum.
- return top * dz.reshape(kept), None, None
+ return dz.reshape(kept) + 0.0 * top, None, None

== minipeft.ops.arithmetic:MatMul.backward 1.5 with MatMul.forward

matmul-dx-order
dX is dZ times Y transposed; here Y stands as it is, which fits for square matrices alone.
- dx = unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape) if ctx.needs_grad[0] else None
- dy = unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape) if ctx.needs_grad[1] else None
+ dx = None if y is None else unbroadcast(arr.matmul(dz, y), x_shape)
+ dy = None if x is None else unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape)

matmul-dy-transposed
dY comes out transposed: its factors stand in the wrong order.
- dx = unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape) if ctx.needs_grad[0] else None
- dy = unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape) if ctx.needs_grad[1] else None
+ dx = None if y is None else unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape)
+ dy = None if x is None else unbroadcast(arr.matmul(dz.swapaxes(-1, -2), x), (*y_shape[:-2], y_shape[-1], y_shape[-2]))

matmul-T
.T reverses all axes; of a batch of matrices only the last two are to be exchanged.
- dx = unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape) if ctx.needs_grad[0] else None
- dy = unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape) if ctx.needs_grad[1] else None
+ dx = None if y is None else unbroadcast(arr.matmul(dz, y.T), x_shape)
+ dy = None if x is None else unbroadcast(arr.matmul(x.T, dz), y_shape)

matmul-batch-not-summed
An operand that was broadcast over the batch has one gradient, the sum over the batch.
- dx = unbroadcast(arr.matmul(dz, y.swapaxes(-1, -2)), x_shape) if ctx.needs_grad[0] else None
- dy = unbroadcast(arr.matmul(x.swapaxes(-1, -2), dz), y_shape) if ctx.needs_grad[1] else None
+ dx = None if y is None else arr.matmul(dz, y.swapaxes(-1, -2))
+ dy = None if x is None else arr.matmul(x.swapaxes(-1, -2), dz)

== minipeft.ops.arithmetic:MatMul.forward 1.5 with MatMul.backward

matmul-saves-all
Both operands are kept whatever is trained: X is needed for dY alone, Y for dX alone.
- ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None, x.shape, y.shape)
+ ctx.save(x, y, x.shape, y.shape)

== minipeft.ops.shape:Transpose.backward 1.6 with Transpose.forward

transpose-same-order
The way back needs the inverse of the order; exchanging two axes is its own inverse, a cycle of three is not.
+ (axes,) = ctx.saved
+ return dz.transpose(axes), None

== minipeft.ops.shape:Transpose.backward 1.6

transpose-reversed
All axes are reversed, whatever their order was.
+ return dz.T, None

== minipeft.ops.shape:BroadcastTo.backward 1.6 with BroadcastTo.forward

stretch-mean
The copies are averaged where they should be summed.
+ (shape,) = ctx.saved
+ total = unbroadcast(dz, shape)
+ return total * (total.size / dz.size), None

== minipeft.ops.shape:Index.backward 1.7 with Index.forward

index-lost-repeats
dx[key] += dz keeps one of several gradients of an entry that was taken more than once.
+ shape, key = ctx.saved
+ dx = array_module(dz).zeros(shape, dtype=dz.dtype)
+ dx[key] += dz
+ return dx, None

index-float64
The zeros are float64: they draw a float32 gradient up to float64.
+ shape, key = ctx.saved
+ dx = array_module(dz).zeros(shape)
+ np.add.at(dx, key, dz)
+ return dx, None

== minipeft.ops.shape:Concatenate.backward 1.7 with Concatenate.forward

join-equal-parts
dz is cut into parts of the same size; the inputs have sizes of their own.
+ axis, sizes = ctx.saved
+ pieces = array_module(dz).array_split(dz, len(sizes), axis=axis)
+ return None, *[g if needed else None for needed, g in zip(ctx.needs_grad[1:], pieces)]

join-start-stands
Every part starts at the beginning of dz: the start does not move on.
+ axis, sizes = ctx.saved
+ grads = []
+ for needed, n in zip(ctx.needs_grad[1:], sizes):
+     key = (slice(None),) * (axis % dz.ndim) + (slice(0, n),)
+     grads.append(dz[key] if needed else None)
+ return None, *grads

join-frozen-skipped
A frozen input gets no gradient, but its part of dz is still there: the start must move past it.
+ axis, sizes = ctx.saved
+ grads, start = [], 0
+ for needed, n in zip(ctx.needs_grad[1:], sizes):
+     if not needed:
+         grads.append(None)
+         continue
+     key = (slice(None),) * (axis % dz.ndim) + (slice(start, start + n),)
+     grads.append(dz[key])
+     start += n
+ return None, *grads

== minipeft.ops.embedding:Embedding.backward 1.8 with Embedding.forward

embedding-lost-repeats
dE[ids] += dz keeps one gradient of an id that comes several times; they are to be summed.
+ ids, shape = ctx.saved
+ dE = array_module(dz).zeros(shape, dtype=dz.dtype)
+ dE[ids] += dz
+ return dE, None

embedding-shape-of-dz
The gradient has the shape of the table, not that of the rows that were taken from it.
+ ids, shape = ctx.saved
+ return dz * 1.0, None

embedding-averaged
The gradients of an id that comes several times are averaged where they should be summed.
+ ids, shape = ctx.saved
+ dE = array_module(dz).zeros(shape, dtype=dz.dtype)
+ scatter_add(dE, ids.reshape(-1), dz.reshape(ids.size, shape[1]))
+ n = np.maximum(np.bincount(ids.reshape(-1).astype(np.int64), minlength=shape[0]), 1)
+ dE /= n[:, None].astype(dE.dtype)
+ return dE, None

== minipeft.ops.embedding:Embedding.forward 1.8 with Embedding.backward

embedding-saves-table
The table is kept though its gradient needs its shape alone.
- ctx.save(ids if ctx.needs_grad[0] else None, table.shape)
+ ctx.save(ids if ctx.needs_grad[0] else None, table)

== minipeft.autograd:Function.apply 1.9

apply-always-records
A node is recorded though nothing requires a gradient: frozen parts of a model would keep their activations.
- if any(needs):
+ if recording:

apply-ignores-no-grad
Under no_grad nothing is recorded, even where an input requires a gradient.
- needs = [isinstance(a, Tensor) and recording and a.requires_grad for a in args]
+ needs = [isinstance(a, Tensor) and a.requires_grad for a in args]

apply-all-need
ctx.needs_grad is the same for all arguments; each argument has its own answer.
- needs = [isinstance(a, Tensor) and recording and a.requires_grad for a in args]
- parents = [(a.node or a) if n else None for a, n in zip(args, needs)]
+ needs = [recording and any(isinstance(b, Tensor) and b.requires_grad for b in args) for a in args]
+ parents = [(a.node or a) if isinstance(a, Tensor) and a.requires_grad else None for a, n in zip(args, needs)]

apply-all-must-need
One input that requires a gradient is enough for a node.
- if any(needs):
+ if all(n for a, n in zip(args, needs) if isinstance(a, Tensor)):

apply-parent-tensor
The parent of a computed tensor is the node that computed it; only a leaf stands there itself.
- parents = [(a.node or a) if n else None for a, n in zip(args, needs)]
+ parents = [a if n else None for a, n in zip(args, needs)]

apply-frozen-parent
What needs no gradient has no parent, only a None in its place.
- parents = [(a.node or a) if n else None for a, n in zip(args, needs)]
+ parents = [(a.node or a) if isinstance(a, Tensor) else None for a, n in zip(args, needs)]

== minipeft.autograd:_add_to_leaf 1.10

leaf-overwritten
A second gradient is added to the first, it does not take its place.
-     sofar += g
+     sofar = g.astype(leaf.dtype, copy=True)

leaf-alias
The gradient is dz itself: two leaves would share one array, and clipping one would scale the other.
-     sofar = g.astype(leaf.dtype, copy=True)
+     sofar = g.astype(leaf.dtype, copy=False)

leaf-dtype
A gradient has the dtype of its leaf, also where a float64 came.
-     sofar = g.astype(leaf.dtype, copy=True)
+     sofar = g.copy()

leaf-scalar
A NumPy scalar is not an array: a gradient of shape () is a 0-d array.
+ sofar = leaf.grad if into is None else into.get(leaf)
+ if sofar is None:
+     sofar = g.astype(leaf.dtype)
+ else:
+     sofar += g
+ if into is None:
+     leaf.grad = sofar
+ else:
+     into[leaf] = sofar

leaf-into-ignored
Where ``into`` is given, gradients go there and leaf.grad stays as it is.
+ g = np.asarray(g)
+ leaf.grad = g.astype(leaf.dtype, copy=True) if leaf.grad is None else leaf.grad + g
+ if into is not None:
+     into[leaf] = leaf.grad

== minipeft.autograd:_walk 1.11

walk-overwrites
What is used twice gets two gradients; the second takes the place of the first where it should be added.
-             pending[parent] = (pending[parent][0] + g, True)
+             pending[parent] = (g, False)

walk-keeps-first
What is used twice gets two gradients; only the first is kept.
-             pending[parent] = (pending[parent][0] + g, True)
+             pass

walk-adds-in-place
A gradient that a rule returned may be dz or another's gradient too: adding to it in place changes both.
-             pending[parent] = (pending[parent][0] + g, True)
+             pending[parent][0].__iadd__(g)

walk-shares-leaves
A rule may return one array for two inputs. Two leaves must not share it: adding to one would change both.
-             _add_to_leaf(parent, g.copy(), dz, into)
+             _add_to_leaf(parent, g, dz, into)

walk-in-order-of-finding
Nodes are walked in the order in which they are found; some of them still wait for a gradient from another.
- pending = {root: (grad, False)}
- heap = [(-root.birth, root)]
- while heap:
-     node = heapq.heappop(heap)[1]
-     dz, _ = pending.pop(node)
+ pending, queue = {root: grad}, [root]
+ while queue:
+     node = queue.pop(0)
+     dz = pending.pop(node)
-     for i, (parent, g) in enumerate(zip(node.parents, grads)):
+     for parent, g in zip(node.parents, grads):
-         elif parent not in pending:
-             pending[parent] = (g, False)
-             heapq.heappush(heap, (-parent.birth, parent))
+         elif parent in pending:
+             pending[parent] = pending[parent] + g
-             pending[parent] = (pending[parent][0] + g, True)
+             pending[parent] = g
+             queue.append(parent)

walk-depth-first
A node is walked before all that used it has been: what comes later arrives at a node that is empty.
- pending = {root: (grad, False)}
- heap = [(-root.birth, root)]
- while heap:
-     node = heapq.heappop(heap)[1]
-     dz, _ = pending.pop(node)
+ stack = [(root, grad)]
+ while stack:
+     node, dz = stack.pop()
-     for i, (parent, g) in enumerate(zip(node.parents, grads)):
+     for parent, g in zip(node.parents, grads):
-         elif parent not in pending:
-             pending[parent] = (g, False)
-             heapq.heappush(heap, (-parent.birth, parent))
+
-             pending[parent] = (pending[parent][0] + g, True)
+             stack.append((parent, g))

walk-emptied-at-the-end
Nodes are emptied when all is done; each is to be emptied once it is walked, so that memory falls on the way.
- pending = {root: (grad, False)}
+ done = []
+ pending = {root: (grad, False)}
-     ctx, node.ctx = node.ctx, None
+     ctx = node.ctx
-     node.parents = []
+     done.append(node)
+ for node in done:
+     node.ctx, node.parents = None, []

walk-every-way
A node is walked once for every way that leads to it; their number doubles with each sum. Add up first.
+ done = []
+ stack = [(root, grad)]
+ while stack:
+     node, dz = stack.pop()
+     if node.ctx is None:
+         raise RuntimeError("walked before")
+     done.append(node)
+     grads = node.function.backward(node.ctx, dz)
+     if not isinstance(grads, (tuple, list)):
+         grads = (grads,)
+     if len(grads) != len(node.parents):
+         raise RuntimeError("another number of gradients")
+     for parent, g in zip(node.parents, grads):
+         if parent is None:
+             continue
+         if getattr(g, "shape", None) != parent.shape:
+             raise RuntimeError("another shape")
+         if isinstance(parent, Tensor):
+             _add_to_leaf(parent, g.copy(), dz, into)
+         else:
+             stack.append((parent, g))
+ for node in done:
+     node.ctx, node.parents = None, []

walk-walked-before
A graph that was walked before is passed over in silence; it is an error that the caller must hear of.
-         raise RuntimeError("walked before")
+         continue

walk-keeps-saved
The nodes keep what they saved after the walk: the memory of a step is held until the loss is gone.
-     if node.ctx is None:
-         raise RuntimeError("walked before")
-     ctx, node.ctx = node.ctx, None
+     ctx = node.ctx
-     node.parents = []

walk-shape-unchecked
A gradient of the wrong shape goes through: broadcasting would spread the mistake in silence.
-         if getattr(g, "shape", None) != parent.shape:
-             raise RuntimeError("another shape")
+         if g is None:
+             raise RuntimeError("no gradient")

walk-recursive
Recursion ends at Python's limit of some thousand calls; a graph may be deeper.
+ order, seen = [], set()
+
+ def visit(node):
+     if node in seen:
+         return
+     seen.add(node)
+     if node.ctx is None:
+         raise RuntimeError("walked before")
+     for parent in node.parents:
+         if isinstance(parent, Node):
+             visit(parent)
+     order.append(node)
+
+ visit(root)
+ pending = {root: grad}
+ for node in reversed(order):
+     dz = pending.pop(node)
+     ctx, node.ctx = node.ctx, None
+     grads = node.function.backward(ctx, dz)
+     if not isinstance(grads, (tuple, list)):
+         grads = (grads,)
+     if len(grads) != len(node.parents):
+         raise RuntimeError("another number of gradients")
+     for parent, g in zip(node.parents, grads):
+         if parent is None:
+             continue
+         if getattr(g, "shape", None) != parent.shape:
+             raise RuntimeError("another shape")
+         if isinstance(parent, Tensor):
+             _add_to_leaf(parent, g.copy(), dz, into)
+         else:
+             pending[parent] = pending[parent] + g if parent in pending else g
+     node.parents = []
+ order.clear()
"""

PRODUCT = "minipeft.ops.arithmetic:Multiply.backward"

MUTANTS = [
    *mistakes(TEXT, PLAIN),
    Mutant(
        "product-own-factor",
        PRODUCT,
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
        "product-frozen-gradient",
        PRODUCT,
        "1.2",
        "A gradient is computed for an input that wants none; ctx.needs_grad says which do.",
        body="""
x, y, x_shape, y_shape = ctx.saved
return unbroadcast(dz * y, x_shape), unbroadcast(dz * x, y_shape)
""",
        along={"Multiply.forward": "ctx.save(x, y, x.shape, y.shape)\nreturn x * y"},
    ),
]
