"""Welch's t-test: do two methods differ by more than their seeds do? (Welch 1947)

    t = (m₁ - m₂) / √(s₁²/n₁ + s₂²/n₂),    ν = (s₁²/n₁ + s₂²/n₂)² / (s₁⁴ / (n₁² (n₁ - 1)) + s₂⁴ / (n₂² (n₂ - 1)))

The variances of the two groups need not be equal; ν, the degrees of freedom, is Satterthwaite's. Whoever tests every
cell of a table finds differences by chance alone: `holm` corrects for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Welch:
    """difference: m₁ - m₂; t and ν as above; p: how often chance alone gives a |t| as large, two-sided."""

    difference: float
    t: float
    nu: float
    p: float


def welch_statistic(a: Values, b: Values) -> tuple[float, float]:
    """t and ν of two groups of values (n₁,), (n₂,), with the variances s² = Σ (x - m)² / (n - 1).

    Two groups without any spread: t is ±inf (nan where their means agree, too) and ν = n₁ + n₂ - 2.
    Raises ValueError for fewer than two values in a group.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or min(len(x), len(y)) < 2:
        raise ValueError(f"welch: each group needs at least 2 values, got shapes {x.shape} and {y.shape}")
    difference = float(x.mean() - y.mean())
    u, v = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    if u + v == 0.0:
        return (math.copysign(math.inf, difference) if difference else math.nan), float(len(x) + len(y) - 2)
    nu = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    return difference / math.sqrt(u + v), nu


def welch(a: Values, b: Values) -> Welch:
    """Welch's test of two groups of values, two-sided; p is 1 where neither mean nor spread differ.

    Raises ValueError for fewer than two values in a group.
    """
    t, nu = welch_statistic(a, b)
    return Welch(float(np.mean(a) - np.mean(b)), t, nu, 1.0 if math.isnan(t) else two_sided(t, nu))


def two_sided(t: float, nu: float) -> float:
    """P(|T| ≥ |t|) for Student's t with ν degrees of freedom: I_x(ν/2, 1/2) at x = ν / (ν + t²)."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(nu / (nu + t * t), nu / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other side converges
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    value = 1.0
    for m in range(400, 0, -1):  # from the inside out
        k, odd = divmod(m, 2)
        d = (
            -(a + k) * (a + b + k) / ((a + 2 * k) * (a + 2 * k + 1))
            if odd
            else k * (b - k) / ((a + 2 * k - 1) * (a + 2 * k))
        )
        value = 1.0 + d * x / value
    return front / value


def holm(ps: Values) -> np.ndarray:
    """p-values corrected for being many, in the same order (Holm 1979): (m,) -> (m,), also for m = 0.

    The smallest is multiplied by m, the next by m - 1, …; none falls below one before it, none exceeds 1.
    """
    p = np.asarray(ps, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected
