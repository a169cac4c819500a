"""Files: what is written is whole, what is read is checked before it is believed."""

import dataclasses
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minipeft.files import (
    FileError,
    atomic_folder,
    atomic_path,
    dataclass_from_json,
    read_json,
    read_safetensors,
    safetensors_header,
    write_json,
    write_safetensors,
)

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1, -2], dtype=np.int64),
    "c": np.zeros((0, 4), dtype=np.float16),
    "d": np.array(2.5),
    "e": np.array([True, False]),
}


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_arrays_and_metadata_come_back(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ARRAYS, {"format": "test"})
    arrays, metadata = read_safetensors(path)
    assert metadata == {"format": "test"}
    assert set(arrays) == set(ARRAYS)
    for name, x in ARRAYS.items():
        assert arrays[name].dtype == x.dtype
        assert np.array_equal(arrays[name], x)
    assert safetensors_header(path)[0]["a"].shape == (2, 3)


def test_views_are_written_as_what_they_show(tmp_path):
    x = np.arange(12.0).reshape(3, 4)
    write_safetensors(tmp_path / "x", {"t": x.T, "s": x[:, ::2]})
    arrays, _ = read_safetensors(tmp_path / "x")
    assert np.array_equal(arrays["t"], x.T)
    assert np.array_equal(arrays["s"], x[:, ::2])


def test_bf16_becomes_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625], dtype=np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    (tmp_path / "x").write_bytes(raw({"w": entry("BF16", (3,), (0, 6))}, halves))
    assert np.array_equal(read_safetensors(tmp_path / "x")[0]["w"], values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or of another kind"),
        (b"\x01\x02", "truncated or of another kind"),
        (struct.pack("<Q", 2**60) + b"{}", "1152921504606846976 bytes"),
        (raw(b"not json"), "no JSON"),
        (raw(b"\xff\xfe"), "no JSON"),
        (raw(b"[1]"), "must be an object"),
        (raw(b"[" * 5000), "no JSON"),
        (raw({"a": 3}), "must have dtype"),
        (raw({"a": {**entry(), "x": 1}}, bytes(8)), "must have dtype"),
        (raw({"a": entry("F99")}, bytes(8)), "'F99'; expected one of"),
        (raw({"a": entry(["F32"])}, bytes(8)), "expected one of"),
        (raw({"a": entry(shape=(-2,))}, bytes(8)), "whole numbers"),
        (raw({"a": entry(shape=(2.0,))}, bytes(8)), "whole numbers"),
        (raw({"a": {**entry(), "shape": None}}, bytes(8)), "whole numbers"),
        (raw(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', bytes(8)), "whole numbers"),
        (raw({"a": entry(shape=(2**40, 2**40))}, bytes(8)), "needs"),
        (raw({"a": entry(offsets=(0,))}, bytes(8)), "expected .start, end."),
        (raw({"a": entry(offsets=(8, 0))}, bytes(8)), "its offsets give -8"),
        (raw({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "overlap or gap"),
        (raw({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "overlap or gap"),
        (raw({"a": entry()}, bytes(4)), "truncated"),
        (raw({"a": entry()}, bytes(12)), "truncated"),
        (raw(b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "a": 1}', bytes(8)), "appears twice"),
        (raw({"__metadata__": {"k": 1}}), "strings"),
    ],
)
def test_a_broken_or_hostile_file_is_a_clear_error(content, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("m") / "x"
    write_safetensors(path, ARRAYS, {"format": "test"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                content = content[: max(1, at)]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    path.write_bytes(bytes(content))
    try:
        arrays, _ = read_safetensors(path)
    except FileError:
        return
    assert sum(x.nbytes for x in arrays.values()) <= 2 * len(content)


def test_a_missing_file_is_a_clear_error(tmp_path):
    for read in (read_safetensors, read_json):
        with pytest.raises(FileError, match="no such file"):
            read(tmp_path / "none")
        with pytest.raises(FileError, match="cannot be read"):
            read(tmp_path)


def test_json_comes_back_and_refuses_what_json_has_not(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 2.5, None], "b": "ü"})
    assert read_json(path) == {"a": [1, 2.5, None], "b": "ü"}
    for text, message in (("{", "expected JSON"), ("[1]", "got list"), ('{"a": NaN}', "holds NaN"), ("\xff", "JSON")):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(FileError, match=message):
            read_json(path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})


@dataclasses.dataclass
class Settings:
    size: int
    rate: float = 0.1
    names: list[str] | None = None
    shape: tuple[int, ...] = (1, 2)
    on: bool = True


def test_a_dataclass_from_json():
    made = dataclass_from_json(Settings, {"size": 3, "rate": 1, "names": ["a"], "shape": [4, 5]}, "f.json")
    assert made == Settings(3, 1, ["a"], (4, 5))
    for mapping, message in (
        ({"size": 3, "raet": 1}, "f.json: Settings has no field 'raet'; near: .'rate'"),
        ({}, "the field 'size' of Settings is missing"),
        ({"size": True}, "size must be int, got True"),
        ({"size": 3.5}, "size must be int"),
        ({"size": 3, "names": [1]}, "names must be"),
        ({"size": 3, "shape": 4}, "shape must be"),
        ({"size": 3, "on": 1}, "on must be bool"),
    ):
        with pytest.raises(FileError, match=message):
            dataclass_from_json(Settings, mapping, "f.json")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_and_nothing_else(error, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "inside").write_text("old")
    with pytest.raises(error), atomic_path(file) as part:
        part.write_text("half")
        raise error
    with pytest.raises(error), atomic_folder(folder) as part:
        (part / "inside").write_text("half")
        raise error
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "inside"]
    assert file.read_text() == (folder / "inside").read_text() == "old"
    with atomic_path(file) as part:
        part.write_text("new")
    with atomic_folder(folder) as target:
        (target / "other").write_text("new")
    assert file.read_text() == "new"
    assert [p.name for p in folder.iterdir()] == ["other"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_path(tmp_path / "atomic") as part:
        part.write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
