"""The 1,797 handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

import numpy as np

from minipeft.hints import install


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8) float32 in [0, 1] and labels (1797,) int64.

    Raises ModuleNotFoundError, saying what to install, where scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the digits come with scikit-learn; {install('lab')}", name="sklearn") from error
    digits = load()
    return (digits.images / 16.0).astype(np.float32), digits.target.astype(np.int64)
