"""Mistakes in hw3_frozen_adapters."""

from autograder.homeworks.mutant import Mutant, mistakes

# Plain programs, which the diffs below change; "with" brings a plain forward or backward along.
PLAIN = {
    "minipeft.ops.linear:Linear.forward": """
needs_x, needs_W, needs_b = ctx.needs_grad
ctx.save((x if needs_W else None, weight if needs_x else None), x.shape)
z = matmul(x, weight.T)
return z if bias is None else z + bias
""",
    "minipeft.ops.linear:Linear.backward": """
(x, weight), shape = ctx.saved
Z = rows(dz)
dx = dW = db = None
if ctx.needs_grad[0]:
    dx = matmul(dz, weight)
if ctx.needs_grad[1]:
    dW = matmul(Z.T, rows(x))
if ctx.needs_grad[2]:
    db = Z.sum(axis=0)
return dx, dW, db
""",
    "minipeft.nn.module:replace": """
parent, _, name = path.rpartition(".")
owner = find(model, parent)
old = _child(owner, name, path)
if isinstance(owner, tuple):
    raise TypeError(f"{path}: a tuple cannot be changed")
if isinstance(owner, list):
    owner[int(name)] = new
elif isinstance(owner, dict):
    owner[name] = new
else:
    setattr(owner, name, new)
return old
""",
    "minipeft.optim.parameters:named_trainables": """
items = list(params.named_parameters() if isinstance(params, Module) else params)
named, seen = {}, set()
for i, item in enumerate(items):
    name, p = item if isinstance(item, tuple) else (str(i), item)
    if not isinstance(p, Tensor):
        raise TypeError(f"expected tensors, got {type(p).__name__}")
    if p.requires_grad and id(p) not in seen:
        if name in named:
            raise ValueError(f"two parameters are called {name!r}")
        flat(name, p.data)
        seen.add(id(p))
        named[name] = p
if not named:
    raise ValueError("nothing to train")
return named
""",
    "minipeft.optim.rules:SGD.update": """
if decay:
    g = g + decay * x
if self.momentum:
    v = state["velocity"]
    v *= self.momentum
    v += g
    g = g + self.momentum * v if self.nesterov else v
x -= lr * g
""",
    "minipeft.optim.rules:AdamW.update": """
beta1, beta2 = self.betas
t = self.steps
m, v = state["m"], state["v"]
m *= beta1
m += (1.0 - beta1) * g
v *= beta2
v += (1.0 - beta2) * g * g
if decay:
    x *= 1.0 - lr * decay
m_hat = m / (1.0 - beta1**t)
v_hat = v / (1.0 - beta2**t)
x -= lr * m_hat / (array_module(x).sqrt(v_hat) + self.eps)
""",
    "minipeft.optim.clip:clip_grad_norm_": """
if not max_norm > 0:
    raise ValueError(f"max_norm must be positive, got {max_norm}")
items = params.parameters() if isinstance(params, Module) else params
tensors = list({id(p): p for p in (i[1] if isinstance(i, tuple) else i for i in items)}.values())
grads = [p.grad for p in tensors if p.grad is not None]
norm = math.sqrt(sum(float(_squares(g)) for g in grads))
if error_if_nonfinite and not math.isfinite(norm):
    raise FloatingPointError(f"the norm is {norm}")
if norm > max_norm:
    for g in grads:
        g *= max_norm / norm
return norm
""",
    "minipeft.peft.top_layers:TopLayersConfig.apply": """
check_fields(self, n_layers=0)
model = peft.base_model
stacks = [path for path, m in model.named_modules() if isinstance(vars(m).get("layers"), list)]
if not stacks:
    raise PeftError("no list of layers")
top = stacks[-1]
prefix = f"{top}." if top else ""
count = len(find(model, f"{prefix}layers"))
if self.n_layers > count:
    raise PeftError(f"n_layers={self.n_layers}, but the model has {count}")
if self.n_layers == 0:
    return
chosen = [f"{prefix}layers.{i}." for i in range(count - self.n_layers, count)] + [f"{prefix}norm."]
for name, _ in list(model.named_parameters()):
    if any(name.startswith(c) for c in chosen):
        peft.train_copy(name)
""",
    "minipeft.peft.bitfit:BitFitConfig.apply": """
taken = set(peft.trained())
found = [name for name, _ in peft.base_model.named_parameters() if name.split(".")[-1] == "bias"]
found = [n for n in found if n not in taken and (self.norms or "norm" not in n.rpartition(".")[0])]
if not found:
    raise PeftError("no biases to train")
for name in found:
    peft.train_copy(name)
""",
    "minipeft.peft.adapters:Bottleneck.forward": """
needs_h, needs_Wd, needs_bd, needs_Wu = ctx.needs_grad[:4]
G = h @ W_down.T + b_down
U, slope = curve(activation)(G)
z = scale * (U @ W_up.T + b_up)
if residual:
    z = z + h
before = needs_h or needs_Wd or needs_bd
ctx.save(
    {
        "h": h if needs_Wd else None,
        "U": U if needs_Wu else None,
        "slope": slope if before else None,
        "W_up": W_up if before else None,
        "W_down": W_down if needs_h else None,
    },
    scale,
    residual,
)
return z
""",
    "minipeft.peft.adapters:Bottleneck.backward": """
kept, scale, residual = ctx.saved
needs_h, needs_Wd, needs_bd, needs_Wu, needs_bu = ctx.needs_grad[:5]
dZ = scale * dz
dh = dWd = dbd = dWu = dbu = None
if needs_Wu:
    dWu = rows(dZ).T @ rows(kept["U"])
if needs_bu:
    dbu = rows(dZ).sum(axis=0)
if kept["W_up"] is not None:
    dG = (dZ @ kept["W_up"]) * kept["slope"]
    if needs_Wd:
        dWd = rows(dG).T @ rows(kept["h"])
    if needs_bd:
        dbd = rows(dG).sum(axis=0)
    if needs_h:
        dh = dG @ kept["W_down"]
        if residual:
            dh = dh + dz
return dh, dWd, dbd, dWu, dbu, *[None] * (len(ctx.needs_grad) - 5)
""",
    "minipeft.peft.adapters:Adapter.__init__": """
r = config.r
self.activation = config.activation
self.scale = config.scale
self.norm = None
if config.layer_norm:
    self.norm = LayerNorm(d)
    self.norm.weight, self.norm.bias = trainable(np.ones(d), like), trainable(np.zeros(d), like)
self.down = trainable(truncated_normal(rng, (r, d)) * config.init_std, like)
self.down_bias = trainable(np.zeros(r), like)
up = truncated_normal(rng, (d, r)) * (0.0 if config.zero_up else config.init_std)
self.up = trainable(up, like)
self.up_bias = trainable(np.zeros(d), like)
""",
}

