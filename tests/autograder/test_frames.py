"""Frames: what goes in comes out, and nothing else gets through."""

import contextlib
import gc
import json
import os
import struct
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autograder.grading.trusted import bounded
from autograder.homeworks.driver import normalized
from autograder.sandbox import frames
from autograder.sandbox.frames import (
    PREFIX,
    Collector,
    FrameError,
    Opaque,
    decode,
    encode,
    parse_header,
)

DTYPES = st.sampled_from(sorted(frames.DTYPES))
ARRAYS = DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | ARRAYS
)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4), max_leaves=12
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return type(b) is float and (struct.pack("d", a) == struct.pack("d", b) or (a != a and b != b))
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


def frame(arrays, value, payload=b""):
    return raw(json.dumps({"arrays": arrays, "value": value}).encode(), payload)


def raw(header, payload=b""):
    return PREFIX.pack(b"MPG2", len(header), len(payload)) + header + payload


@given(VALUES)
def test_a_message_comes_out_as_it_went_in(message):
    assert same(message, decode(encode(message)))


@given(VALUES, st.integers(1, 64))
def test_a_frame_may_come_in_any_pieces(message, size):
    data = encode(message)
    collector = Collector()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert [collector.feed(p) for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert same(message, decode(collector.data))


@given(VALUES, st.data())
def test_a_frame_cut_short_or_with_more_behind_it_is_refused(message, data):
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameError):
        decode(whole[:cut])
    with pytest.raises(FrameError, match="nothing more"):
        decode(whole + b"x")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_frame_error(data):
    for attempt in (data, raw(data)):
        with contextlib.suppress(FrameError):
            decode(attempt)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=4) | st.sampled_from("adfo"),
    lambda v: (
        st.lists(v, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "d", "f", "o", "dtype", "shape", "arrays", "value"]), v, max_size=3)
    ),
    max_leaves=10,
)
ENTRIES = st.fixed_dictionaries({"dtype": st.sampled_from(["f8", "O", "b1", "V0", "c16"]) | JSON, "shape": JSON})


@given(st.lists(ENTRIES | JSON, max_size=3) | JSON, JSON, st.binary(max_size=64))
def test_any_header_is_read_or_refused_and_never_makes_more_than_it_brings(arrays, value, payload):
    data = frame(arrays, value, payload)
    try:
        decode(data)
    except FrameError:
        return
    length = PREFIX.unpack(data[: PREFIX.size])[1]
    assert parse_header(data[PREFIX.size : PREFIX.size + length]).payload == len(payload)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"NPG2" + b"\0" * 12, "begins with"),
        (raw(b""), "a header of 0 bytes"),
        (PREFIX.pack(b"MPG2", 2**31, 0), "a header of"),
        (PREFIX.pack(b"MPG2", 9, 2**40), "bytes of arrays"),
        (raw(b"\xff\xfe{"), "no JSON"),
        (raw(b"[" * 20000), "no JSON"),
        (raw(b'{"arrays":[],"value":NaN}'), "NaN"),
        (raw(b'{"arrays":[],"value":1,"value":2}'), "twice"),
        (frame([{"dtype": "O", "shape": []}], {"a": 0}), "a dtype must be one of"),
        (frame([{"dtype": "c16", "shape": []}], {"a": 0}), "a dtype must be one of"),
        (frame([{"dtype": "f8", "shape": [1] * 9}], {"a": 0}), "at most 8"),
        (frame([{"dtype": "f8", "shape": [0, 2**60]}], {"a": 0}), "sizes must be integers"),
        (frame([{"dtype": "f8", "shape": [2**40]}], {"a": 0}), "sizes must be integers"),
        (frame([{"dtype": "f8", "shape": [2**26]}], {"a": 0}), "bytes of arrays"),
        (frame([{"dtype": "f8", "shape": [-1]}], {"a": 0}), "sizes must be integers"),
        (frame([{"dtype": "f8", "shape": [True]}], {"a": 0}), "sizes must be integers"),
        (frame([{"dtype": "f8", "shape": [1.0]}], {"a": 0}), "sizes must be integers"),
        (frame([{"dtype": "b1", "shape": []}] * 1025, None), "1025 arrays"),
        (frame([], {"a": 0}), "means nothing"),
        (frame([], {"a": True}), "means nothing"),
        (frame([], {"f": "1e999"}), "means nothing"),
        (frame([], {"x": 1}), "means nothing"),
        (frame([], {"a": 0, "d": {}}), "means nothing"),
        (frame([], "\ud800"), "surrogate"),
        (frame([], 2**70), "64 bits"),
        (frame([], [[[[[[[[[[[[[[]]]]]]]]]]]]]]), "deep"),
    ],
)
def test_what_is_refused_and_why(data, says):
    with pytest.raises(FrameError, match=says):
        decode(data)


