"""A filled homework trains a real, small model beside the library's own."""

import pytest

from autograder import plugin
from autograder.cli import main
from autograder.homework import HomeworkError, homeworks, load_homework
from autograder.strip import replace_bodies, source_path, stubs


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


@pytest.mark.parametrize("name", homeworks())
def test_every_homework_has_a_trial(name):
    trial = plugin.TRIALS[name]
    assert callable(getattr(plugin, trial.train))
    assert trial.methods


def test_a_stub_is_told_what_is_not_written_and_nothing_is_trained(tmp_path, capsys, monkeypatch):
    source = load_homework("hw6_lora")
    folder = tmp_path / "hw6_lora"
    folder.mkdir()
    (folder / "homework.toml").write_bytes((source.folder / "homework.toml").read_bytes())
    for name, text in stubs(source).items():
        (folder / name).write_text(text, "utf-8")
    monkeypatch.setattr(plugin, "train_all", None)
    assert main(["try", str(folder)]) == 1
    assert "not written yet: hw6.1 LoRALinear.forward" in capsys.readouterr().out


def test_a_homework_without_a_trial_is_an_error(filled, monkeypatch):
    folder = filled("hw6_lora")
    monkeypatch.setattr(plugin, "TRIALS", {})
    with pytest.raises(HomeworkError, match="nothing is trained for hw6_lora"):
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
    answers = iter([{"library": {"losses": {}}}, {"yours": {"losses": mine}, "library": {"losses": right}}])
    monkeypatch.setattr(plugin, "train_all", lambda *args, **kwargs: next(answers))
    assert plugin.main(filled("hw6_lora"), out=tmp_path / "curves.png") == 1
    assert (
        "LoRA: loss 2.2000 with yours, 3.0000 with the library's: they differ by more than 5%"
        in capsys.readouterr().out
    )


def test_a_loss_that_is_not_a_number_differs():
    assert not plugin.judged([float("nan")] * 8, [3.0] * 8)[1]
    assert not plugin.judged([float("nan")] * 8, None)[1]
    assert plugin.judged([3.0] * 8, [3.1] * 8)[1]


def test_in_a_handout_the_loss_has_to_fall(filled, tmp_path, capsys, monkeypatch):
    folder = filled("hw6_lora")
    (folder / "public").mkdir()
    asked = []

    def answer(homework, place, base, whose, steps, pretraining=False):
        asked.append((list(whose), pretraining))
        return {"yours": {"losses": {"LoRA": [3.0] * 8}}}

    monkeypatch.setattr(plugin, "train_all", answer)
    assert plugin.main(folder, out=tmp_path / "curves.png") == 1
    assert asked == [(["yours"], True), (["yours"], False)]
    assert "LoRA: loss 3.0000 at first, 3.0000 at last: it does not fall" in capsys.readouterr().out
    assert plugin.judged([3.0] * 5 + [2.0] * 5, None) == ("loss 3.0000 at first, 2.0000 at last", True)
