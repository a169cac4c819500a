"""What people read: the points, the reasons once, nothing alive in the page, and of hidden cases no number."""

import html.parser
import io
import re
import sys

import numpy as np
import pytest

from autograder.cli.show import shows_colours
from autograder.course import classpage
from autograder.feedback import report
from autograder.feedback.details import coarse
from autograder.feedback.diagnose import diagnose
from autograder.feedback.results import clean, refused
from autograder.grading.check import Raised, judge
from autograder.grading.grade import Graded
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework, Problem, Target

EVIL = "<img src=x onerror=alert(1)>\x1b[31m\u202e`|**]("
rng = np.random.default_rng(1)
E = 7.0 * rng.standard_normal((2, 13, 5))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    target = (Target("minipeft.ops.linear", "linear"),)
    problems = tuple(Problem(f"9.{i}", title, target, 4.0) for i, title in enumerate(["right", EVIL, "raises", "late"]))
    homework = Homework("hw6_lora", "A title & more", tmp_path_factory.mktemp("hw"), (), problems)
    wrong = E.copy()
    wrong[1, 3:5] *= -3.7

    def graded(problem, got):
        cases = [Case(f"{EVIL} {i}", "driver", {"x": E}, {"dx": f"dx{EVIL}", "z": "forward"}) for i in range(5)]
        return judge(problem, [(case, {"dx": E, "z": E}, got) for case in cases])

    raised = Raised("raised", "ValueError", f"secret 0.123456 {EVIL}", f"{EVIL}.py", 17)
    answers = [{"dx": E, "z": E}, {"dx": wrong, "z": E}, raised]
    verdicts = {p.id: graded(p, got) for p, got in zip(problems, answers, strict=False)}
    words = {p: diagnose(homework, v, known=False) for p, v in verdicts.items()}
    return Graded(homework, verdicts, words=words, notes=[EVIL], log=EVIL, more={"9.1": [f"compared {EVIL}"]})


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("hidden", [True, False])
def test_the_page_is_well_formed_and_nothing_in_it_is_alive(done, hidden):
    page = report.html(done, hidden, title=EVIL)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not set(tags.seen) & {"script", "img", "iframe", "link", "object", "form", "input", "button"}
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert all(value.startswith("#") for name, value in tags.attributes if name == "href")
    assert "default-src 'none'" in page
    assert not set(page) & set("\x1b\u202e")
    assert "http" not in page.replace("http-equiv", "")


def test_all_of_a_page_is_in_its_main_part_and_every_column_has_a_title(done):
    record = {
        "id": "a",
        "name": "a",
        "file": "a.zip",
        "problems": {},
        "reasons": {"9.1": ["b"]},
        "note": "c",
        "prints": [],
    }
    records = [{**record, "score": 1.0, "status": "graded"}, {**record, "score": 0.0, "status": "refused"}]
    alike = [{**records[0], "id": name, "prints": list(range(50))} for name in "xy"]
    pages = [report.html(done, True), report.html(done, False), report.plain("title", refused(done.homework, EVIL))]
    pages.append(classpage.page(done.homework, [*records, *alike], [".DS_Store"]))
    for page in pages:
        assert re.search(r"<body>\s*<main>.*</main>\s*</body>", page, re.DOTALL)
        assert page.count("<main>") == 1
        assert not re.search(r"<th[^>]*>\s*</th>", page)
        for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
            assert table.startswith("<table><thead><tr><th")


def test_the_page_of_a_class_shows_a_little_of_what_a_student_wrote(done):
    long = "a" * 100_000
    record = {"id": "a", "name": long, "file": f"{long}.zip", "problems": {}, "note": long, "prints": []}
    graded = {**record, "reasons": {"9.1": [long]}, "score": 1.0, "status": "graded"}
    made = classpage.page(done.homework, [graded, {**graded, "status": "refused"}], [long])
    assert len(made) < 20_000
    assert "a" * 301 not in made


def test_a_map_shows_where_it_is_wrong(done):
    page = report.html(done, hidden=False)
    assert "<svg" in page
    assert "Where dx[1, :, :] is wrong" in page
    shown = re.search(r"<svg.*?</svg>", page, re.DOTALL)[0]
    assert shown.count("<rect") == 10  # two rows of five


@pytest.mark.parametrize("write", [report.text, report.markdown, report.html])
def test_of_hidden_cases_no_case_no_value_and_no_message_is_told(done, write):
    made = re.sub(r"<style>.*</style>", "", write(done, True), flags=re.DOTALL)
    numbers = {f"{x:.6g}" for x in E.ravel()}
    assert not any(n in made for n in numbers)
    assert "secret" not in made
    assert "13" not in made  # a length
    assert "compared" not in made
    assert "ValueError" in made
    assert "17" not in made  # a line


def test_public_cases_are_told_with_their_values(done):
    made = report.text(done, hidden=False)
    assert "9.1" in made
    assert "10 of 130 entries are wrong, the worst at [1, " in made
    assert "and 2 more" in made
    assert "secret" in made
    assert "compared" in made


def test_the_points_are_told_and_what_did_not_run(done):
    for write in (report.text, report.markdown, report.html):
        made = write(done, True)
        assert "4 of 4" in made
        assert "not run" in made
        assert "6 of 16" in re.sub(r"\\", "", made)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_old_console_of_windows_gets_no_colours(monkeypatch):
    monkeypatch.delenv("WT_SESSION", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert shows_colours()
    monkeypatch.setattr(sys, "platform", "win32")
    assert not shows_colours()
    monkeypatch.setenv("WT_SESSION", "1")  # Windows Terminal
    assert shows_colours()


def test_colours_only_where_they_are_asked_for(done):
    assert "\x1b" not in report.text(done, hidden=False)
    assert "\x1b[32m" in report.text(done, hidden=False, colour=True)
    assert EVIL not in report.text(done, hidden=False, colour=True)


def test_markdown_does_nothing_with_foreign_text(done):
    made = report.markdown(done, hidden=False)
    foreign = EVIL.replace("\x1b", "�").replace("\u202e", "�")
    assert foreign not in made
    assert re.sub(r"\\(.)", r"\1", made).count(foreign) >= 3  # every sign of it behind a backslash
    assert not re.search(r"(?<!\\)[<`\[]", made)


def test_clean_leaves_no_sign_that_a_terminal_obeys():
    assert not set(clean(EVIL)) & set("\x1b\u202e")


def test_a_large_array_is_drawn_coarse():
    assert coarse(np.ones((300, 50))).shape == (24, 24)
    assert coarse(np.eye(100))[3, 20] == 0.0
    assert report.blend(1.0) != report.blend(1e-3)


def test_a_name_breaks_after_its_dots_and_nowhere_else():
    assert report.named("LoRALinear.forward") == "LoRALinear.<wbr>forward"
    assert report.named("a<b>.c") == "a&lt;b&gt;.<wbr>c"
