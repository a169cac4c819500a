"""Mistakes in hw4_prefix."""

from autograder.homeworks.mutant import mistakes

MUTANTS = mistakes("""
== minipeft.peft.prefix:PrefixAttention.forward 4.5

attention-keeps-all
Q, K' or V' is kept for a gradient that is not wanted; a frozen input costs nothing.
- needs_q, needs_k, _needs_v, needs_prefix = ctx.needs_grad[:4]
+ needs_q = needs_k = needs_prefix = True

attention-keeps-the-keys
Q, K' or V' is kept for a gradient that is not wanted; a frozen input costs nothing.
- keys if needs_q else None
+ keys

== minipeft.peft.prompt:Prepend.forward 4.1

prepend-behind
The prompt stands before the text, not behind it.
- z[:, :P] = p
- z[:, P:] = x
+ z[:, T:] = p
+ z[:, :T] = x

prepend-first-example
Every example gets the prompt, not only the first.
- z[:, :P] = p
+ z[:, :P] = 0.0
+ z[0, :P] = p

== minipeft.peft.prompt:Prepend.backward 4.1

prepend-dp-mean
dp is the sum over the batch, not the mean.
- dz[:, :P].sum(axis=0)
+ dz[:, :P].mean(axis=0)

prepend-dp-first
dp is the sum over the batch; this is the first example's.
- dz[:, :P].sum(axis=0)
+ dz[0, :P].copy()

prepend-dp-not-summed
The prompt was broadcast over the batch: dp is summed over it.
- dz[:, :P].sum(axis=0)
+ dz[:, :P].copy()

prepend-dx-shifted
dx are the rows behind the prompt; these are one too early.
- dz[:, P:]
+ dz[:, P - 1 : -1]

prepend-always-both
What wants no gradient gets None.
- dz[:, P:] if needs_x else None
+ dz[:, P:]

== minipeft.peft.prompt:PromptTuningConfig._start 4.2

start-uniform
RANDOM draws from a normal law.
- rng.standard_normal((P, table.shape[1])) * std
+ rng.uniform(-1.0, 1.0, (P, table.shape[1])) * std

start-std-ignored
init_std is not used where it is given.
- float(table.std()) if self.init_std is None else self.init_std
+ float(table.std())

start-std-one
Without init_std the rows are as large as those of the table; N(0, 1) is some fifty times as large.
- float(table.std()) if self.init_std is None else self.init_std
+ 1.0 if self.init_std is None else self.init_std

start-other-generator
Random numbers come from the generator passed in.
- table[rng.integers(0, len(table), P)]
+ table[np.random.default_rng(0).integers(0, len(table), P)]

start-first-rows
SAMPLE_VOCAB draws rows; these are the first ones.
- table[rng.integers(0, len(table), P)]
+ table[np.arange(P) % len(table)]

start-not-repeated
TEXT repeats its rows up to P.
- np.resize(np.asarray(ids), P)
+ np.asarray(ids)[:P]

start-each-repeated
TEXT is repeated as a whole, not token by token.
- np.resize(np.asarray(ids), P)
+ np.repeat(np.asarray(ids), P)[:P]

start-negative-id
A negative id counts from the end and says nothing: refuse it.
- not ids or min(ids) < 0 or max(ids) >= len(table)
+ not ids or max(ids) >= len(table)

== minipeft.ops.attention:mask_bias 4.3

mask-not-shifted
The mask ignores the keys in front: query i sees keys 0 … S - N + i.
- S - N
+ 0

mask-shifted-back
The offset has the wrong sign: the keys in front are hidden, not shown.
- S - N
+ N - S

mask-one-more
A query sees one key too many: the token that it shall predict.
- S - N
+ S - N + 1

mask-one-less
A query does not see its own position.
- S - N
+ S - N - 1

mask-upper
The future is shown and the past is hidden.
- xp.tril
+ xp.triu

mask-or
A key is seen if both masks show it: `and`, not `or`.
- mask & visible
+ mask | visible

mask-inverted
True says where a query may look.
- visible = mask if visible is None else mask & visible
+ visible = ~mask if visible is None else ~mask & visible

mask-padding-ignored
The padding mask is not used.
- mask is not None
+ mask is not None and (not causal)

mask-too-weak
-10 leaves a share of e^-10 to every hidden key; hidden means exactly nothing.
- -math.inf
+ -10.0

mask-float64
M has the dtype of the scores; float64 would promote them.
- xp.where(visible, 0.0, -math.inf).astype(like.dtype)
+ xp.where(visible, 0.0, -math.inf)

== minipeft.peft.prefix:_behind 4.4

behind-after
The prefix stands before the text's keys, not behind them.
- z[:, :, 0, :P] = prefix.swapaxes(0, 1)
- z[:, :, 0, P:] = x
+ z[:, :, 0, S:] = prefix.swapaxes(0, 1)
+ z[:, :, 0, :S] = x

behind-head-order
The prefix is (P, Hk, D): its axes are swapped, not read as (Hk, P, D).
- prefix.swapaxes(0, 1)
+ prefix.reshape(Hk, P, D)

behind-first-example
Every example gets the prefix, not only the first.
- z[:, :, 0, :P] = prefix.swapaxes(0, 1)
+ z[:, :, 0, :P] = 0.0
+ z[0, :, 0, :P] = prefix.swapaxes(0, 1)

== minipeft.peft.prefix:PrefixAttention.forward 4.5

forward-scale
The scores lack the factor s.
- q * scale
+ q * 1.0

forward-scale-sqrt-keys
The scores are multiplied by s, not divided by the root of the number of keys.
- q * scale
+ q * (P + S) ** (-0.5)

forward-mask-without-prefix
The mask is of the text alone; in front of it every query sees the prefix.
- xp.ones((*mask.shape[:3], P), dtype=bool)
+ xp.zeros((*mask.shape[:3], P), dtype=bool)

forward-mask-behind
The columns of the prefix come first in the mask, too.
- [xp.ones((*mask.shape[:3], P), dtype=bool), mask]
+ [mask, xp.ones((*mask.shape[:3], P), dtype=bool)]

forward-causal-over-prefix
The causal mask holds for the text alone: its offset is the length of the prefix.
- bias = mask_bias(scores, N, P + S, causal, mask)
+ bias = mask_bias(scores, N, P + S, False, mask)
+ if causal:
+     scores += xp.where(xp.tril(xp.ones((N, P + S), dtype=bool)), 0.0, -np.inf).astype(scores.dtype)

forward-not-causal
The causal mask is missing: queries see the future.
- mask_bias(scores, N, P + S, causal, mask)
+ mask_bias(scores, N, P + S, False, mask)

forward-groups-interleaved
Heads 0 … G - 1 share the first key head, not every Hk-th head.
- Q = (q * scale).reshape(B, Hk, H // Hk, N, D)
+ Q = np.ascontiguousarray((q * scale).reshape(B, H // Hk, Hk, N, D).swapaxes(1, 2))

forward-softmax-queries
The softmax runs over the keys, not over the queries.
- A = stable_softmax(scores)
+ E = np.exp(scores - scores.max(axis=(-1, -2), keepdims=True))
+ A = E / E.sum(axis=-2, keepdims=True)

forward-softmax-apart
Prefix and text share one softmax; two of them give each a sum of 1.
- A = stable_softmax(scores)
+ A = scores.copy()
+ for part in (A[..., :P], A[..., P:]):
+             E = np.exp(part - part.max(axis=-1, keepdims=True))
+             part[...] = 0.5 * E / E.sum(axis=-1, keepdims=True)

forward-keys-for-values
The prefix's second half are its values; here its keys stand there, too.
- prefix[i]
+ prefix[0]

forward-values-swapped
prefix[0] are the keys and prefix[1] the values, not the other way round.
- _behind(prefix[i], x)
+ _behind(prefix[1 - i], x)

forward-overflow
exp of large scores overflows: subtract each row's maximum first.
- A = stable_softmax(scores)
+ E = np.exp(scores)
+ A = E / E.sum(axis=-1, keepdims=True)

forward-q-written
The input q is written.
- Q = (q * scale).reshape(B, Hk, H // Hk, N, D)
+ q *= scale
+ Q = (q * 1.0).reshape(B, Hk, H // Hk, N, D)

== minipeft.peft.prefix:PrefixAttention.backward 4.6

backward-diagonal
Only the diagonal of the softmax's Jacobian: the sum over the row is missing.
- dS = A * (dA - (dA * A).sum(axis=-1, keepdims=True))
+ dS = A * (1.0 - A) * dA

backward-no-softmax
The row's sum is missing: dS = A ∘ (dA - Σ dA ∘ A).
- dS = A * (dA - (dA * A).sum(axis=-1, keepdims=True))
+ dS = A * dA

backward-dq-scale
dq lacks the factor s.
- (matmul(dS, keys) * scale)
+ (matmul(dS, keys))

backward-dk-scale
dk and dP_k have the factor s twice.
- matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)
+ matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2) * scale

backward-prefix-mean
The prefix is shared by the batch: its gradient is the sum over it, not the mean.
- dK[:, :, :P].sum
+ dK[:, :, :P].mean

backward-prefix-first
dP_v is summed over the batch; this is the first example's.
- dV[:, :, :P].sum(axis=0)
+ dV[0, :, :P]

backward-halves-swapped
dprefix[0] belongs to the keys and dprefix[1] to the values.
- dprefix[1] = dV[:, :, :P].sum(axis=0).swapaxes(0, 1)
+ dprefix[0] = dV[:, :, :P].sum(axis=0).swapaxes(0, 1)
+ keys_half = dprefix[1]
+ keys_half[...] = 0.0

backward-prefix-order
dP is (P, Hk, D); the heads and the positions are mixed up.
- dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)
+ dprefix[0] = dK[:, :, :P].sum(axis=0).reshape(dprefix[0].shape)

backward-text-from-0
dk are the columns behind the prefix; these are the first S.
- dk = dK[:, :, P:] if needs_k else None
+ dk = dK[:, :, : dK.shape[2] - P] if needs_k else None

backward-dv-from-0
dv are the columns behind the prefix; these are the first S.
- dv = dV[:, :, P:] if needs_v else None
+ dv = dV[:, :, : dV.shape[2] - P] if needs_v else None

backward-groups-mean
Query heads that share a key head add up in its gradient; this is their mean.
- matmul(A[..., wanted_v].swapaxes(-1, -2), dZ).sum
+ matmul(A[..., wanted_v].swapaxes(-1, -2), dZ).mean

backward-groups-first
Only the first query head of a group reaches dk.
- matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)
+ matmul(dS[..., wanted_k].swapaxes(-1, -2), Q)[:, :, 0]

backward-dV-of-scores
dV' is Aᵀ dZ, with the softmax's output; this is normalized over the queries.
- A[..., wanted_v]
+ (A / A.sum(axis=-2, keepdims=True))[..., wanted_v]

backward-always-dq
q wants no gradient: return None and compute none.
- if needs_q or needs_k or needs_prefix:
-     dA = matmul(dZ, values.swapaxes(-1, -2))
-     dS = A * (dA - (dA * A).sum(axis=-1, keepdims=True))
-     if needs_q:
-         dq = (matmul(dS, keys) * scale).reshape(q_shape)
-     wanted_k = slice(None) if needs_k else slice(0, P)
-     if needs_k or needs_prefix:
-         dK = matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)
-         dk = dK[:, :, P:] if needs_k else None
-     if needs_prefix:
-         dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)
+ if needs_q or needs_k or needs_prefix:
+     dA = matmul(dZ, values.swapaxes(-1, -2))
+     dS = A * (dA - (dA * A).sum(axis=-1, keepdims=True))
+     if needs_q:
+         dq = (matmul(dS, keys) * scale).reshape(q_shape)
+     wanted_k = slice(None) if needs_k else slice(0, P)
+     if needs_k or needs_prefix:
+         dK = matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)
+         dk = dK[:, :, P:] if needs_k else None
+     if needs_prefix:
+         dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)
+ dq = dz * 0.0 if dq is None else dq

backward-dz-written
The cotangent dz is written.
- needs_q, needs_k, needs_v, needs_prefix = ctx.needs_grad[:4]
+ needs_q, needs_k, needs_v, needs_prefix = ctx.needs_grad[:4]
+ dz += 0.001

== minipeft.peft.prefix:SharedHidden.forward 4.7

hidden-no-tanh
The hidden layer lacks its tanh.
- ops.tanh(ops.linear(self.embedding, self.weight, self.bias))
+ ops.linear(self.embedding, self.weight, self.bias)

hidden-no-bias
The bias b₁ is missing.
- ops.linear(self.embedding, self.weight, self.bias)
+ ops.linear(self.embedding, self.weight)

hidden-cut-off
No gradient reaches Q_θ: it was cut off the graph.
- self.embedding
+ self.embedding.detach()

== minipeft.peft.prefix:ProjectedPrefix.forward 4.7

projected-cut-off
No gradient reaches the shared layer: it was cut off the graph.
- self.shared
+ self.shared().detach

projected-halves
Keys and values are swapped: the columns hold the keys first.
- ops.transpose(ops.reshape(x, -1, *self.shape), 1, 0, 2, 3)
+ ops.transpose(ops.reshape(x, -1, *self.shape), 1, 0, 2, 3)[np.array([1, 0])]

projected-read-wrong
Each row is (2, Hk, D); reading the whole as (2, P, Hk, D) without moving an axis mixes positions up.
- ops.transpose(ops.reshape(x, -1, *self.shape), 1, 0, 2, 3)
+ ops.reshape(x, 2, -1, *self.shape[1:])

projected-no-bias
The layer's own bias is missing.
- ops.linear(self.shared(), self.weight, self.bias)
+ ops.linear(self.shared(), self.weight)

== minipeft.peft.prefix:collapse 4.8

collapse-not-trained
The flat prefix is trained further: it requires a gradient.
- Tensor(array_module(values).ascontiguousarray(values), requires_grad=True)
+ Tensor(array_module(values).ascontiguousarray(values), requires_grad=False)

collapse-zero
The flat prefix is what the network computes, not zeros.
- values = module.prefix().data
+ values = module.prefix().data * 0.0

collapse-option
The configuration still says prefix_projection.
- peft.peft_config.prefix_projection = False
+ peft.peft_config.prefix_projection = True

collapse-first-only
Every layer's prefix is replaced, not only the first.
- module.prefix = FlatPrefix(Tensor(array_module(values).ascontiguousarray(values), requires_grad=True))
+ module.prefix = FlatPrefix(Tensor(array_module(values).ascontiguousarray(values), requires_grad=True))
+ break

== minipeft.peft.prefix:PrefixTuningConfig.apply 4.9

apply-no-offset
The text starts at position P: the offset stays 0 here.
- peft.swap(f"{path}.position_offset" if path else "position_offset", P)
+ pass

apply-shared-flat
Each attention has a prefix of its own.
- prefix = FlatPrefix(trainable(rng.standard_normal((2, P, Hk, D)) * self.init_std, like))
+ prefix = one = locals().get("one") or FlatPrefix(trainable(rng.standard_normal((2, P, Hk, D)), like))

apply-hidden-apart
The attentions of a side share one hidden layer.
- ProjectedPrefix(shared[side_of(path)], Hk, D, m, rng)
+ ProjectedPrefix(SharedHidden(like, P, d, m, rng), Hk, D, m, rng)

apply-query-heads
A prefix has as many heads as the keys, not as the queries.
- Hk, D = attention.n_kv_heads, attention.head_dim
+ Hk, D = attention.n_heads, attention.head_dim

apply-no-check
A prefix that leaves no room for text must be refused.
- check_context("prefix", entry, P)
+ pass

apply-hidden-size
encoder_hidden_size is the width of the hidden layer.
- m = d if self.encoder_hidden_size is None else self.encoder_hidden_size
+ m = d
""")

MUTANTS += mistakes("""
== minipeft.peft.prefix:PrefixAttention.forward 4.5

prefix-float32
float64 is computed in float32 in between.
- return matmul(A, values).reshape(B, H, N, D)
+ return matmul(A.astype("float32"), values).astype("float32").reshape(B, H, N, D).astype(q.dtype)

prefix-by-id
The keys and values of a call are used again for the same prefix, although its entries have changed since.
- keys, values = (_behind(prefix[i], x) for i, x in enumerate((k, v)))
+ seen = vars(PrefixAttention).get("seen", {})
+ PrefixAttention.seen = seen
+ made = (prefix, *(_behind(prefix[i], x) for i, x in enumerate((k, v))))
+ keys, values = seen.setdefault(id(prefix), made)[1:]

== minipeft.peft.prefix:PrefixAttention.backward 4.6

prefix-backward-float32
float64 is computed in float32 in between.
- dS = A * (dA - (dA * A).sum(axis=-1, keepdims=True))
+ dS = (A * (dA - (dA * A).sum(axis=-1, keepdims=True))).astype("float32").astype(dz.dtype)
""")
