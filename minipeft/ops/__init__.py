"""Operations: each a Function with an explicit forward and backward, and a lower-case function on tensors."""

from minipeft.ops.activation import (
    activation,
    dropout,
    gate,
    gelu,
    relu,
    silu,
    tanh,
)
from minipeft.ops.arithmetic import (
    add,
    divide,
    exp,
    log,
    matmul,
    max,
    mean,
    multiply,
    negative,
    power,
    sqrt,
    subtract,
    sum,
    weighted_mean,
)
from minipeft.ops.attention import attention, merge_heads, rotary, rotary_angles, split_heads
from minipeft.ops.embedding import embedding
from minipeft.ops.linear import linear
from minipeft.ops.loss import cross_entropy, linear_cross_entropy
from minipeft.ops.normalize import layer_norm, rms_norm
from minipeft.ops.operators import install
from minipeft.ops.shape import broadcast_to, concatenate, index, reshape, split, swapaxes, transpose
from minipeft.ops.softmax import log_softmax, softmax

install()

__all__ = [
    "activation",
    "add",
    "attention",
    "broadcast_to",
    "concatenate",
    "cross_entropy",
    "divide",
    "dropout",
    "embedding",
    "exp",
    "gate",
    "gelu",
    "index",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "mean",
    "merge_heads",
    "multiply",
    "negative",
    "power",
    "relu",
    "reshape",
    "rms_norm",
    "rotary",
    "rotary_angles",
    "silu",
    "softmax",
    "split",
    "split_heads",
    "sqrt",
    "subtract",
    "sum",
    "swapaxes",
    "tanh",
    "transpose",
    "weighted_mean",
]
