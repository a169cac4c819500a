"""A completed homework trains a real, small model next to the library's own."""

import ast
import re
import subprocess
import sys

import pytest

from autograder.cli import main
from autograder.course import trials
from autograder.course import tryout as plugin
from autograder.course.submit import pack
from autograder.grading.library import Library
from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.homework import INSTALL, ROOT, HomeworkError
from autograder.homeworks.strip import functions, replace_bodies, source_path, stubs


@pytest.fixture
def filled(tmp_path):
    """A function: the folder of a homework filled with the library's modules, some bodies replaced."""

    def fill(name, bodies=None):
        source = load_homework(name)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "homework.toml").write_bytes((source.folder / "homework.toml").read_bytes())
        for f in source.files:
            text = source_path(f.module).read_text("utf-8")
            own = {n.partition(":")[2]: b for n, b in (bodies or {}).items() if n.partition(":")[0] == f.module}
            (folder / f.stub).write_text(replace_bodies(text, own) if own else text, "utf-8")
        return folder

    return fill


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(plugin, "train_both", None)


@pytest.mark.parametrize("name", homeworks())
def test_every_homework_has_a_trial(name):
    trial = trials.TRIALS[name]
    assert callable(getattr(trials, trial.train))
    assert trial.methods


@pytest.mark.usefixtures("no_training")
def test_a_stub_is_told_what_is_not_written_and_nothing_is_trained(tmp_path, capsys):
    source = load_homework("hw6_lora")
    folder = tmp_path / "hw6_lora"
    folder.mkdir()
    (folder / "homework.toml").write_bytes((source.folder / "homework.toml").read_bytes())
    for name, text in stubs(source).items():
        (folder / name).write_text(text, "utf-8")
    assert main(["try", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "not written yet: 6.1 LoRALinear.forward\n" in said
    assert said.endswith("python -m autograder check hw6_lora --problem 6.1\n")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("text", "says"), [(None, "has no lora.py; take the stub"), ("x = (\n", "lora.py, line 1: SyntaxError")]
)
def test_a_file_that_is_missing_or_cannot_be_read_is_named_before_anything_is_trained(filled, capsys, text, says):
    folder = filled("hw6_lora")
    (folder / "lora.py").unlink()
    if text is not None:
        (folder / "lora.py").write_text(text, "utf-8")
    assert main(["try", str(folder)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("no_training")
def test_all_missing_packages_are_named_at_once_with_one_line_that_installs_them(filled, capsys, monkeypatch):
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    assert main(["try", str(filled("hw7_vision"))]) == 2
    said = capsys.readouterr().err
    assert "matplotlib and safetensors and scikit-learn are not installed for " in said
    assert said.endswith(f": {INSTALL}\n")
    assert said.count("\n") == 1


@pytest.mark.usefixtures("no_training")
def test_a_figure_that_cannot_be_written_is_an_error_before_anything_is_trained(filled, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        plugin.main(filled("hw6_lora"), out=tmp_path / "file" / "curves.png")


OTHER_PACKAGES = """
import sys
from importlib import import_module
from importlib.metadata import packages_distributions

from autograder.course import trials

name, base = sys.argv[1:]
trial, modules = trials.TRIALS[name], {"scikit-learn": "sklearn.datasets"}
for package in trial.packages:
    import_module(modules.get(package, package))
before = {m.partition(".")[0] for m in sys.modules}
request = {"homework": name, "files": {}, "base": base, "steps": 1}
for pretrain in (True, False) if trial.train in trials.PRETRAINED else (False,):
    told = trials.answer({**request, "pretrain": pretrain})
    assert "raised" not in told, told
print(*({m.partition(".")[0] for m in sys.modules} - before) & set(packages_distributions()))
"""


@pytest.mark.parametrize("name", ["hw2_transformer", "hw6_lora", "hw7_vision", "hw8_few_shot"])  # one for each model
def test_training_imports_no_package_that_is_not_checked_at_the_start(name, tmp_path):
    line = [sys.executable, "-c", OTHER_PACKAGES, name, str(tmp_path / "base")]
    ran = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) <= {"numpy", "minipeft"}


def test_the_operations_of_homework_1_compose_the_fused_ones():
    with Library().active() as mp:
        fused = trials.language(mp, None, None, steps=4)
    with Library().active() as mp:
        trials.compose(mp)
        assert trials.language(mp, None, None, steps=4) == pytest.approx(fused, rel=1e-5)


def test_the_trial_of_homework_1_calls_what_is_written_there():
    called = set()

    def profile(frame, event, arg):
        if event == "call":
            called.add(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}")

    with Library().active() as mp:
        trials.compose(mp)
        sys.setprofile(profile)
        try:
            trials.language(mp, None, None, steps=1)
        finally:
            sys.setprofile(None)
    targets = {str(t) for t in load_homework("hw1_autograd").targets}
    assert targets - called == {"minipeft.ops.shape:BroadcastTo.backward", "minipeft.ops.shape:Concatenate.backward"}


def test_helpers_that_are_optional_may_stay_unwritten(filled, capsys, tmp_path):
    folder = filled("hw2_transformer")
    file = folder / "attention.py"
    text = file.read_text("utf-8")
    optional = [t.name for p in load_homework(folder).problems for t in p.optional]
    assert optional == ["_merged", "_turn"]
    for name in optional:  # the same solution with helpers of its own, and the stubs of the library's below them
        text = re.sub(rf"\b{name}\b", f"own{name}", text)
    stub = (load_homework("hw2_transformer").folder / "attention.py").read_text("utf-8")
    for name in optional:
        text += "\n\n" + ast.get_source_segment(stub, functions(stub)[name]) + "\n"
    file.write_text(text, "utf-8")
    packed = pack(load_homework(folder), folder, tmp_path / "own.zip")
    assert packed.unwritten == {}
    assert plugin.main(folder, quick=True, out=tmp_path / "curves.png") == 0
    assert "not written" not in capsys.readouterr().out


def test_no_function_that_is_given_calls_an_optional_one():
    for homework in map(load_homework, homeworks()):
        written = {str(t) for t in (*homework.targets, *homework.hide)}
        for target in (t for p in homework.problems for t in p.optional):
            for path in (ROOT / "minipeft").rglob("*.py"):
                source = path.read_text("utf-8")
                assert not re.search(rf"import .*\b{target.name}\b", source), path
            known = functions(source_path(target.module).read_text("utf-8"))
            callers = {
                f"{target.module}:{name}"
                for name, node in known.items()
                if any(isinstance(n, ast.Name) and n.id == target.name for n in ast.walk(node))
            }
            assert callers, target
            assert callers <= written, target


def test_a_homework_without_a_trial_is_an_error(filled, monkeypatch):
    folder = filled("hw6_lora")
    monkeypatch.setattr(plugin, "TRIALS", {})
    with pytest.raises(HomeworkError, match="no model is trained for hw6_lora"):
        plugin.main(folder)


@pytest.mark.slow
def test_the_right_modules_train_as_the_librarys_and_are_drawn(filled, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    assert plugin.main(filled("hw6_lora"), quick=True, out=picture) == 0
    said = capsys.readouterr().out
    assert "with yours" in said
    assert "differ" not in said
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_exception_is_told_with_the_line_of_the_students_file(filled, tmp_path, capsys):
    wrong = {"minipeft.few_shot:pattern_batch": "raise ValueError('not like this')"}
    assert plugin.main(filled("hw8_few_shot", wrong), quick=True, out=tmp_path / "curves.png") == 1
    assert "training raised ValueError in few_shot.py, line " in capsys.readouterr().out


def test_losses_that_differ_are_said_and_end_with_1(filled, tmp_path, capsys, monkeypatch):
    right, mine = {"LoRA": [3.0] * 8}, {"LoRA": [3.0] * 4 + [2.0] * 4}
    monkeypatch.setattr(plugin, "train_both", lambda *args, **kwargs: (mine, right))
    assert plugin.main(filled("hw6_lora"), out=tmp_path / "curves.png") == 1
    assert (
        "LoRA: loss 2.2000 with yours, 3.0000 with the library's: they differ by more than 5%"
        in capsys.readouterr().out
    )


def test_a_loss_that_is_not_a_number_differs():
    assert not plugin.judged([float("nan")] * 8, [3.0] * 8)[1]
    assert not plugin.judged([float("nan")] * 8, None)[1]
    assert plugin.judged([3.0] * 8, [3.1] * 8)[1]


def test_in_a_handout_only_the_students_model_is_trained_and_its_loss_has_to_fall(
    filled, tmp_path, capsys, monkeypatch
):
    folder = filled("hw6_lora")
    (folder / "public").mkdir()
    asked = []

    def answer(homework, place, whose, steps, pretrain=False):
        asked.append((list(whose), pretrain))
        return {"yours": {"LoRA": [3.0] * 8}}

    monkeypatch.setattr(plugin, "run", answer)
    assert plugin.main(folder, out=tmp_path / "curves.png") == 1
    assert asked == [(["yours"], True), (["yours"], False)]
    assert "LoRA: loss 3.0000 at first, 3.0000 at the end: it does not fall" in capsys.readouterr().out
    assert plugin.judged([3.0] * 5 + [2.0] * 5, None) == ("loss 3.0000 at first, 2.0000 at the end", True)
