"""Fetching: announced, checked, whole or not at all, and offline afterwards."""

import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from packages import CONTENT, GOOD, client, quiet, resource, tgz, wait_for, wheel

from minipeft.cli import main
from minipeft.data import fetch as module
from minipeft.data import unpack
from minipeft.data.fetch import FetchError, Package, cached, fetch


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(module.RESOURCES, "thing", resource())
    return tmp_path / "cache"


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
        (
            "print('a\\nb\\nnpm error code E404\\nsee the log'); sys.exit(1)",
            "npm failed on thing@1.0: npm error code E404. Without npm: get the package file of thing@1.0. Then run",
        ),
        ("pass", "npm failed on thing@1.0: it said nothing"),
        ("open('x', 'w').write('x'); open('y', 'w').write('y')", "npm failed"),
    ],
)
def test_a_failed_client_is_quoted_and_leaves_nothing(body, message, cache, tmp_path, monkeypatch):
    client(tmp_path, monkeypatch, body)
    with pytest.raises(FetchError, match=message) as caught:
        fetch("thing", progress=False, announce=quiet)
    assert "--from FILE_OR_FOLDER" in str(caught.value)
    assert not cache.exists()


def test_a_missing_client_says_which(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"thing: npm was not found .*Without npm: .*--from FILE"):
        fetch("thing", progress=False, announce=quiet)
    assert not cache.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends the signal of Ctrl-C")
def test_an_interrupted_download_ends_the_client_and_leaves_nothing(cache, tmp_path, monkeypatch):
    client(
        tmp_path,
        monkeypatch,
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"open('half', 'wb').write(bytes(9)); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)",
    )
    # a process of its own, which knows the real names alone: this one comes by npm
    process = subprocess.Popen([sys.executable, "-m", "minipeft", "fetch", "sentiment"], stderr=subprocess.PIPE)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert {p.name.split(".")[1] for p in cache.iterdir()} == {"sentiment", "sentiment-download"}
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert not cache.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_client_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    body = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE)
    process.stdout.readline()
    module._end(process)
    process.stdout.close()
    assert process.returncode is not None


def test_a_folder_that_changes_under_the_progress_bar_can_be_measured(tmp_path):
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "a" / "b" / "c").write_bytes(bytes(10))
            (tmp_path / "a" / "b" / "c").unlink()
            (tmp_path / "a" / "b").rmdir()
            (tmp_path / "a").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert {module._bytes_below(tmp_path) for _ in range(500)} <= {0, 10}
    finally:
        stop.set()
        thread.join()


def test_the_next_package_serves_where_the_first_cannot_be_had(cache, tmp_path, monkeypatch):
    second = Package("npm", "other@2.0", 2000, {n: f"package/elsewhere/{n}" for n in CONTENT})
    monkeypatch.setitem(module.RESOURCES, "thing", resource(packages=(*resource().packages, second)))
    tgz(tmp_path / "other.tgz", {f"package/elsewhere/{n}": c for n, c in CONTENT.items()})
    body = f"sys.argv[-1] == 'other@2.0' or sys.exit('gone'); shutil.copy({str(tmp_path / 'other.tgz')!r}, '.')"
    client(tmp_path, monkeypatch, body)
    said = []
    assert (fetch("thing", progress=False, announce=said.append) / "b.txt").read_bytes() == CONTENT["b.txt"]
    assert [line.split(" (")[0] for line in said] == [
        "thing: 0.0 MB by npm",
        "npm failed on thing@1.0: gone",
        "thing: 0.0 MB by npm",
    ]
    client(tmp_path, monkeypatch, "sys.exit('all gone')")
    with pytest.raises(FetchError, match=r"thing: npm failed on other@2.0: all gone. Without npm: .*--from FILE"):
        fetch_again(cache)


def fetch_again(cache):
    for file in (cache / "thing").iterdir():
        file.unlink()
    return fetch("thing", progress=False, announce=quiet)


def test_pip_is_asked_for_a_wheel_alone(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(module.RESOURCES, "thing", resource("pip", "thing==1.0"))
    wheel(tmp_path / "thing.whl", GOOD)
    fake = tmp_path / "modules" / "pip"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(
        "import shutil, sys\n"
        "assert sys.argv[1] == 'download' and '--no-deps' in sys.argv and '--only-binary=:all:' in sys.argv, sys.argv\n"
        f"assert sys.argv[-1] == 'thing==1.0'; shutil.copy({str(tmp_path / 'thing.whl')!r}, '.')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    assert (fetch("thing", progress=False, announce=quiet) / "b.txt").read_bytes() == CONTENT["b.txt"]
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"pip was not found.*--from FILE"):
        fetch_again(cache)


def test_two_that_fetch_at_once_both_have_it(cache, tmp_path, monkeypatch):
    tgz(tmp_path / "thing.tgz", GOOD)
    together = threading.Barrier(4)

    def slow(resource, source, target):
        unpack.unpack(resource, source, target)
        together.wait(timeout=30)

    monkeypatch.setattr(module, "unpack", slow)
    client(tmp_path, monkeypatch, f"shutil.copy({str(tmp_path / 'thing.tgz')!r}, '.')")
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(fetch("thing", progress=False, announce=quiet))) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [cache / "thing"] * 4
    assert [p.name for p in cache.iterdir()] == ["thing"]
    assert {f.name: f.read_bytes() for f in got[0].iterdir()} == CONTENT


