"""Files: what is written is whole, what is read is checked before it is believed."""

import dataclasses
import errno
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import threading
import tracemalloc
from typing import Literal

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from minipeft.files import (
    FileError,
    append_row,
    atomic,
    atomic_path,
    check_writable,
    dataclass_from_json,
    file_set,
    new_folder,
    read_json,
    read_rows,
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


def test_bf16_is_read_in_parts_within_twice_the_file(tmp_path, rng):
    x = rng.normal(size=(3, 700_001)).astype(np.float32)  # many parts, the last one short
    half = (x.view("<u4") >> 16).astype("<u2")
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"a": entry("BF16", x.shape, (0, half.nbytes))}, half.tobytes()))
    tracemalloc.start()
    arrays, _ = read_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(arrays["a"].view("<u4") >> 16, half)
    assert not (arrays["a"].view("<u4") & 0xFFFF).any()
    assert peak < 2.2 * path.stat().st_size  # the values as float32, and a part


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
        (raw(b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,8]}}', bytes(8)), "whole numbers"),
        (raw(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)), "no JSON"),
        (raw(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[' + b"9" * 4000 + b",8]}}"), "expected .start, end."),
        (raw({"a": entry(shape=(0, 2**63 - 1), offsets=(0, 0))}), "too big"),
        (raw({"a": entry(shape=(0, 2**70), offsets=(0, 0))}), "whole numbers"),
        (raw({"a": entry("BOOL", (2,), (0, 2))}, b"\x01\x02"), "neither 0 nor 1"),
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


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"a": np.ones(2, complex)}, None, "'a' is complex128; expected an array"),
        ({"a": np.array(["x"])}, None, "'a' is <U1"),
        ({"a": [1.0]}, None, "'a' is list"),
        ({"__metadata__": np.ones(2)}, None, "no array can have the name '__metadata__'"),
        ({3: np.ones(2)}, None, "no array can have the name 3"),
        ({"a": np.ones(2)}, {"step": 3}, "strings to strings"),
    ],
)
def test_what_the_format_does_not_have_is_not_written(arrays, metadata, message, tmp_path):
    with pytest.raises(FileError, match=message):
        write_safetensors(tmp_path / "x", arrays, metadata)
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_the_other_byte_order_keep_their_values(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.arange(3, dtype=">f4")})
    assert read_safetensors(tmp_path / "x")[0]["a"].tolist() == [0, 1, 2]


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
    for text, message in (
        ("{", "expected JSON"),
        ("[1]", "got list"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": 1e999}', "1e999 is too large"),
        ("\xff", "JSON"),
    ):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(FileError, match=message):
            read_json(path)
    before = path.read_bytes()
    for value, message in ((float("nan"), "JSON compliant"), ({1}, "set is not JSON")):
        with pytest.raises(FileError, match=message):
            write_json(path, {"a": value})
    assert path.read_bytes() == before


@dataclasses.dataclass
class Settings:
    size: int
    rate: float = 0.1
    names: list[str] | None = None
    shape: tuple[int, ...] = (1, 2)
    on: bool = True
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (1, 2.0)
    by_layer: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    betas: tuple[float, float] | None = None
    count: int = dataclasses.field(default=0, init=False)


def test_a_dataclass_from_json():
    made = dataclass_from_json(Settings, {"size": 3, "rate": 1, "names": ["a"], "shape": [4, 5]}, "f.json")
    assert made == Settings(3, 1, ["a"], (4, 5))
    again = json.loads(json.dumps({"size": 1, "pair": (3, 4.5), "by_layer": {"q": (1, 2)}, "betas": (0.9, 0.99)}))
    made = dataclass_from_json(Settings, again, "f.json")
    assert made == Settings(1, pair=(3, 4.5), by_layer={"q": (1, 2)}, betas=(0.9, 0.99))
    for mapping, message in (
        ({"size": 3, "raet": 1}, "f.json: Settings has no field 'raet'; did you mean 'rate'"),
        ({}, "the field 'size' of Settings is missing"),
        ({"size": True}, "size must be int, got True"),
        ({"size": 3.5}, "size must be int"),
        ({"size": 3, "names": [1]}, "names must be"),
        ({"size": 3, "shape": 4}, "shape must be"),
        ({"size": 3, "on": 1}, "on must be bool"),
        ({"size": 3, "rate": True}, "rate must be float"),
        ({"size": 3, "kind": "c"}, "kind must be Literal.'a', 'b'., got 'c'"),
        ({"size": 3, "pair": [1, 2.0, 3]}, "pair must be"),
        ({"size": 3, "pair": [1.5, 2]}, "pair must be"),
        ({"size": 3, "by_layer": {"q": [1.5]}}, "by_layer must be"),
        ({"size": 3, "count": 1}, "has no field 'count'"),
    ):
        with pytest.raises(FileError, match=message):
            dataclass_from_json(Settings, mapping, "f.json")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_and_nothing_else(error, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    with pytest.raises(error), atomic_path(file) as part:
        part.write_text("half")
        raise error
    with pytest.raises(error), new_folder(folder) as part:
        (part / "inside").write_text("half")
        raise error
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with atomic_path(file) as part:
        part.write_text("new")
    with new_folder(folder) as part:
        (part / "inside").write_text("new")
    assert file.read_text() == (folder / "inside").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_came_first_is_kept(tmp_path):
    for text in "ab":
        with new_folder(tmp_path / "folder") as part:
            (part / "inside").write_text(text)
    assert (tmp_path / "folder" / "inside").read_text() == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_of_folders_made_at_once_one_is_there_whole(tmp_path):
    together = threading.Barrier(4)
    unexpected = []

    def write(i):
        try:
            with new_folder(tmp_path / f"folder-{turn}") as part:
                for name in "abc":
                    (part / name).write_text(str(i))
                together.wait(timeout=30)
        except FileError as error:
            unexpected.append(error)

    for turn in range(10):
        run_threads(write)
        assert len({(tmp_path / f"folder-{turn}" / name).read_text() for name in "abc"}) == 1
    assert len(list(tmp_path.iterdir())) == 10
    assert not unexpected


def run_threads(write):
    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_a_file_is_not_replaced_by_a_folder_nor_a_folder_by_a_file(tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "y").mkdir()
    with pytest.raises(FileError, match="x is a file; name a folder"), new_folder(tmp_path / "x") as part:
        (part / "inside").touch()
    with pytest.raises(FileError, match="y is a folder; name a file"):
        write_json(tmp_path / "y", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "y"]


def test_a_device_is_not_replaced_by_a_file():
    with pytest.raises(FileError, match=r"/dev/null is a device; name a file"):
        write_json("/dev/null", {})


@pytest.mark.skipif(os.name == "nt", reason="pipes and links")
def test_a_pipe_and_a_broken_link_are_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileError, match="pipe is a pipe; name a file"):
        write_json(tmp_path / "pipe", {})
    with pytest.raises(FileError, match="link is a broken link; name a file"):
        write_json(tmp_path / "link", {})
    assert (tmp_path / "pipe").is_fifo()
    assert os.readlink(tmp_path / "link") == "nothing"
    assert len(os.listdir(tmp_path)) == 2


def test_what_a_killed_process_left_is_removed_by_the_next_write_of_the_same_name(tmp_path, monkeypatch):
    here = re.sub(r"\W", "_", platform.node())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, foreign, live, old, other = (
        tmp_path / f".{name}.{host}-{process}-{'0' * 16}.part"
        for name, host, process in (
            *(("x", here, ended.pid), ("x", "elsewhere", ended.pid), ("x", here, os.getppid())),
            *(("x", "longago", ended.pid), ("y", here, ended.pid)),
        )
    )
    left.mkdir()
    (left / "inside").touch()
    for part in (foreign, live, old, other):
        part.touch()
    os.utime(old, (0, 0))
    write_json(tmp_path / "x", {})
    assert {p.name for p in tmp_path.iterdir()} == {"x", foreign.name, live.name, other.name}


def test_a_folder_is_checked_by_writing_and_left_as_it_was(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder")
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name, message in (("file", "file is a file"), ("file/in", "file is a file"), ("link", "link is a broken link")):
        with pytest.raises(FileError, match=f"{message}; name a folder"):
            check_writable(tmp_path / name)
    for number, message in (
        (errno.ENOSPC, r"cannot write there \(No space left on device\); make room there, or name another folder"),
        (errno.EROFS, r"cannot write there \(Read-only file system\); make it writable, or name another folder"),
    ):
        with monkeypatch.context() as patch, pytest.raises(FileError, match=message):
            patch.setattr(os, "fsync", lambda fd, number=number: fail(number))
            check_writable(tmp_path / "new" / "folder")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_another_process_may_remove_the_new_folder_while_it_is_empty(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "folder"
    monkeypatch.setattr(atomic, "remove_abandoned", lambda path: folder.rmdir())  # between mkdir and the first file
    check_writable(folder)
    assert not list(tmp_path.iterdir())
    for write, name in ((new_folder, folder / "entry"), (file_set, folder)):
        with write(name) as part:
            (part / "x").touch()
        assert [p.name for p in folder.rglob("x")] == ["x"]
        shutil.rmtree(folder)


def fail(number):
    raise OSError(number, os.strerror(number))


def test_a_full_disk_is_an_error_of_the_system_for_tensors_too(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_safetensors(tmp_path / "x", ARRAYS)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_log_keeps_whole_rows_and_ends_a_line_that_was_cut_off(tmp_path, monkeypatch):
    log = tmp_path / "log"
    assert read_rows(log, "a") == []
    append_row(log, {"a": 1})
    log.write_text(log.read_text() + '{"a": 2, "hal')
    assert read_rows(log, "a") == [{"a": 1}]
    append_row(log, {"a": 3})
    assert read_rows(log, "a") == [{"a": 1}, {"a": 3}]
    before = log.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: fail(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        append_row(log, {"a": 4})
    assert log.read_bytes() == before


@pytest.mark.parametrize("text", ["my notes\n", '{"b": 1}\n', "[1]\n", "7", "\x00\xff"])
def test_a_file_that_is_no_log_is_refused(text, tmp_path):
    (tmp_path / "log").write_text(text, encoding="latin-1")
    with pytest.raises(FileError, match="expected a log with a in each line"):
        read_rows(tmp_path / "log", "a")
    assert (tmp_path / "log").read_text(encoding="latin-1") == text


def test_a_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_path(tmp_path / "atomic") as part:
        part.write_text("x")
    write_safetensors(tmp_path / "arrays", ARRAYS)
    for name in ("atomic", "arrays"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_same_arrays_and_metadata_give_the_same_bytes(tmp_path):
    """The library draws a random order for the metadata; 40 files of four names would show it."""
    about = {"format": "pt", "base": "é\u2028", "b": '\\"', "a": "1"}
    arrays = {"x": np.arange(6.0).reshape(2, 3), "e": np.ones((0, 2), np.float32), "é": np.array(True)}
    written = set()
    for i in range(40):
        write_safetensors(tmp_path / f"{i}", arrays, dict(reversed(about.items())) if i % 2 else about)
        written.add((tmp_path / f"{i}").read_bytes())
    assert len(written) == 1
    back, metadata = read_safetensors(tmp_path / "0")
    assert metadata == about
    assert {n: (x.dtype, x.tobytes()) for n, x in back.items()} == {
        n: (x.dtype, x.tobytes()) for n, x in arrays.items()
    }
