"""Mistakes in hw6_lora."""

from autograder.mutants import Mutant

LORA = "minipeft.peft.lora"
LINEAR, EMBEDDING, LAYER, CONFIG = (
    f"{LORA}:{name}" for name in ("LoRALinear", "LoRAEmbedding", "LoraLayer", "LoraConfig")
)
TABLE, ROWS, MIXED = (f"{LORA}:{name}" for name in ("LoraEmbedding", "AddToRows", "MixedLora"))

FORWARD = """
needs_x, needs_W, _, needs_A, needs_B, _ = ctx.needs_grad
X = rows(x)
H = X @ lora_A.T
{first}
z = {z}
{bias}
{keep}
ctx.save(
    x if needs_A or needs_W else None, H if needs_B else None, weight if needs_x else None,
    lora_A if needs_x else None, lora_B if needs_x or needs_A else None, (scale, x.shape),
)
return {out}
"""
BACKWARD = """
x, H, weight, lora_A, lora_B, (scale, x_shape) = ctx.saved
needs_x, needs_W, needs_b, needs_A, needs_B, _ = ctx.needs_grad
dZ = rows(dz)
{first}
dx = dW = db = dA = dB = None
if needs_x or needs_A:
    dH = {dH}
if needs_x:
    dx = {dx}
{dW}
if needs_b:
    db = {db}
if needs_A:
    dA = {dA}
if needs_B:
    dB = {dB}
return dx, dW, db, dA, dB, None
"""
LOOKUP = """
needs_E, _, needs_A, needs_B, _ = ctx.needs_grad
H = {H}
z = {table}
z {add}
ctx.save(
    ids if needs_E or needs_A else None, H if needs_B else None, {keep}, scale, (table.shape, lora_A.shape{last}),
)
return z
"""
LOOKUP_BACK = """
ids, H, lora_B, scale, (table_shape, A_shape, *_) = ctx.saved
needs_E, _, needs_A, needs_B, _ = ctx.needs_grad
dZ = rows(dz)
dE = dA = dB = None
flat = ids.reshape(-1) if ids is not None else None
if {wants_E}:
    dE = np.zeros(table_shape, dtype=dz.dtype)
    {dE}
if needs_A:
    by_token = np.zeros((A_shape[1], A_shape[0]), dtype=dz.dtype)
    {dA}
    dA = {out_A}
if needs_B:
    dB = {dB}
return dE, None, dA, dB, None
"""


def forward(name: str, hint: str, also: tuple[str, ...] = (), problem: str = "6.1", **parts: str) -> Mutant:
    """LoRALinear.forward with some of its parts done otherwise."""
    right = {
        "first": "",
        "z": "X @ weight.T + (H * scale) @ lora_B.T",
        "bias": "if bias is not None: z += bias",
        "keep": "",
        "out": "z.reshape(*x.shape[:-1], weight.shape[0])",
    }
    return Mutant(name, f"{LINEAR}.forward", problem, hint, body=FORWARD.format(**{**right, **parts}), also=also)


PLAIN = {"LoRALinear.forward": forward("", "").body}


def backward(name: str, hint: str, along: dict[str, str] | None = None, **parts: str) -> Mutant:
    """LoRALinear.backward with some of its parts done otherwise."""
    right = {
        "first": "",
        "dH": "(dZ @ lora_B) * scale",
        "dX": "dZ @ weight + dH @ lora_A",
        "dx": "({}).reshape(x_shape)",
        "dW": "if needs_W: dW = dZ.T @ rows(x)",
        "db": "dZ.sum(axis=0)",
        "dA": "dH.T @ rows(x)",
        "dB": "(dZ.T @ H) * scale",
    }
    chosen = {**right, **parts}
    body = BACKWARD.format(**{**chosen, "dx": chosen["dx"].format(chosen["dX"])})
    return Mutant(name, f"{LINEAR}.backward", "6.2", hint, body=body, along=along or PLAIN)


def lookup(name: str, hint: str, **parts: str) -> Mutant:
    """LoRAEmbedding.forward with some of its parts done otherwise."""
    right = {
        "H": "lora_A.T[ids]",
        "table": "table[ids]",
        "add": "+= scale * (H @ lora_B.T)",
        "keep": "lora_B if needs_A else None",
        "last": "",
    }
    backward_body = LOOKUP_BACK.format(**LOOKED_BACK)
    along = {"LoRAEmbedding.backward": backward_body}
    body = LOOKUP.format(**{**right, **parts})
    return Mutant(name, f"{EMBEDDING}.forward", "6.3", hint, body=body, along=along)


