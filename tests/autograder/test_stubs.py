"""Every stub in homework/ is the library's module without the bodies of its targets."""

import ast
import shutil

import pytest

from autograder.grading.library import Library
from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.homework import HomeworkError
from autograder.homeworks.strip import (
    drift,
    functions,
    main,
    put_back,
    replace_bodies,
    source_path,
    strip,
    stubs,
    write_stubs,
)

every_homework = pytest.mark.parametrize("name", homeworks())


@every_homework
def test_the_stubs_are_what_the_library_gives(name):
    assert drift(load_homework(name)) == [], f"run: python -m autograder strip {name}"


@every_homework
def test_the_stubs_import_in_place_of_the_modules(name):
    homework = load_homework(name)
    texts = stubs(homework)
    copy = Library({f.module: texts[f.stub] for f in homework.files})
    with copy.active() as mp:
        assert mp.nn.Linear(2, 3, rng=0).weight.shape == (3, 2)


@every_homework
def test_a_stub_keeps_signatures_and_docstrings_and_no_body_of_a_target(name):
    homework = load_homework(name)
    texts = stubs(homework)
    for f in homework.files:
        original, stub = functions(source_path(f.module).read_text("utf-8")), functions(texts[f.stub])
        assert original.keys() == stub.keys()
        for function, node in stub.items():
            assert ast.dump(node.args) == ast.dump(original[function].args)
            assert ast.get_docstring(node) == ast.get_docstring(original[function])
        for t in homework.targets:
            if t.module == f.module and t.name in stub:
                (last,) = stub[t.name].body[-1:]
                assert isinstance(last, ast.Raise)


@pytest.fixture
def folder(tmp_path):
    """A homework folder of its own, with a stub that has drifted."""
    source = load_homework("hw6_lora")
    home = tmp_path / "hw6_lora"
    home.mkdir()
    shutil.copy(source.folder / "homework.toml", home)
    homework = load_homework(home)
    write_stubs(homework)
    first = home / homework.files[0].stub
    first.write_text(first.read_text("utf-8") + "# changed\n", "utf-8")
    return home


def test_check_says_which_stub_drifted_and_changes_nothing(folder, capsys):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main([str(folder)], check=True) == 1
    assert "hw6_lora/lora.py is not what the library gives" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_strip_writes_what_drifted_and_then_check_is_content(folder, capsys):
    assert main([str(folder)]) == 0
    assert main([str(folder)], check=True) == 0
    assert "every stub is what the library gives" in capsys.readouterr().out


def test_a_missing_stub_is_drift(folder):
    (folder / "lora.py").unlink()
    assert drift(load_homework(folder)) == ["lora.py"]


SOURCE = '''
def f(x):
    """Doc."""
    # a comment
    return x


class A:
    def g(self):
        return 1

    @staticmethod
    def h(
        a,
        b,
    ):
        """Two
        lines."""
        return (
            a +
            b
        )
'''


def test_strip_leaves_all_else_to_the_letter():
    stub = strip(SOURCE, {"f": "1.1: f", "A.h": "1.2: A.h"})
    assert '    """Doc."""\n    raise NotImplementedError("1.1: f")\n' in stub
    assert '        lines."""\n        raise NotImplementedError("1.2: A.h")\n' in stub
    assert "    def g(self):\n        return 1\n" in stub
    assert put_back(stub, SOURCE, ["f", "A.h"]) == SOURCE


def test_a_class_as_target_means_all_its_methods():
    stub = strip(SOURCE, {"A": "x"})
    assert stub.count("NotImplementedError") == 2
    compile(stub, "stub", "exec")


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(HomeworkError, match=r"no function or class 'q'; the module has f, A\.g, A\.h"):
        strip(SOURCE, {"q": "x"})
    with pytest.raises(HomeworkError, match="no function 'q'"):
        replace_bodies(SOURCE, {"q": "pass"})


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def h(a, b): return a\n\nx = 1\n",
        "class A:\n    def h(a,\n          b): a; return (a +\n    b)\nx = 1\n",
        "class A:\n\tdef h(a, b):\n\t\tif a:\n\t\t\treturn b\nx = 1\n",
        "class A:\n  # \x0c and \u2028\n  @staticmethod\n  def h(a, b):\n    return 'σ'\nx = 1",
        "class A:\n \tdef h(a, b):\n \t    return a\nx = 1\n",
    ],
)
def test_bodies_are_put_back_however_a_student_writes(source):
    made = put_back(source, SOURCE, ["A.h"])
    found = {}
    exec(compile(made, "student", "exec"), found)
    assert found["A"].h(3, 4) == 7
    assert found["x"] == 1
    assert made.startswith(source[: source.index("def h")])
