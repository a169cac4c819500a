"""Random projections P (D, d) that are drawn again from their seed wherever they are needed, and never stored.

    dense      entries N(0, 1/D): columns of length one, over the whole model
    sparse     a fraction 1/√D of the entries ±√(1/(D q)), q that fraction: the same lengths
    fastfood   P_i = S H G Π H B, cut to size (Le et al. 2013), H the Walsh-Hadamard transform

H is symmetric, so the transform's backward is the transform itself, without any factor.
"""

from __future__ import annotations

import numpy as np

from minipeft.backend import Array, array_module, device_of, matmul, to_device

ROWS = 4096  # of P drawn at a time


class Projection:
    """P_i of one tensor: ``apply`` is x -> P x, ``transpose`` y -> Pᵀ y; total: D, size: of the tensor."""

    def __init__(self, size: int, d: int, total: int, seed: tuple[int, ...]):
        self.size, self.d, self.total, self.seed = size, d, total, seed

    def apply(self, x: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} defines no apply")

    def transpose(self, y: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} defines no transpose")


class Dense(Projection):
    """P in blocks of ROWS rows, each drawn again from its own seed whenever it is needed: entries of N(0, 1/D)."""

    def _block(self, start: int, like: Array) -> Array:
        """Rows start … start + ROWS - 1 of P (fewer at the end), in the dtype and on the device of ``like``: (rows, d).

        Standard normal values from ``np.random.default_rng((*seed, start))``, drawn as one array (rows, d), times
        1/√D with D = total; then `_kept` chooses among them.
        """
        rows = min(ROWS, self.size - start)
        values = np.random.default_rng((*self.seed, start)).standard_normal((rows, self.d)) * self.total**-0.5
        return to_device(self._kept(values, start).astype(like.dtype), device_of(like))

    def _kept(self, values: np.ndarray, start: int) -> np.ndarray:
        """All of a block's values."""
        return values

    def apply(self, x: Array) -> Array:
        """P x for x (d,): (size,), block by block."""
        blocks = [matmul(self._block(s, x), x[:, None])[:, 0] for s in range(0, self.size, ROWS)]
        return array_module(x).concatenate(blocks)

    def transpose(self, y: Array) -> Array:
        """Pᵀ y for y (size,): (d,), the sum over the blocks of rows."""
        result = array_module(y).zeros((self.d,), dtype=y.dtype)
        for s in range(0, self.size, ROWS):
            result += matmul(y[None, s : s + ROWS], self._block(s, y))[0]
        return result


class Sparse(Dense):
    """The same with all but a fraction q = 1/√D of the entries zero, the others ±√(1/(D q)) (Li et al. 2006)."""

    def _kept(self, values: np.ndarray, start: int) -> np.ndarray:
        """Signs of ``values`` times √(1/(D q)) where ``default_rng((*seed, start, 1)).random(shape)`` < q, else 0."""
        q = self.total**-0.5
        kept = np.random.default_rng((*self.seed, start, 1)).random(values.shape) < q
        return np.where(kept, np.sign(values) * (self.total * q) ** -0.5, 0.0)


def walsh_hadamard(x: Array) -> Array:
    """H x for x (L,), L a power of two, unnormalized: log₂ L passes of sums and differences."""
    L, step = x.shape[0], 1
    while step < L:
        pairs = x.reshape(L // (2 * step), 2, step)
        a, b = pairs[:, 0], pairs[:, 1]
        x = array_module(x).concatenate([(a + b)[:, None], (a - b)[:, None]], axis=1).reshape(L)
        step *= 2
    return x


class Fastfood(Projection):
    """S H G Π H B for blocks of L ≥ max(size, d), a power of two, scaled to columns of length √(size / D) each."""

    def __init__(self, size: int, d: int, total: int, seed: tuple[int, ...]):
        super().__init__(size, d, total, seed)
        self.L = 1 << max(size - 1, d - 1, 0).bit_length()

    def _parts(self, like: Array) -> tuple[Array, Array, Array, float]:
        """B (L,) of ±1, the permutation Π (L,), G (L,) Gaussian, and S as one number, all from the seed.

        Π takes entry i from place order[i]: (Π v)[i] = v[order[i]].
        """
        rng = np.random.default_rng(self.seed)
        B = rng.integers(0, 2, self.L) * 2.0 - 1.0
        order = rng.permutation(self.L)
        G = rng.standard_normal(self.L)
        # A column of H G Π H B has length √(L ΣG²), spread evenly over its L rows.
        scale = float((self.L * (G * G).sum() * self.total / self.L) ** -0.5)
        move = device_of(like)
        return (
            to_device(B.astype(like.dtype), move),
            to_device(order, move),
            to_device(G.astype(like.dtype), move),
            scale,
        )

    def apply(self, x: Array) -> Array:
        """S H G Π H B x for x (d,), padded with zeros to L and cut to (size,)."""
        B, order, G, scale = self._parts(x)
        padded = array_module(x).zeros((self.L,), dtype=x.dtype)
        padded[: self.d] = x
        return walsh_hadamard(G * walsh_hadamard(B * padded)[order])[: self.size] * scale

    def transpose(self, y: Array) -> Array:
        """B H Πᵀ G H S y for y (size,), padded with zeros to L and cut to (d,)."""
        B, order, G, scale = self._parts(y)
        xp = array_module(y)
        padded = xp.zeros((self.L,), dtype=y.dtype)
        padded[: self.size] = y
        unordered = xp.zeros((self.L,), dtype=y.dtype)
        unordered[order] = G * walsh_hadamard(padded)
        return (B * walsh_hadamard(unordered))[: self.d] * scale


KINDS: dict[str, type[Projection]] = {"dense": Dense, "sparse": Sparse, "fastfood": Fastfood}
