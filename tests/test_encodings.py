"""Every text file is read and written in an encoding that the code names: the default of Windows is not UTF-8."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    p for folder in ("minipeft", "autograder", "homework", "docs", "notebooks") for p in (ROOT / folder).rglob("*.py")
]
POSITION = {"read_text": 0, "write_text": 1, "open": 3, "fdopen": 3}  # of the encoding


def is_text(call: ast.Call, name: str) -> bool:
    """Whether a call reads or writes text, as far as its own words tell."""
    words = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
    if name in ("run", "Popen", "check_output"):
        return any(k.arg in ("text", "universal_newlines") for k in call.keywords)
    if getattr(getattr(call.func, "value", None), "id", "") in ("tarfile", "gzip"):
        return False
    if name == "open" and isinstance(call.func, ast.Attribute):  # of a path, whose first argument is the mode
        return not call.args or (isinstance(words[:1][0] if words else None, str) and "b" not in words[0])
    return name in POSITION and not any(isinstance(w, str) and "b" in w and len(w) < 4 for w in words[-2:])


def unnamed(source: str) -> list[int]:
    """The lines of calls that leave the encoding to the system."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            named = any(k.arg in ("encoding", None) for k in call.keywords) or len(call.args) > POSITION.get(name, 99)
            if is_text(call, name) and not named:
                found.append(call.lineno)
    return found


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(x)", True),
        ("path.write_text(x, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open('wb')", False),
        ("archive.open(entry)", False),
        ("tarfile.open(path, mode='r:')", False),
        ("os.fdopen(fd, 'w')", True),
        ("os.fdopen(fd, 'wb')", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
        ("subprocess.run(command)", False),
    ],
)
def test_a_call_without_an_encoding_is_found(line, wrong):
    assert bool(unnamed(line)) == wrong


def test_every_text_file_has_its_encoding_named():
    places = [f"{p.relative_to(ROOT)}:{line}" for p in FILES for line in unnamed(p.read_text("utf-8"))]
    assert places == []
