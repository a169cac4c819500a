"""What a training step of a decoder costs with each method, out of its sizes alone: FLOPs and saved activations.

One walk from the ids to the loss, as the model makes it, asks at every product the two questions of the engine: does
the input want a gradient (dx), and is the matrix trained (dW)? With F the FLOPs of a product's forward,

    forward = Σ F,      backward = Σ F [dx] + Σ F [dW],      saved = Σ what [dx] and [dW] need

so the backward of a method is the forward of all that stands above its lowest trained parameter, and the products of
its own. methods.py has one small class a method, which says where it departs from the frozen decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.accounting import formulas as f
from minipeft.backend import FlopCount
from minipeft.models.decoder import DecoderConfig
from minipeft.peft import PeftConfig

FLOAT, ID = 4, 8  # bytes


@dataclass(frozen=True)
class StepCost:
    """Of a training step in float32: trained parameters, FLOPs, bytes of activations saved for the backward."""

    trained: int
    flops: FlopCount
    activations: int

    @property
    def gradients(self) -> int:
        """Bytes."""
        return FLOAT * self.trained

    def optimizer_state(self, slots: int = 2) -> int:
        """Bytes; slots: arrays a parameter, 2 for AdamW, 1 for SGD with momentum."""
        return slots * FLOAT * self.trained


class Frozen:
    """The walk through a decoder of which nothing is trained.

    Names are the model's paths. A boolean that travels with an activation says whether it wants a gradient; beside it
    travels the name of the array that holds it, since an array saved by several products is saved once.
    """

    prompt = 0  # rows before the text
    prefix = 0  # keys before those of the text

    def __init__(self, config: DecoderConfig, method: PeftConfig | None, batch: int, length: int, labels: int):
        self.config = config
        self.method = method
        self.B, self.T, self.labels = batch, length, labels
        self.kv = f.key_width(config)
        self.forward = 0
        self.backward = 0
        self.saved: dict[str, int] = {}  # bytes by what is saved

    def trains(self, parameter: str) -> bool:
        """Whether the base model's parameter is trained."""
        return False

    def walk(self) -> None:
        x = self.input()
        name = "input"
        for i in range(self.config.n_layers):
            x, name = self.layer(f"stack.layers.{i}", x, name)
        if self.config.norm_first:
            x, name = self.norm("stack.norm", x)
        self.head(x, name)

    @property
    def rows(self) -> int:
        """R = B (P + T)."""
        return self.B * (self.prompt + self.T)

    def keep(self, what: str, numbers: int, itemsize: int = FLOAT) -> None:
        self.saved[what] = numbers * itemsize

    def product(self, m: int, k: int, n: int, dx: bool, dW: bool) -> None:
        """(m, k) times (k, n), and its gradients as far as they are wanted."""
        flops = f.linear_flops(m, k, n)
        self.forward += flops
        self.backward += (dx + dW) * flops

    def input(self) -> bool:
        tokens = self.embedding("input.tokens", self.B * self.T)
        positions = False if self.config.rotary else self.embedding("input.positions", self.prompt + self.T)
        x = self.prompted(tokens) or positions
        return self.dropout("input", x)

    def embedding(self, path: str, n: int) -> bool:
        trained = self.trains(f"{path}.weight")
        if trained:
            self.keep(f"{path} ids", n, ID)
        return trained

    def prompted(self, x: bool) -> bool:
        return x

    def dropout(self, path: str, x: bool) -> bool:
        if x and self.config.dropout:
            self.keep(f"{path} mask", self.rows * self.config.d_model)
        return x

    def layer(self, path: str, x: bool, name: str) -> tuple[bool, str]:
        for sublayer, run in (("attention", self.attention), ("feed_forward", self.feed_forward)):
            here = f"{path}.{sublayer}"
            if self.config.norm_first:
                z = self.dropout(here, run(here, *self.norm(f"{here}_norm", x)))
                x = x or z
            else:
                z = self.dropout(here, run(here, x, name))
                x, name = self.norm(f"{here}_norm", x or z)
        return x, name

    def norm(self, path: str, x: bool) -> tuple[bool, str]:
        gamma = self.trains(f"{path}.weight")
        beta = self.config.norm == "layer" and self.trains(f"{path}.bias")
        if x or gamma:
            self.keep(f"{path} normalized", self.rows * self.config.d_model)
        if x:
            self.keep(f"{path} 1/std", self.rows)
        return x or gamma or beta, path

    def linear(self, path: str, x: bool, name: str) -> bool:
        """x Wᵀ + b for the array called ``name``."""
        out, k = f.matrices(self.config)[path]
        W = self.trains(f"{path}.weight")
        self.product(self.rows, k, out, x, W)
        if W:
            self.keep(name, self.rows * k)
        return x or W or (self.config.bias and self.trains(f"{path}.bias"))

    def attention(self, path: str, x: bool, name: str) -> bool:
        q, k, v = (self.linear(f"{path}.{p}_proj", x, name) for p in "qkv")
        if self.config.rotary and (q or k):
            half = self.config.d_model // self.config.n_heads // 2
            self.keep("cos and sin", 2 * (self.prompt + self.T) * half)
        return self.linear(f"{path}.out_proj", self.core(path, q, k, v), f"{path} heads")

    def core(self, path: str, q: bool, k: bool, v: bool) -> bool:
        """Q Kᵀ and A V forward; back dV = Aᵀ dZ, dA = dZ Vᵀ, dQ = dS K, dK = dSᵀ Q, each as large."""
        d, pairs = self.config.d_model, (self.prompt + self.T) ** 2
        one = 2 * self.B * pairs * d
        self.forward += 2 * one
        self.backward += one * (v + (q or k) + q + k)
        if q or k or v:
            self.keep(f"{path} A", self.B * self.config.n_heads * pairs)
        if k:
            self.keep(f"{path} Q", self.rows * d)
        if q:
            self.keep(f"{path} K", self.rows * self.kv)
        if q or k:
            self.keep(f"{path} V", self.rows * self.kv)
        return q or k or v

    def feed_forward(self, path: str, x: bool, name: str) -> bool:
        numbers = self.rows * self.config.d_ff
        h = self.linear(f"{path}.up_proj", x, name)
        if self.config.gated:
            g = self.linear(f"{path}.gate_proj", x, name)
            if g:
                self.keep(f"{path} to gate", numbers)
            if h:
                self.keep(f"{path} to up", numbers)
            h = g or h
        elif h:
            self.keep(f"{path} slope", numbers)
        return self.linear(f"{path}.down_proj", h, f"{path} hidden")

    def head(self, x: bool, name: str) -> None:
        """The loss by blocks of the rows with a label: the gradients are made in the forward, and are what is saved."""
        d, V = self.config.d_model, self.config.vocab_size
        W = self.trains("lm_head.weight")
        self.product(self.labels, d, V, x, W)
        if x:
            self.keep("loss dx", self.B * self.T * d)
        if W:
            self.keep("loss dW", V * d)

    def whole_head(self, x: bool) -> None:
        """The head where it is no plain linear layer: logits of all rows, and their gradient saved."""
        if x:
            self.keep("loss ds", self.B * self.T * self.config.vocab_size)
