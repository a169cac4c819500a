"""The operators and methods of Tensor, given to it here: the engine itself knows no operation."""

from __future__ import annotations

from typing import Any

import minipeft.ops.arithmetic as arithmetic
import minipeft.ops.shape as shape
from minipeft import hints
from minipeft.autograd import Tensor
from minipeft.ops.activation import tanh


def install() -> None:
    """Give Tensor its operators (+ - * / ** @ and indexing) and the methods that have the functions' names."""
    T: Any = Tensor
    T.__add__, T.__radd__ = arithmetic.add, arithmetic.add
    T.__sub__, T.__rsub__ = arithmetic.subtract, lambda self, other: arithmetic.subtract(other, self)
    T.__mul__, T.__rmul__ = arithmetic.multiply, arithmetic.multiply
    T.__truediv__, T.__rtruediv__ = arithmetic.divide, lambda self, other: arithmetic.divide(other, self)
    T.__matmul__, T.__rmatmul__ = arithmetic.matmul, lambda self, other: arithmetic.matmul(other, self)
    T.__pow__ = arithmetic.power
    T.__neg__ = arithmetic.negative
    T.__getitem__ = shape.index
    T.T = property(shape.transpose)
    for function in (
        *(arithmetic.sum, arithmetic.mean, arithmetic.max, arithmetic.exp, arithmetic.log, arithmetic.sqrt),
        *(shape.reshape, shape.transpose, shape.swapaxes, tanh),
    ):
        setattr(T, function.__name__, function)
    T.__getattr__ = _missing


def _missing(tensor: Tensor, name: str) -> Any:
    raise hints.missing(tensor, name, hints.TENSOR)
