"""Fixtures: random numbers, and the devices that one test body runs on."""

import os
from contextlib import contextmanager

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy is imported: the tests' arrays are small

import emulate
import numpy as np
import pytest
import strict  # registers the device "strict"

from minipeft.array import register, to_device, to_numpy
from minipeft.cuda import NoGpuError, library
from minipeft.data.fetch import FetchError, cached, fetch


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
        yield name
    finally:
        register(strict.backend)


@pytest.fixture(params=["cpu", "strict", "emulated", GPU])
def device(request):
    """The CPU, the strict stand-in for a GPU, the same with a GPU's kernels, and a GPU (`pytest -m gpu`)."""
    with available(request.param) as name:
        yield name


@pytest.fixture(params=["strict", "emulated", GPU])
def other_device(request):
    """The devices of `device` but the CPU, for tests that compare with it."""
    with available(request.param) as name:
        yield name


@pytest.fixture(params=["emulated", GPU])
def gpu(request):
    """A device with kernels of its own: a GPU, or its kernels run on the host."""
    with available(request.param) as name:
        yield name


@pytest.fixture
def on_device(device):
    """A function that moves the arrays in tuples, lists and dicts to this test's device and leaves the rest."""

    def move(x):
        if isinstance(x, (tuple, list)):
            return type(x)(map(move, x))
        if isinstance(x, dict):
            return {key: move(value) for key, value in x.items()}
        return to_device(x, device) if isinstance(x, np.ndarray) else x

    return move


@pytest.fixture
def assert_agrees(device):
    """Holds a result of this test's device to NumPy's: the same type, and bits; nearly them where kernels made it."""

    def check(result, expected, rtol=1e-5, atol=1e-6):
        host = to_numpy(result)
        assert host.dtype == expected.dtype
        close = {"rtol": rtol, "atol": atol} if device in ("cuda", "emulated") else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(host, expected, strict=True, **close)

    return check


def fetched(name):
    """The folder of something fetched; a test that cannot get it fails in CI and skips elsewhere."""
    if cached(name) is None and os.environ.get("CI") != "true":
        pytest.skip(f"{name} has not been fetched; `minipeft fetch {name}` gets it")
    try:
        return fetch(name, progress=False)
    except FetchError as error:
        pytest.fail(str(error))


@pytest.fixture
def minilm():
    return fetched("minilm")


@pytest.fixture
def sentences():
    return fetched("sentiment")