def test_nothing_is_allocated_for_an_array_whose_bytes_do_not_come():
    header = json.dumps({"arrays": [{"dtype": "f8", "shape": [8 * 1024 * 1024]}], "value": {"a": 0}}).encode()
    collector = Collector()
    assert not collector.feed(PREFIX.pack(b"MPG2", len(header), 64 * 1024 * 1024) + header)
    assert len(collector.data) < 1000


def test_a_frame_that_is_larger_than_it_may_be_is_refused_at_its_beginning():
    with pytest.raises(FrameError, match="at most 1000"):
        Collector(1000).feed(PREFIX.pack(b"MPG2", 500, 2000))


@given(VALUES)
def test_a_frame_is_received_as_it_was_sent(message):
    ends = os.pipe()
    try:
        data = encode(message)
        os.write(ends[1], data * 2)
        received = [frames.receive(ends[0]) for _ in range(2)]
        os.close(ends[1])
        assert frames.receive(ends[0]) is None
    finally:
        os.close(ends[0])
    assert received == [data, data]


def test_an_output_that_is_larger_than_declared_is_only_named():
    assert bounded(np.zeros((4, 2)), 64).shape == (4, 2)
    assert bounded(np.zeros((4, 2)), 63) == Opaque("array of shape (4, 2)")
    assert bounded(["x"] * 9, 1000) == ["x"] * 9
    assert bounded(["x"] * 9999, 1000) == Opaque("list")
    assert bounded([np.zeros(3)] * 30_000, 10**9) == Opaque("list")


@pytest.mark.parametrize("x", [{1, 2}, object(), np.ones(2, complex), np.array([{}], object), 10**30, np.longdouble(1)])
def test_what_no_frame_carries_comes_out_as_the_name_of_its_type(x):
    assert isinstance(decode(encode(normalized(x))), Opaque)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (np.zeros(9 * 1024 * 1024), "bytes of arrays"),
        (["x" * frames.MAX_HEADER], "bytes of header"),
        ([np.zeros(0)] * 1025, "1025 arrays"),
        (np.zeros((1,) * 9), "9 axes"),
    ],
)
def test_a_message_that_is_too_large_is_not_written(message, says):
    with pytest.raises(FrameError, match=says):
        encode(message)


def test_a_small_array_that_pretends_to_be_large_is_not_copied():
    with pytest.raises(FrameError, match="at most"):
        normalized(np.broadcast_to(np.zeros(1), (2**40,)))


def test_outputs_are_plain_copies_in_c_order():
    class Odd(np.ndarray):
        def __eq__(self, other):
            return True

    x = np.arange(6.0).reshape(2, 3)
    shared = [1.0]
    for _ in range(40):
        shared = [shared, shared]
    with pytest.raises(FrameError, match="more than 100000 values"):
        normalized(shared)
    out = normalized({"odd": x.view(Odd), "t": x.T, "s": np.float32(2), "i": np.int64(3), "both": (x, None)})
    assert type(out["odd"]) is np.ndarray
    assert out["t"].flags.c_contiguous
    assert (out["s"].dtype, out["s"].shape) == (np.float32, ())
    assert type(out["i"]) is int
    assert isinstance(out["both"], list)
    assert not np.shares_memory(out["both"][0], x)


def test_a_boolean_is_true_for_any_byte_but_zero():
    assert decode(frame([{"dtype": "b1", "shape": [3]}], {"a": 0}, b"\0\1\2" + bytes(61))).tolist() == [
        False,
        True,
        True,
    ]


def test_what_comes_out_may_be_written():
    decode(encode(np.zeros(3)))[0] = 1.0


def test_a_message_is_freed_with_its_last_reference():
    gc.disable()
    try:
        message = decode(bytearray(encode({"x": [np.zeros(9)]})))
        array = weakref.ref(message["x"][0])
        del message
        assert array() is None
    finally:
        gc.enable()
