"""Attacks by what is handed in: names, folders, archives; and by what staff opens: tables and pages."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

assert sys.platform == "linux"

from autograder.selftest.attacks import MARK, Attack, indented

Files = dict[str, str]
Make = Callable[[Path, Files], Path]
SCRIPT = "<script>alert(1)</script>"
FORMULA = '=HYPERLINK("http://x","x")'


def _folder(place: Path, files: Files) -> Path:
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text, "utf-8")
    return place


def _zip(place: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = place.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def _changed(method: int, at: float, new: bytes) -> Make:
    def make(place: Path, files: Files) -> Path:
        path = _zip(place, files, method)
        data = bytearray(path.read_bytes())
        start = int(len(data) * at)
        data[start : start + len(new)] = new
        path.write_bytes(data)
        return path

    return make


def _encrypted(place: Path, files: Files) -> Path:
    path = _zip(place, files)
    data = path.read_bytes().replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00")
    path.write_bytes(data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"))
    return path


def _bomb(place: Path, files: Files) -> Path:
    return _zip(place, dict.fromkeys(files, "#" * (1 << 25)))


def _out_of_folder(place: Path, files: Files) -> Path:
    return _zip(place, {**files, "../../escaped.py": "x", "/tmp/minipeft-escaped": "x", "a\\..\\b.py": "x"})


def _deep(place: Path, files: Files) -> Path:
    _folder(place, files)
    here = os.open(place, os.O_RDONLY)
    name = "d"
    for _ in range(1500):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    return place


def _sparse(place: Path, files: Files) -> Path:
    with open(_folder(place, files) / "big.bin", "wb") as file:
        file.truncate(40 << 30)
    return place


def _many(place: Path, files: Files) -> Path:
    _folder(place, files)
    for i in range(3000):
        (place / f"f{i}.txt").touch()
    return place


def _odd_kinds(place: Path, files: Files) -> Path:
    _folder(place, files)
    os.mkfifo(place / "pipe.py")
    os.symlink("/etc/shadow", place / "link.py")
    os.symlink("/dev/zero", place / "zero.py")
    os.symlink(".", place / "loop")
    return place


def _only_links(place: Path, files: Files) -> Path:
    place.mkdir()
    for name in files:
        os.symlink("/dev/zero", place / name)
    return place


def _names(place: Path, files: Files) -> Path:
    _folder(place, files)
    for name in (
        b"\xff\xfe.txt",
        f"x;{FORMULA}.txt".replace("/", "_").encode(),
        b"<b>\xe2\x80\xae.txt",
        b"a\nb\x1b[31m.txt",
    ):
        (place / os.fsdecode(name)).touch()
    return place


def _named(name: bytes) -> Make:
    def make(place: Path, files: Files) -> Path:
        own = place.with_name(os.fsdecode(name))
        if own.exists():  # in a class, the attack is handed in more than once
            own = place.with_name(os.fsdecode(name) + place.name)
        return _folder(own, files)

    return make


def _collides(place: Path, files: Files) -> Path:
    _folder(place.with_name(place.name.upper()), files)
    return _folder(place, files)


def _unreadable(place: Path, files: Files) -> Path:
    _folder(place, files)
    for path in place.iterdir():
        path.chmod(0)
    return place


def _rubbish(place: Path, files: Files) -> Path:
    _folder(place, files)
    for name in files:
        (place / name).write_bytes(b"\x00\xff\xfe" + b"# -*- coding: utf-7 -*-\n" + b"\x80" * 300)
    return place


def _lzma(place: Path, files: Files) -> Path:
    path = _zip(place, files, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x03\x04") + 30 + struct.unpack("<H", data[26:28])[0]
    data[at + 4 : at + 9] = b"\xff" * 5
    path.write_bytes(data)
    return path


def _hidden_copy(wrap: Callable[[str], str]) -> Make:
    def make(place: Path, files: Files) -> Path:
        future = "from __future__ import annotations\n"
        return _folder(place, {name: wrap(text.replace(future, "")) for name, text in files.items()})

    return make


def _made(name: str, says: str, make: Make, **more: object) -> Attack:
    return Attack(name, "intake", says, hand_in=make, places=("8.6",), spares="other files", most=1.0, **more)  # type: ignore[arg-type]


ATTACKS = [
    _made("zip-damaged-data", "a zip with damaged data", _changed(zipfile.ZIP_DEFLATED, 0.1, b"\xff" * 40)),
    _made("zip-damaged-middle", "a zip with damaged data in its middle", _changed(zipfile.ZIP_DEFLATED, 0.5, b"\x00" * 40)),
    _made("zip-damaged-table", "a zip with a damaged table of contents", _changed(zipfile.ZIP_DEFLATED, 0.97, b"\xff" * 8)),
    _made("zip-lzma", "a damaged zip of LZMA", _lzma),
    _made("zip-bzip2", "a damaged zip of bzip2", _changed(zipfile.ZIP_BZIP2, 0.2, b"\x55" * 30)),
    _made("zip-encrypted", "an encrypted zip", _encrypted),
    _made("zip-bomb", "a zip of 30 kB that unpacks to 32 MiB a file", _bomb),
    _made("zip-out-of-folder", "a zip whose names lead out of its folder", _out_of_folder),
    _made("folders-1500-deep", "folders 1,500 deep", _deep, routes=("grade", "class", "gradescope")),
    _made("file-of-40-GB", "a sparse file of 40 GB next to the program", _sparse),
    _made("3000-files", "3,000 files", _many),
    _made("links-and-pipes", "links, pipes and devices next to the program", _odd_kinds),
    _made("only-links", "links to /dev/zero with the names of the program's files", _only_links),
    _made("unreadable", "files that nobody may read", _unreadable),
    _made("not-utf-8", "bytes that are no text, in an encoding of their own", _rubbish),
    _made("file-names", "file names that are not UTF-8, formulas, markup, control characters", _names),
    _made("name-not-utf-8", "a folder whose name is not UTF-8", _named(b"\xff\xfe\xed\xa0\x80name"), routes=("class",)),
    _made("name-formula", "a folder whose name is a formula", _named(f"x;{FORMULA}".replace("/", "_").encode()), routes=("class",)),
    _made("name-markup", "a folder whose name is markup", _named(SCRIPT.replace("/", "_").encode() + b"\xe2\x80\xae\n"), routes=("class",)),
    _made("names-collide", "two entries whose names differ in capitals only", _collides, routes=("class",)),
    Attack("copy-in-exec", "copies", "a copy as a string that is run", hand_in=_hidden_copy(lambda text: f"exec({text!r})\n"), places=("6.2",), routes=("class",), most=1.0),
    Attack("copy-in-if", "copies", "a copy below `if True`", hand_in=_hidden_copy(lambda text: "if True:\n" + indented(text)), places=("6.2",), routes=("class",), most=1.0),
    Attack("shadow", "intake", "files that would stand in for modules of Python and of the grader", most=1.0, more=(
        ("numpy.py", "raise SystemExit"), ("json.py", "raise SystemExit"), ("sitecustomize.py", "raise SystemExit"),
        ("conftest.py", "raise SystemExit"), ("autograder.py", "raise SystemExit"), ("minipeft.py", "raise SystemExit"))),
    Attack("markup", "pages", "markup, escapes and direction marks in exceptions and names", body=f"""
