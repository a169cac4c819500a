"""Fixtures: random numbers, and the devices that one test body runs on."""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy is imported: the tests' arrays are small

import signal

import numpy as np
import pytest
from devices import GPU, available, comparison
from hypothesis import settings

from minipeft.backend import to_device
from minipeft.cli.arguments import default_jobs
from minipeft.data.fetch import FetchError, cached, fetch

# The plain run draws the same examples every time; `EXAMPLES=20000 pytest --hypothesis-profile=random` draws others.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
settings.register_profile(
    "random", deadline=None, max_examples=int(os.environ.get("EXAMPLES", "1000")), print_blob=True
)
settings.load_profile("fixed")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a script's background: tests could press no Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config):
    """The whole suite runs in a process for each core; files that are named run in this one, where a debugger works."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ
    options = vars(config.option)
    asked = options.get("collectonly") or options.get("usepdb") or options.get("numprocesses", 0) is not None
    if whole and not asked:
        config.option.numprocesses = default_jobs()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["cpu", "strict", "emulated", GPU])
def device(request):
    """The CPU, the strict stand-in for a GPU, the same with a GPU's kernels, and a GPU (`pytest -m gpu`)."""
    with available(request.param) as name:
        yield name


@pytest.fixture(params=["cpu", GPU])
def cpu_or_gpu(request):
    """For what is slow on the stand-ins, and covered by their agreement with NumPy."""
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
    """`comparison` with this test's device."""

    return comparison(device)


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
