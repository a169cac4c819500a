"""Fixtures: random numbers, and the devices that one test body runs on."""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy is imported: the tests' arrays are small

import numpy as np
import pytest
import strict  # registers the device "strict"

from minipeft.data.fetch import FetchError, cached, fetch


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["cpu", "strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Every device that this machine has, and the strict stand-in for a GPU."""
    strict.Syncs.count = 0
    return request.param


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
