"""Fetching onto a full disk, after a kill, and of the same contents in other files."""

import errno
import gzip
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from packages import CONTENT, GOOD, client, quiet, resource, tgz, wait_for

from minipeft.cli import main
from minipeft.data import fetch as module
from minipeft.data import unpack
from minipeft.data.fetch import FetchError, cached, fetch
from minipeft.data.resources import RESOURCES

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(module.RESOURCES, "thing", resource())
    return tmp_path / "cache"


def test_a_disk_that_is_too_small_is_told_before_the_download(cache, tmp_path, monkeypatch, capsys):
    client(tmp_path, monkeypatch, f"open({str(tmp_path / 'asked')!r}, 'w')")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2000, 1000, 1000))
    assert main(["fetch", "thing"]) == 2
    err = capsys.readouterr().err
    assert f"thing: no room at {cache}: 0.0 MB are needed, 0.0 MB are free. Another folder can be named in the" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "asked").exists()
    assert not cache.exists()


def test_a_disk_that_fills_up_is_told_and_not_what_the_client_said(cache, tmp_path, monkeypatch):
    client(tmp_path, monkeypatch, "sys.exit('npm error code ENOSPC, or nothing at all')")
    free = iter([10**9, 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, next(free)))
    with pytest.raises(FetchError, match=r"^thing: no room at .*cache: ") as caught:
        fetch("thing", progress=False, announce=quiet)
    assert "npm" not in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_unpacking_is_told(code, cache, tmp_path, monkeypatch):
    tgz(tmp_path / "thing.tgz", GOOD)

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(unpack, "_copy", full)
    with pytest.raises(FetchError, match=r"^thing: no room at .*cache \(.*nothing was kept.*MINIPEFT_CACHE$"):
        fetch("thing", from_file=tmp_path / "thing.tgz")
    assert not cache.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="kills as Linux does")
def test_what_a_killed_fetch_left_is_removed_by_the_next_one(cache, tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    client(
        tmp_path,
        monkeypatch,
        f"import os; open('half', 'wb').write(bytes(9)); open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)",
    )
    process = subprocess.Popen([sys.executable, "-m", "minipeft", "fetch", "sentiment"], stderr=subprocess.DEVNULL)
    wait_for(lambda: pid.exists() and pid.read_text())
    running = list(cache.iterdir())
    assert {p.name.split(".")[1] for p in running} == {"sentiment", "sentiment-download"}
    tgz(tmp_path / "thing.tgz", GOOD)
    fetch("thing", from_file=tmp_path / "thing.tgz", progress=False)
    assert set(running) <= set(cache.iterdir()), "another process works there"
    process.kill()
    process.wait()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    fetch("thing", from_file=tmp_path / "thing.tgz", progress=False)
    assert [p.name for p in cache.iterdir()] == ["thing"]


def test_only_what_a_fetch_makes_is_removed(cache, tmp_path):
    cache.mkdir()
    foreign = [".thing.txt", ".notes.abc.part", "thing.abc.part", ".thing.abc.partly"]
    for name in foreign:
        (cache / name).mkdir()
    tgz(tmp_path / "thing.tgz", GOOD)
    fetch("thing", from_file=tmp_path / "thing.tgz", progress=False)
    assert {p.name for p in cache.iterdir()} == {*foreign, "thing"}


def test_a_file_of_another_edition_is_accepted(cache, tmp_path, monkeypatch):
    other = b"the same, packed in another way"
    editions = {"a.json": (hashlib.sha256(other).hexdigest(), len(other))}
    monkeypatch.setitem(module.RESOURCES, "thing", resource(editions=editions))
    for content in (other, CONTENT["a.json"]):
        tgz(tmp_path / "thing.tgz", {**GOOD, "package/data/a.json": content})
        folder = fetch("thing", from_file=tmp_path / "thing.tgz", progress=False)
        assert (folder / "a.json").read_bytes() == content
        assert fetch("thing", progress=False) == folder, "it counts as whole"
    tgz(tmp_path / "thing.tgz", {**GOOD, "package/data/a.json": other + b"!"})
    with pytest.raises(FetchError, match=f"expected [0-9a-f]{{64}} or {editions['a.json'][0]}"):
        fetch("thing", from_file=tmp_path / "thing.tgz", progress=False)


def test_every_resource_tells_how_to_get_it_by_hand():
    for r in RESOURCES.values():
        assert r.by_hand.startswith("download ")
        assert r.editions.keys() <= r.files.keys()


@pytest.mark.network
def test_the_files_that_the_authors_of_fashion_mnist_publish_are_accepted(tmp_path, monkeypatch):
    try:
        home = fetch("fashion", progress=False, announce=quiet)
    except FetchError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"cannot be downloaded here: {error}")
    times = {"train-images": -21, "train-labels": -21, "t10k-images": 0, "t10k-labels": 0}  # to 1504176627
    folder = tmp_path / "fashion"
    folder.mkdir()
    for name in RESOURCES["fashion"].files:
        raw = (home / name).read_bytes()
        stamp = 1504176627 + times[name.partition("-idx")[0]]
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", stamp) + b"\0\3" + Path(name).stem.encode() + b"\0"
        (folder / name).write_bytes(header + raw[10:])
        assert gzip.decompress((folder / name).read_bytes()) == gzip.decompress(raw)
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    assert fetch("fashion", from_file=folder, progress=False) == cached("fashion")
