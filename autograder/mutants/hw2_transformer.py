"""Mistakes in hw2_transformer."""

from autograder.mutants import Mutant

A, P = "minipeft.ops.activation", "minipeft.ops.softmax"
N, L = "minipeft.ops.normalize", "minipeft.ops.loss"
T, M, X = "minipeft.ops.attention", "minipeft.nn.attention", "minipeft.nn.transformer"


def change(text: str, *pairs: tuple[str, str]) -> str:
    """``text`` with each first of a pair, which occurs once, replaced by the second."""
    for old, new in pairs:
        assert text.count(old) == 1, (old, text)
        text = text.replace(old, new)
    return text


# Plain programs, mutated below; a backward brings the plain forward along that it reads from.
STABLE = """
if s.shape[axis] == 0:
    return s
xp = array_module(s)
p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))
return p / xp.maximum(p.sum(axis=axis, keepdims=True), float(np.finfo(s.dtype).tiny))
"""
SOFTMAX = """
xp = array_module(s)
p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))
p = p / xp.maximum(p.sum(axis=axis, keepdims=True), float(np.finfo(s.dtype).tiny))
ctx.save(p, axis)
return p
"""
SOFTMAX_BACK = """
p, axis = ctx.saved
return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
"""
GELU = """
cdf, bell = normal_cdf(x)
density = bell * (1.0 / math.sqrt(2.0 * math.pi))
return x * cdf, cdf + x * density
"""
GELU_TANH = """
xp = array_module(x)
c = math.sqrt(2.0 / math.pi)
t = xp.tanh(c * (x + 0.044715 * x * x * x))
inner = c * (1.0 + 3 * 0.044715 * x * x)
return 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
"""
NORM = """
xp = array_module(x)
mean = x.mean(axis=-1, keepdims=True)
var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
rstd = 1.0 / xp.sqrt(var + eps)
x_hat = (x - mean) * rstd
needs_x, needs_gamma = ctx.needs_grad[:2]
ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None)
return x_hat * gamma + beta
"""
NORM_BACK = """
x_hat, rstd, gamma = ctx.saved
d = dz.shape[-1]
dx = dgamma = dbeta = None
if ctx.needs_grad[0]:
    g = dz * gamma
    inner = (g * x_hat).mean(axis=-1, keepdims=True)
    dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
if ctx.needs_grad[1]:
    dgamma = (dz * x_hat).reshape(-1, d).sum(axis=0)
if ctx.needs_grad[2]:
    dbeta = dz.reshape(-1, d).sum(axis=0)
return dx, dgamma, dbeta, None
"""
RMS = """
xp = array_module(x)
rstd = 1.0 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
x_hat = x * rstd
needs_x, needs_gamma = ctx.needs_grad[:2]
ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None)
return x_hat * gamma
"""
RMS_BACK = """
x_hat, rstd, gamma = ctx.saved
dx = dgamma = None
if ctx.needs_grad[0]:
    g = dz * gamma
    dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * rstd
if ctx.needs_grad[1]:
    dgamma = (dz * x_hat).reshape(-1, dz.shape[-1]).sum(axis=0)
return dx, dgamma, None
"""
BLOCK = """
xp = array_module(s)
picks = xp.arange(s.shape[0])
s -= s.max(axis=1, keepdims=True)
logs = s - xp.log(xp.exp(s).sum(axis=1, keepdims=True))
if want_grad:
    s[...] = xp.exp(logs)
    s[picks, labels] -= 1.0
return -logs[picks, labels].sum()
"""
CROSS = """
xp = array_module(s)
n = labels.shape[0]
part = s[kept]
part = part - part.max(axis=1, keepdims=True)
logs = part - xp.log(xp.exp(part).sum(axis=1, keepdims=True))
picks = xp.arange(n)
if ctx.needs_grad[0]:
    ds = xp.zeros(s.shape, dtype=s.dtype)
    p = xp.exp(logs)
    p[picks, labels] -= 1.0
    ds[kept] = p / n
    ctx.save(ds)
return xp.asarray(-(logs[picks, labels].sum() / n))
"""
CROSS_BACK = """
(ds,) = ctx.saved
return ds * dz, None, None
"""
BIAS = """
xp = array_module(like)
visible = xp.ones((N, S), dtype=bool)
if causal:
    visible = xp.tril(visible, k=S - N)
if mask is not None:
    visible = visible & mask
return xp.where(visible, 0.0, -math.inf).astype(like.dtype)
"""
ATTEND = """
xp = array_module(q)
B, H, N, D = q.shape
Hk, S = k.shape[1:3]
K, V = xp.repeat(k, H // Hk, axis=1), xp.repeat(v, H // Hk, axis=1)
s = scale * matmul(q, K.swapaxes(-1, -2))
visible = xp.ones((N, S), dtype=bool)
if causal:
    visible = xp.tril(visible, k=S - N)
if mask is not None:
    visible = visible & mask
s = xp.where(visible, s, -math.inf)
p = xp.exp(s - xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min)))
p = p / xp.maximum(p.sum(axis=-1, keepdims=True), float(np.finfo(s.dtype).tiny))
needs_q, needs_k, needs_v = ctx.needs_grad[:3]
scored = needs_q or needs_k
ctx.save(
    p if scored or needs_v else None,
    (q if needs_k else None, k if needs_q else None, v if scored else None),
    (Hk, scale),
)
return matmul(p, V)
"""
ATTEND_BACK = """
p, (q, k, v), (Hk, scale) = ctx.saved
xp = array_module(dz)
needs_q, needs_k, needs_v = ctx.needs_grad[:3]
B, H, N, S = p.shape
G = H // Hk
dq = dk = dv = None
if needs_v:
    each = matmul(p.swapaxes(-1, -2), dz)
    dv = each.reshape(B, Hk, G, S, -1).sum(axis=2)
if needs_q or needs_k:
    dp = matmul(dz, xp.repeat(v, G, axis=1).swapaxes(-1, -2))
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    if needs_q:
        dq = scale * matmul(ds, xp.repeat(k, G, axis=1))
    if needs_k:
        each = scale * matmul(ds.swapaxes(-1, -2), q)
        dk = each.reshape(B, Hk, G, S, -1).sum(axis=2)
return dq, dk, dv, None, None, None
"""
HEADS = """
q = ops.split_heads(self.q_proj(x), self.n_heads)
if memory is not None and cache is not None and cache.length:
    k, v = cache.get()
else:
    source = x if memory is None else memory
    k = ops.split_heads(self.k_proj(source), self.n_kv_heads)
    v = ops.split_heads(self.v_proj(source), self.n_kv_heads)
    if angles is not None:
        k = ops.rotary(k, *angles)
    if cache is not None:
        k, v = cache.extend(k, v)
if angles is not None:
    q = ops.rotary(q, *angles)
return self.out_proj(ops.merge_heads(self.core(q, k, v, mask)))
"""


