"""Other ways to be right in hw3_frozen_adapters."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== einsum
== minipeft.ops.linear:Linear.forward
kept = {}
if ctx.needs_grad[0]:
    kept["W"] = weight
if ctx.needs_grad[1]:
    kept["x"] = x
ctx.save(kept)
z = np.einsum("...k,dk->...d", x, weight)
return z if bias is None else z + bias

== minipeft.ops.linear:Linear.backward
(kept,) = ctx.saved
grads = [None, None, None]
if "W" in kept:
    grads[0] = np.einsum("...d,dk->...k", dz, kept["W"])
if "x" in kept:
    grads[1] = np.tensordot(dz, kept["x"], axes=(tuple(range(dz.ndim - 1)),) * 2)
if ctx.needs_grad[2]:
    grads[2] = np.add.reduce(dz, axis=tuple(range(dz.ndim - 1)))
return grads

== header
import numpy as np

=== matrices-of-rows
== minipeft.ops.linear:Linear.forward
shape = x.shape[:-1]
X = x.reshape(-1, x.shape[-1]) if x.size else x.reshape(0, x.shape[-1])
ctx.save(*(a if n else None for a, n in ((weight, ctx.needs_grad[0]), (X, ctx.needs_grad[1]))))
Z = X.dot(weight.T)
if bias is not None:
    Z = Z + bias[None, :]
return Z.reshape(shape + (weight.shape[0],))

== minipeft.ops.linear:Linear.backward
W, X = ctx.saved
D = dz.reshape(-1, dz.shape[-1]) if dz.size else dz.reshape(0, dz.shape[-1])
dx = dW = db = None
if W is not None:
    dx = D.dot(W).reshape(dz.shape[:-1] + (W.shape[1],))
if X is not None:
    dW = X.T.dot(D).T
if ctx.needs_grad[2]:
    db = D.sum(0)
return [dx, dW, db]

=== modules-by-hand
== minipeft.nn.module:Module.requires_grad_
for _, p in self.named_parameters():
    if flag:
        p.requires_grad = True
    else:
        p.requires_grad, p.grad = False, None
return self

== minipeft.nn.module:replace
*above, last = path.split(".")
owner = find(model, ".".join(above))
if isinstance(owner, tuple):
    raise TypeError("a tuple cannot be changed")
if isinstance(owner, (list, dict)):
    key = last
    if isinstance(owner, list):
        if not last.isdigit() or int(last) >= len(owner):
            raise KeyError(path)
        key = int(last)
    old, owner[key] = owner[key], new
    return old
if last not in owner.__dict__:
    raise KeyError(path)
old = owner.__dict__[last]
owner.__dict__[last] = new
return old

=== held-by-identity
== minipeft.optim.parameters:named_trainables
pairs = []
if isinstance(params, Module):
    pairs = list(params.named_parameters())
else:
    for place, item in enumerate(params):
        pairs.append(item if isinstance(item, tuple) else (f"{place}", item))
for _, p in pairs:
    if not isinstance(p, Tensor):
        raise TypeError("an optimizer takes tensors")
first = {}
for name, p in pairs:
    if p.requires_grad:
        first.setdefault(id(p), (name, p))
held = {}
for name, p in first.values():
    if held.setdefault(name, p) is not p:
        raise ValueError("one name for two tensors")
    if not p.data.flags.c_contiguous:
        raise ValueError("not contiguous")
if len(held) == 0:
    raise ValueError("nothing is trainable")
return held

== minipeft.optim.clip:clip_grad_norm_
if max_norm <= 0:
    raise ValueError("max_norm")
given = list(params.parameters()) if isinstance(params, Module) else list(params)
seen, grads = set(), []
for item in given:
    p = item[1] if isinstance(item, tuple) else item
    if p.grad is not None and id(p) not in seen:
        seen.add(id(p))
        grads.append(p.grad)
if len(grads) == 0:
    return 0.0
total = float(np.linalg.norm([np.linalg.norm(g.astype(np.float64).ravel()) for g in grads]))
if error_if_nonfinite and not np.isfinite(total):
    raise FloatingPointError("not finite")
if total > max_norm:
    for g in grads:
        np.multiply(g, max_norm / total, out=g, casting="same_kind")
return total

== minipeft.optim.clip:_squares
return np.asarray(np.square(x, dtype=np.float64).sum())

=== sgd-written-out
== minipeft.optim.rules:SGD.update
step = g if not decay else g + decay * x
if "velocity" in state:
    state["velocity"][:] = self.momentum * state["velocity"] + step
    step = step + self.momentum * state["velocity"] if self.nesterov else state["velocity"]
x[:] = x - lr * step

== minipeft.optim.rules:AdamW.update
b1, b2 = self.betas
t = self.steps
state["m"][:] = b1 * state["m"] + (1 - b1) * g
state["v"][:] = b2 * state["v"] + (1 - b2) * g**2
m_hat = state["m"] / (1 - b1**t)
v_hat = state["v"] / (1 - b2**t)
x[:] = x - lr * decay * x - lr * m_hat / (np.sqrt(v_hat) + self.eps)

== header
import numpy as np

=== adam-folded
== minipeft.optim.rules:AdamW.update
beta1, beta2 = self.betas
m, v = state["m"], state["v"]
m += (1.0 - beta1) * (g - m)
v += (1.0 - beta2) * (g * g - v)
root = math.sqrt(1.0 - beta2**self.steps)
work = np.sqrt(v)
work /= root
work += self.eps
np.divide(m, work, out=work)
work *= lr / (1.0 - beta1**self.steps)
x -= lr * decay * x
x -= work

== minipeft.optim.rules:SGD.update
work = g.copy()
if decay:
    work += decay * x
if self.momentum:
    v = state["velocity"]
    np.multiply(v, self.momentum, out=v)
    np.add(v, work, out=v)
    if self.nesterov:
        work += self.momentum * v
    else:
        np.copyto(work, v)
work *= -lr
x += work

== header
import math

import numpy as np

=== layers-by-walking
== minipeft.peft.top_layers:TopLayersConfig.apply
check_fields(self, n_layers=0)
model = peft.base_model
owner = None
for path, m in model.named_modules():
    if isinstance(getattr(m, "layers", None), list):
        owner, place = m, path
if owner is None:
    raise PeftError("no layers")
if self.n_layers > len(owner.layers):
    raise PeftError("more layers than there are")
start = f"{place}." if place else ""
parts = [f"layers.{i}" for i in range(len(owner.layers))][len(owner.layers) - self.n_layers :]
if parts and getattr(owner, "norm", None) is not None:
    parts.append("norm")
for part in parts:
    for own, _ in list(find(model, start + part).named_parameters()):
        peft.train_copy(f"{start}{part}.{own}")

== minipeft.peft.bitfit:BitFitConfig.apply
count = 0
for path, m in list(peft.base_model.named_modules()):
    shift = vars(m).get("bias")
    if shift is None or isinstance(shift, (int, float)) or shift.requires_grad:
        continue
    if "norm" in path and not self.norms:
        continue
    peft.train_copy(f"{path}.bias" if path else "bias")
    count += 1
if count == 0:
    raise PeftError("no biases")

=== bottleneck-einsum
== minipeft.peft.adapters:Bottleneck.forward
G = np.einsum("...d,rd->...r", h, W_down) + b_down
U, slope = curve(activation)(G)
need = dict(zip(("h", "Wd", "bd", "Wu"), ctx.needs_grad))
inner = need["h"] or need["Wd"] or need["bd"]
ctx.save(
    [h if need["Wd"] else None, U if need["Wu"] else None],
    [scale * W_up, slope] if inner else None,
    W_down if need["h"] else None,
    (scale, residual),
)
z = np.einsum("...r,dr->...d", U, scale * W_up) + scale * b_up
return z + h if residual else z

== minipeft.peft.adapters:Bottleneck.backward
(h, U), inner, W_down, (scale, residual) = ctx.saved
out = [None] * len(ctx.needs_grad)
r = tuple(range(dz.ndim - 1))
if U is not None:
    out[3] = scale * np.tensordot(dz, U, axes=(r, r))
if ctx.needs_grad[4]:
    out[4] = scale * dz.sum(axis=r)
if inner is not None:
    dG = np.einsum("...d,dr,...r->...r", dz, inner[0], inner[1])
    if h is not None:
        out[1] = np.tensordot(dG, h, axes=(r, r))
    if ctx.needs_grad[2]:
        out[2] = dG.sum(axis=r)
    if W_down is not None:
        out[0] = np.einsum("...r,rd->...d", dG, W_down) + (dz if residual else 0)
return out

=== bottleneck-computed-anew
== minipeft.peft.adapters:Bottleneck.forward
H = h.reshape(-1, h.shape[-1])
U, slope = curve(activation)(H @ W_down.T + b_down)
needs = ctx.needs_grad
keep = {"settings": (scale, residual)}
if needs[3]:
    keep["U"] = U
if needs[0] or needs[1] or needs[2]:
    keep.update(slope=slope, W_up=W_up)
if needs[0]:
    keep["W_down"] = W_down
if needs[1]:
    keep["H"] = H
ctx.save(keep)
branch = (U @ W_up.T + b_up) * scale
return (branch + H if residual else branch).reshape(h.shape)

== minipeft.peft.adapters:Bottleneck.backward
keep = ctx.saved[0]
scale, residual = keep["settings"]
flat = dz.reshape(-1, dz.shape[-1])
inner = (flat @ keep["W_up"]) * keep["slope"] * scale if "slope" in keep else None
needs = ctx.needs_grad
dh = None
if needs[0]:
    dh = inner @ keep["W_down"]
    dh = (dh + flat if residual else dh).reshape(dz.shape)
return (
    dh,
    inner.T @ keep["H"] if needs[1] else None,
    inner.sum(axis=0) if needs[2] else None,
    (flat.T @ keep["U"]) * scale if needs[3] else None,
    flat.sum(axis=0) * scale if needs[4] else None,
    None,
    None,
    None,
)

=== adapter-another-order
== minipeft.peft.adapters:Adapter.__init__
r, std = config.r, config.init_std
self.activation, self.scale = config.activation, config.scale
self.up = trainable(np.zeros((d, r)) if config.zero_up else std * truncated_normal(rng, (d, r)), like)
self.up_bias = trainable(np.zeros((d,)), like)
self.down = trainable(std * truncated_normal(rng, (r, d)), like)
self.down_bias = trainable(np.zeros((r,)), like)
self.norm = LayerNorm(d) if config.layer_norm else None
if self.norm is not None:
    self.norm.weight = trainable(np.ones((d,)), like)
    self.norm.bias = trainable(np.zeros((d,)), like)

== minipeft.peft.adapters:truncated_normal
n = int(np.prod(shape))
kept = np.empty(0)
while kept.size < n:
    more = rng.standard_normal(n)
    kept = np.concatenate([kept, more[np.abs(more) <= 2.0]])
return kept[:n].reshape(shape)

== minipeft.peft.adapters:Adapter.forward
if self.norm is not None:
    return self.branch(self.norm(h), False) + h
return h + self.branch(h, False)

== minipeft.peft.adapters:Adapted.forward
h = self.base.forward(x, *args, **kwargs)
return self.adapter.forward(h)

== minipeft.peft.adapters:AdaptedInParallel.forward
change = self.adapter.branch(x, residual=False)
return change + self.base(x, *args, **kwargs)

=== what is saved is copied
== minipeft.peft.adapters:Bottleneck.forward
- ctx.save
+ copied(ctx)
== header
def copied(ctx):
    return lambda *values: ctx.save(*[v.copy(order="C") if hasattr(v, "strides") else v for v in values])
""")