def test_a_cache_that_cannot_be_is_a_clear_error(cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "file" / "inside"))
    tgz(tmp_path / "thing.tgz", GOOD)
    with pytest.raises(FetchError, match="MINIPEFT_CACHE"):
        fetch("thing", from_file=tmp_path / "thing.tgz")


@pytest.mark.parametrize("make", [tgz, wheel])
def test_a_package_got_otherwise_serves(make, cache, tmp_path):
    make(tmp_path / "file", GOOD)
    assert (fetch("thing", from_file=tmp_path / "file") / "a.json").read_bytes() == CONTENT["a.json"]


def test_a_folder_got_otherwise_serves(cache, tmp_path):
    (tmp_path / "flat").mkdir()
    for n, c in CONTENT.items():
        (tmp_path / "flat" / n).write_bytes(c)
    assert fetch("thing", from_file=tmp_path / "flat").is_dir()


def test_a_single_file_got_otherwise_serves_under_any_name(cache, tmp_path, monkeypatch):
    one = resource(files={"a.json": (hashlib.sha256(CONTENT["a.json"]).hexdigest(), len(CONTENT["a.json"]))})
    monkeypatch.setitem(module.RESOURCES, "thing", one)
    (tmp_path / "download (1)").write_bytes(CONTENT["a.json"])
    assert (fetch("thing", from_file=tmp_path / "download (1)") / "a.json").read_bytes() == CONTENT["a.json"]


def test_licences_are_kept_where_the_package_has_them(cache, tmp_path, monkeypatch):
    licence = b"do as you like"
    package = Package("npm", "thing@1.0", 1000, {**resource().packages[0].members, "LICENSE": "package/LICENSE"})
    notices = {"LICENSE": (hashlib.sha256(licence).hexdigest(), len(licence))}
    monkeypatch.setitem(module.RESOURCES, "thing", resource(packages=(package,), notices=notices))
    for text, kept in ((licence, True), (b"another", False), (None, False)):
        tgz(tmp_path / "thing.tgz", {**GOOD, **({} if text is None else {"package/LICENSE": text})})
        assert (fetch("thing", from_file=tmp_path / "thing.tgz") / "LICENSE").exists() is kept


@pytest.mark.parametrize("make", [tgz, wheel])
def test_a_damaged_package_is_read_or_refused(make, cache, tmp_path, rng):
    make(tmp_path / "good", {**GOOD, "package/noise": rng.bytes(3000)})
    good = (tmp_path / "good").read_bytes()
    for _ in range(150):
        content = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)):
            content[at] = rng.integers(256)
        cut = rng.integers(1, len(good)) if rng.random() < 0.3 else None
        (tmp_path / "damaged").write_bytes(content[:cut])
        try:
            folder = fetch("thing", from_file=tmp_path / "damaged")
        except FetchError:
            continue
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == CONTENT


@pytest.mark.parametrize("make", [tgz, wheel])
def test_a_file_with_another_sum_is_refused_and_what_was_there_stays(make, cache, tmp_path):
    make(tmp_path / "good", GOOD)
    make(tmp_path / "bad", {**GOOD, "package/data/b.txt": b"changed"})
    folder = fetch("thing", from_file=tmp_path / "good")
    with pytest.raises(FetchError, match=r"b.txt is not the expected file: its sha256 is [0-9a-f]{64}, expected"):
        fetch("thing", from_file=tmp_path / "bad")
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == CONTENT
    assert [p.name for p in cache.iterdir()] == ["thing"]


def test_a_bomb_is_cut_short(cache, tmp_path):
    tgz(tmp_path / "bomb", {**GOOD, "package/data/a.json": b"0" * 50_000_000})
    with pytest.raises(FetchError, match=r"a\.json is not the expected file"):
        fetch("thing", from_file=tmp_path / "bomb")


