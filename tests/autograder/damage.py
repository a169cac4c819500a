"""Submissions as nobody would make them on purpose, drawn from a seed: damaged zips, and programs of every kind.

damaged_zip(rng, files)     the bytes of a zip that is broken, that lies, or that has odd entries
program(rng, source)        the bytes of a file that is Python, nearly Python, or nothing of the kind
"""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from collections.abc import Callable, Mapping

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
FIELDS = {  # offset and size of the fields of each record
    LOCAL: [(4, 2), (6, 2), (8, 2), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)],
    CENTRAL: [(4, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (38, 4), (42, 4)],
    END: [(4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
}
NAMES = (
    "../welch.py", "/welch.py", "C:\\welch.py", "a\0b.py", "", "/", "..", "x/" * 200 + "welch.py", "W" * 60000,
    "WELCH.PY",
    "a\\welch.py", "we\u0308lch.py", "\u202ehcl.py", "welch.py/", "./welch.py", "__MACOSX/._welch.py", "con.py",
    "=1+1",
)  # fmt: skip


def packed(rng: random.Random, files: Mapping[str, bytes]) -> bytes:
    """Return a zip of the files, each compressed in one of the ways that there are."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, rng.choice(METHODS))
    return made.getvalue()


def damaged_zip(rng: random.Random, files: Mapping[str, bytes]) -> bytes:
    """Return a zip with one to three kinds of damage."""
    files = dict(files)
    if rng.random() < 0.2:
        files[rng.choice(NAMES)] = rng.randbytes(20)
    if rng.random() < 0.1:
        files["inside.zip"] = files[next(iter(files))] = packed(rng, files)
    data = bytearray(packed(rng, files))
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(DAMAGE)(rng, data)
    return bytes(data)


def _records(data: bytearray) -> list[tuple[bytes, int]]:
    return [(kind, at) for kind in FIELDS for at in range(len(data)) if data[at : at + 4] == kind]


def _cut(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : len(data) if rng.random() < 0.5 else at + rng.randrange(1, 40)]


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randrange(1, 20) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _lie(rng: random.Random, data: bytearray) -> None:
    """Write another number into a field: a size, an offset, a count, a checksum, a flag, a version."""
    records = _records(data)
    if not records:
        return
    kind, at = rng.choice(records)
    offset, size = rng.choice(FIELDS[kind])
    value = rng.choice((0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, 0x80000000, rng.getrandbits(8 * size), rng.randrange(300)))
    data[at + offset : at + offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _method(rng: random.Random, data: bytearray) -> None:
    """Name another compression, in both places."""
    method = struct.pack("<H", rng.choice((0, 1, 6, 8, 9, 12, 14, 93, 95, 97, 98, 99)))
    for kind, at in _records(data):
        if kind != END:
            offset = 8 if kind == LOCAL else 10
            data[at + offset : at + offset + 2] = method


def _encrypted(rng: random.Random, data: bytearray) -> None:
    for kind, at in _records(data):
        if kind != END and at + 8 < len(data):
            data[at + (6 if kind == LOCAL else 8)] |= rng.choice((1, 0x40, 0x41, 0x08, 0x20))


def _zip64(rng: random.Random, data: bytearray) -> None:
    """Add the records of ZIP64 with numbers that are not true."""
    end = bytes(data).rfind(END)
    if end < 0:
        return
    numbers = [rng.choice((0, 1, len(data), 1 << 31, (1 << 63) - 1, (1 << 64) - 1)) for _ in range(5)]
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, *numbers[:4])
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, rng.choice((end, numbers[4])), 1)
    data[end:end] = record + locator
    if rng.random() < 0.5:
        at = end + len(record + locator)
        data[at + 8 : at + 20] = b"\xff" * 12


def _around(rng: random.Random, data: bytearray) -> None:
    """Put rubbish before or after, or a piece of it twice."""
    piece = rng.choice((rng.randbytes(rng.randrange(1, 70)), bytes(data), END + bytes(18), LOCAL, CENTRAL * 3))
    at = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
    data[at:at] = piece


def _rubbish(rng: random.Random, data: bytearray) -> None:
    data[:] = (
        rng.choice((LOCAL, END, b"", b"PK")) + rng.randbytes(rng.randrange(200)) + rng.choice((b"", END + bytes(18)))
    )


DAMAGE: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _cut, _flip, _lie, _lie, _method, _encrypted, _zip64, _around, _rubbish,
)  # fmt: skip

# Programs

WORDS = re.findall(r"\S+", """
def class return raise exit lambda yield await async match case type import from as with try except finally if elif else
for while break continue pass global nonlocal del assert not and or in is None True False np x y self ( ) [ ] { } : ; ,
. = == := -> * ** @ + - / // % << >> & | ^ ~ < > != 0 1 1e999 0x 1_0 1j 'a' "b" f'{x}' rb'' # \\ ` ? $ \N{EURO SIGN}
\N{LATIN SMALL LETTER E WITH ACUTE} \N{GREEK SMALL LETTER BETA}""")  # fmt: skip
LINES = (
    "raise SystemExit", "exit()", "raise ValueError('=1+1;@x')", "import torch", "from __future__ import annotations",
    "__name__ = 'x'", "def f(): return f", "class A(A): pass", "x = yield", "await x", "return 3",
    "x: int = 'é'", "del f",
    "import os; os._exit(0)", "match x:\n    case [1, *_]: pass", "type X = int", "print(f'{f\"{1!r:>{2}}\"}')",
    "...",
    "def welch_statistic(a, b, /, *, c=lambda: 0): ...", "def holm(ps): 'doc'; return ps",
    "def holm(ps):\n\treturn ps",
    "class NearestCentroid:\n  def fit(self): 'doc'", "@(lambda f: 3)\ndef holm(ps): pass",
    "exec('def holm(ps): return 1')",
    "if True:\n    def holm(ps): return ps", "\fdef holm(ps): return ps", "async def holm(ps): return ps", "holm = 3",
)  # fmt: skip
NESTED: tuple[tuple[str, str, str], ...] = (
    ("(", "1", ")"), ("[", "", "]"), ("{1:", "1", "}"), ("-", "1", ""), ("not ", "x", ""), ("lambda: ", "0",
    ""), ("f(", "", ")"),
    ("", "x", ".a"), ("", "x", "[0]"), ("", "1", "+1"), ("", "x", " if x else 1"), ("x = ", "1", ""), ("*", "x", ""),
    ("@x\n", "def f(): pass", ""), ("", "if x: pass\n", "elif x: pass\n"), ("f'{", "1", "}'"), ("await ", "x", ""),
    ("", "'a'", " 'b'"), ("(yield ", "1", ")"), ("if 1:", "pass", ""), ("", "x = 1", "; x = 1"), ("", "1",
    "if 1else 1"),
)  # fmt: skip
LITERALS = (
    "1" * 5000, "0x" + "f" * 9000, "1" + "_0" * 3000, "'" + "a" * 60000 + "'", "b'" + "\\x00" * 9000 + "'",
    "9" * 4301 + "j",
    "[" + "1," * 20000 + "]", "'\\N{DIGIT ONE}'", "'\\N{NO SUCH}'", "'\\ud800'", "1e" + "9" * 400,
    "'''" + "\n" * 5000 + "'''",
    "{" + "**x," * 5000 + "}", "9" * 100 + "**" + "9" * 100, "'a' * 10**12",
)  # fmt: skip
ENCODINGS = (
    "utf-8", "latin-1", "cp1252", "utf-16", "utf-7", "utf-32", "cp037", "idna", "rot13", "zlib_codec",
    "punycode", "ascii",
    "unicode_escape", "raw_unicode_escape", "mbcs", "undefined", "hex", "base64", "euc_jp", "iso2022_jp",
    "x" * 300, "\u00e9",
)  # fmt: skip


def program(rng: random.Random, source: str) -> bytes:
    """Return a file. source: a program that some of them are made of."""
    return rng.choice(PROGRAMS)(rng, source)


def _statements(rng: random.Random, source: str) -> bytes:
    lines = rng.choices(LINES, k=rng.randrange(1, 12))
    return "\n".join(("    " * rng.choice((0, 0, 0, 1))) + line for line in lines).encode()


def _soup(rng: random.Random, source: str) -> bytes:
    words = rng.choices([*WORDS, "\n", "\n    ", "\t", "\r", "\f"], k=rng.randrange(1, 120))
    return rng.choice(("", " ")).join(words).encode()


def _deep(rng: random.Random, source: str) -> bytes:
    before, inside, after = rng.choice(NESTED)
    n = rng.choice((20, 90, 150, 300, 1500, 6000))
    return f"{rng.choice(('', 'x = ', source))}\n{before * n}{inside}{after * n}\n".encode()


def _literal(rng: random.Random, source: str) -> bytes:
    return f"{rng.choice(('', source))}\nx = {rng.choice(LITERALS)}\n".encode()


def _encoded(rng: random.Random, source: str) -> bytes:
    cookie, real = rng.choice(ENCODINGS), rng.choice(("utf-8", "latin-1", "utf-16", "cp037"))
    first = rng.choice(("", "#!/bin/sh", "\f"))
    text = f"{first}\n# -*- coding: {cookie} -*-\nx = 'caf\u00e9'\n"
    data = (text + rng.choice(("", source))).encode(real, "replace")
    return rng.choice((b"", b"\xef\xbb\xbf", b"\xff\xfe")) + data + rng.choice((b"", b"\0", b"\xff", b"\x1a", b"\\"))


def _changed(rng: random.Random, source: str) -> bytes:
    """Return the source with lines lost, doubled, moved or indented."""
    lines = source.split("\n")
    for _ in range(rng.randrange(1, 8)):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        if (kind := rng.randrange(5)) == 0:
            del lines[i]
        elif kind == 1:
            lines.insert(j, lines[i])
        elif kind == 2:
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 3:
            lines[i] = rng.choice((" ", "\t", "    ")) + lines[i]
        else:
            lines.insert(i, rng.choice(LINES))
    return "\n".join(lines).encode()


def _noise(rng: random.Random, source: str) -> bytes:
    data = bytearray(source.encode())
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data).replace(b"\n", rng.choice((b"\n", b"\r\n", b"\r", b"\n\f")))


PROGRAMS = (_statements, _statements, _soup, _deep, _literal, _encoded, _changed, _changed, _noise)
