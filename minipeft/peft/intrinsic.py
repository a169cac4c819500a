"""Training in a random subspace: the intrinsic dimension (Li et al. 2018, arXiv:1804.08838; Aghajanyan et al. 2020).

    θ = θ₀ + P θ_d,      θ (D,) all parameters,  θ_d (d,) trained from zero,  P (D, d) random and fixed

The intrinsic dimension is the smallest d that reaches 90 % of what training all D parameters does. P is made of one
projection for each tensor (`projections`).

SAID (structure-aware) gives each tensor i a trained scale: θ_i = θ₀_i + λ_i P_i θ_d, λ_i = 1 at first; DID has none.

    dθ_d = Σ_i λ_i P_iᵀ dθ_i          dλ_i = dθ_i · P_i θ_d
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array
from minipeft.nn.module import Module, find
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, method, trainable
from minipeft.peft.projections import KINDS, Projection


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
