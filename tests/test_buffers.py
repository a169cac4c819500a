"""Memory that steps take again: no two live arrays in one place, no more held than was needed, the same bits."""

import copy
import gc
import itertools
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minipeft import backend as array
from minipeft import buffers
from minipeft import models as M
from minipeft.buffers import Buffers, reused
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import fit, train_step
from minipeft.train.step import pool_of, pools

F32 = np.dtype(np.float32)
ROWS = buffers.LARGE // 4  # of one number each: the smallest array that is lent


def address(x):
    return x.__array_interface__["data"][0]


@pytest.fixture
def small(monkeypatch):
    """Lend small arrays, too, and fill each with NaN first: what is read before it is written shows."""
    monkeypatch.setattr(buffers, "LARGE", 64)
    take = Buffers.take

    def spoiled(self, shape, dtype):
        x = take(self, shape, dtype)
        x.fill(np.nan if dtype.kind == "f" else 1)
        return x

    monkeypatch.setattr(Buffers, "take", spoiled)


def test_an_array_comes_where_an_earlier_one_has_gone():
    held = Buffers()
    x = held.take((ROWS, 3), F32)
    assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == ((ROWS, 3), F32, True, True)
    where = address(x)
    del x
    assert held.free_bytes == held.held_bytes == 12 * ROWS
    assert address(held.take((3, ROWS), F32)) == where  # of its size, whatever its shape
    y = held.take((ROWS * 3,), F32)
    assert address(held.take((ROWS, 3), F32)) != address(y)
    assert held.held_bytes == 24 * ROWS


@pytest.mark.parametrize("view", [lambda x: x[5:], lambda x: x.T, lambda x: x.reshape(-1)[::7], np.asarray])
def test_a_view_keeps_its_memory(view):
    held = Buffers()
    x = held.take((ROWS, 2), F32)
    x[:] = np.arange(2 * ROWS).reshape(ROWS, 2)
    v = view(x)
    expected, where = v.copy(), address(x)
    del x
    gc.collect()
    other = held.take((ROWS, 2), F32)
    other.fill(-1.0)
    assert address(other) != where
    np.testing.assert_array_equal(v, expected)
    del v
    assert held.free_bytes == 8 * ROWS


def test_a_block_that_is_a_little_larger_serves_and_goes_back_to_its_own_size():
    held = Buffers()
    x = held.take((1000, 9), F32)
    where = address(x)
    del x
    y = held.take((1000, 8), F32)
    assert address(y) == where
    del y
    assert address(held.take((1000, 9), F32)) == where
    held.clear()
    x = held.take((1000, 10), F32)
    del x
    held.take((1000, 8), F32)  # a quarter more is too much
    assert held.held_bytes == 32_000


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_no_two_live_arrays_overlap_and_no_more_is_held_than_was_once_in_use(events):
    held, live, most = Buffers(), [], 0
    for give_back, n in events:
        if give_back and live:
            live.pop(n % len(live))
        else:
            live.append(held.take((n, 16), F32))
            live[-1].fill(n)
        in_use = held.held_bytes - held.free_bytes
        most = max(most, in_use)
        assert sum(x.nbytes for x in live) <= in_use <= sum((1 + buffers.WASTE) * x.nbytes for x in live)
        assert held.held_bytes <= most
    assert all((x == len(x)).all() for x in live)
    ends = sorted((address(x), address(x) + x.nbytes) for x in live)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


def test_threads_never_share_a_block():
    held, wrong = Buffers(), []

    def work(value):
        rng = np.random.default_rng(value)
        mine = []
        for _ in range(2000):
            x = held.take((int(rng.integers(1, 5)), 8), F32)
            x.fill(value)
            mine.append(x)
            if not all((x == value).all() for x in mine):
                wrong.append(value)
            while len(mine) > 6:
                mine.pop(int(rng.integers(len(mine))))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    with array.quick_handover():
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong
    gc.collect()
    assert 0 < held.free_bytes == held.held_bytes < 4 * 20 * 160


def test_a_thread_may_take_while_another_reads_the_table_and_a_collection_runs_python_code():
    held = Buffers()
    del [held.take((rows, 8), F32) for rows in range(1, 60)][:]
    others: list[threading.Thread] = []

    def callback(phase, info):  # as long as this runs, another thread can
        if phase == "start" and len(others) < 3:
            others.append(threading.Thread(target=held.take, args=((len(others) + 1, 8), F32)))
            others[-1].start()
            others[-1].join(0.1)

    before = gc.get_threshold()
    pairs = [(i, i) for i in range(5000)]  # no freed pairs are left: those of the table are allocated
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        held_bytes = held.free_bytes
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(callback)
    for t in others:
        t.join()
    assert others
    assert 0 < held_bytes <= held.held_bytes
    assert len(pairs) == 5000


def test_only_large_arrays_of_numbers_inside_are_lent():
    like = np.empty((ROWS, 1), np.float32)
    assert reused((ROWS, 1), F32) is None
    held = Buffers()
    with held.lent():
        assert reused((ROWS - 1,), F32) is None
        assert reused((ROWS,), np.dtype(object)) is None
        assert reused((ROWS,), F32).shape == (ROWS,)
        assert array.empty(like, (2, ROWS)).base is not None
        with Buffers().lent():
            inner = array.empty(like)
        assert held.held_bytes == 8 * ROWS  # the block of the array before was given up for it
        del inner
    assert array.empty(like).base is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_numpys(dtype, rng, small):
    x, y, column = (rng.normal(size=s).astype(dtype) for s in ((7, 11), (7, 11), (7, 1)))
    with Buffers().lent():
        np.testing.assert_array_equal(array.times(x, y), x * y)
        np.testing.assert_array_equal(array.times(x, column), x * column)
        np.testing.assert_array_equal(array.matmul(x, y.T), x @ y.T)
        assert array.times(x, y.astype(np.float32)).dtype == dtype
        with pytest.raises(ValueError, match="mismatch"):
            array.matmul(x, y)


