"""What a training step costs with each method: where it departs from the walk through the frozen decoder."""

from __future__ import annotations

from typing import Any

from minipeft.accounting import formulas as f
from minipeft.accounting.steps import ID, Frozen, StepCost
from minipeft.backend import FlopCount
from minipeft.models.decoder import DecoderConfig
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    FacTConfig,
    IA3Config,
    IntrinsicConfig,
    LayerNormConfig,
    LNLoraConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
)


class Full(Frozen):
    def trains(self, parameter: str) -> bool:
        return True


class TopLayers(Frozen):
    method: TopLayersConfig

    def trains(self, parameter: str) -> bool:
        first = self.config.n_layers - self.method.n_layers
        top = [f"stack.layers.{i}." for i in range(first, self.config.n_layers)]
        return parameter.startswith(("stack.norm.", *top))


class BitFit(Frozen):
    method: BitFitConfig

    def trains(self, parameter: str) -> bool:
        return parameter.endswith(".bias") and (self.method.norms or "norm." not in parameter)


class Norms(Frozen):
    def trains(self, parameter: str) -> bool:
        return "norm." in parameter


class Adapters(Frozen):
    method: AdapterConfig

    def attention(self, path: str, x: bool, name: str) -> bool:
        return self.adapted(path, x, name, super().attention(path, x, name))

    def feed_forward(self, path: str, x: bool, name: str) -> bool:
        return self.adapted(path, x, name, super().feed_forward(path, x, name))

    def adapted(self, path: str, x: bool, name: str, z: bool) -> bool:
        """A bottleneck behind the sublayer's output z, or beside the sublayer on its input x."""
        m, d, r, R = self.method, self.config.d_model, self.method.r, self.rows
        layer, sublayer = path.split(".")[2:]
        if sublayer not in m.after or int(layer) not in f.adapted_layers(self.config, m):
            return z
        h, source = (x, name) if m.parallel else (z, f"{path} output")
        if m.layer_norm:
            self.keep(f"{path} adapter's normalized", R * d)
            if h:
                self.keep(f"{path} adapter's 1/std", R)
            h, source = True, f"{path} adapter's input"
        self.product(R, d, r, h, True)
        self.product(R, r, d, True, True)
        self.keep(source, R * d)
        self.keep(f"{path} adapter's hidden", R * r)
        self.keep(f"{path} adapter's slope", R * r)
        return True


class Prompt(Frozen):
    method: PromptTuningConfig

    @property
    def prompt(self) -> int:  # type: ignore[override]
        return self.method.num_virtual_tokens

    def prompted(self, x: bool) -> bool:
        return True


class Prefix(Frozen):
    method: PrefixTuningConfig

    def core(self, path: str, q: bool, k: bool, v: bool) -> bool:
        """The gradients of the text's columns are made only where they are wanted, those of the prefix always."""
        c, R, P, T = self.config, self.rows, self.method.num_virtual_tokens, self.T
        if self.method.prefix_projection:
            m = self.method.encoder_hidden_size or c.d_model
            self.product(P, c.d_model, m, True, True)
            self.product(P, m, 2 * self.kv, True, True)
            self.keep(f"{path} slope", P * m)
            self.keep(f"{path} hidden", P * m)
        column = 2 * R * c.d_model
        self.forward += 2 * column * (P + T)
        self.backward += column * ((P + T if v else P) + (P + T) + (P + T if q else 0) + (P + T if k else P))
        self.keep(f"{path} A", R * c.n_heads * (P + T))
        self.keep(f"{path} Q", R * c.d_model)
        self.keep(f"{path} V", self.B * (P + T) * self.kv)
        if q:
            self.keep(f"{path} K", self.B * (P + T) * self.kv)
        return True


class LowRank(Frozen):
    """What LoRA and LNLoRA share: beside x W₀ᵀ the products x Aᵀ (R, r) and (x Aᵀ) Bᵀ."""

    def beside(self, path: str, rows: int, shape: tuple[int, int], r: int, dx: bool) -> None:
        out, k = shape
        self.product(rows, k, r, dx, True)
        self.product(rows, r, out, True, True)
        self.keep(f"{path} H", rows * r)


class Lora(LowRank):
    method: LoraConfig

    def __init__(self, *sizes: Any):
        super().__init__(*sizes)
        self.ranks = f.lora_ranks(self.config, self.method)

    def trains(self, parameter: str) -> bool:
        own = parameter.removesuffix(".bias")
        return own != parameter and (
            self.method.bias == "all" or (self.method.bias == "lora_only" and own in self.ranks)
        )

    def embedding(self, path: str, n: int) -> bool:
        """Rows of Aᵀ are looked up: B alone makes products, and dA takes dz B."""
        if path not in self.ranks:
            return super().embedding(path, n)
        r = self.ranks[path]
        self.product(n, r, self.config.d_model, True, True)
        self.keep(f"{path} ids", n, ID)
        self.keep(f"{path} H", n * r)
        return True

    def linear(self, path: str, x: bool, name: str) -> bool:
        z = super().linear(path, x, name)
        if path not in self.ranks:
            return z
        shape = f.matrices(self.config)[path]
        self.beside(path, self.rows, shape, self.ranks[path], x)
        if self.method.lora_dropout:
            if x:
                self.keep(f"{path} mask", self.rows * shape[1])
            name = f"{path} dropped"
        self.keep(name, self.rows * shape[1])
        return True

    def head(self, x: bool, name: str) -> None:
        if "lm_head" not in self.ranks:
            return super().head(x, name)
        d, V, R = self.config.d_model, self.config.vocab_size, self.B * self.T
        self.product(R, d, V, x, False)
        self.beside("lm_head", R, (V, d), self.ranks["lm_head"], x)
        self.keep(name, R * d)
        return self.whole_head(True)