TEXT = """
== minipeft.ops.linear:Linear.forward 3.1 with Linear.backward

linear-no-bias
The bias is not added.
- z if bias is None else z + bias
+ z

linear-bias-twice
The bias is added twice.
- z + bias
+ z + bias + bias

linear-keeps-a-copy
A copy of x is kept though W is frozen: the memory is the same as that of x.
- (x if needs_W else None, weight
+ (x.copy(), weight

linear-saves-all
x and W are kept whatever is trained: x is needed for dW alone, W for dx alone.
- (x if needs_W else None, weight if needs_x else None)
+ (x, weight)

== minipeft.ops.linear:Linear.backward 3.1 with Linear.forward

linear-stops-at-W
dx is missing where W is frozen: the gradient still flows through a frozen layer, only dW is not wanted.
- if ctx.needs_grad[0]:
+ if ctx.needs_grad[0] and ctx.needs_grad[1]:

linear-bias-with-W
db is missing where W is frozen: the two are wanted or not on their own.
- if ctx.needs_grad[2]:
+ if ctx.needs_grad[2] and ctx.needs_grad[1]:

linear-dW-transposed
dW comes out transposed; W is (out, in).
- matmul(Z.T, rows(x))
+ matmul(rows(x).T, Z)

linear-db-mean
db is the sum over the rows, not their mean.
- Z.sum(axis=0)
+ Z.sum(axis=0) / max(1, len(Z))

linear-db-first-axis
db is summed over the first axis alone; every axis but the last is to be summed.
- Z.sum(axis=0)
+ dz.sum(axis=0)

linear-dx-transposed
dx is dZ W: W stands transposed, which fits for square matrices alone.
- matmul(dz, weight)
+ matmul(dz, weight.T)

== minipeft.nn.module:Module.requires_grad_ 3.2

freeze-keeps-gradients
A frozen parameter keeps its old gradient: the next step or clipping would count it.
+ for p in self.parameters():
+     p.requires_grad_(flag)
+ return self

freeze-own-attributes
Only tensors that are attributes of this very module are frozen; its parts have parameters too.
+ for p in vars(self).values():
+     if isinstance(p, Tensor):
+         p.requires_grad_(flag)
+         if not flag:
+             p.grad = None
+ return self

freeze-returns-nothing
The module itself is to be returned.
+ for p in self.parameters():
+     p.requires_grad_(flag)
+     if not flag:
+         p.grad = None

freeze-flag-ignored
The flag is not asked: thawing freezes too.
+ for p in self.parameters():
+     p.requires_grad_(False)
+     p.grad = None
+ return self

thaw-forgets-gradients
Thawing forgets gradients; only freezing does.
+ for p in self.parameters():
+     p.requires_grad_(flag)
+     p.grad = None
+ return self

== minipeft.nn.module:replace 3.2

replace-returns-new
What stood there before is to be returned.
- return old
+ return new

replace-list-inserts
The list has become longer: the new module stands before the old one, not in its place.
- owner[int(name)] = new
+ owner.insert(int(name), new)

replace-dict-attribute
The place is an entry of a dict, not an attribute.
-     owner[name] = new
+     pass

replace-makes-places
A path that leads nowhere makes a new attribute; a misspelt name must be an error.
- old = _child(owner, name, path)
+ try:
+     old = _child(owner, name, path)
+ except KeyError:
+     old = None
+ if isinstance(owner, list) and old is None:
+     raise KeyError(path)

replace-tuple
A tuple cannot be changed; that must be said with a TypeError.
-     raise TypeError(f"{path}: a tuple cannot be changed")
+     return old

== minipeft.optim.parameters:named_trainables 3.3

named-frozen
Frozen parameters are held too: they would get optimizer state, and weight decay would move them.
- if p.requires_grad and id(p) not in seen:
+ if id(p) not in seen:

named-tied-twice
A tensor that is used in two places is held twice and would be stepped twice.
- if p.requires_grad and id(p) not in seen:
+ if p.requires_grad:

named-by-trained
Tensors without a name are counted from 0 over all that were given, frozen ones too.
- (str(i), item)
+ (str(len(named)), item)

named-nothing
With nothing to train, training would do nothing in silence; that is an error.
-     raise ValueError("nothing to train")
+     pass

named-overwritten
Two tensors of one name: the second takes the place of the first in silence.
-         if name in named:
-             raise ValueError(f"two parameters are called {name!r}")

named-frozen-name
A frozen tensor takes a name away from a trained one; what is frozen does not count.
-     if p.requires_grad and id(p) not in seen:
+     if name in named and id(p) not in seen:
+         raise ValueError(name)
+     if p.requires_grad and id(p) not in seen:

named-other-things
What is no tensor is passed over; it is a mistake of the caller, who must hear of it.
-         raise TypeError(f"expected tensors, got {type(p).__name__}")
+         continue

named-strided
A parameter that is not contiguous is taken, but could not be updated in place.
-         flat(name, p.data)

== minipeft.optim.rules:SGD.update 3.4

sgd-ascends
The step goes uphill: the gradient is subtracted.
- x -= lr * g
+ x += lr * g

sgd-no-decay
The weight decay is missing.
- g = g + decay * x
+ pass

sgd-decoupled
The decay does not pass through the velocity: λ x belongs to the gradient.
-     g = g + decay * x
+     x *= 1.0 - lr * decay

sgd-damped
The gradient enters the velocity whole, without a factor 1 - μ.
- v += g
+ v += (1.0 - self.momentum) * g

sgd-rate-in-velocity
The rate has got into the velocity; with a schedule, old steps would keep their old rates.
-     v += g
+     v += lr * g
- g = g + self.momentum * v if self.nesterov else v
+ g = g + self.momentum * v / lr if self.nesterov else v / lr

sgd-nesterov-ignored
Nesterov's look-ahead is not there.
- g + self.momentum * v if self.nesterov else v
+ v

sgd-nesterov-velocity
With Nesterov's look-ahead the step is g + μ v, not v + μ v.
- g + self.momentum * v if
+ v + self.momentum * v if

sgd-velocity-lost
The velocity is made anew and not written back: it is the same zeros at each step.
-     v *= self.momentum
-     v += g
+     v = v * self.momentum + g

sgd-not-in-place
x is bound to a new array; the parameter stays as it was.
- x -= lr * g
+ x = x - lr * g

sgd-writes-gradient
The gradient is written: it is not the optimizer's.
- g = g + decay * x
+ g += decay * x

== minipeft.optim.rules:AdamW.update 3.5

adam-no-correction
The bias correction is missing: m and v start at zero and are too small at first.
- m / (1.0 - beta1**t)
+ m
- v / (1.0 - beta2**t)
+ v

adam-first-moment-only
Only m is corrected; v starts at zero too.
- v / (1.0 - beta2**t)
+ v

adam-late-count
t is 1 in the first step; here it is 2.
- t = self.steps
+ t = self.steps + 1

adam-eps-inside
ε stands under the root; it is added to the root.
- (array_module(x).sqrt(v_hat) + self.eps)
+ array_module(x).sqrt(v_hat + self.eps)

adam-eps-before-correction
ε is added to √v before the correction; it is added to √v̂.
- x -= lr * m_hat / (array_module(x).sqrt(v_hat) + self.eps)
+ x -= lr * m_hat * (1.0 - beta2**t) ** 0.5 / (array_module(x).sqrt(v) + self.eps)

adam-no-square
v averages the squares of the gradient, not its absolute values.
- (1.0 - beta2) * g * g
+ (1.0 - beta2) * abs(g)

adam-no-root
It is divided by v̂ where its root is asked for.
- array_module(x).sqrt(v_hat)
+ v_hat

adam-betas-swapped
β₁ belongs to m and β₂ to v.
- beta1, beta2 = self.betas
+ beta2, beta1 = self.betas

adam-coupled-decay
The decay is added to the gradient: then Adam divides it by √v̂. AdamW takes it from x itself.
- t = self.steps
+ t = self.steps
+ g = g + decay * x
- if decay:
-     x *= 1.0 - lr * decay

adam-decay-without-rate
The decay is λ x where it should be η λ x.
- 1.0 - lr * decay
+ 1.0 - 0.1 * decay

adam-decay-last
The decay comes after the step and shrinks the step too; it comes first.
+ beta1, beta2 = self.betas
+ t = self.steps
+ m, v = state["m"], state["v"]
+ m *= beta1
+ m += (1.0 - beta1) * g
+ v *= beta2
+ v += (1.0 - beta2) * g * g
+ m_hat = m / (1.0 - beta1**t)
+ v_hat = v / (1.0 - beta2**t)
+ x -= lr * m_hat / (array_module(x).sqrt(v_hat) + self.eps)
+ if decay:
+     x *= 1.0 - lr * decay

adam-no-decay
The weight decay is missing.
- x *= 1.0 - lr * decay
+ pass

adam-state-lost
m and v are made anew and not written back: every step is a first step.
- m *= beta1
- m += (1.0 - beta1) * g
- v *= beta2
- v += (1.0 - beta2) * g * g
+ m = beta1 * m + (1.0 - beta1) * g
+ v = beta2 * v + (1.0 - beta2) * g * g

adam-m-on-sum
m takes the gradient whole, without the factor 1 - β₁.
- m += (1.0 - beta1) * g
+ m += g

== minipeft.optim.clip:clip_grad_norm_ 3.6

clip-each
Every gradient is cut by its own norm; the norm is a common one, so that their direction stays.
-         g *= max_norm / norm
+         g *= min(1.0, max_norm / math.sqrt(float(_squares(g))))

clip-always
Gradients within the norm are stretched up to it; they are to stay as they are.
- if norm > max_norm:
+ if norm > 0:

clip-returns-after
The norm before clipping is to be returned.
- return norm
+ return min(norm, max_norm)

clip-new-arrays
The gradients are replaced by new arrays; they are to be scaled in place.
-     for g in grads:
-         g *= max_norm / norm
+     for p in tensors:
+         if p.grad is not None:
+             p.grad = p.grad * np.asarray(max_norm / norm, dtype=p.grad.dtype)

clip-twice
A parameter that is given twice is counted twice and scaled twice.
- list({id(p): p for p in (i[1] if isinstance(i, tuple) else i for i in items)}.values())
+ [i[1] if isinstance(i, tuple) else i for i in items]

clip-sum-of-norms
The norms are summed; the common norm is the root of the sum of all squares.
- math.sqrt(sum(float(_squares(g)) for g in grads))
+ sum(math.sqrt(float(_squares(g))) for g in grads)

clip-no-root
The sum of squares is taken for the norm; its root is missing.
- math.sqrt(sum(float(_squares(g)) for g in grads))
+ sum(float(_squares(g)) for g in grads)

clip-max-norm
This is the largest entry, not the Euclidean norm.
- math.sqrt(sum(float(_squares(g)) for g in grads))
+ max([float(abs(g).max()) for g in grads], default=0.0)

clip-nonfinite
A norm that is not finite is to be an error where it is asked for, before anything is scaled.
- if error_if_nonfinite and not math.isfinite(norm):
+ if False:

clip-unchecked
A max_norm that is not positive is an error.
- if not max_norm > 0:
+ if False:

== minipeft.optim.clip:_squares 3.6

squares-float32
The squares are taken in float32, where 1e25 squared is infinite.
+ return (x * x).sum()

== minipeft.peft.top_layers:TopLayersConfig.apply 3.7

top-first-layers
The first K layers are trained; the top is where the output is.
- range(count - self.n_layers, count)
+ range(self.n_layers)

top-one-too-few
One layer is missing.
- range(count - self.n_layers, count)
+ range(count - self.n_layers + 1, count)

top-one-too-many
One layer too many is trained.
- range(count - self.n_layers, count)
+ range(max(0, count - self.n_layers - 1), count)

top-no-norm
The normalization behind the last layer stays frozen.
- chosen = [f"{prefix}layers.{i}." for i in range(count - self.n_layers, count)] + [f"{prefix}norm."]
+ chosen = [f"{prefix}layers.{i}." for i in range(count - self.n_layers, count)]

top-embeddings
The embeddings are trained too: then every layer has to be recorded, and nothing is saved.
- [f"{prefix}norm."]
+ [f"{prefix}norm.", "input."]

top-base-itself
The base's own parameters are thawed; a step would change the base. Train copies.
-         peft.train_copy(name)
+         find(model, name).requires_grad_(True)

top-first-stack
Of two stacks the first is taken, the encoder's; the decoder's is nearer the output.
- stacks[-1]
+ stacks[0]

top-all-stacks
Of two stacks both are taken; the decoder's alone is meant.
- any(name.startswith(c) for c in chosen)
+ any(name.startswith(c) or name.startswith(c.replace('decoder', 'encoder')) for c in chosen)

top-clamped
More layers than there are is a mistake of the caller, not a wish for all of them.
-     raise PeftError(f"n_layers={self.n_layers}, but the model has {count}")
+     self.n_layers = count

top-minus-zero
With K = 0 all layers are trained: [-0:] is the whole list.
- if self.n_layers == 0:
-     return
+
- range(count - self.n_layers, count)
+ list(range(count))[-self.n_layers:]

== minipeft.peft.bitfit:BitFitConfig.apply 3.8

bitfit-always-norms
norms=False leaves the shifts of the normalizations frozen.
- (self.norms or
+ (True or

bitfit-never-norms
The shifts of the normalizations are biases too, unless norms=False.
- (self.norms or
+ (False or

bitfit-gains
The gains of the normalizations are trained too.
- name.split(".")[-1] == "bias"
+ name.split(".")[-1] == "bias" or "norm" in name.rpartition(".")[0]

bitfit-weights
The weights beside the biases are trained too.
- name.split(".")[-1] == "bias"
+ name.split(".")[-1] in ("bias", "weight")

bitfit-base-itself
The base's own parameters are thawed; a step would change the base. Train copies.
-     peft.train_copy(name)
+     dict(peft.base_model.named_parameters())[name].requires_grad_(True)

bitfit-first-bias
One bias alone is trained.
- for name in found:
+ for name in found[:1]:

bitfit-attention-only
Biases of the attention alone are trained.
- name.split(".")[-1] == "bias"
+ name.split(".")[-1] == "bias" and "attention" in name

== minipeft.peft.adapters:Bottleneck.forward 3.9

bottleneck-scale-residual
The scale multiplies h as well; it belongs to the branch alone.
- z = scale * (U @ W_up.T + b_up)
- if residual:
-     z = z + h
+ z = U @ W_up.T + b_up
+ if residual:
+     z = z + h
+ z = scale * z

bottleneck-no-scale
The scale s is missing.
- scale * (U @ W_up.T + b_up)
+ U @ W_up.T + b_up

bottleneck-scale-bias
The scale multiplies the bias b_u too.
- scale * (U @ W_up.T + b_up)
+ scale * (U @ W_up.T) + b_up

bottleneck-always-residual
h is added where no residual is asked for.
- if residual:
+ if True:

bottleneck-no-residual
h is not added.
-     z = z + h
+     pass

bottleneck-bias-after
b_d stands inside f, not behind it.
- G = h @ W_down.T + b_down
- U, slope = curve(activation)(G)
+ G = h @ W_down.T
+ U, slope = curve(activation)(G)
+ U = U + b_down

bottleneck-gelu
The activation is GELU whatever is asked for.
- curve(activation)
+ curve("gelu")

bottleneck-linear
There is no activation: two linear maps in a row are one.
- U, slope = curve(activation)(G)
+ U, slope = G, G * 0.0 + 1.0

bottleneck-saves-all
Everything is kept whatever is trained.
-         "h": h if needs_Wd else None,
+         "h": h,
-         "U": U if needs_Wu else None,
+         "U": U,
- slope if before else None
+ slope
- W_up if before else None
+ W_up
-         "W_down": W_down if needs_h else None,
+         "W_down": W_down,

bottleneck-in-place
h is written: the residual is added into it.
-     z = z + h
+     z = h.__iadd__(z) if h.flags.writeable else z + h

== minipeft.peft.adapters:Bottleneck.backward 3.10 with Bottleneck.forward

bottleneck-back-no-skip
dh is the gradient of the branch alone; the residual passes dz on as it is.
-             dh = dh + dz
+             pass

bottleneck-back-always-skip
dz is added to dh where there is no residual.
-         if residual:
+         if True:

bottleneck-back-scaled-skip
The scale multiplies what the residual passes on; that is dz as it is.
- dh = dh + dz
+ dh = dh + dZ

bottleneck-back-no-scale
The scale s is missing in all gradients of the branch.
- dZ = scale * dz
+ dZ = 1.0 * dz

bottleneck-back-scale-up
dW_u lacks the scale.
- rows(dZ).T @ rows(kept
+ rows(dz).T @ rows(kept

bottleneck-back-scale-bias
db_u lacks the scale.
- dbu = rows(dZ).sum
+ dbu = rows(dz).sum

bottleneck-back-scale-twice
The scale comes twice into the gradients before f.
- dG = (dZ @ kept["W_up"])
+ dG = scale * (dZ @ kept["W_up"])

bottleneck-back-no-slope
f'(G) is missing.
-     dG = (dZ @ kept["W_up"]) * kept["slope"]
+     dG = (dZ @ kept["W_up"])

bottleneck-back-down-transposed
dW_d comes out transposed; it is (r, d).
- rows(dG).T @ rows(kept["h"])
+ rows(kept["h"]).T @ rows(dG)

bottleneck-back-bias-mean
db_d is the sum over all rows, not their mean.
- dbd = rows(dG).sum(axis=0)
+ dbd = rows(dG).mean(axis=0)

bottleneck-back-first-axis
db_d is summed over the first axis alone; every axis but the last is to be summed.
- dbd = rows(dG).sum(axis=0)
+ dbd = dG.sum(axis=0)

bottleneck-back-frozen
A gradient is computed for an input that wants none.
-     if needs_bd:
+     if True:
- if needs_bu:
+ if True:

== minipeft.peft.adapters:Adapter.__init__ 3.11

adapter-not-truncated
The draws are not cut at two standard deviations.
- self.down = trainable(truncated_normal(rng, (r, d)) *
+ self.down = trainable(rng.standard_normal((r, d)) *

adapter-large-start
init_std is forgotten: the adapter starts far from the identity.
- (r, d)) * config.init_std
+ (r, d))
- (0.0 if config.zero_up else config.init_std)
+ (0.0 if config.zero_up else 1.0)

adapter-zero-up-ignored
zero_up is not asked: the start is near the identity, but not exactly there.
- (0.0 if config.zero_up else config.init_std)
+ config.init_std

adapter-both-zero
Both matrices are zero: then neither ever gets a gradient.
- (r, d)) * config.init_std
+ (r, d)) * 0.0
- (0.0 if config.zero_up else config.init_std)
+ 0.0

adapter-tied
W_u is the transpose of W_d; the two are drawn apart.
- up = truncated_normal(rng, (d, r)) * (0.0 if config.zero_up else config.init_std)
+ up = self.down.data.T * (0.0 if config.zero_up else 1.0)

adapter-biases-drawn
The biases start at zero.
- trainable(np.zeros(r), like)
+ trainable(truncated_normal(rng, (r,)) * config.init_std, like)

adapter-frozen
The parameters of the adapter do not require a gradient.
- self.up = trainable(up, like)
+ self.up = Tensor(up.astype(like.dtype))

adapter-float32
The parameters are to have the dtype of ``like``.
- self.up = trainable(up, like)
+ self.up = trainable(up, Tensor(np.zeros(1, dtype="float32")))

adapter-norm-zero
The gains of the normalization start at 1; at 0 the branch never sees its input.
- trainable(np.ones(d), like)
+ trainable(np.zeros(d), like)

adapter-no-scale
The scale of the configuration is not taken over.
- self.scale = config.scale
+ self.scale = 1.0

== minipeft.peft.adapters:truncated_normal 3.11

truncated-clipped
Draws beyond the cut are moved to it and pile up there; they are to be drawn again.
+ return np.clip(rng.standard_normal(shape), -2.0, 2.0)

truncated-uniform
The draws are uniform, not normal.
+ return rng.uniform(-2.0, 2.0, shape)

truncated-zeroed
Draws beyond the cut are set to zero; they are to be drawn again.
+ x = rng.standard_normal(shape)
+ return np.where(np.abs(x) > 2.0, 0.0, x)

truncated-rescaled
The draws are squeezed into the cut: their spread is another.
+ x = rng.standard_normal(shape)
+ return 2.0 * x / np.abs(x).max()

truncated-once
Draws beyond the cut are drawn again once only; the new ones may lie beyond it too.
+ x = rng.standard_normal(shape)
+ far = np.abs(x) > 2
+ x[far] = rng.standard_normal(int(far.sum()))
+ return x

== minipeft.peft.adapters:Adapter.forward 3.11

adapter-norm-ignored
The normalization is there and is not used.
+ return self.branch(h, True)

adapter-norm-residual
With a normalization, h itself is added, not the normalized h.
+ return self.branch(h if self.norm is None else self.norm(h), True)

adapter-no-residual
h is not added.
+ return self.branch(h if self.norm is None else self.norm(h), False)

== minipeft.peft.adapters:Adapted.forward 3.12

adapted-before
The adapter stands before the sublayer; it belongs behind it.
+ return self.base(self.adapter(x), *args, **kwargs)

adapted-arguments
Further arguments, such as the mask, do not reach the sublayer.
+ return self.adapter(self.base(x, *args))

adapted-branch-only
The sublayer's output is not added to the branch.
+ return self.adapter.branch(self.base(x, *args, **kwargs), False)

adapted-twice
The sublayer's output is added twice: the adapter has a residual of its own.
+ h = self.base(x, *args, **kwargs)
+ return h + self.adapter(h)

== minipeft.peft.adapters:AdaptedInParallel.forward 3.12

parallel-behind
In parallel the adapter reads the input x, not the sublayer's output.
+ h = self.base(x, *args, **kwargs)
+ return h + self.adapter.branch(h, False)

parallel-residual
x itself is added: in parallel the branch has no residual.
+ return self.base(x, *args, **kwargs) + self.adapter(x)

parallel-arguments
Further arguments, such as the mask, do not reach the sublayer.
+ return self.base(x, *args) + self.adapter.branch(x, False)
"""

