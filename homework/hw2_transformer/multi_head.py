"""Multi-headed attention, and the cache that makes generation cheap."""

from __future__ import annotations

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, array_module
from minipeft.nn.layers import Linear, Seed
from minipeft.nn.module import Module

Angles = tuple[Array, Array]


class ScaledDotProduct(Module):
    """softmax(Q Kᵀ / √D + M) V; a module of its own, so that prefix tuning can put another in its place.

    block: so many keys at a time, without the (N, S) matrix; None for all at once.
    """

    def __init__(self, causal: bool, block: int | None = None):
        self.causal = causal
        self.block = block

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Array | None = None) -> Tensor:
        return ops.attention(q, k, v, mask=mask, causal=self.causal, block=self.block)


class LayerCache:
    """The keys and values that one attention has seen: k, v (B, Hk, S, D), grown in place."""

    def __init__(self) -> None:
        self.length = 0
        self._k: Array | None = None
        self._v: Array | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v (B, Hk, N, D); all keys and values so far (B, Hk, S, D).

        Raises RuntimeError where a gradient is recorded: a cache is for generation, under no_grad.
        """
        if k.requires_grad or v.requires_grad:
            raise RuntimeError("a cache keeps no gradients: generate under no_grad()")
        end = self.length + k.shape[2]
        if self._k is None or self._v is None or end > self._k.shape[2]:
            self._k = _grown(self._k, k.data, self.length, 2 * end)
            self._v = _grown(self._v, v.data, self.length, 2 * end)
        self._k[:, :, self.length : end] = k.data
        self._v[:, :, self.length : end] = v.data
        self.length = end
        return self.get()

    def get(self) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        assert self._k is not None
        assert self._v is not None
        return Tensor(self._k[:, :, : self.length]), Tensor(self._v[:, :, : self.length])


def _grown(old: Array | None, like: Array, length: int, capacity: int) -> Array:
    B, H, _, D = like.shape
    new = array_module(like).empty((B, H, capacity, D), dtype=like.dtype)
    if old is not None:
        new[:, :, :length] = old[:, :, :length]
    return new


class MultiHeadAttention(Module):
    """X' = concat_i(softmax(Q⁽ⁱ⁾ K⁽ⁱ⁾ᵀ / √D + M) V⁽ⁱ⁾) W_o for X (B, N, d); cross-attention where a memory is given.

    n_kv_heads < n_heads: groups of query heads share a key head. Raises ValueError where the sizes do not divide.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        causal: bool = False,
        bias: bool = True,
        rng: Seed = None,
    ):
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if d_model % n_heads or n_heads % n_kv_heads:
            raise ValueError(
                f"attention: d_model {d_model} must be a multiple of n_heads {n_heads}, "
                f"and n_heads of n_kv_heads {n_kv_heads}"
            )
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.head_dim = d_model // n_heads
        self.q_proj = Linear(d_model, d_model, bias, rng)
        self.k_proj = Linear(d_model, n_kv_heads * self.head_dim, bias, rng)
        self.v_proj = Linear(d_model, n_kv_heads * self.head_dim, bias, rng)
        self.core: Module = ScaledDotProduct(causal)
        self.out_proj = Linear(d_model, d_model, bias, rng)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Array | None = None,
        angles: Angles | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, N, d) -> (B, N, d).

        memory (B, S, d): attend there in place of x. mask: boolean, (B, S) or broadcastable to (B, H, N, S), True where
        a query may look; it goes to ``core`` with q, k and v. angles: cos and sin of rotary positions, by which q and k
        are turned (v is not). cache: keys, turned already, and values of earlier calls, in front of the new ones. With
        a memory, what a cache holds is all of it: it is filled by the first call and read by the others.
        """
        raise NotImplementedError("hw2.10: MultiHeadAttention.forward")
