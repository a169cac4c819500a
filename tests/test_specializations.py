"""Every specialization keeps the contract of the Function in whose place it runs. A new one needs no new test."""

import numpy as np
import pytest
from devices import available
from functions import CASES
from test_functions import floats, listed, permuted

import minipeft as mp
from minipeft.autograd import Context, Function
from minipeft.backend import is_array, row_blocks, to_device, to_numpy
from minipeft.specialize import _faster, specialize

DEVICES = {"cpu": {"cpu": ()}, "cuda": {"emulated": (), "cuda": (pytest.mark.gpu,)}}
PAIRS = [
    pytest.param(case, page, device, marks=marks, id=f"{case.name}, {page.__name__}, {device}")
    for (function, kind), page in _faster.items()
    for case in CASES
    if case.function is function
    for device, marks in DEVICES[kind].items()
]
pairs = pytest.mark.parametrize(("case", "page", "device"), PAIRS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small arrays have several."""
    monkeypatch.setattr(row_blocks, "__defaults__", (100,))


def saved_bytes(ctx, inputs):
    """Bytes of the memory that a context keeps alive, without that of the inputs."""

    def base(x):
        while isinstance(x, np.ndarray) and isinstance(x.base, np.ndarray):
            x = x.base
        return x

    kept = {}
    pending = list(ctx.saved)
    while pending:
        value = pending.pop()
        if isinstance(value, (tuple, list)):
            pending += value
        elif is_array(value):
            kept[id(base(value))] = base(value).nbytes
    return sum(n for key, n in kept.items() if key not in {id(base(x)) for x in inputs if is_array(x)})


def run(function, needs, args, dz, device):
    """The output and the gradients on the host, and the saved bytes."""
    moved = [to_device(a, device) if isinstance(a, np.ndarray) else a for a in args]
    ctx = Context(*needs)
    z = function.forward(ctx, *moved)
    saved = saved_bytes(ctx, moved)
    results = [z]
    if any(needs):
        results += listed(function.backward(ctx, to_device(dz, device)))
    return [None if r is None else to_numpy(r) for r in results], saved


@pairs
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("change", [np.ascontiguousarray, np.asfortranarray, permuted], ids=lambda f: f.__name__)
def test_a_specialization_is_its_reference(case, page, device, change, dtype, rng):
    args = case.arguments(rng)
    args = [change(a).astype(dtype) if i in floats(args) else a for i, a in enumerate(args)]
    wanted = floats(args, case.constants)
    dz = change(rng.standard_normal(case.function.forward(Context(*[False] * len(args)), *args).shape)).astype(dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-12}
    with available(device):
        for bits in range(2 ** len(wanted)):
            needs = [i in wanted and bool(bits >> wanted.index(i) & 1) for i in range(len(args))]
            expected, most = run(case.function, needs, args, dz, "cpu")
            results, saved = run(page, needs, args, dz, device)
            assert saved <= most or device != "cpu"
            for a, b in zip(expected, results, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert b.dtype == dtype
                    np.testing.assert_allclose(b, a, strict=True, **tolerance)


@pairs
def test_a_specialization_keeps_the_contract_of_a_backward(case, page, device, rng):
    with available(device):
        args = [to_device(a, device) if isinstance(a, np.ndarray) else a for a in case.arguments(rng)]
        mp.check_contract(page, *args, constants=case.constants)


class Twice(Function):
    """z = 2 x"""

    @staticmethod
    def forward(ctx, x):
        return x + x

    @staticmethod
    def backward(ctx, dz):
        return dz + dz


@pytest.fixture
def faster():
    @specialize(Twice, "cpu")
    class TwiceFaster(Twice):
        """z = 2 x, faster"""

    yield TwiceFaster
    del _faster[Twice, "cpu"]


def test_apply_runs_the_specialization_of_the_device_and_the_page_elsewhere(faster, device):
    x = mp.Tensor(to_device(np.ones(3), device), requires_grad=True)
    assert Twice.apply(x).node.function is (faster if device == "cpu" else Twice)


def test_inside_reference_the_pages_themselves_run(faster):
    x = mp.Tensor(np.ones(3), requires_grad=True)
    with mp.reference():
        assert Twice.apply(x).node.function is Twice
    assert Twice.apply(x).node.function is faster


def test_a_subclass_of_a_page_is_what_runs(faster):
    class Mine(Twice):
        """z = 2 x, a student's"""

    assert Mine.apply(mp.Tensor(np.ones(3), requires_grad=True)).node.function is Mine
