"""The update rules: SGD and AdamW."""

from __future__ import annotations

from minipeft.backend import Array, array_module
from minipeft.optim.optimizer import NoDecay, Optimizer
from minipeft.optim.parameters import Parameters
from minipeft.optim.schedules import Schedule


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if μ > 0 and with Nesterov's look-ahead if ``nesterov``.

    g' = g + λ x;  v ← μ v + g' (v = g' if μ = 0);  x ← x - η v, or with Nesterov's look-ahead x ← x - η (g' + μ v).
    η is the learning rate, μ the ``momentum``, λ the weight decay of the parameter and v its ``velocity``, which is
    kept only if μ > 0.
    """

    options = ("weight_decay", "momentum", "nesterov")

    def __init__(
        self,
        params: Parameters,
        lr: float | Schedule,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        no_decay: NoDecay = (),
    ):
        super().__init__(params, lr, weight_decay, no_decay)
        if not 0.0 <= momentum < 1.0 or (nesterov and momentum == 0.0):
            raise ValueError(f"SGD: momentum must lie in [0, 1), and above 0 for Nesterov's; got {momentum}")
        self.momentum = float(momentum)
        self.nesterov = nesterov
        self.slots = ("velocity",) if momentum else ()

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float, decay: float) -> None:
        if decay:
            g = g + decay * x
        if self.momentum:
            v = state["velocity"]
            v[...] = self.momentum * v + g
            g = g + self.momentum * v if self.nesterov else v
        x[...] = x - lr * g


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    x ← x - η λ x;  m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;
    x ← x - η m̂ / (√v̂ + ε), m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).
    η is the learning rate; t is ``steps``, 1 in the first step; λ is the weight decay of the parameter, which is not
    part of the gradient.
    """

    slots = ("m", "v")
    options = ("weight_decay", "betas", "eps")

    def __init__(
        self,
        params: Parameters,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        no_decay: NoDecay = (),
    ):
        super().__init__(params, lr, weight_decay, no_decay)
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0) or not eps > 0:
            raise ValueError(f"AdamW: betas must lie in [0, 1) and eps be positive, got {betas} and {eps}")
        self.betas = [float(beta) for beta in betas]
        self.eps = float(eps)

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float, decay: float) -> None:
        beta1, beta2 = self.betas
        m, v, t = state["m"], state["v"], self.steps
        m[...] = beta1 * m + (1.0 - beta1) * g
        v[...] = beta2 * v + (1.0 - beta2) * g * g
        m_hat = m / (1.0 - beta1**t)
        v_hat = v / (1.0 - beta2**t)
        if decay:
            x[...] = x - lr * decay * x
        x[...] = x - lr * m_hat / (array_module(x).sqrt(v_hat) + self.eps)
