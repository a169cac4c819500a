"""Mistakes in hw4_prefix."""

from autograder.mutants import Mutant

PREFIX, PROMPT = "minipeft.peft.prefix:", "minipeft.peft.prompt:"
MASK = "minipeft.ops.attention:mask_bias"
FORWARD, BACKWARD = f"{PREFIX}PrefixAttention.forward", f"{PREFIX}PrefixAttention.backward"


def _patch(name: str, target: str, problem: str, hint: str, old: str, new: str, *also: str) -> Mutant:
    return Mutant(name, target, problem, hint, old, new, also=also)


MUTANTS = [
    _patch(
        "attention-keeps-all",
        FORWARD,
        "4.5",
        "Q, K' or V' is kept for a gradient that is not wanted; a frozen input costs nothing.",
        "needs_q, needs_k, _needs_v, needs_prefix = ctx.needs_grad[:4]",
        "needs_q = needs_k = needs_prefix = True",
    ),
    _patch(
        "attention-keeps-the-keys",
        FORWARD,
        "4.5",
        "Q, K' or V' is kept for a gradient that is not wanted; a frozen input costs nothing.",
        "keys if needs_q else None",
        "keys",
    ),
    _patch(
        "prepend-behind",
        f"{PROMPT}Prepend.forward",
        "4.1",
        "The prompt stands before the text, not behind it.",
        """z[:, :P] = p
z[:, P:] = x""",
        """z[:, T:] = p
z[:, :T] = x""",
    ),
    _patch(
        "prepend-first-example",
        f"{PROMPT}Prepend.forward",
        "4.1",
        "Every example gets the prompt, not only the first.",
        "z[:, :P] = p",
        """z[:, :P] = 0.0
z[0, :P] = p""",
    ),
    _patch(
        "prepend-dp-mean",
        f"{PROMPT}Prepend.backward",
        "4.1",
        "dp is the sum over the batch, not the mean.",
        "dz[:, :P].sum(axis=0)",
        "dz[:, :P].mean(axis=0)",
    ),
    _patch(
        "prepend-dp-first",
        f"{PROMPT}Prepend.backward",
        "4.1",
        "dp is the sum over the batch; this is the first example's.",
        "dz[:, :P].sum(axis=0)",
        "dz[0, :P].copy()",
    ),
    _patch(
        "prepend-dp-not-summed",
        f"{PROMPT}Prepend.backward",
        "4.1",
        "The prompt was broadcast over the batch: dp is summed over it.",
        "dz[:, :P].sum(axis=0)",
        "dz[:, :P].copy()",
    ),
    _patch(
        "prepend-dx-shifted",
        f"{PROMPT}Prepend.backward",
        "4.1",
        "dx are the rows behind the prompt; these are one too early.",
        "dz[:, P:]",
        "dz[:, P - 1 : -1]",
    ),
    _patch(
        "prepend-always-both",
        f"{PROMPT}Prepend.backward",
        "4.1",
        "What wants no gradient gets None.",
        "dz[:, P:] if needs_x else None",
        "dz[:, P:]",
    ),
    _patch(
        "start-uniform",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "RANDOM draws from a normal law.",
        "rng.standard_normal((P, table.shape[1])) * std",
        "rng.uniform(-1.0, 1.0, (P, table.shape[1])) * std",
    ),
    _patch(
        "start-std-ignored",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "init_std is not used where it is given.",
        "float(table.std()) if self.init_std is None else self.init_std",
        "float(table.std())",
    ),
    _patch(
        "start-std-one",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "Without init_std the rows are as large as those of the table; N(0, 1) is some fifty times as large.",
        "float(table.std()) if self.init_std is None else self.init_std",
        "1.0 if self.init_std is None else self.init_std",
    ),
    _patch(
        "start-other-generator",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "Random numbers come from the generator passed in.",
        "table[rng.integers(0, len(table), P)]",
        "table[np.random.default_rng(0).integers(0, len(table), P)]",
    ),
    _patch(
        "start-first-rows",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "SAMPLE_VOCAB draws rows; these are the first ones.",
        "table[rng.integers(0, len(table), P)]",
        "table[np.arange(P) % len(table)]",
    ),
    _patch(
        "start-not-repeated",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "TEXT repeats its rows up to P.",
        "np.resize(np.asarray(ids), P)",
        "np.asarray(ids)[:P]",
    ),
    _patch(
        "start-each-repeated",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "TEXT is repeated as a whole, not token by token.",
        "np.resize(np.asarray(ids), P)",
        "np.repeat(np.asarray(ids), P)[:P]",
    ),
    _patch(
        "start-negative-id",
        f"{PROMPT}PromptTuningConfig._start",
        "4.2",
        "A negative id counts from the end and says nothing: refuse it.",
        "not ids or min(ids) < 0 or max(ids) >= len(table)",
        "not ids or max(ids) >= len(table)",
    ),
    _patch(
        "mask-not-shifted",
        MASK,
        "4.3",
        "The mask ignores the keys in front: query i sees keys 0 … S - N + i.",
        "S - N",
        "0",
    ),
    _patch(
        "mask-shifted-back",
        MASK,
        "4.3",
        "The offset has the wrong sign: the keys in front are hidden, not shown.",
        "S - N",
        "N - S",
    ),
    _patch(
        "mask-one-more",
        MASK,
        "4.3",
        "A query sees one key too many: the token that it shall predict.",
        "S - N",
        "S - N + 1",
    ),
    _patch("mask-one-less", MASK, "4.3", "A query does not see its own position.", "S - N", "S - N - 1"),
    _patch("mask-upper", MASK, "4.3", "The future is shown and the past is hidden.", "xp.tril", "xp.triu"),
    _patch(
        "mask-or",
        MASK,
        "4.3",
        "A key is seen if both masks show it: `and`, not `or`.",
        "mask & visible",
        "mask | visible",
    ),
    _patch(
        "mask-inverted",
        MASK,
        "4.3",
        "True says where a query may look.",
        "visible = mask if visible is None else mask & visible",
        "visible = ~mask if visible is None else ~mask & visible",
    ),
    _patch(
        "mask-padding-ignored",
        MASK,
        "4.3",
        "The padding mask is not used.",
        "mask is not None",
        "mask is not None and (not causal)",
    ),
    _patch(
        "mask-too-weak",
        MASK,
        "4.3",
        "-10 leaves a share of e^-10 to every hidden key; hidden means exactly nothing.",
        "-math.inf",
        "-10.0",
    ),
    _patch(
        "mask-float64",
        MASK,
        "4.3",
        "M has the dtype of the scores; float64 would promote them.",
        "xp.where(visible, 0.0, -math.inf).astype(like.dtype)",
        "xp.where(visible, 0.0, -math.inf)",
    ),
    _patch(
        "behind-after",
        f"{PREFIX}_behind",
        "4.4",
        "The prefix stands before the text's keys, not behind them.",
        """z[:, :, 0, :P] = prefix.swapaxes(0, 1)
z[:, :, 0, P:] = x""",
        """z[:, :, 0, S:] = prefix.swapaxes(0, 1)
z[:, :, 0, :S] = x""",
    ),
    _patch(
        "behind-head-order",
        f"{PREFIX}_behind",
        "4.4",
        "The prefix is (P, Hk, D): its axes are swapped, not read as (Hk, P, D).",
        "prefix.swapaxes(0, 1)",
        "prefix.reshape(Hk, P, D)",
    ),
    _patch(
        "behind-first-example",
        f"{PREFIX}_behind",
        "4.4",
        "Every example gets the prefix, not only the first.",
        "z[:, :, 0, :P] = prefix.swapaxes(0, 1)",
        """z[:, :, 0, :P] = 0.0
z[0, :, 0, :P] = prefix.swapaxes(0, 1)""",
    ),
    _patch("forward-scale", FORWARD, "4.5", "The scores lack the factor s.", "q * scale", "q * 1.0"),
    _patch(
        "forward-scale-sqrt-keys",
        FORWARD,
        "4.5",
        "The scores are multiplied by s, not divided by the root of the number of keys.",
        "q * scale",
        "q * (P + S) ** (-0.5)",
    ),
    _patch(
        "forward-mask-without-prefix",
        FORWARD,
        "4.5",
        "The mask is of the text alone; in front of it every query sees the prefix.",
        "xp.ones((*mask.shape[:3], P), dtype=bool)",
        "xp.zeros((*mask.shape[:3], P), dtype=bool)",
    ),
    _patch(
        "forward-mask-behind",
        FORWARD,
        "4.5",
        "The columns of the prefix come first in the mask, too.",
        "[xp.ones((*mask.shape[:3], P), dtype=bool), mask]",
        "[mask, xp.ones((*mask.shape[:3], P), dtype=bool)]",
    ),
    _patch(
        "forward-causal-over-prefix",
        FORWARD,
        "4.5",
        "The causal mask holds for the text alone: its offset is the length of the prefix.",
        "bias = mask_bias(A, N, P + S, causal, mask)",
        """bias = mask_bias(A, N, P + S, False, mask)
if causal:
    A += xp.where(xp.tril(xp.ones((N, P + S), dtype=bool)), 0.0, -np.inf).astype(A.dtype)""",
    ),
    _patch(
        "forward-not-causal",
        FORWARD,
        "4.5",
        "The causal mask is missing: queries see the future.",
        "mask_bias(A, N, P + S, causal, mask)",
        "mask_bias(A, N, P + S, False, mask)",
    ),
    _patch(
        "forward-groups-interleaved",
        FORWARD,
        "4.5",
        "Heads 0 … G - 1 share the first key head, not every Hk-th head.",
        "Q = (q * scale).reshape(B, Hk, H // Hk, N, D)",
        "Q = np.ascontiguousarray((q * scale).reshape(B, H // Hk, Hk, N, D).swapaxes(1, 2))",
    ),
    _patch(
        "forward-softmax-queries",
        FORWARD,
        "4.5",
        "The softmax runs over the keys, not over the queries.",
        "softmax_rows(A.reshape(-1, P + S))",
        """E = np.exp(A - A.max(axis=(-1, -2), keepdims=True))
A[...] = E / E.sum(axis=-2, keepdims=True)""",
    ),
    _patch(
        "forward-softmax-apart",
        FORWARD,
        "4.5",
        "Prefix and text share one softmax; two of them give each a sum of 1.",
        "softmax_rows(A.reshape(-1, P + S))",
        "for part in (A[..., :P], A[..., P:]):\n            E = np.exp(part - part.max(axis=-1, keepdims=True))\n"
        "            part[...] = 0.5 * E / E.sum(axis=-1, keepdims=True)",
    ),
    _patch(
        "forward-keys-for-values",
        FORWARD,
        "4.5",
        "The prefix's second half are its values; here its keys stand there, too.",
        "prefix[i]",
        "prefix[0]",
    ),
    _patch(
        "forward-values-swapped",
        FORWARD,
        "4.5",
        "prefix[0] are the keys and prefix[1] the values, not the other way round.",
        "_behind(prefix[i], x)",
        "_behind(prefix[1 - i], x)",
    ),
    _patch(
        "forward-overflow",
        FORWARD,
        "4.5",
        "exp of large scores overflows: subtract each row's maximum first.",
        "softmax_rows(A.reshape(-1, P + S))",
        """E = np.exp(A)
A[...] = E / E.sum(axis=-1, keepdims=True)""",
    ),
    _patch(
        "forward-q-written",
        FORWARD,
        "4.5",
        "The input q is written.",
        "Q = (q * scale).reshape(B, Hk, H // Hk, N, D)",
        """q *= scale
Q = (q * 1.0).reshape(B, Hk, H // Hk, N, D)""",
    ),
    _patch(
        "backward-diagonal",
        BACKWARD,
        "4.6",
        "Only the diagonal of the softmax's Jacobian: the sum over the row is missing.",
        "softmax_rows_backward(A.reshape(-1, A.shape[-1]), dS.reshape(-1, A.shape[-1]))",
        "dS *= A * (1.0 - A)",
    ),
    _patch(
        "backward-no-softmax",
        BACKWARD,
        "4.6",
        "The row's sum is missing: dS = A ∘ (dA - Σ dA ∘ A).",
        "softmax_rows_backward(A.reshape(-1, A.shape[-1]), dS.reshape(-1, A.shape[-1]))",
        "dS *= A",
    ),
    _patch(
        "backward-dq-scale",
        BACKWARD,
        "4.6",
        "dq lacks the factor s.",
        "(matmul(dS, keys) * scale)",
        "(matmul(dS, keys))",
    ),
    _patch(
        "backward-dk-scale",
        BACKWARD,
        "4.6",
        "dk and dP_k have the factor s twice.",
        "matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)",
        "matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2) * scale",
    ),
    _patch(
        "backward-prefix-mean",
        BACKWARD,
        "4.6",
        "The prefix is shared by the batch: its gradient is the sum over it, not the mean.",
        "dK[:, :, :P].sum",
        "dK[:, :, :P].mean",
    ),
    _patch(
        "backward-prefix-first",
        BACKWARD,
        "4.6",
        "dP_v is summed over the batch; this is the first example's.",
        "dV[:, :, :P].sum(axis=0)",
        "dV[0, :, :P]",
    ),
    _patch(
        "backward-halves-swapped",
        BACKWARD,
        "4.6",
        "dprefix[0] belongs to the keys and dprefix[1] to the values.",
        "dprefix[1] = dV[:, :, :P].sum(axis=0).swapaxes(0, 1)",
        """dprefix[0] = dV[:, :, :P].sum(axis=0).swapaxes(0, 1)
keys_half = dprefix[1]
keys_half[...] = 0.0""",
    ),
    _patch(
        "backward-prefix-order",
        BACKWARD,
        "4.6",
        "dP is (P, Hk, D); the heads and the positions are mixed up.",
        "dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)",
        "dprefix[0] = dK[:, :, :P].sum(axis=0).reshape(dprefix[0].shape)",
    ),
    _patch(
        "backward-text-from-0",
        BACKWARD,
        "4.6",
        "dk are the columns behind the prefix; these are the first S.",
        "dk = dK[:, :, P:] if needs_k else None",
        "dk = dK[:, :, : dK.shape[2] - P] if needs_k else None",
    ),
    _patch(
        "backward-dv-from-0",
        BACKWARD,
        "4.6",
        "dv are the columns behind the prefix; these are the first S.",
        "dv = dV[:, :, P:] if needs_v else None",
        "dv = dV[:, :, : dV.shape[2] - P] if needs_v else None",
    ),
    _patch(
        "backward-groups-mean",
        BACKWARD,
        "4.6",
        "Query heads that share a key head add up in its gradient; this is their mean.",
        "matmul(A[..., wanted_v].swapaxes(-1, -2), dZ).sum",
        "matmul(A[..., wanted_v].swapaxes(-1, -2), dZ).mean",
    ),
    _patch(
        "backward-groups-first",
        BACKWARD,
        "4.6",
        "Only the first query head of a group reaches dk.",
        "matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)",
        "matmul(dS[..., wanted_k].swapaxes(-1, -2), Q)[:, :, 0]",
    ),
    _patch(
        "backward-dV-of-scores",
        BACKWARD,
        "4.6",
        "dV' is Aᵀ dZ, with the softmax's output; this is normalized over the queries.",
        "A[..., wanted_v]",
        "(A / A.sum(axis=-2, keepdims=True))[..., wanted_v]",
    ),
    _patch(
        "backward-always-dq",
        BACKWARD,
        "4.6",
        "q wants no gradient: return None and compute none.",
        """if needs_q or needs_k or needs_prefix:
    dS = empty(dz, A.shape)
    matmul(dZ, values.swapaxes(-1, -2), out=dS)
    softmax_rows_backward(A.reshape(-1, A.shape[-1]), dS.reshape(-1, A.shape[-1]))
    if needs_q:
        dq = (matmul(dS, keys) * scale).reshape(q_shape)
    wanted_k = slice(None) if needs_k else slice(0, P)
    if needs_k or needs_prefix:
        dK = matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)
        dk = dK[:, :, P:] if needs_k else None
    if needs_prefix:
        dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)""",
        """if needs_q or needs_k or needs_prefix:
    dS = empty(dz, A.shape)
    matmul(dZ, values.swapaxes(-1, -2), out=dS)
    softmax_rows_backward(A.reshape(-1, A.shape[-1]), dS.reshape(-1, A.shape[-1]))
    if needs_q:
        dq = (matmul(dS, keys) * scale).reshape(q_shape)
    wanted_k = slice(None) if needs_k else slice(0, P)
    if needs_k or needs_prefix:
        dK = matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)
        dk = dK[:, :, P:] if needs_k else None
    if needs_prefix:
        dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)
dq = dz * 0.0 if dq is None else dq""",
    ),
    _patch(
        "backward-dz-written",
        BACKWARD,
        "4.6",
        "The cotangent dz is written.",
        "needs_q, needs_k, needs_v, needs_prefix = ctx.needs_grad[:4]",
        """needs_q, needs_k, needs_v, needs_prefix = ctx.needs_grad[:4]
dz += 0.001""",
    ),
    _patch(
        "hidden-no-tanh",
        f"{PREFIX}SharedHidden.forward",
        "4.7",
        "The hidden layer lacks its tanh.",
        "ops.tanh(ops.linear(self.embedding, self.weight, self.bias))",
        "ops.linear(self.embedding, self.weight, self.bias)",
    ),
    _patch(
        "hidden-no-bias",
        f"{PREFIX}SharedHidden.forward",
        "4.7",
        "The bias b₁ is missing.",
        "ops.linear(self.embedding, self.weight, self.bias)",
        "ops.linear(self.embedding, self.weight)",
    ),
    _patch(
        "hidden-cut-off",
        f"{PREFIX}SharedHidden.forward",
        "4.7",
        "No gradient reaches Q_θ: it was cut off the graph.",
        "self.embedding",
        "self.embedding.detach()",
    ),
    _patch(
        "projected-cut-off",
        f"{PREFIX}ProjectedPrefix.forward",
        "4.7",
        "No gradient reaches the shared layer: it was cut off the graph.",
        "self.shared",
        "self.shared().detach",
    ),
    _patch(
        "projected-halves",
        f"{PREFIX}ProjectedPrefix.forward",
        "4.7",
        "Keys and values are swapped: the columns hold the keys first.",
        "ops.transpose(ops.reshape(x, -1, *self.shape), 1, 0, 2, 3)",
        "ops.transpose(ops.reshape(x, -1, *self.shape), 1, 0, 2, 3)[np.array([1, 0])]",
    ),
    _patch(
        "projected-read-wrong",
        f"{PREFIX}ProjectedPrefix.forward",
        "4.7",
        "Each row is (2, Hk, D); reading the whole as (2, P, Hk, D) without moving an axis mixes positions up.",
        "ops.transpose(ops.reshape(x, -1, *self.shape), 1, 0, 2, 3)",
        "ops.reshape(x, 2, -1, *self.shape[1:])",
    ),
    _patch(
        "projected-no-bias",
        f"{PREFIX}ProjectedPrefix.forward",
        "4.7",
        "The layer's own bias is missing.",
        "ops.linear(self.shared(), self.weight, self.bias)",
        "ops.linear(self.shared(), self.weight)",
    ),
    _patch(
        "collapse-not-trained",
        f"{PREFIX}collapse",
        "4.8",
        "The flat prefix is trained further: it requires a gradient.",
        "Tensor(array_module(values).ascontiguousarray(values), requires_grad=True)",
        "Tensor(array_module(values).ascontiguousarray(values), requires_grad=False)",
    ),
    _patch(
        "collapse-zero",
        f"{PREFIX}collapse",
        "4.8",
        "The flat prefix is what the network computes, not zeros.",
        "values = module.prefix().data",
        "values = module.prefix().data * 0.0",
    ),
    _patch(
        "collapse-option",
        f"{PREFIX}collapse",
        "4.8",
        "The configuration still says prefix_projection.",
        "peft.peft_config.prefix_projection = False",
        "peft.peft_config.prefix_projection = True",
    ),
    _patch(
        "collapse-first-only",
        f"{PREFIX}collapse",
        "4.8",
        "Every layer's prefix is replaced, not only the first.",
        "module.prefix = FlatPrefix(Tensor(array_module(values).ascontiguousarray(values), requires_grad=True))",
        """module.prefix = FlatPrefix(Tensor(array_module(values).ascontiguousarray(values), requires_grad=True))
break""",
    ),
    _patch(
        "apply-no-offset",
        f"{PREFIX}PrefixTuningConfig.apply",
        "4.9",
        "The text starts at position P: the offset stays 0 here.",
        'peft.swap(f"{path}.position_offset" if path else "position_offset", P)',
        "pass",
    ),
    _patch(
        "apply-shared-flat",
        f"{PREFIX}PrefixTuningConfig.apply",
        "4.9",
        "Each attention has a prefix of its own.",
        "prefix = FlatPrefix(trainable(rng.standard_normal((2, P, Hk, D)) * self.init_std, like))",
        'prefix = one = locals().get("one") or FlatPrefix(trainable(rng.standard_normal((2, P, Hk, D)), like))',
    ),
    _patch(
        "apply-hidden-apart",
        f"{PREFIX}PrefixTuningConfig.apply",
        "4.9",
        "The attentions of a side share one hidden layer.",
        "ProjectedPrefix(shared[side_of(path)], Hk, D, m, rng)",
        "ProjectedPrefix(SharedHidden(like, P, d, m, rng), Hk, D, m, rng)",
    ),
    _patch(
        "apply-query-heads",
        f"{PREFIX}PrefixTuningConfig.apply",
        "4.9",
        "A prefix has as many heads as the keys, not as the queries.",
        "Hk, D = attention.n_kv_heads, attention.head_dim",
        "Hk, D = attention.n_heads, attention.head_dim",
    ),
    _patch(
        "apply-no-check",
        f"{PREFIX}PrefixTuningConfig.apply",
        "4.9",
        "A prefix that leaves no room for text must be refused.",
        'check_context("prefix", entry, P)',
        "pass",
    ),
    _patch(
        "apply-hidden-size",
        f"{PREFIX}PrefixTuningConfig.apply",
        "4.9",
        "encoder_hidden_size is the width of the hidden layer.",
        "m = d if self.encoder_hidden_size is None else self.encoder_hidden_size",
        "m = d",
    ),
]
