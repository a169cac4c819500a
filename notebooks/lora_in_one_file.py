"""LoRA in one file: a graph of values, a small Transformer, LoRA, AdamW and a merge, with NumPy and nothing else.

    python notebooks/lora_in_one_file.py

It pretrains a language model on the text of this file, freezes it, and adapts it with LoRA to the same text, with upper
and lower case exchanged. The library computes the same numbers; a test compares the losses and the gradients of both.

Shapes: B examples (LoRA's B is a matrix), T tokens, R = B T rows, d width, h heads of width D = d / h, r rank,
V characters (the V of attention is a matrix). W is (width of the output, width of the input). dz is dL/dz.
"""

from pathlib import Path

import numpy as np

# --- 1. A graph of values ------------------------------------------------------------------------------------------


class Value:
    """An array, and for each value that it was computed from, the rule that sends its gradient there.

    Rules for frozen values are dropped here: what is computed from frozen values alone records nothing.
    """

    def __init__(self, data, *rules, trainable=False):
        self.data = data
        self.grad = None
        self.rules = [(source, rule) for source, rule in rules if source.trainable]
        self.trainable = trainable or len(self.rules) > 0

    def backward(self):
        """Visit the graph from here in reverse topological order and add up the gradients."""
        order, seen = [], set()

        def visit(value):
            if value not in seen:
                seen.add(value)
                for source, _ in value.rules:
                    visit(source)
                order.append(value)

        visit(self)
        self.grad = np.ones_like(self.data)
        for value in reversed(order):
            for source, rule in value.rules:
                g = rule(value.grad)
                source.grad = g if source.grad is None else source.grad + g


# --- 2. Operations: the forward, and one rule for each input ---------------------------------------------------------


def rows(x):
    """(..., d) as a matrix (R, d)."""
    return x.reshape(-1, x.shape[-1])


def softmax(x):
    E = np.exp(x - x.max(axis=-1, keepdims=True))
    return E / E.sum(axis=-1, keepdims=True)


def add(x, y):
    return Value(x.data + y.data, (x, lambda dz: dz), (y, lambda dz: dz))


def embedding(table, ids):
    """z = table[ids], one-hot(ids) times the table: a row that is used twice receives the sum of both gradients."""
    return Value(table.data[ids], (table, lambda dz: rows(np.eye(len(table.data))[ids]).T @ rows(dz)))


def linear(x, W):
    """z = x Wᵀ"""
    return Value(x.data @ W.data.T, (x, lambda dz: dz @ W.data), (W, lambda dz: rows(dz).T @ rows(x.data)))


def lora_linear(x, W, A, B, s):
    """z = x Wᵀ + s (x Aᵀ) Bᵀ with W (d, k) frozen, A (r, k), B (d, r), s = α / r.  B A is never formed."""
    H = x.data @ A.data.T  # (B, T, r)
    return Value(
        x.data @ W.data.T + s * (H @ B.data.T),
        (x, lambda dz: dz @ W.data + s * (dz @ B.data) @ A.data),
        (A, lambda dz: s * rows(dz @ B.data).T @ rows(x.data)),  # dA = s Bᵀ dZᵀ X
        (B, lambda dz: s * rows(dz).T @ rows(H)),  # dB = s dZᵀ H
    )


def rms_norm(x, gain, eps=1e-5):
    """z = γ x̂,  x̂ = x / rms,  rms² = ε + mean of x² over the last axis"""
    rms = np.sqrt((x.data**2).mean(axis=-1, keepdims=True) + eps)
    x_hat = x.data / rms

    def d_x(dz):
        g = dz * gain.data
        return (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) / rms

    return Value(gain.data * x_hat, (x, d_x), (gain, lambda dz: rows(dz * x_hat).sum(axis=0)))


def relu(x):
    return Value(np.maximum(x.data, 0.0), (x, lambda dz: dz * (x.data > 0.0)))


