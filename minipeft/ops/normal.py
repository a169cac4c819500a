"""The normal distribution function, which NumPy and CuPy have no common name for."""

from __future__ import annotations

from minipeft.backend import Array, array_module

# Our fits of Φ(-x) e^{x²/2} / t for x ≥ 0 with t = 1 / (1 + p x), by rising powers of t: errors 2e-8 and 6e-16.
_TAIL_32 = """0.1396296372103752 0.13965593740559643 0.12181900489117618 0.09571962452134476 0.004336217208972162
0.11362298541646199 -0.21144630066539194 0.12070096730462038 -0.024038060174881214"""
_TAIL_64 = """0.0598413420602149 0.05984134206021507 0.058494911863821664 0.05580205147458173 0.051853644757484184
0.04683146504107638 0.040997832060317416 0.03467697844944613 0.02820504598207298 0.022083299074922923
0.015605606343626522 0.014537573204471934 -0.005380743035498026 0.04464284214926059 -0.10277864570173444
0.22290830403193182 -0.38349466722065545 0.5373616689641563 -0.6067346402895822 0.543123958250575
-0.3783805438542206 0.19843135812867554 -0.07464844730555102 0.018809710506924926 -0.0028198082856322154
0.0001885612890978492"""
_NORMAL_TAIL = {  # dtype -> (p, coefficients)
    "float32": (0.35, tuple(map(float, _TAIL_32.split()))),
    "float64": (0.15, tuple(map(float, _TAIL_64.split()))),
}


def normal_cdf(x: Array) -> tuple[Array, Array]:
    """Return Φ(x) and e^{-x²/2} of the standard normal distribution, in the dtype of x."""
    xp = array_module(x)
    p, coefficients = _NORMAL_TAIL[x.dtype.name]
    bell = xp.exp(-0.5 * (x * x))
    t = 1.0 / (1.0 + p * xp.abs(x))
    tail = coefficients[-1] * t
    for c in coefficients[-2::-1]:
        tail += c
        tail *= t
    tail *= bell
    return 0.5 + xp.copysign(0.5 - tail, x), bell
