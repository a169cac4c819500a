"""Training in a random subspace: the intrinsic dimension (Li et al. 2018, arXiv:1804.08838; Aghajanyan et al. 2020).

    θ = θ₀ + P θ_d,      θ (D,) all parameters,  θ_d (d,) trained from zero,  P (D, d) random and fixed

The intrinsic dimension is the smallest d that reaches 90 % of what training all D parameters does. P is drawn again
from its seed wherever it is needed, tensor by tensor, and never stored. Three kinds:

    dense      entries N(0, 1/D): columns of length one, over the whole model
    sparse     a fraction 1/√D of the entries ±√(1/(D q)), q that fraction: the same lengths
    fastfood   P_i = S H G Π H B, cut to size (Le et al. 2013), H the Walsh-Hadamard transform

SAID (structure-aware) gives each tensor i a trained scale: θ_i = θ₀_i + λ_i P_i θ_d, λ_i = 1 at first; DID has none.

    dθ_d = Σ_i λ_i P_iᵀ dθ_i          dλ_i = dθ_i · P_i θ_d

H is symmetric, so the transform's backward is the transform itself, without any factor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, device_of, matmul, to_device
from minipeft.nn.module import Module, find
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, method, trainable

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


class Subspace(Function):
    """θ = θ₀ + λ P θ_d, in the shape of θ₀: θ₀ any shape, θ_d (d,), λ () or None for DID, P a `Projection`.

    dθ₀ = dθ,  dθ_d = λ Pᵀ dθ,  dλ = dθ · P θ_d, a 0-d array. P is never formed and never saved; P θ_d only for dλ.
    """

    @staticmethod
    def forward(ctx: Context, theta0: Array, theta_d: Array, scale: Array | None, projection: Projection) -> Array:
        step = projection.apply(theta_d)
        ctx.save(projection, scale if ctx.needs_grad[1] else None, step if ctx.needs_grad[2] else None)
        if scale is not None:
            step = step * scale
        return theta0 + step.reshape(theta0.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        projection, scale, step = ctx.saved
        flat = dz.reshape(-1)
        d_theta = None
        if ctx.needs_grad[1]:
            d_theta = projection.transpose(flat if scale is None else flat * scale)
        d_scale = (flat * step).sum() if ctx.needs_grad[2] else None
        return dz if ctx.needs_grad[0] else None, d_theta, d_scale, None


class Projected(Module):
    """A module whose own parameters are computed from θ_d at every call."""

    def __init__(self, base: Module, theta_d: Tensor, parts: dict[str, tuple[Projection, Tensor | None]]):
        self.base = base
        self.theta_d = theta_d
        self.scales = {name: scale for name, (_, scale) in parts.items() if scale is not None}
        self._projections = Held({name: projection for name, (projection, _) in parts.items()})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        moved = copy.copy(self.base)  # a copy of its attributes alone: the base itself is never written
        for name, projection in self._projections.by_name.items():
            theta0 = getattr(self.base, name)
            setattr(moved, name, Subspace.apply(theta0, self.theta_d, self.scales.get(name), projection))
        return moved(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("base", "_projections"):  # not set yet
            raise AttributeError(name)
        return getattr(self.base, name)


@dataclass
class Held:
    """Projections, kept out of the walk over parameters."""

    by_name: dict[str, Projection]


@method
@dataclass
class IntrinsicConfig(PeftConfig):
    """d: the dimension. projection: "dense", "sparse" or "fastfood". seed: of P.

    said: a trained scale for each of the m tensors, counted in d (d - m directions and m scales). The classification
    head is projected with the rest, unless modules_to_save names it.
    """

    peft_type: ClassVar[str] = "INTRINSIC"
    d: int = 100
    projection: str = "fastfood"
    said: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.modules_to_save is None:
            self.modules_to_save = []

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        """Swap every module that has parameters of its own for a `Projected` one, all on one θ_d that starts at 0.

        Parameter i, in the order of ``named_parameters``, gets the projection (``KINDS``) of its size into d'
        dimensions with the seed (seed, i), D the number of all entries together; a tensor in two places has one. Those
        that are trained already (`peft.trained`) are left out, of D and of the counting, too. With said, each also
        has a trained scale λ_i, 0-d, that starts at 1, and d' is d less the number of tensors; else d' = d, and no
        scales. A module inside another is swapped before the one around it.
        Raises PeftError for an unknown projection, a d' below 1 or beyond D, and parameters of the model itself.
        """
        check_fields(self, d=1, seed=0)
        if self.projection not in KINDS:
            raise PeftError(f"intrinsic: projection is one of {sorted(KINDS)}, got {self.projection!r}")
        model = peft.base_model
        copies = peft.trained()
        named = {name: p for name, p in model.named_parameters() if name not in copies}
        total, m = sum(p.size for p in named.values()), len(named)
        d = self.d - m if self.said else self.d
        if d < 1 or d > total:
            counted = f" (of d={self.d}, {m} are scales)" if self.said else ""
            raise PeftError(f"intrinsic: d must leave between 1 and {total} directions, got {d}{counted}")
        like = next(iter(named.values()))
        theta_d = trainable(np.zeros(d), like)
        kind = KINDS[self.projection]
        parts = {
            id(p): (kind(p.size, d, total, (self.seed, i)), trainable(np.ones(()), like) if self.said else None)
            for i, p in enumerate(named.values())
        }
        own = [
            (path, [n for n, v in vars(module).items() if isinstance(v, Tensor) and id(v) in parts])
            for path, module in model.named_modules()
        ]
        for path, names in reversed([(path, names) for path, names in own if names]):  # the inner ones first
            if not path:
                raise PeftError(f"intrinsic: {type(model).__name__} has parameters of its own beside its modules")
            module = find(model, path)
            peft.swap(path, Projected(module, theta_d, {n: parts[id(getattr(module, n))] for n in names}))


@dataclass(frozen=True)
class IntrinsicDimension:
    """d: the smallest dimension that reaches the threshold (None: none did), low and high its interval over the seeds.

    scores: by dimension, one a seed. target: the score to reach.
    """

    d: float | None
    low: float | None
    high: float | None
    target: float
    scores: dict[int, list[float]]


def intrinsic_dimension(
    score: Callable[[int, int], float],
    dimensions: Sequence[int],
    full: float,
    seeds: Sequence[int] = (0,),
    threshold: float = 0.9,
    resamples: int = 1000,
) -> IntrinsicDimension:
    """Sweep d and find where the score first reaches ``threshold`` times that of full training.

    score(d, seed): of one training in d dimensions, higher is better. The means over seeds are made monotone (a larger
    space holds the smaller one's solutions) and read off between two dimensions on a logarithmic axis; the interval is
    the central 95 % over resampled seeds, so that it takes several seeds to say something: with one it is a point.
    Raises ValueError for no dimensions or seeds, or a score that is not finite.
    """
    if not dimensions or not seeds:
        raise ValueError("intrinsic_dimension needs at least one dimension and one seed")
    ds = sorted(set(dimensions))
    scores = {d: [float(score(d, s)) for s in seeds] for d in ds}
    table = np.array([scores[d] for d in ds])  # (dimensions, seeds)
    if not np.isfinite(table).all():
        raise ValueError(f"intrinsic_dimension: a score is not finite: {scores}")
    target = threshold * full
    rng = np.random.default_rng(0)
    found = [_crossing(ds, table[:, rng.integers(0, len(seeds), len(seeds))].mean(1), target) for _ in range(resamples)]
    ends = np.quantile([np.inf if f is None else f for f in found], [0.025, 0.975], method="nearest")
    low, high = (None if np.isinf(e) else float(e) for e in ends)
    return IntrinsicDimension(_crossing(ds, table.mean(1), target), low, high, target, scores)


def _crossing(ds: Sequence[int], means: np.ndarray, target: float) -> float | None:
    """Where the running maximum of ``means`` first reaches ``target``: the d, between two of ``ds`` (ascending).

    Linear in log d between the last dimension below and the first at or above it; the first of ``ds`` where that
    reaches the target already; None where none does.
    """
    best = np.maximum.accumulate(means)
    above = np.flatnonzero(best >= target)
    if len(above) == 0:
        return None
    i = int(above[0])
    if i == 0:
        return float(ds[0])
    share = (target - best[i - 1]) / (best[i] - best[i - 1])
    return float(np.exp(np.log(ds[i - 1]) + share * (np.log(ds[i]) - np.log(ds[i - 1]))))