def attention(q, k, v, n_heads):
    """z = softmax(Q Kᵀ / √D + M) V for each head, D = d / h; M hides the keys after each query."""
    B, T, d = q.data.shape

    def split(x):
        return x.reshape(B, T, n_heads, d // n_heads).swapaxes(1, 2)  # (B, h, T, D)

    def merge(x):
        return x.swapaxes(1, 2).reshape(B, T, d)

    Q, K, V = split(q.data), split(k.data), split(v.data)
    scale = (d // n_heads) ** -0.5
    S = scale * Q @ K.swapaxes(-1, -2)  # (B, h, T, T)
    P = softmax(np.where(np.tril(np.ones((T, T), dtype=bool)), S, -np.inf))

    # dS = P ∘ (dP - Σ P ∘ dP), dP = dZ Vᵀ;  dQ = dS K / √D,  dK = dSᵀ Q / √D,  dV = Pᵀ dZ
    def d_products(dz):  # dS / √D, the gradient of Q Kᵀ
        dP = split(dz) @ V.swapaxes(-1, -2)
        return scale * P * (dP - (P * dP).sum(axis=-1, keepdims=True))

    return Value(
        merge(P @ V),
        (q, lambda dz: merge(d_products(dz) @ K)),
        (k, lambda dz: merge(d_products(dz).swapaxes(-1, -2) @ Q)),
        (v, lambda dz: merge(P.swapaxes(-1, -2) @ split(dz))),
    )


def cross_entropy(z, labels):
    """The mean of -log softmax(z)[label]: z (B, T, V), labels (B, T)."""
    P, Y = softmax(z.data), np.eye(z.data.shape[-1])[labels]  # (B, T, V)
    return Value(-np.log((P * Y).sum(axis=-1)).mean(), (z, lambda dL: dL * (P - Y) / labels.size))


# --- 3. The model: a small GPT, with RMSNorm and ReLU and without biases -----------------------------------------


def new_model(V, d, n_layers, context, rng):
    """Parameters by name: matrices from N(0, 0.02²), gains 1. The output layer shares the embedding's matrix."""
    shapes = {"input.tokens.weight": (V, d), "input.positions.weight": (context, d), "stack.norm.weight": (d,)}
    for at in (f"stack.layers.{i}" for i in range(n_layers)):
        shapes |= {f"{at}.attention_norm.weight": (d,), f"{at}.feed_forward_norm.weight": (d,)}
        shapes |= {f"{at}.attention.{name}.weight": (d, d) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        shapes |= {f"{at}.feed_forward.up_proj.weight": (4 * d, d), f"{at}.feed_forward.down_proj.weight": (d, 4 * d)}
    start = {n: 0.02 * rng.standard_normal(size) if len(size) == 2 else np.ones(size) for n, size in shapes.items()}
    return {name: Value(data, trainable=True) for name, data in start.items()}


def loss_of(model, ids, labels, n_heads, lora=None, s=1.0):
    """The loss of ids (B, T), and the logits (B, T, V); lora: the (A, B) of a layer, by its name."""

    def layer(x, name):
        W = model[f"{name}.weight"]
        return lora_linear(x, W, *lora[name], s) if lora and name in lora else linear(x, W)

    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    x = add(embedding(model["input.tokens.weight"], ids), embedding(model["input.positions.weight"], positions))
    n_layers = sum(name.endswith("q_proj.weight") for name in model)
    for at in (f"stack.layers.{i}" for i in range(n_layers)):
        y = rms_norm(x, model[f"{at}.attention_norm.weight"])
        q, k, v = (layer(y, f"{at}.attention.{name}") for name in ("q_proj", "k_proj", "v_proj"))
        x = add(x, layer(attention(q, k, v, n_heads), f"{at}.attention.out_proj"))
        y = relu(layer(rms_norm(x, model[f"{at}.feed_forward_norm.weight"]), f"{at}.feed_forward.up_proj"))
        x = add(x, layer(y, f"{at}.feed_forward.down_proj"))
    logits = linear(rms_norm(x, model["stack.norm.weight"]), model["input.tokens.weight"])
    return cross_entropy(logits, labels), logits


# --- 4. LoRA, and AdamW -----------------------------------------------------------------------------------------------


def new_lora(model, targets, r, rng):
    """Freeze the model; B = 0, so training starts from the model exactly, and only B moves in the first step."""
    for value in model.values():
        value.trainable = False
    lora = {}
    for name in (n.removesuffix(".weight") for n in model if n.endswith(targets)):
        d, k = model[f"{name}.weight"].data.shape
        A = rng.uniform(-(k**-0.5), k**-0.5, (r, k))
        lora[name] = Value(A, trainable=True), Value(np.zeros((d, r)), trainable=True)
    return lora


def merged(model, lora, s):
    """A model of plain layers that computes the same: W₀ + s B A. The base's arrays are not written."""
    return model | {f"{n}.weight": Value(model[f"{n}.weight"].data + s * B.data @ A.data) for n, (A, B) in lora.items()}


class AdamW:
    """m, v: running means of g and g² that start at 0, which 1 - βᵗ undoes. Decay acts on the weight, not on m."""

    def __init__(self, values, lr, betas=(0.9, 0.999), eps=1e-8, decay=0.0):
        self.values, self.lr, self.betas, self.eps, self.decay, self.t = list(values), lr, betas, eps, decay, 0
        self.m, self.v = ([np.zeros_like(p.data) for p in self.values] for _ in range(2))

    def step(self):
        self.t += 1
        b1, b2 = self.betas
        for p, m, v in zip(self.values, self.m, self.v):
            m += (1.0 - b1) * (p.grad - m)
            v += (1.0 - b2) * (p.grad**2 - v)
            p.data -= self.lr * self.decay * p.data
            p.data -= self.lr * (m / (1.0 - b1**self.t)) / (np.sqrt(v / (1.0 - b2**self.t)) + self.eps)
            p.grad = None


# --- 5. Pretrain, adapt, merge --------------------------------------------------------------------------------------


def main(pretraining=300, adapting=300, d=48, n_layers=2, n_heads=4, T=32, B=16, r=4, s=2.0):
    rng = np.random.default_rng(0)
    source = Path(__file__).read_text(encoding="utf-8")
    place = {c: i for i, c in enumerate(sorted(set(source + source.swapcase())))}

    def batch(text):
        ids = np.array([place[c] for c in text])
        windows = ids[rng.integers(0, len(ids) - T, B)[:, None] + np.arange(T + 1)]  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]

    def train(optimizer, steps, text, *lora):
        losses = []
        for _ in range(steps):
            loss, _ = loss_of(model, *batch(text), n_heads, *lora)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.data))
        print(f"  loss {np.mean(losses[:10]):.2f} -> {np.mean(losses[-10:]):.2f} (first and last 10 of {steps} steps)")

    model = new_model(len(place), d, n_layers, T, rng)
    print(f"pretraining {sum(p.data.size for p in model.values()):,} parameters on this file")
    train(AdamW(model.values(), lr=3e-3), pretraining, source)

    lora = new_lora(model, ("q_proj.weight", "v_proj.weight", "up_proj.weight", "down_proj.weight"), r, rng)
    trained = [p for pair in lora.values() for p in pair]
    base = {name: p.data.copy() for name, p in model.items()}
    print(f"LoRA: {sum(p.data.size for p in trained):,} parameters, on the text with upper and lower case exchanged")
    train(AdamW(trained, lr=1e-2), adapting, source.swapcase(), lora, s)

    example = batch(source.swapcase())
    adapted = loss_of(model, *example, n_heads, lora, s)[1].data
    plain = loss_of(merged(model, lora, s), *example, n_heads)[1].data
    print(f"the base is unchanged to the bit: {all(np.array_equal(base[n], p.data) for n, p in model.items())}")
    print(f"merged into plain layers, logits differ by at most {np.abs(adapted - plain).max():.0e}")


if __name__ == "__main__":
    main()