raise type('<b>\\u202e', (Exception,), {{}})('{SCRIPT}\\x1b[31m\\u202e[x](http://x)\\0 {MARK}')
"""),
    Attack("markup-at-import", "pages", "the same at import", spares="other files", top=f"class E(Exception): pass\nE.__name__ = '<b>\\u202e'\nraise E('{SCRIPT}\\x1b[31m{MARK}')"),
    Attack("markup-in-lists", "pages", "markup in names of outputs, lists and types", body=f"return {{'{SCRIPT}': ['{SCRIPT}'] * 50}}, ['{SCRIPT}'], type('{SCRIPT}', (), {{}})()"),
    Attack("formulas", "pages", "formulas in what it prints and raises", body=f"print('{FORMULA}')\nraise ValueError('{FORMULA};{FORMULA}\\t{FORMULA}')"),
    Attack("large-record", "pages", "a program of 250 kB of functions, names and strings", top="".join(f"def f{i}(x):\n    return x * {i} + x ** {i % 7} - {i}\n\n" for i in range(3500)), most=0.0),
    Attack("deep-program", "pages", "expressions nested as deep as the parser allows", top="x = " + "[" * 180 + "]" * 180 + "\n" + "\n".join(" " * i + "if True:" for i in range(90)) + " pass\n", most=0.0),
]  # fmt: skip
