"""The devices that a test may run on: made ready, and what their results are held to."""

from contextlib import contextmanager, nullcontext

import emulate
import numpy as np
import pytest
import strict  # registers the device "strict"

from minipeft.backend import register, to_numpy
from minipeft.backend.cuda import NoGpuError, library
from minipeft.specialize import reference

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@contextmanager
def available(name):
    """The device ``name`` made ready, or the test skipped where it cannot be had."""
    strict.Syncs.count = strict.Syncs.sizes = strict.Syncs.uploads = 0
    emulate.device.launches.clear()
    if name == "emulated":
        if emulate.COMPILER is None:
            pytest.skip("running the kernels of a GPU on the host needs g++ or clang++")
        register(emulate.backend)
    if name == "cuda":
        try:
            library()
        except NoGpuError as error:
            pytest.skip(str(error))
    try:
        with reference() if name == "strict" else nullcontext():  # where the pages run, on the CPU too: the same bits
            yield name
    finally:
        register(strict.backend)


def comparison(device):
    """A function that holds a result of a device to NumPy's: the same type, and bits, or nearly for kernels."""

    def check(result, expected, rtol=None, atol=None):
        host, expected = to_numpy(result), np.asarray(expected)
        assert host.dtype == expected.dtype
        single = expected.dtype == np.float32
        if device not in ("cuda", "emulated"):
            rtol = atol = 0
        rtol = (1e-4 if single else 1e-9) if rtol is None else rtol
        atol = (1e-5 if single else 1e-11) * max(1.0, np.abs(expected).max(initial=0)) if atol is None else atol
        np.testing.assert_allclose(host, expected, strict=True, rtol=rtol, atol=atol)

    return check