class LNLora(LowRank):
    method: LNLoraConfig

    def linear(self, path: str, x: bool, name: str) -> bool:
        z = super().linear(path, x, name)
        if path not in f.lnlora_targets(self.config, self.method):
            return z
        shape = f.matrices(self.config)[path]
        self.beside(path, self.rows, shape, self.method.r, True)  # γ and β want the gradient of the normalized input
        self.keep(f"{path} N", self.rows * shape[1])
        self.keep(f"{path} normalized", self.rows * shape[1])
        if x:
            self.keep(f"{path} 1/std", self.rows)
        return True


class FacT(Frozen):
    method: FacTConfig

    def linear(self, path: str, x: bool, name: str) -> bool:
        """H = X Uᵀ, G = H Σᵀ, Y = G Vᵀ: of m blocks in the output G and Y are m times, of the input H and G."""
        z = super().linear(path, x, name)
        d, blocks = f.fact_blocks(self.config, self.method)
        if path not in blocks:
            return z
        m, r, R = blocks[path], self.method.r, self.rows
        k = f.matrices(self.config)[path][1]
        into, out = (1, m) if k == d else (m, 1)
        self.product(into * R, d, r, x, True)
        self.product(m * R, r, r, True, True)
        self.product(out * R, r, d, True, True)
        if self.method.factorization == "tk":
            self.product(m, r, r * r, True, True)
            self.keep(f"{path} Σ", m * r * r)
        self.keep(name, R * k)
        self.keep(f"{path} H", into * R * r)
        self.keep(f"{path} G", out * R * r)
        return True


class IA3(Frozen):
    method: IA3Config

    def linear(self, path: str, x: bool, name: str) -> bool:
        targets = f.ia3_targets(self.config, self.method)
        if path not in targets:
            return super().linear(path, x, name)
        out, k = f.matrices(self.config)[path]
        inside = targets[path]
        self.product(self.rows, k, out, x or inside, False)  # inside, dl takes dz W₀
        self.keep(name if inside else f"{path} output", self.rows * (k if inside else out))
        return True


class Intrinsic(Full):
    """Every parameter is computed from θ_d, where it is used: an activation of its own, not a parameter."""

    method: IntrinsicConfig

    def use(self, parameter: str, size: int, saved: bool) -> None:
        if self.method.projection != "fastfood":  # the Walsh-Hadamard transform has no products
            directions = self.method.d - (self.tensors if self.method.said else 0)
            self.product(size, directions, 1, True, False)
        if self.method.said:
            self.keep(f"{parameter} step", size)
        if saved:
            self.keep(parameter, size)

    @property
    def tensors(self) -> int:
        """The number of tensors, each with its scale."""
        c = self.config
        biases = 1 + c.bias
        norms = 2 if c.norm == "layer" else 1
        inside = (6 + c.gated) * biases + 2 * norms
        return c.n_layers * inside + (norms if c.norm_first else 0) + len(f.tables(c)) + (0 if c.tied else 1)

    def embedding(self, path: str, n: int) -> bool:
        rows, d = f.tables(self.config)[path]
        self.use(f"{path}.weight", rows * d, saved=False)
        return super().embedding(path, n)

    def norm(self, path: str, x: bool) -> tuple[bool, str]:
        self.use(f"{path}.weight", self.config.d_model, saved=x)
        if self.config.norm == "layer":
            self.use(f"{path}.bias", self.config.d_model, saved=False)
        return super().norm(path, x)

    def linear(self, path: str, x: bool, name: str) -> bool:
        out, k = f.matrices(self.config)[path]
        self.use(f"{path}.weight", out * k, saved=x)
        if self.config.bias:
            self.use(f"{path}.bias", out, saved=False)
        return super().linear(path, x, name)

    def head(self, x: bool, name: str) -> None:
        d, V, R = self.config.d_model, self.config.vocab_size, self.B * self.T
        self.use("lm_head.weight", V * d, saved=True)
        self.product(R, d, V, True, True)
        self.keep(name, R * d)
        self.whole_head(True)


WALKS: dict[type | None, type[Frozen]] = {
    None: Full,
    TopLayersConfig: TopLayers,
    BitFitConfig: BitFit,
    LayerNormConfig: Norms,
    AdapterConfig: Adapters,
    PromptTuningConfig: Prompt,
    PrefixTuningConfig: Prefix,
    LoraConfig: Lora,
    LNLoraConfig: LNLora,
    FacTConfig: FacT,
    IA3Config: IA3,
    IntrinsicConfig: Intrinsic,
}


def step_cost(
    config: DecoderConfig, method: PeftConfig | None, batch: int, length: int, labels: int | None = None
) -> StepCost:
    """The cost of a training step of a `DecoderLM` in float32 with a method; None for full fine-tuning.

    ids (batch, length) without a padding mask; labels: how many tokens have one, all by default. Attention is "full",
    and no layer is checkpointed. Raises ValueError as `trained_parameters` does.
    """
    trained = f.trained_parameters(config, method)
    walk = WALKS[None if method is None else type(method)](
        config, method, batch, length, batch * length if labels is None else labels
    )
    walk.walk()
    return StepCost(trained, FlopCount(walk.forward, walk.backward), sum(walk.saved.values()))