LOOKED_BACK = {
    "wants_E": "needs_E",
    "dE": "np.add.at(dE, flat, dZ)",
    "dA": "np.add.at(by_token, flat, scale * (dZ @ lora_B))",
    "out_A": "by_token.T.copy()",
    "dB": "scale * (dZ.T @ rows(H))",
}


def lookup_back(name: str, hint: str, **parts: str) -> Mutant:
    """LoRAEmbedding.backward with some of its parts done otherwise."""
    body = LOOKUP_BACK.format(**{**LOOKED_BACK, **parts})
    along = {"LoRAEmbedding.forward": lookup("", "").body} if name else {}
    return Mutant(name, f"{EMBEDDING}.backward", "6.4", hint, body=body, along=along)


def patch(name: str, target: str, problem: str, hint: str, old: str, new: str, *also: str) -> Mutant:
    """A text replaced in a function of the library."""
    return Mutant(name, target, problem, hint, old, new, also=also)


MUTANTS = [
    forward("scale-missing", "The low-rank term lacks the factor s.", z="X @ weight.T + H @ lora_B.T"),
    forward("scale-inverse", "The low-rank term is divided by s.", z="X @ weight.T + (H / scale) @ lora_B.T"),
    forward(
        "scale-squared",
        "The factor s stands at A and at B; it belongs to the product once.",
        z="X @ weight.T + scale * (H * scale) @ lora_B.T",
    ),
    forward(
        "scale-on-all", "The frozen layer's own output is scaled by s, too.", z="(X @ weight.T + H @ lora_B.T) * scale"
    ),
    forward("base-missing", "Only the change is there: W₀ x is missing.", z="(H * scale) @ lora_B.T"),
    forward("change-subtracted", "The change is subtracted.", z="X @ weight.T - (H * scale) @ lora_B.T"),
    forward("bias-dropped", "The bias of the frozen layer is missing.", bias=""),
    forward(
        "bias-twice",
        "The bias is added twice: once with the frozen layer, once more with the change.",
        bias="if bias is not None: z += 2.0 * bias",
    ),
    forward(
        "bias-scaled", "The bias is scaled by s; LoRA does not touch it.", bias="if bias is not None: z += bias * scale"
    ),
    forward("bias-always", "The bias may be None.", bias="z += bias"),
    forward(
        "bias-written",
        "The bias is written: it is used as the place of the sum.",
        bias="if bias is not None:\n    bias += z[0] * 0.0 + 1.0; z += bias - 1.0",
    ),
    forward(
        "x-scaled-in-place",
        "x is multiplied by s in place: others still need it.",
        first="H = H * scale; X *= scale",
        z="X @ weight.T / scale + H @ lora_B.T",
        also=("6.2",),
    ),
    forward("flat-output", "z keeps the rows of the matrix; it must have the axes of x.", out="z"),
    forward(
        "merged-in-the-forward",
        "W₀ + s B A is formed, an array as large as W₀ at every call; (x Aᵀ) Bᵀ needs none.",
        z="X @ (weight + scale * (lora_B @ lora_A)).T",
        also=("6.2",),
    ),
    forward(
        "float64-scale",
        "float32 inputs gave float64: a NumPy number or array of that type took part.",
        z="X @ weight.T + (H * np.full((1, 1), scale)) @ lora_B.T",
        also=("6.2",),
    ),
    forward(
        "keeps-everything",
        "Everything is kept: also what only unwanted gradients would use.",
        out="[ctx.save(x, H, weight, lora_A, lora_B, (scale, x.shape)), z.reshape(*x.shape[:-1], -1)][1]",
    ),
    backward("dH-lacks-scale", "dA and the change's part of dx lack the factor s.", dH="dZ @ lora_B"),
    backward("dB-lacks-scale", "dB lacks the factor s.", dB="dZ.T @ H"),
    backward("dB-scale-twice", "dB has the factor s twice: H is X Aᵀ without s.", dB="(dZ.T @ H) * scale * scale"),
    backward("dA-scale-twice", "dA has the factor s twice.", dA="scale * dH.T @ rows(x)"),
    backward(
        "dx-low-rank-only",
        "dx lacks the path through W₀: a frozen weight still passes the gradient on.",
        dX="dH @ lora_A",
    ),
    backward("dx-base-only", "dx lacks the path through A and B.", dX="dZ @ weight"),
    backward(
        "dx-change-unscaled",
        "In dx, the path through A and B lacks the factor s.",
        dX="dZ @ weight + (dZ @ lora_B) @ lora_A",
    ),
    backward("dA-transposed", "dA is the transpose of what it must be: A is (r, k).", dA="rows(x).T @ dH"),
    backward("dB-transposed", "dB is the transpose of what it must be: B is (d, r).", dB="(H.T @ dZ) * scale"),
    backward(
        "dB-of-dH",
        "dB is made of dZ and H = X Aᵀ; this one multiplies by B Bᵀ on the way.",
        dB="((dZ @ lora_B) @ lora_B.T).T @ H * scale if lora_B is not None else dZ.T @ H",
    ),
    backward("dA-mean", "dA is averaged over the rows where it must be summed.", dA="dH.T @ rows(x) / len(dZ)"),
    backward("dB-mean", "dB is averaged over the rows where it must be summed.", dB="dZ.T @ H * scale / len(dZ)"),
    backward(
        "dA-first-example",
        "dA is of the first example alone: sum over every axis before the last.",
        first="n = len(dZ) // len(dz) if dz.ndim > 1 and len(dz) else len(dZ)",
        dA="dH[:n].T @ rows(x)[:n]",
    ),
    backward("db-mean", "db is the sum of dZ over the rows, not its mean.", db="dZ.mean(axis=0)"),
    backward("dx-flat", "dx must have the shape of x, not of the matrix of its rows.", dx="{}"),
    backward(
        "dW-always",
        "A gradient of W₀ is computed though W₀ is frozen.",
        dW="dW = dZ.T",
    ),
    backward("all-gradients", "Gradients are returned for inputs that want none.", first="needs_b = True"),
    backward(
        "dz-scaled-in-place",
        "dz is multiplied by s in place: others still need it.",
        first="dZ *= scale",
        dH="dZ @ lora_B",
        dX="dZ @ weight / scale + dH @ lora_A",
        dB="dZ.T @ H",
    ),
    backward(
        "dx-change-formed",
        "W₀ + s B A is formed, an array as large as W₀ at every call; (x Aᵀ) Bᵀ needs none.",
        dX="dZ @ (weight + scale * (lora_B @ lora_A))",
    ),
    backward(
        "loops-over-entries",
        "Far too slow: entry by entry, where a matrix product does it.",
        dA="np.array([[sum(float(g) * float(v) for g, v in zip(p, q)) for q in rows(x).T.tolist()]"
        " for p in dH.T.tolist()] * 1).reshape(dH.shape[1], -1)",
        dX="np.array([[sum(g * w for g, w in zip(p, q)) for q in (weight.T.tolist())] for p in dZ.tolist()])"
        ".reshape(len(dZ), weight.shape[1]).astype(dZ.dtype) + dH @ lora_A",
    ),
    lookup("embedding-scale", "The embedding's change lacks the factor s.", add="+= H @ lora_B.T"),
    lookup("embedding-table-missing", "The frozen row E₀[ids] is missing.", table="table[ids] * 0.0"),
    lookup(
        "embedding-table-written",
        "E₀ is written: the change is added to the table itself.",
        table="table",
        add="+= scale * (lora_A.T @ lora_B.T); z = z[ids]",
    ),
    lookup("embedding-keeps-table", "The table is kept, though no gradient needs it.", last=", table"),
    lookup_back(
        "embedding-repeats-lost",
        "Of an id that comes several times only one gradient arrives in dA.",
        dA="by_token[flat] += scale * (dZ @ lora_B)",
    ),
    lookup_back(
        "embedding-repeats-lost-E",
        "Of an id that comes several times only one gradient arrives in dE.",
        dE="dE[flat] += dZ",
    ),
    lookup_back(
        "embedding-dA-scale", "dA of the embedding lacks the factor s.", dA="np.add.at(by_token, flat, dZ @ lora_B)"
    ),
    lookup_back("embedding-dB-scale", "dB of the embedding lacks the factor s.", dB="dZ.T @ rows(H)"),
    lookup_back("embedding-dA-transposed", "dA of the embedding is (r, V), not (V, r).", out_A="by_token"),
    lookup_back(
        "embedding-dE-always", "A gradient of the whole table is made though it is frozen.", wants_E="flat is not None"
    ),
    lookup_back(
        "embedding-dE-scale",
        "dE is the sum of dZ where the id came; s belongs to the change alone.",
        dE="np.add.at(dE, flat, dZ * scale)",
    ),
    patch(
        "draw-both-zero",
        f"{LAYER}.draw",
        "6.5",
        "A and B are both zero: no gradient would ever reach either.",
        "self.lora_A = trainable(A, self.lora_A)",
        "self.lora_A = trainable(A * 0.0, self.lora_A)",
    ),
    patch(
        "draw-both-random",
        f"{LAYER}.draw",
        "6.5",
        "B is random: the model would not start as the pretrained one.",
        "init is False",
        "True",
    ),
    patch(
        "draw-reversed",
        f"{LAYER}.draw",
        "6.5",
        "A is zero and B random, the wrong way round.",
        "self.lora_A = trainable(A, self.lora_A)",
        "self.lora_B = trainable(rng.uniform(-bound, bound, self.lora_B.shape), self.lora_B)",
    ),
    patch(
        "draw-bound-r",
        f"{LAYER}.draw",
        "6.5",
        "The bound of A is 1/√k, k the number of its columns, not of its rows.",
        "bound = k**-0.5",
        "bound = r**-0.5",
    ),
    patch(
        "draw-variance",
        f"{LAYER}.draw",
        "6.5",
        "A's bound is 1/k, much smaller than 1/√k.",
        "bound = k**-0.5",
        "bound = 1 / k",
    ),
    patch(
        "draw-he",
        f"{LAYER}.draw",
        "6.5",
        "A's bound is √(6/k), He's for ReLU; here it is 1/√k.",
        "bound = k**-0.5",
        "bound = (6 / k) ** 0.5",
    ),
    patch(
        "draw-gaussian-unit",
        f"{LAYER}.draw",
        "6.5",
        'With "gaussian", A has standard deviation 1/r, not 1.',
        "rng.standard_normal((r, k)) / r",
        "rng.standard_normal((r, k))",
    ),
    patch(
        "draw-gaussian-variance",
        f"{LAYER}.draw",
        "6.5",
        'With "gaussian", 1/r² is the variance: the standard deviation is 1/r.',
        "rng.standard_normal((r, k)) / r",
        "rng.standard_normal((r, k)) / r**2",
    ),
    patch(
        "draw-always-gaussian",
        f"{LAYER}.draw",
        "6.5",
        'A is uniform unless "gaussian" is asked for.',
        "rng.uniform(-bound, bound, (r, k))",
        "rng.standard_normal((r, k)) * (3 * k) ** (-0.5)",
    ),
    patch(
        "draw-positive",
        f"{LAYER}.draw",
        "6.5",
        "A is uniform from 0 on, where it must lie on both sides of 0.",
        "rng.uniform(-bound, bound, (r, k))",
        "rng.uniform(0.0, bound, (r, k))",
    ),
    patch(
        "draw-own-generator",
        f"{LAYER}.draw",
        "6.5",
        "A is drawn from a generator made here: every layer gets the same numbers.",
        "rng.uniform(-bound, bound, (r, k))",
        "np.random.default_rng(0).uniform(-bound, bound, (r, k))",
    ),
    patch(
        "draw-fresh",
        f"{LAYER}.draw",
        "6.5",
        "A is not drawn from the generator that was passed in: a seed does not give it back.",
        "rng.uniform(-bound, bound, (r, k))",
        "np.random.default_rng().uniform(-bound, bound, (r, k))",
    ),
    patch(
        "draw-frozen",
        f"{LAYER}.draw",
        "6.5",
        "A is not trainable any more.",
        "self.lora_A = trainable(A, self.lora_A)",
        "self.lora_A = Tensor(A.astype(self.lora_A.dtype))",
    ),
    patch(
        "draw-float64",
        f"{LAYER}.draw",
        "6.5",
        "A became float64: it keeps its dtype.",
        "self.lora_A = trainable(A, self.lora_A)",
        "self.lora_A = Tensor(A, requires_grad=True)",
    ),
    patch(
        "draw-embedding-reversed",
        f"{TABLE}.draw",
        "6.5",
        "Of an embedding B is random and A zero: an id looks up a column of A.",
        "self.lora_embedding_B = trainable(rng.standard_normal(self.lora_embedding_B.shape), self.lora_embedding_B)",
        "self.lora_embedding_A = trainable(rng.standard_normal(self.lora_embedding_A.shape), self.lora_embedding_A)",
    ),
    patch(
        "layer-dropout-on-all",
        f"{LAYER}.forward",
        "6.6",
        "Dropout acts on the frozen layer's input, too.",
        "return base(x) + self.change(x)",
        """x = self.dropout(x)
self.dropout, kept = (Dropout(0.0), self.dropout)
z = base(x) + self.change(x)
self.dropout = kept
return z""",
    ),
    patch(
        "layer-dropout-ignored",
        f"{LAYER}.forward",
        "6.6",
        "In training mode no dropout acts.",
        "self.training and self.dropout.p",
        "False",
    ),
    patch(
        "layer-base-class",
        f"{LAYER}.forward",
        "6.6",
        "A base of another class than Linear is not called: its weight alone is used.",
        "self.training and self.dropout.p or type(base) is not Linear",
        "self.training and self.dropout.p",
    ),
    patch(
        "layer-scale-one",
        f"{LAYER}.forward",
        "6.6",
        "The layer calls LoRALinear without its scale.",
        "self.scale",
        "1.0",
        "6.11",
    ),
    patch(
        "layer-no-bias",
        f"{LAYER}.forward",
        "6.6",
        "The layer drops the bias of its base.",
        "base.bias",
        "None",
        "6.11",
    ),
    patch(
        "change-scale",
        f"{LAYER}.change",
        "6.6",
        "The change lacks the factor s.",
        "ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B) * self.scale",
        "ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B)",
        "6.9",
    ),
    patch(
        "change-no-dropout",
        f"{LAYER}.change",
        "6.6",
        "The change is made without dropout on x.",
        "self.dropout(x)",
        "x",
    ),
    patch(
        "change-dropout-late",
        f"{LAYER}.change",
        "6.6",
        "Dropout acts behind A, on r numbers, where it must act on x.",
        "ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B)",
        "ops.linear(self.dropout(ops.linear(x, self.lora_A)), self.lora_B)",
    ),
    patch(
        "scale-rslora-ignored",
        f"{CONFIG}.rank_and_scale",
        "6.7",
        "use_rslora is ignored: then s is α / √r.",
        "(r**0.5 if self.use_rslora else r)",
        "r",
    ),
    patch(
        "scale-rslora-always",
        f"{CONFIG}.rank_and_scale",
        "6.7",
        "s is α / r; α / √r only with use_rslora.",
        "(r**0.5 if self.use_rslora else r)",
        "r**0.5",
    ),
    patch(
        "scale-is-inverse",
        f"{CONFIG}.rank_and_scale",
        "6.7",
        "s is α / r, not r / α.",
        "alpha / (r**0.5 if self.use_rslora else r)",
        "(r**0.5 if self.use_rslora else r) / alpha",
    ),
    patch(
        "scale-is-alpha",
        f"{CONFIG}.rank_and_scale",
        "6.7",
        "s is α without the division by r.",
        "alpha / (r**0.5 if self.use_rslora else r)",
        "alpha * 1.0",
    ),
    patch(
        "scale-of-the-default-rank",
        f"{CONFIG}.rank_and_scale",
        "6.7",
        "The scale divides by the configuration's r, where a pattern gives this module another.",
        "(r**0.5 if self.use_rslora else r)",
        "(self.r**0.5 if self.use_rslora else self.r)",
    ),
    patch(
        "alpha-pattern-ignored",
        f"{CONFIG}.rank_and_scale",
        "6.7",
        "alpha_pattern is ignored.",
        "next((v for p, v in self.alpha_pattern.items() if _ends_in(p, path)), self.lora_alpha)",
        "self.lora_alpha",
    ),
    patch(
        "rank-pattern-ignored",
        f"{CONFIG}.rank",
        "6.7",
        "rank_pattern is ignored.",
        "next((v for p, v in self.rank_pattern.items() if _ends_in(p, path)), self.r)",
        "self.r",
        "6.11",
    ),
    patch(
        "rank-pattern-last",
        f"{CONFIG}.rank",
        "6.7",
        "Of several patterns that fit, the last is taken, not the first.",
        "self.rank_pattern.items()",
        "reversed(self.rank_pattern.items())",
    ),
    patch(
        "rank-pattern-anywhere",
        f"{CONFIG}.rank",
        "6.7",
        "A pattern is searched anywhere in the path; the path must end in it, from one of its dots on.",
        "_ends_in(p, path)",
        "re.search(p, path)",
    ),
    patch(
        "rank-pattern-by-name",
        f"{CONFIG}.rank",
        "6.7",
        "A pattern is compared as a name; it is a regular expression.",
        "_ends_in(p, path)",
        "path.endswith(p)",
    ),
    patch(
        "delta-scale",
        f"{LAYER}.delta",
        "6.8",
        "ΔW lacks the factor s.",
        "matmul(self.lora_B.data, self.lora_A.data) * self.scale",
        "matmul(self.lora_B.data, self.lora_A.data)",
        "6.11",
    ),
    patch(
        "delta-transposed",
        f"{LAYER}.delta",
        "6.8",
        "ΔW is (k, d), the transpose of W₀'s shape.",
        "matmul(self.lora_B.data, self.lora_A.data)",
        "matmul(self.lora_A.data.T, self.lora_B.data.T)",
    ),
    patch(
        "delta-with-base",
        f"{LAYER}.delta",
        "6.8",
        "ΔW is the change alone; W₀ is added here already.",
        "matmul(self.lora_B.data, self.lora_A.data) * self.scale",
        "matmul(self.lora_B.data, self.lora_A.data) * self.scale + self.base.weight.data",
    ),
    patch(
        "delta-AB",
        f"{LAYER}.delta",
        "6.8",
        "A B is another product than B A, of another shape.",
        "matmul(self.lora_B.data, self.lora_A.data)",
        "np.resize(self.lora_A.data @ self.lora_A.data.T, self.base.weight.shape)",
    ),
    patch(
        "merged-in-place",
        f"{LAYER}.merged",
        "6.8",
        "W₀ itself is written: nothing could take the change back to the bit.",
        "self.base.weight.data + self.delta()",
        "self.base.weight.data.__iadd__(self.delta())",
    ),
    patch(
        "merged-without-bias",
        f"{LAYER}.merged",
        "6.8",
        "The merged layer has lost the bias.",
        "self.base.bias",
        "None",
    ),
    patch(
        "merged-twice",
        f"{LAYER}.merged",
        "6.8",
        "The change is in the merged weight twice.",
        "self.base.weight.data + self.delta()",
        "self.base.weight.data + self.delta() + self.delta()",
    ),
    patch(
        "merged-minus",
        f"{LAYER}.merged",
        "6.8",
        "Merging adds the change; subtracting it is how it is taken out.",
        "self.base.weight.data + self.delta()",
        "self.base.weight.data - self.delta()",
    ),
    patch(
        "merged-is-the-base",
        f"{LAYER}.merged",
        "6.8",
        "The merged layer is the base without the change.",
        "self.base.weight.data + self.delta()",
        "self.base.weight.data.copy()",
    ),
    patch(
        "merged-keeps-the-branch",
        f"{LAYER}.merged",
        "6.8",
        "The merged layer still adds the low-rank branch, or is no plain Linear.",
        "return Linear.from_weight(Tensor(self.base.weight.data + self.delta(), requires_grad=True), self.base.bias)",
        """import copy
layer = Linear.from_weight(Tensor(self.base.weight.data + self.delta(), requires_grad=True), self.base.bias)
other = copy.copy(self)
other.base = layer
other.weight, other.bias = (layer.weight, layer.bias)
other.in_features, other.out_features = (layer.in_features, layer.out_features)
return other""",
    ),
    patch(
        "embedding-delta-scale",
        f"{TABLE}.delta",
        "6.8",
        "ΔE lacks the factor s.",
        "matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T) * self.scale",
        "matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T)",
    ),
    patch(
        "embedding-delta-transposed",
        f"{TABLE}.delta",
        "6.8",
        "ΔE is (d, V); the table is (V, d).",
        "matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T)",
        "matmul(self.lora_embedding_B.data, self.lora_embedding_A.data)",
    ),
    patch(
        "embedding-merged-in-place",
        f"{TABLE}.merged",
        "6.8",
        "E₀ itself is written.",
        "self.weight.data + self.delta()",
        "self.weight.data.__iadd__(self.delta())",
    ),
    patch("rows-in-place", f"{ROWS}.forward", "6.9", "x is written.", "z = x.copy()", "z = x"),
    patch(
        "rows-replaced",
        f"{ROWS}.forward",
        "6.9",
        "The rows are replaced by y; y must be added.",
        "z[index] += y",
        "z[index] = y",
    ),
    patch(
        "rows-in-order",
        f"{ROWS}.forward",
        "6.9",
        "y goes to the first rows, whatever the index says.",
        "z[index] += y",
        "z[: len(y)] += y",
    ),
    patch(
        "rows-dy-whole",
        f"{ROWS}.backward",
        "6.9",
        "dy has the gradient of the first rows, not of those of the index.",
        "dz[index]",
        "dz[: len(index)].copy()",
    ),
    Mutant(
        "rows-dx-masked",
        f"{ROWS}.backward",
        "6.9",
        "dx is zero where y was added; x passes there as well.",
        body="""
(index,) = ctx.saved
dx = dz.copy()
if index is not None:
    dx[index] = 0.0
return dx if ctx.needs_grad[0] else None, None if index is None else dz[index], None
""",
    ),
    Mutant(
        "rows-keep-x",
        f"{ROWS}.forward",
        "6.9",
        "x is kept for the backward, which needs nothing of it.",
        body="ctx.save(index, x)\nz = x.copy()\nz[index] += y\nreturn z",
        along={
            "AddToRows.backward": """
index, _ = ctx.saved
return dz if ctx.needs_grad[0] else None, dz[index] if ctx.needs_grad[1] else None, None
"""
        },
    ),
    patch(
        "mixed-all-rows",
        f"{MIXED}.forward",
        "6.9",
        "Each change is computed for the whole batch; its own examples are enough.",
        "layer.change(x[index])",
        "layer.change(x)[index]",
    ),
    patch(
        "mixed-base-each",
        f"{MIXED}.forward",
        "6.9",
        "The base's product is made again for every adapter.",
        "z = AddToRows.apply(z, layer.change(x[index]), index)",
        "z = AddToRows.apply(z, layer(x[index]) - self.base(x[index]), index)",
    ),
    patch(
        "mixed-wrong-rows",
        f"{MIXED}.forward",
        "6.9",
        "The change of the first examples is added to the adapter's own.",
        "layer.change(x[index])",
        "layer.change(x[: len(index)])",
    ),
    patch(
        "mixed-one-adapter",
        f"{MIXED}.forward",
        "6.9",
        "All examples get the change of one adapter.",
        """for name, layer in self.layers.items():
    if len(self.rows[name]):
        index = to_device(self.rows[name], device_of(x.data))
        z = AddToRows.apply(z, layer.change(x[index]), index)""",
        """only = next(iter(self.layers.values()))
for name, layer in ((n, only) for n in self.layers):
    if len(self.rows[name]):
        index = to_device(self.rows[name], device_of(x.data))
        z = AddToRows.apply(z, layer.change(x[index]), index)""",
    ),
    patch(
        "mixed-unchecked",
        f"{MIXED}.forward",
        "6.9",
        "Another number of examples than there are names is not refused.",
        "x.shape[0] != self.n_examples",
        "x.shape[0] > 10**9",
    ),
    patch(
        "biases-lora-only-is-all",
        f"{CONFIG}.train_biases",
        "6.10",
        '"lora_only" trains the biases of wrapped layers alone; here all are trained.',
        'self.bias == "lora_only" and name.startswith(wrapped)',
        'self.bias == "lora_only"',
        "6.11",
    ),
    patch(
        "biases-all-is-lora-only",
        f"{CONFIG}.train_biases",
        "6.10",
        '"all" trains every bias of the model.',
        'self.bias == "all" or (self.bias == "lora_only" and name.startswith(wrapped))',
        'self.bias != "none" and name.startswith(wrapped)',
    ),
    patch(
        "biases-always",
        f"{CONFIG}.train_biases",
        "6.10",
        'Biases are trained though bias is "none".',
        "self.bias == 'lora_only'",
        "self.bias != 'all'",
        "6.11",
    ),
    patch(
        "biases-never",
        f"{CONFIG}.train_biases",
        "6.10",
        "No bias is trained, whatever the option says.",
        "self.bias == 'all' or (self.bias == 'lora_only' and name.startswith(wrapped))",
        "False and (self.bias == 'lora_only' and name.startswith(wrapped))",
        "6.11",
    ),
    patch(
        "biases-of-the-base",
        f"{CONFIG}.train_biases",
        "6.10",
        "The base's own biases are trained; it must keep them, so train copies.",
        "peft.train_copy(name)",
        "{n: p for n, p in peft.base_model.named_parameters()}[name].requires_grad_(True)",
        "6.11",
    ),
    patch(
        "biases-taken-again",
        f"{CONFIG}.train_biases",
        "6.10",
        "A bias that is trained already was copied once more.",
        "n.endswith('.bias') and n not in taken",
        "n.endswith('.bias')",
    ),
    patch(
        "apply-biases-forgotten",
        f"{CONFIG}.apply",
        "6.11",
        "The biases that the option names are not trained.",
        "self.train_biases(peft, paths)",
        "pass",
    ),
    patch(
        "apply-not-drawn",
        f"{CONFIG}.apply",
        "6.11",
        "A and B are left at zero: no gradient reaches either.",
        "layer.draw(rng, self.init_lora_weights)",
        "pass",
    ),
    patch(
        "apply-random-B",
        f"{CONFIG}.apply",
        "6.11",
        "The layers are drawn with a random B: the model does not start as the base.",
        "layer.draw(rng, self.init_lora_weights)",
        "layer.draw(rng, False)",
    ),
    patch(
        "apply-rank-unchecked",
        f"{CONFIG}.apply",
        "6.11",
        "A rank beyond min(d, k) is not refused.",
        "1 <= self.rank(path) <= min(d, k)",
        "1 <= self.rank(path) <= 10 ** 9",
    ),
    patch(
        "apply-alpha-zero",
        f"{CONFIG}.apply",
        "6.11",
        "An α of 0 is not refused: nothing would be learnt.",
        'check_not_zero(self, "lora_alpha")',
        "pass",
    ),
    patch(
        "apply-pattern-unchecked",
        f"{CONFIG}.apply",
        "6.11",
        "A pattern that matches none of the targets is not refused.",
        "not any((_ends_in(pattern, path) for path in paths))",
        "False",
    ),
    patch(
        "apply-default-rank",
        f"{CONFIG}.apply",
        "6.11",
        "Every module gets the configuration's own r and α, patterns or not.",
        "r, scale = self.rank_and_scale(path)",
        "r, scale = self.r, self.lora_alpha / self.r",
    ),
    patch(
        "apply-excluded",
        f"{CONFIG}.apply",
        "6.11",
        "exclude_modules is ignored.",
        "self.exclude_modules",
        "None",
    ),
    patch(
        "apply-all-layers",
        f"{CONFIG}.apply",
        "6.11",
        "layers_to_transform is ignored.",
        "self.layers_to_transform",
        "None",
    ),
    patch(
        "apply-keys-too",
        f"{CONFIG}.apply",
        "6.11",
        "Where no target is named, queries and values are adapted, nothing else.",
        "['q_proj', 'v_proj']",
        "['q_proj', 'k_proj', 'v_proj']",
    ),
    patch(
        "apply-unknown-bias",
        f"{CONFIG}.apply",
        "6.11",
        "An unknown option is not refused.",
        "self.bias not in ('none', 'all', 'lora_only')",
        "False",
    ),
    patch(
        "apply-first-only",
        f"{CONFIG}.apply",
        "6.11",
        "Only the first of the target modules is adapted.",
        "base = find(model, path)",
        """if path != paths[0]:
    continue
base = find(model, path)""",
    ),
    patch(
        "apply-base-trained",
        f"{CONFIG}.apply",
        "6.11",
        "The base's weights are trained beside A and B.",
        "peft.swap(path, layer)",
        """peft.swap(path, layer)
base.weight.requires_grad_(True)""",
    ),
]