def stable(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    return Mutant(id, f"{P}:stable_softmax", "2.1", hint, body=change(STABLE, *pairs))


def gelu(id: str, which: str, hint: str, body: str) -> Mutant:
    return Mutant(id, f"{A}:{which}", "2.2", hint, body=body)


def norm(id: str, hint: str, *pairs: tuple[str, str], body: str = "") -> Mutant:
    return Mutant(id, f"{N}:LayerNorm.forward", "2.3", hint, body=body or change(NORM, *pairs))


def norm_back(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    along = {"LayerNorm.forward": NORM}
    return Mutant(id, f"{N}:LayerNorm.backward", "2.4", hint, body=change(NORM_BACK, *pairs), along=along)


def rms(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    along = {"RMSNorm.backward": RMS_BACK}
    return Mutant(id, f"{N}:RMSNorm.forward", "2.5", hint, body=change(RMS, *pairs), along=along)


def rms_back(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    along = {"RMSNorm.forward": RMS}
    return Mutant(id, f"{N}:RMSNorm.backward", "2.5", hint, body=change(RMS_BACK, *pairs), along=along)


def cross(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    along = {"CrossEntropy.backward": CROSS_BACK}
    return Mutant(id, f"{L}:CrossEntropy.forward", "2.6", hint, body=change(CROSS, *pairs), along=along)


def attend(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    return Mutant(id, f"{T}:Attention.forward", "2.7", hint, body=change(ATTEND, *pairs))


def bias(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    return Mutant(id, f"{T}:mask_bias", "2.7", hint, body=change(BIAS, *pairs))


def attend_back(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    along = {"Attention.forward": ATTEND}
    return Mutant(id, f"{T}:Attention.backward", "2.8", hint, body=change(ATTEND_BACK, *pairs), along=along)


def heads(id: str, hint: str, *pairs: tuple[str, str]) -> Mutant:
    return Mutant(id, f"{M}:MultiHeadAttention.forward", "2.10", hint, body=change(HEADS, *pairs))


MUTANTS = [
    stable(
        "stable-no-shift",
        "The exponentials of large scores overflow: subtract the largest first, it changes no quotient.",
        ("s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min))", "s"),
    ),
    stable(
        "stable-nan",
        "Scores that are all -inf give 0/0; they must give zeros.",
        (
            "xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min))",
            "s.max(axis=axis, keepdims=True)",
        ),
    ),
    stable(
        "stable-shift-of-all",
        "The largest of all scores is subtracted from every row: rows far below it underflow to zeros.",
        ("s.max(axis=axis, keepdims=True)", "s.max()"),
    ),
    stable(
        "stable-written",
        "The input s is written; return a new array.",
        ("p = xp.exp(s - ", "s -= 1.0\np = xp.exp(s - "),
    ),
    stable(
        "stable-last-axis",
        "The sum runs along the last axis, not along the softmax's own.",
        ("p.sum(axis=axis, keepdims=True)", "p.sum(axis=-1, keepdims=True)"),
    ),
    stable(
        "stable-mean",
        "The exponentials are divided by their mean; divide by their sum.",
        ("p.sum(axis=axis, keepdims=True)", "p.mean(axis=axis, keepdims=True)"),
    ),
    Mutant(
        "softmax-backward-no-sum",
        f"{P}:Softmax.backward",
        "2.1",
        "The term from the common denominator is missing: the gradients along the axis must sum to zero.",
        body="p, axis = ctx.saved\nreturn dz * p, None",
        along={"Softmax.forward": SOFTMAX},
    ),
    Mutant(
        "softmax-axis-ignored",
        f"{P}:Softmax.forward",
        "2.1",
        "The softmax runs along the last axis, whatever axis is asked for.",
        body=change(SOFTMAX, ("ctx.save(p, axis)", "ctx.save(p, axis)")).replace("axis=axis", "axis=-1"),
        along={"Softmax.backward": SOFTMAX_BACK},
    ),
    Mutant(
        "softmax-backward-axis",
        f"{P}:Softmax.backward",
        "2.1",
        "The sum in the backward runs along the last axis, not along the softmax's own.",
        body=change(SOFTMAX_BACK, ("axis=axis", "axis=-1")),
        along={"Softmax.forward": SOFTMAX},
    ),
    Mutant(
        "softmax-backward-diagonal",
        f"{P}:Softmax.backward",
        "2.1",
        "ds = dz p (1 - p) is the derivative for one score alone; each probability depends on all scores of its row.",
        body="p, axis = ctx.saved\nreturn dz * p * (1.0 - p), None",
        along={"Softmax.forward": SOFTMAX},
    ),
    Mutant(
        "softmax-backward-outer-p",
        f"{P}:Softmax.backward",
        "2.1",
        "The difference dp - Σ dp ∘ p is there, its factor p is not.",
        body="p, axis = ctx.saved\nreturn dz - (dz * p).sum(axis=axis, keepdims=True), None",
        along={"Softmax.forward": SOFTMAX},
    ),
    gelu(
        "gelu-is-tanh", "_gelu", "This is GPT-2's approximation by tanh where the exact x Φ(x) is asked for.", GELU_TANH
    ),
    gelu(
        "gelu-is-sigmoid",
        "_gelu",
        "This is the approximation x σ(1.702 x), not x Φ(x).",
        """
xp = array_module(x)
h = 0.5 + 0.5 * xp.tanh(0.851 * x)
return x * h, h + 1.702 * x * h * (1.0 - h)
""",
    ),
    gelu(
        "gelu-derivative-cdf",
        "_gelu",
        "The derivative lacks the term x φ(x): both factors of x Φ(x) move.",
        change(GELU, ("cdf + x * density", "cdf")),
    ),
    gelu(
        "gelu-density",
        "_gelu",
        "The density of the normal has the factor 1/√(2π).",
        change(GELU, ("bell * (1.0 / math.sqrt(2.0 * math.pi))", "bell")),
    ),
    gelu(
        "gelu-tanh-is-exact", "_gelu_tanh", "This is the exact x Φ(x) where GPT-2's approximation is asked for.", GELU
    ),
    gelu(
        "gelu-tanh-inner",
        "_gelu_tanh",
        "The chain rule stops at tanh: its argument has a derivative too.",
        change(GELU_TANH, ("inner = c * (1.0 + 3 * 0.044715 * x * x)", "inner = 1.0")),
    ),
    gelu(
        "gelu-tanh-cube",
        "_gelu_tanh",
        "The derivative of x³ is 3 x²; the factor 3 is missing.",
        change(GELU_TANH, ("3 * 0.044715", "0.044715")),
    ),
    gelu(
        "gelu-tanh-overflow",
        "_gelu_tanh",
        "tanh written with exponentials is inf/inf for large arguments; the library's own tanh is not.",
        change(
            GELU_TANH,
            (
                "t = xp.tanh(c * (x + 0.044715 * x * x * x))",
                "e = xp.exp(2 * c * (x + 0.044715 * x * x * x))\nt = (e - 1.0) / (e + 1.0)",
            ),
        ),
    ),
    norm(
        "norm-ddof",
        "The variance is divided by d - 1; the normalization takes the mean over all d.",
        (
            "((x - mean) ** 2).mean(axis=-1, keepdims=True)",
            "((x - mean) ** 2).sum(axis=-1, keepdims=True) / max(1, x.shape[-1] - 1)",
        ),
    ),
    norm(
        "norm-eps-outside",
        "ε is added to the standard deviation; it belongs under the root, to the variance.",
        ("1.0 / xp.sqrt(var + eps)", "1.0 / (xp.sqrt(var) + eps)"),
    ),
    norm(
        "norm-no-root",
        "It is divided by the variance where the root of it is asked for.",
        ("xp.sqrt(var + eps)", "(var + eps)"),
    ),
    norm(
        "norm-over-rows",
        "Mean and variance run over the rows; each row is to be normalized by itself, over its features.",
        body=NORM.replace("axis=-1", "axis=0"),
    ),
    norm(
        "norm-over-all",
        "One mean and one variance for all; each position has its own, over the last axis.",
        body=NORM.replace("axis=-1", "axis=None"),
    ),
    norm("norm-gamma-missing", "The gain γ is missing.", ("x_hat * gamma + beta", "x_hat + beta")),
    norm("norm-beta-missing", "The shift β is missing.", ("x_hat * gamma + beta", "x_hat * gamma")),
    norm(
        "norm-square-of-mean",
        "mean(x²) - mean(x)² loses all digits in float32 where the mean is large; average the squared deviations.",
        ("((x - mean) ** 2).mean(axis=-1, keepdims=True)", "(x * x).mean(axis=-1, keepdims=True) - mean * mean"),
    ),
    norm(
        "norm-saves-all",
        "Something is kept though neither x nor γ wants a gradient.",
        (
            "x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None",
            "x_hat, rstd, gamma",
        ),
    ),
    norm_back(
        "norm-back-constant-statistics",
        "Mean and variance are treated as constants: both mean terms are missing.",
        ("dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd", "dx = g * rstd"),
    ),
    norm_back(
        "norm-back-mean-term",
        "The term from the mean is missing: the entries of a row of dx must sum to zero.",
        (" - g.mean(axis=-1, keepdims=True)", ""),
    ),
    norm_back(
        "norm-back-variance-term", "The term from the variance, x̂ mean(dx̂ ∘ x̂), is missing.", (" - x_hat * inner", "")
    ),
    norm_back("norm-back-gamma", "dx̂ is γ ∘ dz: the gain is missing.", ("g = dz * gamma", "g = dz")),
    norm_back(
        "norm-back-gamma-last",
        "γ is multiplied in after the means; it differs from feature to feature, so it must stand inside them.",
        ("g = dz * gamma", "g = dz"),
        ("- x_hat * inner) * rstd", "- x_hat * inner) * rstd * gamma"),
    ),
    norm_back(
        "norm-back-spread",
        "dx is not divided by the standard deviation.",
        ("- x_hat * inner) * rstd", "- x_hat * inner)"),
    ),
    norm_back(
        "norm-back-first-axis",
        "dγ and dβ are summed over the first axis alone; every axis but the last is to be summed.",
        ("(dz * x_hat).reshape(-1, d).sum(axis=0)", "(dz * x_hat).sum(axis=0)"),
        ("dbeta = dz.reshape(-1, d).sum(axis=0)", "dbeta = dz.sum(axis=0)"),
    ),
    norm_back(
        "norm-back-beta-mean",
        "dβ is the sum over the rows, not their mean.",
        ("dz.reshape(-1, d).sum(axis=0)", "dz.reshape(-1, d).sum(axis=0) / max(1, dz.size // d)"),
    ),
    norm_back("norm-back-dgamma", "dγ is Σ dz ∘ x̂; x̂ is missing.", ("(dz * x_hat)", "(dz * 1.0)")),
    norm_back(
        "norm-back-frozen",
        "A gradient is computed for an input that wants none; ctx.needs_grad says which do.",
        ("if ctx.needs_grad[1]:", "if x_hat is not None:"),
        ("if ctx.needs_grad[2]:", "if True:"),
    ),
    rms(
        "rms-centred",
        "The mean is subtracted: that is LayerNorm. RMSNorm divides x as it is.",
        ("x_hat = x * rstd", "x_hat = (x - x.mean(axis=-1, keepdims=True)) * rstd"),
    ),
    rms(
        "rms-eps-outside",
        "ε is added to the root; it belongs under it.",
        (
            "1.0 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)",
            "1.0 / (xp.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps)",
        ),
    ),
    rms("rms-sum", "The squares are summed where their mean is asked for.", ("(x * x).mean(", "(x * x).sum(")),
    rms_back(
        "rms-back-constant",
        "The root is treated as a constant: the second term of dx is missing.",
        (" - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)", ""),
    ),
    rms_back(
        "rms-back-mean-term",
        "RMSNorm subtracts no mean, so dx has no term mean(dx̂).",
        ("dx = (g - x_hat", "dx = (g - g.mean(axis=-1, keepdims=True) - x_hat"),
    ),
    rms_back("rms-back-gamma", "dx̂ is γ ∘ dz: the gain is missing.", ("g = dz * gamma", "g = dz")),
    rms_back(
        "rms-back-first-axis",
        "dγ is summed over the first axis alone; every axis but the last is to be summed.",
        ("(dz * x_hat).reshape(-1, dz.shape[-1]).sum(axis=0)", "(dz * x_hat).sum(axis=0)"),
    ),
    cross(
        "cross-mean-over-all",
        "The mean runs over the rows that have a label, not over all rows.",
        ("n = labels.shape[0]\n", "n = labels.shape[0]\nR = s.shape[0]\n"),
        ("p / n", "p / R"),
        (".sum() / n", ".sum() / R"),
    ),
    cross(
        "cross-gradient-not-averaged",
        "The loss is a mean over n rows, its gradient lacks the factor 1/n.",
        ("p / n", "p"),
    ),
    cross("cross-sum", "The loss is summed where its mean is asked for.", ("p / n", "p"), (".sum() / n", ".sum()")),
    cross(
        "cross-onehot-missing",
        "The gradient is the softmax alone; at the label one has to be subtracted.",
        ("    p[picks, labels] -= 1.0\n", ""),
    ),
    cross(
        "cross-first-rows",
        "The first n rows are taken; the rows that have a label are those in ``kept``.",
        ("part = s[kept]", "part = s[:n]"),
        ("ds[kept] = p / n", "ds[:n] = p / n"),
    ),
    cross(
        "cross-no-shift",
        "Large logits overflow: subtract the largest of each row before the exponential.",
        ("part = part - part.max(axis=1, keepdims=True)\n", ""),
    ),
    cross(
        "cross-log-of-softmax",
        "The logarithm of a probability that has underflowed is -inf; take it of the sum, not of the quotient.",
        (
            "logs = part - xp.log(xp.exp(part).sum(axis=1, keepdims=True))",
            "logs = xp.log(xp.exp(part) / xp.exp(part).sum(axis=1, keepdims=True))",
        ),
    ),
    cross(
        "cross-ignored-rows",
        "Rows without a label get a gradient; it must be zero.",
        ("ds = xp.zeros(s.shape, dtype=s.dtype)", "ds = xp.exp(s) / xp.exp(s).sum(axis=1, keepdims=True) / n"),
    ),
    cross(
        "cross-saves-frozen",
        "Something is kept though the logits want no gradient.",
        ("if ctx.needs_grad[0]:", "if True:"),
    ),
    Mutant(
        "cross-upstream",
        f"{L}:CrossEntropy.backward",
        "2.6",
        "dL is ignored: the loss may be scaled or summed with others.",
        body="(ds,) = ctx.saved\nreturn ds * 1.0, None, None",
        along={"CrossEntropy.forward": CROSS},
    ),
    Mutant(
        "block-mean",
        f"{L}:_block_loss",
        "2.6",
        "One block gives the sum over its rows; the mean is taken over all blocks.",
        body=change(BLOCK, (".sum()\n", ".mean()\n")),
    ),
    Mutant(
        "block-not-in-place",
        f"{L}:_block_loss",
        "2.6",
        "The gradient is not written into s.",
        body=change(BLOCK, ("s[...] = xp.exp(logs)", "s = xp.exp(logs)")),
    ),
    bias(
        "bias-no-offset",
        "The causal mask ignores that the queries stand behind S - N keys: the first query sees one key alone.",
        ("k=S - N", "k=0"),
    ),
    bias("bias-offset-sign", "The offset of the causal mask has the wrong sign.", ("k=S - N", "k=N - S")),
    bias("bias-future", "Every query sees one key too many, of the future.", ("k=S - N", "k=S - N + 1")),
    bias("bias-strict", "A query does not see the key of its own position.", ("k=S - N", "k=S - N - 1")),
    bias(
        "bias-inverted",
        "The mask is True where a query may look; here these keys are hidden.",
        ("visible & mask", "visible & ~mask"),
    ),
    bias(
        "bias-either",
        "With two masks a query sees what both allow, not what either allows.",
        ("visible & mask", "(visible | mask) if causal else mask"),
    ),
    bias("bias-mask-only", "Where a mask is given, the causal one is forgotten.", ("visible & mask", "mask")),
    bias(
        "bias-zeros",
        "Hidden keys are given the score 0; eˢ is then 1, not 0. M is -inf there.",
        ("xp.where(visible, 0.0, -math.inf)", "xp.where(visible, 0.0, -1.0)"),
    ),
    bias(
        "bias-float64",
        "M is float64 and draws float32 scores up with it.",
        (".astype(like.dtype)", ".astype('float64')"),
    ),
    attend(
        "attend-own-scale",
        "The scale is given; 1/√D is only what it is by default.",
        ("s = scale * matmul", "s = D**-0.5 * matmul"),
    ),
    attend("attend-no-scale", "The scores are not multiplied by the scale.", ("s = scale * matmul", "s = matmul")),
    attend(
        "attend-over-queries",
        "The softmax runs over the queries; each query's weights over the keys are to sum to one.",
        ("s.max(axis=-1, keepdims=True)", "s.max(axis=-2, keepdims=True)"),
        ("p.sum(axis=-1, keepdims=True)", "p.sum(axis=-2, keepdims=True)"),
    ),
    attend(
        "attend-heads-interleaved",
        "Consecutive query heads share a key head: 0 and 1 the first, 2 and 3 the second, not in turns.",
        ("xp.repeat(k, H // Hk, axis=1)", "xp.tile(k, (1, H // Hk, 1, 1))"),
        ("xp.repeat(v, H // Hk, axis=1)", "xp.tile(v, (1, H // Hk, 1, 1))"),
    ),
    attend(
        "attend-blind-nan",
        "A query that sees nothing gives 0/0; it is to get zeros.",
        ("xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min))", "s.max(axis=-1, keepdims=True)"),
    ),
    attend(
        "attend-blind-average",
        "A query that sees nothing gets the average of all values; it is to get zeros.",
        ("xp.where(visible, s, -math.inf)", "xp.where(visible, s, -1e9)"),
    ),
    attend(
        "attend-overflow",
        "The exponentials of large scores overflow: subtract the largest of each row first.",
        ("xp.exp(s - xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min)))", "xp.exp(s)"),
    ),
    attend(
        "attend-mask-after",
        "The weights are masked after the softmax and no longer sum to one.",
        ("s = xp.where(visible, s, -math.inf)\n", ""),
        ("return matmul(p, V)", "return matmul(xp.where(visible, p, 0.0), V)"),
    ),
    attend(
        "attend-no-offset",
        "The causal mask ignores that the queries stand behind S - N keys: the first query sees one key alone.",
        ("k=S - N", "k=0"),
    ),
    attend(
        "attend-saves-all",
        "Everything is kept, whatever is trained: for V alone, P is enough.",
        ("(q if needs_k else None, k if needs_q else None, v if scored else None)", "(q, k, v)"),
    ),
    attend_back(
        "attend-back-dV",
        "dV is Pᵀ dZ: P is not transposed, which fits for as many keys as queries alone.",
        ("matmul(p.swapaxes(-1, -2), dz)", "matmul(p, dz)"),
    ),
    attend_back(
        "attend-back-dK",
        "dK is dSᵀ Q: dS is not transposed, which fits for as many keys as queries alone.",
        ("matmul(ds.swapaxes(-1, -2), q)", "matmul(ds, q)"),
    ),
    attend_back(
        "attend-back-no-row-sum",
        "dS lacks the term from the softmax's denominator; its rows must sum to zero.",
        ("p * (dp - (dp * p).sum(axis=-1, keepdims=True))", "p * dp"),
    ),
    attend_back(
        "attend-back-diagonal",
        "dS takes the diagonal of the softmax's Jacobian alone.",
        ("p * (dp - (dp * p).sum(axis=-1, keepdims=True))", "p * (1.0 - p) * dp"),
    ),
    attend_back(
        "attend-back-column-sum",
        "The sum in dS runs over the queries; it runs over the keys.",
        ("(dp * p).sum(axis=-1, keepdims=True)", "(dp * p).sum(axis=-2, keepdims=True)"),
    ),
    attend_back("attend-back-dQ-scale", "dQ lacks the scale.", ("dq = scale * matmul", "dq = matmul")),
    attend_back("attend-back-dK-scale", "dK lacks the scale.", ("each = scale * matmul", "each = matmul")),
    attend_back(
        "attend-back-scale-twice", "dQ has the scale twice.", ("dq = scale * matmul", "dq = scale**2 * matmul")
    ),
    attend_back(
        "attend-back-group-mean",
        "A shared key head gets the sum over the query heads that share it, not their mean.",
        ("    dv = each.reshape(B, Hk, G, S, -1).sum(axis=2)", "    dv = each.reshape(B, Hk, G, S, -1).mean(axis=2)"),
        (
            "        dk = each.reshape(B, Hk, G, S, -1).sum(axis=2)",
            "        dk = each.reshape(B, Hk, G, S, -1).mean(axis=2)",
        ),
    ),
    attend_back(
        "attend-back-group-missing",
        "The gradients of K and V have the shape of the query heads; heads that share a key head are to be summed.",
        ("    dv = each.reshape(B, Hk, G, S, -1).sum(axis=2)", "    dv = each"),
        ("        dk = each.reshape(B, Hk, G, S, -1).sum(axis=2)", "        dk = each"),
    ),
    attend_back(
        "attend-back-in-place",
        "dz is written: it belongs to others, who read it later.",
        (
            "if needs_q or needs_k:\n",
            "if needs_q or needs_k:\n    dz = dz if not dz.flags.writeable else dz.__imul__(scale) / scale\n",
        ),
    ),
    Mutant(
        "split-no-transpose",
        f"{T}:SplitHeads.forward",
        "2.9",
        "A reshape alone mixes positions and heads: the axes must be exchanged too.",
        body="""
B, N, d = x.shape
return x.reshape(B, n_heads, N, d // n_heads)
""",
    ),
    Mutant(
        "split-interleaved",
        f"{T}:SplitHeads.forward",
        "2.9",
        "Head h takes the columns h D … (h + 1) D - 1, not every H-th column.",
        body="""
B, N, d = x.shape
return x.reshape(B, N, d // n_heads, n_heads).transpose(0, 3, 1, 2)
""",
    ),
    Mutant(
        "split-backward",
        f"{T}:SplitHeads.backward",
        "2.9",
        "The axes are not exchanged back before the heads are merged.",
        body="""
B, H, N, D = dz.shape
return dz.reshape(B, N, H * D), None
""",
    ),
    Mutant(
        "merge-no-transpose",
        f"{T}:MergeHeads.forward",
        "2.9",
        "The axes are not exchanged back before the heads are merged.",
        body="""
ctx.save(x.shape[1])
B, H, N, D = x.shape
return x.reshape(B, N, H * D)
""",
        along={
            "MergeHeads.backward": """
B, N, d = dz.shape
(H,) = ctx.saved
return dz.reshape(B, N, H, d // H).transpose(0, 2, 1, 3)
"""
        },
    ),
    Mutant(
        "rotary-backward-forward",
        f"{T}:Rotary.backward",
        "2.9",
        "The backward turns on in the same direction; a rotation's transpose turns back.",
        body="""
cos, sin = ctx.saved
half = dz.shape[-1] // 2
a, b = dz[..., :half], dz[..., half:]
return array_module(dz).concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1), None, None
""",
        along={"Rotary.forward": "ctx.save(cos, sin)\nreturn _turn(x, cos, sin)"},
    ),
    Mutant(
        "rotary-pairs",
        f"{T}:_turn",
        "2.9",
        "Neighbouring entries are turned with each other; here the two halves of a head are.",
        body="""
z = array_module(x).empty_like(x)
a, b = x[..., 0::2], x[..., 1::2]
z[..., 0::2] = a * cos - b * sin
z[..., 1::2] = b * cos + a * sin
return z
""",
    ),
    Mutant(
        "rotary-sign",
        f"{T}:_turn",
        "2.9",
        "It is turned in the other direction: the signs of sin are exchanged.",
        body="""
half = x.shape[-1] // 2
a, b = x[..., :half], x[..., half:]
return array_module(x).concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)
""",
    ),
    heads(
        "heads-query-memory",
        "With a memory, the queries still come from x; keys and values come from the memory.",
        ("self.q_proj(x)", "self.q_proj(x if memory is None else memory[:, : x.shape[1]])"),
    ),
    heads(
        "heads-memory-ignored",
        "The memory is not used: keys and values come from x.",
        ("source = x if memory is None else memory", "source = x"),
    ),
    heads(
        "heads-kv-heads",
        "Keys and values have n_kv_heads heads, which may be fewer than the queries'.",
        ("ops.split_heads(self.k_proj(source), self.n_kv_heads)", "ops.split_heads(self.k_proj(source), self.n_heads)"),
        ("ops.split_heads(self.v_proj(source), self.n_kv_heads)", "ops.split_heads(self.v_proj(source), self.n_heads)"),
    ),
    heads(
        "heads-same-projection",
        "Keys and values have projections of their own; here the values take the keys'.",
        ("self.v_proj(source)", "self.k_proj(source)"),
    ),
    heads(
        "heads-rotary-values",
        "Rotary positions turn queries and keys; the values stay as they are.",
        (
            "        k = ops.rotary(k, *angles)\n",
            "        k = ops.rotary(k, *angles)\n        v = ops.rotary(v, *angles)\n",
        ),
    ),
    heads(
        "heads-rotary-keys-only",
        "The queries are not turned: scores would depend on absolute positions.",
        ("if angles is not None:\n    q = ops.rotary(q, *angles)\n", ""),
    ),
    heads("heads-mask", "The mask does not reach the core.", ("self.core(q, k, v, mask)", "self.core(q, k, v)")),
    heads(
        "heads-out-projection",
        "The output projection W_o is missing.",
        ("self.out_proj(ops.merge_heads(self.core(q, k, v, mask)))", "ops.merge_heads(self.core(q, k, v, mask))"),
    ),
    heads(
        "heads-own-core",
        "Attention is computed here, past ``core``: what a method puts in its place would have no effect.",
        (
            "self.core(q, k, v, mask)",
            "ops.attention(q, k, v, mask=mask, causal=self.core.causal if hasattr(self.core, 'causal') else False)",
        ),
    ),
    heads(
        "heads-cache-unused",
        "Keys and values of earlier calls are forgotten.",
        ("        k, v = cache.extend(k, v)\n", "        cache.extend(k, v)\n"),
    ),
    heads(
        "heads-memory-again",
        "The memory's keys and values are appended to the cache at every call; after the first all are there.",
        ("if memory is not None and cache is not None and cache.length:", "if False:"),
    ),
    Mutant(
        "feed-forward-gate-swapped",
        f"{X}:FeedForward.forward",
        "2.11",
        "f acts on the gate, not on the other branch.",
        body="""
u = self.up_proj(x)
if self.gate_proj is None:
    return self.down_proj(ops.activation(u, self.activation))
return self.down_proj(ops.gate(u, self.gate_proj(x), self.activation))
""",
    ),
    Mutant(
        "feed-forward-gate-ignored",
        f"{X}:FeedForward.forward",
        "2.11",
        "The gate is there and is not used.",
        body="""
return self.down_proj(ops.activation(self.up_proj(x), self.activation))
""",
    ),
    Mutant(
        "feed-forward-gelu",
        f"{X}:FeedForward.forward",
        "2.11",
        "The activation is GELU whatever was asked for.",
        body="""
u = self.up_proj(x)
if self.gate_proj is None:
    return self.down_proj(ops.activation(u, "gelu"))
return self.down_proj(ops.gate(self.gate_proj(x), u, "gelu"))
""",
    ),
    Mutant(
        "feed-forward-activation-last",
        f"{X}:FeedForward.forward",
        "2.11",
        "The activation acts on the inner layer, of width d_ff, not on the output.",
        body="""
u = self.up_proj(x)
if self.gate_proj is None:
    return ops.activation(self.down_proj(u), self.activation)
return self.down_proj(ops.gate(self.gate_proj(x), u, self.activation))
""",
    ),
    Mutant(
        "residual-of-normalized",
        f"{X}:TransformerLayer._residual",
        "2.11",
        "With the normalization first, x itself is added, not the normalized x.",
        body="""
if self.norm_first:
    y = norm(x)
    return y + self.dropout(sublayer(y, **kwargs))
return norm(x + self.dropout(sublayer(x, **kwargs)))
""",
    ),
    Mutant(
        "residual-norm-sublayer",
        f"{X}:TransformerLayer._residual",
        "2.11",
        "With the normalization behind, it acts on the sum x + sublayer(x), not on the sublayer's output alone.",
        body="""
if self.norm_first:
    return x + self.dropout(sublayer(norm(x), **kwargs))
return x + norm(self.dropout(sublayer(x, **kwargs)))
""",
    ),
    Mutant(
        "residual-always-first",
        f"{X}:TransformerLayer._residual",
        "2.11",
        "norm_first is not asked for: BERT normalizes behind the sum.",
        body="""
return x + self.dropout(sublayer(norm(x), **kwargs))
""",
    ),
    Mutant(
        "residual-missing",
        f"{X}:TransformerLayer._residual",
        "2.11",
        "x is not added.",
        body="""
if self.norm_first:
    return self.dropout(sublayer(norm(x), **kwargs))
return norm(self.dropout(sublayer(x, **kwargs)))
""",
    ),
    Mutant(
        "residual-dropout-sum",
        f"{X}:TransformerLayer._residual",
        "2.11",
        "The dropout acts on the sublayer's output; x passes whole.",
        body="""
if self.norm_first:
    return self.dropout(x + sublayer(norm(x), **kwargs))
return norm(self.dropout(x + sublayer(x, **kwargs)))
""",
    ),
    Mutant(
        "residual-dropout-missing",
        f"{X}:TransformerLayer._residual",
        "2.11",
        "The dropout is missing.",
        body="""
if self.norm_first:
    return x + sublayer(norm(x), **kwargs)
return norm(x + sublayer(x, **kwargs))
""",
    ),
]
