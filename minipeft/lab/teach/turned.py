"""The notebooks' task: a small ViT that reads upright digits is to read the same digits turned, or mirrored.

Nothing is downloaded, and a training takes half a second. The ten classes stay what they were, so the head can stay
frozen, and a method has to do everything inside the Transformer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import to_numpy
from minipeft.data.batches import Batches
from minipeft.data.digits import load_digits
from minipeft.lab.framework.training import accuracy, adapted
from minipeft.models import ViT, ViTConfig
from minipeft.optim import AdamW, CosineSchedule, LinearSchedule
from minipeft.peft import PeftConfig
from minipeft.train import fit

SMALL = ViTConfig(image_size=8, patch_size=2, channels=1, n_classes=10, d_model=32, n_layers=2, n_heads=4, d_ff=128)
N_TRAIN = 1200
VIEWS = ("upright", "turned", "mirrored")


def view(images: np.ndarray, how: str) -> np.ndarray:
    """Images (n, 8, 8) as they are, turned by 90°, or mirrored left to right; ValueError for another ``how``."""
    if how not in VIEWS:
        raise ValueError(f"expected one of {', '.join(VIEWS)}, got {how!r}")
    seen = {"upright": images, "turned": np.rot90(images, axes=(1, 2)), "mirrored": images[:, :, ::-1]}[how]
    return np.ascontiguousarray(seen)


class TurnedDigits:
    """The pretrained model, and the digits in three views: 1,200 to draw training examples from, 597 for the test."""

    def __init__(self, device: str = "cpu", epochs: int = 12, config: ViTConfig = SMALL):
        """Pretrain a ViT of the sizes of ``config`` on the upright digits, on ``device``."""
        images, labels = load_digits()
        order = np.random.default_rng(0).permutation(len(labels))
        self.images, self.labels = images[order], labels[order]
        self.device = device
        self.config = config
        model = ViT(config, rng=0).to(device)
        batches = Batches({"images": self.images[:N_TRAIN], "labels": self.labels[:N_TRAIN]}, batch_size=64, seed=0)
        steps = epochs * len(batches)
        fit(model, batches, AdamW(model, lr=CosineSchedule(3e-3, steps, warmup=20)), steps=steps, progress=False)
        self._state = {name: to_numpy(x).copy() for name, x in model.state_dict().items()}

    def base(self) -> ViT:
        """A fresh copy of the pretrained model."""
        model = ViT(self.config, rng=0)
        model.load_state_dict(self._state)
        return model.to(self.device)

    def few(self, n: int, how: str = "turned", seed: int = 0, batch_size: int = 50) -> Batches:
        """Batches of ``n`` labelled images of each digit (of all that there are, where these are fewer)."""
        rng = np.random.default_rng((seed, 5))
        labels = self.labels[:N_TRAIN]
        of_class = [np.flatnonzero(labels == c) for c in range(10)]
        chosen = np.concatenate([rng.choice(rows, min(n, len(rows)), replace=False) for rows in of_class])
        images = view(self.images[chosen], how)
        return Batches({"images": images, "labels": labels[chosen]}, min(batch_size, len(chosen)), seed=seed)

    def accuracy(self, model: Any, how: str = "turned") -> float:
        """The share of the 597 test images, seen so, that the model reads rightly."""
        return accuracy(model.eval(), view(self.images[N_TRAIN:], how), self.labels[N_TRAIN:])

    def train(
        self,
        config: PeftConfig | None,
        lr: float,
        n: int = 50,
        how: str = "turned",
        steps: int = 60,
        seed: int = 0,
        model: Any = None,
    ) -> Any:
        """A fresh copy of the base trained by the method of ``config`` (None: all parameters), or ``model`` trained.

        AdamW, the rate rising over a tenth of the steps and then falling to zero in straight lines.
        """
        if model is None:
            model = adapted(self.base(), config, seed).to(self.device)
        optimizer = AdamW(model, lr=LinearSchedule(lr, steps, warmup=steps // 10))
        fit(model.train(), self.few(n, how, seed), optimizer, steps=steps, seed=seed, progress=False)
        return model.eval()