@pytest.mark.parametrize("limit", ["LARGEST_ARCHIVE", "LARGEST_READ", "MOST_MEMBERS"])
def test_an_archive_without_end_is_refused(limit, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, limit, 2 if limit == "MOST_MEMBERS" else 5000)
    long = tarfile.TarInfo("n" * 20_000)  # the name is a header of its own, read whole into memory
    raw = long.tobuf(tarfile.PAX_FORMAT)
    tgz(tmp_path / "file", {**GOOD, "more": bytes(20_000)})
    if limit == "LARGEST_READ":
        (tmp_path / "file").write_bytes(gzip.compress(raw))
    with pytest.raises(FetchError, match="more than any expected one"):
        fetch("thing", from_file=tmp_path / "file")


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
        ("thingg", None, "unknown name 'thingg'; did you mean 'thing'"),
        ("nothing like it at all", None, "there are: "),
        ("thing", "none.tgz", "no such file"),
        ("thing", "text.tgz", "has no package/data/a.json nor a.json; expected the package file of thing@1.0"),
    ],
)
def test_mistakes(name, source, message, cache, tmp_path):
    (tmp_path / "text.tgz").write_text("just text")
    with pytest.raises(FetchError, match=message):
        fetch(name, from_file=None if source is None else tmp_path / source)
    assert not cache.exists()


def test_an_incomplete_folder_is_fetched_again(cache, tmp_path, monkeypatch):
    tgz(tmp_path / "thing.tgz", GOOD)
    folder = fetch("thing", from_file=tmp_path / "thing.tgz")
    (folder / "b.txt").write_bytes(b"")
    client(tmp_path, monkeypatch, f"shutil.copy({str(tmp_path / 'thing.tgz')!r}, '.')")
    assert (fetch("thing", progress=False, announce=quiet) / "b.txt").read_bytes() == CONTENT["b.txt"]


def test_the_command_line_prints_the_folder(cache, tmp_path, capsys):
    tgz(tmp_path / "thing.tgz", GOOD)
    assert main(["fetch", "thing", "--from", str(tmp_path / "thing.tgz")]) == 0
    assert capsys.readouterr().out.strip() == str(cache / "thing")
    assert main(["fetch"]) == 0
    assert str(cache / "thing") in capsys.readouterr().out


def test_the_list_of_resources_is_consistent():
    for r in module.resources():
        assert r.size > 0
        for sha256, size in (*r.files.values(), *r.notices.values()):
            assert len(sha256) == 64
            assert size > 0
        for package in r.packages:
            assert package.client in ("pip", "npm", "apt-get")
            assert r.files.keys() <= package.members.keys() <= r.files.keys() | r.notices.keys()
            if package.client != "apt-get":  # apt knows one version, that of its release: the members' hashes pin it
                assert "==" in package.requirement or "@" in package.requirement, "a version is pinned"


@pytest.mark.network
def test_the_real_weights(minilm):
    from minipeft.files import read_safetensors

    for name, (sha256, size) in module.RESOURCES["minilm"].files.items():
        assert (minilm / name).stat().st_size == size
        assert hashlib.sha256((minilm / name).read_bytes()).hexdigest() == sha256
    arrays, _ = read_safetensors(minilm / "model.safetensors")
    assert len(arrays) == 104
    assert arrays["embeddings.word_embeddings.weight"].shape == (30522, 384)
    weights = [x for x in arrays.values() if x.dtype == np.float32]
    assert len(weights) == 103
    assert sum(x.size for x in weights) == 22_713_216
    assert all(np.isfinite(x).all() for x in weights)


@pytest.mark.network
def test_the_real_sentences_come_from_their_client(sentences, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    try:
        folder = fetch("sentiment", progress=False, announce=quiet)
    except FetchError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the sentences cannot be downloaded here: {error}")
    assert {f.name for f in folder.iterdir()} == {"imdb.json", "amazon.json", "yelp.json", "LICENSE.md", "README.md"}
    for name in ("imdb.json", "amazon.json", "yelp.json"):
        assert (folder / name).read_bytes() == (sentences / name).read_bytes()


def deb(path, members, name="data.tar.xz", mode="w:xz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", name: data.getvalue()}
    raw = b"!<arch>\n"
    for part, content in parts.items():
        raw += f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        raw += b"\n" * (len(content) % 2)
    path.write_bytes(raw)


@pytest.mark.parametrize(("name", "mode"), [("data.tar.xz", "w:xz"), ("data.tar.gz", "w:gz")])
def test_a_debian_package_serves(name, mode, cache, tmp_path):
    deb(tmp_path / "thing.deb", GOOD, name, mode)
    folder = fetch("thing", from_file=tmp_path / "thing.deb", progress=False)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == CONTENT


def test_a_damaged_debian_package_is_one_clear_error_and_leaves_nothing(cache, tmp_path):
    path = tmp_path / "thing.deb"
    deb(path, GOOD)
    whole = path.read_bytes()
    deb(path, GOOD, "data.tar.zst")
    odd = path.read_bytes()
    for raw, message in (
        (whole[:40], "damaged Debian package"),
        (whole[: len(whole) * 2 // 3], "damaged"),
        (whole.replace(b"\xfd7zXZ", b"\xfd8zXZ"), "damaged"),
        (odd, "data.tar.zst is of another kind"),
    ):
        path.write_bytes(raw)
        with pytest.raises(FetchError, match=message):
            fetch("thing", from_file=path, progress=False)
        assert cached("thing") is None
