"""The formulas of hw3_frozen_adapters."""

from __future__ import annotations

from autograder.homeworks.formula import formulas

FORMULAS = formulas("""
== Linear
X = rows(x)
Z = rows(dz)
z = X @ W.T + b
dx = Z @ W
dW = Z.T @ X
db = batch(Z)

== Bottleneck
H = rows(h)
dZ = scale * rows(dz)
G = H @ W_down.T + b_down
U = f(G)
slope = df(G)
z = scale * (U @ W_up.T + b_up) + residual * H
dW_up = dZ.T @ U
db_up = batch(dZ)
dG = (dZ @ W_up) * slope
dW_down = dG.T @ H
db_down = batch(dG)
dh = dG @ W_down + residual * rows(dz)

== optimize:SGD
g1 = g + lam * w
velocity = mu * velocity + g1
look_ahead = nesterov * (g1 + mu * velocity) + (1 - nesterov) * velocity
w = w - lr * look_ahead
! velocity = mu * velocity + (1 - mu) * g1 | The gradient enters the velocity with a factor 1 - μ; it must enter whole.
! g1 = g | The weight decay is missing: the gradient lacks the term λ x.
! velocity = mu * velocity + lr * g1 | The velocity is multiplied by the rate.
! look_ahead = velocity | Nesterov's look-ahead is missing.
! look_ahead = nesterov * (velocity + mu * velocity) + (1 - nesterov) * velocity | Nesterov's step takes v for g.
! look_ahead = g1 + mu * velocity | Nesterov's look-ahead is used although it is off.

== optimize:AdamW
decayed = w - lr * lam * w
m = beta1 * m + (1 - beta1) * g
v = beta2 * v + (1 - beta2) * g ** 2
mhat = m / (1 - beta1 ** t)
vhat = v / (1 - beta2 ** t)
w = decayed - lr * mhat / (sqrt(vhat) + eps)
! mhat = m / (1 - beta1 ** (t + 1)) | t is too large by one in the bias correction of m.
! w = decayed - lr * m / (1 - beta1 ** (t + 1)) / (sqrt(v / (1 - beta2 ** (t + 1))) + eps) | t is too large by one.
! w = decayed - lr * m / (sqrt(v) + eps) | The bias correction is missing: m and v start at 0.
! w = decayed - lr * mhat / sqrt(vhat + eps) | ε is under the root; it is added to the root.
! w = decayed - lr * mhat / ((sqrt(v) + eps) / sqrt(1 - beta2 ** t)) | ε is added before the bias correction of v.
! decayed = w - lam * w | The decay λ x lacks the factor of the rate.
! decayed = w | The weight decay is missing.
""")
