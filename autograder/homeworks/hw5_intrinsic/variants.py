"""Other ways to be right in hw5_intrinsic."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== a block by hand
== minipeft.peft.projections:Dense._block
rng = np.random.default_rng([*self.seed, start])
n = self.size - start if self.size - start < ROWS else ROWS
P = rng.standard_normal((n, self.d)) / np.sqrt(self.total)
return np.asarray(self._kept(P, start), dtype=like.dtype)

=== dense with a preallocated result
== minipeft.peft.projections:Dense.apply
out = np.empty(self.size, dtype=x.dtype)
start = 0
while start < self.size:
    out[start : start + ROWS] = self._block(start, x) @ x
    start += ROWS
return out

== minipeft.peft.projections:Dense.transpose
total = 0
for i in range(-(-self.size // ROWS)):
    part = y[i * ROWS : (i + 1) * ROWS]
    total = total + self._block(i * ROWS, y).T @ part
return total

=== dense by einsum
== minipeft.peft.projections:Dense.apply
return np.hstack([np.einsum("ij,j->i", self._block(s, x), x) for s in range(0, self.size, ROWS)])

== minipeft.peft.projections:Dense.transpose
parts = [np.einsum("ij,i->j", self._block(s, y), y[s : s + ROWS]) for s in range(0, self.size, ROWS)]
return np.sum(parts, axis=0)

=== sparse by index
== minipeft.peft.projections:Sparse._kept
D = self.total
q = 1.0 / np.sqrt(D)
out = np.zeros(values.shape)
where = np.random.default_rng((*self.seed, start, 1)).random(values.shape) < q
size = np.sqrt(1.0 / (D * q))
out[where & (values > 0)] = size
out[where & (values < 0)] = -size
return out

=== Hadamard by recursion
== minipeft.peft.projections:walsh_hadamard
if len(x) == 1:
    return x.copy()
half = len(x) // 2
if half <= 32:
    H = np.ones((1, 1), dtype=x.dtype)
    while len(H) < len(x):
        H = np.block([[H, H], [H, -H]])
    return H @ x
a, b = walsh_hadamard(x[:half]), walsh_hadamard(x[half:])
return np.concatenate([a + b, a - b])

=== Hadamard in place on a copy
== minipeft.peft.projections:walsh_hadamard
y = np.array(x)
h = 1
while h < y.size:
    v = y.reshape(-1, 2, h)
    s = v[:, 0] + v[:, 1]
    v[:, 1] = v[:, 0] - v[:, 1]
    v[:, 0] = s
    h *= 2
return y

=== Hadamard along the axes of a cube
== minipeft.peft.projections:walsh_hadamard
k = len(x).bit_length() - 1
y = x.reshape((2,) * k) if k else x
for axis in range(k):
    a, b = np.take(y, 0, axis), np.take(y, 1, axis)
    y = np.stack([a + b, a - b], axis=axis)
return np.array(y).reshape(-1)

=== Fastfood step by step
== minipeft.peft.projections:Fastfood.apply
B, order, G, s = self._parts(x)
v = np.concatenate([x, np.zeros(self.L - self.d, dtype=x.dtype)])
v = v * B
v = walsh_hadamard(v)
v = v.take(order)
v = v * G
v = walsh_hadamard(v)
return s * v[: self.size]

== minipeft.peft.projections:Fastfood.transpose
B, order, G, s = self._parts(y)
v = np.concatenate([y * y.dtype.type(s), np.zeros(self.L - self.size, dtype=y.dtype)])
v = walsh_hadamard(v) * G
v = v[np.argsort(order)]
return B[: self.d] * walsh_hadamard(v)[: self.d]

=== Subspace with P θ_d computed again
== minipeft.peft.intrinsic:Subspace.forward
ctx.save(projection, theta_d, scale)
change = projection.apply(theta_d)
if scale is not None:
    change = scale * change
return theta0 + np.reshape(change, theta0.shape)

== minipeft.peft.intrinsic:Subspace.backward
projection, theta_d, scale = ctx.saved
g = np.ascontiguousarray(dz).ravel()
lam = 1.0 if scale is None else scale
return (
    dz if ctx.needs_grad[0] else None,
    lam * projection.transpose(g) if ctx.needs_grad[1] else None,
    np.dot(g, projection.apply(theta_d)) if ctx.needs_grad[2] else None,
    None,
)

=== a new module's attributes
== minipeft.peft.intrinsic:Projected.forward
moved = type(self.base).__new__(type(self.base))
moved.__dict__.update(self.base.__dict__)
for name in self._projections.by_name:
    scale = self.scales[name] if name in self.scales else None
    theta = Subspace.apply(getattr(self.base, name), self.theta_d, scale, self._projections.by_name[name])
    setattr(moved, name, theta)
return moved(*args, **kwargs)

=== crossing by a loop
== minipeft.peft.intrinsic:_crossing
best, before = -np.inf, None
for d, m in zip(ds, means):
    new = max(best, float(m))
    if new >= target:
        if before is None:
            return float(d)
        share = (target - best) / (new - best)
        return float(before * (d / before) ** share)
    best, before = new, d
return None

=== the model in two passes
== minipeft.peft.intrinsic:IntrinsicConfig.apply
check_fields(self, d=1, seed=0)
kind = KINDS.get(self.projection)
if kind is None:
    raise PeftError("no such projection")
model = peft.base_model
skip = {id(p) for p in peft.trained().values()}
tensors = [p for p in model.parameters() if id(p) not in skip]
D = sum(int(np.prod(p.shape)) for p in tensors)
d = self.d - (len(tensors) if self.said else 0)
if not 0 < d <= D:
    raise PeftError("no such dimension")
theta = trainable(np.zeros((d,)), tensors[0])
number = {id(p): i for i, p in enumerate(tensors)}
projections = [kind(p.size, d, D, (self.seed, i)) for i, p in enumerate(tensors)]
scales = [trainable(np.array(1.0), tensors[0]) if self.said else None for _ in tensors]
found = []
for path, module in model.named_modules():
    parts = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor) and id(value) in number:
            i = number[id(value)]
            parts[name] = (projections[i], scales[i])
    if parts:
        found.append((path, module, parts))
found.sort(key=lambda item: -item[0].count("."))
if any(path == "" for path, _, _ in found):
    raise PeftError("parameters of the model itself")
for path, module, parts in found:
    peft.swap(path, Projected(module, theta, parts))
""")