@pytest.mark.parametrize("shape", [(5, 1), (3, 7), (4, 2048), (2, 2049)])
def test_the_largest_entry_of_each_row(shape, rng):
    x = rng.normal(size=shape).astype(np.float32)
    x[1, -1] = -np.inf
    np.testing.assert_array_equal(array.row_max(x), x.max(axis=1, keepdims=True))
    x[0, 0] = np.nan
    assert np.isnan(array.row_max(x)[0, 0])


def test_copies_start_empty():
    held = Buffers()
    held.take((ROWS,), F32)
    for other in (copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert type(other) is Buffers
        assert (other.held_bytes, other.free_bytes) == (0, 0)


# In training


def made(method, length=12, dropout=0.0):
    config = M.DecoderConfig.gpt2(31, 16, 3, 4, context=length + 4, dropout=dropout)
    model = M.DecoderLM(config, rng=1)
    ids = np.random.default_rng(0).integers(0, 31, (6, length))
    if method is not None:
        model = get_peft_model(model, method)
    return model.train(), AdamW(model, lr=1e-2), {"ids": ids, "labels": ids}


class Nothing(Buffers):
    def take(self, shape, dtype):
        return np.empty(shape, dtype)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("method", [None, LoraConfig(r=3, lora_dropout=0.2)], ids=["full", "lora"])
@pytest.mark.parametrize("length", [12, 150])
def test_training_in_used_memory_gives_the_same_bits(method, shards, length, small):
    results = []
    for kind in (Buffers, Nothing):
        model, optimizer, batch = made(method, length, dropout=0.1)
        pools[optimizer] = kind()
        losses = [train_step(model, batch, optimizer, shards=shards) for _ in range(3)]
        results.append((losses, {name: p.data for name, p in model.named_parameters()}))
        assert (pool_of(optimizer).held_bytes > 0) == (kind is Buffers)
    assert results[0][0] == results[1][0]
    for name, x in results[0][1].items():
        np.testing.assert_array_equal(x, results[1][1][name])


def test_nothing_of_a_step_stays_on_loan_and_later_steps_make_little_new(small, monkeypatch):
    model, optimizer, batch = made(LoraConfig(r=3))
    new, take, made_new, taken = Buffers._new, Buffers.take, [], []
    monkeypatch.setattr(Buffers, "_new", lambda self, size: made_new.append(size) or new(self, size))
    monkeypatch.setattr(Buffers, "take", lambda self, *args: taken.append(args) or take(self, *args))
    train_step(model, batch, optimizer)
    most = pool_of(optimizer).held_bytes
    made_new.clear()
    taken.clear()
    for _ in range(5):
        train_step(model, batch, optimizer)
        assert pool_of(optimizer).free_bytes == pool_of(optimizer).held_bytes <= 1.2 * most
    assert len(made_new) < len(taken) / 5


def test_gradients_that_are_kept_keep_their_memory(small):
    from minipeft.train import backward

    model, optimizer, batch = made(None)
    with pool_of(optimizer).lent():
        backward(model, batch)
    grads = {name: p.grad.copy() for name, p in model.named_parameters()}
    with pool_of(optimizer).lent():
        model.loss(**batch)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.grad, grads[name])


class Always:
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 3

    def epoch(self, _):
        return iter([self.batch] * 3)


@pytest.mark.parametrize("broken", [None, KeyboardInterrupt, ValueError])
def test_fit_gives_all_back(broken, small):
    model, optimizer, batch = made(LoraConfig(r=3))
    seen = []

    def evaluate(m):
        value = m.loss(**batch).item()
        seen.append(pool_of(optimizer).held_bytes)
        if broken:
            raise broken("stop")
        return value

    def run():
        fit(model, Always(batch), optimizer, steps=6, evaluate=evaluate, evaluate_every=2, progress=False)

    if broken:
        with pytest.raises(broken):
            run()
    else:
        run()
    assert min(seen) > 0
    assert pool_of(optimizer).held_bytes == pool_of(optimizer).free_bytes == 0


def test_a_step_with_many_gradients_takes_new_memory(small, monkeypatch):
    from minipeft.train import step

    model, optimizer, batch = made(None)
    bytes_of_all = sum(p.data.nbytes for p in model.parameters())
    monkeypatch.setattr(step, "FEW_GRADIENTS", 2 * bytes_of_all - 1)
    train_step(model, batch, optimizer, shards=2)
    assert pool_of(optimizer).held_bytes == 0
    train_step(model, batch, optimizer, shards=1)
    assert pool_of(optimizer).held_bytes > 0


def test_memory_goes_with_the_optimizer(small):
    model, optimizer, batch = made(None)
    train_step(model, batch, optimizer)
    assert pool_of(optimizer).held_bytes > 0
    gone = weakref.ref(pool_of(optimizer))
    del optimizer
    gc.collect()
    assert gone() is None
