"""What an older Python cannot read is named, with both versions, before it is handed in and after."""

import ast
import sys
import time
import tomllib

import pytest

from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT
from autograder.homeworks.strip import source_path
from autograder.submission.syntax import HERE, LEAST, QUOTES, too_new, too_new_files, why_not, written

MODULE = "minipeft.peft.lora"
LORA = load_homework("hw6_lora")
BEGINNING = '"""A docstring."""\n\n'
OVER_LINES = 'f"{x +\n 1}"'
FSTRINGS = (
    'f"{x["a"]}"',
    'f"{", ".join(x)}"',
    "f'{\"\\n\".join(x)}'",
    'f"{f"a"}"',
    'f"""{x # a\n}"""',
    OVER_LINES,
    "rf'{x['a']}'",
)
NEWER = {
    "type X = int": ("a type statement", (3, 12)),
    "def f[T](x): pass": ("type parameters", (3, 12)),
    "async def f[*Ts, **P](x): pass": ("type parameters", (3, 12)),
    "class C[T]:\n    pass": ("type parameters", (3, 12)),
    "class C[T = int]:\n    pass": ("defaults of type parameters", (3, 13)),
    "try:\n    pass\nexcept A, B:\n    pass": ("except without parentheses", (3, 14)),
    't"a{x}"': ("a t-string", (3, 14)),
    **dict.fromkeys(FSTRINGS, (QUOTES, (3, 12))),
}
PLAIN = (
    "type = 3\nprint(type)\ntype(3)\n",
    "f\"{x['a']}{y!r:>{width}}\"\n",
    "f'''{x[\"a\"]} it's {\n y}'''\n",
    "f'a\\n{x}' '\\n' # a comment\n",
    "x = f'{x}' \"'\"\n",
    "try:\n    pass\nexcept* (A, B):\n    pass\n",
    "def f(x: int = 1) -> 'list[int]': return x[1]\n",
)


def read(text):
    try:
        ast.parse(BEGINNING + text)
    except SyntaxError as error:
        return error
    return None


@pytest.mark.parametrize("text", NEWER)
def test_syntax_newer_than_this_python_is_named_with_both_versions(text):
    what, version = NEWER[text]
    error = read(text)
    if version <= HERE:
        assert error is None
        return
    assert error is not None
    said = why_not(error)
    if text == OVER_LINES:  # also what a forgotten quote looks like
        assert said.startswith(f"is not valid Python {written(HERE)}, which the grader runs (unterminated string")
    else:
        newer = f"uses syntax of Python {written(version)} or newer ({what})"
        assert said == f"{newer}, and the grader runs Python {written(HERE)}"


@pytest.mark.parametrize("text", ["def f(:", "x = = 1", "f'{x'", "if x\n    pass", "except A:", "print 'a'", "type X"])
def test_plain_mistakes_are_not_taken_for_newer_syntax(text):
    error = read(text)
    assert why_not(error) == f"is not valid Python {written(HERE)}, which the grader runs ({error.msg})"


@pytest.mark.parametrize("part", ['f"{', "f'{ ", "{", " ", "type ", "def f[", "except A,", "[", 'f"{x[(,'])
def test_a_long_line_is_looked_at_in_no_time(part):
    began = time.process_time()
    for begin in ("", "def f[", "type X [", "f'{"):
        assert why_not(SyntaxError("invalid syntax", ("f.py", 1, 1, begin + part * 20_000)))
    assert time.process_time() - began < 1.0


def test_what_was_not_parsed_has_no_version():
    assert why_not(SyntaxError("it takes too long", ("f.py", 0, 0, ""))) == "cannot be read (it takes too long)"


@pytest.mark.parametrize("text", NEWER)
def test_syntax_that_a_grader_with_the_least_python_cannot_read_is_found(text):
    what, version = NEWER[text]
    if version > HERE:
        pytest.skip(f"Python {written(version)} reads it; this is {written(HERE)}")
    found = too_new(BEGINNING + text)
    assert (found.what, found.version) == (what, version)
    assert found.line >= 3


@pytest.mark.parametrize("text", PLAIN)
def test_what_the_least_python_reads_is_not_warned_of(text):
    assert too_new(text) is None


def test_the_library_itself_is_read_by_the_least_python():
    for package in ("minipeft", "autograder"):
        for file in (ROOT / package).rglob("*.py"):
            assert too_new(file.read_text("utf-8")) is None, file


def test_the_least_python_is_the_librarys():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == f">={written(LEAST)}"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs a Python that reads newer syntax than 3.11")
def test_check_and_submit_warn_of_it(tmp_path):
    from autograder.course.submit import pack
    from autograder.public import check
    from autograder.submission.intake import take

    text = source_path(MODULE).read_text("utf-8") + "\ntype Number = float\n"
    (tmp_path / "lora.py").write_text(text, "utf-8")
    (said,) = too_new_files(LORA, {MODULE: text})
    line = text.count("\n")
    assert said.startswith(f"lora.py, line {line}: uses syntax of Python 3.12 or newer (a type statement).")
    assert said in pack(LORA, tmp_path, tmp_path / "s.zip").warnings
    assert said in check(LORA, take(tmp_path, LORA), ["6.1"]).notes
