"""Fetching: announced, checked, whole or not at all, and offline afterwards."""

import hashlib
import io
import os
import stat
import sys
import tarfile
import zipfile

import pytest

from minipeft.cli import main
from minipeft.data import fetch as module
from minipeft.data.fetch import FetchError, Package, Resource, cached, fetch

CONTENT = {"a.json": b'{"a": 1}', "b.txt": b"hello\n" * 100}


def resource(client="npm", requirement="thing@1.0", **changes):
    files = {n: (hashlib.sha256(c).hexdigest(), len(c)) for n, c in CONTENT.items()}
    package = Package(client, requirement, 1000, {n: f"package/data/{n}" for n in CONTENT})
    return Resource(
        **{"name": "thing", "summary": "A thing", "licence": "MIT", "files": files, "packages": (package,), **changes}
    )


def tgz(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


GOOD = {"package/data/a.json": CONTENT["a.json"], "package/data/b.txt": CONTENT["b.txt"], "package/other": b"x"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(module.RESOURCES, "thing", resource())
    return tmp_path / "cache"


def client(tmp_path, monkeypatch, body):
    """A false npm, first on the PATH, that runs ``body`` in the folder where the package shall appear."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    script = folder / "npm"
    script.write_text(f"#!{sys.executable}\nimport shutil, sys, time\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_download_is_announced_checked_and_then_offline(cache, tmp_path, monkeypatch):
    tgz(tmp_path / "thing.tgz", GOOD)
    client(tmp_path, monkeypatch, f"shutil.copy({str(tmp_path / 'thing.tgz')!r}, '.')")
    said = []
    folder = fetch("thing", progress=False, announce=said.append)
    assert said == ["thing: 0.0 MB by npm (thing@1.0, MIT)"]
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == CONTENT
    client(tmp_path, monkeypatch, "sys.exit('asked again')")
    assert fetch("thing", progress=False) == folder == cached("thing")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('registry says no'); sys.exit(1)", "registry says no"),
        ("pass", "npm failed: it said nothing"),
        ("open('x', 'w').write('x'); open('y', 'w').write('y')", "npm failed"),
    ],
)
def test_a_failed_client_is_quoted_and_leaves_nothing(body, message, cache, tmp_path, monkeypatch):
    client(tmp_path, monkeypatch, body)
    with pytest.raises(FetchError, match=message) as caught:
        fetch("thing", progress=False, announce=lambda _: None)
    assert "--from FILE" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_missing_client_says_which(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"npm is needed and was not found.*--from FILE"):
        fetch("thing", progress=False, announce=lambda _: None)
    assert list(cache.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(cache, tmp_path, monkeypatch):
    client(tmp_path, monkeypatch, "time.sleep(60)")

    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_watch", pressed)
    with pytest.raises(KeyboardInterrupt):
        fetch("thing", progress=False, announce=lambda _: None)
    assert list(cache.iterdir()) == []
    assert cached("thing") is None


@pytest.mark.parametrize("make", [tgz, wheel])
def test_a_package_got_otherwise_serves(make, cache, tmp_path):
    make(tmp_path / "file", GOOD)
    assert (fetch("thing", from_file=tmp_path / "file") / "a.json").read_bytes() == CONTENT["a.json"]


def test_a_folder_got_otherwise_serves(cache, tmp_path):
    (tmp_path / "flat").mkdir()
    for n, c in CONTENT.items():
        (tmp_path / "flat" / n).write_bytes(c)
    assert fetch("thing", from_file=tmp_path / "flat").is_dir()


@pytest.mark.parametrize("make", [tgz, wheel])
def test_a_file_with_another_sum_is_refused_and_what_was_there_stays(make, cache, tmp_path):
    make(tmp_path / "good", GOOD)
    make(tmp_path / "bad", {**GOOD, "package/data/b.txt": b"changed"})
    folder = fetch("thing", from_file=tmp_path / "good")
    with pytest.raises(
        FetchError, match=r"b.txt is not the file that is expected: its sha256 is [0-9a-f]{64}, expected"
    ):
        fetch("thing", from_file=tmp_path / "bad")
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == CONTENT
    assert [p.name for p in cache.iterdir()] == ["thing"]


def test_a_bomb_is_cut_short(cache, tmp_path):
    tgz(tmp_path / "bomb", {**GOOD, "package/data/a.json": b"0" * 50_000_000})
    with pytest.raises(FetchError, match=r"a\.json is not the file"):
        fetch("thing", from_file=tmp_path / "bomb")


def test_odd_members_are_never_unpacked(cache, tmp_path):
    tgz(tmp_path / "odd", {**GOOD, "../../escaped": b"x", "/absolute": b"x"})
    fetch("thing", from_file=tmp_path / "odd")
    assert not list(tmp_path.rglob("escaped"))
    with tarfile.open(tmp_path / "link", "w:gz") as tar:
        info = tarfile.TarInfo("package/data/a.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(FetchError, match=r"has no package/data/a\.json"):
        fetch("thing", from_file=tmp_path / "link")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("thingg", None, "unknown name 'thingg'; near: .'thing'"),
        ("nothing like it at all", None, "there are: "),
        ("thing", "none.tgz", "no such file"),
        ("thing", "text.tgz", "expected a.json in a package file"),
    ],
)
def test_mistakes(name, source, message, cache, tmp_path):
    (tmp_path / "text.tgz").write_text("just text")
    with pytest.raises(FetchError, match=message):
        fetch(name, from_file=None if source is None else tmp_path / source)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_an_incomplete_folder_is_fetched_again(cache, tmp_path, monkeypatch):
    tgz(tmp_path / "thing.tgz", GOOD)
    folder = fetch("thing", from_file=tmp_path / "thing.tgz")
    (folder / "b.txt").write_bytes(b"")
    client(tmp_path, monkeypatch, f"shutil.copy({str(tmp_path / 'thing.tgz')!r}, '.')")
    assert (fetch("thing", progress=False, announce=lambda _: None) / "b.txt").read_bytes() == CONTENT["b.txt"]


def test_the_command_line_prints_the_folder(cache, tmp_path, capsys):
    tgz(tmp_path / "thing.tgz", GOOD)
    assert main(["fetch", "thing", "--from", str(tmp_path / "thing.tgz")]) == 0
    assert capsys.readouterr().out.strip() == str(cache / "thing")
    assert main(["fetch"]) == 0
    assert str(cache / "thing") in capsys.readouterr().out


@pytest.mark.network
def test_what_is_really_fetched(minilm, sentences):
    from minipeft.files import safetensors_header

    assert len(safetensors_header(minilm / "model.safetensors")[0]) == 104
    assert {f.name for f in sentences.iterdir()} == {"imdb.json", "amazon.json", "yelp.json"}
