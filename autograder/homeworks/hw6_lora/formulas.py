"""The formulas of hw6_lora."""

from __future__ import annotations

import numpy as np

from autograder.homeworks.formula import formulas

FORMULAS = formulas(
    """
== LoRALinear thin
X = rows(x)
Z = rows(dz)
H = X @ A.T
z = X @ W.T + b + s * (H @ B.T)
dH = s * (Z @ B)
dx = Z @ W + dH @ A
dW = Z.T @ X
db = batch(Z)
dA = dH.T @ X
dB = s * (Z.T @ H)

== LoRAEmbedding
H = A.T[ids]
z = E[ids] + s * (H @ B.T)
dB = s * (rows(dz).T @ rows(H))

== merged
delta = scale * turned_for(B @ A, W)
weight = W + E + delta
""",
    {"turned_for": lambda x, W: x.T if np.shape(W) == () else x},
)