LINEAR = "minipeft.ops.linear:Linear"

MUTANTS = [
    *mistakes(TEXT, PLAIN),
    Mutant(
        "linear-frozen-dW",
        f"{LINEAR}.backward",
        "3.1",
        "dW is computed for a frozen W: that is a third of the work of the layer, for nothing.",
        body=PLAIN[f"{LINEAR}.backward"].replace("if ctx.needs_grad[1]:", "if x is not None:"),
        along={"Linear.forward": PLAIN[f"{LINEAR}.forward"].replace("x if needs_W", "x if needs_W or needs_x")},
    ),
]

MUTANTS += mistakes("""
== minipeft.peft.adapters:Bottleneck.forward 3.9

bottleneck-copies-W-down
A copy of W_d is kept even if no gradient needs it.
- W_down if needs_h else None
+ W_down.copy()

== minipeft.peft.adapters:Bottleneck.backward 3.10

bottleneck-float32
float64 is computed in float32 in between.
- dG *= slope
+ dG = (dG * slope).astype("float32").astype(dz.dtype)

== minipeft.peft.top_layers:TopLayersConfig.apply 3.7

top-layers-without-list
A model without a list of layers is not refused with a PeftError.
- not stacks
+ False

top-layers-value-error
The error is a ValueError, not a PeftError.
- PeftError(f"top layers: n_layers={self.n_layers}, but the model has {count}")
+ ValueError("too many layers")

== minipeft.peft.bitfit:BitFitConfig.apply 3.8

bitfit-without-biases
A model without biases is accepted.
- not chosen
+ False
""")

MUTANTS += [
    Mutant(
        "linear-state-on-class",
        f"{LINEAR}.forward",
        "3.1",
        "What the backward needs is kept on the class, where the next forward overwrites it.",
        body=PLAIN[f"{LINEAR}.forward"].replace("ctx.save(", "Linear.kept = (", 1),
        along={"Linear.backward": PLAIN[f"{LINEAR}.backward"].replace("ctx.saved", "Linear.kept", 1)},
    ),
    Mutant(
        "linear-closure",
        f"{LINEAR}.forward",
        "3.1",
        "A function is kept that refers to x and W, whatever is needed of them.",
        body="ctx.save(lambda: (x, weight))\nz = rows(x) @ weight.T\nif bias is not None:\n    z += bias\n"
        "return z.reshape(*x.shape[:-1], -1)",
        along={
            "Linear.backward": "x, weight = ctx.saved[0]()\nX, dZ = rows(x), rows(dz)\n"
            "needs_x, needs_W, needs_b = ctx.needs_grad\n"
            "return (dZ @ weight).reshape(x.shape) if needs_x else None, dZ.T @ X if needs_W else None, "
            "dZ.sum(axis=0) if needs_b else None"
        },
    ),
]
