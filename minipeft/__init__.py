"""minipeft: parameter-efficient fine-tuning from scratch, in NumPy and CuPy."""

import os
import sys

try:
    from minipeft import accounting, fast, models, nn, ops, optim, peft, train
    from minipeft.autograd import Context, Function, Tensor, no_grad
    from minipeft.backend import array_module, to_device, to_numpy
    from minipeft.backend.cuda import NoGpuError, allow_tf32
    from minipeft.generate import generate
    from minipeft.gradcheck import GradcheckError, check_contract, gradcheck, gradcheck_parameters
    from minipeft.specialize import reference, specialize
except KeyboardInterrupt:
    # The command `minipeft` and `python -m minipeft` begin with this import: there Ctrl-C is one line in it, too.
    if sys.argv[0] != "-m" and os.path.splitext(os.path.basename(sys.argv[0]))[0] != "minipeft":
        raise
    print("minipeft: interrupted", file=sys.stderr)
    sys.exit(130)

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
    "fast",
    "generate",
    "gradcheck",
    "gradcheck_parameters",
    "models",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "peft",
    "reference",
    "specialize",
    "to_device",
    "to_numpy",
    "train",
]
