"""Packages and a false client, for the tests of `minipeft fetch`."""

import hashlib
import io
import os
import stat
import sys
import tarfile
import time
import zipfile

from minipeft.data.fetch import Package, Resource

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


def quiet(_):
    """In place of the announcement on stderr."""


def client(tmp_path, monkeypatch, body):
    """A false npm, first on the PATH, that runs ``body`` in the folder where the package shall appear."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    script = folder / "npm"
    script.write_text(f"#!{sys.executable}\nimport shutil, sys, time\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 seconds for nothing"
        time.sleep(0.02)
