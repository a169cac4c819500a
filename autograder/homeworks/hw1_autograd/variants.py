"""Other ways to be right in hw1_autograd."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== one-axis-at-a-time
== minipeft.ops.arithmetic:unbroadcast
while dz.ndim > len(shape):
    dz = dz.sum(axis=0)
for axis, n in enumerate(shape):
    if n == 1:
        dz = dz.sum(axis=axis, keepdims=True)
return dz

== minipeft.ops.shape:Transpose.backward
(axes,) = ctx.saved
return dz.transpose(np.argsort(axes)), None

== minipeft.ops.shape:BroadcastTo.backward
(shape,) = ctx.saved
return unbroadcast(dz, shape).copy(), None

=== einsum
== minipeft.ops.arithmetic:unbroadcast
letters = "abcdefgh"[: dz.ndim]
own = letters[dz.ndim - len(shape) :]
kept = "".join(c for c, n, m in zip(own, shape, dz.shape[dz.ndim - len(shape) :]) if n == m)
return np.einsum(f"{letters}->{kept}", dz).reshape(shape)

== minipeft.ops.arithmetic:MatMul.backward
x, y = ctx.saved
dx = dy = None
if ctx.needs_grad[0]:
    dx = unbroadcast(np.einsum("...mn,...kn->...mk", dz, y[0]), y[1])
if ctx.needs_grad[1]:
    dy = unbroadcast(np.einsum("...mk,...mn->...kn", x[0], dz), x[1])
return [dx, dy]

== minipeft.ops.arithmetic:MatMul.forward
ctx.save((x if ctx.needs_grad[1] else None, y.shape), (y if ctx.needs_grad[0] else None, x.shape))
return np.einsum("...mk,...kn->...mn", x, y)

=== quotient-from-its-value
== minipeft.ops.arithmetic:Divide.forward
z = x / y
ctx.save(z if ctx.needs_grad[1] else None, y, x.shape)
return z

== minipeft.ops.arithmetic:Divide.backward
z, y, shape = ctx.saved
over = dz / y
return (
    unbroadcast(over, shape) if ctx.needs_grad[0] else None,
    None if z is None else -unbroadcast(over * z, y.shape),
)

== minipeft.ops.arithmetic:Multiply.forward
saved = {"shapes": (x.shape, y.shape)}
if ctx.needs_grad[0]:
    saved["y"] = y
if ctx.needs_grad[1]:
    saved["x"] = x
ctx.save(saved)
return np.multiply(x, y)

== minipeft.ops.arithmetic:Multiply.backward
(saved,) = ctx.saved
grads = [None, None]
if "y" in saved:
    grads[0] = unbroadcast(np.multiply(dz, saved["y"]), saved["shapes"][0])
if "x" in saved:
    grads[1] = unbroadcast(np.multiply(saved["x"], dz), saved["shapes"][1])
return grads

=== reductions-by-expand-dims
== minipeft.ops.arithmetic:Sum.forward
ctx.save(x.shape, axis, keepdims)
return np.add.reduce(x, axis=axis, keepdims=keepdims) if axis is not None else x.sum(keepdims=keepdims)

== minipeft.ops.arithmetic:Sum.backward
shape, axis, keepdims = ctx.saved
if axis is None:
    dz = dz.reshape((1,) * len(shape))
elif not keepdims:
    dz = np.expand_dims(dz, axis)
return np.ones(shape, dtype=dz.dtype) * dz, None, None

== minipeft.ops.arithmetic:Mean.forward
total = x.sum(axis=axis, keepdims=keepdims)
n = x.size // total.size
ctx.save(x.shape, axis, keepdims, n)
return total / n

== minipeft.ops.arithmetic:Mean.backward
shape, axis, keepdims, n = ctx.saved
if axis is None:
    dz = dz.reshape((1,) * len(shape))
elif not keepdims:
    dz = np.expand_dims(dz, axis)
return np.broadcast_to(dz, shape) / n, None, None

== minipeft.ops.arithmetic:Max.forward
z = np.amax(x, axis=axis, keepdims=True)
if ctx.needs_grad[0]:
    ctx.save(x == z, axis)
return z if keepdims else np.squeeze(z, axis)

== minipeft.ops.arithmetic:Max.backward
top, axis = ctx.saved
count = np.count_nonzero(top, axis=axis, keepdims=True)
return np.where(top, dz.reshape(count.shape) / count, 0).astype(dz.dtype), None, None

=== add-at
== minipeft.ops.embedding:Embedding.forward
ctx.save(np.array(ids) if ctx.needs_grad[0] else None, table.shape)
return np.take(table, ids, axis=0)

== minipeft.ops.embedding:Embedding.backward
ids, shape = ctx.saved
dE = np.zeros(shape, dz.dtype)
np.add.at(dE, ids, dz)
return dE, None

== minipeft.ops.shape:Index.backward
shape, key = ctx.saved
dx = np.zeros(shape, dtype=dz.dtype)
np.add.at(dx, key, dz)
return dx, None

== minipeft.ops.shape:Concatenate.backward
axis, sizes = ctx.saved
pieces = np.split(dz, np.cumsum(sizes)[:-1], axis=axis)
return (None, *(g.copy() if ctx.needs_grad[i + 1] else None for i, g in enumerate(pieces)))

=== loops-over-rows
== minipeft.ops.embedding:Embedding.backward
ids, shape = ctx.saved
dE = np.zeros(shape, dtype=dz.dtype)
for v, row in zip(ids.reshape(-1), dz.reshape(-1, shape[1])):
    dE[v] += row
return dE, None

== minipeft.ops.arithmetic:MatMul.forward
ctx.save(x, y) if all(ctx.needs_grad) else ctx.save(
    x if ctx.needs_grad[1] else x.shape, y if ctx.needs_grad[0] else y.shape
)
return x @ y

== minipeft.ops.arithmetic:MatMul.backward
x, y = ctx.saved
x_shape, y_shape = (a if isinstance(a, tuple) else a.shape for a in (x, y))
dx = dy = None
if ctx.needs_grad[0]:
    dx = unbroadcast(dz @ np.moveaxis(y, -1, -2), x_shape)
if ctx.needs_grad[1]:
    batch = dz.shape[:-2]
    xs = np.broadcast_to(x, (*batch, *x_shape[-2:]))
    full = np.empty((*batch, *y_shape[-2:]), dtype=dz.dtype)
    for i in np.ndindex(*batch):
        full[i] = xs[i].T @ dz[i]
    dy = unbroadcast(full, y_shape)
return dx, dy

=== one-hot
== minipeft.ops.embedding:Embedding.backward
ids, (V, d) = ctx.saved
flat = ids.reshape(-1)
onehot = np.zeros((flat.size, V), dtype=dz.dtype)
onehot[np.arange(flat.size), flat] = 1.0
return (onehot.T @ dz.reshape(flat.size, d), None)

== minipeft.ops.shape:Transpose.backward
(axes,) = ctx.saved
inverse = [0] * len(axes)
for i, a in enumerate(axes):
    inverse[a] = i
return (dz.transpose(inverse), None)

=== apply-in-one-pass
== minipeft.autograd:Function.apply
on = _recording.get()
needs = tuple(on and isinstance(a, Tensor) and a.requires_grad for a in args)
ctx = Context(*needs)
out = Tensor(cls.forward(ctx, *(a.data if isinstance(a, Tensor) else a for a in args)))
if True in needs:
    parents = [None] * len(args)
    for i, a in enumerate(args):
        if needs[i]:
            parents[i] = a if a.node is None else a.node
    out.node = Node(function=cls, ctx=ctx, parents=parents, shape=out.shape)
    out.requires_grad = True
return out

== minipeft.autograd:_add_to_leaf
store = leaf.grad if into is None else into.get(leaf)
g = np.array(g, dtype=leaf.dtype)
total = g if store is None else store + g
total = np.asarray(total)
if into is None:
    leaf.grad = total
else:
    into[leaf] = total

=== walk-by-counting
== minipeft.autograd:_walk
uses, todo, seen = {root: 0}, [root], {root}
while todo:
    node = todo.pop()
    if node.ctx is None:
        raise RuntimeError("this graph was walked before")
    for parent in node.parents:
        if isinstance(parent, Node):
            uses[parent] = uses.get(parent, 0) + 1
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)
sums, ready = {root: grad}, [root]
while ready:
    node = ready.pop()
    dz = sums.pop(node)
    ctx, parents = node.ctx, node.parents
    node.ctx, node.parents = None, []
    found = node.function.backward(ctx, dz)
    del ctx
    found = found if isinstance(found, (tuple, list)) else (found,)
    if len(found) != len(parents):
        raise RuntimeError(f"{len(found)} gradients for {len(parents)} inputs")
    for parent, g in zip(parents, found):
        if parent is None:
            continue
        if g is None or g.shape != parent.shape:
            raise RuntimeError("a gradient has another shape than its input")
        if isinstance(parent, Tensor):
            _add_to_leaf(parent, g.copy(), dz, into)
            continue
        sums[parent] = sums[parent] + g if parent in sums else g
        uses[parent] -= 1
        if uses[parent] == 0:
            ready.append(parent)

=== walk-sorted-first
== minipeft.autograd:_walk
nodes, todo = set(), [root]
while todo:
    node = todo.pop()
    if node not in nodes:
        nodes.add(node)
        todo.extend(p for p in node.parents if isinstance(p, Node))
order = sorted(nodes, key=lambda node: node.birth)
nodes.clear()
received = {root: [grad]}
while order:
    node = order.pop()
    dz = received.pop(node)
    dz = dz[0] if len(dz) == 1 else np.add.reduce(dz)
    if node.ctx is None:
        raise RuntimeError("walked before")
    result = node.function.backward(node.ctx, dz)
    node.ctx = None
    result = list(result) if isinstance(result, (list, tuple)) else [result]
    parents, node.parents = node.parents, []
    if len(result) != len(parents):
        raise RuntimeError("another number of gradients than inputs")
    for parent, g in zip(parents, result):
        if parent is not None:
            if not hasattr(g, "shape") or g.shape != parent.shape:
                raise RuntimeError("a wrong shape")
            if isinstance(parent, Tensor):
                _add_to_leaf(parent, g.copy(), dz, into)
            else:
                received.setdefault(parent, []).append(g)

=== walk-copies
== minipeft.autograd:_walk
sums = {root: grad.copy()}
while sums:
    node = max(sums, key=lambda n: n.birth)
    dz = sums.pop(node)
    if node.ctx is None:
        raise RuntimeError("walked before")
    grads = node.function.backward(node.ctx, dz)
    node.ctx = None
    grads = grads if isinstance(grads, (tuple, list)) else (grads,)
    if len(grads) != len(node.parents):
        raise RuntimeError("another number of gradients")
    for parent, g in zip(node.parents, grads):
        if isinstance(parent, (Node, Tensor)):
            if np.shape(g) != parent.shape or g is None:
                raise RuntimeError("another shape")
            if isinstance(parent, Tensor):
                _add_to_leaf(parent, g.copy(), dz, into)
            elif parent in sums:
                sums[parent] += g
            else:
                sums[parent] = np.array(g)
    node.parents.clear()

=== double-inside
== minipeft.ops.arithmetic:Multiply.backward
x, y, sx, sy = ctx.saved
wide = dz.astype("float64")
dx = unbroadcast(wide * y, sx).astype(dz.dtype) if ctx.needs_grad[0] else None
dy = unbroadcast(wide * x, sy).astype(dz.dtype) if ctx.needs_grad[1] else None
return dx, dy

== minipeft.ops.arithmetic:Multiply.forward
ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None, x.shape, y.shape)
return (x.astype("float64") * y.astype("float64")).astype(x.dtype)

== minipeft.ops.arithmetic:Max.forward
top = x.max(axis=axis, keepdims=True)
where = x >= top
if ctx.needs_grad[0]:
    share = np.where(where, 1.0 / np.count_nonzero(where, axis=axis, keepdims=True), 0.0).astype(x.dtype)
    ctx.save([share, top.shape])
return x.max(axis=axis, keepdims=keepdims)

== minipeft.ops.arithmetic:Max.backward
((share, kept),) = ctx.saved
return dz.reshape(kept) * share, None, None
""")
