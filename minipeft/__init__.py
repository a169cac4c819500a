"""minipeft: parameter-efficient fine-tuning from scratch, in NumPy and CuPy."""

from minipeft import accounting, models, nn, ops, optim, peft, train
from minipeft.array import array_module, to_device, to_numpy
from minipeft.autograd import Context, Function, Tensor, no_grad
from minipeft.cuda import NoGpuError, allow_tf32
from minipeft.generate import generate
from minipeft.gradcheck import GradcheckError, check_contract, gradcheck, gradcheck_parameters

__version__ = "0.1.0"

__all__ = [
    "Context",
    "Function",
    "GradcheckError",
    "NoGpuError",
    "Tensor",
    "accounting",
    "allow_tf32",
    "array_module",
    "check_contract",
    "generate",
    "gradcheck",
    "gradcheck_parameters",
    "models",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "peft",
    "to_device",
    "to_numpy",
    "train",
]
